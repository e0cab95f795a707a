//! The frontend's end of a ring, for tests, the demo and benchmarks. It believes the backend as little as a hardened guest
//! driver does. Knows nothing of what a slot means or of how a notification is sent.

use crate::back::AttachError;
use crate::shared::{self, SharedMemory, Word};
use crate::sync::{Ordering, fence};
use crate::{HEADER_LEN, shape};

/// The backend's `rsp_prod` claims answers to requests that were never made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadResponses {
    /// What the backend wrote.
    pub rsp_prod: u32,
    /// Our last published request index.
    pub req_prod: u32,
}

/// The frontend's end of a ring with slots of any length.
#[derive(Debug)]
pub struct FrontRing<M> {
    mem: M,
    slot_len: usize,
    nr_slots: u32,
    req_prod_pvt: u32,
    req_prod: u32,
    rsp_cons: u32,
}

impl<M: SharedMemory> FrontRing<M> {
    /// Makes a fresh ring: both producers at 0, both sides to be told of the first entry (ring.h, `SHARED_RING_INIT`).
    pub fn new(mem: M, slot_len: usize) -> Result<Self, AttachError> {
        Self::starting_at(mem, slot_len, 0)
    }

    /// Makes a ring whose indices start at `index` instead: near the wrap, for tests. The backend has to be told.
    pub fn starting_at(mem: M, slot_len: usize, index: u32) -> Result<Self, AttachError> {
        let nr_slots = shape(mem.len(), slot_len)?;
        for (word, value) in [
            (Word::ReqProd, index),
            (Word::ReqEvent, index.wrapping_add(1)),
            (Word::RspProd, index),
            (Word::RspEvent, index.wrapping_add(1)),
        ] {
            // Relaxed: nobody else knows of the ring yet.
            shared::word(&mem, word).store(value, Ordering::Relaxed);
        }
        Ok(Self { mem, slot_len, nr_slots, req_prod_pvt: index, req_prod: index, rsp_cons: index })
    }

    /// Slots in the ring.
    #[must_use]
    pub fn nr_slots(&self) -> u32 {
        self.nr_slots
    }

    /// How many more requests fit.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.nr_slots - self.req_prod_pvt.wrapping_sub(self.rsp_cons)
    }

    /// Writes a request into the next slot, the rest of the slot zeroed, and returns its index. Call only while there is a
    /// [`free`](Self::free) slot. Nobody sees it before [`publish`](Self::publish).
    pub fn push_request(&mut self, request: &[u8]) -> u32 {
        assert!(self.free() > 0, "a request without a slot");
        let index = self.req_prod_pvt;
        shared::write_padded(&self.mem, self.offset(index), self.slot_len, request);
        self.req_prod_pvt = index.wrapping_add(1);
        index
    }

    /// Makes all pushed requests visible; true if the backend asked to be notified of one of them.
    #[must_use = "a backend that asked for it must be notified"]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.req_prod, self.req_prod_pvt);
        if old == new {
            return false;
        }
        // Release pairs with the Acquire load of req_prod in `BackRing::unconsumed`: it then sees whole requests.
        shared::word(&self.mem, Word::ReqProd).store(new, Ordering::Release);
        self.req_prod = new;
        // Pairs with the fence in `BackRing::final_check`: either it sees `new`, or we see its req_event.
        fence(Ordering::SeqCst);
        let event = shared::word(&self.mem, Word::ReqEvent).load(Ordering::Relaxed);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// How many responses wait to be consumed.
    pub fn unconsumed(&self) -> Result<u32, BadResponses> {
        // Acquire pairs with the Release store of rsp_prod in `BackRing::publish`.
        let rsp_prod = shared::word(&self.mem, Word::RspProd).load(Ordering::Acquire);
        let claimed = rsp_prod.wrapping_sub(self.rsp_cons);
        if claimed > self.req_prod.wrapping_sub(self.rsp_cons) {
            return Err(BadResponses { rsp_prod, req_prod: self.req_prod });
        }
        Ok(claimed)
    }

    /// Copies the next response's slot out and returns its index. Call only after [`unconsumed`](Self::unconsumed) said that
    /// there is one; `out` is `slot_len` bytes.
    pub fn consume(&mut self, out: &mut [u8]) -> u32 {
        assert_eq!(out.len(), self.slot_len);
        let index = self.rsp_cons;
        shared::read_slot(&self.mem, self.offset(index), out);
        self.rsp_cons = index.wrapping_add(1);
        index
    }

    /// Asks to be notified of the next response, then looks once more; true if there is one already.
    pub fn final_check(&mut self) -> Result<bool, BadResponses> {
        if self.unconsumed()? > 0 {
            return Ok(true);
        }
        shared::word(&self.mem, Word::RspEvent).store(self.rsp_cons.wrapping_add(1), Ordering::Relaxed);
        // Pairs with the fence in `BackRing::publish`: either it sees our rsp_event, or we see its rsp_prod.
        fence(Ordering::SeqCst);
        Ok(self.unconsumed()? > 0)
    }

    /// Gives the memory back.
    pub fn into_memory(self) -> M {
        self.mem
    }

    fn offset(&self, index: u32) -> usize {
        HEADER_LEN + (index & (self.nr_slots - 1)) as usize * self.slot_len
    }
}
