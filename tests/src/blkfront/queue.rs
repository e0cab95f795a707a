//! A queue: requests with their data pages and grants, matched with their answers as strictly as Linux' blkfront does, which
//! disables a disk for any of the faults counted here. Knows nothing of which requests are made or what the data must be.

use std::io;
use std::time::{Duration, Instant};

use xenbus::hv::Access;
use xenbus::sim::{GuestPages, SimDomain};
use xenbus::{DomId, GrantRef};

use super::ring::{Ring, RingError, Woken};
use super::{FrontError, grant_all};
use crate::blkif::{self, DIRECT_SEGMENTS, SEGMENTS_PER_PAGE, Segment, Slot};
use crate::oracle::SECTOR_LEN;

const PAGE_LEN: usize = xen_ring::PAGE_LEN;
const SECTORS_PER_PAGE: u64 = (PAGE_LEN / SECTOR_LEN) as u64;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sectors out of the disk.
    Read {
        /// First.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// Sectors onto the disk.
    Write {
        /// First.
        sector: u64,
        /// How many.
        count: u64,
        /// With `BLKIF_OP_WRITE_BARRIER`.
        is_barrier: bool,
    },
    /// Make what was answered durable.
    Flush,
    /// Give sectors up.
    Discard {
        /// First.
        sector: u64,
        /// How many.
        count: u64,
    },
}

impl Operation {
    fn code(self) -> u8 {
        match self {
            Self::Read { .. } => blkif::READ,
            Self::Write { is_barrier: true, .. } => blkif::BARRIER,
            Self::Write { .. } => blkif::WRITE,
            Self::Flush => blkif::FLUSH,
            Self::Discard { .. } => blkif::DISCARD,
        }
    }

    /// Its sectors: first and count.
    #[must_use]
    pub fn sectors(self) -> (u64, u64) {
        match self {
            Self::Read { sector, count }
            | Self::Write { sector, count, .. }
            | Self::Discard { sector, count } => (sector, count),
            Self::Flush => (0, 0),
        }
    }

    fn has_data(self) -> bool {
        matches!(self, Self::Read { .. } | Self::Write { .. })
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was asked.
    pub operation: Operation,
    /// `tag` of [`Queue::submit`].
    pub tag: u32,
    /// The answer's status.
    pub status: i16,
    /// From the request's publication to its answer.
    pub latency: Duration,
    /// Which place held it; its data can be read with [`Queue::data`] until the next submit.
    pub place: usize,
}

/// What no backend may do. Any of it makes Linux give the disk up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Second answers to a request.
    pub double_answers: u64,
    /// Answers to ids that were never asked.
    pub unknown_ids: u64,
    /// Answers with another operation than was asked.
    pub wrong_operations: u64,
    /// Stale bytes in an answer's slot (XSA-216).
    pub dirty_answers: u64,
    /// Grants that were still mapped when their request was answered.
    pub grants_in_use: u64,
    /// Answers of which we should have been told and were not.
    pub lost_wakeups: u64,
}

impl Faults {
    /// True if there were none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.double_answers += other.double_answers;
        self.unknown_ids += other.unknown_ids;
        self.wrong_operations += other.wrong_operations;
        self.dirty_answers += other.dirty_answers;
        self.grants_in_use += other.grants_in_use;
        self.lost_wakeups += other.lost_wakeups;
    }
}

/// One place for a request: pages for its data, and what it is while it is in flight.
#[derive(Debug)]
struct Place {
    pages: GuestPages,
    indirect: Option<(GuestPages, Vec<GrantRef>)>,
    /// Grants of `pages` that stay for good, in a persistent connection.
    kept: Vec<GrantRef>,
    /// Grants of this request only.
    grants: Vec<GrantRef>,
    in_flight: Option<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    operation: Operation,
    tag: u32,
    started: Instant,
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    guest: SimDomain,
    ring: Ring,
    places: Vec<Place>,
    free: Vec<usize>,
    next: u64,
    segments: usize,
    is_persistent: bool,
    faults: Faults,
}

impl Queue {
    pub(super) fn new(guest: &SimDomain, ring: Ring, depth: u32, segments: usize) -> io::Result<Self> {
        let depth = depth.clamp(1, ring.nr_slots());
        let pages = u32::try_from(segments.max(1)).map_err(|_| io::ErrorKind::InvalidInput)?;
        let indirect_pages =
            if segments > DIRECT_SEGMENTS { segments.div_ceil(SEGMENTS_PER_PAGE) } else { 0 };
        let mut places = Vec::new();
        for _ in 0..depth {
            let indirect = match u32::try_from(indirect_pages).unwrap_or(8) {
                0 => None,
                n => {
                    let pages = guest.allocate(n)?;
                    let refs = grant_all(guest, &pages, Access::ReadWrite)?;
                    Some((pages, refs))
                }
            };
            let pages = guest.allocate(pages)?;
            places.push(Place { pages, indirect, kept: Vec::new(), grants: Vec::new(), in_flight: None });
        }
        let free = (0..places.len()).rev().collect();
        let (guest, faults) = (guest.clone(), Faults::default());
        Ok(Self { guest, ring, places, free, next: 1, segments, is_persistent: false, faults })
    }

    /// Whether grants stay with the backend between requests.
    pub(super) fn set_persistent(&mut self, is_persistent: bool) {
        self.is_persistent = is_persistent;
    }

    /// Its ring.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Its ring, for those who push slots of their own.
    pub fn ring_mut(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// What the backend did that it must not do.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Requests that can be made now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len().min(self.ring.free() as usize)
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Most sectors of one request that starts on a page's boundary.
    #[must_use]
    pub fn sectors_max(&self) -> u64 {
        self.segments as u64 * SECTORS_PER_PAGE
    }

    /// Makes a request, not visible before [`Queue::publish`]; false if there is no room. `data` is what a write writes; the data
    /// starts at sector `skip` (0 to 7) of its first page.
    pub fn submit(&mut self, operation: Operation, tag: u32, skip: u8, data: &[u8]) -> io::Result<bool> {
        if self.free() == 0 {
            return Ok(false);
        }
        let Some(at) = self.free.pop() else { return Ok(false) };
        let id = self.next << 16 | at as u64;
        self.next += 1;
        let slot = self.prepare(at, id, operation, skip, data)?;
        self.ring.push(slot.bytes());
        if let Some(place) = self.places.get_mut(at) {
            place.in_flight = Some(InFlight { id, operation, tag, started: Instant::now() });
        }
        Ok(true)
    }

    fn prepare(
        &mut self,
        at: usize,
        id: u64,
        operation: Operation,
        skip: u8,
        data: &[u8],
    ) -> io::Result<Slot> {
        let abi = self.ring.abi();
        let (sector, count) = operation.sectors();
        if let Operation::Discard { .. } = operation {
            return Ok(Slot::discard(abi, 0, id, sector, count));
        }
        let place = self.places.get_mut(at).ok_or(io::ErrorKind::InvalidInput)?;
        let mut segments = Vec::with_capacity(self.segments);
        let mut left = if operation.has_data() { count } else { 0 };
        let mut first = u64::from(skip);
        for page in 0.. {
            if left == 0 {
                break;
            }
            let take = left.min(SECTORS_PER_PAGE - first);
            if page >= place.pages.pages() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{count} sectors in a request"),
                ));
            }
            let gref = match place.kept.get(page as usize) {
                Some(kept) => *kept,
                None => {
                    let writable = self.is_persistent || matches!(operation, Operation::Read { .. });
                    let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
                    let gref = self.guest.grant(place.pages.frame(page), DomId::DOM0, access)?;
                    if self.is_persistent {
                        place.kept.push(gref)
                    } else {
                        place.grants.push(gref)
                    }
                    gref
                }
            };
            let (start, last) = (first.to_le_bytes()[0], (first + take - 1).to_le_bytes()[0]);
            segments.push(Segment { gref, first: start, last });
            (left, first) = (left - take, 0);
        }
        if !data.is_empty() && !place.pages.write(usize::from(skip) * SECTOR_LEN, data) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more data than pages"));
        }
        if segments.len() <= DIRECT_SEGMENTS {
            return Ok(Slot::direct(abi, operation.code(), id, sector, &segments));
        }
        let (pages, refs) = place.indirect.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let table: Vec<u8> = segments.iter().flat_map(|s| s.bytes()).collect();
        let used = refs.get(..segments.len().div_ceil(SEGMENTS_PER_PAGE)).unwrap_or(refs);
        let count = u16::try_from(segments.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        if !pages.write(0, &table) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Slot::indirect(abi, operation.code(), id, sector, count, used))
    }

    /// Shows the backend what was submitted.
    pub fn publish(&mut self) -> Result<(), RingError> {
        self.ring.publish()
    }

    /// The next request that was answered, if there is one. Answers that belong to none are counted as faults.
    pub fn complete(&mut self) -> Result<Option<Outcome>, RingError> {
        while let Some(response) = self.ring.answer()? {
            self.faults.dirty_answers += u64::from(!response.is_clean);
            let at = usize::try_from(response.id & 0xffff).unwrap_or(usize::MAX);
            let place = self.places.get_mut(at);
            let Some(place) = place.filter(|p| p.in_flight.as_ref().is_some_and(|f| f.id == response.id))
            else {
                if (1..self.next).contains(&(response.id >> 16)) {
                    self.faults.double_answers += 1;
                } else {
                    self.faults.unknown_ids += 1;
                }
                continue;
            };
            let Some(done) = place.in_flight.take() else { continue };
            self.faults.wrong_operations += u64::from(response.operation != done.operation.code());
            for gref in place.grants.drain(..) {
                self.faults.grants_in_use += u64::from(!self.guest.end_access(gref));
            }
            self.free.push(at);
            return Ok(Some(Outcome {
                operation: done.operation,
                tag: done.tag,
                status: response.status,
                latency: done.started.elapsed(),
                place: at,
            }));
        }
        Ok(None)
    }

    /// Sleeps until told of an answer; false when the time is over.
    pub fn sleep(&mut self, timeout: Duration) -> Result<bool, RingError> {
        let woken = self.ring.sleep(timeout)?;
        self.faults.lost_wakeups += u64::from(woken == Woken::Forgotten);
        Ok(woken != Woken::TimedOut)
    }

    /// Copies the data of a completed request out, from sector `skip` of its first page.
    #[must_use]
    pub fn data(&self, place: usize, skip: u8, out: &mut [u8]) -> bool {
        self.places.get(place).is_some_and(|p| p.pages.read(usize::from(skip) * SECTOR_LEN, out))
    }

    /// One request alone, and its answer's status. `data` is written, or filled by a read.
    pub fn request(
        &mut self,
        operation: Operation,
        data: &mut [u8],
        timeout: Duration,
    ) -> Result<i16, FrontError> {
        let writes = matches!(operation, Operation::Write { .. });
        if !self.submit(operation, 0, 0, if writes { data } else { &[] })? {
            return Err(FrontError::Backend("no room for a request".into()));
        }
        let broken = |e: RingError| FrontError::Backend(e.to_string());
        self.publish().map_err(broken)?;
        let start = Instant::now();
        loop {
            if let Some(outcome) = self.complete().map_err(broken)? {
                if matches!(operation, Operation::Read { .. }) && !self.data(outcome.place, 0, data) {
                    return Err(FrontError::Backend("a read longer than its pages".into()));
                }
                return Ok(outcome.status);
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(FrontError::Backend(format!("no answer to {operation:?} in {timeout:?}")));
            }
            self.sleep(left).map_err(broken)?;
        }
    }

    /// Ends all grants; those that are still mapped are returned.
    #[must_use]
    pub fn release(self) -> Vec<GrantRef> {
        let mut in_use = self.ring.release();
        for place in &self.places {
            let indirect = place.indirect.iter().flat_map(|(_, refs)| refs);
            let all = place.kept.iter().chain(&place.grants).chain(indirect);
            in_use.extend(all.copied().filter(|r| !self.guest.end_access(*r)));
        }
        in_use
    }
}
