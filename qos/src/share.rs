//! A disk's share of its device, where it is kept: in its worker. What it may use grows with time at the rate that was last granted;
//! what it used is a sum of its own. An idle disk saves nothing up. A grant stands until the next one, whatever becomes of who
//! wrote it: at first at a rate that steers the device's fill, then, if nobody is left who steers, at one that can stand for ever.
//! Knows nothing of other disks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Parts of a nanosecond of work that are counted: a share of a millionth is still exact to a thousandth.
const WORK_SHIFT: u32 = 8;
/// Rates are per 2^30 ns: a shift where a division would be.
const TIME_SHIFT: u32 = 30;
/// How far a share may be made up for by who did not wait for it.
const SLACK_NS: u64 = 2_000_000;
/// How far by who waits, and whose worker wakes late.
const LATE_NS_MAX: u64 = 500_000_000;
/// A grant that is older was left behind by who wrote it.
const FRESH_NS: u64 = 250_000_000;
/// One that stays as it is has to be written again by then.
pub const RENEW_NS: u64 = 100_000_000;

/// Work, in parts of a nanosecond of a device's whole time; wraps.
pub type Work = u64;

/// What a disk may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// From when on, ns.
    pub since_ns: u64,
    /// Up to what it might have used by then.
    pub base: Work,
    /// Work in 2^30 ns; [`Grant::OPEN_RATE`]: as much as it likes.
    pub rate: u64,
    /// The same once the grant has not been renewed for a quarter of a second; 0: no other.
    pub lasting_rate: u64,
}

impl Grant {
    /// No limit.
    pub const OPEN_RATE: u64 = u64::MAX;
    /// No limit.
    pub const OPEN: Self = Self { since_ns: 0, base: 0, rate: Self::OPEN_RATE, lasting_rate: 0 };

    /// A rate from work (ns) a second.
    #[must_use]
    pub fn rate_of(work_ns_per_s: f64) -> u64 {
        let per_unit =
            work_ns_per_s * f64::from(1_u32 << WORK_SHIFT) * (f64::from(1_u32 << TIME_SHIFT) / 1e9);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and is never negative
        let rate = per_unit as u64;
        rate.clamp(1, Self::OPEN_RATE - 1)
    }

    /// No limit.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.rate == Self::OPEN_RATE
    }

    /// What may have been used by then.
    #[must_use]
    pub fn allowed(&self, now_ns: u64) -> Work {
        let age_ns = now_ns.saturating_sub(self.since_ns);
        let fresh = in_time(self.rate, age_ns.min(FRESH_NS));
        self.base.wrapping_add(fresh).wrapping_add(in_time(self.lasting(), age_ns.saturating_sub(FRESH_NS)))
    }

    /// What might have been used by then, also before the grant was made: as if its rate had been the same already.
    fn allowed_back_then(&self, then_ns: u64) -> Work {
        if then_ns >= self.since_ns {
            return self.allowed(then_ns);
        }
        self.base.wrapping_sub(in_time(self.rate, self.since_ns - then_ns))
    }

    const fn lasting(&self) -> u64 {
        if self.lasting_rate == 0 { self.rate } else { self.lasting_rate }
    }

    /// When `work` will be allowed.
    fn when(&self, work: Work) -> u64 {
        let missing = work.wrapping_sub(self.base);
        let fresh = in_time(self.rate, FRESH_NS);
        let age_ns = if missing <= fresh {
            time_for(self.rate, missing)
        } else {
            time_for(self.lasting(), missing - fresh).saturating_add(FRESH_NS)
        };
        self.since_ns.saturating_add(age_ns)
    }

    /// The same from now on at other rates.
    #[must_use]
    pub fn at_rates(&self, rate: u64, lasting_rate: u64, now_ns: u64, spent: Work) -> Self {
        let base = if self.is_open() || self.rate == 0 { spent } else { self.allowed(now_ns) };
        Self { since_ns: now_ns, base, rate, lasting_rate }
    }
}

#[allow(clippy::cast_possible_truncation)] // wraps, as work does
fn in_time(rate: u64, time_ns: u64) -> Work {
    ((u128::from(rate) * u128::from(time_ns)) >> TIME_SHIFT) as u64
}

fn time_for(rate: u64, work: Work) -> u64 {
    let time_ns = (u128::from(work) << TIME_SHIFT).div_ceil(u128::from(rate.max(1)));
    u64::try_from(time_ns).unwrap_or(u64::MAX)
}

/// Work from nanoseconds of it.
#[must_use]
pub const fn work(cost_ns: u64) -> Work {
    cost_ns << WORK_SHIFT
}

/// Nanoseconds of work.
#[must_use]
pub const fn work_ns(work: Work) -> u64 {
    work >> WORK_SHIFT
}

/// Takes `cost_ns` for a request if the grant has it by now, or says when it will. A request larger than what is there passes once
/// and is paid for. Since `waits_ns` there has been something to do: what was allowed since then is not lost.
pub fn admit(grant: &Grant, spent: &AtomicU64, cost_ns: u64, waits_ns: u64, now_ns: u64) -> Result<(), u64> {
    let cost = work(cost_ns);
    if grant.is_open() {
        spent.fetch_add(cost, Relaxed);
        return Ok(());
    }
    let allowed = grant.allowed(now_ns);
    let waits_ns = waits_ns.clamp(now_ns.saturating_sub(LATE_NS_MAX), now_ns);
    let least = grant.allowed_back_then(waits_ns).wrapping_sub(in_time(grant.rate, SLACK_NS));
    let mut seen = spent.load(Relaxed);
    loop {
        let from = if is_before(seen, least) { least } else { seen };
        if is_before(allowed, from) {
            return Err(grant.when(from));
        }
        match spent.compare_exchange_weak(seen, from.wrapping_add(cost), Relaxed, Relaxed) {
            Ok(_) => return Ok(()),
            Err(other) => seen = other,
        }
    }
}

fn is_before(a: Work, b: Work) -> bool {
    a.wrapping_sub(b) > u64::MAX / 2 && a != b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn run(grant: &Grant, spent: &AtomicU64, cost_ns: u64, from_ns: u64, until_ns: u64) -> u64 {
        let (mut now_ns, mut passed) = (from_ns, 0);
        while now_ns < until_ns {
            match admit(grant, spent, cost_ns, now_ns, now_ns) {
                Ok(()) => passed += 1,
                Err(at) => now_ns = at,
            }
        }
        passed
    }

    /// Lesson 1 of the prototype: too few fraction bits made a lasting error. A share of a hundred-thousandth is exact to a
    /// thousandth over 100 s, one of a half to a millionth.
    #[test]
    fn small_shares_are_exact() {
        for (share, seconds) in [(0.5, 10), (0.01, 10), (0.00001, 1000)] {
            let grant = Grant { since_ns: 0, base: 0, rate: Grant::rate_of(share * 1e9), lasting_rate: 0 };
            let spent = AtomicU64::new(0);
            run(&grant, &spent, 10_000, 0, seconds * SECOND);
            let wanted = share * 1e9 * seconds as f64;
            let error = (work_ns(spent.into_inner()) as f64 - wanted).abs() - 10_000.0;
            assert!(error <= wanted * 1e-3, "{share}: {error}");
        }
    }

    /// An idle disk saves nothing up beyond what lets a late thread catch up.
    #[test]
    fn idle_time_is_gone() {
        let grant = Grant { since_ns: 0, base: 0, rate: Grant::rate_of(1e8), lasting_rate: 0 };
        let spent = AtomicU64::new(0);
        let first = run(&grant, &spent, 10_000, 0, SECOND);
        let later = run(&grant, &spent, 10_000, 1000 * SECOND, 1001 * SECOND);
        assert!(later <= first + 22, "{first} {later}");
    }

    /// Grants follow one another without a gift: a hundred changes a second add up to the mean rate.
    #[test]
    fn changes_give_nothing_away() {
        let mut grant = Grant::OPEN.at_rates(Grant::rate_of(1e8), 0, 0, 0);
        let spent = AtomicU64::new(0);
        let mut passed = 0;
        for i in 0..1000_u64 {
            let now_ns = i * 10_000_000;
            grant = grant.at_rates(
                Grant::rate_of(if i % 2 == 0 { 1e8 } else { 3e8 }),
                0,
                now_ns,
                spent.load(Relaxed),
            );
            passed += run(&grant, &spent, 10_000, now_ns, now_ns + 10_000_000);
        }
        assert!(passed.abs_diff(200_000) < 200, "{passed}");
    }

    /// Who waits and is woken late, as on a machine whose processors are busy, loses nothing of its share, however often grants follow
    /// one another meanwhile; who comes after a pause brings no more than ever.
    #[test]
    fn late_wakes_cost_nothing() {
        let mut grant = Grant::OPEN.at_rates(Grant::rate_of(1e8), 0, 0, 0);
        let spent = AtomicU64::new(0);
        let (mut now_ns, mut passed, mut wake_ns) = (0, 0, 0);
        while now_ns < 10 * SECOND {
            now_ns += 5_000_000;
            grant = grant.at_rates(Grant::rate_of(1e8), 0, now_ns, spent.load(Relaxed));
            while now_ns >= wake_ns {
                match admit(&grant, &spent, 1_000_000, 0, now_ns) {
                    Ok(()) => passed += 1,
                    Err(at_ns) => wake_ns = at_ns + 40_000_000,
                }
            }
        }
        assert!((990..=1005).contains(&passed), "{passed}");
        let pause_ns = 100 * SECOND;
        let at_once =
            (0..50).take_while(|_| admit(&grant, &spent, 1_000_000, pause_ns, pause_ns).is_ok()).count();
        assert!(at_once <= 2, "{at_once}");
    }

    /// A grant that nobody renews goes on at its other rate after a quarter of a second, for ever.
    #[test]
    fn a_grant_left_behind_has_a_rate_of_its_own() {
        let grant =
            Grant { since_ns: 0, base: 0, rate: Grant::rate_of(4e8), lasting_rate: Grant::rate_of(1e8) };
        let spent = AtomicU64::new(0);
        let fresh = run(&grant, &spent, 1_000_000, 0, FRESH_NS);
        assert!((100..=102).contains(&fresh), "{fresh}");
        let left = run(&grant, &spent, 1_000_000, FRESH_NS, FRESH_NS + 100 * SECOND);
        assert!((9_998..=10_001).contains(&left), "{left}");
    }

    proptest! {
        /// Everything passes in a time that can be computed, also where work wraps.
        #[test]
        fn liveness(rate in 1u64..u64::MAX / 2, lasting_rate in 0u64..u64::MAX / 2, start: u64, cost_ns in 1u64..1 << 40, now_ns in 0u64..1 << 55) {
            let grant = Grant { since_ns: now_ns, base: start, rate, lasting_rate };
            let spent = AtomicU64::new(start);
            prop_assert_eq!(admit(&grant, &spent, cost_ns, now_ns, now_ns), Ok(()));
            if let Err(at) = admit(&grant, &spent, cost_ns, now_ns, now_ns) {
                prop_assert!(at > now_ns);
                prop_assert!(at == u64::MAX || admit(&grant, &spent, cost_ns, at, at).is_ok());
            }
        }
    }
}
