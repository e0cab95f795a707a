//! A guest's pages with grants that fail when told to, an event channel without a hypervisor, and a kill in the midst of a worker's call
//! of either. All in one process. Knows nothing of rings.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use worker::wake::Bell;
use xenbus::hv::{Access, Direction, EventChannel, GrantCopy, GrantStatus, GrantTable, MapError, Pending};
use xenbus::memory::LocalMemory;
use xenbus::sim::{GuestPages, GuestWindow, SimDomain, SimHost};
use xenbus::{DomId, GrantRef, Port};

/// Pages for data, granted as 0 and on.
pub(super) const NR_PAGES: u32 = 16;
/// The ring's page is granted as that.
pub(super) const RING_REF: u32 = 100;
const PAGE_LEN: usize = 4096;
const ENOMEM: i32 = 12;

/// What a worker's thread unwinds with instead of dying.
#[derive(Debug)]
pub(super) struct Killed;

/// A guest, as its backend and the fuzzer share it.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) ring: GuestPages,
    pages: Vec<GuestPages>,
    /// One bit for each data page whose grant fails.
    pub(super) bad: AtomicU32,
    /// So many calls for copies fail whole.
    pub(super) failing_calls: AtomicU32,
    /// The call that ends the worker, counted down; 0 for none.
    pub(super) kill_in: AtomicU32,
    /// Sent and not taken.
    event: AtomicBool,
    /// Taken and not let go: nothing more comes through.
    is_masked: AtomicBool,
    /// Events that were let go.
    pub(super) acknowledged: AtomicU32,
    /// It has closed its end: nothing can be sent there.
    pub(super) deaf: AtomicBool,
    pub(super) notified: AtomicU32,
    bell: Bell,
}

/// One domain serves all runs: only its pages are taken and given back.
static HOST: LazyLock<(tempfile::TempDir, SimHost, SimDomain)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let host = SimHost::start(dir.path()).unwrap();
    let domain = host.domain(DomId(1), "fuzzed", "f", 4096).unwrap();
    (dir, host, domain)
});

impl Guest {
    pub(super) fn new() -> Arc<Self> {
        let (_, _, domain) = &*HOST;
        let ring = domain.allocate(1).unwrap();
        assert!(ring.write(0, &[0; PAGE_LEN]));
        let pages = (0..NR_PAGES).map(|_| domain.allocate(1).unwrap()).collect();
        Arc::new(Self {
            ring,
            pages,
            bad: AtomicU32::new(0),
            failing_calls: AtomicU32::new(0),
            kill_in: AtomicU32::new(0),
            event: AtomicBool::new(false),
            is_masked: AtomicBool::new(false),
            acknowledged: AtomicU32::new(0),
            deaf: AtomicBool::new(false),
            notified: AtomicU32::new(0),
            bell: Bell::new().unwrap(),
        })
    }

    pub(super) fn page(&self, gref: u32) -> Option<&GuestPages> {
        let is_bad = gref < 32 && self.bad.load(Relaxed) >> gref & 1 != 0;
        self.pages.get(gref as usize).filter(|_| !is_bad)
    }

    pub(super) fn word(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        assert!(self.ring.read(at, &mut word));
        u32::from_le_bytes(word)
    }

    pub(super) fn set_word(&self, at: usize, value: u32) {
        assert!(self.ring.write(at, &value.to_le_bytes()));
    }

    pub(super) fn send_event(&self) {
        self.event.store(true, Relaxed);
        if !self.is_masked.load(Relaxed) {
            self.bell.ring();
        }
    }

    fn may_die(&self) {
        let left = self.kill_in.load(Relaxed);
        self.kill_in.store(left.saturating_sub(1), Relaxed);
        if left == 1 {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
}

/// Its grants.
#[derive(Debug)]
pub(super) struct Grants(pub(super) Arc<Guest>);

impl GrantTable for Grants {
    type Mapping = GuestWindow;

    fn map(&mut self, refs: &[GrantRef], _access: Access) -> Result<GuestWindow, MapError> {
        let window = match refs {
            [GrantRef(RING_REF)] => self.0.ring.window(),
            [GrantRef(gref)] => self.0.page(*gref).ok_or(MapError::BadGrant)?.window(),
            // Pages that are not side by side here: to be copied from.
            _ => None,
        };
        window.ok_or_else(|| MapError::Shortage(io::Error::from_raw_os_error(ENOMEM)))
    }

    fn copy(&mut self, local: &LocalMemory, ops: &mut [GrantCopy]) -> io::Result<()> {
        self.0.may_die();
        let failing = self.0.failing_calls.load(Relaxed);
        if failing > 0 {
            self.0.failing_calls.store(failing - 1, Relaxed);
            return Err(io::Error::from_raw_os_error(ENOMEM));
        }
        for op in ops {
            let (offset, len) = (usize::from(op.offset), usize::from(op.len));
            assert!(offset + len <= PAGE_LEN, "{op:?} crosses the page's end");
            assert!(local.address(op.local, len).is_some(), "{op:?} is outside of our memory");
            let Some(page) = self.0.page(op.gref.0) else {
                op.status = GrantStatus(-3);
                continue;
            };
            let mut bytes = vec![0; len];
            let done = match op.direction {
                Direction::FromGuest => page.read(offset, &mut bytes) && local.write(op.local, &bytes),
                Direction::ToGuest => local.read(op.local, &mut bytes) && page.write(offset, &bytes),
            };
            assert!(done);
            op.status = GrantStatus::OKAY;
        }
        Ok(())
    }
}

/// Its event channel.
#[derive(Debug)]
pub(super) struct Events(pub(super) Arc<Guest>);

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

impl EventChannel for Events {
    fn bind(&mut self, _remote: Port) -> io::Result<()> {
        self.0.is_masked.store(false, Relaxed);
        self.0.send_event();
        Ok(())
    }

    fn notify(&self) -> io::Result<()> {
        self.0.notified.fetch_add(1, Relaxed);
        self.0.may_die();
        if self.0.deaf.load(Relaxed) { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
    }

    fn pending(&mut self) -> io::Result<Pending> {
        self.0.bell.hush();
        let is_sent = self.0.event.swap(false, Relaxed);
        self.0.is_masked.fetch_or(is_sent, Relaxed);
        Ok(if is_sent { Pending::Event } else { Pending::None })
    }

    fn ack(&mut self) -> io::Result<()> {
        self.0.acknowledged.fetch_add(1, Relaxed);
        self.0.is_masked.store(false, Relaxed);
        if self.0.event.load(Relaxed) {
            self.0.bell.ring();
        }
        Ok(())
    }

    fn unbind(&mut self) -> io::Result<()> {
        Ok(())
    }
}
