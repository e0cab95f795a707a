//! What a network interface may carry, as splitd tells its worker, and what xenstore's `rate` comes to in the same words. Knows nothing
//! of frames, nor of what was carried.

use qos::policy::{NR_NET_CAPS, NetCap};
use serde::{Deserialize, Serialize};

/// The least that may be sent at once under `rate`, bytes: two of the longest frames, as the kernel's netback allows.
const LEAST_BURST_LEN_BYTES: u64 = 131_072;
const SECOND_NS: u128 = 1_000_000_000;

/// A credit of bytes for each window (`rate` is `bytes,usec`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifRate {
    /// Credit for each window.
    pub window_len_bytes: u64,
    /// Length of a window.
    pub window_us: u64,
}

/// A cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifCap {
    /// Bits or packets each second.
    pub rate: u64,
    /// Time of a window in which that much may pass at once.
    pub window_ns: u64,
}

/// All caps of an interface, by [`NetCap`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifCaps {
    /// Its own.
    pub own: [Option<VifCap>; NR_NET_CAPS],
    /// Of all interfaces of its domain together.
    pub domain: [Option<VifCap>; NR_NET_CAPS],
}

fn at_most_u64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

impl VifRate {
    /// In bits each second, at least one.
    #[must_use]
    pub fn cap(self) -> VifCap {
        let bits = u128::from(self.window_len_bytes) * 8;
        let rate = at_most_u64(bits * 1_000_000 / u128::from(self.window_us.max(1))).max(1);
        let least_ns = at_most_u64(u128::from(LEAST_BURST_LEN_BYTES) * 8 * SECOND_NS / u128::from(rate));
        VifCap { rate, window_ns: self.window_us.saturating_mul(1000).max(least_ns) }
    }
}

impl VifCap {
    /// As a credit of bytes, for a worker that knows no caps.
    #[must_use]
    pub fn rate(self) -> VifRate {
        let window_us = (self.window_ns / 1000).max(1);
        let bits = u128::from(self.rate) * u128::from(window_us) / 1_000_000;
        VifRate { window_len_bytes: at_most_u64(bits / 8).max(1), window_us }
    }
}

impl VifCaps {
    /// What the guest may send, and nothing else.
    #[must_use]
    pub fn of_rate(rate: Option<VifRate>) -> Self {
        let mut caps = Self::default();
        caps.own[NetCap::Tx as usize] = rate.map(VifRate::cap);
        caps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B10: `10Mb/s` is "62500,50000" and `1MB/s@20ms` "20000,20000"; two of the longest frames pass at once under any rate. Back again it
    /// is the same rate; nothing overflows.
    #[test]
    fn rates_are_caps() {
        let cap = |window_len_bytes, window_us| VifRate { window_len_bytes, window_us }.cap();
        assert_eq!(cap(62_500, 50_000), VifCap { rate: 10_000_000, window_ns: 104_857_600 });
        assert_eq!(cap(20_000, 20_000).rate, 8_000_000);
        assert_eq!(cap(125_000_000, 1_000_000), VifCap { rate: 1_000_000_000, window_ns: 1_000_000_000 });
        assert_eq!(cap(1, u64::MAX).rate, 1);
        let rate = cap(62_500, 50_000).rate();
        assert!(rate.window_len_bytes == 131_071 && rate.cap().rate.abs_diff(10_000_000) < 100, "{rate:?}");
        for cap in [cap(u64::MAX, 1), cap(u64::MAX, 0), cap(0, u64::MAX)] {
            assert!(cap.rate > 0 && cap.rate().window_len_bytes > 0, "{cap:?}");
        }
    }
}
