//! The numbers of disks and what they are called (xen-vbd-interface(7)): `xvda` is 51712. Pure. Knows nothing of devices' nodes.

use std::fmt;
use std::str::FromStr;

/// Set in the numbers that have room for more disks and partitions than the classic ones.
const EXTENDED: u32 = 1 << 28;
const EXTENDED_DISK_MAX: u32 = (1 << 20) - 1;
const EXTENDED_PARTITION_MAX: u32 = 255;

/// One of the classic ranges of numbers: a Linux major, and how its minors are cut up.
struct Range {
    prefix: &'static str,
    major: u32,
    /// The disk that is the major's first.
    first_disk: u32,
    disks: u32,
    partition_bits: u32,
}

const RANGES: [Range; 4] = [
    Range { prefix: "xvd", major: 202, first_disk: 0, disks: 16, partition_bits: 4 },
    Range { prefix: "sd", major: 8, first_disk: 0, disks: 16, partition_bits: 4 },
    Range { prefix: "hd", major: 3, first_disk: 0, disks: 2, partition_bits: 6 },
    Range { prefix: "hd", major: 22, first_disk: 2, disks: 2, partition_bits: 6 },
];

/// A disk's number in the guest (`virtual-device`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vdev(pub u32);

/// A text that is not a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a disk: xvda…, xvda1…, hda…hdd, sda…sdp, d0p1, or a number such as 51712")]
pub struct NotADisk {
    /// The text.
    pub text: String,
}

impl Vdev {
    /// What it is called, if that name means this number and no other.
    #[must_use]
    pub fn name(self) -> Option<String> {
        let (prefix, disk, partition) = self.split()?;
        let mut name = format!("{prefix}{}", letters(disk));
        if partition > 0 {
            name.push_str(&partition.to_string());
        }
        (name.parse() == Ok(self)).then_some(name)
    }

    fn split(self) -> Option<(&'static str, u32, u32)> {
        if self.0 & EXTENDED != 0 {
            let disk = (self.0 ^ EXTENDED) >> 8;
            return (disk <= EXTENDED_DISK_MAX).then_some(("xvd", disk, self.0 & EXTENDED_PARTITION_MAX));
        }
        let (major, minor) = (self.0 >> 8, self.0 & 0xff);
        let range = RANGES.iter().find(|range| range.major == major)?;
        let disk = minor >> range.partition_bits;
        let partition = minor & ((1 << range.partition_bits) - 1);
        (disk < range.disks).then_some((range.prefix, range.first_disk + disk, partition))
    }

    fn join(prefix: &str, disk: u32, partition: u32) -> Option<Self> {
        let classic = RANGES.iter().find(|range| {
            let is_here = (range.first_disk..range.first_disk + range.disks).contains(&disk);
            range.prefix == prefix && is_here && partition >> range.partition_bits == 0
        });
        if let Some(range) = classic {
            let minor = (disk - range.first_disk) << range.partition_bits | partition;
            return Some(Self(range.major << 8 | minor));
        }
        let is_extended = prefix == "xvd" && disk <= EXTENDED_DISK_MAX && partition <= EXTENDED_PARTITION_MAX;
        is_extended.then_some(Self(EXTENDED | disk << 8 | partition))
    }

    fn find(text: &str) -> Option<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return number(text).map(Self);
        }
        if let Some((disk, partition)) = text.strip_prefix('d').and_then(numbers) {
            return Self::join("xvd", disk, partition);
        }
        let (prefix, rest) =
            ["xvd", "sd", "hd"].into_iter().find_map(|p| Some((p, text.strip_prefix(p)?)))?;
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (disk, partition) = rest.split_at_checked(digits)?;
        let partition = match partition {
            "" => 0,
            "0" => return None,
            digits => number(digits)?,
        };
        Self::join(prefix, disk_of(disk)?, partition)
    }
}

impl FromStr for Vdev {
    type Err = NotADisk;

    fn from_str(text: &str) -> Result<Self, NotADisk> {
        Self::find(text).ok_or_else(|| NotADisk { text: text.to_owned() })
    }
}

/// Its name, or its number if it has none.
impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name().unwrap_or_else(|| self.0.to_string()))
    }
}

/// A decimal number without a sign or leading zeros.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// `0p1` of `d0p1`; the partition may be missing.
fn numbers(text: &str) -> Option<(u32, u32)> {
    match text.split_once('p') {
        Some((disk, partition)) => Some((number(disk)?, number(partition)?)),
        None => Some((number(text)?, 0)),
    }
}

/// `a` is disk 0, `z` 25, `aa` 26.
fn letters(disk: u32) -> String {
    let mut letters = String::new();
    let mut rest = Some(disk);
    while let Some(disk) = rest {
        letters.extend(('a'..='z').nth(disk as usize % 26));
        rest = (disk / 26).checked_sub(1);
    }
    letters.chars().rev().collect()
}

/// Disk 0 is `a`.
fn disk_of(letters: &str) -> Option<u32> {
    let count = letters.bytes().try_fold(0_u32, |count, letter| {
        let digit = letter.is_ascii_lowercase().then(|| u32::from(letter - b'a') + 1)?;
        count.checked_mul(26)?.checked_add(digit)
    })?;
    count.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// xen-vbd-interface(7), and libxl's `libxl__device_disk_dev_number`.
    #[test]
    fn names_and_numbers_are_xens() {
        for (name, number) in [
            ("xvda", 51712),
            ("xvdb", 51728),
            ("xvda1", 51713),
            ("xvdp15", 51967),
            ("xvdq", EXTENDED | 16 << 8),
            ("xvdz", EXTENDED | 25 << 8),
            ("xvdaa", EXTENDED | 26 << 8),
            ("xvda16", EXTENDED | 16),
            ("xvdzz", EXTENDED | 701 << 8),
            ("xvdaaa3", EXTENDED | 702 << 8 | 3),
            ("hda", 768),
            ("hdb1", 833),
            ("hdc", 5632),
            ("hdd63", 5759),
            ("sda", 2048),
            ("sdp15", 2303),
        ] {
            assert_eq!(name.parse(), Ok(Vdev(number)), "{name}");
            assert_eq!(Vdev(number).to_string(), name);
        }
        assert_eq!("d0".parse(), Ok(Vdev(51712)));
        assert_eq!("d0p1".parse(), Ok(Vdev(51713)));
        assert_eq!("d16".parse(), Ok(Vdev(EXTENDED | 16 << 8)));
        assert_eq!("51712".parse(), Ok(Vdev(51712)));
    }

    /// A name for two numbers would make two disks one: such a number is shown as it is.
    #[test]
    fn a_number_without_a_name_of_its_own_is_shown_as_a_number() {
        for number in
            [0, 1, 255, EXTENDED, EXTENDED | 1, EXTENDED | 15 << 8, 1 << 29, u32::MAX, 3 << 8 | 1 << 7]
        {
            assert_eq!(Vdev(number).name(), None, "{number}");
            assert_eq!(Vdev(number).to_string().parse(), Ok(Vdev(number)));
        }
    }

    /// What is no disk is refused by name.
    #[test]
    fn other_texts_are_refused() {
        for text in [
            "", "xvd", "xvd1", "xvdA", "xvda01", "xvda0", "xvda256", "hde", "sdq", "sda16", "d", "dp1",
            "051712", "-1", "xvdé", "0xca00",
        ] {
            let error = text.parse::<Vdev>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{text}");
        }
    }

    proptest! {
        /// Whatever the number, what is shown for it leads back to it; any text is parsed or refused.
        #[test]
        fn what_is_shown_leads_back(number: u32, low in 0u32..70_000, text in "(xvd|sd|hd|d)?[a-z0-9]{0,12}") {
            for vdev in [Vdev(number), Vdev(low), Vdev(EXTENDED | number & 0xfff_ffff)] {
                prop_assert_eq!(vdev.to_string().parse(), Ok(vdev));
            }
            let _ = text.parse::<Vdev>();
        }
    }
}
