//! An IP address or a network of them, as in a vif's `ip=`. Pure. Knows nothing of packets.

use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Addresses whose first bits are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpRange {
    /// One of them.
    pub address: IpAddr,
    /// How many bits.
    pub prefix_bits: u8,
}

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRange {
    /// Of the address.
    #[error(transparent)]
    Address(#[from] AddrParseError),
    /// Of the prefix.
    #[error("prefix: {0}")]
    Prefix(#[from] ParseIntError),
    /// More bits than the address has.
    #[error("prefix {0}: at most {1} are allowed")]
    TooLong(u8, u8),
}

impl FromStr for IpRange {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = prefix.map_or(Ok(most), str::parse)?;
        if prefix_bits > most {
            return Err(NoRange::TooLong(prefix_bits, most));
        }
        Ok(Self { address, prefix_bits })
    }
}

impl IpRange {
    /// Whether an address is one of them.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        let bits = u32::from(self.prefix_bits);
        let differ = |a: u128, b: u128, len: u32| (a ^ b).checked_shr(len.saturating_sub(bits)).unwrap_or(0);
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let word = |a: Ipv4Addr| u128::from(u32::from(a));
                differ(word(a), word(b), 32) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let word = |a: Ipv6Addr| u128::from(a);
                differ(word(a), word(b), 128) == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses, networks, everything; and texts that are none.
    #[test]
    fn ranges() {
        for (range, address, is_in) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1/24", "10.0.0.99", true),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("::/0", "fe80::1", true),
            ("fe80::1", "fe80::2", false),
        ] {
            let range: IpRange = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), is_in, "{range:?} {address}");
        }
        for text in ["", "10.0.0", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/-1", "::1/129", "::1/300", "a"] {
            assert!(text.parse::<IpRange>().is_err(), "{text}");
        }
    }
}
