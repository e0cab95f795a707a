//! Frames that prove themselves: a number in the headers decides every byte of the payload, so that whoever receives a frame, or a
//! segment of one, knows whether it is whole. The checksums are computed here, in the plainest way. Knows nothing of who carries frames.

use crate::prng::mix;

/// Ethernet's header, and a tag's.
const ETHERNET_LEN: usize = 14;
const TAG_LEN: usize = 4;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a frame is, apart from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// 802.1Q tags.
    pub tags: usize,
    /// IPv6, else IPv4.
    pub is_v6: bool,
    /// TCP, else UDP.
    pub is_tcp: bool,
}

/// The commonest.
pub const TCP4: Shape = Shape { tags: 0, is_v6: false, is_tcp: true };
/// TCP over IPv6.
pub const TCP6: Shape = Shape { is_v6: true, ..TCP4 };
/// UDP over IPv4.
pub const UDP4: Shape = Shape { is_tcp: false, ..TCP4 };
/// UDP over IPv6.
pub const UDP6: Shape = Shape { is_tcp: false, ..TCP6 };

impl Shape {
    fn network_at(self) -> usize {
        ETHERNET_LEN + self.tags * TAG_LEN
    }

    /// Where the TCP or UDP header begins.
    #[must_use]
    pub fn transport_at(self) -> usize {
        self.network_at() + if self.is_v6 { 40 } else { 20 }
    }

    /// Bytes of all headers.
    #[must_use]
    pub fn header_len(self) -> usize {
        self.transport_at() + if self.is_tcp { 20 } else { 8 }
    }

    fn checksum_offset(self) -> usize {
        if self.is_tcp { 16 } else { 6 }
    }

    fn protocol(self) -> u8 {
        if self.is_tcp { TCP } else { UDP }
    }
}

/// The payload's byte at a place.
fn byte(number: u32, at: usize) -> u8 {
    let word = mix(u64::from(number) << 32 | (at / 8) as u64);
    word.to_le_bytes()[at % 8]
}

/// A frame with this number and so much payload, complete with checksums.
#[must_use]
pub fn whole(shape: Shape, number: u32, payload_len: usize) -> Vec<u8> {
    let mut frame = headers(shape, number, payload_len);
    frame.extend((0..payload_len).map(|at| byte(number, at)));
    let sum = !fold(pseudo(shape, &frame) + sum(&frame[shape.transport_at()..]));
    put(&mut frame, shape.transport_at() + shape.checksum_offset(), if sum == 0 { 0xffff } else { sum });
    frame
}

/// The same with its TCP or UDP checksum left open: the pseudo header's sum stands in its place, as Linux leaves it.
#[must_use]
pub fn open(shape: Shape, number: u32, payload_len: usize) -> Vec<u8> {
    let mut frame = whole(shape, number, payload_len);
    let sum = fold(pseudo(shape, &frame));
    put(&mut frame, shape.transport_at() + shape.checksum_offset(), sum);
    frame
}

fn headers(shape: Shape, number: u32, payload_len: usize) -> Vec<u8> {
    let [n3, n2, n1, n0] = number.to_be_bytes();
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    (0..shape.tags).for_each(|_| out.extend([VLAN.to_be_bytes(), [0, 5]].as_flattened()));
    let transport_len = shape.header_len() - shape.transport_at() + payload_len;
    let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    if shape.is_v6 {
        out.extend(IPV6.to_be_bytes());
        out.extend([0x60, 0, 0, 0]);
        out.extend(short(transport_len));
        out.extend([shape.protocol(), 64]);
        for last in [1, 2] {
            out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
    } else {
        out.extend(IPV4.to_be_bytes());
        out.extend([0x45, 0]);
        out.extend(short(20 + transport_len));
        out.extend([0, 1, 0x40, 0, 64, shape.protocol(), 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let at = shape.network_at();
        let header = !fold(sum(&out[at..]));
        put(&mut out, at + 10, header);
    }
    if shape.is_tcp {
        // The number is acknowledged; the sequence number is the payload's place.
        out.extend([0, 80, 0x12, 0x34, 0, 0, 0, 0, n3, n2, n1, n0, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        // The ports are the number.
        out.extend([n3, n2, n1, n0]);
        out.extend(short(transport_len));
        out.extend([0, 0]);
    }
    out
}

/// The state of a frame's TCP or UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Complete and right.
    Right,
    /// Only the pseudo header's sum stands there.
    Open,
}

/// What a received frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As sent.
    pub shape: Shape,
    /// As sent.
    pub number: u32,
    /// The first payload byte's place in the payload as sent: not 0 in all segments but the first.
    pub at: usize,
    /// Payload, bytes.
    pub len: usize,
}

/// Looks at every byte of a frame whose checksum is said to be so. An error says what is wrong with it.
pub fn check(frame: &[u8], checksum: Checksum) -> Result<Seen, String> {
    let shape = shape(frame)?;
    let (ip, tcp, start) = (shape.network_at(), shape.transport_at(), shape.header_len());
    if frame.len() < start {
        return Err(format!("{} bytes, its headers alone are {start}", frame.len()));
    }
    let said = if shape.is_v6 { get(frame, ip + 4) + 40 } else { get(frame, ip + 2) };
    if said != frame.len() - ip {
        return Err(format!("IP says {said} bytes, there are {}", frame.len() - ip));
    }
    if !shape.is_v6 && fold(sum(&frame[ip..tcp])) != 0xffff {
        return Err("IPv4's checksum is wrong".to_owned());
    }
    if !shape.is_tcp && get(frame, tcp + 4) != frame.len() - tcp {
        return Err("UDP's length is wrong".to_owned());
    }
    let number = word(frame, if shape.is_tcp { tcp + 8 } else { tcp });
    let at = if shape.is_tcp { word(frame, tcp + 4) as usize } else { 0 };
    let payload = &frame[start..];
    if let Some(i) = (0..payload.len()).find(|&i| payload[i] != byte(number, at + i)) {
        return Err(format!("number {number} at {at}, {} bytes: byte {i} is another", payload.len()));
    }
    let there = get(frame, tcp + shape.checksum_offset());
    let is_so = match checksum {
        Checksum::Right => fold(pseudo(shape, frame) + sum(&frame[tcp..])) == 0xffff,
        Checksum::Open => there == usize::from(fold(pseudo(shape, frame))),
    };
    if !is_so {
        return Err(format!("number {number} at {at}: checksum {there:#x} is not {checksum:?}"));
    }
    Ok(Seen { shape, number, at, len: payload.len() })
}

fn shape(frame: &[u8]) -> Result<Shape, String> {
    let mut tags = 0;
    while frame.len() > 18 && get(frame, 12 + tags * TAG_LEN) == usize::from(VLAN) {
        tags += 1;
    }
    let at = ETHERNET_LEN + tags * TAG_LEN;
    if frame.len() < at + 20 {
        return Err(format!("a frame of {} bytes", frame.len()));
    }
    let is_v6 = match u16::try_from(get(frame, at - 2)) {
        Ok(IPV4) => false,
        Ok(IPV6) => true,
        other => return Err(format!("ethertype {other:x?}")),
    };
    let protocol = frame[if is_v6 { at + 6 } else { at + 9 }];
    if protocol != TCP && protocol != UDP {
        return Err(format!("protocol {protocol}"));
    }
    Ok(Shape { tags, is_v6, is_tcp: protocol == TCP })
}

fn get(frame: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]))
}

fn word(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

/// Sets a field of a frame.
pub fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The sum of 16-bit words, word by word.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

fn pseudo(shape: Shape, frame: &[u8]) -> u64 {
    let ip = shape.network_at();
    let addresses = if shape.is_v6 { &frame[ip + 8..ip + 40] } else { &frame[ip + 12..ip + 20] };
    sum(addresses) + u64::from(shape.protocol()) + (frame.len() - shape.transport_at()) as u64
}

/// `struct virtio_net_hdr_v1`, little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// 1: the checksum is open; 2: it was looked at and is right.
    pub flags: u8,
    /// 0 none, 1 TCP over IPv4, 4 over IPv6.
    pub gso_type: u8,
    /// Up to the end of the TCP or UDP header.
    pub header_len: u16,
    /// Payload of a segment.
    pub gso_size: u16,
    /// Where summing begins.
    pub csum_start: u16,
    /// From there, where the sum is put.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Bytes.
    pub const LEN: usize = 12;

    /// What goes with a frame whose checksum is open, and which is to be cut if `gso_size` is not 0.
    #[must_use]
    pub fn of_open(shape: Shape, gso_size: u16) -> Self {
        let short = |n: usize| u16::try_from(n).unwrap_or(0);
        Self {
            flags: 1,
            gso_type: match (gso_size, shape.is_v6) {
                (0, _) => 0,
                (_, false) => 1,
                (_, true) => 4,
            },
            header_len: short(shape.header_len()),
            gso_size,
            csum_start: short(shape.transport_at()),
            csum_offset: short(shape.checksum_offset()),
        }
    }

    /// As it stands before a frame.
    #[must_use]
    pub fn bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        (out[0], out[1]) = (self.flags, self.gso_type);
        let fields = [self.header_len, self.gso_size, self.csum_start, self.csum_offset];
        for (field, place) in fields.into_iter().zip([2, 4, 6, 8]) {
            out[place..place + 2].copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// Reads it from before a frame.
    #[must_use]
    pub fn read(bytes: &[u8; Self::LEN]) -> Self {
        let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every shape is recognised again; a changed byte anywhere is noticed.
    #[test]
    fn frames_prove_themselves() {
        let shapes = [TCP4, TCP6, UDP4, UDP6, Shape { tags: 1, ..TCP4 }, Shape { tags: 2, ..UDP6 }];
        for shape in shapes {
            let frame = whole(shape, 0x0102_0304, 99);
            let seen = Ok(Seen { shape, number: 0x0102_0304, at: 0, len: 99 });
            assert_eq!(check(&frame, Checksum::Right), seen);
            assert!(check(&frame, Checksum::Open).is_err());
            let open = open(shape, 0x0102_0304, 99);
            assert_eq!(check(&open, Checksum::Open), seen);
            assert!(check(&open, Checksum::Right).is_err());
            for at in shape.network_at()..frame.len() {
                let mut broken = frame.clone();
                broken[at] ^= 0x10;
                let is_noticed = check(&broken, Checksum::Right) != seen;
                // IPv6 protects neither class, flow nor hop limit; a swap of UDP ports is another number.
                assert!(is_noticed || shape.is_v6 && at < shape.network_at() + 8, "{shape:?} {at}");
            }
        }
    }

    /// RFC 1071 §3's example.
    #[test]
    fn sums_are_those_of_the_rfc() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }
}
