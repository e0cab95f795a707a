//! When a flush that the kernel ended well may be answered. The kernel tells a write error of a file to one flush of those under way
//! and success to the others, and ends them in an order of its own: so a success counts only once every flush of any queue that was
//! with the kernel at that time has been heard to have ended well, too. Knows nothing of requests or of what a failure leads to.

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
    with_kernel: Vec<(SlotId, u64)>,
    /// Ended well; certain once all below the number have.
    held: Vec<(SlotId, u64)>,
}

impl FlushLine {
    /// For a queue with so many slots.
    pub(crate) fn new(device: Arc<Flushes>, nr_slots: usize) -> Self {
        let place = device.queues.fetch_add(1, SeqCst);
        assert!(place < MAX_QUEUES, "more queues than were allowed");
        Self { device, place, with_kernel: Vec::with_capacity(nr_slots), held: Vec::with_capacity(nr_slots) }
    }

    /// A request's flush is about to be given to the kernel.
    pub(crate) fn begin(&mut self, id: SlotId) {
        // One that has its number but does not stand in `oldest` yet has not reached the kernel: nothing was told to it.
        self.with_kernel.push((id, self.device.next.fetch_add(1, SeqCst)));
        self.note_oldest();
    }

    /// It ended well. One that failed is never said to have ended: nothing that waits for it is ever certain.
    pub(crate) fn ended_well(&mut self, id: SlotId) {
        self.held.push((id, self.device.next.load(SeqCst)));
        self.device.held.fetch_add(1, SeqCst);
        self.with_kernel.retain(|(other, _)| *other != id);
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
        let oldest = self.with_kernel.iter().map(|(_, number)| *number).min().unwrap_or(NONE);
        if let Some(place) = self.device.oldest.get(self.place) {
            place.store(oldest, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn two() -> (FlushLine, FlushLine) {
        let device = Arc::new(Flushes::default());
        (FlushLine::new(Arc::clone(&device), 32), FlushLine::new(device, 32))
    }

    /// A lone flush is certain at once; one beside another of any queue is not before that one ended well; a later one does not
    /// matter to it.
    #[test]
    fn success_waits_for_older_flushes() {
        let (mut a, mut b) = two();
        a.begin(1);
        a.ended_well(1);
        assert_eq!(a.next_certain(), Some(1));

        a.begin(2);
        b.begin(7);
        b.ended_well(7);
        assert_eq!(b.next_certain(), None);
        assert!(a.is_awaited() && !b.is_awaited());
        a.begin(3);
        a.ended_well(2);
        assert_eq!(b.next_certain(), Some(7), "the third began when the seventh had ended");
        assert_eq!(a.next_certain(), None, "the third was under way");
        a.ended_well(3);
        assert_eq!([a.next_certain(), a.next_certain(), a.next_certain()], [Some(2), Some(3), None]);
        assert!(!a.is_awaited() && !b.is_awaited());
    }

    proptest! {
        /// Whatever the order in which flushes begin, end and fail: none that was under way together with a failed one, heard of
        /// or not, becomes certain after it; and without a failure each does.
        #[test]
        fn none_is_certain_beside_a_failure(steps in proptest::collection::vec((0usize..2, 0usize..3, 0usize..4), 1..60)) {
            let (a, b) = two();
            let mut lines = [a, b];
            let mut under_way: Vec<(usize, SlotId)> = Vec::new();
            let mut failed = false;
            let (mut next, mut well, mut certain) = (0, 0, 0);
            for (line, what, which) in steps {
                match (what, under_way.is_empty()) {
                    (0, _) if under_way.len() < 30 => {
                        lines[line].begin(next);
                        under_way.push((line, next));
                        next += 1;
                    }
                    (1, false) => {
                        let (line, id) = under_way.remove(which % under_way.len());
                        lines[line].ended_well(id);
                        well += 1;
                    }
                    (2, false) if !failed && which == 0 => {
                        under_way.remove(0);
                        failed = true;
                    }
                    _ => {}
                }
                let now: usize = lines.iter_mut().map(|l| std::iter::from_fn(|| l.next_certain()).count()).sum();
                prop_assert!(!failed || now == 0);
                certain += now;
            }
            for (line, id) in under_way {
                lines[line].ended_well(id);
                well += 1;
            }
            certain += lines.iter_mut().map(|l| std::iter::from_fn(|| l.next_certain()).count()).sum::<usize>();
            prop_assert!(failed || certain == well, "{certain} of {well}");
        }
    }
}
