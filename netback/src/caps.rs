//! What a vif may carry each way: its own caps over all of its queues, and those of its domain over all of its vifs, in bits and in
//! packets. What was carried stands in clocks in files that outlive the worker; that of the domain is shared with other workers. Who
//! has passed a cap pays for it afterwards, a frame at most in each queue, and nothing that is owed is ever forgiven. Time is a
//! parameter. Knows nothing of rings or taps.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use parking_lot::RwLock;
use qos::gcra::Bucket;
use qos::policy::{NR_NET_CAPS, NetCap};
use worker::mapped_file::MappedFile;
use worker::message::{VifAccounts, VifCap, VifCaps, VifSettings};
use xenbus::hv::Direction as Way;

/// The vif's own, its domain's.
const NR_ACCOUNTS: usize = 2;
/// A clock for each cap.
const FILE_LEN: usize = NR_NET_CAPS * 8;

/// Those that a frame of that way is under: in bits, in packets.
const fn caps_of(way: Way) -> [NetCap; 2] {
    match way {
        Way::FromGuest => [NetCap::Tx, NetCap::TxPackets],
        Way::ToGuest => [NetCap::Rx, NetCap::RxPackets],
    }
}

/// All caps, as they are reckoned with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits([[Bucket; NR_NET_CAPS]; NR_ACCOUNTS]);

impl Limits {
    fn of(caps: &VifCaps) -> Self {
        let bucket = |cap: Option<VifCap>| cap.map_or(Bucket::default(), |c| Bucket::of(c.rate, c.window_ns));
        Self([caps.own, caps.domain].map(|caps| caps.map(bucket)))
    }
}

/// Clocks in a file, or of this process alone.
#[derive(Debug, Default)]
struct Account {
    file: Option<MappedFile>,
    ours: [AtomicU64; NR_NET_CAPS],
}

impl Account {
    fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(|path| MappedFile::open(path, FILE_LEN)).transpose()?;
        Ok(Self { file, ours: Default::default() })
    }

    fn clock(&self, cap: NetCap) -> &AtomicU64 {
        match &self.file {
            Some(file) => file.u64_at(cap as usize * 8),
            None => &self.ours[cap as usize],
        }
    }
}

/// The caps and what was used of them.
#[derive(Debug, Default)]
pub(crate) struct Caps {
    limits: RwLock<Limits>,
    accounts: [Account; NR_ACCOUNTS],
}

impl Caps {
    /// Opens the accounts, while still privileged; a splitd of the version before knows none.
    pub(crate) fn open(accounts: Option<&VifAccounts>) -> io::Result<Self> {
        let own = Account::open(accounts.map(|files| files.own.as_path()))?;
        let domain = Account::open(accounts.map(|files| files.domain.as_path()))?;
        Ok(Self { limits: RwLock::default(), accounts: [own, domain] })
    }

    /// What holds from each queue's next batch on.
    pub(crate) fn set(&self, settings: &VifSettings) {
        let told = settings.caps.as_deref().copied();
        let caps = told.unwrap_or_else(|| VifCaps::of_rate(settings.rate));
        *self.limits.write() = Limits::of(&caps);
    }

    /// What holds for a batch, of a queue that went by `before` until now. What is owed stays owed, up to a window of the new caps: a
    /// debt at a rate that was much lower would stop everything for long. Each queue does so by itself, since one that still goes by
    /// the old ones may run a debt up again.
    pub(crate) fn look(&self, before: &mut Limits, now_ns: u64) {
        let limits = *self.limits.read();
        if limits == *before {
            return;
        }
        let changes = limits.0.iter().zip(&before.0).zip(&self.accounts);
        for ((after, before), account) in changes {
            for cap in NetCap::ALL {
                let (after, before) = (after[cap as usize], before[cap as usize]);
                if after.is_set() && before.is_set() && after != before {
                    after.take_over(account.clock(cap), now_ns);
                }
            }
        }
        *before = limits;
    }

    fn each(&self, limits: &Limits, way: Way) -> impl Iterator<Item = (Bucket, &AtomicU64, NetCap)> {
        let accounts = limits.0.into_iter().zip(&self.accounts);
        let caps = accounts.flat_map(move |(buckets, account)| {
            caps_of(way).map(|cap| (buckets[cap as usize], account.clock(cap), cap))
        });
        caps.filter(|(bucket, ..)| bucket.is_set())
    }

    /// From when on a frame may pass, ns; at most `now` if it may now.
    pub(crate) fn ready_at_ns(&self, limits: &Limits, way: Way) -> u64 {
        self.each(limits, way).map(|(bucket, clock, _)| bucket.ready_at_ns(clock)).max().unwrap_or(0)
    }

    /// A frame passes, and counts as so many packets.
    pub(crate) fn charge(&self, limits: &Limits, way: Way, len_bytes: usize, nr_packets: u64, now_ns: u64) {
        for (bucket, clock, cap) in self.each(limits, way) {
            let units = if cap.is_packets() { nr_packets } else { len_bytes as u64 * 8 };
            bucket.charge_at_ns(clock, units, now_ns);
        }
    }

    /// Both: a frame passes, or from when on it may (ns).
    pub(crate) fn take(
        &self,
        limits: &Limits,
        way: Way,
        len_bytes: usize,
        nr_packets: u64,
        now_ns: u64,
    ) -> Result<(), u64> {
        let at_ns = self.ready_at_ns(limits, way);
        if at_ns > now_ns {
            return Err(at_ns);
        }
        self.charge(limits, way, len_bytes, nr_packets, now_ns);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use worker::message::VifRate;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const WINDOW_NS: u64 = 50_000_000;

    fn set(caps: &Caps, own: &[(NetCap, u64)], domain: &[(NetCap, u64)]) {
        let mut all = VifCaps::default();
        for (place, values) in [(&mut all.own, own), (&mut all.domain, domain)] {
            for &(cap, rate) in values {
                place[cap as usize] = Some(VifCap { rate, window_ns: WINDOW_NS });
            }
        }
        caps.set(&VifSettings { caps: Some(Box::new(all)), ..VifSettings::default() });
    }

    /// What holds now, for a queue that went by nothing before.
    fn limits(caps: &Caps) -> Limits {
        let mut limits = Limits::default();
        caps.look(&mut limits, 0);
        limits
    }

    /// Frames that pass in ten seconds from `from_s` on, of senders that always have one, each in its turn.
    fn passed(senders: &[&Caps], way: Way, len_bytes: usize, nr_packets: u64, from_s: u64) -> u64 {
        let (mut now_ns, mut n) = (from_s * SECOND_NS, 0);
        while now_ns < (from_s + 10) * SECOND_NS {
            let take = |caps: &&Caps| caps.take(&limits(caps), way, len_bytes, nr_packets, now_ns);
            let waits: Vec<u64> = senders.iter().filter_map(|caps| take(caps).err()).collect();
            n += (senders.len() - waits.len()) as u64;
            if waits.len() == senders.len() {
                now_ns = waits.into_iter().min().unwrap();
            }
        }
        n
    }

    /// `got` is at most `allowed` and a window of it, and a frame for each of `senders`; and no less than `allowed`.
    fn assert_kept(got: u64, allowed: u64, senders: u64) {
        let most = allowed + allowed / 200 + 1 + senders;
        assert!((allowed..=most).contains(&got), "{got}: {allowed} to {most} are right");
    }

    /// Ten seconds of each cap, each way, from one queue or from four that ask in turns: exact beside the first window. The other
    /// way is not under it.
    #[test]
    fn every_cap_is_kept_over_all_queues() {
        let ways =
            [(Way::FromGuest, NetCap::Tx, NetCap::TxPackets), (Way::ToGuest, NetCap::Rx, NetCap::RxPackets)];
        for (way, bits, packets) in ways {
            let other = if way == Way::FromGuest { Way::ToGuest } else { Way::FromGuest };
            for queues in [1, 4] {
                let caps = Caps::default();
                set(&caps, &[(bits, 12_112_000)], &[]);
                // 1,514 bytes are 12,112 bits.
                assert_kept(passed(&vec![&caps; queues], way, 1514, 1, 0), 10_000, queues as u64);
                assert_eq!(caps.ready_at_ns(&limits(&caps), other), 0);
                set(&caps, &[(packets, 1000)], &[]);
                assert_kept(passed(&vec![&caps; queues], way, 60, 1, 20), 10_000, queues as u64);
                // Uncut TCP is as many packets as it will be cut into.
                assert_kept(passed(&vec![&caps; queues], way, 60_000, 42, 40), 10_000 / 42, queues as u64);
            }
        }
    }

    /// A domain's interfaces share its account, and each keeps its own besides; workers that are killed and started again bring no burst.
    #[test]
    fn a_domains_interfaces_share_one_account() {
        let dir = tempfile::tempdir().unwrap();
        let open = |own: &str| {
            let files = VifAccounts { own: dir.path().join(own), domain: dir.path().join("net-u") };
            let caps = Caps::open(Some(&files)).unwrap();
            set(&caps, &[(NetCap::TxPackets, 800)], &[(NetCap::TxPackets, 1000)]);
            caps
        };
        let (a, b) = (open("a"), open("b"));
        assert_kept(passed(&[&a, &b], Way::FromGuest, 60, 1, 10), 10_000, 2);
        drop((a, b));
        let (a, b) = (open("a"), open("b"));
        let again = passed(&[&a, &b], Way::FromGuest, 60, 1, 20);
        assert!((9_990..=10_002).contains(&again), "{again}");
        assert_kept(passed(&[&a], Way::FromGuest, 60, 1, 40), 8_000, 1);
    }

    /// B10: a splitd of the version before says `rate` alone: `10Mb/s` is "62500,50000", beside the burst of 131,072 bytes.
    #[test]
    fn ten_megabits_are_ten_megabits() {
        let caps = Caps::default();
        let rate = Some(VifRate { window_len_bytes: 62_500, window_us: 50_000 });
        caps.set(&VifSettings { rate, ..VifSettings::default() });
        let sent = passed(&[&caps], Way::FromGuest, 1514, 1, 0) * 1514 - 131_072;
        assert!((12_487_500..=12_512_500).contains(&sent), "{sent}");
    }

    /// A change to another rate gives nobody a burst: the debt stays; and no cap means no limit, at once.
    #[test]
    fn a_change_keeps_the_debt() {
        let caps = Caps::default();
        set(&caps, &[(NetCap::Rx, 10_000_000)], &[]);
        let mut seen = limits(&caps);
        passed(&[&caps], Way::ToGuest, 1250, 1, 0);
        set(&caps, &[(NetCap::Rx, 20_000_000)], &[]);
        caps.look(&mut seen, 10 * SECOND_NS);
        let frames = passed(&[&caps], Way::ToGuest, 1250, 1, 10);
        assert!((19_990..=20_002).contains(&frames), "{frames}");
        set(&caps, &[], &[]);
        assert_eq!(caps.take(&limits(&caps), Way::ToGuest, 60_000, 1, 20 * SECOND_NS), Ok(()));
    }

    /// A debt of hours at a rate of a byte in a second is none of hours at another: the change counts at once, without a burst; but
    /// settings that come again as they were forgive nothing.
    #[test]
    fn a_change_from_a_crawl_counts_at_once() {
        let caps = Caps::default();
        let rate = |window_len_bytes| VifSettings {
            rate: Some(VifRate { window_len_bytes, window_us: 1_000_000 }),
            ..VifSettings::default()
        };
        caps.set(&rate(1));
        let mut seen = limits(&caps);
        while caps.take(&seen, Way::FromGuest, 1514, 1, SECOND_NS).is_ok() {}
        caps.set(&rate(1));
        caps.look(&mut seen, 10 * SECOND_NS);
        assert!(caps.ready_at_ns(&seen, Way::FromGuest) > 10 * SECOND_NS);
        caps.set(&rate(1_514_000));
        caps.look(&mut seen, 10 * SECOND_NS);
        let frames = passed(&[&caps], Way::FromGuest, 1514, 1, 10);
        assert!((9_999..=10_001).contains(&frames), "{frames}");
    }

    proptest! {
        /// The longest frame passes under any caps, in time; nothing overflows.
        #[test]
        fn every_frame_passes_in_time(
            caps in prop::array::uniform8(prop::option::of((1u64.., any::<u64>()))),
            len in 0usize..65_536,
            nr_packets in 1u64..65_536,
            now_ns in 0u64..1 << 60,
        ) {
            let cap = |i: usize| caps[i].map(|(rate, window_ns)| VifCap { rate, window_ns });
            let all = VifCaps { own: [0, 1, 2, 3].map(cap), domain: [4, 5, 6, 7].map(cap) };
            let caps = Caps::default();
            caps.set(&VifSettings { caps: Some(Box::new(all)), ..VifSettings::default() });
            for way in [Way::FromGuest, Way::ToGuest] {
                prop_assert_eq!(caps.take(&limits(&caps), way, len, nr_packets, now_ns), Ok(()));
                if let Err(at_ns) = caps.take(&limits(&caps), way, len, nr_packets, now_ns) {
                    prop_assert!(at_ns > now_ns);
                    prop_assert!(caps.take(&limits(&caps), way, len, nr_packets, at_ns).is_ok());
                }
            }
        }
    }
}
