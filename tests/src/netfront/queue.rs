//! A queue of a vif: frames out of and into granted pages, matched with their answers as strictly as Linux' netfront does, which
//! gives a device up for any of the faults found here. Knows nothing of what is in a frame.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use worker::wake;
use xen_ring::PAGE_LEN;
use xenbus::hv::Access;
use xenbus::sim::{GuestPages, GuestPort, SimDomain};
use xenbus::{DomId, GrantRef};

use super::control::READ_ONLY;
use super::ring::Ring;
use super::{FrontError, Incoming, Outgoing};
use crate::blkfront::RingError;
use crate::netif::{self, Extra, NR_SLOTS, RX_SLOT_LEN, RxResponse, TX_SLOT_LEN, TxRequest, TxResponse};

/// The page that a slot's data is in, at one of the ring's places.
#[derive(Debug)]
struct Pool {
    pages: GuestPages,
    refs: Vec<GrantRef>,
}

impl Pool {
    fn new(guest: &SimDomain, access: Access) -> io::Result<Self> {
        let pages = guest.allocate(NR_SLOTS)?;
        let refs = (0..NR_SLOTS).map(|i| guest.grant(pages.frame(i), DomId::DOM0, access));
        Ok(Self { refs: refs.collect::<io::Result<_>>()?, pages })
    }

    fn at(id: u16) -> usize {
        usize::from(id) % NR_SLOTS as usize
    }

    fn gref(&self, id: u16) -> GrantRef {
        self.refs.get(Self::at(id)).copied().unwrap_or(GrantRef(0))
    }
}

/// What became of a slot that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the request.
    pub id: u16,
    /// `netif::OKAY`, `netif::ERROR`
    pub status: i16,
}

/// A connected queue.
#[derive(Debug)]
pub struct Queue {
    guest: SimDomain,
    /// Frames from the guest.
    pub tx: Ring<TX_SLOT_LEN>,
    /// Frames to the guest.
    pub rx: Ring<RX_SLOT_LEN>,
    tx_port: GuestPort,
    rx_port: Option<GuestPort>,
    sent: Pool,
    received: Pool,
    free_ids: Vec<u16>,
    /// Whether an id has no answer yet.
    is_sent: Vec<bool>,
    /// Extra infos that have no answer yet.
    extras: usize,
    next_rx_id: u16,
}

/// How long an event may take that has to come.
const FORGOTTEN: Duration = Duration::from_secs(60);

fn broken(why: String) -> FrontError {
    FrontError::Backend(why)
}

fn ring(error: RingError) -> FrontError {
    broken(error.to_string())
}

impl Queue {
    /// Fresh rings, and a port for both or for each.
    pub fn new(guest: &SimDomain, is_split: bool) -> io::Result<Self> {
        let ids = u16::try_from(NR_SLOTS).map_err(io::Error::other)?;
        Ok(Self {
            guest: guest.clone(),
            tx: Ring::new(guest)?,
            rx: Ring::new(guest)?,
            tx_port: guest.allocate_port(DomId::DOM0)?,
            rx_port: if is_split { Some(guest.allocate_port(DomId::DOM0)?) } else { None },
            sent: Pool::new(guest, Access::ReadOnly)?,
            received: Pool::new(guest, Access::ReadWrite)?,
            free_ids: (0..ids).rev().collect(),
            is_sent: vec![false; NR_SLOTS as usize],
            extras: 0,
            next_rx_id: 0,
        })
    }

    /// The event channels: of the tx ring, and of the rx ring if it has its own.
    #[must_use]
    pub fn ports(&self) -> (&GuestPort, Option<&GuestPort>) {
        (&self.tx_port, self.rx_port.as_ref())
    }

    /// The grant of the page that rx slots with this id are answered in.
    #[must_use]
    pub fn rx_gref(&self, id: u16) -> GrantRef {
        self.received.gref(id)
    }

    /// All pages that frames are in, with the flags by which they would be static grants: of those sent for reading alone.
    #[must_use]
    pub fn pages(&self) -> Vec<(GrantRef, u16)> {
        let sent = self.sent.refs.iter().map(|gref| (*gref, READ_ONLY));
        sent.chain(self.received.refs.iter().map(|gref| (*gref, 0))).collect()
    }

    /// Slots sent that have no answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.is_sent.iter().filter(|s| **s).count() + self.extras
    }

    /// Sends a frame and says its first slot's id; `None` if there is no room now. Nobody sees it before [`publish`](Self::publish).
    pub fn send(&mut self, frame: &Outgoing) -> Option<u16> {
        self.send_bytes(&frame.bytes, frame)
    }

    /// The same with bytes that stand elsewhere than in `frame`.
    pub fn send_bytes(&mut self, all: &[u8], frame: &Outgoing) -> Option<u16> {
        let nr_slots = frame.slot_lens.len() + frame.extras.len();
        if (self.tx.free() as usize) < nr_slots || self.free_ids.len() < frame.slot_lens.len() {
            return None;
        }
        let (mut at, mut first) = (0, None);
        for (number, len) in frame.slot_lens.iter().copied().enumerate() {
            let id = self.free_ids.pop()?;
            let bytes = all.get(at..at + len).unwrap_or_default();
            at += len;
            let offset = usize::from(frame.offset).min(PAGE_LEN - bytes.len().min(PAGE_LEN));
            assert!(self.sent.pages.write(Pool::at(id) * PAGE_LEN + offset, bytes));
            self.is_sent[Pool::at(id)] = true;
            let more = if number + 1 < frame.slot_lens.len() { netif::tx::MORE_DATA } else { 0 };
            let (flags, size) = match number {
                0 if frame.extras.is_empty() => (frame.flags, all.len()),
                0 => (frame.flags | netif::tx::EXTRA_INFO, all.len()),
                _ => (0, len),
            };
            let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
            let (gref, offset, size) = (self.sent.gref(id), short(offset), short(size));
            self.tx.push(&TxRequest { gref, offset, flags: flags | more, id, size }.slot());
            if number == 0 {
                first = Some(id);
                for (i, extra) in frame.extras.iter().enumerate() {
                    let more = if i + 1 < frame.extras.len() { netif::extra::MORE } else { 0 };
                    self.tx.push(&Extra { flags: extra.flags | more, ..*extra }.bytes());
                    self.extras += 1;
                }
            }
        }
        first
    }

    /// Shows what was sent and tells the backend if it wants to be told.
    pub fn publish(&mut self) -> Result<(), FrontError> {
        if self.tx.publish() {
            self.tx_port.notify()?;
        }
        Ok(())
    }

    /// Answers that have come. An answer to what was not asked, or not clean, is the backend's fault.
    pub fn reap(&mut self) -> Result<Vec<Answer>, FrontError> {
        let mut answers = Vec::new();
        while let Some((index, slot)) = self.tx.answer().map_err(ring)? {
            let response = TxResponse::read(&slot);
            if !response.is_clean {
                return Err(broken(format!("answer {index} has stale bytes: {slot:?}")));
            }
            if response.status == netif::NULL {
                self.extras = self.extras.checked_sub(1).ok_or_else(|| {
                    broken(format!("answer {index} is NULL, and no extra info waits for one"))
                })?;
                continue;
            }
            let is_sent = self.is_sent.get_mut(usize::from(response.id));
            if !is_sent.is_some_and(|sent| std::mem::replace(sent, false)) {
                return Err(broken(format!("answer {index} is to {}, which waits for none", response.id)));
            }
            self.free_ids.push(response.id);
            answers.push(Answer { id: response.id, status: response.status });
        }
        Ok(answers)
    }

    /// Posts empty pages until `count` are posted and unanswered in all.
    pub fn post(&mut self, count: u32) -> Result<(), FrontError> {
        while NR_SLOTS - self.rx.free() < count.min(NR_SLOTS) {
            // What stands in the slot is decided by its place: as Linux does, and what answers are checked against.
            let id = self.next_rx_id;
            self.rx.push(&netif::rx_request(id, self.received.gref(id)));
            self.next_rx_id = if u32::from(id) + 1 == NR_SLOTS { 0 } else { id + 1 };
        }
        self.publish_rx()
    }

    /// Shows posted pages and tells the backend if it wants to be told.
    pub fn publish_rx(&mut self) -> Result<(), FrontError> {
        if self.rx.publish() {
            self.rx_port.as_ref().unwrap_or(&self.tx_port).notify()?;
        }
        Ok(())
    }

    /// The next frame to the guest.
    pub fn receive(&mut self) -> Result<Option<Incoming>, FrontError> {
        self.receive_behind(Vec::new())
    }

    /// The same, behind bytes that are there already.
    pub fn receive_behind(&mut self, bytes: Vec<u8>) -> Result<Option<Incoming>, FrontError> {
        let Some(mut response) = self.rx_answer()? else { return Ok(None) };
        let mut frame = Incoming { bytes, flags: response.flags, ..Incoming::default() };
        let mut more_extras = response.flags & netif::rx::EXTRA_INFO != 0;
        loop {
            self.take(&response, &mut frame)?;
            while more_extras {
                let (_, slot) =
                    self.rx_slot()?.ok_or_else(|| broken("published within extra infos".into()))?;
                let extra = Extra::read(&slot);
                more_extras = extra.flags & netif::extra::MORE != 0;
                frame.extras.push(extra);
            }
            if response.flags & netif::rx::MORE_DATA == 0 {
                return Ok(Some(frame));
            }
            response = self.rx_answer()?.ok_or_else(|| broken("published within a frame".into()))?;
        }
    }

    fn rx_slot(&mut self) -> Result<Option<(u32, [u8; RX_SLOT_LEN])>, FrontError> {
        self.rx.answer().map_err(ring)
    }

    fn rx_answer(&mut self) -> Result<Option<RxResponse>, FrontError> {
        let Some((index, slot)) = self.rx_slot()? else { return Ok(None) };
        let response = RxResponse::read(&slot);
        if u32::from(response.id) != index % NR_SLOTS {
            return Err(broken(format!("rx answer {index} has id {}", response.id)));
        }
        Ok(Some(response))
    }

    fn take(&self, response: &RxResponse, frame: &mut Incoming) -> Result<(), FrontError> {
        frame.nr_slots += 1;
        let Ok(len) = usize::try_from(response.status) else {
            frame.errors.push(response.status);
            return Ok(());
        };
        let offset = usize::from(response.offset);
        if len == 0 || offset + len > PAGE_LEN {
            return Err(broken(format!("rx answer with {len} bytes at {offset}")));
        }
        let start = frame.bytes.len();
        frame.bytes.resize(start + len, 0);
        let at = Pool::at(response.id) * PAGE_LEN + offset;
        let place = frame.bytes.get_mut(start..).unwrap_or_default();
        if self.received.pages.read(at, place) { Ok(()) } else { Err(broken("rx page".into())) }
    }

    /// Sleeps until there is an answer on either ring; false when the time is over.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, FrontError> {
        let begun = Instant::now();
        loop {
            if self.tx.final_check().map_err(ring)? | self.rx.final_check().map_err(ring)? {
                return Ok(true);
            }
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            let is_told = self.sleep(left)?;
            let is_there = self.tx.unconsumed().map_err(ring)? + self.rx.unconsumed().map_err(ring)? > 0;
            // The event that was asked for follows the answer, or the answer would be lost on a frontend that sleeps.
            if is_there && !is_told && !self.sleep(FORGOTTEN)? {
                return Err(broken("an answer came without the event that was asked for".into()));
            }
        }
    }

    fn sleep(&self, timeout: Duration) -> Result<bool, FrontError> {
        let files = [Some(self.tx_port.as_fd()), self.rx_port.as_ref().map(AsFd::as_fd)];
        wake::readable(files, timeout)?;
        let rx_told = self.rx_port.as_ref().map_or(Ok(false), |port| port.wait(Duration::ZERO))?;
        Ok(self.tx_port.wait(Duration::ZERO)? | rx_told)
    }

    /// Ends all grants; those that are still mapped are returned.
    #[must_use]
    pub fn release(self) -> Vec<GrantRef> {
        let (tx, rx) = (self.tx.gref(), self.rx.gref());
        let rings = [(self.tx.release(), tx), (self.rx.release(), rx)];
        let rings = rings.into_iter().filter(|(ended, _)| !ended).map(|(_, gref)| gref);
        let pages = self.sent.refs.iter().chain(&self.received.refs).copied();
        rings.chain(pages.filter(|gref| !self.guest.end_access(*gref))).collect()
    }
}
