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
#[allow(unsafe_code)]
mod shared;

pub use back::{AttachError, BackRing, Indices, Overrun};
pub use shared::SharedMemory;

/// Bytes in one granted page, whatever the page size of either domain (xen/include/public/xen.h, `XEN_PAGE_SIZE`).
pub const PAGE_LEN: usize = 4096;
/// Bytes of header before the first slot, the same in every ABI.
pub const HEADER_LEN: usize = 64;
/// The largest ring that either side may offer, in pages: `ring-page-order` 4.
pub const MAX_PAGES: usize = 16;

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
