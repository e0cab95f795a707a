//! Small changes to kept inputs, decided by a seed: what is run where there is no fuzzer. Knows nothing of what the inputs mean.

use crate::prng::Prng;

/// Values at which rules change.
const EDGES: [u8; 10] = [0, 1, 7, 8, 11, 12, 0x7f, 0x80, 0xfe, 0xff];

/// `input` with one to four changes, at most `longest` bytes; `other` is spliced in at times.
#[must_use]
pub fn mutated(random: &mut Prng, input: &[u8], other: &[u8], longest: usize) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=random.below(3) {
        change(random, &mut out, other);
    }
    out.truncate(longest);
    out
}

fn place(random: &mut Prng, len: usize) -> usize {
    usize::try_from(random.below(len as u64)).unwrap_or(0)
}

fn change(random: &mut Prng, out: &mut Vec<u8>, other: &[u8]) {
    let at = place(random, out.len());
    let byte = random.next_u64().to_le_bytes()[0];
    match (random.below(6), out.get_mut(at)) {
        (0, Some(target)) => *target ^= 1 << (byte % 8),
        (1, Some(target)) => *target = byte,
        (2, Some(target)) => *target = EDGES[usize::from(byte) % EDGES.len()],
        (3, Some(_)) => {
            let end = (at + 1 + usize::from(byte % 16)).min(out.len());
            out.drain(at..end);
        }
        (4, Some(_)) => {
            let end = (at + 1 + usize::from(byte % 32)).min(out.len());
            let copy = out[at..end].to_vec();
            out.splice(at..at, copy);
        }
        _ => {
            let from = place(random, other.len());
            let end = (from + 1 + usize::from(byte % 64)).min(other.len());
            out.splice(at..at, other.get(from..end).unwrap_or_default().iter().copied());
        }
    }
}
