//! One queue's journal and ring as they stand whenever a worker could die, held against the model: whatever changed must be stores that
//! the model allows, in an order that it allows. Knows nothing of what a worker means by them.

use std::path::Path;
use std::rc::Rc;

use worker::journal::Journal;
use xenbus::sim::GuestPages;

use super::kept::{Entry, Kept};
use crate::queue::journal_shape;

const SLOTS: usize = 32;
/// `rsp_prod` of a ring's header (ring.h, `DEFINE_RING_TYPES`).
const RSP_PROD_AT: usize = 8;

/// What was seen last.
#[derive(Debug)]
pub(super) struct Trace {
    journal: Journal,
    ring: Rc<GuestPages>,
    seen: Kept<SLOTS>,
    /// Stores so far.
    pub(super) stores: u64,
}

impl Trace {
    pub(super) fn new(journal: &Path, ring: Rc<GuestPages>, max_indirect_segments: u16) -> Self {
        let shape = journal_shape(u32::try_from(SLOTS).expect("few"), max_indirect_segments);
        let journal = Journal::open(journal, shape).expect("a journal");
        Self { journal, ring, seen: Kept::default(), stores: 0 }
    }

    pub(super) fn look(&mut self) {
        let at = self.journal.positions();
        let mut published = [0; 4];
        assert!(self.ring.read(RSP_PROD_AT, &mut published));
        let mut now = Kept {
            entries: [Entry::Free; SLOTS],
            req_cons: at.req_cons,
            rsp_prod: at.rsp_prod,
            rsp_intent: at.rsp_intent,
            published: u32::from_le_bytes(published),
        };
        for (i, entry) in now.entries.iter_mut().enumerate() {
            *entry = self.journal.state(i).into();
        }
        if now == self.seen {
            return;
        }
        match self.seen.leads_to(&now) {
            Ok(stores) => self.stores += stores as u64,
            Err(wanted) => panic!("{wanted:?}: not in the model, from {:?} to {now:?}", self.seen),
        }
        self.seen = now;
    }
}
