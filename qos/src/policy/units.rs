//! Amounts, rates, times and percentages as an administrator writes them. Pure and total. Knows nothing of keys.

use super::fault::Rule;

/// What an amount counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Bytes each second of a disk, or bytes.
    DiskBytes,
    /// Operations each second.
    Operations,
    /// Bits each second of a network.
    NetBits,
}

impl Unit {
    const fn example(self) -> &'static str {
        match self {
            Self::DiskBytes => "\"400MB/s\"",
            Self::Operations => "20000 or \"20K\"",
            Self::NetBits => "\"500Mb/s\"",
        }
    }
}

/// Parts of a million in a percent.
const PPM_PER_PERCENT: u64 = 10_000;

/// A bare number.
pub(super) fn bare(number: i64, unit: Unit) -> Result<u64, Rule> {
    match u64::try_from(number) {
        Ok(0) => Err(Rule::Zero),
        Ok(_) if unit == Unit::NetBits => Err(Rule::NoUnitOnNet),
        Ok(number) => Ok(number),
        Err(_) => Err(Rule::NotAnAmount(unit.example())),
    }
}

/// A number with its prefix and unit; `None` for `none`.
pub(super) fn amount(text: &str, unit: Unit) -> Result<Option<u64>, Rule> {
    if text == "none" {
        return Ok(None);
    }
    if text.ends_with('%') {
        return Err(Rule::Percent);
    }
    let wrong = || Rule::NotAnAmount(unit.example());
    let (number, rest) = decimal(text).ok_or_else(wrong)?;
    let rest = rest.trim_start_matches(' ');
    let (factor, rest) = prefix(rest);
    let rest = rest.strip_suffix("/s").unwrap_or(rest);
    let times = match (rest, unit) {
        ("b", Unit::DiskBytes) => return Err(Rule::BitsOnDisk),
        ("", Unit::NetBits) => return Err(Rule::NoUnitOnNet),
        ("" | "B", Unit::DiskBytes) | ("", Unit::Operations) | ("b", Unit::NetBits) => 1,
        ("B", Unit::NetBits) => 8,
        _ => return Err(wrong()),
    };
    match number.scaled(factor * times).ok_or_else(wrong)? {
        0 => Err(Rule::Zero),
        amount => Ok(Some(amount)),
    }
}

/// A time in nanoseconds.
pub fn time_ns(text: &str) -> Result<u64, Rule> {
    let (number, rest) = decimal(text).ok_or(Rule::NotATime)?;
    let factor = match rest.trim_start_matches(' ') {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(Rule::NotATime),
    };
    number.scaled(factor).ok_or(Rule::NotATime)
}

/// A percentage in parts of a million.
pub(super) fn percent_ppm(text: &str) -> Result<u32, Rule> {
    let digits = text.strip_suffix('%').ok_or(Rule::PercentRange)?;
    let (number, rest) = decimal(digits).ok_or(Rule::PercentRange)?;
    let ppm = number.scaled(PPM_PER_PERCENT).filter(|_| rest.is_empty()).ok_or(Rule::PercentRange)?;
    match u32::try_from(ppm) {
        Ok(ppm @ 1..=1_000_000) => Ok(ppm),
        _ => Err(Rule::PercentRange),
    }
}

/// Digits, at most six of them behind a point.
#[derive(Clone, Copy)]
struct Decimal {
    millionths: u128,
}

impl Decimal {
    fn scaled(self, factor: u64) -> Option<u64> {
        u64::try_from(self.millionths.checked_mul(u128::from(factor))? / 1_000_000).ok()
    }
}

fn decimal(text: &str) -> Option<(Decimal, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, mut rest) = text.split_at(end);
    let mut millionths = whole.parse::<u64>().ok().map(|n| u128::from(n) * 1_000_000)?;
    if let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (digits, left) = after.split_at(end);
        if digits.is_empty() || digits.len() > 6 {
            return None;
        }
        millionths += u128::from(format!("{digits:0<6}").parse::<u64>().ok()?);
        rest = left;
    }
    Some((Decimal { millionths }, rest))
}

fn prefix(text: &str) -> (u64, &str) {
    const PREFIXES: [(&str, u64); 8] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    let found = PREFIXES.iter().find_map(|(name, factor)| Some((*factor, text.strip_prefix(name)?)));
    found.unwrap_or((1, text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// K is 1000, Ki is 1024, b is a bit: what Red Hat's Xen manual confuses, and systemd and xl agree on.
    #[test]
    fn amounts() {
        for (text, unit, value) in [
            ("400MB/s", Unit::DiskBytes, 400_000_000),
            ("400MiB/s", Unit::DiskBytes, 400 << 20),
            ("1G", Unit::DiskBytes, 1_000_000_000),
            ("1.5GB/s", Unit::DiskBytes, 1_500_000_000),
            ("0.000001M", Unit::DiskBytes, 1),
            ("20K", Unit::Operations, 20_000),
            ("500Mb/s", Unit::NetBits, 500_000_000),
            ("10MB/s", Unit::NetBits, 80_000_000),
            ("1 Gb/s", Unit::NetBits, 1_000_000_000),
        ] {
            assert_eq!(amount(text, unit), Ok(Some(value)), "{text}");
        }
        assert_eq!(amount("none", Unit::DiskBytes), Ok(None));
        assert_eq!(percent_ppm("99.9%"), Ok(999_000));
        assert_eq!(time_ns("50ms"), Ok(50_000_000));
    }

    proptest! {
        /// Any text is an amount or a refusal.
        #[test]
        fn total(text in "\\PC{0,24}", digits in "[0-9.]{0,30}[KMGTi]{0,3}[bB]?(/s)?%?") {
            for text in [text, digits] {
                for unit in [Unit::DiskBytes, Unit::Operations, Unit::NetBits] {
                    prop_assert!(!matches!(amount(&text, unit), Ok(Some(0))));
                }
                let _ = time_ns(&text);
                prop_assert!(percent_ppm(&text).is_ok_and(|p| p <= 1_000_000) || percent_ppm(&text).is_err());
            }
        }
    }
}
