//! From the in-flight table to the disk: in order, as far as buffers go. A request is one chunk or several; each has a buffer of
//! its own and is one disk operation. Knows nothing of how requests came or how they are answered.

use worker::uring::{Disk, Rw};
use worker::{crash, crash_point};
use xenbus::hv::{Direction as CopyDirection, EventChannel, GrantCopy, GrantStatus, GrantTable};

use super::{Queue, Stop, TARGET};
use crate::figures::Counter;
use crate::pool::Run;
use crate::request::{Direction, Order};
use crate::rmw::{self, NO_EDGES};
use crate::slot::{Chunk, ChunkId, SlotId, Step, Tag, Work};
use crate::wire::SECTOR_LEN;

#[allow(clippy::cast_possible_truncation)]
const XEN_PAGE_LEN: u32 = xen_ring::PAGE_LEN as u32;

/// A discard is given to the disk in pieces of this size, so that none holds the file for long.
pub(super) const DISCARD_PIECE_SECTORS: u64 = (256 << 20) / SECTOR_LEN;

/// What became of the request at the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Issued {
    /// All of it is with the kernel.
    Wholly,
    /// It has to wait, and so have those behind it.
    Not,
    /// A limit holds it back; others may pass.
    Held,
}

impl<G: GrantTable, E: EventChannel, D: Disk> Queue<G, E, D> {
    /// Begins what can be begun.
    pub(super) fn issue(&mut self) -> Result<(), Stop> {
        self.look_at_limits();
        self.issue_parked()?;
        while let Some(&id) = self.waiting.front() {
            if self.barriers == 0 && self.is_behind_parked(id) {
                self.waiting.pop_front();
                self.park(id);
                continue;
            }
            if self.barrier.is_some_and(|barrier| barrier != id) {
                break;
            }
            match self.advance(id)? {
                Issued::Wholly => _ = self.waiting.pop_front(),
                Issued::Held if self.barriers == 0 => {
                    self.waiting.pop_front();
                    self.park(id);
                }
                Issued::Held | Issued::Not => break,
            }
        }
        self.pass_flushes()?;
        self.copy_in()?;
        self.send_flush()?;
        self.tell_whether_it_waits();
        Ok(())
    }

    /// A flush covers what was completed before it; it need not wait for requests that wait for buffers.
    fn pass_flushes(&mut self) -> Result<(), Stop> {
        if self.barriers > 0 || self.waiting.is_empty() {
            return Ok(());
        }
        let mut i = 0;
        while let Some(&id) = self.waiting.get(i) {
            if self.slot(id).work == Work::Flush {
                self.waiting.remove(i);
                if self.advance(id)? == Issued::Held {
                    self.park(id);
                }
            } else {
                i += 1;
            }
        }
        Ok(())
    }

    pub(super) fn advance(&mut self, id: SlotId) -> Result<Issued, Stop> {
        let slot = *self.slot(id);
        if slot.step == Step::Begin {
            if slot.order == Order::Barrier && (self.active > 0 || !self.throttle.is_empty()) {
                return Ok(Issued::Not);
            }
            if !self.may_begin(id) {
                return Ok(Issued::Held);
            }
            if slot.order == Order::Barrier {
                self.barrier = Some(id);
            }
            self.active += 1;
            crash::sector(slot.sector);
            self.slot(id).stages.begun_ns = self.now_ns;
            match slot.work {
                Work::Nothing => self.finish(id),
                Work::Flush => return Ok(self.flush(id, Step::FlushAfter)),
                Work::Discard { .. } => self.slot(id).step = Step::Discard,
                Work::Data(_) if slot.order == Order::Flush => return Ok(self.flush(id, Step::FlushBefore)),
                Work::Data(_) => self.slot(id).step = Step::Data,
            }
        }
        if self.slot(id).step == Step::Discard {
            return self.discard(id);
        }
        while !self.slot(id).all_issued() {
            match self.issue_chunk(id)? {
                Issued::Wholly => {}
                not => return Ok(not),
            }
        }
        let slot = self.slot(id);
        if slot.chunks_in_flight == 0 && slot.step == Step::Data {
            // Nothing of it is with the kernel and nothing will be: an error while it waited for more buffers.
            self.data_done(id)?;
        }
        Ok(Issued::Wholly)
    }

    /// Has what was completed so far made safe, together with whoever else asks for that.
    pub(super) fn flush(&mut self, id: SlotId, step: Step) -> Issued {
        self.slot(id).step = step;
        self.flushes.join(id);
        Issued::Wholly
    }

    /// Gives the kernel the next flush, if one is asked for, none is under way and the disk's share has room.
    fn send_flush(&mut self) -> Result<(), Stop> {
        let Some(first) = self.flushes.due() else { return Ok(()) };
        let taken_ns = self.slot(first).stages.taken_ns;
        if !self.may_flush(taken_ns) {
            return Ok(());
        }
        for id in self.flushes.begin() {
            let sent_ns = &mut self.slots[usize::from(*id)].stages.sent_ns;
            if *sent_ns == 0 {
                *sent_ns = self.now_ns;
            }
        }
        Ok(self.disk.fdatasync(TARGET, Tag::Flush.pack())?)
    }

    fn discard(&mut self, id: SlotId) -> Result<Issued, Stop> {
        if !self.may_discard(id) {
            return Ok(Issued::Held);
        }
        self.slot(id).stages.sent_ns = self.now_ns;
        if !self.next_discard_piece(id)? {
            self.discard_over(id);
        }
        Ok(Issued::Wholly)
    }

    /// Gives the next piece of a discard to the disk; false if there is none.
    pub(super) fn next_discard_piece(&mut self, id: SlotId) -> Result<bool, Stop> {
        let slot = self.slot(id);
        let piece = slot.nr_sectors.min(DISCARD_PIECE_SECTORS);
        if piece == 0 {
            return Ok(false);
        }
        // A device takes whole blocks only; what is left over at the ends is simply kept.
        let block = if self.discards.is_some() { u64::from(self.block_len) / SECTOR_LEN } else { 1 };
        let slot = self.slot(id);
        let at = slot.sector.next_multiple_of(block);
        let end = (slot.sector + piece) / block * block;
        slot.sector += piece;
        slot.nr_sectors -= piece;
        if at >= end {
            return self.next_discard_piece(id);
        }
        let piece = end - at;
        let slot = self.slot(id);
        let secure = slot.work == Work::Discard { secure: true };
        match &mut self.discards {
            Some(line) => line.send(id, secure, at, piece)?,
            None => {
                let tag = Tag::Discard(id).pack();
                self.disk.punch_hole(TARGET, at * SECTOR_LEN, piece * SECTOR_LEN, tag)?;
            }
        }
        Ok(true)
    }

    /// Cuts the next chunk off a request and prepares it, if there is a buffer for it and the disk's share has room.
    fn issue_chunk(&mut self, id: SlotId) -> Result<Issued, Stop> {
        let slot = *self.slot(id);
        let Work::Data(direction) = slot.work else { return Ok(Issued::Wholly) };
        let first = usize::from(slot.next_segment);
        let last = usize::from(slot.nr_segments)
            .min(first + self.throttle.most_pages(self.most_pages_per_chunk) as usize);
        let segments = self.segments_of(id).get(first..last).unwrap_or_default();
        let len: u32 = segments.iter().map(|s| s.len_bytes()).sum();
        let Some(&chunk_id) = self.free_chunks.last() else { return self.short_of_buffers() };
        let span = rmw::span(slot.sector * SECTOR_LEN, len, self.block_len);
        let Some(run) = self.pool.take(span.len.div_ceil(XEN_PAGE_LEN)) else {
            return self.short_of_buffers();
        };
        let edges = if direction == Direction::Write { span.edges } else { NO_EDGES };
        if edges != NO_EDGES && !self.device.edges.take(edges) {
            self.pool.give(run);
            self.edge_wait = true;
            return Ok(Issued::Not);
        }
        let Some(cost_ns) = self.may_issue(slot.stages.taken_ns, direction, span.offset, span.len) else {
            self.pool.give(run);
            if edges != NO_EDGES && self.device.edges.give(edges) {
                self.device.ring_all();
            }
            return Ok(Issued::Held);
        };
        self.free_chunks.pop();
        #[allow(clippy::cast_possible_truncation)] // bounded by nr_segments
        let nr_segments = (last - first) as u16;
        *self.chunk(chunk_id) = Chunk {
            slot: id,
            direction,
            first_segment: slot.next_segment,
            nr_segments,
            run,
            offset_bytes: span.offset,
            len_bytes: span.len,
            done_bytes: 0,
            head_bytes: span.head,
            edges,
            edges_left: 0,
            edges_short: false,
            failed: false,
            cost_ns,
            begun_ns: self.now_ns,
        };
        self.chunk_begun(chunk_id);
        let slot = self.slot(id);
        slot.next_segment += nr_segments;
        slot.sector += u64::from(len) / SECTOR_LEN;
        slot.chunks_in_flight += 1;
        match direction {
            Direction::Write if edges != NO_EDGES => self.read_edges(chunk_id, run)?,
            Direction::Write => self.move_data(chunk_id, run)?,
            Direction::Read => self.send_to_disk(chunk_id)?,
        }
        Ok(Issued::Wholly)
    }

    /// Reads the blocks that the guest's data covers in part, to where they stand around it.
    pub(super) fn read_edges(&mut self, id: ChunkId, run: Run) -> Result<(), Stop> {
        let chunk = *self.chunk(id);
        for edge in chunk.edges.into_iter().flatten() {
            let within = usize::try_from(edge - chunk.offset_bytes).unwrap_or(0);
            let tag = Tag::Edge(id).pack();
            self.disk.transfer(Rw::Read, TARGET, edge, run.offset() + within, self.block_len, tag)?;
            self.chunk(id).edges_left += 1;
        }
        Ok(())
    }

    fn short_of_buffers(&mut self) -> Result<Issued, Stop> {
        self.figures.add(Counter::BufferWaits, 1);
        Ok(Issued::Not)
    }

    /// Moves a chunk's data between its buffer and the guest: at once through mapped pages, else by grant copies, which are booked
    /// here and done once a turn.
    pub(super) fn move_data(&mut self, id: ChunkId, run: Run) -> Result<(), Stop> {
        if !self.move_mapped(id, run) {
            self.want_copy(id, run);
            return Ok(());
        }
        match self.chunk(id).direction {
            Direction::Write => {
                crash_point!("after_copy_in");
                self.send_to_disk(id)
            }
            Direction::Read => {
                crash_point!("after_copy_out");
                self.chunk_done(id, Ok(()))
            }
        }
    }

    fn want_copy(&mut self, id: ChunkId, run: Run) {
        let chunk = *self.chunk(id);
        let (copies, direction) = match chunk.direction {
            Direction::Read => (&mut self.copy_out, CopyDirection::ToGuest),
            Direction::Write => (&mut self.copy_in, CopyDirection::FromGuest),
        };
        let at = usize::from(chunk.slot) * self.segments_per_slot + usize::from(chunk.first_segment);
        let segments = self.segments.get(at..at + usize::from(chunk.nr_segments)).unwrap_or_default();
        let mut local = run.offset() + chunk.head_bytes as usize;
        for segment in segments {
            let len = u16::from(segment.len_sectors()) * 512;
            copies.ops.push(GrantCopy {
                gref: segment.gref,
                offset: u16::from(segment.first) * 512,
                len,
                local,
                direction,
                status: GrantStatus::GENERAL_ERROR,
            });
            copies.owners.push(id);
            local += usize::from(len);
        }
    }

    /// Copies the data of all writes of this turn in, and gives them to the disk.
    fn copy_in(&mut self) -> Result<(), Stop> {
        if self.copy_in.ops.is_empty() || !self.copy(Direction::Write)? {
            return Ok(());
        }
        crash_point!("after_copy_in");
        let mut copies = std::mem::take(&mut self.copy_in);
        for (id, okay) in copies.outcomes() {
            if okay {
                self.send_to_disk(id)?;
            } else {
                self.chunk_done(id, Err(Counter::GrantErrors))?;
            }
        }
        copies.clear();
        self.copy_in = copies;
        Ok(())
    }

    /// Does the copies of one direction; false if a shortage of ours puts them off.
    pub(super) fn copy(&mut self, direction: Direction) -> Result<bool, Stop> {
        let Some(memory) = self.disk.memory() else { return Err(Stop::Host("no buffers".into())) };
        let copies = match direction {
            Direction::Read => &mut self.copy_out,
            Direction::Write => &mut self.copy_in,
        };
        match self.grants.copy(memory, &mut copies.ops) {
            Ok(()) => {
                // What comes after was not there before, for who asks where time goes.
                self.look_at_clock();
                Ok(true)
            }
            Err(e) if is_shortage(&e) => {
                self.shortage = true;
                Ok(false)
            }
            Err(e) => Err(Stop::Host(format!("grant copy: {e}"))),
        }
    }

    /// Gives a chunk, or what is left of it, to the disk.
    pub(super) fn send_to_disk(&mut self, id: ChunkId) -> Result<(), Stop> {
        let chunk = *self.chunk(id);
        let rw = match chunk.direction {
            Direction::Read => Rw::Read,
            Direction::Write => Rw::Write,
        };
        crash_point!("before_disk");
        let now_ns = self.now_ns;
        let stages = &mut self.slot(chunk.slot).stages;
        if stages.sent_ns == 0 {
            stages.sent_ns = now_ns;
        }
        let local = chunk.run.offset() + chunk.done_bytes as usize;
        let offset = chunk.offset_bytes + u64::from(chunk.done_bytes);
        let len = chunk.len_bytes - chunk.done_bytes;
        Ok(self.disk.transfer(rw, TARGET, offset, local, len, Tag::Chunk(id).pack())?)
    }
}

/// Something we ran out of, which passes.
fn is_shortage(e: &std::io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN | libc::EINTR | libc::EBUSY))
}

impl super::Copies {
    pub(super) fn with_room(ops: usize) -> Self {
        Self { ops: Vec::with_capacity(ops), owners: Vec::with_capacity(ops) }
    }

    /// For each chunk, whether all its copies succeeded: every status is looked at (XSA-361 and its kin).
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (ChunkId, bool)> {
        let mut i = 0;
        std::iter::from_fn(move || {
            let owner = *self.owners.get(i)?;
            let mut okay = true;
            while self.owners.get(i) == Some(&owner) {
                okay &= self.ops.get(i).is_some_and(|op| op.status.is_okay());
                i += 1;
            }
            Some((owner, okay))
        })
    }

    pub(super) fn clear(&mut self) {
        self.ops.clear();
        self.owners.clear();
    }
}

impl Default for super::Copies {
    fn default() -> Self {
        Self::with_room(0)
    }
}

#[cfg(test)]
mod tests {
    use xenbus::GrantRef;

    use super::*;

    /// B24 (XSA-361 and its kin): a chunk is whole only if each of its copies was made, whichever one was not; its neighbours are not
    /// concerned.
    #[test]
    fn every_copy_of_a_chunk_counts() {
        for bad in 0..6 {
            let mut copies = super::super::Copies::with_room(6);
            for (i, owner) in [7, 7, 7, 8, 9, 9].into_iter().enumerate() {
                copies.ops.push(GrantCopy {
                    gref: GrantRef(1),
                    offset: 0,
                    len: 512,
                    local: 0,
                    direction: CopyDirection::FromGuest,
                    status: if i == bad { GrantStatus(-3) } else { GrantStatus::OKAY },
                });
                copies.owners.push(owner);
            }
            let found: Vec<_> = copies.outcomes().collect();
            assert_eq!(found, [(7, bad > 2), (8, bad != 3), (9, bad < 4)], "{bad}");
        }
    }
}
