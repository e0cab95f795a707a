//! What every sector of a disk must contain: the number of the last write that was answered. The bytes follow from that
//! number and the sector's own, so a stale, torn or misplaced sector is told from a good one. Knows nothing of requests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::prng::mix;

/// Bytes of a sector, whatever the disk's own unit (blkif.h).
pub const SECTOR_LEN: usize = 512;
/// Never written: all zero.
const FRESH: u32 = 0;
/// Discarded, or a write failed: anything may be there.
const UNKNOWN: u32 = u32::MAX;

/// The expected contents of a disk.
#[derive(Debug)]
pub struct Oracle {
    writes: Vec<AtomicU32>,
    next: AtomicU32,
}

/// A sector that is not what was last written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongSector {
    /// Its number.
    pub sector: u64,
    /// What it must hold, and what it holds.
    pub reason: String,
}

fn word(sector: u64, write: u32, index: u64) -> u64 {
    let base = mix(sector << 32 ^ u64::from(write));
    base.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Fills one sector with what write number `write` puts there.
fn fill(sector: u64, write: u32, out: &mut [u8]) {
    for (chunk, index) in out.chunks_exact_mut(8).zip(0u64..) {
        let value = match index {
            0 => sector,
            1 => u64::from(write),
            _ => word(sector, write, index),
        };
        chunk.copy_from_slice(&value.to_le_bytes());
    }
}

impl Oracle {
    /// A disk of zeros.
    #[must_use]
    pub fn new(sectors: u64) -> Self {
        let sectors = usize::try_from(sectors).unwrap_or(usize::MAX);
        Self { writes: (0..sectors).map(|_| AtomicU32::new(FRESH)).collect(), next: AtomicU32::new(1) }
    }

    /// The same disk with another size; what is new is zero.
    #[must_use]
    pub fn resized(&self, sectors: u64) -> Self {
        let new = Self::new(sectors);
        for (to, from) in new.writes.iter().zip(&self.writes) {
            to.store(from.load(Ordering::Acquire), Ordering::Release);
        }
        new.next.store(self.next.load(Ordering::Acquire), Ordering::Release);
        new
    }

    /// Its sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.writes.len() as u64
    }

    /// A number for a write that is about to be made.
    #[must_use]
    pub fn next_write(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The bytes of write number `write` at `sector`; `out` is whole sectors.
    pub fn fill(&self, sector: u64, write: u32, out: &mut [u8]) {
        for (part, at) in out.chunks_exact_mut(SECTOR_LEN).zip(sector..) {
            fill(at, write, part);
        }
    }

    /// A write was answered.
    pub fn written(&self, sector: u64, count: u64, write: u32) {
        self.set(sector, count, write);
    }

    /// What is there now is not known.
    pub fn forget(&self, sector: u64, count: u64) {
        self.set(sector, count, UNKNOWN);
    }

    fn set(&self, sector: u64, count: u64, write: u32) {
        for at in sector..sector + count {
            if let Some(w) = self.at(at) {
                w.store(write, Ordering::Release);
            }
        }
    }

    fn at(&self, sector: u64) -> Option<&AtomicU32> {
        self.writes.get(usize::try_from(sector).ok()?)
    }

    /// Checks what was read at `sector`; `data` is whole sectors.
    pub fn check(&self, sector: u64, data: &[u8]) -> Result<(), WrongSector> {
        let mut expected = [0u8; SECTOR_LEN];
        for (part, at) in data.chunks_exact(SECTOR_LEN).zip(sector..) {
            let write = self.at(at).map_or(UNKNOWN, |w| w.load(Ordering::Acquire));
            match write {
                UNKNOWN => continue,
                FRESH => expected.fill(0),
                _ => fill(at, write, &mut expected),
            }
            if part != expected {
                return Err(WrongSector { sector: at, reason: describe(write, part) });
            }
        }
        Ok(())
    }

    /// Checks the whole image behind the disk's back, once everything was flushed.
    pub fn check_file(&self, path: &Path) -> io::Result<Result<(), WrongSector>> {
        const CHUNK: u64 = 2048;
        let file = File::open(path)?;
        let mut data = vec![0; 2048 * SECTOR_LEN];
        let mut sector = 0;
        while sector < self.sectors() {
            let count = CHUNK.min(self.sectors() - sector);
            let len = usize::try_from(count).unwrap_or(0) * SECTOR_LEN;
            let part = data.get_mut(..len).unwrap_or_default();
            file.read_exact_at(part, sector * SECTOR_LEN as u64)?;
            if let Err(wrong) = self.check(sector, part) {
                return Ok(Err(wrong));
            }
            sector += count;
        }
        Ok(Ok(()))
    }
}

fn describe(write: u32, found: &[u8]) -> String {
    let number = |at: usize| {
        let bytes = found.get(at..at + 8).and_then(|b| b.try_into().ok()).unwrap_or_default();
        u64::from_le_bytes(bytes)
    };
    format!("must be of write {write}, says sector {} of write {}", number(0), number(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An oracle that passes everything would make every end-to-end test worthless.
    #[test]
    fn stale_torn_and_misplaced_sectors_are_wrong() {
        let oracle = Oracle::new(8);
        let (old, new) = (oracle.next_write(), oracle.next_write());
        let mut stale = vec![0; 2 * SECTOR_LEN];
        oracle.fill(2, old, &mut stale);
        let mut good = stale.clone();
        oracle.fill(2, new, &mut good);
        oracle.written(2, 2, new);
        let mut torn = good.clone();
        torn[SECTOR_LEN + 256..].copy_from_slice(&stale[SECTOR_LEN + 256..]);

        assert_eq!(oracle.check(2, &good), Ok(()));
        assert_eq!(oracle.check(2, &stale).unwrap_err().sector, 2);
        assert_eq!(oracle.check(2, &torn).unwrap_err().sector, 3);
        assert!(oracle.check(3, &good[..SECTOR_LEN]).is_err(), "misplaced");
        assert!(oracle.check(0, &good[..SECTOR_LEN]).is_err(), "not zero");
        assert_eq!(oracle.check(0, &[0; SECTOR_LEN]), Ok(()));
        oracle.forget(2, 2);
        assert_eq!(oracle.check(2, &stale), Ok(()));
    }
}
