//! netif's slots as a frontend writes and reads them. Written against netif.h anew, so that the workers' own code has something to
//! be compared with. Knows nothing of rings or grants.

use xenbus::GrantRef;

/// Bytes of a tx slot.
pub const TX_SLOT_LEN: usize = 12;
/// Bytes of an rx slot.
pub const RX_SLOT_LEN: usize = 8;
/// Slots of a ring of one page, either way.
pub const NR_SLOTS: u32 = 256;
/// `XEN_NETIF_NR_SLOTS_MIN`: so many slots every backend takes.
pub const NR_SLOTS_MIN: usize = 18;

/// `NETTXF_*`, flags of a request with a frame's data.
pub mod tx {
    /// The TCP or UDP checksum is left open.
    pub const CSUM_BLANK: u16 = 1;
    /// The data is right, whatever its checksum.
    pub const DATA_VALIDATED: u16 = 2;
    /// The frame goes on in the next slot.
    pub const MORE_DATA: u16 = 4;
    /// An extra info follows.
    pub const EXTRA_INFO: u16 = 8;
}

/// `NETRXF_*`, flags of a response.
pub mod rx {
    /// The data is right, whatever its checksum.
    pub const DATA_VALIDATED: u16 = 1;
    /// The TCP or UDP checksum is left open.
    pub const CSUM_BLANK: u16 = 2;
    /// The frame goes on in the next slot.
    pub const MORE_DATA: u16 = 4;
    /// An extra info follows.
    pub const EXTRA_INFO: u16 = 8;
}

/// `XEN_NETIF_EXTRA_*`
pub mod extra {
    /// `TYPE_GSO`
    pub const GSO: u8 = 1;
    /// `TYPE_MCAST_ADD`
    pub const MCAST_ADD: u8 = 2;
    /// `TYPE_MCAST_DEL`
    pub const MCAST_DEL: u8 = 3;
    /// `TYPE_HASH`
    pub const HASH: u8 = 4;
    /// `TYPE_XDP`
    pub const XDP: u8 = 5;
    /// `FLAG_MORE`
    pub const MORE: u8 = 1;
    /// `GSO_TYPE_TCPV4`
    pub const TCPV4: u8 = 1;
    /// `GSO_TYPE_TCPV6`
    pub const TCPV6: u8 = 2;
}

/// `NETIF_RSP_OKAY`
pub const OKAY: i16 = 0;
/// `NETIF_RSP_ERROR`
pub const ERROR: i16 = -1;
/// `NETIF_RSP_NULL`
pub const NULL: i16 = 1;

/// `struct netif_tx_request`; any field may be given any value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxRequest {
    /// The page.
    pub gref: GrantRef,
    /// First byte in it.
    pub offset: u16,
    /// `tx::*`
    pub flags: u16,
    /// Echoed.
    pub id: u16,
    /// Bytes of this slot; of the whole frame in its first.
    pub size: u16,
}

impl TxRequest {
    /// As it stands in the ring.
    #[must_use]
    pub fn slot(self) -> [u8; TX_SLOT_LEN] {
        let mut slot = [0; TX_SLOT_LEN];
        slot[..4].copy_from_slice(&self.gref.0.to_le_bytes());
        for (place, field) in [(4, self.offset), (6, self.flags), (8, self.id), (10, self.size)] {
            slot[place..place + 2].copy_from_slice(&field.to_le_bytes());
        }
        slot
    }
}

/// `struct netif_tx_response`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxResponse {
    /// That of the request.
    pub id: u16,
    /// `OKAY`, `ERROR`, `NULL`
    pub status: i16,
    /// True if every other byte of the slot is zero.
    pub is_clean: bool,
}

impl TxResponse {
    /// Reads a slot.
    #[must_use]
    pub fn read(slot: &[u8; TX_SLOT_LEN]) -> Self {
        Self {
            id: u16::from_le_bytes([slot[0], slot[1]]),
            status: i16::from_le_bytes([slot[2], slot[3]]),
            is_clean: slot[4..].iter().all(|b| *b == 0),
        }
    }
}

/// `struct netif_extra_info`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// `extra::*`
    pub kind: u8,
    /// `extra::MORE`
    pub flags: u8,
    /// What depends on the kind.
    pub body: [u8; 6],
}

impl Extra {
    /// TCP that is to be cut into segments of `size` bytes.
    #[must_use]
    pub fn gso(kind: u8, size: u16) -> Self {
        let [low, high] = size.to_le_bytes();
        Self { kind: extra::GSO, flags: 0, body: [low, high, kind, 0, 0, 0] }
    }

    /// As it stands in an rx slot, and in the front of a tx slot.
    #[must_use]
    pub fn bytes(self) -> [u8; RX_SLOT_LEN] {
        let [a, b, c, d, e, f] = self.body;
        [self.kind, self.flags, a, b, c, d, e, f]
    }

    /// Reads an rx slot.
    #[must_use]
    pub fn read(slot: &[u8; RX_SLOT_LEN]) -> Self {
        let [kind, flags, body @ ..] = *slot;
        Self { kind, flags, body }
    }

    /// The segments' size and the type, if that is what it says.
    #[must_use]
    pub fn as_gso(self) -> Option<(u8, u16)> {
        let [low, high, kind, ..] = self.body;
        (self.kind == extra::GSO).then_some((kind, u16::from_le_bytes([low, high])))
    }
}

/// `struct netif_rx_request`
#[must_use]
pub fn rx_request(id: u16, gref: GrantRef) -> [u8; RX_SLOT_LEN] {
    let ([a, b], [c, d, e, f]) = (id.to_le_bytes(), gref.0.to_le_bytes());
    [a, b, 0, 0, c, d, e, f]
}

/// `struct netif_rx_response`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxResponse {
    /// That of the request.
    pub id: u16,
    /// First byte in the page.
    pub offset: u16,
    /// `rx::*`
    pub flags: u16,
    /// Bytes in this slot's page, or an error below zero.
    pub status: i16,
}

impl RxResponse {
    /// Reads a slot.
    #[must_use]
    pub fn read(slot: &[u8; RX_SLOT_LEN]) -> Self {
        let [a, b, c, d, e, f, g, h] = *slot;
        Self {
            id: u16::from_le_bytes([a, b]),
            offset: u16::from_le_bytes([c, d]),
            flags: u16::from_le_bytes([e, f]),
            status: i16::from_le_bytes([g, h]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offsets of netif.h, as the C compiler lays them out.
    #[test]
    fn the_fields_are_where_netif_has_them() {
        let request = TxRequest {
            gref: GrantRef(0x0403_0201),
            offset: 0x0605,
            flags: 0x0807,
            id: 0x0a09,
            size: 0x0c0b,
        };
        assert_eq!(request.slot(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(rx_request(0x0201, GrantRef(0x0605_0403)), [1, 2, 0, 0, 3, 4, 5, 6]);
        assert_eq!(Extra::gso(2, 0x0102).bytes(), [1, 0, 2, 1, 2, 0, 0, 0]);
        let answer = TxResponse::read(&[1, 2, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer, TxResponse { id: 0x0201, status: ERROR, is_clean: true });
        let answer = RxResponse::read(&[1, 0, 2, 0, 4, 0, 0, 16]);
        assert_eq!(answer, RxResponse { id: 1, offset: 2, flags: rx::MORE_DATA, status: 4096 });
    }
}
