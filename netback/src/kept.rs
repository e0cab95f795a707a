//! What a queue has taken off its rings and not answered, in a file that outlives the worker. Responses overwrite requests in place,
//! so a dead worker's successor takes those slots from here instead of from the ring. Knows nothing of what stands in a slot.
//!
//! ```text
//!  0     magic u64 │ version u32 │ valid u32 │ connection u64 │ terms u32 × 4
//!  64    tx: answered up to u32 │ taken up to u32          128   rx: likewise
//!  4096  tx slots, at their place in the ring              8192  rx slots, likewise
//! ```

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use worker::mapped_file::MappedFile;

use crate::wire::{NR_SLOTS, RX_SLOT_LEN, TX_SLOT_LEN};

const MAGIC: u64 = u64::from_le_bytes(*b"splitdN\x01");
const VERSION: u32 = 1;
const AT_VALID: usize = 12;
const AT_CONNECTION: usize = 16;
const AT_TERMS: usize = 24;
const FILE_LEN: usize = 12_288;

/// Which ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the guest.
    Tx,
    /// To the guest.
    Rx,
}

impl Side {
    fn answered_at(self) -> usize {
        match self {
            Self::Tx => 64,
            Self::Rx => 128,
        }
    }

    fn taken_at(self) -> usize {
        self.answered_at() + 4
    }

    fn slot(self, index: u32) -> (usize, usize) {
        let place = index as usize % NR_SLOTS;
        match self {
            Self::Tx => (4096 + place * TX_SLOT_LEN, TX_SLOT_LEN),
            Self::Rx => (8192 + place * RX_SLOT_LEN, RX_SLOT_LEN),
        }
    }
}

/// Where a ring is taken over: slots from `answered` up to `taken` are here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The next response.
    pub answered: u32,
    /// The next request that nobody has taken.
    pub taken: u32,
}

/// Why a connection cannot be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Nothing of this connection is here, but the rings were in use.
    #[error("the rings were in use before (rsp_prod {0}) and nothing of this connection was kept")]
    Lost(u32),
    /// The ring's `rsp_prod`, which the guest can write, is not between answered and taken.
    #[error("the ring's rsp_prod is {found}; {answered} to {taken} are possible")]
    Tampered {
        /// What stands in the ring.
        found: u32,
        /// Kept.
        answered: u32,
        /// Kept.
        taken: u32,
    },
    /// Another ring or port than the connection was made with.
    #[error("kept for other rings or ports")]
    Terms,
}

/// The file.
#[derive(Debug)]
pub struct Kept(MappedFile);

impl Kept {
    /// Opens or creates it, while still privileged.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(MappedFile::open(path, FILE_LEN)?))
    }

    /// Takes over what is kept of `connection`, or begins it. `rsp_prods` are what stands in the rings, tx first; `terms` are the
    /// rings' references and ports.
    pub fn begin(
        &mut self,
        connection: u64,
        terms: [u32; 4],
        rsp_prods: [u32; 2],
    ) -> Result<[Place; 2], Unusable> {
        let kept = &self.0;
        let is_ours = kept.u64_at(0).load(Acquire) == MAGIC
            && kept.u32_at(8).load(Relaxed) == VERSION
            && kept.u32_at(AT_VALID).load(Acquire) == 1
            && kept.u64_at(AT_CONNECTION).load(Relaxed) == connection;
        if is_ours {
            let same = |(i, &term): (usize, &u32)| kept.u32_at(AT_TERMS + i * 4).load(Relaxed) == term;
            if !terms.iter().enumerate().all(same) {
                return Err(Unusable::Terms);
            }
            let [tx, rx] = rsp_prods;
            return Ok([self.resume(Side::Tx, tx)?, self.resume(Side::Rx, rx)?]);
        }
        if let Some(&used) = rsp_prods.iter().find(|p| **p != 0) {
            return Err(Unusable::Lost(used));
        }
        kept.u32_at(AT_VALID).store(0, Release);
        for side in [Side::Tx, Side::Rx] {
            kept.u32_at(side.answered_at()).store(0, Relaxed);
            kept.u32_at(side.taken_at()).store(0, Relaxed);
        }
        for (i, term) in terms.into_iter().enumerate() {
            kept.u32_at(AT_TERMS + i * 4).store(term, Relaxed);
        }
        kept.u64_at(0).store(MAGIC, Relaxed);
        kept.u32_at(8).store(VERSION, Relaxed);
        kept.u64_at(AT_CONNECTION).store(connection, Relaxed);
        kept.u32_at(AT_VALID).store(1, Release);
        Ok([Place::default(); 2])
    }

    /// A worker may die between publishing answers and noting so: the ring knows, if it is believed inside these bounds only.
    fn resume(&self, side: Side, found: u32) -> Result<Place, Unusable> {
        let answered = self.0.u32_at(side.answered_at()).load(Acquire);
        let taken = self.0.u32_at(side.taken_at()).load(Acquire);
        let owed = taken.wrapping_sub(answered);
        if owed as usize > NR_SLOTS || found.wrapping_sub(answered) > owed {
            return Err(Unusable::Tampered { found, answered, taken });
        }
        self.0.u32_at(side.answered_at()).store(found, Release);
        Ok(Place { answered: found, taken })
    }

    /// Keeps a slot that was just taken at `index`, before anything is done with it.
    pub fn keep(&mut self, side: Side, index: u32, slot: &[u8]) {
        let (at, len) = side.slot(index);
        self.0.write(at, slot.get(..len).unwrap_or(slot));
        // The order that matters to a successor: the bytes, then the index that makes them owed.
        self.0.u32_at(side.taken_at()).store(index.wrapping_add(1), Release);
    }

    /// A kept slot.
    pub fn slot(&self, side: Side, index: u32, out: &mut [u8]) {
        let (at, len) = side.slot(index);
        if let Some(out) = out.get_mut(..len) {
            self.0.read(at, out);
        }
    }

    /// Answers up to `rsp_prod` are published.
    pub fn answered(&self, side: Side, rsp_prod: u32) {
        self.0.u32_at(side.answered_at()).store(rsp_prod, Release);
    }

    /// The connection ended in order: nobody takes it over.
    pub fn end(&self) {
        self.0.u32_at(AT_VALID).store(0, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: [u32; 4] = [8, 9, 3, 3];

    fn kept(dir: &tempfile::TempDir) -> Kept {
        Kept::open(&dir.path().join("kept-0")).unwrap()
    }

    /// A successor finds the slots that were taken and not answered, also if the last answers were published but not noted.
    #[test]
    fn a_successor_finds_what_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = kept(&dir);
        assert_eq!(first.begin(7, TERMS, [0, 0]), Ok([Place::default(); 2]));
        for index in 0..5u32 {
            first.keep(Side::Tx, index, &[u8::try_from(index).unwrap(); TX_SLOT_LEN]);
        }
        first.keep(Side::Rx, 0, &[9; RX_SLOT_LEN]);
        first.answered(Side::Tx, 2);
        drop(first);

        let mut second = kept(&dir);
        let places = second.begin(7, TERMS, [4, 0]).unwrap();

        assert_eq!(places, [Place { answered: 4, taken: 5 }, Place { answered: 0, taken: 1 }]);
        let mut slot = [0; TX_SLOT_LEN];
        second.slot(Side::Tx, 4, &mut slot);
        assert_eq!(slot, [4; TX_SLOT_LEN]);
    }

    /// The ring's index is the guest's to write: outside of what is possible it is refused, over the wrap of the index as well.
    #[test]
    fn impossible_indices_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = kept(&dir);
        kept.begin(7, TERMS, [0, 0]).unwrap();
        kept.answered(Side::Rx, u32::MAX - 1);
        for index in [u32::MAX - 1, u32::MAX, 0] {
            kept.keep(Side::Rx, index, &[1; RX_SLOT_LEN]);
        }
        assert_eq!(kept.begin(7, TERMS, [0, 0]).unwrap()[1], Place { answered: 0, taken: 1 });
        kept.answered(Side::Rx, u32::MAX - 1);
        for found in [2, u32::MAX - 2, 0x8000_0000] {
            assert!(matches!(kept.begin(7, TERMS, [0, found]), Err(Unusable::Tampered { .. })), "{found}");
        }
    }

    /// Another connection begins anew on fresh rings only; other rings are not taken over.
    #[test]
    fn only_the_same_connection_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = kept(&dir);
        assert_eq!(kept.begin(7, TERMS, [3, 0]), Err(Unusable::Lost(3)));
        kept.begin(7, TERMS, [0, 0]).unwrap();
        kept.keep(Side::Tx, 0, &[1; TX_SLOT_LEN]);
        assert_eq!(kept.begin(7, [8, 9, 3, 4], [0, 0]), Err(Unusable::Terms));
        assert_eq!(kept.begin(8, TERMS, [0, 0]), Ok([Place::default(); 2]));
        kept.end();
        assert_eq!(kept.begin(8, TERMS, [0, 5]), Err(Unusable::Lost(5)));
    }
}
