//! The slots that a frame takes on its way to the guest, in the order that frontends expect: the first piece, the extra infos, the
//! other pieces; every slot but the last says that more follows (net rules B3, B6). Pure. Knows nothing of rings or grants.

use crate::hash::Hash;
use crate::offload::Marks;
use crate::wire::{self, Extra, Gso, RxSlot};

const PAGE_LEN: usize = 4096;

/// How one frame lies in the guest's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    len: usize,
    headroom: usize,
    marks: Marks,
}

/// One slot of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data {
        /// First byte in the frame.
        at: usize,
        /// First byte in the guest's page.
        offset: u16,
        /// Bytes.
        len: u16,
        /// `RX_*` of the response.
        flags: u16,
    },
    /// An extra info; the slot's page stays untouched.
    Extra(Extra),
}

impl Plan {
    /// For a frame of `len` bytes. `headroom` is left free in the first page alone; it is an XDP program's, which takes frames of
    /// one page only.
    #[must_use]
    pub fn new(len: usize, headroom: u16, marks: Marks) -> Self {
        Self { len, headroom: usize::from(headroom).min(PAGE_LEN / 2), marks }
    }

    /// Data that the first slot takes.
    #[must_use]
    pub fn first_slot_len(headroom: u16) -> usize {
        PAGE_LEN - usize::from(headroom).min(PAGE_LEN / 2)
    }

    fn nr_extras(&self) -> usize {
        let extras = [self.marks.gso.is_some(), self.marks.hash.is_some(), self.headroom > 0];
        extras.into_iter().map(usize::from).sum()
    }

    fn first_len(&self) -> usize {
        self.len.min(PAGE_LEN - self.headroom)
    }

    /// Slots that the frame takes; at least 1.
    #[must_use]
    pub fn nr_slots(&self) -> usize {
        1 + self.nr_extras() + (self.len - self.first_len()).div_ceil(PAGE_LEN)
    }

    /// The slot with this number.
    #[must_use]
    pub fn piece(&self, number: usize) -> Piece {
        match number.checked_sub(1) {
            None => self.first(),
            Some(extra) if extra < self.nr_extras() => Piece::Extra(self.extra(extra)),
            Some(behind) => {
                let at = self.first_len() + (behind - self.nr_extras()) * PAGE_LEN;
                let len = self.len.saturating_sub(at).min(PAGE_LEN);
                let flags = if at + len < self.len { wire::RX_MORE_DATA } else { 0 };
                Piece::Data { at, offset: 0, len: short(len), flags }
            }
        }
    }

    fn first(&self) -> Piece {
        let flag = |on: bool, flag: u16| if on { flag } else { 0 };
        let flags = flag(self.marks.csum_blank, wire::RX_CSUM_BLANK | wire::RX_DATA_VALIDATED)
            | flag(self.marks.validated, wire::RX_DATA_VALIDATED)
            | flag(self.nr_extras() > 0, wire::RX_EXTRA_INFO)
            | flag(self.first_len() < self.len, wire::RX_MORE_DATA);
        Piece::Data { at: 0, offset: short(self.headroom), len: short(self.first_len()), flags }
    }

    fn extra(&self, number: usize) -> Extra {
        let headroom = (self.headroom > 0).then(|| {
            let [a, b] = short(self.headroom).to_le_bytes();
            Extra { kind: wire::EXTRA_XDP, more: false, body: [a, b, 0, 0, 0, 0] }
        });
        let all = [self.marks.gso.map(Gso::extra), self.marks.hash.map(Hash::extra), headroom];
        let more = number + 1 < self.nr_extras();
        let found = all.into_iter().flatten().nth(number);
        found.map_or(Extra { kind: 0, more, body: [0; 6] }, |extra| Extra { more, ..extra })
    }
}

/// At most a page.
fn short(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(0)
}

impl Piece {
    /// The answer in this slot. `copied` is a grant copy's status: below zero it takes the length's place, and the frame's shape
    /// stays.
    #[must_use]
    pub fn response(self, id: u16, copied: i16) -> RxSlot {
        match self {
            Self::Data { offset, len, flags, .. } => {
                let status = if copied < 0 { copied } else { i16::try_from(len).unwrap_or(0) };
                wire::rx_response(id, offset, flags, status)
            }
            Self::Extra(extra) => extra.rx_slot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GSO: Marks =
        Marks { csum_blank: true, validated: true, gso: Some(Gso { size: 1448, ipv6: false }), hash: None };

    /// B3: the extra info stands behind the first slot and takes one; flags for the frame stand on the first slot only.
    #[test]
    fn uncut_tcp_takes_a_slot_more() {
        let plan = Plan::new(9000, 0, GSO);
        let pieces: Vec<Piece> = (0..plan.nr_slots()).map(|i| plan.piece(i)).collect();
        assert_eq!(
            pieces,
            [
                Piece::Data { at: 0, offset: 0, len: 4096, flags: 1 | 2 | 4 | 8 },
                Piece::Extra(Extra { kind: 1, more: false, body: [0xa8, 5, 1, 0, 0, 0] }),
                Piece::Data { at: 4096, offset: 0, len: 4096, flags: 4 },
                Piece::Data { at: 8192, offset: 0, len: 808, flags: 0 },
            ]
        );
    }

    /// B6: the headroom is before the first piece alone, is told in an extra info, and is no part of the length.
    #[test]
    fn headroom_is_in_the_first_slot() {
        let plan = Plan::new(1514, 256, Marks::default());
        assert_eq!(plan.nr_slots(), 2);
        assert_eq!(plan.piece(0), Piece::Data { at: 0, offset: 256, len: 1514, flags: 8 });
        assert_eq!(plan.piece(1), Piece::Extra(Extra { kind: 5, more: false, body: [0, 1, 0, 0, 0, 0] }));
        assert_eq!(plan.piece(0).response(7, 0), [7, 0, 0, 1, 8, 0, 0xea, 5]);
    }

    /// B3, B7: several extra infos are a chain, the hash between GSO and headroom.
    #[test]
    fn the_hash_is_told() {
        let hash = Some(Hash { kind: 1, value: 0x0403_0201 });
        let told = |more| Piece::Extra(Extra { kind: 4, more, body: [1, 1, 1, 2, 3, 4] });
        let plan = Plan::new(5000, 0, Marks { hash, ..GSO });
        assert_eq!(plan.nr_slots(), 4);
        assert!(matches!(plan.piece(1), Piece::Extra(Extra { kind: 1, more: true, .. })));
        assert_eq!(plan.piece(2), told(false));
        let plan = Plan::new(60, 256, Marks { hash, ..Marks::default() });
        assert_eq!((plan.nr_slots(), plan.piece(1)), (3, told(true)));
        assert!(matches!(plan.piece(2), Piece::Extra(Extra { kind: 5, more: false, .. })));
    }

    /// B3: a failed copy shows in its own slot.
    #[test]
    fn a_failed_copy_keeps_the_shape() {
        let plan = Plan::new(5000, 0, Marks::default());
        assert_eq!(plan.piece(0).response(1, -3), [1, 0, 0, 0, 4, 0, 0xfd, 0xff]);
        assert_eq!(plan.piece(1).response(2, 0), [2, 0, 0, 0, 0, 0, 0x88, 3]);
    }

    proptest! {
        /// Pieces are the frame, in order, each in its page; only the last says that nothing follows; 65,535 bytes fit the 18 slots
        /// and one more that frontends take.
        #[test]
        fn pieces_are_the_frame(len in 1usize..=65_535, headroom in prop::sample::select(vec![0u16, 256, 0x7fff]), gso: bool, hash: Option<u32>) {
            let hash = hash.map(|value| Hash { kind: 0, value });
            let plan = Plan::new(len, headroom, Marks { hash, ..if gso { GSO } else { Marks::default() } });
            let mut at = 0;
            let mut more = Vec::new();
            for i in 0..plan.nr_slots() {
                if let Piece::Data { at: from, offset, len, flags } = plan.piece(i) {
                    prop_assert_eq!(from, at);
                    prop_assert!(len > 0 && usize::from(offset) + usize::from(len) <= PAGE_LEN);
                    at += usize::from(len);
                    more.push(flags & wire::RX_MORE_DATA != 0);
                }
            }
            prop_assert_eq!(at, len);
            prop_assert_eq!(more.pop(), Some(false));
            prop_assert!(more.iter().all(|&m| m));
            prop_assert!(headroom > 0 || more.len() < 18);
        }
    }
}
