//! One queue without a thread or a process around it, turned by hand over any host: for tests that decide what the guest's memory,
//! the grants and the events do between two turns, and when the worker dies. Knows nothing of what they decide.

use std::fmt::{self, Debug};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use worker::counters;
use worker::journal::Journal;
use worker::message::{Abi, QueueRing, TransferMode};
use worker::uring::Uring;
use worker::wake::Bell;
use xen_ring::Indices;
use xenbus::hv::{EventChannel, GrantTable};
use xenbus::memory::LocalMemory;

use crate::figures::{self, Figures};
use crate::queue::{ConnectError, Device, Next, Parts, Queue, Stop, Terms, journal_shape};
use crate::request::Limits;

/// Longest life, and wait for the disk.
const LIMIT: Duration = Duration::from_secs(60);

/// What a queue is made of.
#[derive(Debug)]
pub struct Setup<'a, G, E> {
    /// The guest's pages.
    pub grants: G,
    /// Its event channel.
    pub events: E,
    /// The disk.
    pub target: BorrowedFd<'a>,
    /// Where journal and counters are kept.
    pub run_dir: &'a Path,
    /// As for every worker of one connection.
    pub connection: u64,
    /// The ring.
    pub ring: QueueRing,
    /// Its layout.
    pub abi: Abi,
    /// How data goes.
    pub mode: TransferMode,
    /// What requests are held to.
    pub limits: Limits,
    /// The disk's block in bytes.
    pub block_len: u32,
    /// Transfer buffers.
    pub buffer_len_bytes: usize,
    /// The last worker ended by itself.
    pub predecessor_crashed: bool,
}

/// Why a queue does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The frontend broke the protocol.
    Violation(String),
    /// Our own trouble.
    Host(String),
}

impl From<Stop> for Ended {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Violation(why) => Self::Violation(why),
            Stop::Host(why) => Self::Host(why),
        }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Host(error.to_string())
    }
}

/// The queue.
pub struct LoneQueue<G: GrantTable, E: EventChannel> {
    queue: Queue<G, E>,
    device: Arc<Device>,
    /// Requests that a predecessor left and that are done again.
    pub replayed: u32,
    /// Those that are answered with an error instead.
    pub given_up: u32,
}

impl<G: GrantTable, E: EventChannel> Debug for LoneQueue<G, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoneQueue").field("indices", &self.indices()).finish_non_exhaustive()
    }
}

/// The journal's file in `run_dir`.
#[must_use]
pub fn journal_path(run_dir: &Path) -> std::path::PathBuf {
    run_dir.join("journal-0")
}

impl<G: GrantTable, E: EventChannel> LoneQueue<G, E> {
    /// Connects, or takes a dead predecessor's connection over.
    pub fn connect(setup: Setup<'_, G, E>) -> Result<Self, Ended> {
        let host = |why: &dyn fmt::Display| Ended::Host(why.to_string());
        let device = Arc::new(Device::default());
        device.capacity_sectors.store(setup.limits.capacity_sectors, Ordering::Relaxed);
        let memory = LocalMemory::new(setup.buffer_len_bytes)?;
        let bell = Bell::new()?;
        let _ = device.bells.set(vec![bell.clone()]);
        let figures = counters::open(&setup.run_dir.join("counters"), &figures::NAMES, 1)?;
        let figures = Figures(figures.into_iter().next().ok_or_else(|| host(&"no counters"))?);
        let pages = setup.ring.ring_refs.len();
        let nr_slots = xen_ring::nr_slots(pages, crate::wire::slot_len(setup.abi));
        let shape = journal_shape(nr_slots, setup.limits.max_indirect_segments);
        let journal = Journal::open(&journal_path(setup.run_dir), shape)?;
        let files = [setup.target, setup.events.as_fd(), bell.as_fd()];
        let disk = Uring::new(64, &files, &memory).map_err(|e| host(&e))?;
        disk.enable().map_err(|e| host(&e))?;
        let parts = Parts {
            device: Arc::clone(&device),
            grants: setup.grants,
            events: setup.events,
            disk,
            bell,
            journal,
            figures,
            discards: None,
        };
        let terms = Terms {
            frontend: 1,
            connection: setup.connection,
            predecessor_crashed: setup.predecessor_crashed,
            busy_poll_ns: 0,
            ring: setup.ring,
            abi: setup.abi,
            mode: setup.mode,
            limits: setup.limits,
            block_len: setup.block_len,
            memory,
        };
        let (queue, left) = Queue::connect(parts, terms).map_err(|error| match error {
            ConnectError::Frontend(why) => Ended::Violation(why),
            ConnectError::Host(why) => Ended::Host(why),
        })?;
        Ok(Self { queue, device, replayed: left.replayed, given_up: left.given_up })
    }

    /// Does what there is to do; true if there is more.
    pub fn turn(&mut self) -> Result<bool, Ended> {
        Ok(self.queue.turn()? == Next::Again)
    }

    /// Waits for something to do.
    pub fn wait(&mut self, limit: Duration) -> Result<(), Ended> {
        Ok(self.queue.wait(Some(limit))?)
    }

    /// The kernel has nothing of ours.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.queue.is_quiet()
    }

    /// Where it stands in the ring.
    #[must_use]
    pub fn indices(&self) -> Indices {
        self.queue.indices()
    }

    /// The disk has another size now.
    pub fn resize(&self, capacity_sectors: u64) {
        self.device.capacity_sectors.store(capacity_sectors, Ordering::Relaxed);
    }

    /// Takes nothing new from now on.
    pub fn close(&mut self) {
        self.queue.close();
    }

    /// Everything taken is answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }

    /// Is killed. What the disk has already is waited for, so that a successor may begin.
    pub fn die(self) {
        self.queue.die(LIMIT);
    }

    /// Lets go of the frontend; nobody is to resume the connection.
    pub fn leave(self) {
        self.queue.leave(true);
    }
}
