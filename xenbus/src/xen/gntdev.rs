//! Grants of one guest by `/dev/xen/gntdev`: mapping, and copying in batches with a status for each copy. Knows nothing of what is in
//! the pages.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use xen_ring::{PAGE_LEN, SharedMemory};

use super::abi::{self, CopyEnd, CopySegment, DEST_IS_FOREIGN, SOURCE_IS_FOREIGN};
use crate::hv::{Access, Direction, GrantCopy, GrantStatus, GrantTable, MapError};
use crate::memory::LocalMemory;
use crate::{DomId, GrantRef};

/// Copies handed to the kernel in one call; it passes them on to Xen 16 at a time.
const SEGMENTS_MAX: usize = 256;
/// The most pages in one mapping (the `limit` of the kernel's module).
const MAP_REFS_MAX: usize = 65_536;

/// Grants of one guest.
#[derive(Debug)]
pub struct Grants {
    gntdev: Arc<File>,
    frontend: DomId,
    map_call: Vec<u64>,
    segments: Vec<CopySegment>,
    /// Where the first byte of a page goes when a mapping failed and it is to be known why.
    probe: Option<LocalMemory>,
}

impl Grants {
    pub(super) fn new(gntdev: File, frontend: DomId) -> Self {
        Self {
            gntdev: Arc::new(gntdev),
            frontend,
            map_call: Vec::with_capacity(abi::MAP_HEADER_WORDS + 16),
            segments: Vec::with_capacity(SEGMENTS_MAX),
            probe: None,
        }
    }

    /// The kernel says `EINVAL` for every page that Xen did not map, also when Xen had no room for it. Copying a byte out of
    /// each page tells the two apart: that takes no room. (A page granted for reading only, to be mapped for writing, counts as a
    /// shortage: whoever copies instead gets its status.)
    fn why_not(&mut self, refs: &[GrantRef], error: io::Error) -> MapError {
        let probe = match self.probe.take().map_or_else(|| LocalMemory::new(1), Ok) {
            Ok(probe) => probe,
            Err(error) => return MapError::Shortage(error),
        };
        let mut verdict = MapError::Shortage(error);
        for &gref in refs {
            let direction = Direction::FromGuest;
            let mut op = [GrantCopy {
                gref,
                offset: 0,
                len: 1,
                local: 0,
                direction,
                status: GrantStatus::GENERAL_ERROR,
            }];
            match self.copy(&probe, &mut op) {
                Ok(()) if op.iter().all(|op| op.status.is_okay()) => {}
                Ok(()) => {
                    verdict = MapError::BadGrant;
                    break;
                }
                Err(error) => {
                    verdict = MapError::Host(error);
                    break;
                }
            }
        }
        self.probe = Some(probe);
        verdict
    }

    /// Copies the operations that go one way, at most [`SEGMENTS_MAX`], in one call.
    fn copy_run(&mut self, local: &LocalMemory, ops: &mut [GrantCopy]) -> io::Result<()> {
        self.segments.clear();
        for op in &*ops {
            let segment = segment(local, op, self.frontend).ok_or(io::ErrorKind::InvalidInput)?;
            self.segments.push(segment);
        }
        // SAFETY: `segment` checked that each local end is inside of `local`, which is borrowed until the call ends and to
        // whose bytes nobody has references.
        unsafe { abi::grant_copy(&self.gntdev, &mut self.segments)? };
        for (op, segment) in ops.iter_mut().zip(&self.segments) {
            op.status = GrantStatus(segment.status);
        }
        Ok(())
    }
}

impl GrantTable for Grants {
    type Mapping = Mapping;

    fn map(&mut self, refs: &[GrantRef], access: Access) -> Result<Mapping, MapError> {
        let count = u32::try_from(refs.len()).ok().filter(|_| (1..=MAP_REFS_MAX).contains(&refs.len()));
        let Some(count) = count else {
            let reason = format!("{} grants in one mapping; 1 to {MAP_REFS_MAX} are allowed", refs.len());
            return Err(MapError::Host(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        };
        abi::fill_map_call(&mut self.map_call, self.frontend.0, refs.iter().map(|gref| gref.0));
        let index = abi::map_grant_refs(&self.gntdev, &mut self.map_call, count).map_err(sort)?;
        let reservation = Reservation { gntdev: Arc::clone(&self.gntdev), index, count };
        match Mapping::new(reservation, access) {
            Ok(mapping) => Ok(mapping),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(self.why_not(refs, error)),
            Err(error) => Err(sort(error)),
        }
    }

    fn copy(&mut self, local: &LocalMemory, ops: &mut [GrantCopy]) -> io::Result<()> {
        if !ops.iter().all(|op| segment(local, op, self.frontend).is_some()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut rest = ops;
        while !rest.is_empty() {
            let (run, behind) = rest.split_at_mut(run_len(rest));
            self.copy_run(local, run)?;
            rest = behind;
        }
        Ok(())
    }
}

/// How many operations at the front go the same way: the kernel marks pages as written by the batch.
pub(super) fn run_len(ops: &[GrantCopy]) -> usize {
    let same = |op: &&GrantCopy| ops.first().is_some_and(|first| first.direction == op.direction);
    ops.iter().take(SEGMENTS_MAX).take_while(same).count()
}

/// The kernel's form of an operation; `None` if it leaves the guest's page or the local memory.
pub(super) fn segment(local: &LocalMemory, op: &GrantCopy, frontend: DomId) -> Option<CopySegment> {
    let len = usize::from(op.len);
    if usize::from(op.offset) + len > PAGE_LEN {
        return None;
    }
    let here = CopyEnd::local(local.address(op.local, len)?.as_ptr());
    let there = CopyEnd::foreign(op.gref.0, op.offset, frontend.0);
    let (source, dest, flags) = match op.direction {
        Direction::FromGuest => (there, here, SOURCE_IS_FOREIGN),
        Direction::ToGuest => (here, there, DEST_IS_FOREIGN),
    };
    Some(CopySegment { source, dest, len: op.len, flags, status: GrantStatus::GENERAL_ERROR.0 })
}

/// Whose trouble a failed call is, `EINVAL` apart.
fn sort(error: io::Error) -> MapError {
    match error.raw_os_error() {
        Some(libc::ENOMEM | libc::ENOSPC | libc::EAGAIN) => MapError::Shortage(error),
        _ => MapError::Host(error),
    }
}

/// Room for pages in the open device, under the index that it gave.
#[derive(Debug)]
struct Reservation {
    gntdev: Arc<File>,
    index: u64,
    count: u32,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // Fails only for an index or a count that are not the device's, and these are.
        let _ = abi::unmap_grant_refs(&self.gntdev, self.index, self.count);
    }
}

/// Pages of the guest in our address space, side by side; unmapped on drop. The guest sees them as free a little later.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// Dropped after the pages are unmapped.
    _reservation: Reservation,
}

// SAFETY: the mapping belongs to this value alone and does not depend on the thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(reservation: Reservation, access: Access) -> io::Result<Self> {
        let len = usize::try_from(reservation.count).map_err(|_| io::ErrorKind::InvalidInput)? * PAGE_LEN;
        let offset = libc::off_t::try_from(reservation.index).map_err(|_| io::ErrorKind::InvalidData)?;
        let protection = match access {
            Access::ReadOnly => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        let fd = reservation.gntdev.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of ours.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap at address 0"))?;
        Ok(Self { base, len, _reservation: reservation })
    }
}

// SAFETY: base is page-aligned; the mapping is valid for len bytes until drop, and neither changes. Whoever asked for
// `Access::ReadOnly` stores nothing.
unsafe impl SharedMemory for Mapping {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
