//! What a dead predecessor left: owed answers first, then its requests again, in the ring's order. If workers crash over that, the next
//! ones do one request at a time and leave word of which; a request that two workers crashed over is given up. Knows nothing of
//! what a crash is.

use std::collections::VecDeque;

use worker::journal::recover::Plan;
use worker::uring::Disk;
use xenbus::hv::{EventChannel, GrantTable};

use super::{Queue, Stop};
use crate::figures::Counter;
use crate::slot::{Slot, SlotId};
use crate::wire::{self, OP_FLUSH_DISKCACHE, OP_WRITE_BARRIER, Status};

/// Crashes before what was left is done one by one.
const CRASHES_AT_ONCE: u32 = 1;

/// Workers that may crash over a request on its own.
const DEATHS: u32 = 2;

/// What a predecessor left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Requests that are done again.
    pub(crate) replayed: u32,
    /// Those that are answered with an error instead.
    pub(crate) given_up: u32,
}

/// How far it is done.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// To be done alone, in order.
    alone: VecDeque<SlotId>,
    /// One is being done alone.
    one: bool,
    /// Done again and not answered.
    owed: usize,
}

impl Replay {
    /// While one is done at a time nothing new is taken: a death is to be blamed on the right one.
    pub(super) fn is_careful(&self) -> bool {
        self.one || !self.alone.is_empty()
    }

    /// The next one can be begun.
    pub(super) fn has_next(&self) -> bool {
        !self.one && !self.alone.is_empty()
    }
}

impl<G: GrantTable, E: EventChannel, D: Disk> Queue<G, E, D> {
    /// Gives the answers that were owed, then begins again what was not finished.
    pub(super) fn replay(&mut self, plan: &Plan, crashed: bool) -> Result<Left, Stop> {
        use std::sync::atomic::Ordering;
        // A kill is nobody's fault.
        if crashed {
            self.journal.note_crash(plan)
        } else {
            self.journal.caught_up()
        }
        self.limits.capacity_sectors = self.device.capacity_sectors.load(Ordering::Relaxed);
        let owed = |id: &SlotId| {
            let entry = usize::from(*id);
            plan.replay.contains(&entry) || plan.answer.iter().any(|&(e, _)| e == entry)
        };
        let mut replay: VecDeque<SlotId> =
            plan.replay.iter().filter_map(|&e| SlotId::try_from(e).ok()).collect();
        self.free_slots.retain(|id| !owed(id));
        for &(entry, status) in &plan.answer {
            let Ok(id) = SlotId::try_from(entry) else { continue };
            self.finish_unread(id, Status::from_code(status));
        }
        // Staged again at the very indices they hold, as nothing was answered before them.
        self.answer()?;
        worker::crash_point!("after_owed_answers");
        let given_up = self.give_up_deadly(&mut replay)?;
        let replayed = u32::try_from(replay.len()).unwrap_or(u32::MAX);
        self.replay.owed = replay.len();
        if self.journal.attempts() > CRASHES_AT_ONCE {
            tracing::warn!(replayed, "workers crash over what was left: one request at a time");
            self.replay.alone = replay;
        } else {
            replay.into_iter().try_for_each(|id| self.begin_again(id))?;
            self.fetch_tables()?;
        }
        if self.replay.owed == 0 {
            self.journal.caught_up();
        }
        self.figures.add(Counter::Replayed, u64::from(replayed));
        Ok(Left { replayed, given_up })
    }

    /// Answers those with an error that have ended too many workers.
    fn give_up_deadly(&mut self, replay: &mut VecDeque<SlotId>) -> Result<u32, Stop> {
        let journal = &self.journal;
        let is_deadly = |id: &SlotId| journal.deaths(usize::from(*id)) >= DEATHS;
        let deadly: Vec<SlotId> = replay.iter().copied().filter(is_deadly).collect();
        replay.retain(|id| !deadly.contains(id));
        for &id in &deadly {
            let header = wire::header(self.abi, &self.kept_slot(id));
            // blkfront takes an error of an empty flush for success.
            if matches!(header.operation, OP_FLUSH_DISKCACHE | OP_WRITE_BARRIER) {
                return Err(Stop::Host(format!("a flush (id {}) ended {DEATHS} workers", header.id)));
            }
            tracing::error!(
                id = header.id,
                operation = header.operation,
                "a request ended {DEATHS} workers on its own: answered with an error"
            );
            self.figures.add(Counter::GivenUp, 1);
            self.finish_unread(id, Status::Error);
        }
        Ok(u32::try_from(deadly.len()).unwrap_or(u32::MAX))
    }

    /// Ends a kept request with a status, whatever it asked for.
    fn finish_unread(&mut self, id: SlotId, status: Status) {
        let header = wire::header(self.abi, &self.kept_slot(id));
        let operation = wire::echoed_operation(header);
        *self.slot(id) = Slot { id: header.id, operation, status, ..Slot::EMPTY };
        self.active += 1;
        self.finished.push(id);
    }

    /// Begins the next one that is to be done alone.
    pub(super) fn replay_next(&mut self) -> Result<(), Stop> {
        if !self.replay.has_next() {
            return Ok(());
        }
        let Some(id) = self.replay.alone.pop_front() else { return Ok(()) };
        self.replay.one = true;
        self.journal.suspect(usize::from(id));
        self.begin_again(id)?;
        self.fetch_tables()
    }

    fn begin_again(&mut self, id: SlotId) -> Result<(), Stop> {
        let bytes = self.kept_slot(id);
        let mut table = vec![0; self.table_len];
        let kept = self.journal.extra(usize::from(id), &mut table);
        let table = table.get(..kept).filter(|t| !t.is_empty());
        self.parse(id, &bytes, table)?;
        self.slot(id).replayed = true;
        Ok(())
    }

    /// One that was done again is answered.
    pub(super) fn replay_answered(&mut self) {
        self.replay.one = false;
        self.replay.owed = self.replay.owed.saturating_sub(1);
        if self.replay.owed == 0 {
            self.journal.caught_up();
        }
    }

    fn kept_slot(&self, id: SlotId) -> wire::Slot {
        let mut bytes: wire::Slot = [0; wire::MAX_SLOT_LEN];
        self.journal.slot(usize::from(id), &mut bytes[..wire::slot_len(self.abi)]);
        bytes
    }
}
