//! What a guest set by its control ring, and the request that is being answered, in a file that outlives the worker. Orders set things
//! to values, so doing one again does no harm. Knows nothing of what an order means.
//!
//! ```text
//!  0   magic u64 │ version u32 │ valid u32 │ connection u64 │ ring reference u32 │ port u32
//!  32  answered up to u32 │ taken up to u32          64  the request taken last
//!  128 algorithm u32 │ types u32 │ mapping size u32          192  key          256  mapping
//!  4096 and on: a page for each queue, its static grants: 512 × (reference u32 │ flags u32: there, for reading alone)
//! ```

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use worker::mapped_file::MappedFile;
use worker::message::VifControlRing;

use super::list::Wanted;
use super::order::Slot;
use crate::hash::{ALL_TYPES, Hashing, MAPPING_LEN};
use crate::kept::{Place, Unusable};
use crate::static_grants::MOST_PAGES;

const MAGIC: u64 = u64::from_le_bytes(*b"splitdC\x01");
const VERSION: u32 = 1;
const AT_VALID: usize = 12;
const AT_CONNECTION: usize = 16;
const AT_TERMS: usize = 24;
const AT_ANSWERED: usize = 32;
const AT_TAKEN: usize = 36;
const AT_REQUEST: usize = 64;
const AT_HASHING: usize = 128;
const AT_KEY: usize = 192;
const AT_MAPPING: usize = 256;
const HEADER_LEN: usize = 4096;
const QUEUE_LEN: usize = MOST_PAGES * 8;
/// A page is there.
const THERE: u64 = 1 << 32;
/// It is for reading alone.
const READ_ONLY: u64 = 1 << 33;

/// The file.
#[derive(Debug)]
pub(crate) struct Kept {
    file: MappedFile,
    nr_queues: usize,
}

impl Kept {
    /// Opens or creates it, with room for so many queues, while still privileged.
    pub(crate) fn open(path: &Path, nr_queues: u16) -> io::Result<Self> {
        let nr_queues = nr_queues.into();
        Ok(Self { file: MappedFile::open(path, HEADER_LEN + nr_queues * QUEUE_LEN)?, nr_queues })
    }

    fn word(&self, at: usize) -> u32 {
        self.file.u32_at(at).load(Acquire)
    }

    fn set(&self, at: usize, value: u32) {
        self.file.u32_at(at).store(value, Release);
    }

    /// Takes over what is kept of `connection`, or begins it. `rsp_prod` is what stands in the ring.
    pub(crate) fn begin(
        &mut self,
        connection: u64,
        ring: VifControlRing,
        rsp_prod: u32,
    ) -> Result<Place, Unusable> {
        let terms = [ring.ring_ref, ring.port];
        let is_ours = self.file.u64_at(0).load(Acquire) == MAGIC
            && self.word(8) == VERSION
            && self.word(AT_VALID) == 1
            && self.file.u64_at(AT_CONNECTION).load(Relaxed) == connection;
        if is_ours {
            if terms != [self.word(AT_TERMS), self.word(AT_TERMS + 4)] {
                return Err(Unusable::Terms);
            }
            let (answered, taken) = (self.word(AT_ANSWERED), self.word(AT_TAKEN));
            // One at a time: the answer was published without a note, or it was not.
            let owed = taken.wrapping_sub(answered);
            if owed > 1 || rsp_prod.wrapping_sub(answered) > owed {
                return Err(Unusable::Tampered { found: rsp_prod, answered, taken });
            }
            self.set(AT_ANSWERED, rsp_prod);
            return Ok(Place { answered: rsp_prod, taken });
        }
        if rsp_prod != 0 {
            return Err(Unusable::Lost(rsp_prod));
        }
        self.set(AT_VALID, 0);
        for (at, value) in [(AT_ANSWERED, 0), (AT_TAKEN, 0), (AT_TERMS, terms[0]), (AT_TERMS + 4, terms[1])] {
            self.set(at, value);
        }
        self.store(&Hashing::default());
        let pages = (0..self.nr_queues).flat_map(|queue| (0..MOST_PAGES).map(move |place| (queue, place)));
        pages.for_each(|(queue, place)| self.keep_page(queue, place, None));
        self.file.u64_at(0).store(MAGIC, Relaxed);
        self.set(8, VERSION);
        self.file.u64_at(AT_CONNECTION).store(connection, Relaxed);
        self.set(AT_VALID, 1);
        Ok(Place::default())
    }

    /// Keeps a request that was just taken, before anything is done with it.
    pub(crate) fn keep(&mut self, index: u32, slot: &Slot) {
        self.file.write(AT_REQUEST, slot);
        self.set(AT_TAKEN, index.wrapping_add(1));
    }

    /// The request taken last.
    pub(crate) fn request(&self) -> Slot {
        let mut slot = Slot::default();
        self.file.read(AT_REQUEST, &mut slot);
        slot
    }

    /// What was set, before its order is answered.
    pub(crate) fn store(&mut self, hashing: &Hashing) {
        for (i, word) in [u32::from(hashing.is_on), hashing.types, hashing.size].into_iter().enumerate() {
            self.set(AT_HASHING + i * 4, word);
        }
        self.file.write(AT_KEY, &hashing.key);
        for (i, queue) in hashing.mapping.into_iter().enumerate() {
            self.set(AT_MAPPING + i * 4, queue);
        }
    }

    /// What was set.
    pub(crate) fn load(&self, nr_queues: u32) -> Hashing {
        let [is_on, types, size] = [0, 4, 8].map(|at| self.word(AT_HASHING + at));
        let mut hashing = Hashing { is_on: is_on == 1, types: types & ALL_TYPES, ..Hashing::default() };
        hashing.size = if size as usize > MAPPING_LEN { 0 } else { size };
        self.file.read(AT_KEY, &mut hashing.key);
        for (i, place) in hashing.mapping.iter_mut().enumerate() {
            *place = self.word(AT_MAPPING + i * 4).min(nr_queues.saturating_sub(1));
        }
        hashing
    }

    /// A static grant of a queue's, or none any more, at its place: before the order is answered.
    pub(crate) fn keep_page(&self, queue: usize, place: usize, page: Option<Wanted>) {
        let word = page
            .map_or(0, |page| THERE | u64::from(page.gref) | if page.is_read_only { READ_ONLY } else { 0 });
        self.file.u64_at(HEADER_LEN + queue * QUEUE_LEN + place * 8).store(word, Release);
    }

    /// What is at each place for a queue's static grants.
    pub(crate) fn pages(&self, queue: usize) -> impl Iterator<Item = Option<Wanted>> {
        let at = HEADER_LEN + queue * QUEUE_LEN;
        let words = (0..MOST_PAGES).map(move |place| self.file.u64_at(at + place * 8).load(Acquire));
        words.map(|word| {
            let [a, b, c, d, ..] = word.to_le_bytes();
            let page = Wanted { gref: u32::from_le_bytes([a, b, c, d]), is_read_only: word & READ_ONLY != 0 };
            (word & THERE != 0).then_some(page)
        })
    }

    /// Answers up to `rsp_prod` are published.
    pub(crate) fn answered(&self, rsp_prod: u32) {
        self.set(AT_ANSWERED, rsp_prod);
    }

    /// The connection ended in order: nobody takes it over.
    pub(crate) fn end(&self) {
        self.set(AT_VALID, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A successor finds what was set, and the request that had no answer, also where the answer was published but not noted.
    #[test]
    fn a_successor_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Kept::open(&dir.path().join("kept-control"), 2).unwrap();
        let page = |gref, is_read_only| Some(Wanted { gref, is_read_only });
        let pages = |kept: &Kept, queue| kept.pages(queue).enumerate().filter(|(_, p)| p.is_some()).collect();
        let ring = VifControlRing { ring_ref: 8, port: 3 };
        let mut hashing = Hashing { is_on: true, types: 5, key: [7; 40], size: 2, ..Hashing::default() };
        hashing.mapping[1] = 3;
        let mut first = open();
        assert_eq!(first.begin(7, ring, 0), Ok(Place::default()));
        first.keep(0, &[9; 16]);
        first.store(&hashing);
        first.keep_page(1, 511, page(u32::MAX, true));
        first.keep_page(1, 0, page(0, false));
        first.keep_page(0, 3, page(7, false));
        first.keep_page(0, 3, None);
        drop(first);

        let mut second = open();
        assert_eq!(second.begin(7, ring, 0), Ok(Place { answered: 0, taken: 1 }));
        assert_eq!((second.request(), second.load(4)), ([9; 16], hashing));
        assert_eq!(second.load(2).mapping[1], 1, "queues that there are");
        let found: [Vec<_>; 2] = [pages(&second, 0), pages(&second, 1)];
        assert_eq!(found, [vec![], vec![(0, page(0, false)), (511, page(u32::MAX, true))]]);
        assert_eq!(second.begin(7, ring, 1), Ok(Place { answered: 1, taken: 1 }));
        for found in [0, 2, u32::MAX] {
            assert!(matches!(second.begin(7, ring, found), Err(Unusable::Tampered { .. })), "{found}");
        }
        assert_eq!(second.begin(7, VifControlRing { port: 4, ..ring }, 1), Err(Unusable::Terms));
        second.end();
        assert_eq!(second.begin(7, ring, 1), Err(Unusable::Lost(1)));
        assert_eq!(second.begin(8, ring, 0), Ok(Place::default()));
        assert_eq!(second.load(4), Hashing::default());
        assert_eq!(pages(&second, 1) as Vec<_>, []);
    }
}
