//! What a request takes from an account: which caps it is under, and how much of each. Knows nothing of where the clocks stand.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cost::Op;
use crate::gcra::{Clocks, Limit, UNITS_PER_OP};
use crate::policy::effective::Caps;
use crate::policy::{Cap, NR_CAPS};

/// Atomic words of an account: two clocks for each cap.
pub const NR_CLOCKS: usize = 2 * NR_CAPS;
/// After them, the word that says how far ahead the places of those that wait are given away; see [`Place`].
pub const LINE: usize = NR_CLOCKS;
/// All words of an account.
pub const NR_WORDS: usize = NR_CLOCKS + 1;
/// Places are given away so far ahead: one that nobody comes for any more, as its worker died, delays others by no more.
const LINE_NS_MAX: u64 = 250_000_000;
/// How often one that waits for a cap looks whether another holds.
const LOOK_NS: u64 = 200_000_000;
/// A discard of that many bytes is one write.
const DISCARD_UNIT_BYTES: u64 = 8 << 20;

/// An account's caps.
pub type Limits = [Limit; NR_CAPS];

/// From a policy's.
#[must_use]
pub fn limits(caps: &Caps) -> Limits {
    Cap::ALL.map(|cap| {
        let rule = caps[cap as usize].as_ref();
        rule.map_or(Limit::default(), |told| Limit::of(&told.value, cap.is_iops()))
    })
}

/// How requests are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counting {
    /// A larger one counts as several; 0: every one as one.
    pub iops_size_bytes: u64,
    /// A flush is one, too.
    pub flush_is_op: bool,
}

/// What a request takes of a cap; 0 where it is not under it.
fn units(cap: Cap, op: Op, len_bytes: u64, counting: Counting) -> u64 {
    let is_read = op == Op::Read;
    let concerns = match cap {
        Cap::ReadIops | Cap::ReadBytes => is_read,
        Cap::WriteIops | Cap::WriteBytes => !is_read,
        Cap::TotalIops | Cap::TotalBytes => true,
    };
    match (concerns, cap.is_iops(), op) {
        (false, _, _) | (_, false, Op::Discard | Op::Flush) => 0,
        (_, true, Op::Flush) => u64::from(counting.flush_is_op) * UNITS_PER_OP,
        (_, true, Op::Discard) => len_bytes.div_ceil(DISCARD_UNIT_BYTES).max(1) * UNITS_PER_OP,
        (_, false, _) => len_bytes,
        (_, true, _) if counting.iops_size_bytes == 0 => UNITS_PER_OP,
        (_, true, _) => (len_bytes.saturating_mul(UNITS_PER_OP) / counting.iops_size_bytes).max(UNITS_PER_OP),
    }
}

/// From when on a request may pass, ns.
pub fn ready_at_ns<'a>(
    limits: &Limits,
    op: Op,
    counting: Counting,
    clock: impl Fn(usize) -> &'a AtomicU64,
) -> u64 {
    let mut at_ns = 0;
    for cap in Cap::ALL {
        let (i, limit) = (cap as usize, &limits[cap as usize]);
        if limit.is_set() && units(cap, op, 1, counting) > 0 {
            at_ns = at_ns.max(limit.ready_at_ns(Clocks { sustained: clock(2 * i), burst: clock(2 * i + 1) }));
        }
    }
    at_ns
}

/// A request that asks whether it may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What it is.
    pub op: Op,
    /// Its length.
    pub len_bytes: u64,
    /// When it was taken.
    pub taken_ns: u64,
}

/// When one that a cap makes wait is to ask again, among all that wait for the same cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    at_ns: u64,
}

impl Place {
    /// When to ask again, for who cannot pass before `at_ns`, as [`ready_at_ns`] told: at a time of its own, so that not all that wait
    /// wake for each place there is; and now and then, as another cap may hold since. It is no promise: what may pass is for the
    /// clocks to say.
    pub fn ask_again_ns<'a>(
        &mut self,
        limits: &Limits,
        ask: Ask,
        counting: Counting,
        (at_ns, now_ns): (u64, u64),
        word: impl Fn(usize) -> &'a AtomicU64,
    ) -> u64 {
        if self.at_ns <= now_ns || self.at_ns < at_ns {
            self.at_ns = take_place_ns(limits, ask, counting, at_ns, word);
        }
        self.at_ns.min(now_ns.saturating_add(LOOK_NS))
    }
}

fn take_place_ns<'a>(
    limits: &Limits,
    ask: Ask,
    counting: Counting,
    at_ns: u64,
    word: impl Fn(usize) -> &'a AtomicU64,
) -> u64 {
    let mut takes_ns = 0;
    for cap in Cap::ALL {
        let (i, limit) = (cap as usize, &limits[cap as usize]);
        let clocks = Clocks { sustained: word(2 * i), burst: word(2 * i + 1) };
        let units = units(cap, ask.op, ask.len_bytes, counting);
        if limit.is_set() && units > 0 && limit.ready_at_ns(clocks) >= at_ns {
            takes_ns = takes_ns.max(limit.takes_ns(clocks, units));
        }
    }
    let place = |line: u64| line.clamp(at_ns, at_ns.saturating_add(LINE_NS_MAX));
    let paid = |line: u64| Some(place(line).saturating_add(takes_ns));
    // Never fails: the closure always has an answer.
    word(LINE).fetch_update(Relaxed, Relaxed, paid).map_or(at_ns, place)
}

/// A request passes.
pub fn charge<'a>(
    limits: &Limits,
    op: Op,
    len_bytes: u64,
    counting: Counting,
    now_ns: u64,
    clock: impl Fn(usize) -> &'a AtomicU64,
) {
    for cap in Cap::ALL {
        let (i, limit) = (cap as usize, &limits[cap as usize]);
        let units = units(cap, op, len_bytes, counting);
        if limit.is_set() && units > 0 {
            limit.charge(Clocks { sustained: clock(2 * i), burst: clock(2 * i + 1) }, units, now_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::effective::{CapRule, Told};

    fn account() -> [AtomicU64; NR_CLOCKS] {
        Default::default()
    }

    fn only(cap: Cap, rate: u64) -> Limits {
        let mut caps = Caps::default();
        let value = CapRule { rate, burst_rate: None, burst_len_ns: 0 };
        caps[cap as usize] = Some(Told { value, origin: String::new() });
        limits(&caps)
    }

    /// What passes in ten seconds of requests like this.
    fn passed(limits: &Limits, op: Op, len_bytes: u64) -> u64 {
        let counting = Counting { iops_size_bytes: 256 << 10, flush_is_op: false };
        let (clocks, mut now_ns, mut n) = (account(), 0, 0);
        while now_ns < 10_000_000_000 && n < 1_000_000 {
            charge(limits, op, len_bytes, counting, now_ns, |i| &clocks[i]);
            n += 1;
            now_ns = now_ns.max(ready_at_ns(limits, op, counting, |i| &clocks[i]));
        }
        n
    }

    /// A guest whose kernel merges its requests gets no more bytes through a cap on operations than one whose does not.
    #[test]
    fn merging_evades_nothing() {
        let limits = only(Cap::TotalIops, 1000);
        let small = passed(&limits, Op::Read, 4096);
        let large = passed(&limits, Op::Read, 1 << 20);
        assert!(small.abs_diff(10_011) < 5 && large.abs_diff(10_011 / 4) < 5, "{small} {large}");
    }

    /// Reads pass a cap on writes, writes one on reads; a discard is a write or many, never bytes; a flush passes.
    #[test]
    fn who_is_under_which() {
        let writes = only(Cap::WriteIops, 100);
        assert_eq!(passed(&writes, Op::Read, 4096), 1_000_000);
        assert!(passed(&writes, Op::Write, 4096) < 1005);
        assert!(passed(&writes, Op::Discard, 64 << 20) < 130);
        assert_eq!(passed(&writes, Op::Flush, 0), 1_000_000);
        assert_eq!(passed(&only(Cap::TotalBytes, 1 << 20), Op::Discard, 1 << 30), 1_000_000);
        assert!(passed(&only(Cap::ReadBytes, 1 << 20), Op::Read, 4096) < 2600);
    }
}
