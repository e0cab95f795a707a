//! One queue of a vif: frames from the guest to the tap and back. Runs on one thread, without locks per frame, without allocation
//! once connected; `turn` is all its work between two waits. Everything is synchronous and answered in the ring's order, so
//! that nothing of it can be late. Knows nothing of xenstore or of splitd.
//!
//! ```text
//!  tx ring ──► taken, kept ──► tx::parse ──► grant copy ──► offload ──► tap ──► answers, publish, notify     from_guest.rs
//!  tap ──► offload, segment ──► held ──► rx slots, kept ──► grant copy ──► answers, publish, notify           to_guest.rs
//! ```
//!
//! A piece whose page is a static grant is copied through its mapping, before the grant copies of its batch.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use worker::clock::monotonic_ns;
use worker::log_limit::LogLimit;
use worker::message::VifFeatures;
use worker::wake::{self, Bell, Want};
use xen_ring::{BackRing, Overrun};
use xenbus::hv::{EventChannel, GrantCopy, GrantTable, Pending};
use xenbus::memory::LocalMemory;

use crate::backlog::Backlog;
use crate::caps::Limits;
use crate::figures::{Counter, Figures};
use crate::hash::Hash;
use crate::kept::Kept;
use crate::segment::Segments;
use crate::shared::Shared;
use crate::static_grants::StaticGrants;
use crate::tap::TapQueue;
use crate::thread::Serve;
use crate::tx::Fatal;
use crate::vnet::Vnet;
use crate::wire::{RxSlot, TxSlot, TxStatus};

mod connect;
mod from_guest;
mod to_guest;

pub(crate) use connect::{ConnectError, Parts, Terms, shape_error};

const PAGE_LEN: usize = 4096;
/// Memory of each direction: the most that a queue ever holds of frames.
const ARENA_LEN: usize = 64 * PAGE_LEN;
/// Frames of each direction that are worked on together.
const MAX_FRAMES: usize = 128;
/// Grant copies that are done by one call.
const MAX_COPIES: usize = 256;
/// Without `feature-rx-notify` nobody says when slots were posted.
const RX_POLL: Duration = Duration::from_millis(30);
/// How often a queue without slots looks at its age.
const AGE_LOOK: Duration = Duration::from_secs(1);
/// So many events without work in a row are a storm, of which one is let through in each pause.
const STORM_WAKEUPS: u32 = 64;
const STORM_PAUSE: Duration = Duration::from_millis(2);

/// Why a queue cannot go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The frontend broke the protocol.
    Violation(String),
    /// Our own trouble.
    Host(String),
}

impl From<Overrun> for Stop {
    fn from(o: Overrun) -> Self {
        Self::Violation(format!(
            "ring overrun: req_prod {} with rsp_prod {} and {} slots",
            o.req_prod, o.rsp_prod, o.nr_slots
        ))
    }
}

impl From<Fatal> for Stop {
    fn from(fatal: Fatal) -> Self {
        Self::Violation(format!("tx: {fatal}"))
    }
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Self::Host(e.to_string())
    }
}

/// A frame on its way to the tap.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    /// First byte of the frame in the arena; its header stands before it.
    at: usize,
    len: usize,
    csum_blank: bool,
    gso: Option<crate::wire::Gso>,
    /// Its answers and its copies.
    answers: (usize, usize),
    copies: (usize, usize),
}

/// From the guest.
struct FromGuest<M> {
    ring: BackRing<M>,
    memory: LocalMemory,
    /// Taken off the ring, in order; parsed up to `parsed`.
    taken: Vec<TxSlot>,
    parsed: usize,
    /// Frames of this batch, written up to `written`.
    leaving: Vec<Leaving>,
    written: usize,
    /// An answer for each slot of this batch, in the ring's order.
    answers: Vec<(u16, TxStatus)>,
    copies: Vec<GrantCopy>,
    /// End of what the arena holds.
    end: usize,
    /// When the guest may send again, under its caps.
    credit_at_ns: Option<u64>,
    blocked: bool,
}

/// A frame that waits for slots.
#[derive(Clone, Copy, Debug)]
struct Held {
    at: usize,
    len: usize,
    marks: crate::offload::Marks,
    since_ns: u64,
}

/// A frame that is being cut, and where it stands.
#[derive(Clone, Debug)]
struct Cutting {
    segments: Segments,
    at: usize,
    len: usize,
    hash: Option<Hash>,
}

/// To the guest.
struct ToGuest<M> {
    ring: BackRing<M>,
    memory: LocalMemory,
    /// Slots that a predecessor took and did not answer.
    again: VecDeque<RxSlot>,
    held: VecDeque<Held>,
    cutting: Option<Cutting>,
    answers: Vec<(RxSlot, Option<usize>)>,
    copies: Vec<GrantCopy>,
    end: usize,
    /// Slots that the first held frame lacks; 0 if it lacks none.
    short: u32,
    /// Since when slots have been lacking, without one frame given in between.
    short_since_ns: Option<u64>,
    stalled: bool,
    /// When the tap may be read again, under the guest's caps.
    capped_until_ns: Option<u64>,
    /// What waits in the tap meanwhile.
    backlog: Backlog,
    /// The tap had nothing more.
    drained: bool,
}

/// An event channel and whether its event was taken and not let go.
struct Channel<E> {
    events: E,
    waiting: bool,
}

/// A connected queue.
pub(crate) struct Queue<G: GrantTable, E> {
    shared: Arc<Shared>,
    features: VifFeatures,
    grants: G,
    pages: Arc<StaticGrants<G::Mapping>>,
    /// The tx ring's, and the rx ring's where it has its own.
    channels: [Option<Channel<E>>; 2],
    tap: TapQueue,
    bell: Bell,
    kept: Kept,
    figures: Figures,
    log: LogLimit,
    from_guest: FromGuest<G::Mapping>,
    to_guest: ToGuest<G::Mapping>,
    /// What this turn goes by.
    limits: Limits,
    empty_wakeups: u32,
    /// An event came, and nothing was done since.
    woken: bool,
    held_since_ns: Option<u64>,
    now_ns: u64,
    worked: bool,
}

/// What the thread does after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There is more to do right now.
    Again,
    /// Wait until something is ready, at most that long.
    Wait(Option<Duration>),
}

const TX: usize = 0;
const RX: usize = 1;

impl<G: GrantTable, E: EventChannel> Serve for Queue<G, E> {
    type Parts = Parts<G, E>;
    type Terms = Terms;

    fn connect(parts: Self::Parts, terms: &Terms) -> Result<(Self, u32), ConnectError> {
        Self::attach(parts, terms)
    }

    fn unused(parts: Self::Parts) {
        if let Err(error) = parts.tap.detach() {
            tracing::debug!(%error, "detach");
        }
    }

    /// A batch each way.
    fn turn(&mut self) -> Result<Next, Stop> {
        self.now_ns = monotonic_ns();
        self.shared.caps.look(&mut self.limits, self.now_ns);
        self.worked = false;
        let mut notify = [false; 2];
        notify[TX] = self.send()?;
        notify[RX] = self.receive()?;
        self.notify(notify);
        self.figures.set(Counter::HeldFrames, self.to_guest.held.len());
        if self.worked {
            (self.empty_wakeups, self.woken) = (0, false);
            return Ok(Next::Again);
        }
        if self.more_to_send()? || self.more_slots()? {
            return Ok(Next::Again);
        }
        if std::mem::take(&mut self.woken) && self.held_since_ns.is_none() {
            self.empty_wakeups = self.empty_wakeups.saturating_add(1);
            self.figures.add(Counter::EmptyWakeups, 1);
        }
        let storm = self.acknowledge()?;
        let waits = [storm, self.credit_wait(), self.slot_wait(), self.cap_wait()];
        Ok(Next::Wait(waits.into_iter().flatten().min()))
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<(), Stop> {
        let tap_wanted = match (self.wants_frames(), self.from_guest.blocked) {
            (true, true) => Some(Want::Both),
            (true, false) => Some(Want::Read),
            (false, true) => Some(Want::Write),
            (false, false) => None,
        };
        let [tx, rx] = &self.channels;
        let idle = |c: &'_ Option<Channel<E>>| c.as_ref().is_some_and(|c| !c.waiting);
        let files = [
            tx.as_ref().filter(|_| idle(tx)).map(|c| (c.events.as_fd(), Want::Read)),
            rx.as_ref().filter(|_| idle(rx)).map(|c| (c.events.as_fd(), Want::Read)),
            tap_wanted.map(|want| (self.tap.as_fd(), want)),
            Some((self.bell.as_fd(), Want::Read)),
        ];
        let [tx, rx, tap, bell] = wake::ready(files, limit)?;
        for (channel, _) in self.channels.iter_mut().zip([tx, rx]).filter(|(_, ready)| *ready) {
            let Some(channel) = channel else { continue };
            match channel.events.pending()? {
                Pending::None => {}
                Pending::Event | Pending::Overflow => {
                    channel.waiting = true;
                    self.woken = true;
                    self.figures.add(Counter::Wakeups, 1);
                }
            }
        }
        if tap {
            self.from_guest.blocked = false;
            self.to_guest.drained = false;
        }
        if bell {
            self.bell.hush();
        }
        Ok(())
    }

    fn leave(mut self, in_order: bool) {
        if in_order {
            self.kept.end();
        }
        for channel in self.channels.iter_mut().flatten() {
            if let Err(error) = channel.events.unbind() {
                tracing::debug!(%error, "unbind");
            }
        }
        if let Err(error) = self.tap.set_carrier(false) {
            tracing::debug!(%error, "carrier");
        }
    }
}

impl<G: GrantTable, E: EventChannel> Queue<G, E> {
    /// Everything was looked at: only now may the next event through, or a guest could storm us (XSA-332). One that wakes us for
    /// nothing time and again is let through only so often.
    fn acknowledge(&mut self) -> Result<Option<Duration>, Stop> {
        if self.empty_wakeups >= STORM_WAKEUPS {
            let since_ns = *self.held_since_ns.get_or_insert(self.now_ns);
            if u128::from(self.now_ns - since_ns) < STORM_PAUSE.as_nanos() {
                return Ok(Some(STORM_PAUSE));
            }
        }
        self.held_since_ns = None;
        for channel in self.channels.iter_mut().flatten().filter(|c| c.waiting) {
            channel.waiting = false;
            channel.events.ack()?;
        }
        Ok(None)
    }

    fn notify(&mut self, wanted: [bool; 2]) {
        let split = self.channels[RX].is_some();
        let needed = if split { wanted } else { [wanted[TX] || wanted[RX], false] };
        for (channel, _) in self.channels.iter().flatten().zip(needed).filter(|(_, needed)| *needed) {
            self.figures.add(Counter::Notifies, 1);
            // A guest that closed its port loses its events, nothing else.
            if let Err(error) = channel.events.notify() {
                tracing::debug!(%error, "notify");
            }
        }
    }

    /// Does grant copies in one call; their statuses are set.
    fn copy(&mut self, memory: Direction) -> Result<(), Stop> {
        let (memory, copies) = match memory {
            Direction::FromGuest => (&self.from_guest.memory, &mut self.from_guest.copies),
            Direction::ToGuest => (&self.to_guest.memory, &mut self.to_guest.copies),
        };
        if copies.is_empty() {
            return Ok(());
        }
        self.figures.add(Counter::GrantCopies, copies.len());
        self.figures.add(Counter::GrantCopyCalls, 1);
        self.grants.copy(memory, copies).map_err(|e| Stop::Host(format!("grant copy: {e}")))?;
        let failed = copies.iter().filter(|c| !c.status.is_okay()).count();
        if failed > 0 {
            self.figures.add(Counter::GrantErrors, failed);
            self.warn("grant copies failed", &failed);
        }
        Ok(())
    }

    fn warn(&mut self, what: &str, why: &dyn std::fmt::Debug) {
        if let Some(suppressed) = self.log.admit(self.now_ns) {
            tracing::warn!(?why, suppressed, "{what}");
        }
    }
}

/// Which arena.
#[derive(Clone, Copy, Debug)]
enum Direction {
    FromGuest,
    ToGuest,
}

/// How long until `at_ns`.
fn until(at_ns: u64, now_ns: u64) -> Duration {
    Duration::from_nanos(at_ns.saturating_sub(now_ns).max(1))
}

/// A header and what a tap makes of it.
fn stamp(memory: &mut LocalMemory, at: usize, vnet: Vnet) -> bool {
    at.checked_sub(crate::vnet::VNET_LEN).is_some_and(|before| memory.write(before, &vnet.bytes()))
}
