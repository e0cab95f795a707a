//! The backend's side of grants: mapping is asked of the host, which pins; copying needs nobody, as the guest's memory and
//! grant table are mapped here whole. Knows nothing of rings or requests.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use xen_ring::PAGE_LEN;

use super::link::Link;
use super::memfd::{Memfd, SimMapping};
use super::message::{MAX_MAP_REFS, Request};
use super::table::{BAD_PAGE, GrantEntries};
use crate::hv::{Access, Direction, GrantCopy, GrantStatus, GrantTable, MapError};
use crate::memory::LocalMemory;
use crate::{DomId, GrantRef};

/// Grants of one simulated guest.
#[derive(Debug)]
pub struct SimGrants {
    link: Arc<Link>,
    memory: Memfd,
    entries: GrantEntries,
}

impl SimGrants {
    pub(super) fn open(host: &Path, frontend: DomId) -> io::Result<Self> {
        let link = Link::connect(host)?;
        let (_, fds) = link.call(&Request::OpenGrants(frontend), &[])?;
        let mut fds = fds.into_iter();
        let (Some(memory), Some(entries)) = (fds.next(), fds.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let entries = GrantEntries(Memfd::open(entries)?);
        Ok(Self { link: Arc::new(link), memory: Memfd::open(memory)?, entries })
    }

    fn copy_one(&self, local: &LocalMemory, op: &GrantCopy) -> GrantStatus {
        let access = match op.direction {
            Direction::FromGuest => Access::ReadOnly,
            Direction::ToGuest => Access::ReadWrite,
        };
        let frame = match self.entries.frame(op.gref, DomId::DOM0, access) {
            Ok(frame) => frame,
            Err(status) => return status,
        };
        let at = frame as usize * PAGE_LEN + usize::from(op.offset);
        let len = usize::from(op.len);
        let done = match op.direction {
            Direction::FromGuest => self.memory.copy_out(at, local, op.local, len),
            Direction::ToGuest => self.memory.copy_in(at, local, op.local, len),
        };
        if done { GrantStatus::OKAY } else { BAD_PAGE }
    }
}

impl GrantTable for SimGrants {
    type Mapping = SimMapping;

    fn map(&mut self, refs: &[GrantRef], access: Access) -> Result<SimMapping, MapError> {
        if refs.is_empty() || refs.len() > MAX_MAP_REFS {
            return Err(MapError::Host(io::ErrorKind::InvalidInput.into()));
        }
        let (words, _) = self.link.call(&Request::Map(access, refs.to_vec()), &[]).map_err(map_error)?;
        let Some((&map, frames)) = words.split_first() else {
            return Err(MapError::Host(io::ErrorKind::InvalidData.into()));
        };
        let pin = Pin { link: Arc::clone(&self.link), map };
        SimMapping::map(self.memory.as_fd(), frames, access == Access::ReadWrite, pin).map_err(map_error)
    }

    fn copy(&mut self, local: &LocalMemory, ops: &mut [GrantCopy]) -> io::Result<()> {
        let inside = |op: &GrantCopy| {
            usize::from(op.offset) + usize::from(op.len) <= PAGE_LEN
                && local.address(op.local, usize::from(op.len)).is_some()
        };
        if !ops.iter().all(inside) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for op in ops {
            op.status = self.copy_one(local, op);
        }
        Ok(())
    }
}

fn map_error(e: io::Error) -> MapError {
    match e.raw_os_error() {
        Some(libc::EINVAL) => MapError::BadGrant,
        Some(libc::ENOMEM) => MapError::Shortage(e),
        _ => MapError::Host(e),
    }
}

/// The host's count of one map, given back on drop.
#[derive(Debug)]
pub(super) struct Pin {
    link: Arc<Link>,
    map: u32,
}

impl Drop for Pin {
    fn drop(&mut self) {
        // If the host is gone, so are its counts.
        let _ = self.link.call(&Request::Unmap(self.map), &[]);
    }
}
