//! A host with faults: wraps any host and lets a plan decide which call fails, and how. The host inside knows nothing of it, and
//! this knows nothing of why a test wants a fault.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use xen_ring::SharedMemory;

use crate::hv::{Access, EventChannel, GrantCopy, GrantStatus, GrantTable, Hypervisor, MapError, Pending};
use crate::memory::LocalMemory;
use crate::{DomId, GrantRef, Port};

/// Which calls fail. Each kind of call is counted from 0, over all devices opened through one [`Faulty`]; by default none fails.
pub trait Plan: Send + Sync + Debug + 'static {
    /// For the whole of map call `n`.
    fn map(&self, _n: u64, _refs: &[GrantRef]) -> Option<MapError> {
        None
    }

    /// For copy operation `n`, instead of what it would have done.
    fn copy(&self, _n: u64, _op: &GrantCopy) -> Option<GrantStatus> {
        None
    }

    /// For the whole of copy call `n`.
    fn copy_call(&self, _n: u64) -> Option<io::Error> {
        None
    }

    /// For bind call `n`.
    fn bind(&self, _n: u64) -> Option<io::Error> {
        None
    }

    /// How much later than asked the unmapping of mapping `n` takes place, as when I/O still holds its pages.
    fn unmap_delay(&self, _n: u64) -> Duration {
        Duration::ZERO
    }
}

#[derive(Debug, Default)]
struct Counts {
    maps: AtomicU64,
    copies: AtomicU64,
    copy_calls: AtomicU64,
    binds: AtomicU64,
}

fn next(count: &AtomicU64) -> u64 {
    count.fetch_add(1, Ordering::Relaxed)
}

/// A host whose calls a plan may let fail.
#[derive(Clone, Debug)]
pub struct Faulty<H> {
    inner: H,
    plan: Arc<dyn Plan>,
    counts: Arc<Counts>,
}

impl<H> Faulty<H> {
    /// Wraps a host.
    pub fn new(inner: H, plan: Arc<dyn Plan>) -> Self {
        Self { inner, plan, counts: Arc::default() }
    }
}

impl<H: Hypervisor> Hypervisor for Faulty<H> {
    type Grants = Faulty<H::Grants>;
    type Events = Faulty<H::Events>;

    fn open_grants(&self, frontend: DomId) -> io::Result<Self::Grants> {
        let (plan, counts) = (Arc::clone(&self.plan), Arc::clone(&self.counts));
        Ok(Faulty { inner: self.inner.open_grants(frontend)?, plan, counts })
    }

    fn open_events(&self, frontend: DomId) -> io::Result<Self::Events> {
        let (plan, counts) = (Arc::clone(&self.plan), Arc::clone(&self.counts));
        Ok(Faulty { inner: self.inner.open_events(frontend)?, plan, counts })
    }
}

impl<G: GrantTable> GrantTable for Faulty<G> {
    type Mapping = LateMapping<G::Mapping>;

    fn map(&mut self, refs: &[GrantRef], access: Access) -> Result<Self::Mapping, MapError> {
        let n = next(&self.counts.maps);
        match self.plan.map(n, refs) {
            Some(error) => Err(error),
            None => {
                let delay = self.plan.unmap_delay(n);
                Ok(LateMapping { inner: Some(self.inner.map(refs, access)?), delay })
            }
        }
    }

    fn copy(&mut self, local: &LocalMemory, ops: &mut [GrantCopy]) -> io::Result<()> {
        if let Some(error) = self.plan.copy_call(next(&self.counts.copy_calls)) {
            return Err(error);
        }
        for op in ops {
            match self.plan.copy(next(&self.counts.copies), op) {
                Some(status) => op.status = status,
                None => self.inner.copy(local, std::slice::from_mut(op))?,
            }
        }
        Ok(())
    }
}

/// A mapping that may outlive its drop.
#[derive(Debug)]
pub struct LateMapping<M: SharedMemory + Send + 'static> {
    inner: Option<M>,
    delay: Duration,
}

// SAFETY: passes on what `inner`, which is there until drop, promises for itself.
unsafe impl<M: SharedMemory + Send + 'static> SharedMemory for LateMapping<M> {
    fn base(&self) -> NonNull<u8> {
        self.inner.as_ref().map_or(NonNull::dangling(), SharedMemory::base)
    }

    fn len(&self) -> usize {
        self.inner.as_ref().map_or(0, SharedMemory::len)
    }
}

impl<M: SharedMemory + Send + 'static> Drop for LateMapping<M> {
    fn drop(&mut self) {
        let delay = self.delay;
        if let Some(mapping) = self.inner.take().filter(|_| !delay.is_zero()) {
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                drop(mapping);
            });
        }
    }
}

impl<E: EventChannel> AsFd for Faulty<E> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl<E: EventChannel> EventChannel for Faulty<E> {
    fn bind(&mut self, remote: Port) -> io::Result<()> {
        match self.plan.bind(next(&self.counts.binds)) {
            Some(error) => Err(error),
            None => self.inner.bind(remote),
        }
    }

    fn notify(&self) -> io::Result<()> {
        self.inner.notify()
    }

    fn pending(&mut self) -> io::Result<Pending> {
        self.inner.pending()
    }

    fn ack(&mut self) -> io::Result<()> {
        self.inner.ack()
    }

    fn unbind(&mut self) -> io::Result<()> {
        self.inner.unbind()
    }
}
