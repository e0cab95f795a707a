//! What a guest may send in a time (`rate`), over all queues of its vif: a virtual scheduling clock (GCRA) in one atomic word, so
//! that queues share it without a lock. Time is a parameter. Knows nothing of frames.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use worker::message::VifRate;

/// The least that may be sent at once, bytes: two of the longest frames, as the kernel's netback allows.
const LEAST_BURST_LEN_BYTES: u64 = 131_072;
/// Fraction bits of the time that a byte takes.
const FRACTION: u32 = 16;
/// Longer windows and slower rates are one byte in an hour.
const SLOWEST_BYTE: u64 = (3_600_000_000_000u64) << FRACTION;

/// The account.
#[derive(Debug, Default)]
pub struct Credit {
    /// Time of a byte in ns, with a fraction; 0 is without limit.
    byte: AtomicU64,
    /// How far ahead of now the clock may run, ns.
    burst_ns: AtomicU64,
    /// Until when what was sent is paid for, ns.
    paid_ns: AtomicU64,
}

impl Credit {
    /// A new rate. What is owed stays owed.
    pub fn set(&self, rate: Option<VifRate>) {
        let byte = match rate {
            None => 0,
            Some(rate) => {
                let window = (u128::from(rate.window_us) * 1000) << FRACTION;
                let byte = window / u128::from(rate.window_len_bytes.max(1));
                u64::try_from(byte).unwrap_or(SLOWEST_BYTE).clamp(1, SLOWEST_BYTE)
            }
        };
        let burst = rate.map_or(0, |rate| rate.window_len_bytes.max(LEAST_BURST_LEN_BYTES));
        self.burst_ns.store(time_ns(byte, burst), Relaxed);
        self.byte.store(byte, Relaxed);
    }

    /// Takes credit for a frame, or says from when on (ns) there will be enough.
    pub fn take(&self, len_bytes: u16, now_ns: u64) -> Result<(), u64> {
        let byte = self.byte.load(Relaxed);
        if byte == 0 {
            return Ok(());
        }
        let (cost_ns, burst_ns) = (time_ns(byte, len_bytes.into()), self.burst_ns.load(Relaxed));
        let mut paid_ns = self.paid_ns.load(Relaxed);
        loop {
            let next_ns = paid_ns.max(now_ns).saturating_add(cost_ns);
            if next_ns > now_ns.saturating_add(burst_ns) {
                return Err(next_ns - burst_ns);
            }
            match self.paid_ns.compare_exchange_weak(paid_ns, next_ns, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => paid_ns = other,
            }
        }
    }
}

fn time_ns(byte: u64, len_bytes: u64) -> u64 {
    u64::try_from((u128::from(byte) * u128::from(len_bytes)) >> FRACTION).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(window_len_bytes: u64, window_us: u64) -> Option<VifRate> {
        Some(VifRate { window_len_bytes, window_us })
    }

    /// Sends frames as fast as allowed from `from_ns` for `time_ns`; bytes sent.
    fn run(credit: &Credit, len: u16, from_ns: u64, time_ns: u64) -> u64 {
        let (mut now_ns, mut sent) = (from_ns, 0);
        while now_ns < from_ns + time_ns {
            match credit.take(len, now_ns) {
                Ok(()) => sent += u64::from(len),
                Err(at_ns) => now_ns = at_ns,
            }
        }
        sent
    }

    /// B10: `10Mb/s` is "62500,50000"; over ten seconds it is kept to 0.1 % beside the burst of 131,072 bytes.
    #[test]
    fn ten_megabits_are_ten_megabits() {
        let credit = Credit::default();
        credit.set(rate(62_500, 50_000));
        let sent = run(&credit, 1514, 0, 10_000_000_000) - LEAST_BURST_LEN_BYTES;
        assert!((12_487_500..=12_512_500).contains(&sent), "{sent}");
    }

    /// A change to another rate gives nobody a burst: the debt stays, and no rate means no limit.
    #[test]
    fn a_change_keeps_the_debt() {
        let credit = Credit::default();
        credit.set(rate(62_500, 50_000));
        run(&credit, 1514, 0, 1_000_000_000);
        credit.set(rate(125_000, 50_000));
        let sent = run(&credit, 1514, 1_000_000_000, 1_000_000_000);
        assert!((2_350_000..=2_640_000).contains(&sent), "{sent}");
        credit.set(None);
        assert_eq!(credit.take(60_000, 2_000_000_000), Ok(()));
    }

    proptest! {
        /// The longest frame passes under any rate, in time; nothing overflows.
        #[test]
        fn every_frame_passes_in_time(bytes: u64, window: u64, len: u16, now_ns in 0u64..u64::MAX / 4) {
            let credit = Credit::default();
            credit.set(rate(bytes, window));
            prop_assert_eq!(credit.take(len, now_ns), Ok(()));
            if let Err(at_ns) = credit.take(len, now_ns) {
                prop_assert!(at_ns > now_ns);
                prop_assert!(credit.take(len, at_ns).is_ok());
            }
        }
    }
}
