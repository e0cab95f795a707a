//! How much of our time or log a frontend may use: a burst, and a rate at which it is given back. Knows nothing of what it is
//! used for; time is a parameter.

use std::time::Duration;

use tokio::time::Instant;

/// What is left of a burst.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    left: u32,
    burst: u32,
    each: Duration,
    /// Up to here, what was to be given back has been.
    given: Instant,
    refused: u64,
}

impl Allowance {
    /// A full one; `each` gives one back.
    #[must_use]
    pub fn new(burst: u32, each: Duration, now: Instant) -> Self {
        Self { left: burst, burst, each, given: now, refused: 0 }
    }

    /// Takes one, if there is one; then says how many were refused since the last that was not.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let each = self.each.as_nanos().max(1);
        let back = u32::try_from(now.duration_since(self.given).as_nanos() / each).unwrap_or(u32::MAX);
        if back >= self.burst - self.left {
            (self.left, self.given) = (self.burst, now);
        } else {
            self.left += back;
            self.given += self.each * back;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.refused += 1;
            return None;
        };
        self.left = left;
        Some(std::mem::take(&mut self.refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X2, X10: a flood gets the burst and then the rate, however the flood is spread.
    #[test]
    fn a_flood_gets_burst_and_rate() {
        let start = Instant::now();
        for gap_ms in [1, 7, 99] {
            let mut allowance = Allowance::new(10, Duration::from_millis(100), start);
            let taken = (0..10_000 / gap_ms)
                .filter(|n| allowance.take(start + Duration::from_millis(n * gap_ms)).is_some())
                .count();
            assert!((100..=110).contains(&taken), "{gap_ms}: {taken}");
        }
    }

    /// Whoever is slower than the rate is never refused, and a pause gives no more than the burst.
    #[test]
    fn slow_users_are_never_refused() {
        let start = Instant::now();
        let mut allowance = Allowance::new(3, Duration::from_secs(1), start);
        assert!((0..100).all(|n| allowance.take(start + Duration::from_secs(n)) == Some(0)));
        let later = start + Duration::from_secs(1000);
        let taken = (0..10).filter(|_| allowance.take(later).is_some()).count();
        assert_eq!(taken, 3);
        assert_eq!(allowance.take(later + Duration::from_secs(1)), Some(7));
    }
}
