//! From the kernel's completions to finished requests: short I/O goes on, reads are copied out, flushes and discards take their
//! next step. Knows nothing of the ring.

use std::sync::atomic::Ordering;

use worker::uring::Disk;
use worker::{crash, crash_point};
use xenbus::hv::{EventChannel, GrantTable};

use super::issue::DISCARD_PIECE_SECTORS;
use super::{Queue, SHORTAGE_PAUSE, Stop};
use crate::discard::DiscardLine;
use crate::figures::Counter;
use crate::request::{Direction, Order};
use crate::rmw::NO_EDGES;
use crate::slot::{ChunkId, SlotId, Step, Tag};
use crate::wire::{SECTOR_LEN, Status};

impl<G: GrantTable, E: EventChannel, D: Disk> Queue<G, E, D> {
    /// Books everything that ended.
    pub(super) fn reap(&mut self) -> Result<(), Stop> {
        let mut completions = std::mem::take(&mut self.completions);
        self.disk.completions(&mut completions);
        for done in completions.drain(..) {
            let tag = Tag::unpack(done.tag);
            match tag {
                Tag::Event => self.book_event()?,
                Tag::Bell => self.bell.hush(),
                Tag::Chunk(id) => self.chunk_ended(id, done.result)?,
                Tag::Edge(id) => self.edge_ended(id, done.result)?,
                Tag::Flush => self.flush_ended(done.result),
                Tag::Discard(id) => self.discard_ended(id, done.result)?,
            }
            match tag {
                Tag::Event | Tag::Bell if !done.more => self.arm(tag)?,
                Tag::Event | Tag::Bell => {}
                _ => self.disk.ended(),
            }
        }
        self.completions = completions;
        while let Some((id, result)) = self.discards.as_mut().and_then(DiscardLine::next_done) {
            self.discard_ended(id, result)?;
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// A block around a chunk's data was read: with the last one, the data can be copied in between.
    fn edge_ended(&mut self, id: ChunkId, result: i32) -> Result<(), Stop> {
        let whole = u32::try_from(result).is_ok_and(|len| len == self.block_len);
        let chunk = self.chunk(id);
        chunk.edges_short |= is_lack(result);
        chunk.failed |= !whole && !is_lack(result);
        chunk.edges_left = chunk.edges_left.saturating_sub(1);
        let run = chunk.run;
        if chunk.edges_left > 0 {
            return Ok(());
        }
        if chunk.failed {
            return self.chunk_done(id, Err(Counter::IoErrors));
        }
        if chunk.edges_short {
            self.put_off(id);
            return Ok(());
        }
        crash_point!("after_edges");
        self.move_data(id, run)
    }

    fn chunk_ended(&mut self, id: ChunkId, result: i32) -> Result<(), Stop> {
        let result = crash::disk_fault("data", result);
        let slot = self.chunk(id).slot;
        self.slot(slot).stages.ended_ns = self.now_ns;
        let block_mask = self.block_len - 1;
        match u32::try_from(result) {
            // The file ends here: it shrank since the request was checked.
            Ok(0) => self.chunk_done(id, Err(Counter::IoErrors)),
            Ok(len) => {
                self.lack.carried_out();
                let chunk = self.chunk(id);
                // What is left has to begin with a whole block.
                let done = chunk.done_bytes.saturating_add(len).min(chunk.len_bytes);
                chunk.done_bytes = done & !block_mask;
                if chunk.done_bytes < chunk.len_bytes {
                    self.send_to_disk(id)
                } else if chunk.direction == Direction::Read {
                    let run = chunk.run;
                    crash_point!("after_read");
                    self.move_data(id, run)
                } else {
                    crash_point!("after_write");
                    self.chunk_done(id, Ok(()))
                }
            }
            // Dom0 short of memory is our shortage: the request waits, the guest never hears of it.
            Err(_) if is_lack(result) => {
                self.put_off(id);
                Ok(())
            }
            Err(_) => {
                self.warn("disk", &std::io::Error::from_raw_os_error(-result));
                self.chunk_done(id, Err(Counter::IoErrors))
            }
        }
    }

    fn put_off(&mut self, id: ChunkId) {
        self.put_off.push(id);
        self.put_off_ns = self.now_ns;
        self.lack.refused(self.now_ns);
    }

    /// Gives what was put off to the disk again, once a shortage had time to pass: at once would only burn the processor.
    pub(super) fn try_again(&mut self) -> Result<(), Stop> {
        if self.put_off.is_empty() {
            return Ok(());
        }
        if u128::from(self.now_ns - self.put_off_ns) < SHORTAGE_PAUSE.as_nanos() {
            self.shortage = true;
            return Ok(());
        }
        let mut again = std::mem::take(&mut self.put_off);
        for id in again.drain(..) {
            let chunk = self.chunk(id);
            let run = chunk.run;
            if std::mem::take(&mut chunk.edges_short) {
                self.read_edges(id, run)?;
            } else {
                self.send_to_disk(id)?;
            }
        }
        self.put_off = again;
        Ok(())
    }

    /// Copies the data of all reads that ended out to the guest: before they are answered.
    pub(super) fn copy_out(&mut self) -> Result<(), Stop> {
        if self.copy_out.ops.is_empty() || !self.copy(Direction::Read)? {
            return Ok(());
        }
        crash_point!("after_copy_out");
        let mut copies = std::mem::take(&mut self.copy_out);
        for (id, okay) in copies.outcomes() {
            self.chunk_done(id, if okay { Ok(()) } else { Err(Counter::GrantErrors) })?;
        }
        copies.clear();
        self.copy_out = copies;
        Ok(())
    }

    /// Nothing is to be done for a chunk any more.
    pub(super) fn chunk_done(&mut self, id: ChunkId, outcome: Result<(), Counter>) -> Result<(), Stop> {
        let chunk = *self.chunk(id);
        self.pool.give(chunk.run);
        self.chunk_left(&chunk);
        if chunk.direction == Direction::Write {
            self.device.note_written(chunk.offset_bytes, chunk.len_bytes.into());
        }
        if chunk.edges != NO_EDGES && self.device.edges.give(chunk.edges) {
            self.device.ring_all();
        }
        self.free_chunks.push(id);
        if let Err(counter) = outcome {
            self.figures.add(counter, 1);
            self.slot(chunk.slot).status = Status::Error;
        }
        let slot = self.slot(chunk.slot);
        slot.chunks_in_flight -= 1;
        // With more to issue it stands among the waiting or those held back, which will see to it.
        let settled = slot.chunks_in_flight == 0 && slot.all_issued();
        if settled && !self.waiting.contains(&chunk.slot) && !self.throttle.holds(chunk.slot) {
            self.data_done(chunk.slot)?;
        }
        Ok(())
    }

    /// All data of a request is where it belongs, or never will be.
    pub(super) fn data_done(&mut self, id: SlotId) -> Result<(), Stop> {
        let slot = *self.slot(id);
        if slot.order == Order::Free || slot.status != Status::Okay {
            self.finish(id);
            return Ok(());
        }
        self.flush(id, Step::FlushAfter);
        Ok(())
    }

    fn flush_ended(&mut self, result: i32) {
        let result = crash::disk_fault("flush", result);
        if result < 0 {
            crash_point!("flush_failed");
            // Answered with an error, blkfront would report success for an empty flush and never flush again. Other queues stop
            // at once: the kernel tells an error of the file once, and their next flush would succeed.
            self.device.frozen.store(true, Ordering::Release);
            let error = std::io::Error::from_raw_os_error(-result);
            self.failure.get_or_insert(Stop::Host(format!("flush failed: {error}")));
            return;
        }
        self.flush_left();
        self.flushes.ended_well();
        if self.flushes.is_awaited() {
            self.device.ring_all();
        }
    }

    /// Goes on with requests whose flush is certain to have been one.
    pub(super) fn end_flushes(&mut self) {
        while let Some(id) = self.flushes.next_certain() {
            crash_point!("after_flush");
            self.slot(id).stages.ended_ns = self.now_ns;
            if self.slot(id).step == Step::FlushBefore {
                self.slot(id).step = Step::Data;
                self.waiting.push_front(id);
            } else {
                self.finish(id);
            }
        }
    }

    fn discard_ended(&mut self, id: SlotId, result: i32) -> Result<(), Stop> {
        let result = crash::disk_fault("discard", result);
        self.slot(id).stages.ended_ns = self.now_ns;
        let end = self.slot(id).sector;
        let start = end.saturating_sub(DISCARD_PIECE_SECTORS);
        self.device.note_written(start * SECTOR_LEN, (end - start) * SECTOR_LEN);
        if result < 0 {
            self.warn("discard", &std::io::Error::from_raw_os_error(-result));
            self.figures.add(Counter::IoErrors, 1);
            // EOPNOTSUPP would make blkfront give up discard for good.
            self.slot(id).status = Status::Error;
        } else if self.next_discard_piece(id)? {
            return Ok(());
        }
        self.discard_over(id);
        Ok(())
    }

    /// Nothing is left of a discard.
    pub(super) fn discard_over(&mut self, id: SlotId) {
        self.discard_left(id);
        self.finish(id);
    }

    pub(super) fn finish(&mut self, id: SlotId) {
        self.finished.push(id);
    }
}

/// The kernel is short of something, which passes.
fn is_lack(result: i32) -> bool {
    matches!(-result, libc::EAGAIN | libc::EINTR | libc::ENOMEM)
}
