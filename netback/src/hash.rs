//! The guest's own hash of frames to it (netif.h's Toeplitz) and the queue that each hash goes to: what the guest set, and the words
//! from which both the tap's steering program and the queues compute. The rules are the kernel netback's: TCP with its ports where
//! no fragment, other IP by its addresses, all else hashes to 0. Pure. Knows nothing of rings or of programs.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::wire::{self, Extra};

/// Bytes of a key.
pub const KEY_LEN: usize = 40;
/// Most entries of a mapping.
pub const MAPPING_LEN: usize = 128;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV4`
pub const IPV4: u32 = 1;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP`
pub const IPV4_TCP: u32 = 2;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV6`
pub const IPV6: u32 = 4;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP`
pub const IPV6_TCP: u32 = 8;
/// All that there are.
pub const ALL_TYPES: u32 = IPV4 | IPV4_TCP | IPV6 | IPV6_TCP;
/// `XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ`
const TOEPLITZ: u8 = 1;

/// Two IPv6 addresses and two ports.
pub const INPUT_LEN: usize = 36;
/// Word: the types that are hashed; 0 for none.
pub const AT_TYPES: usize = 0;
/// Word: entries of the mapping; 0 for the hash modulo the number of queues.
pub const AT_SIZE: usize = 1;
/// Words: the mapping.
pub const AT_MAPPING: usize = 2;
/// Words: for each byte of input, what each of its 256 values adds to the hash.
pub const AT_TABLE: usize = AT_MAPPING + MAPPING_LEN;
/// Words in all.
pub const NR_WORDS: usize = AT_TABLE + INPUT_LEN * 256;

/// What a guest set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// The algorithm is Toeplitz, else none.
    pub is_on: bool,
    /// `IPV4` and so on.
    pub types: u32,
    /// The key; what was not set is 0.
    pub key: [u8; KEY_LEN],
    /// Entries in use.
    pub size: u32,
    /// Queues.
    pub mapping: [u32; MAPPING_LEN],
}

impl Default for Hashing {
    fn default() -> Self {
        Self { is_on: false, types: 0, key: [0; KEY_LEN], size: 0, mapping: [0; MAPPING_LEN] }
    }
}

impl Hashing {
    /// Writes the words that frames are hashed by.
    pub fn publish(&self, words: &[AtomicU32]) {
        let (head, table) = words.split_at(AT_TABLE);
        for (place, row) in table.chunks_exact(256).enumerate() {
            let windows: [u32; 8] = std::array::from_fn(|bit| window(&self.key, place * 8 + bit));
            for (byte, word) in row.iter().enumerate() {
                let set = |(bit, window): (usize, &u32)| if byte & 0x80 >> bit != 0 { *window } else { 0 };
                word.store(windows.iter().enumerate().map(set).fold(0, |a, b| a ^ b), Relaxed);
            }
        }
        for (word, value) in head[AT_MAPPING..].iter().zip(self.mapping) {
            word.store(value, Relaxed);
        }
        head[AT_SIZE].store(self.size, Relaxed);
        head[AT_TYPES].store(if self.is_on { self.types } else { 0 }, Relaxed);
    }
}

/// 32 bits of the key, from a bit on; it goes on with zeroes.
fn window(key: &[u8; KEY_LEN], from: usize) -> u32 {
    let byte = |i: usize| u64::from(key.get(from / 8 + i).copied().unwrap_or(0));
    let bits = (0..5).fold(0u64, |bits, i| bits << 8 | byte(i));
    u32::try_from(bits >> (8 - from % 8) & 0xffff_ffff).unwrap_or(0)
}

/// A frame's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// `_XEN_NETIF_CTRL_HASH_TYPE_*`, the number of its bit.
    pub kind: u8,
    /// The hash.
    pub value: u32,
}

impl Hash {
    /// The extra info that tells the guest.
    #[must_use]
    pub fn extra(self) -> Extra {
        let [a, b, c, d] = self.value.to_le_bytes();
        Extra { kind: wire::EXTRA_HASH, more: false, body: [self.kind, TOEPLITZ, a, b, c, d] }
    }
}

/// The hash of a frame to the guest; `None` for one that is not hashed.
#[must_use]
pub fn of_frame(words: &[AtomicU32], frame: &[u8]) -> Option<Hash> {
    let types = words.first()?.load(Relaxed);
    if types == 0 {
        return None;
    }
    let (addresses, ports, with_ports, without) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header: &[u8; 20] = frame.get(14..)?.first_chunk()?;
            let is_whole = u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
            let ports_at = 14 + usize::from(header[0] & 0xf) * 4;
            (&frame[26..34], (header[9] == 6 && is_whole).then_some(ports_at), IPV4_TCP, IPV4)
        }
        [0x86, 0xdd] => {
            let header: &[u8; 40] = frame.get(14..)?.first_chunk()?;
            (&frame[22..54], (header[6] == 6).then_some(54), IPV6_TCP, IPV6)
        }
        _ => return None,
    };
    let ports = ports.filter(|_| types & with_ports != 0);
    let ports = ports.and_then(|at| frame.get(at..)?.first_chunk::<4>());
    let (kind, ports): (u32, &[u8]) = match ports {
        Some(ports) => (with_ports, ports),
        None if types & without != 0 => (without, &[]),
        None => return None,
    };
    let input = addresses.iter().chain(ports);
    let value = input.enumerate().fold(0, |hash, (place, &byte)| {
        let word = words.get(AT_TABLE + place * 256 + usize::from(byte));
        hash ^ word.map_or(0, |word| word.load(Relaxed))
    });
    Some(Hash { kind: u8::try_from(kind.trailing_zeros()).unwrap_or(0), value })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Words for a table that only this process looks at.
    pub(crate) fn words(hashing: &Hashing) -> Vec<AtomicU32> {
        let words: Vec<AtomicU32> = (0..NR_WORDS).map(|_| AtomicU32::new(0)).collect();
        hashing.publish(&words);
        words
    }

    /// The key of the published test vectors for receive side scaling.
    pub(crate) const KEY: [u8; KEY_LEN] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn tcp4(source: [u8; 4], from: u16, destination: [u8; 4], to: u16) -> Vec<u8> {
        let mut frame = crate::headers::tests::frame(0, false, true, b"x");
        frame[26..30].copy_from_slice(&source);
        frame[30..34].copy_from_slice(&destination);
        frame[34..36].copy_from_slice(&from.to_be_bytes());
        frame[36..38].copy_from_slice(&to.to_be_bytes());
        frame
    }

    /// The published vectors, with ports and without (Microsoft, "Verifying the RSS Hash Calculation").
    #[test]
    fn published_vectors() {
        let all = words(&Hashing { is_on: true, types: ALL_TYPES, key: KEY, ..Hashing::default() });
        let bare = words(&Hashing { is_on: true, types: IPV4 | IPV6, key: KEY, ..Hashing::default() });
        for (source, from, destination, to, with, without) in [
            ([66, 9, 149, 187], 2794, [161, 142, 100, 80], 1766, 0x51cc_c178, 0x323e_8fc2),
            ([199, 92, 111, 2], 14230, [65, 69, 140, 83], 4739, 0xc626_b0ea, 0xd718_262a),
            ([24, 19, 198, 95], 12898, [12, 22, 207, 184], 38024, 0x5c2b_394a, 0xd2d0_a5de),
        ] {
            let frame = tcp4(source, from, destination, to);
            assert_eq!(of_frame(&all, &frame), Some(Hash { kind: 1, value: with }));
            assert_eq!(of_frame(&bare, &frame), Some(Hash { kind: 0, value: without }));
        }
        let mut frame = crate::headers::tests::frame(0, true, true, b"x");
        frame[38..54].copy_from_slice(&[0x3f, 0xfe, 0x25, 1, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame[22..38].copy_from_slice(&[0x3f, 0xfe, 0x25, 1, 2, 0, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7]);
        frame[54..56].copy_from_slice(&2794u16.to_be_bytes());
        frame[56..58].copy_from_slice(&1766u16.to_be_bytes());
        assert_eq!(of_frame(&all, &frame), Some(Hash { kind: 3, value: 0x4020_7d3d }));
        assert_eq!(of_frame(&bare, &frame), Some(Hash { kind: 2, value: 0x2cc1_8cd5 }));
    }

    /// Fragments and UDP go by their addresses; what is no IP, and types that were not asked for, are not hashed.
    #[test]
    fn what_has_no_ports_goes_by_addresses() {
        let all = words(&Hashing { is_on: true, types: ALL_TYPES, key: KEY, ..Hashing::default() });
        let tcp_only = words(&Hashing { is_on: true, types: IPV4_TCP, key: KEY, ..Hashing::default() });
        let off = words(&Hashing { types: ALL_TYPES, key: KEY, ..Hashing::default() });
        let mut fragment = tcp4([66, 9, 149, 187], 2794, [161, 142, 100, 80], 1766);
        fragment[20] = 0x20;
        assert_eq!(of_frame(&all, &fragment), Some(Hash { kind: 0, value: 0x323e_8fc2 }));
        let udp = crate::headers::tests::frame(0, false, false, b"x");
        assert_eq!(of_frame(&all, &udp).map(|h| h.kind), Some(0));
        let tagged = crate::headers::tests::frame(1, false, true, b"x");
        for (words, frame) in
            [(&tcp_only, &udp), (&tcp_only, &fragment), (&off, &udp), (&all, &tagged), (&all, &vec![0; 13])]
        {
            assert_eq!(of_frame(words, frame), None);
        }
    }
}
