//! Whether to look for a frontend's next request for a moment before going to sleep. Worth it only while its requests have lately come
//! sooner than a sleep and a wake-up take; an idle frontend costs nothing. Pure. Knows nothing of rings.

/// How long to look, and how long the last waits were.
#[derive(Debug)]
pub(crate) struct Linger {
    limit_ns: u64,
    /// Mean of the last few waits.
    gap_ns: u64,
    since_ns: Option<u64>,
}

/// One wait counts an eighth; an endless one, as so many limits.
const WEIGHT: u64 = 8;
const LONGEST: u64 = 8;

impl Linger {
    /// Looks for at most so long; 0 never.
    pub(crate) fn new(limit_ns: u64) -> Self {
        Self { limit_ns, gap_ns: limit_ns, since_ns: None }
    }

    /// There is nothing to do; how long to look for something.
    pub(crate) fn begin(&mut self, now_ns: u64) -> u64 {
        self.since_ns = Some(now_ns);
        if self.gap_ns < self.limit_ns { self.limit_ns } else { 0 }
    }

    /// There is something to do.
    pub(crate) fn end(&mut self, now_ns: u64) {
        if let Some(since_ns) = self.since_ns.take() {
            let gap_ns = now_ns.saturating_sub(since_ns).min(self.limit_ns * LONGEST);
            self.gap_ns = (self.gap_ns * (WEIGHT - 1) + gap_ns) / WEIGHT;
        }
    }
}
