//! What splitd writes for a disk's worker, and how it lies in a file: caps, prices, and the share last granted. Each stands there
//! twice, and a number says which copy counts: whoever writes may die at any instant and leaves a whole rule behind. Knows nothing
//! of files.
//!
//! ```text
//!  0     magic
//!  64    number of rules written │ 128  copy of the even ones │ 1024  of the odd ones
//!  1920  number of grants written │ 1984 copy of the even ones │ 2048  of the odd ones
//! ```

use crate::account::{Counting, Limits};
use crate::cost::{NR_PRICES, Prices};
use crate::gcra::{Bucket, Limit};
use crate::policy::NR_CAPS;
use crate::share::Grant;

/// Length of the file.
pub const LEN: usize = 4096;
/// First word of the file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"splitdQ\x01");
/// Words of [`Rules`].
pub const NR_RULE_WORDS: usize = NR_ACCOUNTS * NR_CAPS * 4 + 2 + NR_PRICES;
/// Words of a [`Grant`].
pub const NR_GRANT_WORDS: usize = 4;
/// The disk, its domain, its customer.
pub const NR_ACCOUNTS: usize = 3;

/// Where one thing stands twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twice {
    /// The number's offset.
    pub number_at: usize,
    /// The copies' offsets.
    pub copies_at: [usize; 2],
}

/// Of the rules.
pub const RULES: Twice = Twice { number_at: 64, copies_at: [128, 1024] };
/// Of the grant.
pub const GRANT: Twice = Twice { number_at: 1920, copies_at: [1984, 2048] };

const _: () = assert!(128 + NR_RULE_WORDS * 8 <= 1024 && 1024 + NR_RULE_WORDS * 8 <= 1920);

/// What holds until something else is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Of the disk, its domain, its customer.
    pub accounts: [Limits; NR_ACCOUNTS],
    /// How requests are counted.
    pub counting: Counting,
    /// What they cost the device.
    pub prices: Prices,
}

impl Rules {
    /// No caps.
    #[must_use]
    pub fn unlimited(prices: Prices) -> Self {
        Self { accounts: Default::default(), counting: Counting::default(), prices }
    }

    /// As words.
    #[must_use]
    pub fn words(&self) -> [u64; NR_RULE_WORDS] {
        let mut words = [0; NR_RULE_WORDS];
        let limits = self.accounts.iter().flatten();
        let buckets = limits.flat_map(|limit| [limit.sustained, limit.burst]);
        let numbers = buckets.flat_map(|bucket| [bucket.unit, bucket.slack]);
        let rest = [self.counting.iops_size_bytes, u64::from(self.counting.flush_is_op)];
        let all = numbers.chain(rest).chain(self.prices.words());
        words.iter_mut().zip(all).for_each(|(word, value)| *word = value);
        words
    }

    /// From words.
    #[must_use]
    pub fn of_words(words: &[u64; NR_RULE_WORDS]) -> Self {
        let mut next = words.iter().copied();
        let mut word = || next.next().unwrap_or_default();
        let mut bucket = || Bucket { unit: word(), slack: word() };
        let accounts =
            std::array::from_fn(|_| std::array::from_fn(|_| Limit { sustained: bucket(), burst: bucket() }));
        let counting = Counting { iops_size_bytes: word(), flush_is_op: word() != 0 };
        let prices = Prices::of_words(std::array::from_fn(|_| word()));
        Self { accounts, counting, prices }
    }
}

impl Grant {
    /// As words.
    #[must_use]
    pub const fn words(&self) -> [u64; NR_GRANT_WORDS] {
        [self.since_ns, self.base, self.rate, self.lasting_rate]
    }

    /// From words.
    #[must_use]
    pub const fn of_words([since_ns, base, rate, lasting_rate]: [u64; NR_GRANT_WORDS]) -> Self {
        Self { since_ns, base, rate, lasting_rate }
    }
}

/// Reads what counts, by a function that loads the word at an offset. `None` if whoever writes was faster twice: then what was read
/// before still holds.
pub fn read<const N: usize>(of: Twice, load: impl Fn(usize) -> u64) -> Option<(u64, [u64; N])> {
    for _ in 0..4 {
        let number = load(of.number_at);
        let at = of.copies_at[usize::from(number & 1 == 1)];
        let words = std::array::from_fn(|i| load(at + i * 8));
        if load(of.number_at) == number {
            return Some((number, words));
        }
    }
    None
}

/// What a worker says of itself, in a file of its own: its clocks, then these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Work taken.
    Spent,
    /// Pieces given to the device.
    IssuedOps,
    /// Their cost, ns.
    IssuedNs,
    /// Pieces that ended.
    DoneOps,
    /// Their cost, ns.
    DoneNs,
    /// How long they took, ns.
    LatencyNs,
    /// Pieces refused by the share.
    Refused,
    /// Requests put off by a cap.
    CapWaits,
    /// Bytes given to the device.
    Bytes,
    /// Queues that wait for the share now.
    Waiting,
}

/// Words of [`Usage`].
pub const NR_USAGE: usize = 10;
/// Where they begin.
pub const USAGE_AT: usize = 128;
/// Length of the file: clocks first.
pub const USAGE_LEN: usize = USAGE_AT + NR_USAGE * 8;

const _: () = assert!(crate::account::NR_WORDS * 8 <= USAGE_AT && Usage::Waiting as usize + 1 == NR_USAGE);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is written is what is read.
        #[test]
        fn rules_survive(words in prop::array::uniform32(any::<u64>())) {
            let mut all = [7; NR_RULE_WORDS];
            all.iter_mut().zip(words).for_each(|(to, from)| *to = from);
            all[NR_ACCOUNTS * NR_CAPS * 4 + 1] = 1;
            prop_assert_eq!(Rules::of_words(&all).words(), all);
        }
    }

    /// A writer that dies between its copy and its number leaves the old rule; one that is faster than the reader is noticed.
    #[test]
    fn a_whole_rule_at_any_instant() {
        let mut file = [0_u64; LEN / 8];
        file[GRANT.copies_at[0] / 8..][..3].copy_from_slice(&[1, 2, 3]);
        file[GRANT.copies_at[1] / 8..][..2].copy_from_slice(&[9, 9]);
        assert_eq!(read::<3>(GRANT, |at| file[at / 8]), Some((0, [1, 2, 3])));
        let calls = std::cell::Cell::new(0);
        let racing = |at: usize| {
            calls.set(calls.get() + 1);
            if at == GRANT.number_at { calls.get() } else { 5 }
        };
        assert_eq!(read::<3>(GRANT, racing), None);
    }
}
