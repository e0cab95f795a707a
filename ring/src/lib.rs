//! Xen's shared rings: one page or more that a frontend and a backend both write, four indices, and the rules
//! by which each side tells the other that there is work. Knows nothing of what a slot means, of event channels,
//! of clocks or of threads.
//!
//! ```text
//!  byte 0          4           8          12          16 .. 63     64
//!  ┌───────────┬───────────┬───────────┬───────────┬───────────┬────────┬────────┬──
//!  │ req_prod  │ req_event │ rsp_prod  │ rsp_event │   (pad)   │ slot 0 │ slot 1 │ …   nr_slots = 2^k
//!  └───────────┴───────────┴───────────┴───────────┴───────────┴────────┴────────┴──
//! ```
//!
//! A slot is a union of request and response: an answer overwrites a request slot, and not always its own.
//! All indices are free-running `u32`s; a slot's place is `index & (nr_slots - 1)` (xen/include/public/io/ring.h).

mod back;
mod front;
#[allow(unsafe_code)]
#[cfg_attr(loom, path = "shared_loom.rs")]
mod shared;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

/// The same names from the standard library or from the model checker.
mod sync {
    #[cfg(loom)]
    pub(crate) use loom::sync::atomic::{Ordering, fence};
    #[cfg(not(loom))]
    pub(crate) use std::sync::atomic::{Ordering, fence};
}

pub use back::{AttachError, BackRing, Indices, Overrun};
pub use front::{BadResponses, FrontRing};
#[cfg(loom)]
pub use shared::ModelMemory;
pub use shared::SharedMemory;

/// Bytes in one granted page, whatever the page size of either domain (xen/include/public/xen.h, `XEN_PAGE_SIZE`).
pub const PAGE_LEN: usize = 4096;
/// Bytes of header before the first slot, the same in every ABI.
pub const HEADER_LEN: usize = 64;
/// The largest ring that either side may offer, in pages: `ring-page-order` 4.
pub const MAX_PAGES: usize = 16;

/// The longest slot of any protocol with such rings, with room to spare: blkif's is 112 bytes.
pub const MAX_SLOT_LEN: usize = 256;

/// How many slots of `slot_len` bytes a ring of `pages` pages has: the largest power of two that fits.
///
/// Returns 0 if not even one slot fits.
#[must_use]
pub const fn nr_slots(pages: usize, slot_len: usize) -> u32 {
    if slot_len == 0 || pages == 0 || pages > MAX_PAGES || pages * PAGE_LEN < HEADER_LEN + slot_len {
        return 0;
    }
    #[allow(clippy::cast_possible_truncation)] // at most 16 * 4096 / 1
    let fit = ((pages * PAGE_LEN - HEADER_LEN) / slot_len) as u32;
    1 << fit.ilog2()
}

/// The number of slots in an area of `len` bytes, if a ring may look like that.
fn shape(len: usize, slot_len: usize) -> Result<u32, AttachError> {
    let whole = len.is_multiple_of(PAGE_LEN) && slot_len.is_multiple_of(4) && slot_len <= MAX_SLOT_LEN;
    match if whole { nr_slots(len / PAGE_LEN, slot_len) } else { 0 } {
        0 => Err(AttachError::Shape { len, slot_len }),
        nr => Ok(nr),
    }
}
