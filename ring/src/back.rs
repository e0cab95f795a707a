//! The backend's end of a ring. Its own indices are private and never read back from the shared page. Knows nothing of
//! what a slot means or of how a notification is sent.

use crate::shared::{self, SharedMemory, Word};
use crate::sync::{Ordering, fence};
use crate::{HEADER_LEN, shape};

/// Where a backend stands in a ring: taken over from its journal, or all zero on a fresh ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indices {
    /// The next request to consume.
    pub req_cons: u32,
    /// The next response to write; everything below is published.
    pub rsp_prod: u32,
}

/// The frontend's `req_prod` claims more requests than the ring has slots (hostile case R1, R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// What the frontend wrote.
    pub req_prod: u32,
    /// Our last response index.
    pub rsp_prod: u32,
    /// Slots in the ring.
    pub nr_slots: u32,
}

/// Why a ring cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// Not 1 to 16 whole pages, or not a slot length that is a positive multiple of 4 and at most
    /// [`MAX_SLOT_LEN`](crate::MAX_SLOT_LEN).
    Shape {
        /// Bytes in the area.
        len: usize,
        /// Bytes per slot.
        slot_len: usize,
    },
    /// `req_cons` is further from `rsp_prod` than the ring has slots.
    Indices(Indices),
}

/// The backend's end of a ring with slots of any length.
#[derive(Debug)]
pub struct BackRing<M> {
    mem: M,
    slot_len: usize,
    nr_slots: u32,
    req_cons: u32,
    rsp_prod_pvt: u32,
    rsp_prod: u32,
}

impl<M: SharedMemory> BackRing<M> {
    /// Attaches to a ring at the given indices; the shared page is not written.
    pub fn attach(mem: M, slot_len: usize, at: Indices) -> Result<Self, AttachError> {
        let nr = shape(mem.len(), slot_len)?;
        if at.req_cons.wrapping_sub(at.rsp_prod) > nr {
            return Err(AttachError::Indices(at));
        }
        let Indices { req_cons, rsp_prod } = at;
        Ok(Self { mem, slot_len, nr_slots: nr, req_cons, rsp_prod_pvt: rsp_prod, rsp_prod })
    }

    /// Slots in the ring.
    #[must_use]
    pub fn nr_slots(&self) -> u32 {
        self.nr_slots
    }

    /// Where this end stands: what is consumed and what is *published*.
    #[must_use]
    pub fn indices(&self) -> Indices {
        Indices { req_cons: self.req_cons, rsp_prod: self.rsp_prod }
    }

    /// The index that the next [`push_response`](Self::push_response) will use.
    #[must_use]
    pub fn next_response(&self) -> u32 {
        self.rsp_prod_pvt
    }

    /// The `rsp_prod` that stands in the shared page: guest-writable, for recovery checks only.
    #[must_use]
    pub fn shared_rsp_prod(&self) -> u32 {
        shared::word(&self.mem, Word::RspProd).load(Ordering::Relaxed)
    }

    /// How many requests wait to be consumed.
    ///
    /// Never more than the free slots: a request that has no room for its answer is an overrun.
    pub fn unconsumed(&self) -> Result<u32, Overrun> {
        // Acquire pairs with the frontend's write barrier between filling slots and storing req_prod
        // (ring.h, RING_PUSH_REQUESTS): the slots below req_prod are complete when we read them.
        let req_prod = shared::word(&self.mem, Word::ReqProd).load(Ordering::Acquire);
        let taken = self.req_cons.wrapping_sub(self.rsp_prod_pvt);
        let claimed = req_prod.wrapping_sub(self.rsp_prod_pvt);
        if claimed > self.nr_slots || claimed < taken {
            return Err(Overrun { req_prod, rsp_prod: self.rsp_prod_pvt, nr_slots: self.nr_slots });
        }
        Ok(claimed - taken)
    }

    /// Copies the next request out, once, and returns its index. Call only after [`unconsumed`](Self::unconsumed)
    /// said that there is one; `out` is `slot_len` bytes.
    pub fn consume(&mut self, out: &mut [u8]) -> u32 {
        assert_eq!(out.len(), self.slot_len);
        let index = self.req_cons;
        shared::read_slot(&self.mem, self.offset(index), out);
        self.req_cons = index.wrapping_add(1);
        index
    }

    /// Writes a response into the next slot, the rest of the slot zeroed (XSA-216: no stale bytes reach the guest), and
    /// returns its index. Nobody sees it before [`publish`](Self::publish).
    pub fn push_response(&mut self, response: &[u8]) -> u32 {
        assert!(self.rsp_prod_pvt != self.req_cons, "a response without a request");
        let index = self.rsp_prod_pvt;
        shared::write_padded(&self.mem, self.offset(index), self.slot_len, response);
        self.rsp_prod_pvt = index.wrapping_add(1);
        index
    }

    /// Makes all pushed responses visible; true if the frontend asked to be notified of one of them.
    #[must_use = "a frontend that asked for it must be notified"]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.rsp_prod, self.rsp_prod_pvt);
        if old == new {
            return false;
        }
        // Release pairs with the frontend's read barrier after loading rsp_prod: it then sees whole responses.
        shared::word(&self.mem, Word::RspProd).store(new, Ordering::Release);
        self.rsp_prod = new;
        // Pairs with the full barrier in the frontend's RING_FINAL_CHECK_FOR_RESPONSES between storing rsp_event and
        // loading rsp_prod: either it sees `new`, or we see its rsp_event.
        fence(Ordering::SeqCst);
        let event = shared::word(&self.mem, Word::RspEvent).load(Ordering::Relaxed);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Asks to be notified of the next request, then looks once more; true if there is one already.
    pub fn final_check(&mut self) -> Result<bool, Overrun> {
        self.final_check_for(1)
    }

    /// Asks to be notified once `count` requests wait, then looks once more; true if they do already. `count` is at least 1; a
    /// backend that needs several slots at once is not woken for each of them.
    pub fn final_check_for(&mut self, count: u32) -> Result<bool, Overrun> {
        if self.unconsumed()? >= count {
            return Ok(true);
        }
        shared::word(&self.mem, Word::ReqEvent).store(self.req_cons.wrapping_add(count), Ordering::Relaxed);
        // Pairs with the full barrier in the frontend's RING_PUSH_REQUESTS_AND_CHECK_NOTIFY between storing req_prod and
        // loading req_event: either it sees our req_event, or we see its req_prod.
        fence(Ordering::SeqCst);
        Ok(self.unconsumed()? >= count)
    }

    /// Gives the memory back; dropping it unmaps.
    pub fn into_memory(self) -> M {
        self.mem
    }

    fn offset(&self, index: u32) -> usize {
        HEADER_LEN + (index & (self.nr_slots - 1)) as usize * self.slot_len
    }
}
