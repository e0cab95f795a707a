//! Frames from the tap to the guest, a batch at a time. Never more is held than the arena; what waits for slots for long is dropped
//! (XSA-392, XSA-424), and a guest without slots for very long has its link taken down. While a cap is used up the tap is not read:
//! what waits, waits there, and what the tap has no room for it drops. Knows nothing of the other way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use xen_ring::BackRing;
use xenbus::GrantRef;
use xenbus::hv::{Direction as Way, EventChannel, GrantCopy, GrantStatus, GrantTable};

use super::{
    AGE_LOOK, ARENA_LEN, Cutting, Direction, Held, MAX_COPIES, MAX_FRAMES, PAGE_LEN, Queue, RX_POLL, Stop,
    ToGuest, until,
};
use crate::backlog::Backlog;
use crate::figures::Counter;
use crate::hash;
use crate::kept::Side;
use crate::offload::{self, Marks};
use crate::rx::{Piece, Plan};
use crate::static_grants::Pages;
use crate::tap::Passed;
use crate::vnet::{VNET_LEN, Vnet};
use crate::wire::{Gso, NR_SLOTS, RX_SLOT_LEN, RxRequest, RxSlot};

/// The longest frame that a tap gives: 65,535 bytes and a VLAN tag.
const LONGEST_LEN: usize = 17 * PAGE_LEN;
/// Uncut TCP counts as packets with so much payload at least, the least that TCP is told to use: or whoever says that a frame is
/// segments of one byte would use up another guest's packets with it.
const LEAST_SEGMENT_LEN: u16 = 536;
/// A frame that has waited so long for slots is of no use to anybody.
const TOO_LATE_NS: u64 = 10_000_000_000;
/// A guest without slots for so long does not work.
const STALL_NS: u64 = 60_000_000_000;

impl<G: GrantTable, E: EventChannel> Queue<G, E> {
    /// Reads a batch from the tap and gives it to the guest; true if the guest wants to be told.
    pub(super) fn receive(&mut self) -> Result<bool, Stop> {
        self.drop_late();
        self.fill()?;
        self.hand_out()?;
        self.copy(Direction::ToGuest)?;
        self.look_for_stall()?;
        let notify = self.answer_received();
        self.reclaim();
        Ok(notify)
    }

    /// Whether the tap is to be read at all.
    pub(super) fn wants_frames(&self) -> bool {
        let to = &self.to_guest;
        let is_capped = to.capped_until_ns.is_some();
        to.short == 0 && to.cutting.is_none() && !is_capped && to.end + LONGEST_LEN <= ARENA_LEN
    }

    /// Whether the guest's caps let another frame in now.
    fn may_receive(&mut self) -> Result<bool, Stop> {
        let at_ns = self.shared.caps.ready_at_ns(&self.limits, Way::ToGuest);
        if at_ns <= self.now_ns {
            return Ok(true);
        }
        self.to_guest.capped_until_ns = Some(at_ns);
        self.figures.add(Counter::RxCapWaits, 1);
        if self.tap.has_frame()? {
            self.to_guest.backlog.stands(self.now_ns, at_ns - self.now_ns);
        } else {
            self.to_guest.backlog.emptied();
        }
        Ok(false)
    }

    pub(super) fn cap_wait(&self) -> Option<Duration> {
        self.to_guest.capped_until_ns.map(|at_ns| until(at_ns, self.now_ns))
    }

    /// With nothing held the arena is free, but for a frame that is being cut.
    fn reclaim(&mut self) {
        let to = &mut self.to_guest;
        if to.held.is_empty() {
            to.end = to.cutting.as_ref().map_or(0, |cut| (cut.at + cut.len).next_multiple_of(PAGE_LEN));
        }
    }

    fn fill(&mut self) -> Result<(), Stop> {
        self.to_guest.capped_until_ns = None;
        while self.to_guest.held.len() < MAX_FRAMES {
            if self.cut_one() {
                continue;
            }
            if !self.wants_frames() || self.to_guest.drained || !self.may_receive()? {
                break;
            }
            let to = &mut self.to_guest;
            let at = to.end;
            let Some(room) = to.memory.bytes_mut(at, LONGEST_LEN) else { break };
            let mut header = [0; VNET_LEN];
            match self.tap.read(&mut header, room)? {
                Passed::Frame(_) if to.backlog.is_over(self.now_ns) => {
                    self.figures.add(Counter::RxBacklog, 1)
                }
                Passed::Frame(len) => self.admit(header, at, len),
                Passed::Blocked => {
                    to.drained = true;
                    to.backlog.emptied();
                }
                // The tap is down, which passes.
                Passed::Refused(_) => {
                    to.drained = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Makes a frame that was read fit for the guest.
    fn admit(&mut self, header: [u8; VNET_LEN], at: usize, len: usize) {
        let headroom = self.shared.xdp_headroom();
        let to = &mut self.to_guest;
        let Some(frame) = to.memory.bytes_mut(at, len) else { return };
        if !self.shared.wants(frame) {
            self.figures.add(Counter::RxFiltered, 1);
            return;
        }
        let mut features = self.features;
        if headroom > 0 {
            // An XDP program takes frames of one page.
            (features.sg, features.gso_tcpv4, features.gso_tcpv6) = (false, false, false);
        }
        let hash = hash::of_frame(self.shared.words(), frame);
        let vnet = Vnet::read(&header).ok();
        let nr_packets = vnet
            .and_then(|vnet| vnet.gso)
            .map_or(1, |gso| Gso { size: gso.size.max(LEAST_SEGMENT_LEN), ..gso }.nr_packets(len));
        let fit = vnet.map(|v| (v, offload::to_guest(v, frame, &features, Plan::first_slot_len(headroom))));
        if matches!(fit, Some((_, Ok(_)))) {
            self.shared.caps.charge(&self.limits, Way::ToGuest, len, nr_packets, self.now_ns);
        }
        match fit {
            Some((vnet, Ok(offload::ToGuest::Whole(marks)))) => {
                if vnet.partial.is_some() && !marks.csum_blank {
                    self.figures.add(Counter::RxFinished, 1);
                }
                self.hold(at, len, Marks { hash, ..marks });
            }
            Some((_, Ok(offload::ToGuest::Segments(segments)))) => {
                self.figures.add(Counter::RxCut, 1);
                let to = &mut self.to_guest;
                to.cutting = Some(Cutting { segments, at, len, hash });
                to.end = (at + len).next_multiple_of(PAGE_LEN);
            }
            Some((_, Err(why))) => {
                self.figures.add(Counter::RxUnfit, 1);
                self.warn("frame from the tap does not fit the guest", &why);
            }
            None => {
                self.figures.add(Counter::RxUnfit, 1);
                self.warn("frame from the tap with an offload that was not offered", &header);
            }
        }
    }

    fn hold(&mut self, at: usize, len: usize, marks: Marks) {
        let to = &mut self.to_guest;
        to.held.push_back(Held { at, len, marks, since_ns: self.now_ns });
        to.end = (at + len).next_multiple_of(PAGE_LEN);
    }

    /// Writes the next segment of the frame that is being cut; false if there is none, or no room.
    fn cut_one(&mut self) -> bool {
        let to = &mut self.to_guest;
        let Some(Cutting { segments, at: from, len, hash }) = &mut to.cutting else { return false };
        let (from, len, hash, at) = (*from, *len, *hash, to.end);
        if at + segments.longest() > ARENA_LEN {
            return false;
        }
        let Some(all) = to.memory.bytes_mut(0, ARENA_LEN) else { return false };
        let Some((before, behind)) = all.split_at_mut_checked(at) else { return false };
        match before.get(from..from + len).and_then(|frame| segments.next(frame, behind)) {
            Some(len) => {
                // Its checksums were just made.
                self.hold(at, len, Marks { validated: true, hash, ..Marks::default() });
                true
            }
            None => {
                to.cutting = None;
                false
            }
        }
    }

    fn available(&mut self) -> Result<u32, Stop> {
        let to = &mut self.to_guest;
        Ok(to.ring.unconsumed()? + u32::try_from(to.again.len()).unwrap_or(0))
    }

    fn next_slot(&mut self) -> RxSlot {
        let to = &mut self.to_guest;
        if let Some(slot) = to.again.pop_front() {
            return slot;
        }
        let mut slot: RxSlot = [0; RX_SLOT_LEN];
        let index = to.ring.consume(&mut slot);
        self.kept.keep(Side::Rx, index, &slot);
        slot
    }

    /// Takes slots for as many held frames as there are, whole frames only.
    fn hand_out(&mut self) -> Result<(), Stop> {
        let headroom = self.shared.xdp_headroom();
        self.to_guest.short = 0;
        let pages = Arc::clone(&self.pages);
        let pages = pages.hold();
        let mut available = self.available()?;
        while let Some(held) = self.to_guest.held.front().copied() {
            let plan = Plan::new(held.len, headroom, held.marks);
            let needed = u32::try_from(plan.nr_slots()).unwrap_or(u32::MAX);
            if self.to_guest.copies.len() + plan.nr_slots() > MAX_COPIES {
                break;
            }
            if needed > available {
                if self.to_guest.short_since_ns.is_none() {
                    self.to_guest.short_since_ns = Some(self.now_ns);
                    self.figures.add(Counter::SlotWaits, 1);
                }
                self.to_guest.short = needed;
                break;
            }
            available -= needed;
            self.to_guest.held.pop_front();
            self.to_guest.short_since_ns = None;
            self.figures.add(Counter::RxFrames, 1);
            self.figures.add(Counter::RxBytes, held.len);
            self.figures.add(Counter::RxSlots, plan.nr_slots());
            self.give(held, &plan, &pages);
        }
        worker::crash_point!("net_after_rx_take");
        Ok(())
    }

    fn give(&mut self, held: Held, plan: &Plan, pages: &Pages<'_, G::Mapping>) {
        self.worked = true;
        for number in 0..plan.nr_slots() {
            let request = RxRequest::read(&self.next_slot());
            let piece = plan.piece(number);
            let to = &mut self.to_guest;
            let copy = match piece {
                Piece::Data { at, offset, len, .. } => {
                    let copy = GrantCopy {
                        gref: GrantRef(request.gref),
                        offset,
                        len,
                        local: held.at + at,
                        direction: Way::ToGuest,
                        status: GrantStatus::GENERAL_ERROR,
                    };
                    if pages.copy(&to.memory, &copy) {
                        self.figures.add(Counter::MappedCopies, 1);
                        None
                    } else {
                        to.copies.push(copy);
                        Some(to.copies.len() - 1)
                    }
                }
                Piece::Extra(_) => None,
            };
            to.answers.push((piece.response(request.id, 0), copy));
        }
    }

    /// Publishes on a frame's end alone: everything that was handed out.
    fn answer_received(&mut self) -> bool {
        let to = &mut self.to_guest;
        if to.answers.is_empty() {
            return false;
        }
        worker::crash_point!("net_before_rx_answers");
        for (response, copy) in &mut to.answers {
            let status = copy.and_then(|i| to.copies.get(i)).map_or(GrantStatus::OKAY, |c| c.status);
            if !status.is_okay() {
                // Whatever the hypervisor said, below zero is an error to the guest.
                let [a, b] = if status.0 < 0 { status.0 } else { -1 }.to_le_bytes();
                (response[6], response[7]) = (a, b);
            }
            to.ring.push_response(response);
        }
        worker::crash_point!("net_before_rx_publish");
        let notify = to.ring.publish();
        worker::crash_point!("net_after_rx_publish");
        self.kept.answered(Side::Rx, to.ring.next_response());
        to.answers.clear();
        to.copies.clear();
        notify
    }

    /// Whether slots came, or frames may be read; else asks to be told of exactly as many slots as are lacking.
    pub(super) fn more_slots(&mut self) -> Result<bool, Stop> {
        let again = u32::try_from(self.to_guest.again.len()).unwrap_or(0);
        let to = &mut self.to_guest;
        match to.short.checked_sub(again) {
            Some(lacking @ 1..) => Ok(to.ring.final_check_for(lacking)?),
            _ if !to.held.is_empty() || to.cutting.is_some() || (!to.drained && self.wants_frames()) => {
                Ok(true)
            }
            _ => Ok(self.to_guest.stalled && self.to_guest.ring.final_check()?),
        }
    }

    pub(super) fn slot_wait(&self) -> Option<Duration> {
        match (self.to_guest.short, self.features.rx_notify) {
            (0, _) => None,
            (_, false) => Some(RX_POLL),
            (_, true) => Some(AGE_LOOK),
        }
    }

    fn drop_late(&mut self) {
        let now_ns = self.now_ns;
        let to = &mut self.to_guest;
        let before = to.held.len();
        while to.short > 0 && to.held.front().is_some_and(|h| now_ns - h.since_ns > TOO_LATE_NS) {
            to.held.pop_front();
        }
        let dropped = before - to.held.len();
        if dropped > 0 {
            to.short = 0;
            self.figures.add(Counter::RxLate, dropped);
        }
    }

    /// A frontend that notifies and still posts nothing for a minute is stuck; once all queues are, the link goes down until one works.
    fn look_for_stall(&mut self) -> Result<(), Stop> {
        // Everything that waited was dropped, and without a link nothing comes: slots are the sign of life then.
        if self.to_guest.stalled && self.to_guest.held.is_empty() && self.available()? > 0 {
            self.to_guest.short_since_ns = None;
        }
        let since_ns = self.to_guest.short_since_ns.filter(|_| self.features.rx_notify);
        let is_stalled = since_ns.is_some_and(|since_ns| self.now_ns - since_ns > STALL_NS);
        if is_stalled == self.to_guest.stalled {
            return Ok(());
        }
        self.to_guest.stalled = is_stalled;
        let serving = self.shared.serving.load(Ordering::Relaxed) as usize;
        let change = if is_stalled {
            let others = self.shared.stalled.fetch_add(1, Ordering::Relaxed);
            (others + 1 == serving).then_some(false)
        } else {
            let others = self.shared.stalled.fetch_sub(1, Ordering::Relaxed);
            (others == serving).then_some(true)
        };
        tracing::info!(is_stalled, "slots for frames to the guest");
        if let Some(Err(error)) = change.map(|on| self.tap.set_carrier(on)) {
            self.warn("carrier", &error);
        }
        Ok(())
    }
}

impl<M: xen_ring::SharedMemory> ToGuest<M> {
    pub(super) fn new(ring: BackRing<M>) -> std::io::Result<Self> {
        Ok(Self {
            ring,
            memory: xenbus::memory::LocalMemory::new(ARENA_LEN)?,
            again: VecDeque::with_capacity(NR_SLOTS),
            held: VecDeque::with_capacity(MAX_FRAMES),
            cutting: None,
            answers: Vec::with_capacity(2 * MAX_COPIES),
            copies: Vec::with_capacity(MAX_COPIES),
            end: 0,
            short: 0,
            short_since_ns: None,
            stalled: false,
            capped_until_ns: None,
            backlog: Backlog::default(),
            drained: false,
        })
    }

    /// A slot that a predecessor took and did not answer.
    pub(super) fn take_again(&mut self, slot: RxSlot) {
        self.again.push_back(slot);
    }
}
