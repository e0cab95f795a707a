//! blkif's slots as a frontend writes and reads them, in both layouts. Written against blkif.h anew, so that the workers' own
//! code has something to be compared with. Knows nothing of rings or grants.

use xenbus::GrantRef;

/// `BLKIF_OP_READ`.
pub const READ: u8 = 0;
/// `BLKIF_OP_WRITE`.
pub const WRITE: u8 = 1;
/// `BLKIF_OP_WRITE_BARRIER`.
pub const BARRIER: u8 = 2;
/// `BLKIF_OP_FLUSH_DISKCACHE`.
pub const FLUSH: u8 = 3;
/// `BLKIF_OP_DISCARD`.
pub const DISCARD: u8 = 5;
/// `BLKIF_OP_INDIRECT`.
pub const INDIRECT: u8 = 6;

/// `BLKIF_RSP_OKAY`.
pub const OKAY: i16 = 0;
/// `BLKIF_RSP_ERROR`.
pub const ERROR: i16 = -1;
/// `BLKIF_RSP_EOPNOTSUPP`.
pub const UNSUPPORTED: i16 = -2;

/// Segments in a request of its own slot.
pub const DIRECT_SEGMENTS: usize = 11;
/// Segments described by one indirect page.
pub const SEGMENTS_PER_PAGE: usize = 512;
/// Bytes of the longest slot.
pub const SLOT_MAX: usize = 112;

/// How the slots are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit fields on multiples of 8.
    Native64,
    /// 64-bit fields on multiples of 4.
    X86_32,
}

impl Abi {
    /// The value of the frontend's `protocol` node.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Native64 => "x86_64-abi",
            Self::X86_32 => "x86_32-abi",
        }
    }

    /// Bytes of a slot.
    #[must_use]
    pub fn slot_len(self) -> usize {
        match self {
            Self::Native64 => 112,
            Self::X86_32 => 108,
        }
    }

    /// Where the id is; the sector follows it, then what depends on the operation.
    fn id_at(self) -> usize {
        match self {
            Self::Native64 => 8,
            Self::X86_32 => 4,
        }
    }

    /// Bytes of a response.
    fn response_len(self) -> usize {
        match self {
            Self::Native64 => 16,
            Self::X86_32 => 12,
        }
    }
}

/// Part of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub gref: GrantRef,
    /// First sector in it, 0 to 7.
    pub first: u8,
    /// Last sector in it, inclusive.
    pub last: u8,
}

impl Segment {
    /// As it stands in a slot and in an indirect page.
    #[must_use]
    pub fn bytes(self) -> [u8; 8] {
        let mut out = [0; 8];
        out[..4].copy_from_slice(&self.gref.0.to_le_bytes());
        out[4] = self.first;
        out[5] = self.last;
        out
    }
}

/// A request slot under construction. Any field may be given any value.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    abi: Abi,
    bytes: [u8; SLOT_MAX],
}

impl Slot {
    fn new(abi: Abi, operation: u8, second: u8, id: u64) -> Self {
        let mut slot = Self { abi, bytes: [0; SLOT_MAX] };
        slot.put(0, &[operation, second]);
        slot.put(abi.id_at(), &id.to_le_bytes());
        slot
    }

    /// READ, WRITE, BARRIER, FLUSH, or any other number. At most 11 of the segments fit.
    #[must_use]
    pub fn direct(abi: Abi, operation: u8, id: u64, sector: u64, segments: &[Segment]) -> Self {
        let count = u8::try_from(segments.len()).unwrap_or(u8::MAX);
        let mut slot = Self::new(abi, operation, count, id);
        slot.put(abi.id_at() + 8, &sector.to_le_bytes());
        for (i, segment) in segments.iter().take(DIRECT_SEGMENTS).enumerate() {
            slot.put(abi.id_at() + 16 + i * 8, &segment.bytes());
        }
        slot
    }

    /// INDIRECT.
    #[must_use]
    pub fn indirect(abi: Abi, operation: u8, id: u64, sector: u64, count: u16, pages: &[GrantRef]) -> Self {
        let mut slot = Self::new(abi, INDIRECT, operation, id);
        slot.put(2, &count.to_le_bytes());
        slot.put(abi.id_at() + 8, &sector.to_le_bytes());
        let at = abi.id_at() + 16 + 4;
        for (i, page) in pages.iter().take(8).enumerate() {
            slot.put(at + i * 4, &page.0.to_le_bytes());
        }
        slot
    }

    /// DISCARD; `flag` 1 is secure.
    #[must_use]
    pub fn discard(abi: Abi, flag: u8, id: u64, sector: u64, count: u64) -> Self {
        let mut slot = Self::new(abi, DISCARD, flag, id);
        slot.put(abi.id_at() + 8, &sector.to_le_bytes());
        slot.put(abi.id_at() + 16, &count.to_le_bytes());
        slot
    }

    /// Sets the number of segments, whatever there are.
    #[must_use]
    pub fn with_count(mut self, count: u8) -> Self {
        self.put(1, &[count]);
        self
    }

    /// Sets the handle of a direct request.
    #[must_use]
    pub fn with_handle(mut self, handle: u16) -> Self {
        self.put(2, &handle.to_le_bytes());
        self
    }

    /// The whole slot.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.abi.slot_len()).unwrap_or(&self.bytes)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.bytes.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// That of the request.
    pub id: u64,
    /// That of the request; the inner one of INDIRECT.
    pub operation: u8,
    /// `OKAY`, `ERROR`, `UNSUPPORTED`.
    pub status: i16,
    /// True if every other byte of the slot is zero (XSA-216).
    pub is_clean: bool,
}

impl Response {
    /// Reads a slot of `abi`.
    #[must_use]
    pub fn parse(abi: Abi, slot: &[u8]) -> Self {
        let id = slot.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let byte = |at: usize| slot.get(at).copied().unwrap_or(0);
        let rest = slot.get(abi.response_len()..).unwrap_or_default();
        let padding = slot.get(12..abi.response_len()).unwrap_or_default();
        Self {
            id,
            operation: byte(8),
            status: i16::from_le_bytes([byte(10), byte(11)]),
            is_clean: byte(9) == 0 && padding.iter().chain(rest).all(|b| *b == 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<const N: usize>(slot: &Slot, offset: usize) -> [u8; N] {
        slot.bytes()[offset..offset + N].try_into().unwrap()
    }

    /// The offsets of blkif.h, as the C compiler lays them out for both ABIs.
    #[test]
    fn the_fields_are_where_blkif_has_them() {
        let segment = Segment { gref: GrantRef(0x0a0b_0c0d), first: 1, last: 6 };
        for (abi, len, id, sector, rest, grefs) in
            [(Abi::Native64, 112, 8, 16, 24, 28), (Abi::X86_32, 108, 4, 12, 20, 24)]
        {
            let slot = Slot::direct(abi, WRITE, 7, 9, &[segment; 11]).with_handle(5);
            assert_eq!(slot.bytes().len(), len);
            assert_eq!((at(&slot, 0), at(&slot, 2)), ([WRITE, 11], 5u16.to_le_bytes()));
            assert_eq!((at(&slot, id), at(&slot, sector)), (7u64.to_le_bytes(), 9u64.to_le_bytes()));
            assert_eq!(at(&slot, rest), segment.bytes());
            assert_eq!(at(&slot, rest + 80), segment.bytes());

            let slot = Slot::indirect(abi, READ, 7, 9, 300, &[GrantRef(1), GrantRef(2)]);
            assert_eq!((at(&slot, 0), at(&slot, 2)), ([INDIRECT, READ], 300u16.to_le_bytes()));
            assert_eq!((at(&slot, id), at(&slot, sector)), (7u64.to_le_bytes(), 9u64.to_le_bytes()));
            assert_eq!(at(&slot, grefs), [1, 0, 0, 0, 2, 0, 0, 0]);

            let slot = Slot::discard(abi, 1, 7, 9, 11);
            assert_eq!((at(&slot, 0), at(&slot, rest)), ([DISCARD, 1], 11u64.to_le_bytes()));
        }
    }
}
