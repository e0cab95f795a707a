//! From the ring into the in-flight table: consume, keep in the journal, parse, fetch indirect tables. Knows nothing of buffers
//! or of the disk.

use worker::crash_point;
use worker::uring::Disk;
use xen_ring::PAGE_LEN;
use xenbus::GrantRef;
use xenbus::hv::{Direction as CopyDirection, EventChannel, GrantCopy, GrantStatus, GrantTable};

use super::{Queue, Stop};
use crate::figures::{Counter, Stages};
use crate::request::{self, Action, Direction, Order, Reject, Request};
use crate::slot::{Slot, SlotId, Step, Work};
use crate::wire::{self, SEGMENT_LEN, SEGMENTS_PER_PAGE, Segment, Status};

impl<G: GrantTable, E: EventChannel, D: Disk> Queue<G, E, D> {
    /// Takes what the ring holds, one ring's worth at most.
    pub(super) fn take(&mut self) -> Result<u32, Stop> {
        let waiting = self.ring.unconsumed()?;
        for _ in 0..waiting {
            // As many entries as slots, and unconsumed() never counts more than the slots that are not owed.
            let Some(id) = self.free_slots.pop() else { break };
            let mut bytes: wire::Slot = [0; wire::MAX_SLOT_LEN];
            let len = wire::slot_len(self.abi);
            let index = self.ring.consume(&mut bytes[..len]);
            crash_point!("after_copy");
            self.journal.take(usize::from(id), index, &bytes[..len]);
            crash_point!("after_taken");
            self.parse(id, &bytes, None)?;
        }
        if waiting > 0 {
            self.fetch_tables()?;
            self.figures.set(Counter::InFlight, self.owed() as u64);
        }
        Ok(waiting)
    }

    /// Parses a kept slot; `table` is what a predecessor kept of an indirect request's segments.
    pub(super) fn parse(&mut self, id: SlotId, bytes: &wire::Slot, table: Option<&[u8]>) -> Result<(), Stop> {
        let at = usize::from(id) * self.segments_per_slot;
        let segments = &mut self.segments[at..at + self.segments_per_slot];
        match request::parse(self.abi, bytes, &self.limits, segments) {
            Ok(request) => self.accept(id, request, table),
            Err(reject) => {
                self.refuse(id, reject);
                Ok(())
            }
        }
    }

    fn refuse(&mut self, id: SlotId, reject: Reject) {
        let stages = Stages { taken_ns: self.now_ns, ..Stages::NONE };
        *self.slot(id) =
            Slot { id: reject.id, operation: reject.operation, status: reject.status, stages, ..Slot::EMPTY };
        self.figures.add(Counter::Rejected, 1);
        self.warn("request refused", &reject.why);
        self.active += 1;
        self.finished.push(id);
    }

    fn accept(&mut self, id: SlotId, request: Request, table: Option<&[u8]>) -> Result<(), Stop> {
        let stages = Stages { taken_ns: self.now_ns, ..Stages::NONE };
        let mut slot = Slot { id: request.id, operation: request.operation, stages, ..Slot::EMPTY };
        let mut fetch = None;
        match request.action {
            Action::Transfer { direction, order, sector, nr_segments } => {
                slot.work = Work::Data(direction);
                (slot.order, slot.sector, slot.nr_segments) = (order, sector, nr_segments);
            }
            Action::Indirect { direction, sector, nr_segments, grefs } => {
                slot.work = Work::Data(direction);
                (slot.sector, slot.nr_segments) = (sector, nr_segments);
                fetch = Some((direction, grefs));
            }
            Action::Flush { order } => (slot.work, slot.order) = (Work::Flush, order),
            Action::Discard { sector, nr_sectors, secure } => {
                slot.work = Work::Discard { secure };
                (slot.sector, slot.nr_sectors) = (sector, nr_sectors);
            }
        }
        *self.slot(id) = slot;
        if slot.order == Order::Barrier {
            self.barriers += 1;
            // Indirect requests before it must stand before it among those that wait, too.
            self.fetch_tables()?;
        }
        match (fetch, table) {
            (None, _) => self.admit(id),
            (Some((direction, _)), Some(table)) => self.read_table(id, direction, table),
            (Some((_, grefs)), None) => self.want_table(id, &grefs),
        }
        Ok(())
    }

    fn want_table(&mut self, id: SlotId, grefs: &[GrantRef]) {
        let mut left = usize::from(self.slot(id).nr_segments);
        let mut local = usize::from(id) * self.table_len;
        for &gref in grefs {
            if left == 0 {
                break;
            }
            let here = left.min(SEGMENTS_PER_PAGE);
            left -= here;
            self.fetch_ops.push(GrantCopy {
                gref,
                offset: 0,
                #[allow(clippy::cast_possible_truncation)] // at most a page
                len: (here * SEGMENT_LEN) as u16,
                local,
                direction: CopyDirection::FromGuest,
                status: GrantStatus::GENERAL_ERROR,
            });
            local += PAGE_LEN;
        }
        self.fetching.push(id);
    }

    /// Copies the tables of all indirect requests of this turn: once, before they are looked at (XSA-155).
    pub(super) fn fetch_tables(&mut self) -> Result<(), Stop> {
        if self.fetching.is_empty() {
            return Ok(());
        }
        let mut tries = 0;
        while let Err(e) = self.grants.copy(&self.tables, &mut self.fetch_ops) {
            tries += 1;
            if tries > 1000 {
                return Err(Stop::Host(format!("grant copy: {e}")));
            }
            std::thread::sleep(super::SHORTAGE_PAUSE);
        }
        let mut fetching = std::mem::take(&mut self.fetching);
        let mut ops = std::mem::take(&mut self.fetch_ops);
        let mut statuses = ops.iter().map(|op| op.status);
        for id in fetching.drain(..) {
            let nr_segments = usize::from(self.slot(id).nr_segments);
            let pages = nr_segments.div_ceil(SEGMENTS_PER_PAGE);
            // Every page's status is looked at, also after a bad one.
            let okay = statuses.by_ref().take(pages).fold(true, |okay, status| okay & status.is_okay());
            if okay {
                self.read_copied_table(id, nr_segments);
            } else {
                self.fail(id, Counter::GrantErrors, "indirect page");
            }
        }
        ops.clear();
        (self.fetching, self.fetch_ops) = (fetching, ops);
        Ok(())
    }

    fn read_copied_table(&mut self, id: SlotId, nr_segments: usize) {
        let mut page = [0; PAGE_LEN];
        let len = (nr_segments * SEGMENT_LEN).min(PAGE_LEN);
        let Some(table) = page.get_mut(..len) else { return };
        // The most that is ever offered is one page of segments.
        if nr_segments > SEGMENTS_PER_PAGE || !self.tables.read(usize::from(id) * self.table_len, table) {
            return self.fail(id, Counter::Rejected, "indirect table");
        }
        self.journal.keep_extra(usize::from(id), table);
        crash_point!("after_segments");
        if let Work::Data(direction) = self.slot(id).work {
            self.read_table(id, direction, table);
        }
    }

    fn read_table(&mut self, id: SlotId, direction: Direction, table: &[u8]) {
        let nr_segments = usize::from(self.slot(id).nr_segments);
        let at = usize::from(id) * self.segments_per_slot;
        let segments = &mut self.segments[at..at + nr_segments.min(self.segments_per_slot)];
        let mut decoded = 0;
        for (out, bytes) in segments.iter_mut().zip(table.as_chunks::<SEGMENT_LEN>().0) {
            *out = Segment::decode(*bytes);
            decoded += 1;
        }
        let sector = self.slots[usize::from(id)].sector;
        let why = if decoded < nr_segments {
            Err(request::Why::SegmentCount(self.slots[usize::from(id)].nr_segments))
        } else {
            self.limits.check_segments(direction, sector, segments)
        };
        match why {
            Ok(()) => self.admit(id),
            Err(why) => {
                self.warn("request refused", &why);
                self.fail(id, Counter::Rejected, "indirect segment");
            }
        }
    }

    /// Ends a request that was not begun.
    fn fail(&mut self, id: SlotId, counter: Counter, what: &'static str) {
        self.figures.add(counter, 1);
        self.warn("request failed", &what);
        self.slot(id).status = Status::Error;
        self.active += 1;
        self.finished.push(id);
    }

    /// Gives a request that passed every check to the next stage.
    fn admit(&mut self, id: SlotId) {
        let data = matches!(self.slot(id).work, Work::Data(_));
        if data {
            let nr_segments = usize::from(self.slot(id).nr_segments);
            let len: u32 = self.segments_of(id).iter().take(nr_segments).map(|s| s.len_bytes()).sum();
            self.slot(id).len_bytes = len;
        }
        debug_assert_eq!(self.slot(id).step, Step::Begin);
        self.waiting.push_back(id);
    }
}
