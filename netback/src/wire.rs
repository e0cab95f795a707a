//! netif's slots as they stand in the ring (xen/include/public/io/netif.h): layouts, flags, statuses. Little-endian. Pure. Knows
//! nothing of which slots belong together.

/// Slots of a tx or an rx ring of one page.
pub const NR_SLOTS: usize = 256;
/// Bytes of a tx slot: a request of 12, a response of 4.
pub const TX_SLOT_LEN: usize = 12;
/// Bytes of an rx slot, either way.
pub const RX_SLOT_LEN: usize = 8;

/// `NETTXF_csum_blank`: the TCP or UDP checksum is left open.
pub const TX_CSUM_BLANK: u16 = 1;
/// `NETTXF_data_validated`
pub const TX_DATA_VALIDATED: u16 = 2;
/// `NETTXF_more_data`: the frame goes on in the next slot.
pub const TX_MORE_DATA: u16 = 4;
/// `NETTXF_extra_info`: extra infos follow.
pub const TX_EXTRA_INFO: u16 = 8;

/// `NETRXF_data_validated`
pub const RX_DATA_VALIDATED: u16 = 1;
/// `NETRXF_csum_blank`
pub const RX_CSUM_BLANK: u16 = 2;
/// `NETRXF_more_data`
pub const RX_MORE_DATA: u16 = 4;
/// `NETRXF_extra_info`
pub const RX_EXTRA_INFO: u16 = 8;

/// `XEN_NETIF_EXTRA_FLAG_MORE`
pub const EXTRA_MORE: u8 = 1;
/// `XEN_NETIF_EXTRA_TYPE_GSO`
pub const EXTRA_GSO: u8 = 1;
/// `XEN_NETIF_EXTRA_TYPE_MCAST_ADD`
pub const EXTRA_MCAST_ADD: u8 = 2;
/// `XEN_NETIF_EXTRA_TYPE_MCAST_DEL`
pub const EXTRA_MCAST_DEL: u8 = 3;
/// `XEN_NETIF_EXTRA_TYPE_HASH`
pub const EXTRA_HASH: u8 = 4;
/// `XEN_NETIF_EXTRA_TYPE_XDP`
pub const EXTRA_XDP: u8 = 5;

/// What became of a frame that the guest sent (`NETIF_RSP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxStatus {
    /// Taken.
    Okay,
    /// Refused.
    Error,
    /// Not a frame's slot: an extra info's.
    Null,
}

impl TxStatus {
    fn code(self) -> i16 {
        match self {
            Self::Okay => 0,
            Self::Error => -1,
            Self::Null => 1,
        }
    }
}

/// A tx slot as copied out of the ring.
pub type TxSlot = [u8; TX_SLOT_LEN];
/// An rx slot as copied out of the ring.
pub type RxSlot = [u8; RX_SLOT_LEN];

fn u16_at<const N: usize>(slot: &[u8; N], at: usize) -> u16 {
    match slot.get(at..at + 2) {
        Some(&[a, b]) => u16::from_le_bytes([a, b]),
        _ => 0,
    }
}

fn u32_at<const N: usize>(slot: &[u8; N], at: usize) -> u32 {
    match slot.get(at..at + 4) {
        Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}

/// `struct netif_tx_request`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxRequest {
    /// The page.
    pub gref: u32,
    /// First byte in it.
    pub offset: u16,
    /// `TX_*`
    pub flags: u16,
    /// Chosen by the guest, echoed.
    pub id: u16,
    /// Bytes; in a frame's first slot the whole frame's.
    pub size: u16,
}

impl TxRequest {
    /// Reads a slot.
    #[must_use]
    pub fn read(slot: &TxSlot) -> Self {
        Self {
            gref: u32_at(slot, 0),
            offset: u16_at(slot, 4),
            flags: u16_at(slot, 6),
            id: u16_at(slot, 8),
            size: u16_at(slot, 10),
        }
    }
}

/// `struct netif_tx_response`
#[must_use]
pub fn tx_response(id: u16, status: TxStatus) -> [u8; 4] {
    let ([a, b], [c, d]) = (id.to_le_bytes(), status.code().to_le_bytes());
    [a, b, c, d]
}

/// `struct netif_extra_info`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// `EXTRA_*`
    pub kind: u8,
    /// Another one follows.
    pub more: bool,
    /// What the kind says.
    pub body: [u8; 6],
}

impl Extra {
    /// Reads a slot that an extra info stands in.
    #[must_use]
    pub fn read(slot: &TxSlot) -> Self {
        let [kind, flags, body @ ..] = *slot;
        let [a, b, c, d, e, f, ..] = body;
        Self { kind, more: flags & EXTRA_MORE != 0, body: [a, b, c, d, e, f] }
    }

    /// As it stands in an rx slot.
    #[must_use]
    pub fn rx_slot(self) -> RxSlot {
        let [a, b, c, d, e, f] = self.body;
        [self.kind, u8::from(self.more), a, b, c, d, e, f]
    }
}

/// TCP that is to be cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Payload of a segment, bytes; not 0.
    pub size: u16,
    /// Of IPv6, else of IPv4.
    pub ipv6: bool,
}

impl Gso {
    /// `None` for size 0 and for types other than TCPV4 and TCPV6.
    #[must_use]
    pub fn read(extra: Extra) -> Option<Self> {
        let [a, b, kind, ..] = extra.body;
        let size = u16::from_le_bytes([a, b]);
        let ipv6 = match kind {
            1 => false,
            2 => true,
            _ => return None,
        };
        (size != 0).then_some(Self { size, ipv6 })
    }

    /// Packets that a frame of so many bytes is to be cut into.
    #[must_use]
    pub fn nr_packets(self, len_bytes: usize) -> u64 {
        // Ethernet, IP, TCP, each at its shortest.
        let headers_len = 14 + if self.ipv6 { 40 } else { 20 } + 20;
        len_bytes.saturating_sub(headers_len).div_ceil(usize::from(self.size.max(1))).max(1) as u64
    }

    /// The extra info that says so.
    #[must_use]
    pub fn extra(self) -> Extra {
        let [a, b] = self.size.to_le_bytes();
        Extra { kind: EXTRA_GSO, more: false, body: [a, b, if self.ipv6 { 2 } else { 1 }, 0, 0, 0] }
    }
}

/// `struct netif_rx_request`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxRequest {
    /// Chosen by the guest, echoed.
    pub id: u16,
    /// The page to fill.
    pub gref: u32,
}

impl RxRequest {
    /// Reads a slot.
    #[must_use]
    pub fn read(slot: &RxSlot) -> Self {
        Self { id: u16_at(slot, 0), gref: u32_at(slot, 4) }
    }
}

/// `struct netif_rx_response`; `status` is the bytes in this slot, or an error below zero.
#[must_use]
pub fn rx_response(id: u16, offset: u16, flags: u16, status: i16) -> RxSlot {
    let ([a, b], [c, d]) = (id.to_le_bytes(), offset.to_le_bytes());
    let ([e, f], [g, h]) = (flags.to_le_bytes(), status.to_le_bytes());
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// netif.h's offsets, byte by byte (net.md B1): a slot with a different byte at each place.
    #[test]
    fn slots_are_laid_out_as_netif_says() {
        let slot: TxSlot = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let read = TxRequest::read(&slot);
        assert_eq!((read.gref, read.offset, read.flags), (0x0403_0201, 0x0605, 0x0807));
        assert_eq!((read.id, read.size), (0x0a09, 0x0c0b));
        assert_eq!(tx_response(0x0102, TxStatus::Error), [2, 1, 0xff, 0xff]);
        assert_eq!(tx_response(7, TxStatus::Null), [7, 0, 1, 0]);
        let rx = RxRequest::read(&[1, 2, 0xff, 0xff, 3, 4, 5, 6]);
        assert_eq!((rx.id, rx.gref), (0x0201, 0x0605_0403));
        assert_eq!(rx_response(1, 2, 3, -3), [1, 0, 2, 0, 3, 0, 0xfd, 0xff]);
    }

    /// As many as there are segments, one at least; a frame without payload is one, too.
    #[test]
    fn uncut_tcp_is_several_packets() {
        let gso = |size, ipv6| Gso { size, ipv6 };
        assert_eq!((gso(1448, false).nr_packets(54 + 1448), gso(1448, false).nr_packets(55 + 1448)), (1, 2));
        assert_eq!((gso(1428, true).nr_packets(74 + 42 * 1428), gso(1, true).nr_packets(60)), (42, 1));
    }

    /// A GSO extra goes out as it came in; size 0 and unknown types are none.
    #[test]
    fn gso_is_read_back() {
        let gso = Gso { size: 1448, ipv6: true };
        let [a, b, c, d, e, f, g, h] = gso.extra().rx_slot();
        assert_eq!(Gso::read(Extra::read(&[a, b, c, d, e, f, g, h, 0, 0, 0, 0])), Some(gso));
        for body in [[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 0, 3, 0, 0, 0]] {
            assert_eq!(Gso::read(Extra { kind: EXTRA_GSO, more: false, body }), None);
        }
    }
}
