//! The shared page under the model checker: the same functions as the real one, over atomics that loom can see. Only the
//! index words and the first word of each slot are modelled; that is all the race needs. Knows nothing of index rules.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering};

/// A ring's memory as the model sees it.
#[derive(Clone, Debug)]
pub struct ModelMemory(Arc<Words>);

#[derive(Debug)]
struct Words {
    header: [AtomicU32; 4],
    /// The first word of each slot, by place.
    slots: Vec<AtomicU32>,
    slot_len: usize,
}

impl ModelMemory {
    /// One page with slots of `slot_len` bytes.
    #[must_use]
    pub fn new(slot_len: usize) -> Self {
        let nr = crate::nr_slots(1, slot_len) as usize;
        Self(Arc::new(Words {
            header: std::array::from_fn(|_| AtomicU32::new(0)),
            slots: (0..nr).map(|_| AtomicU32::new(0)).collect(),
            slot_len,
        }))
    }
}

/// Memory that both ends use.
pub trait SharedMemory {
    /// Bytes in the area.
    fn len(&self) -> usize;
    /// True for an area without bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    #[doc(hidden)]
    fn model(&self) -> &ModelMemory;
}

impl SharedMemory for ModelMemory {
    fn len(&self) -> usize {
        crate::PAGE_LEN
    }

    fn model(&self) -> &ModelMemory {
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    ReqProd = 0,
    ReqEvent = 1,
    RspProd = 2,
    RspEvent = 3,
}

pub(crate) fn word<M: SharedMemory>(mem: &M, which: Word) -> &AtomicU32 {
    &mem.model().0.header[which as usize]
}

fn first_word<M: SharedMemory>(mem: &M, offset: usize) -> &AtomicU32 {
    let words = &mem.model().0;
    &words.slots[(offset - crate::HEADER_LEN) / words.slot_len]
}

pub(crate) fn read_slot<M: SharedMemory>(mem: &M, offset: usize, out: &mut [u8]) {
    // Relaxed: if the index words did not order it, the model shall see the stale value.
    let value = first_word(mem, offset).load(Ordering::Relaxed);
    out[..4].copy_from_slice(&value.to_ne_bytes());
}

pub(crate) fn write_padded<M: SharedMemory>(mem: &M, offset: usize, _slot_len: usize, bytes: &[u8]) {
    let value = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    first_word(mem, offset).store(value, Ordering::Relaxed);
}
