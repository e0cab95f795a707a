//! One queue of a vbd: takes requests off the ring, carries them out, answers each exactly once. Runs on one thread, without
//! locks, without allocation once connected; `turn` is all its work between two waits. Knows nothing of xenstore, of splitd, or
//! of other queues, beside the size of the disk and the word to freeze.
//!
//! ```text
//!            take.rs              issue.rs                 complete.rs               answer.rs
//!  ring ──► slot, journal ──► waiting ──► chunks ──► io_uring ──► copy out ──► finished ──► journal, ring, notify
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use worker::clock::monotonic_ns;
use worker::journal::Journal;
use worker::log_limit::LogLimit;
use worker::message::Abi;
use worker::qos::Gate;
use worker::uring::{Completion, Disk, FileIndex, Uring};
use worker::wake::Bell;
use worker::written::Written;
use xen_ring::{BackRing, Indices, Overrun};
use xenbus::hv::{EventChannel, GrantCopy, GrantTable, Pending};
use xenbus::memory::LocalMemory;

use crate::discard::DiscardLine;
use crate::figures::{Counter, Figures};
use crate::flushes::{FlushLine, Flushes};
use crate::linger::Linger;
use crate::persistent::Cache;
use crate::pool::Pool;
use crate::request::Limits;
use crate::rmw::EdgeOwners;
use crate::shortage::{Notice, Shortage};
use crate::slot::{Chunk, ChunkId, Slot, SlotId, Tag};
use crate::wire::Segment;
use throttle::Throttle;

mod answer;
mod complete;
mod connect;
mod issue;
#[cfg(all(test, feature = "crash-points"))]
mod killed;
mod mapped;
mod replay;
mod take;
mod throttle;

use replay::Replay;

pub(crate) use connect::{ConnectError, Parts, Terms, journal_shape};
pub(crate) use replay::Left;

/// The target in the table of every queue's ring.
pub(crate) const TARGET: FileIndex = FileIndex(0);
/// The event channel.
pub(crate) const EVENTS: FileIndex = FileIndex(1);
/// The bell.
pub(crate) const BELL: FileIndex = FileIndex(2);

/// How long a shortage of ours lasts before it is tried again.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(1);

/// So many events without work in a row are a storm, of which one is let through in each pause.
const STORM_WAKEUPS: u32 = 64;
const STORM_PAUSE: Duration = Duration::from_millis(2);

/// Between two looks while lingering.
const SPINS: u32 = 16;

/// What all queues of a device look at.
#[derive(Debug, Default)]
pub(crate) struct Device {
    /// Size of the disk in sectors, now.
    pub(crate) capacity_sectors: AtomicU64,
    /// Nothing is taken or answered any more.
    pub(crate) frozen: AtomicBool,
    /// Blocks that are changed in part.
    pub(crate) edges: EdgeOwners,
    /// Flushes that are under way.
    pub(crate) flushes: Arc<Flushes>,
    /// Wakes every queue.
    pub(crate) bells: OnceLock<Vec<Bell>>,
    /// What the disk is held to, if to anything.
    pub(crate) gate: OnceLock<Gate>,
    /// Where it was written, for whoever copies it.
    pub(crate) written: OnceLock<Written>,
}

/// Why a queue cannot go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The frontend broke the protocol.
    Violation(String),
    /// Our own trouble or the disk's.
    Host(String),
}

impl Device {
    /// A write or discard has ended.
    pub(crate) fn note_written(&self, offset_bytes: u64, len_bytes: u64) {
        if let Some(written) = self.written.get() {
            written.note(offset_bytes, len_bytes);
        }
    }

    /// Wakes every queue.
    pub(crate) fn ring_all(&self) {
        self.bells.get().into_iter().flatten().for_each(Bell::ring);
    }
}

impl From<Overrun> for Stop {
    fn from(o: Overrun) -> Self {
        Self::Violation(format!(
            "ring overrun: req_prod {} with rsp_prod {} and {} slots",
            o.req_prod, o.rsp_prod, o.nr_slots
        ))
    }
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Self::Host(e.to_string())
    }
}

/// Grant copies of one direction, collected over a turn and done by one call.
#[derive(Debug)]
struct Copies {
    ops: Vec<GrantCopy>,
    /// For each op, the chunk it belongs to; ops of a chunk stand together.
    owners: Vec<ChunkId>,
}

/// A connected queue.
pub(crate) struct Queue<G: GrantTable, E, D = Uring> {
    device: Arc<Device>,
    abi: Abi,
    limits: Limits,
    ring: BackRing<G::Mapping>,
    grants: G,
    events: E,
    disk: D,
    bell: Bell,
    journal: Journal,
    figures: Figures,
    log: LogLimit,

    slots: Vec<Slot>,
    /// `segments_per_slot` for each slot.
    segments: Vec<Segment>,
    segments_per_slot: usize,
    free_slots: Vec<SlotId>,
    chunks: Vec<Chunk>,
    free_chunks: Vec<ChunkId>,
    pool: Pool,
    /// Persistent mappings, if that is the connection's mode.
    cache: Option<Cache<G::Mapping>>,
    most_pages_per_chunk: u32,
    /// The disk's block.
    block_len: u32,
    /// Another queue has a block that is needed here; it will ring.
    edge_wait: bool,
    /// Where indirect tables are copied to: `table_len` for each slot.
    tables: LocalMemory,
    table_len: usize,

    /// Slots whose indirect table is to be copied this turn.
    fetching: Vec<SlotId>,
    fetch_ops: Vec<GrantCopy>,
    /// Slots with work to give to the disk, in order.
    waiting: VecDeque<SlotId>,
    /// Slots that limits hold back.
    throttle: Throttle,
    /// Slots done and to be answered.
    finished: Vec<SlotId>,
    copy_in: Copies,
    copy_out: Copies,
    completions: Vec<Completion>,

    /// For a block device; files are done by io_uring.
    discards: Option<DiscardLine>,
    flushes: FlushLine,
    /// Barriers taken and not answered: while there are any, order is kept strictly.
    barriers: u16,
    /// The barrier that is under way.
    barrier: Option<SlotId>,
    /// Requests begun and not finished.
    active: u16,
    /// What a predecessor left and is to be done again.
    replay: Replay,
    /// Found while completions were booked; looked at when all of them are.
    failure: Option<Stop>,
    event: bool,
    /// The event is not let go yet, since when.
    event_held: bool,
    event_held_ns: u64,
    /// Events in a row that came without work.
    empty_wakeups: u32,
    shortage: bool,
    /// Chunks that the kernel could not do now, since when: given to it again after a pause.
    put_off: Vec<ChunkId>,
    put_off_ns: u64,
    /// How long the kernel has been short.
    lack: Shortage,
    /// For the frontend's next request, while there is nothing else to wait for.
    linger_for_frontend: Linger,
    /// For the disk, while it has one operation of ours.
    linger_for_disk: Linger,
    /// Takes nothing new.
    closing: bool,
    mappings_seen_ns: u64,
    /// `CLOCK_MONOTONIC`, when last looked at.
    now_ns: u64,
}

/// What the thread does after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There is more to do right now.
    Again,
    /// Wait for a completion, at most that long.
    Wait(Option<Duration>),
}

impl<G: GrantTable, E: EventChannel, D: Disk> Queue<G, E, D> {
    /// Does everything there is to do now.
    pub(crate) fn turn(&mut self) -> Result<Next, Stop> {
        self.look_at_clock();
        self.limits.capacity_sectors = self.device.capacity_sectors.load(Ordering::Relaxed);
        self.shortage = false;
        self.edge_wait = false;
        let in_flight = self.in_flight();
        self.reap()?;
        if self.in_flight() < in_flight {
            self.linger_for_disk.end(self.now_ns);
        }
        self.try_again()?;
        self.copy_out()?;
        if self.device.frozen.load(Ordering::Acquire) {
            self.wait_for_no_share();
            return Ok(Next::Wait(None));
        }
        self.end_flushes();
        self.answer()?;
        self.replay_next()?;
        let taken = if self.takes_nothing() { 0 } else { self.take()? };
        self.issue()?;
        self.answer()?;
        self.note_wakeup(taken);
        // With nothing in flight no completion would come for those that still wait.
        let waits = !self.waiting.is_empty() || !self.throttle.is_empty();
        let known = self.shortage || self.edge_wait || self.throttle.is_waiting();
        let stuck = waits && self.in_flight() == 0 && !known;
        let stuck = stuck || self.replay.has_next();
        if (!self.takes_nothing() && (self.linger()? || self.ring.final_check()?)) || stuck {
            self.disk.submit()?;
            return Ok(Next::Again);
        }
        let storm = self.acknowledge()?;
        let shortage = self.shortage.then_some(SHORTAGE_PAUSE);
        let wait = storm.or(shortage).or_else(|| self.look_after_mappings());
        Ok(Next::Wait([wait, self.throttle.wait()].into_iter().flatten().min()))
    }

    /// Looks for a moment for what comes next, if that is worth it; true if it has come. At depth it would only cost: there the next
    /// completion is under way anyway, and batches grow while we sleep.
    fn linger(&mut self) -> Result<bool, Stop> {
        if !self.linger_for_frontend.is_on() {
            return Ok(false);
        }
        let now_ns = monotonic_ns();
        let waits_for_disk = self.in_flight() == 1;
        let limit_ns = match self.in_flight() {
            0 => self.linger_for_frontend.begin(now_ns),
            1 => self.linger_for_disk.begin(now_ns),
            _ => return Ok(false),
        };
        if limit_ns == 0 {
            return Ok(false);
        }
        self.disk.submit()?;
        while monotonic_ns() - now_ns < limit_ns {
            if self.ring.unconsumed()? > 0 || self.disk.has_ended()? {
                return Ok(true);
            }
            (0..SPINS).for_each(|_| std::hint::spin_loop());
        }
        if waits_for_disk {
            self.linger_for_disk.miss();
        } else {
            self.linger_for_frontend.miss();
        }
        Ok(false)
    }

    /// As seldom as can be: where the kernel counts time by Xen's clock, each look is a system call.
    fn look_at_clock(&mut self) {
        self.now_ns = monotonic_ns();
    }

    fn note_wakeup(&mut self, taken: u32) {
        if taken > 0 {
            self.empty_wakeups = 0;
            self.linger_for_frontend.end(self.now_ns);
        } else if self.event && !self.event_held {
            self.empty_wakeups = self.empty_wakeups.saturating_add(1);
            self.linger_for_frontend.end_in_vain();
            self.figures.add(Counter::EmptyWakeups, 1);
        }
    }

    /// Everything was looked at: only now may the next event through, or a guest could storm us (XSA-332). One that wakes us for
    /// nothing time and again is let through only so often; says how long the event is held.
    fn acknowledge(&mut self) -> Result<Option<Duration>, Stop> {
        if !self.event {
            return Ok(None);
        }
        if self.empty_wakeups >= STORM_WAKEUPS && !self.event_held {
            (self.event_held, self.event_held_ns) = (true, self.now_ns);
        }
        let held_ns = u128::from(self.now_ns - self.event_held_ns);
        if self.event_held && self.empty_wakeups > 0 && held_ns < STORM_PAUSE.as_nanos() {
            return Ok(Some(STORM_PAUSE));
        }
        (self.event, self.event_held) = (false, false);
        self.events.ack()?;
        Ok(None)
    }

    /// What an operator has to know of a shortage.
    pub(crate) fn notice(&mut self) -> Option<Notice> {
        self.lack.notice(self.now_ns)
    }

    /// Waits for something to do.
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> Result<(), Stop> {
        Ok(self.disk.wait(limit)?)
    }

    /// Takes nothing new from now on.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    fn takes_nothing(&self) -> bool {
        self.closing || self.replay.is_careful()
    }

    /// Where it stands in the ring.
    pub(crate) fn indices(&self) -> Indices {
        self.ring.indices()
    }

    /// Nothing is owed any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.owed() == 0
    }

    /// Requests taken and not answered.
    fn owed(&self) -> usize {
        self.slots.len() - self.free_slots.len()
    }

    /// The kernel has nothing of ours any more.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight() == 0
    }

    fn in_flight(&self) -> u32 {
        self.disk.in_flight() + self.discards.as_ref().map_or(0, DiscardLine::in_flight)
    }

    /// Only books what the kernel has done, answers nothing.
    pub(crate) fn drain(&mut self, limit: Duration) -> Result<(), Stop> {
        self.disk.wait(Some(limit))?;
        self.reap()
    }

    /// Ends as a worker does that is killed: what the kernel has is waited for, and nothing is booked.
    pub(crate) fn die(mut self, limit: Duration) {
        let mut ended = Vec::with_capacity(64);
        let begun = Instant::now();
        while self.disk.in_flight() > 0 && begun.elapsed() < limit {
            if self.disk.wait(Some(limit)).is_err() {
                return;
            }
            self.disk.completions(&mut ended);
            let ours = |c: &Completion| !matches!(Tag::unpack(c.tag), Tag::Event | Tag::Bell);
            ended.drain(..).filter(ours).for_each(|_| self.disk.ended());
        }
    }

    /// Lets go of the frontend: unmaps, unbinds. `over` says that the connection has ended and nobody is to resume it.
    pub(crate) fn leave(mut self, over: bool) {
        if over {
            self.journal.end();
        }
        if let Err(e) = self.events.unbind() {
            tracing::debug!(error = %e, "unbind");
        }
        if self.disk.in_flight() > 0 {
            // Buffers may still be written to.
            std::mem::forget(self);
        }
    }

    fn book_event(&mut self) -> Result<(), Stop> {
        match self.events.pending()? {
            Pending::None => {}
            Pending::Event | Pending::Overflow => {
                self.event = true;
                self.figures.add(Counter::Wakeups, 1);
            }
        }
        Ok(())
    }

    fn arm(&mut self, tag: Tag) -> Result<(), Stop> {
        let file = if tag == Tag::Event { EVENTS } else { BELL };
        Ok(self.disk.poll(file, tag.pack())?)
    }

    fn slot(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[usize::from(id)]
    }

    fn chunk(&mut self, id: ChunkId) -> &mut Chunk {
        &mut self.chunks[usize::from(id)]
    }

    fn segments_of(&self, id: SlotId) -> &[Segment] {
        let at = usize::from(id) * self.segments_per_slot;
        &self.segments[at..at + self.segments_per_slot]
    }

    fn warn(&mut self, what: &str, why: &dyn std::fmt::Debug) {
        if let Some(suppressed) = self.log.admit(self.now_ns) {
            tracing::warn!(?why, suppressed, "{what}");
        }
    }
}
