//! The only code that touches a shared ring page: word-wise volatile copies and the four index words. Never makes a
//! Rust reference to guest-writable bytes other than to the `AtomicU32` index words. Knows nothing of index rules.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Memory that another domain can write to at any time.
///
/// # Safety
/// `base()` is aligned to 64 bytes and valid for reads and writes of `len()` bytes until `self` is dropped; both
/// return the same value on every call.
pub unsafe trait SharedMemory {
    /// First byte of the area.
    fn base(&self) -> NonNull<u8>;
    /// Bytes in the area.
    fn len(&self) -> usize;
    /// True for an area without bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The index words of a ring's header, by their byte offset (ring.h, `DEFINE_RING_TYPES`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    ReqProd = 0,
    ReqEvent = 4,
    RspProd = 8,
    RspEvent = 12,
}

/// One of the four index words.
pub(crate) fn word<M: SharedMemory>(mem: &M, which: Word) -> &AtomicU32 {
    assert!(mem.len() >= crate::HEADER_LEN);
    // SAFETY: the offset is inside the 64-byte header, the area is at least that long (checked) and valid while
    // `mem` is borrowed, 4-byte alignment follows from base's. Every access by us is atomic; the other side is
    // another domain, outside of this program's memory model, and can at worst store any value.
    unsafe { mem.base().add(which as usize).cast().as_ref() }
}

/// Copies `out.len()` bytes from `offset`, each word read exactly once (the double fetch of XSA-155 cannot happen).
pub(crate) fn read_slot<M: SharedMemory>(mem: &M, offset: usize, out: &mut [u8]) {
    check(mem, offset, out.len());
    for (i, chunk) in out.chunks_exact_mut(4).enumerate() {
        // SAFETY: offset + out.len() <= len was checked, both are multiples of 4 and base is 64-byte aligned.
        let value = unsafe { mem.base().add(offset + i * 4).cast::<u32>().read_volatile() };
        chunk.copy_from_slice(&value.to_ne_bytes());
    }
}

/// Stores `bytes` at `offset` and zeroes in the rest of the slot (XSA-216: nothing stale reaches the other side).
pub(crate) fn write_padded<M: SharedMemory>(mem: &M, offset: usize, slot_len: usize, bytes: &[u8]) {
    assert!(
        bytes.len() <= slot_len && slot_len <= crate::MAX_SLOT_LEN,
        "{} in {slot_len} bytes",
        bytes.len()
    );
    let mut slot = [0u8; crate::MAX_SLOT_LEN];
    slot[..bytes.len()].copy_from_slice(bytes);
    write_slot(mem, offset, &slot[..slot_len]);
}

/// Stores all of `slot` at `offset`, word by word.
fn write_slot<M: SharedMemory>(mem: &M, offset: usize, slot: &[u8]) {
    check(mem, offset, slot.len());
    for (i, chunk) in slot.chunks_exact(4).enumerate() {
        let value = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        // SAFETY: as in `read_slot`.
        unsafe { mem.base().add(offset + i * 4).cast::<u32>().write_volatile(value) };
    }
}

fn check<M: SharedMemory>(mem: &M, offset: usize, len: usize) {
    assert!(offset.is_multiple_of(4) && len.is_multiple_of(4), "slots are whole words");
    assert!(offset.checked_add(len).is_some_and(|end| end <= mem.len()), "slot inside the ring");
}
