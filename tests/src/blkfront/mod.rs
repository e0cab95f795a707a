//! The reference blkfront: the state machine of Linux' driver (1→3→4, closing, reconnect) through a guest's own store
//! connection, grants and event channels. Knows nothing of who the backend is.
//!
//! ```text
//!   Frontend::connect   waits for backend 2 ─► rings, grants, ports ─► 3 ─► waits for backend 4 ─► geometry ─► 4
//!   Frontend::run       a thread per queue: load, verified against the oracle; survives a backend that dies
//!   Frontend::close     5 ─► 6, waits for backend 6, ends every grant; reconnect() is what kexec does
//! ```

mod load;
mod queue;
mod ring;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use xenbus::hv::Access;
use xenbus::sim::SimDomain;
use xenbus::{DomId, GrantRef};

pub use self::load::{Load, Report};
pub use self::queue::{Operation, Outcome, Queue};
pub use self::ring::{Ring, RingError};
use crate::blkif::{Abi, DIRECT_SEGMENTS};
use crate::oracle::Oracle;
use crate::store::{StoreClient, StoreError};

/// XenbusState, as a frontend writes it.
pub mod state {
    /// `XenbusStateInitialising`.
    pub const INITIALISING: u32 = 1;
    /// `XenbusStateInitWait`.
    pub const INIT_WAIT: u32 = 2;
    /// `XenbusStateInitialised`.
    pub const INITIALISED: u32 = 3;
    /// `XenbusStateConnected`.
    pub const CONNECTED: u32 = 4;
    /// `XenbusStateClosing`.
    pub const CLOSING: u32 = 5;
    /// `XenbusStateClosed`.
    pub const CLOSED: u32 = 6;
}

/// Why a frontend cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Memory, ports, threads of the simulated guest.
    #[error("the guest: {0}")]
    Guest(#[from] io::Error),
    /// The backend broke the protocol.
    #[error("the backend: {0}")]
    Backend(String),
}

/// What the frontend can do and wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most queues; the backend may have fewer.
    pub queues: u32,
    /// Largest ring, as a power of two of pages.
    pub ring_order: u32,
    /// Slot layout.
    pub abi: Abi,
    /// `feature-persistent`.
    pub is_persistent: bool,
    /// Most segments of a request: above 11 by indirect requests, if the backend has them.
    pub segments: usize,
    /// Most requests in flight per queue, within the ring; each has its own pages.
    pub depth: u32,
    /// Longest wait for a backend's state.
    pub state_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            ring_order: 0,
            abi: Abi::Native64,
            is_persistent: false,
            segments: DIRECT_SEGMENTS,
            depth: 32,
            state_timeout: Duration::from_secs(60),
        }
    }
}

/// What the backend said of the disk at state 4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// In units of 512 bytes.
    pub sectors: u64,
    /// `info`: 1 cdrom, 2 removable, 4 read-only.
    pub info: u64,
    /// Bytes.
    pub sector_size: u64,
    /// Bytes; `sector_size` if not said.
    pub physical_sector_size: u64,
    /// `feature-flush-cache`.
    pub has_flush: bool,
    /// `feature-barrier`.
    pub has_barrier: bool,
    /// `feature-discard`.
    pub has_discard: bool,
    /// Both sides said `feature-persistent`.
    pub is_persistent: bool,
    /// Most segments we use.
    pub segments: usize,
}

/// A connected disk of a guest.
#[derive(Debug)]
pub struct Frontend {
    guest: SimDomain,
    store: StoreClient,
    home: String,
    backend: String,
    options: Options,
    disk: Disk,
    queues: Vec<Queue>,
    oracle: Arc<Oracle>,
}

impl Frontend {
    /// Connects the device `devid` of `guest`, whose nodes the toolstack has made. The disk is expected to be all zeros.
    pub fn connect(guest: &SimDomain, devid: u32, options: Options) -> Result<Self, FrontError> {
        let store = StoreClient::connect(guest.store_socket())?;
        let home = format!("/local/domain/{}/device/vbd/{devid}", guest.id());
        let mut frontend = Self {
            guest: guest.clone(),
            store,
            home,
            backend: String::new(),
            options,
            disk: Disk::default(),
            queues: Vec::new(),
            oracle: Arc::new(Oracle::new(0)),
        };
        frontend.handshake()?;
        frontend.oracle = Arc::new(Oracle::new(frontend.disk.sectors));
        Ok(frontend)
    }

    /// What kexec does: close, back to 1, and connect anew. What was written is still expected on the disk.
    pub fn reconnect(&mut self, options: Options) -> Result<(), FrontError> {
        self.close()?;
        self.options = options;
        self.set_state(state::INITIALISING)?;
        self.handshake()
    }

    fn handshake(&mut self) -> Result<(), FrontError> {
        let backend = self.store.read(&format!("{}/backend", self.home))?;
        self.backend = backend.ok_or_else(|| FrontError::Backend("no backend node".into()))?;
        self.wait_backend(&[state::INIT_WAIT])?;
        self.make_queues()?;
        self.publish_rings()?;
        self.wait_backend(&[state::CONNECTED])?;
        self.disk = self.read_disk()?;
        for queue in &mut self.queues {
            queue.set_persistent(self.disk.is_persistent);
        }
        self.set_state(state::CONNECTED)
    }

    fn backend_number(&mut self, node: &str) -> Result<Option<u64>, FrontError> {
        Ok(self.store.read_number(&format!("{}/{node}", self.backend))?)
    }

    fn make_queues(&mut self) -> Result<(), FrontError> {
        let limit = |n: Option<u64>, absent: u32| n.map_or(absent, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let queues =
            limit(self.backend_number("multi-queue-max-queues")?, 1).clamp(1, self.options.queues.max(1));
        let order = limit(self.backend_number("max-ring-page-order")?, 0).min(self.options.ring_order);
        let indirect = self.backend_number("feature-max-indirect-segments")?.unwrap_or(0);
        let indirect = usize::try_from(indirect).unwrap_or(0).min(self.options.segments);
        let segments =
            if indirect > DIRECT_SEGMENTS { indirect } else { self.options.segments.min(DIRECT_SEGMENTS) };
        self.disk.segments = segments;
        self.queues.clear();
        for _ in 0..queues {
            let ring = Ring::new(&self.guest, self.options.abi, 1 << order)?;
            self.queues.push(Queue::new(&self.guest, ring, self.options.depth, segments)?);
        }
        Ok(())
    }

    /// All of the frontend's nodes and state 3, in one transaction; what an earlier driver left is removed, as no driver does
    /// but every backend has to cope with (stale keys are tested elsewhere).
    fn publish_rings(&mut self) -> Result<(), FrontError> {
        let mut nodes = BTreeMap::new();
        nodes.insert("protocol".to_owned(), self.options.abi.protocol().to_owned());
        nodes.insert("feature-persistent".to_owned(), u32::from(self.options.is_persistent).to_string());
        let pages = self.queues.first().map_or(1, |q| q.ring().refs().len());
        if pages > 1 {
            nodes.insert("ring-page-order".to_owned(), pages.ilog2().to_string());
        }
        if self.queues.len() > 1 {
            nodes.insert("multi-queue-num-queues".to_owned(), self.queues.len().to_string());
        }
        for (i, queue) in self.queues.iter().enumerate() {
            let at = if self.queues.len() > 1 { format!("queue-{i}/") } else { String::new() };
            nodes.insert(format!("{at}event-channel"), queue.ring().port().to_string());
            for (n, gref) in queue.ring().refs().iter().enumerate() {
                let name = if pages > 1 { format!("{at}ring-ref{n}") } else { format!("{at}ring-ref") };
                nodes.insert(name, gref.to_string());
            }
        }
        let home = self.home.clone();
        self.store.transaction(|store| {
            for stale in stale_nodes(&store.list(&home)?) {
                store.remove(&format!("{home}/{stale}"))?;
            }
            for (name, value) in &nodes {
                store.write(&format!("{home}/{name}"), value)?;
            }
            store.write(&format!("{home}/state"), &state::INITIALISED.to_string())
        })?;
        Ok(())
    }

    fn read_disk(&mut self) -> Result<Disk, FrontError> {
        let mut must = |node: &str| {
            self.backend_number(node)?
                .ok_or_else(|| FrontError::Backend(format!("at state 4 without a number in {node}")))
        };
        let (sectors, info, sector_size) = (must("sectors")?, must("info")?, must("sector-size")?);
        let mut has = |node: &str| Ok::<_, FrontError>(self.backend_number(node)? == Some(1));
        let (has_flush, has_barrier) = (has("feature-flush-cache")?, has("feature-barrier")?);
        let (has_discard, persistent) = (has("feature-discard")?, has("feature-persistent")?);
        let physical = self.backend_number("physical-sector-size")?;
        Ok(Disk {
            sectors,
            info,
            sector_size,
            physical_sector_size: physical.unwrap_or(sector_size),
            has_flush,
            has_barrier,
            has_discard,
            is_persistent: persistent && self.options.is_persistent,
            segments: self.disk.segments,
        })
    }

    fn set_state(&mut self, state: u32) -> Result<(), FrontError> {
        Ok(self.store.write(&format!("{}/state", self.home), &state.to_string())?)
    }

    /// Waits for the backend's state.
    pub fn wait_backend(&mut self, states: &[u32]) -> Result<u32, FrontError> {
        let path = format!("{}/state", self.backend);
        Ok(self.store.wait_state(&path, states, self.options.state_timeout)?)
    }

    /// What the backend said at state 4.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What the disk must contain.
    #[must_use]
    pub fn oracle(&self) -> &Arc<Oracle> {
        &self.oracle
    }

    /// The queues, for single requests.
    pub fn queues(&mut self) -> &mut [Queue] {
        &mut self.queues
    }

    /// The guest's connection to the store.
    pub fn store(&mut self) -> &mut StoreClient {
        &mut self.store
    }

    /// The frontend's directory.
    #[must_use]
    pub fn home(&self) -> &str {
        &self.home
    }

    /// The backend's directory.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// Waits until the backend says another size, as after an online resize, and takes it over: what is new is zero.
    pub fn wait_resized(&mut self, sectors: u64) -> Result<(), FrontError> {
        let path = format!("{}/sectors", self.backend);
        let (timeout, text) = (self.options.state_timeout, sectors.to_string());
        self.store.wait_for(&path, &text, timeout, |v| v == Some(&text))?;
        self.disk.sectors = sectors;
        self.oracle = Arc::new(self.oracle.resized(sectors));
        Ok(())
    }

    /// Runs a load on all queues, each on its part of the disk, until it is done.
    pub fn run(&mut self, load: &Load) -> Result<Report, FrontError> {
        self.start(load)?.finish(self)
    }

    /// Starts a load; the queues are away until [`Running::finish`].
    pub fn start(&mut self, load: &Load) -> Result<Running, FrontError> {
        let signals = Arc::new(load::Signals::default());
        let count = self.queues.len() as u64;
        let mut threads = Vec::new();
        for (mut queue, n) in std::mem::take(&mut self.queues).into_iter().zip(0u64..) {
            let part = self.disk.sectors / count;
            let area = n * part..(n + 1) * part;
            let mut load = load::Generator::new(load, n, area, Arc::clone(&self.oracle), &self.disk);
            let signals = Arc::clone(&signals);
            let thread = std::thread::Builder::new().name(format!("blkfront-{n}")).spawn(move || {
                let report = load.run(&mut queue, &signals);
                (queue, report)
            })?;
            threads.push(thread);
        }
        Ok(Running { threads, signals })
    }

    /// Closes as a driver that is unbound does, and gives all grants and pages back.
    pub fn close(&mut self) -> Result<(), FrontError> {
        self.set_state(state::CLOSING)?;
        self.wait_backend(&[state::CLOSING, state::CLOSED])?;
        self.finish_close()
    }

    /// Follows a backend that was told to close: 6, and waits for the backend's 6.
    pub fn finish_close(&mut self) -> Result<(), FrontError> {
        self.set_state(state::CLOSED)?;
        self.wait_backend(&[state::CLOSED])?;
        self.release()
    }

    /// Ends all grants; an error names what the backend still holds.
    pub fn release(&mut self) -> Result<(), FrontError> {
        let mut in_use: Vec<GrantRef> = Vec::new();
        for queue in self.queues.drain(..) {
            in_use.extend(queue.release());
        }
        if in_use.is_empty() {
            return Ok(());
        }
        Err(FrontError::Backend(format!("closed, and {} grants are still mapped", in_use.len())))
    }
}

/// What a frontend of an earlier kernel left in its directory.
fn stale_nodes(names: &[String]) -> impl Iterator<Item = &String> {
    names.iter().filter(|n| {
        n.starts_with("ring-ref")
            || n.starts_with("queue-")
            || n.starts_with("multi-queue")
            || *n == "ring-page-order"
    })
}

/// A load that is running.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<(Queue, Report)>>,
    signals: Arc<load::Signals>,
}

impl Running {
    /// Longest time in which a queue that waited for answers had none, since this was asked last; one that still waits is not in it.
    #[must_use]
    pub fn take_silence(&self) -> Duration {
        Duration::from_nanos(self.signals.silence_ns.swap(0, Ordering::Relaxed))
    }

    /// Makes no more requests; those in flight are still waited for.
    pub fn stop(&self) {
        self.signals.stop.store(true, Ordering::Release);
    }

    /// True once every queue has ended by itself.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for all queues and gives them back to their frontend.
    pub fn finish(self, frontend: &mut Frontend) -> Result<Report, FrontError> {
        let mut total = Report::default();
        for thread in self.threads {
            let (queue, report) =
                thread.join().map_err(|_| FrontError::Backend("a queue's thread panicked".into()))?;
            frontend.queues.push(queue);
            total.add(&report);
        }
        Ok(total)
    }
}

/// Grants every page of an area to dom0.
fn grant_all(
    guest: &SimDomain,
    pages: &xenbus::sim::GuestPages,
    access: Access,
) -> io::Result<Vec<GrantRef>> {
    (0..pages.pages()).map(|i| guest.grant(pages.frame(i), DomId::DOM0, access)).collect()
}
