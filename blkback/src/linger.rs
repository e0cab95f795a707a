//! Whether to look for a moment for what comes next before going to sleep. Worth it only while it has lately come sooner than a sleep
//! and a wake-up take; what is slow or idle costs nothing. Pure. Knows nothing of rings or disks.

/// One wait counts an eighth in the mean.
const WEIGHT: u64 = 8;
/// A wait counts as so many limits at most: after an idle hour a few short ones are enough.
const LONGEST: u64 = 8;

/// What is waited for, and how long the last waits were.
#[derive(Debug)]
pub(crate) struct Linger {
    limit_ns: u64,
    mean_ns: u64,
    since_ns: Option<u64>,
}

impl Linger {
    /// Looks for at most so long; 0 is never.
    pub(crate) fn new(limit_ns: u64) -> Self {
        Self { limit_ns, mean_ns: limit_ns, since_ns: None }
    }

    /// It is ever worth asking.
    pub(crate) fn is_on(&self) -> bool {
        self.limit_ns > 0
    }

    /// There is nothing yet: how long to look for it.
    pub(crate) fn begin(&mut self, now_ns: u64) -> u64 {
        self.since_ns.get_or_insert(now_ns);
        // A wait that was slept through was shorter than it looks, by the wake-up.
        if self.mean_ns < 2 * self.limit_ns { self.limit_ns } else { 0 }
    }

    /// It has come.
    pub(crate) fn end(&mut self, now_ns: u64) {
        if let Some(since_ns) = self.since_ns.take() {
            let wait_ns = now_ns.saturating_sub(since_ns).min(self.limit_ns * LONGEST);
            self.mean_ns = (self.mean_ns * (WEIGHT - 1) + wait_ns) / WEIGHT;
        }
    }

    /// It was lingered for in vain; now and then that is no harm.
    pub(crate) fn miss(&mut self) {
        self.mean_ns += self.limit_ns / 2;
    }

    /// A false alarm: nobody must be able to keep us awake by it.
    pub(crate) fn end_in_vain(&mut self) {
        self.mean_ns = self.limit_ns * LONGEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 50_000;

    /// Runs waits of `each_ns`; how many of them were lingered over.
    fn waits(linger: &mut Linger, now_ns: &mut u64, each_ns: u64, count: usize) -> usize {
        (0..count)
            .filter(|_| {
                let lingers = linger.begin(*now_ns) > 0;
                if lingers && each_ns > LIMIT {
                    linger.miss();
                }
                *now_ns += each_ns;
                linger.end(*now_ns);
                lingers
            })
            .count()
    }

    /// Short waits are lingered over; after a long one, or a false alarm, there is an end of it; those just too long are tried now and then.
    #[test]
    fn only_short_waits_are_lingered_over() {
        let (mut linger, mut now_ns) = (Linger::new(LIMIT), 0);
        assert_eq!(waits(&mut linger, &mut now_ns, 20_000, 10), 10);
        assert_eq!(waits(&mut linger, &mut now_ns, 3_600_000_000_000, 1), 1);
        assert!(waits(&mut linger, &mut now_ns, 150_000, 100) <= 1);
        assert!(waits(&mut linger, &mut now_ns, 20_000, 30) > 10, "after an hour, again soon");
        assert!(waits(&mut linger, &mut now_ns, 70_000, 100) < 40, "just too long for it");
        linger.end_in_vain();
        assert_eq!(linger.begin(now_ns), 0);
    }

    /// A limit of 0 switches it off.
    #[test]
    fn zero_is_never() {
        let (mut linger, mut now_ns) = (Linger::new(0), 0);
        assert_eq!(waits(&mut linger, &mut now_ns, 0, 20), 0);
    }
}
