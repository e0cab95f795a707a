//! The seam: everything a worker asks of the hypervisor. Implemented by the real host (`xen`) and by the simulated one
//! (`sim`); generic on the data path, chosen once in `main`. Knows nothing of either, nor of xenstore, whose client is the
//! same on both: the simulated host serves xenstore's real wire protocol on a socket.

use std::io;
use std::os::fd::AsFd;

use xen_ring::SharedMemory;

use crate::memory::LocalMemory;
use crate::{DomId, GrantRef, Port};

/// What a worker may do with a page that a guest granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load only.
    ReadOnly,
    /// Load and store.
    ReadWrite,
}

/// Which way a grant copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Out of the guest's page into local memory (a guest's write).
    FromGuest,
    /// Out of local memory into the guest's page (a guest's read).
    ToGuest,
}

/// The outcome of one grant operation, `GNTST_*` of grant_table.h; 0 is success. Any value may occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantStatus(pub i16);

impl GrantStatus {
    /// `GNTST_okay`.
    pub const OKAY: Self = Self(0);
    /// `GNTST_general_error`: also what an operation holds before it was tried.
    pub const GENERAL_ERROR: Self = Self(-1);

    /// True for `GNTST_okay` alone.
    #[must_use]
    pub fn is_okay(self) -> bool {
        self == Self::OKAY
    }
}

/// One copy between a guest's page and local memory; inside one page on the guest's side.
#[derive(Clone, Copy, Debug)]
pub struct GrantCopy {
    /// The guest's page.
    pub gref: GrantRef,
    /// First byte in that page; `offset + len <= 4096`.
    pub offset: u16,
    /// Bytes to copy.
    pub len: u16,
    /// First byte in the local memory.
    pub local: usize,
    /// Which way.
    pub direction: Direction,
    /// Set by [`GrantTable::copy`].
    pub status: GrantStatus,
}

/// Why pages could not be mapped. `gntdev` gives no status per grant: one bad reference fails the whole call.
#[derive(Debug)]
pub enum MapError {
    /// A reference is not one that the guest granted to us (`EINVAL` of the `mmap`): the guest's fault.
    BadGrant,
    /// We have no room (`ENOMEM`, maptrack full): ours, wait or copy instead.
    Shortage(io::Error),
    /// Anything else.
    Host(io::Error),
}

/// Grants of one frontend to us. One per queue thread, so that nothing is shared between threads.
pub trait GrantTable: Send {
    /// Pages mapped into our address space; unmapped on drop.
    type Mapping: SharedMemory + Send + 'static;

    /// Maps pages side by side, in the order given.
    fn map(&mut self, refs: &[GrantRef], access: Access) -> Result<Self::Mapping, MapError>;

    /// Does all copies, in batches, and sets a status for each. An `Err` says that the call as a whole failed and no status
    /// means anything. A range outside of `local`, or one that crosses the guest page's end, is
    /// `Err(InvalidInput)`.
    fn copy(&mut self, local: &LocalMemory, ops: &mut [GrantCopy]) -> io::Result<()>;
}

/// What [`EventChannel::pending`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing.
    None,
    /// At least one event for our port, which is masked now until [`EventChannel::ack`].
    Event,
    /// The kernel lost count (`EFBIG`); treat as an event, it has been reset.
    Overflow,
}

/// One open event channel device with at most one bound port. `as_fd` is readable when an event waits.
pub trait EventChannel: AsFd + Send {
    /// Binds to the frontend's port. `EINVAL`/`InvalidInput` while a dead predecessor still holds it: retry.
    /// A fresh binding is pending at once, so nothing sent before is missed.
    fn bind(&mut self, remote: Port) -> io::Result<()>;
    /// Tells the frontend that there is something for it.
    fn notify(&self) -> io::Result<()>;
    /// Takes the waiting event, without blocking.
    fn pending(&mut self) -> io::Result<Pending>;
    /// Lets the next event through. Only after all work was looked at, or the guest can storm us.
    fn ack(&mut self) -> io::Result<()>;
    /// Gives the port up.
    fn unbind(&mut self) -> io::Result<()>;
}

/// The host's side of what a backend needs, for one frontend.
pub trait Hypervisor {
    /// Its grants.
    type Grants: GrantTable;
    /// Its event channels.
    type Events: EventChannel;

    /// Opens the grant device for pages of `frontend`.
    fn open_grants(&self, frontend: DomId) -> io::Result<Self::Grants>;
    /// Opens the event channel device, restricted to `frontend` for good (frontend 0 cannot be restricted).
    fn open_events(&self, frontend: DomId) -> io::Result<Self::Events>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R13, R14 (XSA-379 and its kin): of all that a hypervisor may answer, today or later, one number is success.
    #[test]
    fn okay_is_okay_alone() {
        let okay: Vec<i16> = (i16::MIN..=i16::MAX).filter(|status| GrantStatus(*status).is_okay()).collect();
        assert_eq!(okay, [0]);
    }
}
