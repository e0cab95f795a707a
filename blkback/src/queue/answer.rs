//! From finished requests to the frontend: staged in the journal, written to the ring, published together, notified once.
//! Knows nothing of what was done.

use worker::crash_point;
use worker::uring::Disk;
use xenbus::hv::{EventChannel, GrantTable};

use super::{Queue, Stop};
use crate::figures::Counter;
use crate::request::Order;
use crate::slot::{Slot, SlotId};
use crate::wire;

impl<G: GrantTable, E: EventChannel, D: Disk> Queue<G, E, D> {
    /// Answers everything that is finished.
    pub(super) fn answer(&mut self) -> Result<(), Stop> {
        if self.finished.is_empty() {
            return Ok(());
        }
        let mut finished = std::mem::take(&mut self.finished);
        let mut rsp_index = self.ring.next_response();
        for &id in &finished {
            let status = i32::from(self.slot(id).status.code());
            self.journal.stage(usize::from(id), rsp_index, status);
            rsp_index = rsp_index.wrapping_add(1);
        }
        crash_point!("after_staged");
        self.journal.intend(rsp_index);
        for &id in &finished {
            let slot = self.slot(id);
            let response = wire::response(slot.id, slot.operation, slot.status);
            self.ring.push_response(&response);
        }
        crash_point!("before_publish");
        let notify = self.ring.publish();
        crash_point!("after_publish");
        self.journal.published(rsp_index);
        for id in finished.drain(..) {
            self.journal.free(usize::from(id));
            self.release(id);
        }
        self.finished = finished;
        self.figures.set(Counter::InFlight, self.owed() as u64);
        crash_point!("before_notify");
        if notify {
            self.notify()?;
        }
        Ok(())
    }

    pub(super) fn notify(&mut self) -> Result<(), Stop> {
        self.figures.add(Counter::Notifies, 1);
        // A guest that closed its port loses its events, nothing else.
        if let Err(e) = self.events.notify() {
            self.warn("notify", &e);
        }
        Ok(())
    }

    fn release(&mut self, id: SlotId) {
        let slot: Slot = *self.slot(id);
        let len_bytes = u64::from(slot.len_bytes);
        self.figures.answered(slot.work, len_bytes, slot.stages, self.now_ns);
        if slot.order == Order::Barrier {
            self.barriers -= 1;
            self.barrier = None;
        }
        self.active -= 1;
        self.free_slots.push(id);
        if slot.replayed {
            self.replay_answered();
        }
    }
}
