//! Where a worker of this world is killed: after so many calls of the seam, or at a named place. Being killed is a panic that the world
//! catches; what the worker had in memory goes with it. Knows nothing of what the calls do.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::panic_any;

use xenbus::hv::{Access, EventChannel, GrantCopy, GrantTable, MapError, Pending};
use xenbus::memory::LocalMemory;
use xenbus::{GrantRef, Port};

/// What is thrown.
pub(super) struct Killed;

thread_local! {
    /// Calls that are left; 0 for no end.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// The next workers die at that call; 0 lets them live.
pub(super) fn set(calls: u64) {
    LEFT.set(calls);
}

/// The worker's end, if it has come.
pub(super) fn burn() {
    match LEFT.get() {
        0 => {}
        1 => {
            LEFT.set(0);
            panic_any(Killed);
        }
        left => LEFT.set(left - 1),
    }
}

/// Before and after a call are different places to die at.
fn around<T>(call: impl FnOnce() -> T) -> T {
    burn();
    let outcome = call();
    burn();
    outcome
}

/// Grants, each call of which may be the last.
#[derive(Debug)]
pub(super) struct Grants<G>(pub(super) G);

impl<G: GrantTable> GrantTable for Grants<G> {
    type Mapping = G::Mapping;

    fn map(&mut self, refs: &[GrantRef], access: Access) -> Result<Self::Mapping, MapError> {
        around(|| self.0.map(refs, access))
    }

    fn copy(&mut self, local: &LocalMemory, ops: &mut [GrantCopy]) -> io::Result<()> {
        // Some of the copies are made, the rest are not.
        let half = ops.len() / 2;
        let (first, rest) = ops.split_at_mut(half);
        if !first.is_empty() {
            around(|| self.0.copy(local, first))?;
        }
        around(|| self.0.copy(local, rest))
    }
}

/// An event channel likewise; a process's end unbinds it.
#[derive(Debug)]
pub(super) struct Events<E: EventChannel>(pub(super) E);

impl<E: EventChannel> AsFd for Events<E> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<E: EventChannel> EventChannel for Events<E> {
    fn bind(&mut self, remote: Port) -> io::Result<()> {
        around(|| self.0.bind(remote))
    }

    fn notify(&self) -> io::Result<()> {
        around(|| self.0.notify())
    }

    fn pending(&mut self) -> io::Result<Pending> {
        around(|| self.0.pending())
    }

    fn ack(&mut self) -> io::Result<()> {
        around(|| self.0.ack())
    }

    fn unbind(&mut self) -> io::Result<()> {
        self.0.unbind()
    }
}

impl<E: EventChannel> Drop for Events<E> {
    fn drop(&mut self) {
        let _ = self.0.unbind();
    }
}
