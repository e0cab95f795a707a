//! A cap as a virtual scheduling clock (GCRA) in atomic words that any number of threads and processes may share: how far what
//! was taken is paid for. Debt is never forgiven, and never more than one request a taker. Time is a parameter. Knows nothing of
//! what is capped.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::policy::effective::CapRule;

/// Parts of a nanosecond that the clock counts: whole ones would be 0.1 % off at a million operations a second.
pub const TICKS_PER_NS: u64 = 16;
/// Fraction bits of the time that a unit takes.
const FRACTION: u32 = 20;
/// What may pass at once where no burst is set: enough for a thread that wakes late.
const PLAIN_SLACK_NS: u64 = 10_000_000;
/// What may pass at once at a burst's own rate: a tenth of a second, as with QEMU.
const BURST_SLACK_NS: u64 = 100_000_000;
/// Units in which operations are counted, so that a larger one can count as a fraction more.
pub const UNITS_PER_OP: u64 = 1024;

/// One bucket's parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Ticks that a unit takes, with a fraction; 0 is without limit.
    pub unit: u64,
    /// How far the clock may be ahead, ticks.
    pub slack: u64,
}

/// A cap's parameters: its rate, and a burst's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// In the long run.
    pub sustained: Bucket,
    /// During a burst.
    pub burst: Bucket,
}

/// A cap's two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clocks<'a> {
    /// Of the rate.
    pub sustained: &'a AtomicU64,
    /// Of the burst.
    pub burst: &'a AtomicU64,
}

impl Bucket {
    /// Of a rate, and how long a pause may be made up for at once.
    #[must_use]
    pub fn of(units_per_s: u64, slack_ns: u64) -> Self {
        let second = u128::from(1_000_000_000 * TICKS_PER_NS) << FRACTION;
        let unit = second / u128::from(units_per_s.max(1));
        Self {
            unit: u64::try_from(unit).unwrap_or(u64::MAX).max(1),
            slack: slack_ns.saturating_mul(TICKS_PER_NS),
        }
    }

    fn ticks(self, units: u64) -> u64 {
        u64::try_from((u128::from(self.unit) * u128::from(units)) >> FRACTION).unwrap_or(u64::MAX / 4)
    }

    /// From when on, in ticks, something may pass.
    fn ready_at(self, clock: &AtomicU64) -> u64 {
        if self.unit == 0 { 0 } else { clock.load(Relaxed).saturating_sub(self.slack) }
    }

    /// Something is limited.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.unit != 0
    }

    /// From when on, in ns, something may pass, for whoever has this one clock alone.
    #[must_use]
    pub fn ready_at_ns(self, clock: &AtomicU64) -> u64 {
        self.ready_at(clock).div_ceil(TICKS_PER_NS)
    }

    /// Likewise: what passes at `now_ns` is paid for.
    pub fn charge_at_ns(self, clock: &AtomicU64, units: u64, now_ns: u64) {
        self.charge(clock, units, now_ns.saturating_mul(TICKS_PER_NS));
    }

    /// What was charged at another rate may have the clock far ahead; from now on it owes a window of this one at most.
    pub fn take_over(self, clock: &AtomicU64, now_ns: u64) {
        clock.fetch_min(now_ns.saturating_mul(TICKS_PER_NS).saturating_add(self.slack), Relaxed);
    }

    fn charge(self, clock: &AtomicU64, units: u64, now: u64) {
        if self.unit == 0 {
            return;
        }
        let ticks = self.ticks(units);
        let paid = |old: u64| Some(old.max(now).saturating_add(ticks));
        // Never fails: the closure always has an answer.
        let _ = clock.fetch_update(Relaxed, Relaxed, paid);
    }
}

impl Limit {
    /// Of a cap; operations are to be counted in [`UNITS_PER_OP`]ths.
    #[must_use]
    pub fn of(rule: &CapRule, is_iops: bool) -> Self {
        let scale = if is_iops { UNITS_PER_OP } else { 1 };
        let units = |rate: u64| rate.saturating_mul(scale);
        let Some(burst_rate) = rule.burst_rate else {
            return Self {
                sustained: Bucket::of(units(rule.rate), PLAIN_SLACK_NS),
                burst: Bucket::default(),
            };
        };
        // A burst's length at its rate fills the bucket that drains at the cap's.
        let slack_ns = u128::from(rule.burst_len_ns) * u128::from(burst_rate) / u128::from(rule.rate.max(1));
        let sustained = Bucket::of(units(rule.rate), u64::try_from(slack_ns).unwrap_or(u64::MAX));
        // Within a second there is no time for a rate: QEMU has no second bucket there.
        let has_rate = rule.burst_len_ns > 1_000_000_000;
        let burst = if has_rate { Bucket::of(units(burst_rate), BURST_SLACK_NS) } else { Bucket::default() };
        Self { sustained, burst }
    }

    /// Something is limited.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.sustained.is_set()
    }

    /// From when on, in ns, something may pass; at most `now_ns` if it may now.
    #[must_use]
    pub fn ready_at_ns(&self, clocks: Clocks<'_>) -> u64 {
        let at = self.sustained.ready_at(clocks.sustained).max(self.burst.ready_at(clocks.burst));
        at.div_ceil(TICKS_PER_NS)
    }

    /// How long the next place after so many units is away, ns, by the clock that is further ahead.
    #[must_use]
    pub fn takes_ns(&self, clocks: Clocks<'_>, units: u64) -> u64 {
        let by_burst = self.burst.ready_at(clocks.burst) > self.sustained.ready_at(clocks.sustained);
        let bucket = if by_burst { self.burst } else { self.sustained };
        bucket.ticks(units) / TICKS_PER_NS
    }

    /// What passes at `now_ns` is paid for.
    pub fn charge(&self, clocks: Clocks<'_>, units: u64, now_ns: u64) {
        let now = now_ns.saturating_mul(TICKS_PER_NS);
        self.sustained.charge(clocks.sustained, units, now);
        self.burst.charge(clocks.burst, units, now);
    }

    /// Share of a burst that is left, parts of a million; `None` without one.
    #[must_use]
    pub fn burst_left_ppm(&self, clocks: Clocks<'_>, now_ns: u64) -> Option<u32> {
        if self.sustained.unit == 0 || self.sustained.slack <= PLAIN_SLACK_NS * TICKS_PER_NS {
            return None;
        }
        let ahead = clocks.sustained.load(Relaxed).saturating_sub(now_ns.saturating_mul(TICKS_PER_NS));
        let left = self.sustained.slack.saturating_sub(ahead);
        u32::try_from(u128::from(left) * 1_000_000 / u128::from(self.sustained.slack)).ok()
    }
}

#[cfg(test)]
mod tests;
