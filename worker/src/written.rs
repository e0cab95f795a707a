//! Where a disk was written while somebody copies it: a number for each region, which grows with every write that ended there. Whoever
//! copies compares the numbers before and after; nothing is ever reset, so that nobody's look at them can lose a write. Knows nothing
//! of who copies.
//!
//! ```text
//!  0     a region's length as a power of two; 0 while nobody copies
//!  4096  region 0: writes that ended in it, u64 │ region 1 …
//! ```

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, Release};

use crate::mapped_file::MappedFile;

/// How many regions there are; the last one is all that lies behind it, too.
pub const REGIONS: usize = 1 << 20;
/// Where their numbers begin.
pub const REGIONS_AT: usize = 4096;
/// Length of the file. It is sparse: memory is taken where something was counted.
pub const LEN: usize = REGIONS_AT + REGIONS * 8;
/// Name of the file in a disk's run directory.
pub const FILE: &str = "written";
/// Smallest region, as a power of two of bytes.
pub const SHIFT_MIN: u32 = 16;
/// Largest: a shift is a number that anybody may have written there.
const SHIFT_MAX: u64 = 63;

/// The least shift by which a disk of that length has no more than [`REGIONS`].
#[must_use]
pub fn shift_for(len_bytes: u64) -> u32 {
    (SHIFT_MIN..63).find(|shift| len_bytes >> shift < REGIONS as u64).unwrap_or(63)
}

/// All queues of a disk count in it.
#[derive(Debug)]
pub struct Written(MappedFile);

impl Written {
    /// Opens the file; to be done while there still are privileges.
    pub fn open(path: &Path) -> io::Result<Self> {
        MappedFile::open(path, LEN).map(Self)
    }

    /// A write or discard of that range has ended, well or not.
    pub fn note(&self, offset_bytes: u64, len_bytes: u64) {
        let shift = self.0.u64_at(0).load(Relaxed);
        if shift == 0 || len_bytes == 0 {
            return;
        }
        let shift = shift.min(SHIFT_MAX);
        let region = |at: u64| usize::try_from(at >> shift).unwrap_or(REGIONS).min(REGIONS - 1);
        for region in region(offset_bytes)..=region(offset_bytes.saturating_add(len_bytes - 1)) {
            // Release: who reads the number finds what was written before it. Its pair is the copier's read of the file.
            self.0.u64_at(REGIONS_AT + region * 8).fetch_add(1, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Nothing is counted while nobody copies; then every region that a write touches, with the end of a large disk in the last one.
    #[test]
    fn regions_of_a_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let written = Written::open(&path).unwrap();
        written.note(0, 1 << 20);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let count = |region: usize| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, (REGIONS_AT + region * 8) as u64).unwrap();
            u64::from_le_bytes(bytes)
        };
        assert_eq!(count(0), 0);
        file.write_all_at(&16_u64.to_le_bytes(), 0).unwrap();
        written.note(65_535, 1);
        written.note(65_535, 2);
        written.note(3 << 16, (1 << 16) + 1);
        written.note(7 << 16, 0);
        assert_eq!([0, 1, 2, 3, 4, 5, 7].map(count), [2, 1, 0, 1, 1, 0, 0]);
        written.note(u64::MAX - 5, u64::MAX);
        assert_eq!(count(REGIONS - 1), 1);
        // What a hostile worker may leave there harms nobody's arithmetic.
        file.write_all_at(&u64::MAX.to_le_bytes(), 0).unwrap();
        written.note(1 << 40, 512);
        assert_eq!(fs::metadata(&path).unwrap().len(), LEN as u64);
    }

    /// A disk is cut into few enough regions, none smaller than they need be.
    #[test]
    fn regions_fit() {
        assert_eq!([0, 1 << 30, 63 << 30].map(shift_for), [16, 16, 16]);
        assert_eq!([64 << 30, 1 << 40, 1 << 46].map(shift_for), [17, 21, 27]);
        assert_eq!(u64::MAX >> shift_for(u64::MAX), REGIONS as u64 - 1);
    }
}
