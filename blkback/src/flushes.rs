//! When a flush is given to the kernel, and when one that it ended well may be answered. A queue has one with the kernel at a time, for all
//! that asked before it began: a hundred that ask at once cost a device no more than two. The kernel tells a write error of a file to
//! one flush of those under way and success to the others, and ends them in an order of its own: so a success counts only once every
//! flush of any queue that was with the kernel at that time has been heard to have ended well, too. Knows nothing of requests or of
//! what a failure leads to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use crate::slot::SlotId;

/// As many queues as a device can have.
pub(crate) const MAX_QUEUES: usize = 64;

const NONE: u64 = u64::MAX;

/// The flushes of a device.
#[derive(Debug)]
pub(crate) struct Flushes {
    /// Number of the next one.
    next: AtomicU64,
    /// For each queue the oldest that the kernel has.
    oldest: [AtomicU64; MAX_QUEUES],
    queues: AtomicUsize,
    /// Ended and not certain, of all queues.
    held: AtomicU32,
}

impl Default for Flushes {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            oldest: [const { AtomicU64::new(NONE) }; MAX_QUEUES],
            queues: AtomicUsize::new(0),
            held: AtomicU32::new(0),
        }
    }
}

/// One queue's part of them.
#[derive(Debug)]
pub(crate) struct FlushLine {
    device: Arc<Flushes>,
    place: usize,
    /// Those that came since the last one began.
    joined: Vec<SlotId>,
    /// Those that the kernel's is for, and its number.
    with_kernel: Vec<SlotId>,
    number: u64,
    /// Ended well; certain once all below the number have.
    held: Vec<(SlotId, u64)>,
}

impl FlushLine {
    /// For a queue with so many slots.
    pub(crate) fn new(device: Arc<Flushes>, nr_slots: usize) -> Self {
        let place = device.queues.fetch_add(1, SeqCst);
        assert!(place < MAX_QUEUES, "more queues than were allowed");
        let room = || Vec::with_capacity(nr_slots);
        Self {
            device,
            place,
            joined: room(),
            with_kernel: room(),
            number: NONE,
            held: Vec::with_capacity(nr_slots),
        }
    }

    /// A request wants what was completed so far to be safe.
    pub(crate) fn join(&mut self, id: SlotId) {
        self.joined.push(id);
    }

    /// One of those for which the next flush is, if the kernel can be given it now.
    pub(crate) fn due(&self) -> Option<SlotId> {
        self.joined.first().copied().filter(|_| self.with_kernel.is_empty())
    }

    /// The flush that is due is about to be given to the kernel: for these.
    pub(crate) fn begin(&mut self) -> &[SlotId] {
        std::mem::swap(&mut self.joined, &mut self.with_kernel);
        // One that has its number but does not stand in `oldest` yet has not reached the kernel: nothing was told to it.
        self.number = self.device.next.fetch_add(1, SeqCst);
        self.note_oldest();
        &self.with_kernel
    }

    /// It ended well. One that failed is never said to have ended: nothing that waits for it is ever certain.
    pub(crate) fn ended_well(&mut self) {
        let below = self.device.next.load(SeqCst);
        self.device.held.fetch_add(count(&self.with_kernel), SeqCst);
        self.held.extend(self.with_kernel.drain(..).map(|id| (id, below)));
        self.number = NONE;
        self.note_oldest();
    }

    /// A request whose flush is certain now.
    pub(crate) fn next_certain(&mut self) -> Option<SlotId> {
        // SeqCst: `held` was raised before this look, so whoever ends an older one after it sees that it is waited for.
        let oldest = self.device.oldest.iter().map(|o| o.load(SeqCst)).min().unwrap_or(NONE);
        let at = self.held.iter().position(|(_, below)| oldest >= *below)?;
        self.device.held.fetch_sub(1, SeqCst);
        Some(self.held.remove(at).0)
    }

    /// Other queues hold flushes: they want to know when one of these has ended.
    pub(crate) fn is_awaited(&self) -> bool {
        self.device.held.load(SeqCst) as usize > self.held.len()
    }

    fn note_oldest(&self) {
        if let Some(place) = self.device.oldest.get(self.place) {
            place.store(self.number, SeqCst);
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // as many as a ring has slots
fn count(ids: &[SlotId]) -> u32 {
    ids.len() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn two() -> (FlushLine, FlushLine) {
        let device = Arc::new(Flushes::default());
        (FlushLine::new(Arc::clone(&device), 32), FlushLine::new(device, 32))
    }

    fn begin(line: &mut FlushLine, ids: &[SlotId]) {
        ids.iter().for_each(|id| line.join(*id));
        assert_eq!(line.due(), ids.first().copied());
        assert_eq!(line.begin(), ids);
        assert_eq!(line.due(), None);
    }

    /// A lone flush is certain at once; one beside another queue's is not before that one ended well; a later one does not matter to it.
    #[test]
    fn success_waits_for_older_flushes() {
        let (mut a, mut b) = two();
        begin(&mut a, &[1]);
        a.ended_well();
        assert_eq!(a.next_certain(), Some(1));

        begin(&mut a, &[2]);
        begin(&mut b, &[7]);
        b.ended_well();
        assert_eq!(b.next_certain(), None);
        assert!(a.is_awaited() && !b.is_awaited());
        a.ended_well();
        begin(&mut a, &[3]);
        assert_eq!(b.next_certain(), Some(7), "the third began when the seventh had ended");
        assert_eq!(a.next_certain(), Some(2));
        a.ended_well();
        assert_eq!([a.next_certain(), a.next_certain()], [Some(3), None]);
        assert!(!a.is_awaited() && !b.is_awaited());
    }

    /// What asks while the kernel has a flush is not covered by it, and shares the next one.
    #[test]
    fn those_that_ask_meanwhile_share_the_next() {
        let (mut a, _) = two();
        begin(&mut a, &[1]);
        a.join(2);
        a.join(3);
        assert_eq!(a.due(), None);
        a.ended_well();
        assert_eq!([a.next_certain(), a.next_certain()], [Some(1), None]);
        assert_eq!(a.due(), Some(2));
        assert_eq!(a.begin(), [2, 3]);
        a.ended_well();
        assert_eq!([a.next_certain(), a.next_certain(), a.next_certain()], [Some(2), Some(3), None]);
        assert_eq!(a.due(), None);
    }

    proptest! {
        /// Whatever the order in which flushes begin, end and fail: none that was under way together with a failed one, heard of
        /// or not, becomes certain after it; and without a failure each request that asked does.
        #[test]
        fn none_is_certain_beside_a_failure(steps in proptest::collection::vec((0usize..2, 0usize..3, 0usize..4), 1..60)) {
            let (a, b) = two();
            let mut lines = [a, b];
            let mut under_way: Vec<usize> = Vec::new();
            let mut failed = None;
            let (mut next, mut certain) = (0, 0);
            for (line, what, which) in steps {
                match (what, under_way.is_empty()) {
                    (0, _) if failed != Some(line) => {
                        lines[line].join(next);
                        next += 1;
                        if which > 0 && lines[line].due().is_some() {
                            lines[line].begin();
                            under_way.push(line);
                        }
                    }
                    (1, false) => lines[under_way.remove(which % under_way.len())].ended_well(),
                    (2, false) if failed.is_none() && which == 0 => failed = Some(under_way.remove(0)),
                    _ => {}
                }
                let now: usize = lines.iter_mut().map(|l| std::iter::from_fn(|| l.next_certain()).count()).sum();
                prop_assert!(failed.is_none() || now == 0);
                certain += now;
            }
            under_way.into_iter().for_each(|line| lines[line].ended_well());
            for (i, line) in lines.iter_mut().enumerate().filter(|(i, _)| failed != Some(*i)) {
                if line.due().is_some() {
                    prop_assert!(!line.begin().is_empty(), "{i}");
                    line.ended_well();
                }
            }
            certain += lines.iter_mut().map(|l| std::iter::from_fn(|| l.next_certain()).count()).sum::<usize>();
            prop_assert!(failed.is_some() || certain == usize::from(next), "{certain} of {next}");
        }
    }
}
