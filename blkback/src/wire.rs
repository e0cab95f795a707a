//! blkif as it lies in a ring slot: byte offsets for the two layouts, operation and status codes (xen/include/public/io/blkif.h).
//! Works on owned copies only. Knows nothing of what a request is allowed to ask for.
//!
//! ```text
//!                              x86_64, arm   x86_32 (packed)
//!   operation u8                    0             0
//!   nr_segments u8 / flag / indirect_op  1        1
//!   handle u16 / indirect nr u16    2             2
//!   id u64                          8             4
//!   sector_number u64              16            12
//!   segments, 11 × 8 bytes         24            20        { gref u32, first_sect u8, last_sect u8, pad u16 }
//!   discard nr_sectors u64         24            20
//!   indirect grefs, 8 × u32        28            24
//!   whole slot                    112           108
//! ```

use worker::message::Abi;
use xenbus::GrantRef;

/// Bytes of the longest slot; an owned copy of any slot fits.
pub const MAX_SLOT_LEN: usize = 112;
/// Segments that fit into the slot itself.
pub const MAX_DIRECT_SEGMENTS: u8 = 11;
/// Pages of segments an indirect request can name.
pub const MAX_INDIRECT_PAGES: usize = 8;
/// Segments in one indirect page.
pub const SEGMENTS_PER_PAGE: usize = xen_ring::PAGE_LEN / SEGMENT_LEN;
/// Bytes of one segment, in the slot and in an indirect page alike.
pub const SEGMENT_LEN: usize = 8;
/// The unit of every sector number and count on the ring, whatever `sector-size` says.
pub const SECTOR_LEN: u64 = 512;
/// Sectors in one granted page.
pub const SECTORS_PER_PAGE: u8 = 8;

/// `BLKIF_OP_READ`
pub const OP_READ: u8 = 0;
/// `BLKIF_OP_WRITE`
pub const OP_WRITE: u8 = 1;
/// `BLKIF_OP_WRITE_BARRIER`
pub const OP_WRITE_BARRIER: u8 = 2;
/// `BLKIF_OP_FLUSH_DISKCACHE`
pub const OP_FLUSH_DISKCACHE: u8 = 3;
/// `BLKIF_OP_DISCARD`
pub const OP_DISCARD: u8 = 5;
/// `BLKIF_OP_INDIRECT`
pub const OP_INDIRECT: u8 = 6;
/// `BLKIF_DISCARD_SECURE`, in the byte that is `nr_segments` elsewhere.
pub const DISCARD_SECURE: u8 = 1;

/// An owned copy of one slot; a shorter layout leaves the tail zero.
pub type Slot = [u8; MAX_SLOT_LEN];

/// The outcome of a request as the frontend sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `BLKIF_RSP_OKAY`
    Okay,
    /// `BLKIF_RSP_ERROR`
    Error,
    /// `BLKIF_RSP_EOPNOTSUPP`
    NotSupported,
}

impl Status {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Okay => 0,
            Self::Error => -1,
            Self::NotSupported => -2,
        }
    }

    /// From the number that a journal kept; anything unknown is an error.
    #[must_use]
    pub const fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Okay,
            -2 => Self::NotSupported,
            _ => Self::Error,
        }
    }
}

/// A run of sectors in one granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub gref: GrantRef,
    /// First sector in it.
    pub first: u8,
    /// Last sector in it, inclusive.
    pub last: u8,
}

impl Segment {
    /// What fills a table before anything is parsed into it.
    pub const EMPTY: Self = Self { gref: GrantRef(0), first: 0, last: 0 };

    /// From its eight bytes.
    #[must_use]
    pub fn decode(bytes: [u8; SEGMENT_LEN]) -> Self {
        let [a, b, c, d, first, last, _, _] = bytes;
        Self { gref: GrantRef(u32::from_le_bytes([a, b, c, d])), first, last }
    }

    /// Its eight bytes, padding zero.
    #[must_use]
    pub fn encode(self) -> [u8; SEGMENT_LEN] {
        let [a, b, c, d] = self.gref.0.to_le_bytes();
        [a, b, c, d, self.first, self.last, 0, 0]
    }

    /// Inside a page and not backwards.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.first <= self.last && self.last < SECTORS_PER_PAGE
    }

    /// Sectors; meaningful only if valid.
    #[must_use]
    pub fn len_sectors(self) -> u8 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// Bytes; meaningful only if valid.
    #[must_use]
    pub fn len_bytes(self) -> u32 {
        u32::from(self.len_sectors()) * 512
    }
}

/// The fields that every operation has at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked.
    pub operation: u8,
    /// `nr_segments`, discard's `flag` or `indirect_op`.
    pub second: u8,
    /// An indirect request's `nr_segments`; `handle` elsewhere, which nobody looks at.
    pub third: u16,
    /// The frontend's own number for the request, echoed.
    pub id: u64,
    /// First sector on the disk.
    pub sector: u64,
}

/// Bytes of one slot.
#[must_use]
pub const fn slot_len(abi: Abi) -> usize {
    match abi {
        Abi::Native64 => 112,
        Abi::X86_32 => 108,
    }
}

const fn id_offset(abi: Abi) -> usize {
    match abi {
        Abi::Native64 => 8,
        Abi::X86_32 => 4,
    }
}

fn field<const N: usize>(slot: &Slot, offset: usize) -> [u8; N] {
    let mut out = [0; N];
    // Offsets come from the constants above alone, so the range is always inside.
    out.copy_from_slice(&slot[offset..offset + N]);
    out
}

/// Reads the common fields.
#[must_use]
pub fn header(abi: Abi, slot: &Slot) -> Header {
    let id = id_offset(abi);
    Header {
        operation: slot[0],
        second: slot[1],
        third: u16::from_le_bytes(field(slot, 2)),
        id: u64::from_le_bytes(field(slot, id)),
        sector: u64::from_le_bytes(field(slot, id + 8)),
    }
}

/// The `i`-th of the slot's own segments; `None` beyond the eleventh.
#[must_use]
pub fn segment(abi: Abi, slot: &Slot, i: u8) -> Option<Segment> {
    (i < MAX_DIRECT_SEGMENTS)
        .then(|| Segment::decode(field(slot, id_offset(abi) + 16 + usize::from(i) * SEGMENT_LEN)))
}

/// A discard's length.
#[must_use]
pub fn discard_nr_sectors(abi: Abi, slot: &Slot) -> u64 {
    u64::from_le_bytes(field(slot, id_offset(abi) + 16))
}

/// The pages in which an indirect request's segments stand.
#[must_use]
pub fn indirect_grefs(abi: Abi, slot: &Slot) -> [GrantRef; MAX_INDIRECT_PAGES] {
    std::array::from_fn(|i| GrantRef(u32::from_le_bytes(field(slot, id_offset(abi) + 20 + i * 4))))
}

/// The operation that a response has to echo: an indirect request's inner one (blkfront disables the disk otherwise).
#[must_use]
pub fn echoed_operation(header: Header) -> u8 {
    if header.operation == OP_INDIRECT { header.second } else { header.operation }
}

/// A response's fields, at the same places in both layouts; the rest of the slot is the ring's to zero.
#[must_use]
pub fn response(id: u64, operation: u8, status: Status) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&id.to_le_bytes());
    out[8] = operation;
    out[10..].copy_from_slice(&status.code().to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layout table of the protocol, both ABIs: every field is read from its own byte range.
    #[test]
    fn fields_lie_where_blkif_h_puts_them() {
        for (abi, id_at) in [(Abi::Native64, 8), (Abi::X86_32, 4)] {
            let mut slot: Slot = [0; MAX_SLOT_LEN];
            slot[0] = OP_INDIRECT;
            slot[1] = OP_WRITE;
            slot[2..4].copy_from_slice(&300u16.to_le_bytes());
            slot[id_at..id_at + 8].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
            slot[id_at + 8..id_at + 16].copy_from_slice(&0x99aa_bbcc_ddee_ff00u64.to_le_bytes());
            slot[id_at + 20..id_at + 24].copy_from_slice(&77u32.to_le_bytes());
            slot[id_at + 48..id_at + 52].copy_from_slice(&78u32.to_le_bytes());

            let h = header(abi, &slot);
            let grefs = indirect_grefs(abi, &slot);

            assert_eq!((h.operation, h.second, h.third), (OP_INDIRECT, OP_WRITE, 300));
            assert_eq!((h.id, h.sector), (0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00));
            assert_eq!((grefs[0], grefs[7]), (GrantRef(77), GrantRef(78)));
            assert_eq!(echoed_operation(h), OP_WRITE);
        }
    }

    /// The eleventh segment ends exactly at the slot's end in both layouts, and there is no twelfth.
    #[test]
    fn segments_fill_the_slot() {
        for abi in [Abi::Native64, Abi::X86_32] {
            let mut slot: Slot = [0; MAX_SLOT_LEN];
            let last = Segment { gref: GrantRef(0xdead_beef), first: 3, last: 7 };
            let end = slot_len(abi);
            slot[end - 8..end].copy_from_slice(&last.encode());

            assert_eq!(segment(abi, &slot, 10), Some(last));
            assert_eq!(segment(abi, &slot, 11), None);
        }
    }

    /// XSA-216: a response carries its three fields and nothing else.
    #[test]
    fn response_pads_with_zero() {
        let bytes = response(u64::MAX, OP_READ, Status::NotSupported);

        assert_eq!(bytes[..8], [0xff; 8]);
        assert_eq!(bytes[8..], [0, 0, 0xfe, 0xff]);
    }
}
