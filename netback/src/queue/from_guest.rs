//! Frames from the guest to the tap, a batch at a time. Knows nothing of the other way.

use std::sync::Arc;
use std::time::Duration;

use worker::clock::monotonic_ns;
use xen_ring::BackRing;
use xenbus::GrantRef;
use xenbus::hv::{Direction as Way, EventChannel, GrantCopy, GrantStatus, GrantTable};

use super::{ARENA_LEN, Direction, Leaving, MAX_COPIES, MAX_FRAMES, PAGE_LEN, Queue, Stop, stamp, until};
use crate::figures::Counter;
use crate::kept::Side;
use crate::offload;
use crate::static_grants::Pages;
use crate::tap::Passed;
use crate::tx::{self, Fragment, Frame, MAX_FRAGMENTS, Message, Parsed};
use crate::vnet::VNET_LEN;
use crate::wire::{self, NR_SLOTS, TX_SLOT_LEN, TxRequest, TxSlot, TxStatus};

impl<G: GrantTable, E: EventChannel> Queue<G, E> {
    /// Takes a batch off the ring and writes it to the tap; true if the guest wants to be told.
    pub(super) fn send(&mut self) -> Result<bool, Stop> {
        if self.from_guest.leaving.is_empty() {
            self.take()?;
            self.gather()?;
            self.copy(Direction::FromGuest)?;
        }
        self.write()?;
        Ok(self.answer_sent())
    }

    /// Copies every slot that is posted out of the ring, once, and keeps it.
    fn take(&mut self) -> Result<(), Stop> {
        let from = &mut self.from_guest;
        // What is parsed is done with: a guest whose credit is always short would have it grow for ever.
        from.taken.drain(..from.parsed);
        from.parsed = 0;
        for _ in 0..from.ring.unconsumed()? {
            let mut slot: TxSlot = [0; TX_SLOT_LEN];
            let index = from.ring.consume(&mut slot);
            self.kept.keep(Side::Tx, index, &slot);
            from.taken.push(slot);
        }
        worker::crash_point!("net_after_take");
        Ok(())
    }

    /// Makes messages of the slots, as far as credit and room go, and has their data copied, or wants it to be.
    fn gather(&mut self) -> Result<(), Stop> {
        self.from_guest.credit_at_ns = None;
        let pages = Arc::clone(&self.pages);
        let pages = pages.hold();
        while self.from_guest.leaving.len() < MAX_FRAMES {
            let from = &mut self.from_guest;
            let rest = from.taken.get(from.parsed..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let parsed = tx::parse(rest)?;
            if let Message::Frame(frame) = &parsed.message {
                if from.copies.len() + MAX_FRAGMENTS > MAX_COPIES || !has_room(from.end, frame) {
                    break;
                }
                let (len, nr_packets) = (usize::from(frame.len), frame.nr_packets());
                let taken = self.shared.caps.take(&self.limits, Way::FromGuest, len, nr_packets, self.now_ns);
                if let Err(at_ns) = taken {
                    from.credit_at_ns = Some(at_ns);
                    self.figures.add(Counter::CreditWaits, 1);
                    break;
                }
            }
            self.book(&parsed, &pages);
        }
        Ok(())
    }

    /// Puts one message into the batch: its answers, and a frame's copies.
    fn book(&mut self, parsed: &Parsed, pages: &Pages<'_, G::Mapping>) {
        self.worked = true;
        let status = match parsed.message {
            Message::Frame(_) => TxStatus::Okay,
            Message::Multicast { add, address } => {
                if self.shared.set_multicast(add, address) {
                    TxStatus::Okay
                } else {
                    TxStatus::Error
                }
            }
            Message::Refused(why) => {
                self.figures.add(Counter::TxRefused, 1);
                self.warn("frame refused", &why);
                TxStatus::Error
            }
        };
        let from = &mut self.from_guest;
        let first_answer = from.answers.len();
        let slots = from.taken.iter().skip(from.parsed).take(parsed.nr_slots);
        from.answers.extend(slots.enumerate().map(|(i, slot)| {
            // An extra info has no id; frontends look at the status alone.
            let is_extra = (1..=parsed.nr_extras).contains(&i);
            if is_extra { (0, TxStatus::Null) } else { (TxRequest::read(slot).id, status) }
        }));
        from.parsed += parsed.nr_slots;
        self.figures.add(Counter::TxSlots, parsed.nr_slots);
        let from = &mut self.from_guest;
        let Message::Frame(frame) = &parsed.message else { return };
        let at = place(from.end, frame);
        let (first_copy, mut local, mut nr_mapped) = (from.copies.len(), at, 0);
        for fragment in frame.fragments().iter().filter(|f| f.len > 0) {
            let copy = GrantCopy {
                gref: GrantRef(fragment.gref),
                offset: fragment.offset,
                len: fragment.len,
                local,
                direction: Way::FromGuest,
                status: GrantStatus::GENERAL_ERROR,
            };
            if pages.copy(&from.memory, &copy) {
                nr_mapped += 1;
            } else {
                from.copies.push(copy);
            }
            local += usize::from(fragment.len);
        }
        self.figures.add(Counter::MappedCopies, nr_mapped);
        from.end = local;
        from.leaving.push(Leaving {
            at,
            len: usize::from(frame.len),
            csum_blank: frame.csum_blank,
            gso: frame.gso,
            answers: (first_answer, from.answers.len()),
            copies: (first_copy, from.copies.len()),
        });
    }

    /// Writes the batch's frames, as far as the tap takes them.
    fn write(&mut self) -> Result<(), Stop> {
        while let Some(frame) = self.from_guest.leaving.get(self.from_guest.written).copied() {
            match self.write_one(frame)? {
                None => {}
                Some(Passed::Blocked) => {
                    self.from_guest.blocked = true;
                    return Ok(());
                }
                Some(Passed::Frame(len)) => {
                    self.figures.add(Counter::TxFrames, 1);
                    self.figures.add(Counter::TxBytes, len);
                }
                Some(Passed::Refused(errno)) => {
                    self.figures.add(Counter::TxTapRefused, 1);
                    self.warn("the tap refused a frame", &errno);
                }
            }
            self.from_guest.written += 1;
            self.worked = true;
        }
        Ok(())
    }

    /// `None` for a frame that is not to be written.
    fn write_one(&mut self, frame: Leaving) -> Result<Option<Passed>, Stop> {
        let from = &mut self.from_guest;
        let copies = from.copies.get(frame.copies.0..frame.copies.1).unwrap_or_default();
        if !copies.iter().all(|c| c.status.is_okay()) {
            let answers = from.answers.get_mut(frame.answers.0..frame.answers.1).unwrap_or_default();
            answers.iter_mut().filter(|(_, s)| *s == TxStatus::Okay).for_each(|(_, s)| *s = TxStatus::Error);
            return Ok(None);
        }
        let Some(bytes) = from.memory.bytes_mut(frame.at, frame.len) else { return Ok(None) };
        if !self.shared.may_send(bytes) {
            self.figures.add(Counter::TxGuarded, 1);
            return Ok(None);
        }
        let finishes = self.shared.finishes_checksums();
        let vnet = match offload::to_tap(bytes, frame.csum_blank, frame.gso) {
            Ok(vnet) if finishes && vnet.gso.is_none() => offload::finished(vnet, bytes),
            Ok(vnet) => vnet,
            Err(why) => {
                self.figures.add(Counter::TxUnfit, 1);
                self.warn("frame has nothing to offload", &why);
                return Ok(None);
            }
        };
        let whole = VNET_LEN + frame.len;
        if !stamp(&mut from.memory, frame.at, vnet) {
            return Ok(None);
        }
        match from.memory.bytes_mut(frame.at - VNET_LEN, whole) {
            Some(bytes) => Ok(Some(self.tap.write(bytes)?)),
            None => Ok(None),
        }
    }

    /// Once the whole batch is written: one answer for each slot, in order.
    fn answer_sent(&mut self) -> bool {
        let from = &mut self.from_guest;
        if from.written < from.leaving.len() || from.answers.is_empty() {
            return false;
        }
        worker::crash_point!("net_before_tx_answers");
        for &(id, status) in &from.answers {
            from.ring.push_response(&wire::tx_response(id, status));
        }
        worker::crash_point!("net_before_tx_publish");
        let notify = from.ring.publish();
        worker::crash_point!("net_after_tx_publish");
        self.kept.answered(Side::Tx, from.ring.next_response());
        from.answers.clear();
        from.leaving.clear();
        from.copies.clear();
        (from.written, from.end) = (0, 0);
        notify
    }

    /// Whether there is something to take, or room for what was taken; else the guest tells us of the next.
    pub(super) fn more_to_send(&mut self) -> Result<bool, Stop> {
        let from = &mut self.from_guest;
        if from.blocked {
            return Ok(false);
        }
        if from.parsed < from.taken.len() {
            return Ok(from.credit_at_ns.is_none_or(|at_ns| at_ns <= monotonic_ns()));
        }
        Ok(from.ring.final_check()?)
    }

    pub(super) fn credit_wait(&self) -> Option<Duration> {
        self.from_guest.credit_at_ns.map(|at_ns| until(at_ns, self.now_ns))
    }
}

impl<M: xen_ring::SharedMemory> super::FromGuest<M> {
    pub(super) fn new(ring: BackRing<M>) -> std::io::Result<Self> {
        Ok(Self {
            ring,
            memory: xenbus::memory::LocalMemory::new(ARENA_LEN)?,
            taken: Vec::with_capacity(2 * NR_SLOTS),
            parsed: 0,
            leaving: Vec::with_capacity(MAX_FRAMES),
            written: 0,
            answers: Vec::with_capacity(2 * NR_SLOTS),
            copies: Vec::with_capacity(MAX_COPIES),
            end: 0,
            credit_at_ns: None,
            blocked: false,
        })
    }

    /// Slots that a predecessor took.
    pub(super) fn take_again(&mut self, slot: TxSlot) {
        self.taken.push(slot);
    }
}

/// Where a frame begins, with room for its header before it: where its pieces lie across the fewest of our pages, for gntdev makes
/// as many copies of each, and the hypervisor looks at as many. Its first piece ends with a page, or its longest lies in its page as it
/// does in the guest's: TCP's data fills pages without a gap and begins anywhere. A frame of one piece stays inside of one page.
fn place(end: usize, frame: &Frame) -> usize {
    let at = end + VNET_LEN;
    let fragments = frame.fragments();
    if let [one] = fragments {
        let len = usize::from(one.len);
        return if at % PAGE_LEN + len > PAGE_LEN { at.next_multiple_of(PAGE_LEN) } else { at };
    }
    let first_len = fragments.first().map_or(0, |first| usize::from(first.len));
    let (mut longest, mut in_its_page, mut before) = (0, at, 0);
    for fragment in fragments {
        if fragment.len > longest {
            (longest, in_its_page) = (fragment.len, usize::from(fragment.offset).wrapping_sub(before));
        }
        before += usize::from(fragment.len);
    }
    let next = |wanted: usize| at + wanted.wrapping_sub(at) % PAGE_LEN;
    let [first, longest] = [next(0_usize.wrapping_sub(first_len)), next(in_its_page)];
    if nr_pages(longest, fragments) < nr_pages(first, fragments) { longest } else { first }
}

/// How many pages the pieces of a frame that begins there lie in, each by itself.
fn nr_pages(at: usize, fragments: &[Fragment]) -> usize {
    let (mut end, mut nr) = (at, 0);
    for len in fragments.iter().map(|f| usize::from(f.len)).filter(|len| *len > 0) {
        nr += (end + len).div_ceil(PAGE_LEN) - end / PAGE_LEN;
        end += len;
    }
    nr
}

fn has_room(end: usize, frame: &Frame) -> bool {
    place(end, frame) + usize::from(frame.len) <= ARENA_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of a frame as (offset, length) in pages of their own: (in how many of our pages all of them together lie, in how many
    /// of the guest's).
    fn pages(end: usize, pieces: &[(u16, u16)]) -> (usize, usize) {
        let whole: u16 = pieces.iter().map(|(_, len)| len).sum();
        let slots: Vec<TxSlot> = pieces
            .iter()
            .enumerate()
            .map(|(i, &(offset, len))| {
                let mut slot = [0; TX_SLOT_LEN];
                slot[4..6].copy_from_slice(&offset.to_le_bytes());
                let more = if i + 1 < pieces.len() { wire::TX_MORE_DATA } else { 0 };
                slot[6..8].copy_from_slice(&more.to_le_bytes());
                slot[10..12].copy_from_slice(&(if i == 0 { whole } else { len }).to_le_bytes());
                slot
            })
            .collect();
        let Message::Frame(frame) = tx::parse(&slots).unwrap().message else { panic!("no frame") };
        let at = place(end, &frame);
        assert!((end + VNET_LEN..end + VNET_LEN + PAGE_LEN).contains(&at));
        (nr_pages(at, frame.fragments()), pieces.len())
    }

    /// gntdev makes a copy of each page of ours that a piece touches. What Linux' TCP posts, whose data begins wherever the
    /// last frame's ended, is one copy a piece.
    #[test]
    fn whole_pages_go_to_whole_pages() {
        for start in [0, 376, 2048, 3720] {
            let mut pieces = vec![(130, 66), (start, 4096 - start)];
            pieces.extend([(0, 4096); 14]);
            pieces.push((0, 1000));
            for end in [0, 1, 5000, 4096 * 3 + 4090] {
                let (ours, guests) = pages(end, &pieces);
                // The header may lie across two.
                assert!(ours <= guests + 1, "{start} {end}: {ours} of {guests}");
            }
        }
        assert_eq!(pages(4000, &[(2050, 90)]), (1, 1));
        assert_eq!(pages(100, &[(0, 66), (64, 3000)]), (2, 2));
        assert_eq!(pages(0, &[(0, 66), (0, 0), (0, 0)]).0, 1);
        assert_eq!(pages(0, &[(100, 20), (200, 2000), (50, 3000)]).0, 4);
    }
}
