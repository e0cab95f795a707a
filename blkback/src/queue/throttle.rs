//! Holding requests back that a cap or the disk's share does not let pass yet, and finding out when it will. What is held back keeps
//! its order among its own kind and keeps nobody else waiting: a read is not behind a capped write, a flush behind neither. Knows
//! nothing of how requests are carried out, nor whose limits they are.

use std::collections::VecDeque;
use std::time::Duration;

use qos::account::{Ask, Place};
use qos::cost::{Cursor, Op};
use worker::qos::Seen;
use worker::uring::Disk;
use xenbus::hv::{EventChannel, GrantTable};

use super::{Queue, Stop};
use crate::request::Direction;
use crate::slot::{Chunk, ChunkId, SlotId, Work};
use crate::wire::SECTOR_LEN;

/// Reads, writes and discards, flushes.
const KINDS: usize = 3;
/// While it waits for its share, a queue looks at the page so often.
const LOOK_NS: u64 = 20_000_000;
/// Largest piece on a device that is shared out, in pages: nobody waits for long behind one.
const RATIONED_PAGES: u32 = 32;

/// What a queue holds back.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    seen: Seen,
    cursor: Cursor,
    parked: [VecDeque<SlotId>; KINDS],
    /// In the lines before the caps.
    places: [Place; KINDS],
    /// When something may be let go, by the host's clock; of this turn.
    wake_ns: Option<u64>,
    /// The share refused something; of this turn, and of the last one.
    is_refused: bool,
    was_refused: bool,
    now_ns: u64,
    /// What the flush that the kernel has takes of the device's time, and since when.
    flush_cost_ns: u64,
    flush_begun_ns: u64,
}

fn kind(work: Work) -> usize {
    match work {
        Work::Data(Direction::Read) | Work::Nothing => 0,
        Work::Data(Direction::Write) | Work::Discard { .. } => 1,
        Work::Flush => 2,
    }
}

fn op(work: Work) -> Op {
    match work {
        Work::Data(Direction::Read) | Work::Nothing => Op::Read,
        Work::Data(Direction::Write) => Op::Write,
        Work::Discard { .. } => Op::Discard,
        Work::Flush => Op::Flush,
    }
}

impl Throttle {
    pub(super) fn with_room(nr_slots: usize) -> Self {
        Self { parked: std::array::from_fn(|_| VecDeque::with_capacity(nr_slots)), ..Self::default() }
    }

    /// Nothing is held back.
    pub(super) fn is_empty(&self) -> bool {
        self.parked.iter().all(VecDeque::is_empty)
    }

    /// Something is held back until a time that is known.
    pub(super) fn is_waiting(&self) -> bool {
        self.wake_ns.is_some()
    }

    pub(super) fn holds(&self, id: SlotId) -> bool {
        self.parked.iter().any(|kind| kind.contains(&id))
    }

    /// How long there is nothing to let go.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.wake_ns.map(|at| Duration::from_nanos(at.saturating_sub(self.now_ns).max(1)))
    }

    fn hold_until(&mut self, at_ns: u64) {
        self.wake_ns = Some(self.wake_ns.map_or(at_ns, |known| known.min(at_ns)));
    }

    /// The most pages that a chunk is to have.
    pub(super) fn most_pages(&self, most: u32) -> u32 {
        if self.seen.is_rationed() { most.min(RATIONED_PAGES) } else { most }
    }
}

impl<G: GrantTable, E: EventChannel, D: Disk> Queue<G, E, D> {
    /// Once a turn, before anything is issued.
    pub(super) fn look_at_limits(&mut self) {
        (self.throttle.wake_ns, self.throttle.is_refused) = (None, false);
        if let Some(gate) = self.device.gate.get() {
            self.throttle.now_ns = self.now_ns;
            if gate.look(&mut self.throttle.seen) {
                self.throttle.places = Default::default();
            }
        }
    }

    /// Once a turn, after all that could be issued was.
    pub(super) fn tell_whether_it_waits(&mut self) {
        let is_refused = self.throttle.is_refused;
        if std::mem::replace(&mut self.throttle.was_refused, is_refused) != is_refused
            && let Some(gate) = self.device.gate.get()
        {
            gate.set_waiting(is_refused);
        }
    }

    /// Nothing is to be kept for what a frozen disk holds back.
    pub(super) fn wait_for_no_share(&mut self) {
        self.throttle.is_refused = false;
        self.tell_whether_it_waits();
    }

    /// Others of its kind are held back already.
    pub(super) fn is_behind_parked(&mut self, id: SlotId) -> bool {
        let kind = kind(self.slot(id).work);
        !self.throttle.parked[kind].is_empty()
    }

    pub(super) fn park(&mut self, id: SlotId) {
        let kind = kind(self.slot(id).work);
        self.throttle.parked[kind].push_back(id);
    }

    /// Lets go what may go now.
    pub(super) fn issue_parked(&mut self) -> Result<(), Stop> {
        for kind in 0..KINDS {
            while let Some(&id) = self.throttle.parked[kind].front() {
                if self.advance(id)? != super::issue::Issued::Wholly {
                    break;
                }
                self.throttle.parked[kind].pop_front();
            }
        }
        Ok(())
    }

    /// Whether the caps let a request begin. On the way out nothing is held back any more, or a detach would take as long as the caps say;
    /// it is paid for all the same.
    pub(super) fn may_begin(&mut self, id: SlotId) -> bool {
        let slot = *self.slot(id);
        let device = std::sync::Arc::clone(&self.device);
        let Some(gate) = device.gate.get() else { return true };
        let throttle = &mut self.throttle;
        let (op, now_ns, taken_ns) = (op(slot.work), throttle.now_ns, slot.stages.taken_ns);
        let len_bytes = match slot.work {
            Work::Discard { .. } => slot.nr_sectors.saturating_mul(SECTOR_LEN),
            _ => slot.len_bytes.into(),
        };
        if self.closing {
            gate.charge(&throttle.seen, op, len_bytes, now_ns);
            return true;
        }
        let kind = kind(slot.work);
        let ask = Ask { op, len_bytes, taken_ns };
        let outcome = gate.cap(&throttle.seen, ask, &mut throttle.places[kind], now_ns);
        if let Err(at_ns) = outcome {
            throttle.hold_until(at_ns);
        }
        outcome.is_ok()
    }

    /// Whether the disk's share has room for all of a discard. It has no pieces that the share would know.
    pub(super) fn may_discard(&mut self, id: SlotId) -> bool {
        let slot = *self.slot(id);
        let len_bytes = slot.nr_sectors.saturating_mul(SECTOR_LEN);
        let cost_ns = self.may_spend(Op::Discard, 0, len_bytes, slot.stages.taken_ns);
        self.slot(id).cost_ns = cost_ns.unwrap_or(0);
        if let (Some(cost_ns), Some(gate)) = (cost_ns, self.device.gate.get()) {
            gate.begun(cost_ns, 0);
        }
        cost_ns.is_some()
    }

    /// Whether the disk's share has room for a flush, the first asker of which was taken at `taken_ns`.
    pub(super) fn may_flush(&mut self, taken_ns: u64) -> bool {
        let Some(cost_ns) = self.may_spend(Op::Flush, 0, 0, taken_ns) else { return false };
        (self.throttle.flush_cost_ns, self.throttle.flush_begun_ns) = (cost_ns, self.now_ns);
        if let Some(gate) = self.device.gate.get() {
            gate.begun(cost_ns, 0);
        }
        true
    }

    /// Whether the disk's share has room for a piece of a request that was taken at `taken_ns`; its cost.
    pub(super) fn may_issue(
        &mut self,
        taken_ns: u64,
        direction: Direction,
        offset_bytes: u64,
        len_bytes: u32,
    ) -> Option<u64> {
        self.may_spend(op(Work::Data(direction)), offset_bytes, len_bytes.into(), taken_ns)
    }

    fn may_spend(&mut self, op: Op, offset_bytes: u64, len_bytes: u64, taken_ns: u64) -> Option<u64> {
        let device = std::sync::Arc::clone(&self.device);
        let Some(gate) = device.gate.get() else { return Some(0) };
        let throttle = &mut self.throttle;
        let mut cursor = throttle.cursor;
        let cost_ns = cursor.cost_ns(throttle.seen.prices(), op, offset_bytes, len_bytes);
        if self.closing {
            gate.spend(cost_ns);
        } else if let Err(at_ns) = gate.share(&throttle.seen, cost_ns, taken_ns, throttle.now_ns) {
            throttle.hold_until(at_ns.min(throttle.now_ns.saturating_add(LOOK_NS)));
            throttle.is_refused = true;
            return None;
        }
        throttle.cursor = cursor;
        Some(cost_ns)
    }

    pub(super) fn chunk_begun(&mut self, id: ChunkId) {
        let chunk: Chunk = *self.chunk(id);
        if let Some(gate) = self.device.gate.get() {
            gate.begun(chunk.cost_ns, chunk.len_bytes.into());
        }
    }

    pub(super) fn chunk_left(&self, chunk: &Chunk) {
        if let Some(gate) = self.device.gate.get() {
            gate.ended(chunk.cost_ns, self.now_ns.saturating_sub(chunk.begun_ns));
        }
    }

    pub(super) fn flush_left(&self) {
        if let Some(gate) = self.device.gate.get() {
            let took_ns = self.now_ns.saturating_sub(self.throttle.flush_begun_ns);
            gate.ended(self.throttle.flush_cost_ns, took_ns);
        }
    }

    pub(super) fn discard_left(&self, id: SlotId) {
        if let Some(gate) = self.device.gate.get() {
            let slot = &self.slots[usize::from(id)];
            gate.ended(slot.cost_ns, self.now_ns.saturating_sub(slot.stages.sent_ns));
        }
    }
}
