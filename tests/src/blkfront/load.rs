//! A load on one queue: random requests at a given depth, every byte verified. A slow or dead backend only makes it wait. Knows
//! nothing of rings or of the store.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Disk;
use super::queue::{Faults, Operation, Outcome, Queue};
use crate::blkif;
use crate::oracle::{Oracle, SECTOR_LEN};
use crate::prng::Prng;

/// What to do to a disk.
#[derive(Clone, Debug)]
pub struct Load {
    /// Decides everything random.
    pub seed: u64,
    /// Requests per queue; no limit if `None`.
    pub operations: Option<u64>,
    /// Ends after this time; no limit if `None`.
    pub duration: Option<Duration>,
    /// Requests in flight per queue.
    pub depth: usize,
    /// Sectors of a request, within what the queue can.
    pub sectors: Range<u64>,
    /// Requests start on multiples of this many sectors; below 8 also anywhere in their first page.
    pub align_sectors: u64,
    /// In order instead of at random.
    pub is_sequential: bool,
    /// Reads among all.
    pub read_percent: u32,
    /// Flushes among all.
    pub flush_percent: u32,
    /// Discards among all.
    pub discard_percent: u32,
    /// Barriers among writes.
    pub barrier_percent: u32,
    /// Check each byte read; without, requests may overlap and data is whatever is there (benchmarks).
    pub is_verified: bool,
    /// A request without an answer for so long ends the load.
    pub stall: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            seed: 1,
            operations: Some(1000),
            duration: None,
            depth: 32,
            sectors: 1..89,
            align_sectors: 8,
            is_sequential: false,
            read_percent: 50,
            flush_percent: 1,
            discard_percent: 0,
            barrier_percent: 0,
            is_verified: true,
            stall: Duration::from_secs(60),
        }
    }
}

/// What came of a load.
#[derive(Clone)]
pub struct Report {
    /// Requests answered with OKAY.
    pub done: u64,
    /// Of those, bytes read and written.
    pub bytes: u64,
    /// Requests answered with an error.
    pub io_errors: u64,
    /// Requests answered with EOPNOTSUPP.
    pub unsupported: u64,
    /// Reads that were not what was last written.
    pub verify_errors: u64,
    /// Requests that were not answered.
    pub unanswered: u64,
    /// What made Linux disable the disk.
    pub faults: Faults,
    /// The first thing that was wrong, in words.
    pub first_error: Option<String>,
    /// Latencies in ns.
    pub latency_ns: Histogram<u64>,
}

impl fmt::Debug for Report {
    /// Without the thousands of buckets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("done", &self.done)
            .field("bytes", &self.bytes)
            .field("io_errors", &self.io_errors)
            .field("unsupported", &self.unsupported)
            .field("verify_errors", &self.verify_errors)
            .field("unanswered", &self.unanswered)
            .field("faults", &self.faults)
            .field("first_error", &self.first_error)
            .field("latency_max_ns", &self.latency_ns.max())
            .finish_non_exhaustive()
    }
}

impl Default for Report {
    fn default() -> Self {
        Self {
            done: 0,
            bytes: 0,
            io_errors: 0,
            unsupported: 0,
            verify_errors: 0,
            unanswered: 0,
            faults: Faults::default(),
            first_error: None,
            latency_ns: latencies(),
        }
    }
}

#[allow(clippy::expect_used)] // constant arguments
fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("valid bounds")
}

impl Report {
    /// True if a guest would have noticed nothing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.first_error.is_none()
            && self.io_errors + self.unsupported + self.verify_errors + self.unanswered == 0
            && self.faults.is_none()
    }

    /// Adds up.
    pub fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.bytes += other.bytes;
        self.io_errors += other.io_errors;
        self.unsupported += other.unsupported;
        self.verify_errors += other.verify_errors;
        self.unanswered += other.unanswered;
        self.faults.add(&other.faults);
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        let _ = self.latency_ns.add(&other.latency_ns);
    }

    fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.first_error.get_or_insert_with(what);
    }
}

/// What a load's queues and whoever runs it tell each other.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pub(super) stop: AtomicBool,
    /// Longest time in which a queue that waited for answers had none.
    pub(super) silence_ns: AtomicU64,
}

impl Signals {
    fn had_silence(&self, silence: Duration) {
        let ns = u64::try_from(silence.as_nanos()).unwrap_or(u64::MAX);
        self.silence_ns.fetch_max(ns, Ordering::Relaxed);
    }
}

/// One queue's share of a load.
#[derive(Debug)]
pub(super) struct Generator {
    load: Load,
    prng: Prng,
    area: Range<u64>,
    next: u64,
    oracle: Arc<Oracle>,
    /// Sectors of the area that a request in flight touches.
    busy: Vec<bool>,
    /// By tag: the write's number and the first sector's place in its page.
    tags: Vec<(u32, u8)>,
    has_discard: bool,
    buffer: Vec<u8>,
    report: Report,
}

impl Generator {
    pub(super) fn new(load: &Load, number: u64, area: Range<u64>, oracle: Arc<Oracle>, disk: &Disk) -> Self {
        let load = Load { align_sectors: load.align_sectors.max(1), ..load.clone() };
        let busy = if load.is_verified {
            vec![false; usize::try_from(area.end - area.start).unwrap_or(0)]
        } else {
            vec![]
        };
        Self {
            prng: Prng::new(load.seed ^ number.wrapping_mul(0x5851_f42d_4c95_7f2d)),
            next: area.start,
            area,
            oracle,
            busy,
            tags: Vec::new(),
            has_discard: disk.has_discard,
            buffer: Vec::new(),
            report: Report::default(),
            load,
        }
    }

    /// Runs to the end of the load; the queue has nothing in flight then, unless the backend left it.
    pub(super) fn run(&mut self, queue: &mut Queue, signals: &Signals) -> Report {
        let before = queue.faults();
        if let Err(e) = self.turn(queue, signals) {
            self.report.wrong(|| e);
        }
        let mut report = std::mem::take(&mut self.report);
        report.unanswered = queue.in_flight() as u64;
        report.faults = queue.faults();
        if before != report.faults {
            report.wrong(|| format!("the backend broke blkfront's rules: {:?}", queue.faults()));
        }
        report
    }

    fn turn(&mut self, queue: &mut Queue, signals: &Signals) -> Result<(), String> {
        let start = Instant::now();
        let mut submitted = 0;
        let mut last_answer = start;
        let text = |e: super::RingError| e.to_string();
        loop {
            let over = signals.stop.load(Ordering::Acquire)
                || self.load.operations.is_some_and(|n| submitted >= n)
                || self.load.duration.is_some_and(|d| start.elapsed() >= d);
            if !over && queue.in_flight() < self.load.depth && queue.free() > 0 && self.submit(queue)? {
                submitted += 1;
                continue;
            }
            queue.publish().map_err(text)?;
            let mut answered = false;
            while let Some(outcome) = queue.complete().map_err(text)? {
                self.finish(queue, &outcome);
                answered = true;
            }
            if answered {
                signals.had_silence(last_answer.elapsed());
                last_answer = Instant::now();
            } else if queue.in_flight() == 0 {
                if over {
                    return Ok(());
                }
                last_answer = Instant::now();
            } else if last_answer.elapsed() > self.load.stall {
                return Err(format!("{} requests unanswered for {:?}", queue.in_flight(), self.load.stall));
            } else {
                queue.sleep(self.load.stall.min(Duration::from_secs(2))).map_err(text)?;
            }
        }
    }

    /// Makes one request; false if its sectors are busy and it is better to wait.
    fn submit(&mut self, queue: &mut Queue) -> Result<bool, String> {
        let kind = self.prng.below(100);
        let flushes = u64::from(self.load.flush_percent);
        let discards = flushes + u64::from(self.load.discard_percent);
        let is_read = self.prng.chance(self.load.read_percent);
        let is_barrier = self.prng.chance(self.load.barrier_percent);
        let Some((sector, count, skip)) = self.place(queue) else { return Ok(false) };
        let (operation, write) = match kind {
            k if k < flushes => (Operation::Flush, 0),
            k if k < discards && self.has_discard => (Operation::Discard { sector, count }, 0),
            _ if is_read => (Operation::Read { sector, count }, 0),
            _ => (Operation::Write { sector, count, is_barrier }, self.oracle.next_write()),
        };
        self.buffer.clear();
        if let Operation::Write { .. } = operation
            && self.load.is_verified
        {
            self.buffer.resize(usize::try_from(count).unwrap_or(0) * SECTOR_LEN, 0);
            self.oracle.fill(sector, write, &mut self.buffer);
        }
        let tag = self.tags.iter().position(|t| t.1 == u8::MAX).unwrap_or(self.tags.len());
        if tag == self.tags.len() {
            self.tags.push((0, u8::MAX));
        }
        let number = u32::try_from(tag).unwrap_or(0);
        let made = queue.submit(operation, number, skip, &self.buffer).map_err(|e| e.to_string())?;
        if made {
            if let Some(t) = self.tags.get_mut(tag) {
                *t = (write, skip);
            }
            self.mark(operation, true);
        }
        Ok(made)
    }

    /// Free sectors for a request, and where in their first page they start.
    fn place(&mut self, queue: &Queue) -> Option<(u64, u64, u8)> {
        let align = self.load.align_sectors;
        let skip = if align < 8 { self.prng.below(8 / align) * align } else { 0 };
        let max = self.load.sectors.end.saturating_sub(1).min(queue.sectors_max() - skip).max(1);
        let min = self.load.sectors.start.clamp(1, max);
        let units = (max / align).max(1);
        let count = ((1 + self.prng.below(units)) * align).clamp(min, max);
        let last = self.area.end.checked_sub(count).filter(|last| *last >= self.area.start)?;
        for _ in 0..8 {
            let sector = if self.load.is_sequential {
                let at = if self.next > last { self.area.start } else { self.next };
                self.next = at + count;
                at
            } else {
                let units = (last - self.area.start) / align + 1;
                self.area.start + self.prng.below(units) * align
            };
            let range = self.range(sector, count);
            if !self.busy.get(range).unwrap_or_default().contains(&true) {
                return Some((sector, count, skip.to_le_bytes()[0]));
            }
        }
        None
    }

    fn range(&self, sector: u64, count: u64) -> Range<usize> {
        let start = usize::try_from(sector - self.area.start).unwrap_or(usize::MAX);
        start..start.saturating_add(usize::try_from(count).unwrap_or(0))
    }

    fn mark(&mut self, operation: Operation, is_busy: bool) {
        let (sector, count) = operation.sectors();
        if count > 0 {
            let range = self.range(sector, count);
            self.busy.get_mut(range).unwrap_or_default().fill(is_busy);
        }
    }

    fn finish(&mut self, queue: &Queue, outcome: &Outcome) {
        let latency = u64::try_from(outcome.latency.as_nanos()).unwrap_or(u64::MAX);
        self.report.latency_ns.saturating_record(latency);
        let (sector, count) = outcome.operation.sectors();
        let tag = self.tags.get_mut(usize::try_from(outcome.tag).unwrap_or(usize::MAX));
        let (write, skip) = tag.map_or((0, 0), |t| std::mem::replace(t, (0, u8::MAX)));
        self.mark(outcome.operation, false);
        if outcome.status != blkif::OKAY {
            if matches!(outcome.operation, Operation::Write { .. } | Operation::Discard { .. }) {
                self.oracle.forget(sector, count);
            }
            let unsupported = outcome.status == blkif::UNSUPPORTED;
            self.report.unsupported += u64::from(unsupported);
            self.report.io_errors += u64::from(!unsupported);
            self.report.wrong(|| format!("{:?} was answered {}", outcome.operation, outcome.status));
            return;
        }
        self.report.done += 1;
        match outcome.operation {
            Operation::Flush => {}
            Operation::Discard { .. } => self.oracle.forget(sector, count),
            Operation::Write { .. } => {
                self.report.bytes += count * SECTOR_LEN as u64;
                if self.load.is_verified {
                    self.oracle.written(sector, count, write);
                }
            }
            Operation::Read { .. } => {
                self.report.bytes += count * SECTOR_LEN as u64;
                if self.load.is_verified {
                    self.verify(queue, outcome.place, sector, count, skip);
                }
            }
        }
    }

    fn verify(&mut self, queue: &Queue, place: usize, sector: u64, count: u64, skip: u8) {
        self.buffer.resize(usize::try_from(count).unwrap_or(0) * SECTOR_LEN, 0);
        let read = queue.data(place, skip, &mut self.buffer);
        if let Err(wrong) = self.oracle.check(sector, &self.buffer) {
            self.report.verify_errors += 1;
            self.report.wrong(|| format!("sector {}: {}", wrong.sector, wrong.reason));
        } else if !read {
            self.report.wrong(|| format!("{count} sectors are more than a request's pages"));
        }
    }
}
