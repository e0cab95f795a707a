//! Holding requests back that a cap or the disk's share does not let pass yet, and finding out when it will. What is held back keeps
//! its order among its own kind and keeps nobody else waiting: a read is not behind a capped write, a flush behind neither. Knows
//! nothing of how requests are carried out, nor whose limits they are.

use std::collections::VecDeque;
use std::time::Duration;

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
    /// When something may be let go, by the host's clock; of this turn.
    wake_ns: Option<u64>,
    now_ns: u64,
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
        self.throttle.wake_ns = None;
        if let Some(gate) = self.device.gate.get() {
            self.throttle.now_ns = self.now_ns;
            gate.look(&mut self.throttle.seen);
        }
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

    /// Whether a request may begin. On the way out nothing is held back any more, or a detach would take as long as the caps say;
    /// it is paid for all the same.
    pub(super) fn may_begin(&mut self, id: SlotId) -> bool {
        let slot = *self.slot(id);
        let device = std::sync::Arc::clone(&self.device);
        let Some(gate) = device.gate.get() else { return true };
        let throttle = &mut self.throttle;
        let (op, now_ns) = (op(slot.work), throttle.now_ns);
        let len_bytes = match slot.work {
            Work::Discard { .. } => slot.nr_sectors.saturating_mul(SECTOR_LEN),
            _ => slot.len_bytes.into(),
        };
        if self.closing {
            gate.charge(&throttle.seen, op, len_bytes, now_ns);
        } else if let Err(at_ns) = gate.cap(&throttle.seen, op, len_bytes, slot.stages.taken_ns, now_ns) {
            throttle.hold_until(at_ns);
            return false;
        }
        if matches!(op, Op::Read | Op::Write) {
            return true;
        }
        // Its data has a share of its own, piece by piece; these have no pieces.
        let cost_ns = throttle.cursor.cost_ns(throttle.seen.prices(), op, 0, len_bytes);
        gate.spend(cost_ns);
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
        let device = std::sync::Arc::clone(&self.device);
        let Some(gate) = device.gate.get() else { return Some(0) };
        let throttle = &mut self.throttle;
        let op = op(Work::Data(direction));
        let mut cursor = throttle.cursor;
        let cost_ns = cursor.cost_ns(throttle.seen.prices(), op, offset_bytes, len_bytes.into());
        if self.closing {
            gate.spend(cost_ns);
        } else if let Err(at_ns) = gate.share(&throttle.seen, cost_ns, taken_ns, throttle.now_ns) {
            throttle.hold_until(at_ns.min(throttle.now_ns.saturating_add(LOOK_NS)));
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
}
