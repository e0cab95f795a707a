//! Where a frame's headers are: Ethernet with VLAN tags, IPv4 with options, IPv6 with extension headers, TCP and UDP. Pure and total
//! over any bytes. Knows nothing of checksums or of offloads.

const ETHERNET_LEN: usize = 14;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// `ETH_P_IP`
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `ETH_P_IPV6`
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// `ETH_P_ARP`
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// More tags than any network nests.
const MAX_TAGS: usize = 4;
const MAX_IPV6_EXTENSIONS: usize = 16;

/// `IPPROTO_TCP`
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`
pub const UDP: u8 = 17;

/// The network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Its first byte in the frame.
    pub at: usize,
    /// IPv6, else IPv4.
    pub is_v6: bool,
    /// The first byte behind it and its options or extensions.
    pub end: usize,
    /// What is there.
    pub protocol: u8,
    /// A piece of a packet: what is there may be no header.
    pub is_fragment: bool,
}

/// A TCP or UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Its first byte in the frame.
    pub at: usize,
    /// TCP, else UDP.
    pub is_tcp: bool,
    /// The first byte behind it and its options.
    pub end: usize,
}

impl Transport {
    /// Where in the frame the checksum stands.
    #[must_use]
    pub fn checksum_at(self) -> usize {
        self.at + if self.is_tcp { 16 } else { 6 }
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// It has VLAN tags.
    pub is_tagged: bool,
    /// Behind the tags.
    pub ethertype: u16,
    /// The first byte behind them.
    pub network_at: usize,
    /// IP that is whole.
    pub ip: Option<Ip>,
    /// TCP or UDP that is whole, in no fragment.
    pub transport: Option<Transport>,
}

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

/// Looks through a frame. `None` if it is no Ethernet frame.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Headers> {
    let mut ethertype = u16_at(frame, 12)?;
    let mut network_at = ETHERNET_LEN;
    for _ in 0..MAX_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        let Some(inner) = u16_at(frame, network_at + 2) else { break };
        (ethertype, network_at) = (inner, network_at + 4);
    }
    let ip = match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, network_at),
        ETHERTYPE_IPV6 => ipv6(frame, network_at),
        _ => None,
    };
    let transport = ip.filter(|ip| !ip.is_fragment).and_then(|ip| transport(frame, ip));
    Some(Headers { is_tagged: network_at > ETHERNET_LEN, ethertype, network_at, ip, transport })
}

fn ipv4(frame: &[u8], at: usize) -> Option<Ip> {
    let header: &[u8; 20] = frame.get(at..)?.first_chunk()?;
    let len = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || len < header.len() || frame.len() < at + len {
        return None;
    }
    // More fragments, or not the first one.
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    Some(Ip { at, is_v6: false, end: at + len, protocol: header[9], is_fragment })
}

fn ipv6(frame: &[u8], at: usize) -> Option<Ip> {
    let header: &[u8; 40] = frame.get(at..)?.first_chunk()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (mut protocol, mut end, mut is_fragment) = (header[6], at + header.len(), false);
    for _ in 0..MAX_IPV6_EXTENSIONS {
        // RFC 8200 §4: hop-by-hop, routing, destination options count in 8 bytes beyond the first 8, the authentication header in
        // 4 beyond 8, a fragment header has 8.
        let len = match (protocol, frame.get(end + 1)) {
            (0 | 43 | 60, Some(&units)) => (usize::from(units) + 1) * 8,
            (51, Some(&units)) => (usize::from(units) + 2) * 4,
            (44, Some(_)) => 8,
            (0 | 43 | 44 | 51 | 60, None) => return None,
            _ => return Some(Ip { at, is_v6: true, end, protocol, is_fragment }),
        };
        let extension = frame.get(end..end + len)?;
        if protocol == 44 {
            let offset_and_more = extension.get(2..4)?;
            is_fragment |= offset_and_more[0] != 0 || offset_and_more[1] & 0xf9 != 0;
        }
        protocol = *extension.first()?;
        end += len;
    }
    None
}

fn transport(frame: &[u8], ip: Ip) -> Option<Transport> {
    let at = ip.end;
    let len = match ip.protocol {
        TCP => usize::from(*frame.get(at + 12)? >> 4) * 4,
        UDP => 8,
        _ => return None,
    };
    let least = if ip.protocol == TCP { 20 } else { 8 };
    (len >= least && frame.len() >= at + len).then_some(Transport {
        at,
        is_tcp: ip.protocol == TCP,
        end: at + len,
    })
}

/// The addresses of an IP header, side by side, as the pseudo header has them.
#[must_use]
pub fn addresses(frame: &[u8], ip: Ip) -> &[u8] {
    let range = if ip.is_v6 { ip.at + 8..ip.at + 40 } else { ip.at + 12..ip.at + 20 };
    frame.get(range).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An Ethernet frame with `tags` VLAN tags, IPv4 or IPv6, TCP (20 bytes) or UDP, and a payload; checksums zero.
    pub(crate) fn frame(tags: usize, is_v6: bool, is_tcp: bool, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for _ in 0..tags {
            out.extend([0x81, 0, 0, 5]);
        }
        let transport_len = if is_tcp { 20 } else { 8 } + payload.len();
        let protocol = if is_tcp { TCP } else { UDP };
        if is_v6 {
            out.extend(ETHERTYPE_IPV6.to_be_bytes());
            out.extend([0x60, 0, 0, 0]);
            out.extend(u16::try_from(transport_len).unwrap().to_be_bytes());
            out.extend([protocol, 64]);
            out.extend([0xfd; 32]);
        } else {
            out.extend(ETHERTYPE_IPV4.to_be_bytes());
            out.extend([0x45, 0]);
            out.extend(u16::try_from(20 + transport_len).unwrap().to_be_bytes());
            out.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        if is_tcp {
            out.extend([0, 80, 0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            out.extend([0, 53, 0x12, 0x34]);
            out.extend(u16::try_from(transport_len).unwrap().to_be_bytes());
            out.extend([0, 0]);
        }
        out.extend(payload);
        out
    }

    /// Every combination of tags, network and transport is found where it was put.
    #[test]
    fn headers_are_found() {
        for (tags, is_v6, is_tcp) in
            (0..3).flat_map(|t| [(t, false, false), (t, false, true), (t, true, false), (t, true, true)])
        {
            let frame = frame(tags, is_v6, is_tcp, b"payload");
            let found = parse(&frame).unwrap();
            let (ip, transport) = (found.ip.unwrap(), found.transport.unwrap());
            assert_eq!(found.is_tagged, tags > 0);
            assert_eq!((ip.at, ip.is_v6), (14 + tags * 4, is_v6));
            assert_eq!(transport.at, ip.at + if is_v6 { 40 } else { 20 });
            assert_eq!((transport.is_tcp, transport.end), (is_tcp, frame.len() - 7));
        }
    }

    /// Extension headers are walked (B4); a fragment has no transport header, an atomic one does.
    #[test]
    fn extension_headers_are_walked() {
        let plain = frame(0, true, false, b"x");
        let with = |kind: u8, extension: &[u8]| {
            let mut frame = plain.clone();
            frame[20] = kind;
            frame.splice(54..54, extension.iter().copied());
            parse(&frame).unwrap()
        };
        for (kind, extension) in [
            (0u8, vec![UDP, 0, 0, 0, 0, 0, 0, 0]),
            (43, vec![UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (60, vec![UDP, 0, 1, 4, 0, 0, 0, 0]),
            (51, vec![UDP, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]),
            (44, vec![UDP, 0, 0, 0, 0, 0, 0, 9]),
        ] {
            let found = with(kind, &extension);
            assert_eq!(found.transport.map(|t| t.at), Some(54 + extension.len()), "{kind}");
        }
        let fragment = with(44, &[UDP, 0, 0, 1, 0, 0, 0, 9]);
        assert!(fragment.transport.is_none() && fragment.ip.unwrap().is_fragment);
    }

    /// N16: several extension headers in a row are walked, a hundred are not.
    #[test]
    fn several_extension_headers_are_walked() {
        for (count, is_found) in [(1, true), (3, true), (15, true), (100, false)] {
            let mut frame = frame(0, true, false, b"x");
            frame[20] = 60;
            let chain =
                [[60, 0, 1, 4, 0, 0, 0, 0].repeat(count - 1), vec![UDP, 0, 1, 4, 0, 0, 0, 0]].concat();
            frame.splice(54..54, chain);
            assert_eq!(parse(&frame).unwrap().transport.is_some(), is_found, "{count}");
        }
    }

    /// IPv4's fragments, wrong versions and lengths have no transport header.
    #[test]
    fn broken_ipv4_has_no_transport() {
        let plain = frame(0, false, true, b"x");
        for (at, value) in
            [(20, 0x20), (21, 1), (14, 0x44), (14, 0x55), (14, 0x4f), (46, 0x40), (46, 0xf0), (23, 1)]
        {
            let mut frame = plain.clone();
            frame[at] = value;
            assert!(parse(&frame).unwrap().transport.is_none(), "{at}: {value:#x}");
        }
        // Version and length of the IP header itself: then there is none.
        for value in [0x40, 0x44, 0x55, 0x4f] {
            let mut frame = plain.clone();
            frame[14] = value;
            assert_eq!(parse(&frame).unwrap().ip, None, "{value:#x}");
        }
    }

    proptest! {
        /// Any bytes: offsets that are found lie in the frame, in order.
        #[test]
        fn parsing_is_total(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            kind in prop::option::of(prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100])),
            version in prop::sample::select(vec![0x45u8, 0x46, 0x60, 0x4f]),
        ) {
            if let (Some(kind), true) = (kind, bytes.len() > 15) {
                bytes[12..14].copy_from_slice(&kind.to_be_bytes());
                bytes[14] = version;
            }
            if let Some(found) = parse(&bytes) {
                if let Some(ip) = found.ip {
                    prop_assert!(ip.at < ip.end && ip.end <= bytes.len());
                    prop_assert!(!addresses(&bytes, ip).is_empty());
                }
                if let Some(t) = found.transport {
                    prop_assert!(t.at < t.checksum_at() && t.checksum_at() + 2 <= t.end && t.end <= bytes.len());
                }
            }
        }
    }
}
