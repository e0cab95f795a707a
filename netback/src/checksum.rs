//! The Internet checksum (RFC 1071), eight bytes a step. Pure. Knows nothing of headers beside the pseudo header's fields.

/// Adds `bytes`, as big-endian words, to an unfolded sum. Only the last piece of a sum may have an odd length.
#[must_use]
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    // The sum of 32-bit words folds to that of 16-bit words; in native order, which a swap at the end makes up for (RFC 1071 §2B).
    let mut native = 0u64;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        native += u64::from(u32::from_ne_bytes(*word));
    }
    let mut tail = [0; 4];
    for (to, from) in tail.iter_mut().zip(rest) {
        *to = *from;
    }
    native += u64::from(u32::from_ne_bytes(tail));
    sum + u64::from(u16::from_be_bytes(fold(native).to_ne_bytes()))
}

/// Folds a sum to 16 bits; its complement is what stands in a header.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    u16::try_from(sum & 0xffff).unwrap_or(0)
}

/// The sum of a pseudo header: both addresses, the protocol, the length of what follows the network header.
#[must_use]
pub fn pseudo_header(addresses: &[u8], protocol: u8, len_bytes: usize) -> u64 {
    add(u64::from(protocol) + len_bytes as u64, addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::try_from(sum).unwrap()
    }

    /// The example of RFC 1071 §3.
    #[test]
    fn rfc_1071() {
        assert_eq!(fold(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    proptest! {
        /// The same as word by word, at any length and alignment; zero's two forms are one.
        #[test]
        fn as_word_by_word(bytes in prop::collection::vec(any::<u8>(), 0..3000), skip in 0usize..8) {
            let bytes = bytes.get(skip..).unwrap_or_default();
            prop_assert_eq!(fold(add(0, bytes)) % 0xffff, naive(bytes) % 0xffff);
        }

        /// A sum in even pieces is the sum of the whole.
        #[test]
        fn pieces_add_up(bytes in prop::collection::vec(any::<u8>(), 0..500), at in 0usize..250) {
            let at = (at * 2).min(bytes.len() / 2 * 2);
            let (a, b) = bytes.split_at(at);
            prop_assert_eq!(fold(add(add(0, a), b)) % 0xffff, naive(&bytes) % 0xffff);
        }
    }
}
