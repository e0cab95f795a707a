//! What is to be dropped of what waits in the tap for a guest that is held to a cap. A tap keeps a thousand frames, of up to 64 KiB
//! each, and drops only then: seconds of waiting under most caps. CoDel's rule (RFC 8289) instead: a queue that has not been empty for
//! an interval is one that helps nobody, and loses a frame, then another after the interval over the root of how many it lost, until
//! it empties. A tap says of no frame since when it waits; that it is empty it says. Time is a parameter. Knows nothing of taps.

/// CoDel's 100 ms are for a queue of more than 5 ms, and of a tap one only learns that it is empty: with 100 ms one sender 20 ms away
/// that halves its window stays a seventh below its cap, with this it reaches it, ns.
const INTERVAL_NS: u64 = 500_000_000;
/// Under a low cap an interval is so many frames' time at least: a queue of a few is none.
const FRAMES: u64 = 8;
/// Who stands again within so many intervals has not learnt; it begins where it was.
const MEMORY: u64 = 8;

/// Since when the tap has not been empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    since_ns: Option<u64>,
    /// When the cap last held it back.
    held_ns: u64,
    interval_ns: u64,
    next_ns: u64,
    dropped: u32,
}

impl Backlog {
    /// Nothing waits.
    pub(crate) fn emptied(&mut self) {
        self.since_ns = None;
    }

    /// Something waits, as the cap lets nothing pass for `wait_ns`.
    pub(crate) fn stands(&mut self, now_ns: u64, wait_ns: u64) {
        self.held_ns = now_ns;
        self.interval_ns = wait_ns.saturating_mul(FRAMES).max(INTERVAL_NS);
        if self.since_ns.is_none() {
            let is_again = now_ns.saturating_sub(self.next_ns) < self.interval_ns.saturating_mul(MEMORY);
            self.dropped = if is_again { self.dropped.saturating_sub(2) } else { 0 };
            self.since_ns = Some(now_ns);
            self.next_ns = now_ns.saturating_add(self.interval_ns);
        }
    }

    /// Whether the next frame is to be dropped.
    pub(crate) fn is_over(&mut self, now_ns: u64) -> bool {
        // What is not held back by a cap any more waits for the guest or for us, and is not to be lost.
        if now_ns.saturating_sub(self.held_ns) > self.interval_ns {
            self.emptied();
        }
        if self.since_ns.is_none() || now_ns < self.next_ns {
            return false;
        }
        self.dropped = self.dropped.saturating_add(1);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let pause_ns = (self.interval_ns as f64 / f64::from(self.dropped).sqrt()) as u64;
        self.next_ns = now_ns.saturating_add(pause_ns);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A queue that is empty now and then is no backlog, however long the cap has held for.
    #[test]
    fn a_queue_that_empties_loses_nothing() {
        let mut backlog = Backlog::default();
        for now_ns in (0..9000).map(|ms| ms * MS) {
            backlog.stands(now_ns, MS);
            assert!(!backlog.is_over(now_ns), "{now_ns}");
            if now_ns % (490 * MS) == 0 {
                backlog.emptied();
            }
        }
    }

    /// RFC 8289, 5.4: the first after an interval, the next ever sooner.
    #[test]
    fn a_queue_that_stands_loses_more_and_more() {
        let mut backlog = Backlog::default();
        let mut lost = Vec::new();
        for ms in 0..2000 {
            backlog.stands(ms * MS, MS);
            if backlog.is_over(ms * MS) {
                lost.push(ms);
            }
        }
        assert_eq!(lost, [500, 1000, 1354, 1643, 1893]);
    }

    /// A cap that is taken away, or not reached any more, has nothing dropped.
    #[test]
    fn without_a_cap_nothing_is_lost() {
        let mut backlog = Backlog::default();
        (0..600).for_each(|ms| backlog.stands(ms * MS, MS));
        assert!((1100..9000).all(|ms| !backlog.is_over(ms * MS)));
    }

    /// Where a frame takes a second, eight seconds of them are no backlog.
    #[test]
    fn a_slow_cap_is_given_time() {
        let mut backlog = Backlog::default();
        let over = |s: &u64| {
            backlog.stands(s * 1000 * MS, 1000 * MS);
            backlog.is_over(s * 1000 * MS)
        };
        assert_eq!((0..17).filter(over).collect::<Vec<_>>(), [8, 16]);
    }

    /// Frames that wait, and frames carried, at the end of each ms in which the cap lets one pass, for a sender that sends one more in
    /// each round trip of 20 ms beside the queue, and half as many after a loss.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a window of hundreds
    fn sent(mut backlog: Option<Backlog>) -> (usize, usize) {
        let (mut queue, mut window, mut under_way, mut carried, mut most) =
            (0_usize, 10.0_f64, 0_usize, 0, 0);
        let (mut back, mut deaf_until) = (std::collections::VecDeque::new(), 0);
        for ms in 0..60_000_u64 {
            while back.front().is_some_and(|at| *at <= ms) {
                back.pop_front();
                under_way -= 1;
                window += 1.0 / window;
            }
            let room = (window as usize).saturating_sub(under_way).min(1000 - queue);
            (queue, under_way) = (queue + room, under_way + room);
            let mut lose = 0;
            if let Some(backlog) = &mut backlog {
                if queue == 0 {
                    backlog.emptied()
                } else {
                    backlog.stands(ms * MS, MS)
                }
                lose = usize::from(queue > 0 && backlog.is_over(ms * MS));
            }
            if lose > 0 || queue >= 1000 {
                (queue, under_way) = (queue - lose, under_way - lose);
                if ms >= deaf_until {
                    (window, deaf_until) = ((window / 2.0).max(1.0), ms + 20 + queue as u64);
                }
            }
            if queue > 0 {
                queue -= 1;
                back.push_back(ms + 20);
                carried += usize::from(ms >= 30_000);
            }
            most = if ms >= 30_000 { most.max(queue) } else { 0 };
        }
        (most, carried)
    }

    /// What it is for: a sender that minds losses fills the tap without it, and keeps within some tens of frames with it, and the cap is
    /// still reached.
    #[test]
    fn one_that_minds_losses_keeps_the_queue_short() {
        let (most, carried) = sent(None);
        assert!(most > 300 && carried > 29_900, "{most} {carried}");
        let (most, carried) = sent(Some(Backlog::default()));
        assert!(most < 40 && carried > 29_700, "{most} {carried}");
    }
}
