//! The header that stands before every frame on a tap: `struct virtio_net_hdr_v1` (linux/virtio_net.h), little-endian. Pure. Knows
//! nothing of what the guest wants.

/// Bytes.
pub const VNET_LEN: usize = 12;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_TCPV4`
const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`
const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_ECN`
const GSO_ECN: u8 = 0x80;

/// An open checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Where summing begins, from the frame's first byte.
    pub start: u16,
    /// Where the sum is put, from `start`.
    pub offset: u16,
}

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vnet {
    /// The checksum that is still to be filled in.
    pub partial: Option<Partial>,
    /// The checksums were looked at and are right.
    pub is_valid: bool,
    /// Bytes up to the end of the transport header.
    pub header_len: u16,
    /// TCP to be cut into segments of that much payload.
    pub gso: Option<crate::wire::Gso>,
}

/// A header that asks for what was not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownGso(pub u8);

impl Vnet {
    /// As a tap wants it.
    #[must_use]
    pub fn bytes(&self) -> [u8; VNET_LEN] {
        let partial = self.partial.unwrap_or(Partial { start: 0, offset: 0 });
        let (gso_type, gso_size) = match self.gso {
            None => (0, 0),
            Some(gso) => (if gso.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 }, gso.size),
        };
        let flags = if self.partial.is_some() { NEEDS_CSUM } else { 0 };
        let [h0, h1] = self.header_len.to_le_bytes();
        let [g0, g1] = gso_size.to_le_bytes();
        let [s0, s1] = partial.start.to_le_bytes();
        let [o0, o1] = partial.offset.to_le_bytes();
        [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0]
    }

    /// As a tap gives it.
    pub fn read(bytes: &[u8; VNET_LEN]) -> Result<Self, UnknownGso> {
        let &[flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = bytes;
        let size = u16::from_le_bytes([g0, g1]);
        let gso = match gso_type & !GSO_ECN {
            0 => None,
            GSO_TCPV4 => Some(crate::wire::Gso { size, ipv6: false }),
            GSO_TCPV6 => Some(crate::wire::Gso { size, ipv6: true }),
            _ => return Err(UnknownGso(gso_type)),
        };
        if gso.is_some() && size == 0 {
            return Err(UnknownGso(gso_type));
        }
        let partial = (flags & NEEDS_CSUM != 0)
            .then_some(Partial { start: u16::from_le_bytes([s0, s1]), offset: u16::from_le_bytes([o0, o1]) });
        let header_len = u16::from_le_bytes([h0, h1]);
        Ok(Self { partial, is_valid: flags & DATA_VALID != 0, header_len, gso })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Gso;

    /// What is written is read back; the places are virtio's (B4).
    #[test]
    fn headers_are_read_back() {
        let header = Vnet {
            partial: Some(Partial { start: 34, offset: 16 }),
            is_valid: false,
            header_len: 54,
            gso: Some(Gso { size: 1448, ipv6: true }),
        };
        assert_eq!(header.bytes(), [1, 4, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
        assert_eq!(Vnet::read(&header.bytes()), Ok(header));
        assert_eq!(Vnet::read(&Vnet::default().bytes()), Ok(Vnet::default()));
    }

    /// UDP segments and TCP ones of no size were never offered.
    #[test]
    fn other_segments_are_unknown() {
        for (kind, size) in [(3, 100), (5, 100), (1, 0), (0x40, 1)] {
            let mut bytes = [0; VNET_LEN];
            (bytes[1], bytes[4]) = (kind, size);
            assert_eq!(Vnet::read(&bytes), Err(UnknownGso(kind)));
        }
    }
}
