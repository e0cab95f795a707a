//! A queue's journal: every request that was consumed and not yet answered, in a file that outlives the worker, so that a kill at
//! any instruction costs the guest nothing but time. Process death keeps every store in program order; the Release stores below
//! are that order, and nothing is ever synced. Knows nothing of what a request's bytes mean.
//!
//! ```text
//!  take:     slot, index → entry;  state = Taken;  req_cons + 1
//!  stage:    rsp_index, status → entry;  state = Staged          (for each answer of a batch)
//!  publish:  rsp_intent = new;  slots written;  ring's rsp_prod = new;  rsp_prod = new;  states = Free
//! ```

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::crash_point;
use crate::mapped_file::MappedFile;

pub mod recover;

use recover::{EntryState, Plan, Positions, Unusable};

const MAGIC: u64 = u64::from_le_bytes(*b"splitdJ\x01");
/// Of the layout below. A successor follows its own version only; splitd drains a worker before it starts another version.
pub const VERSION: u32 = 1;

const HEADER_LEN: usize = 4096;
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 8;
const AT_VALID: usize = 12;
const AT_CONNECTION: usize = 16;
const AT_SHAPE: usize = 24;
const AT_REQ_CONS: usize = 64;
const AT_RSP_PROD: usize = 68;
const AT_RSP_INTENT: usize = 72;
const AT_ATTEMPTS: usize = 76;
const AT_SUSPECT: usize = 80;
const AT_TERMS: usize = 128;
const MAX_TERMS: usize = 64;

const ENTRY_HEADER_LEN: usize = 32;
const ENTRY_STATE: usize = 0;
const ENTRY_INDEX: usize = 4;
const ENTRY_RSP_INDEX: usize = 8;
const ENTRY_STATUS: usize = 12;
const ENTRY_EXTRA_LEN: usize = 16;
const ENTRY_DEATHS: usize = 20;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const STAGED: u32 = 2;

/// Sizes, fixed for the life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Entries: slots of the ring.
    pub nr_entries: usize,
    /// Bytes of a slot's copy.
    pub slot_len: usize,
    /// Most bytes kept beside the slot (indirect segments).
    pub extra_len: usize,
}

impl Shape {
    fn entry_len(self) -> usize {
        (ENTRY_HEADER_LEN + self.slot_len.next_multiple_of(8) + self.extra_len).next_multiple_of(64)
    }

    fn file_len(self) -> usize {
        (HEADER_LEN + self.nr_entries * self.entry_len()).next_multiple_of(4096)
    }

    fn words(self) -> [usize; 3] {
        [self.nr_entries, self.slot_len, self.extra_len]
    }
}

/// Why a journal cannot be begun or followed.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Written under other terms (ring, layout, mode) than the connection's: serving on would break what the frontend was told.
    #[error("the journal's {0} are not those of this connection")]
    Terms(&'static str),
    /// See there.
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

/// What was found for a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing: a connection that starts with an empty ring.
    Fresh,
    /// A dead predecessor's work.
    Resumed(Plan),
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: MappedFile,
    shape: Shape,
}

impl Journal {
    /// Opens or creates the file, large enough for `most`. Done while still privileged, before the connection is known.
    pub fn open(path: &Path, most: Shape) -> io::Result<Self> {
        Ok(Self { file: MappedFile::open(path, most.file_len())?, shape: most })
    }

    /// Takes over what stands in the file if it is of this very connection, or else starts it anew. `terms` are whatever the
    /// frontend was promised (ring, layout, mode, limits), as words that have to be equal; at most 64 are kept.
    ///
    /// # Panics
    /// If `shape` is larger than what the file was opened for.
    pub fn begin(
        &mut self,
        connection: u64,
        shape: Shape,
        terms: &[u32],
        shared_rsp_prod: u32,
    ) -> Result<Begun, BeginError> {
        assert!(shape.file_len() <= self.file.len() && terms.len() <= MAX_TERMS);
        self.shape = shape;
        if self.is_of(connection) {
            return self.resume(terms, shared_rsp_prod).map(Begun::Resumed);
        }
        let file = &mut self.file;
        file.u32_at(AT_VALID).store(0, Release);
        crash_point!("in_journal");
        for i in 0..shape.nr_entries {
            file.u32_at(HEADER_LEN + i * shape.entry_len() + ENTRY_STATE).store(FREE, Relaxed);
        }
        for at in [AT_REQ_CONS, AT_RSP_PROD, AT_RSP_INTENT, AT_ATTEMPTS, AT_SUSPECT] {
            file.u32_at(at).store(0, Relaxed);
        }
        for (i, word) in shape.words().into_iter().enumerate() {
            file.u64_at(AT_SHAPE + i * 8).store(word as u64, Relaxed);
        }
        for i in 0..MAX_TERMS {
            file.u32_at(AT_TERMS + i * 4).store(terms.get(i).copied().unwrap_or(0), Relaxed);
        }
        file.u64_at(AT_MAGIC).store(MAGIC, Relaxed);
        file.u32_at(AT_VERSION).store(VERSION, Relaxed);
        file.u64_at(AT_CONNECTION).store(connection, Relaxed);
        crash_point!("in_journal");
        file.u32_at(AT_VALID).store(1, Release);
        Ok(Begun::Fresh)
    }

    /// Written by this version for this connection.
    #[must_use]
    pub fn is_of(&self, connection: u64) -> bool {
        let file = &self.file;
        file.u32_at(AT_VALID).load(Acquire) == 1
            && file.u64_at(AT_MAGIC).load(Relaxed) == MAGIC
            && file.u32_at(AT_VERSION).load(Relaxed) == VERSION
            && file.u64_at(AT_CONNECTION).load(Relaxed) == connection
    }

    fn resume(&mut self, terms: &[u32], shared_rsp_prod: u32) -> Result<Plan, BeginError> {
        let same_shape =
            (0..3).all(|i| self.file.u64_at(AT_SHAPE + i * 8).load(Relaxed) == self.shape.words()[i] as u64);
        if !same_shape {
            return Err(BeginError::Terms("sizes"));
        }
        let term = |i: usize| self.file.u32_at(AT_TERMS + i * 4).load(Relaxed);
        if (0..MAX_TERMS).any(|i| term(i) != terms.get(i).copied().unwrap_or(0)) {
            return Err(BeginError::Terms("terms"));
        }
        let entries: Vec<_> = (0..self.shape.nr_entries).map(|i| self.state(i)).collect();
        let plan = recover::plan(self.positions(), &entries, shared_rsp_prod)?;
        // Entries that owe nothing go first: an index once behind req_cons would look as if it were owed.
        let owed = |i: &usize| plan.replay.contains(i) || plan.answer.iter().any(|(j, _)| j == i);
        for i in (0..self.shape.nr_entries).filter(|i| !owed(i)) {
            self.free(i);
        }
        self.file.u32_at(AT_RSP_PROD).store(plan.rsp_prod, Release);
        crash_point!("in_journal");
        self.file.u32_at(AT_RSP_INTENT).store(plan.rsp_prod, Release);
        Ok(plan)
    }

    /// The last worker crashed over what `plan` has: what it was doing alone when it did is guilty of it.
    pub fn note_crash(&self, plan: &Plan) {
        let word = |at| self.file.u32_at(at);
        let attempts = if plan.replay.is_empty() { 0 } else { self.attempts().saturating_add(1) };
        let suspect = (word(AT_SUSPECT).load(Acquire) as usize).checked_sub(1);
        if let Some(&entry) = plan.replay.iter().find(|entry| Some(**entry) == suspect) {
            word(self.at(entry) + ENTRY_DEATHS).store(self.deaths(entry).saturating_add(1), Relaxed);
        }
        word(AT_SUSPECT).store(0, Release);
        crash_point!("in_journal");
        word(AT_ATTEMPTS).store(attempts, Release);
    }

    /// How many workers in a row have crashed over what stands here.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.file.u32_at(AT_ATTEMPTS).load(Acquire)
    }

    /// How many workers have crashed while they did this entry and nothing else.
    #[must_use]
    pub fn deaths(&self, entry: usize) -> u32 {
        self.file.u32_at(self.at(entry) + ENTRY_DEATHS).load(Acquire)
    }

    /// From now on this entry alone is being done.
    pub fn suspect(&self, entry: usize) {
        self.file.u32_at(AT_SUSPECT).store(u32::try_from(entry + 1).unwrap_or(0), Release);
    }

    /// What a predecessor left is answered, or nobody crashed over it.
    pub fn caught_up(&self) {
        self.file.u32_at(AT_SUSPECT).store(0, Release);
        self.file.u32_at(AT_ATTEMPTS).store(0, Release);
    }

    /// The header's words.
    #[must_use]
    pub fn positions(&self) -> Positions {
        let word = |at| self.file.u32_at(at).load(Acquire);
        Positions {
            req_cons: word(AT_REQ_CONS),
            rsp_prod: word(AT_RSP_PROD),
            rsp_intent: word(AT_RSP_INTENT),
        }
    }

    /// What an entry says.
    #[must_use]
    pub fn state(&self, entry: usize) -> EntryState {
        let word = |at| self.file.u32_at(self.at(entry) + at).load(Acquire);
        match word(ENTRY_STATE) {
            TAKEN => EntryState::Taken { index: word(ENTRY_INDEX) },
            STAGED => EntryState::Staged {
                index: word(ENTRY_INDEX),
                rsp_index: word(ENTRY_RSP_INDEX),
                status: word(ENTRY_STATUS).cast_signed(),
            },
            _ => EntryState::Free,
        }
    }

    fn at(&self, entry: usize) -> usize {
        assert!(entry < self.shape.nr_entries);
        HEADER_LEN + entry * self.shape.entry_len()
    }

    /// Keeps a request that was just consumed at `index`, before anything is done for it.
    pub fn take(&mut self, entry: usize, index: u32, slot: &[u8]) {
        assert!(slot.len() <= self.shape.slot_len);
        let at = self.at(entry);
        self.file.write(at + ENTRY_HEADER_LEN, slot);
        crash_point!("in_journal");
        self.file.u32_at(at + ENTRY_EXTRA_LEN).store(0, Relaxed);
        self.file.u32_at(at + ENTRY_DEATHS).store(0, Relaxed);
        self.file.u32_at(at + ENTRY_INDEX).store(index, Relaxed);
        // The order that matters to a successor: bytes, then the state, then the index that makes it owed.
        self.file.u32_at(at + ENTRY_STATE).store(TAKEN, Release);
        crash_point!("in_journal");
        self.file.u32_at(AT_REQ_CONS).store(index.wrapping_add(1), Release);
    }

    /// Keeps what stood in the guest's pages beside the slot, so that a successor does exactly the same.
    pub fn keep_extra(&mut self, entry: usize, extra: &[u8]) {
        assert!(extra.len() <= self.shape.extra_len);
        let at = self.at(entry);
        self.file.write(at + ENTRY_HEADER_LEN + self.shape.slot_len.next_multiple_of(8), extra);
        let len = u32::try_from(extra.len()).unwrap_or(0);
        crash_point!("in_journal");
        self.file.u32_at(at + ENTRY_EXTRA_LEN).store(len, Release);
    }

    /// The kept slot.
    pub fn slot(&self, entry: usize, out: &mut [u8]) {
        let len = out.len().min(self.shape.slot_len);
        self.file.read(self.at(entry) + ENTRY_HEADER_LEN, &mut out[..len]);
    }

    /// What was kept beside the slot, if anything: `out` filled from its start, and how much of it.
    pub fn extra(&self, entry: usize, out: &mut [u8]) -> usize {
        let at = self.at(entry);
        let len = self.file.u32_at(at + ENTRY_EXTRA_LEN).load(Acquire) as usize;
        let len = len.min(self.shape.extra_len).min(out.len());
        self.file.read(at + ENTRY_HEADER_LEN + self.shape.slot_len.next_multiple_of(8), &mut out[..len]);
        len
    }

    /// An answer is about to be written at `rsp_index`.
    pub fn stage(&self, entry: usize, rsp_index: u32, status: i32) {
        let at = self.at(entry);
        self.file.u32_at(at + ENTRY_RSP_INDEX).store(rsp_index, Relaxed);
        self.file.u32_at(at + ENTRY_STATUS).store(status.cast_unsigned(), Relaxed);
        crash_point!("in_journal");
        self.file.u32_at(at + ENTRY_STATE).store(STAGED, Release);
    }

    /// All answers below `rsp_prod` are staged; the ring's index is stored next.
    pub fn intend(&self, rsp_prod: u32) {
        crash_point!("in_journal");
        self.file.u32_at(AT_RSP_INTENT).store(rsp_prod, Release);
    }

    /// The ring's index was stored.
    pub fn published(&self, rsp_prod: u32) {
        self.file.u32_at(AT_RSP_PROD).store(rsp_prod, Release);
    }

    /// The entry's answer is published.
    pub fn free(&self, entry: usize) {
        crash_point!("in_journal");
        self.file.u32_at(self.at(entry) + ENTRY_STATE).store(FREE, Release);
    }

    /// The connection ended in order: nothing is owed, and nobody resumes it.
    pub fn end(&self) {
        self.file.u32_at(AT_VALID).store(0, Release);
    }
}

#[cfg(test)]
mod tests;
