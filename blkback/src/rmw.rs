//! Sectors of 512 bytes on a disk whose blocks are larger: a range is widened to whole blocks, and the blocks at its edges that are
//! written in part are read first. Two such writes into one block must not cross, on whatever queues they came, so a block is
//! owned while it is at it. Knows nothing of requests.

use std::sync::{Mutex, PoisonError};

/// A range of the disk in whole blocks around a range in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u32,
    /// Bytes before the range that was asked for.
    pub(crate) head: u32,
    /// Blocks that the range covers in part, by their first byte; the second only if it is another.
    pub(crate) edges: [Option<u64>; 2],
}

/// All blocks are covered whole.
pub(crate) const NO_EDGES: [Option<u64>; 2] = [None; 2];

/// Widens a range to blocks of `block` bytes, a power of two.
pub(crate) fn span(offset: u64, len: u32, block: u32) -> Span {
    let mask = u64::from(block) - 1;
    let first = offset & !mask;
    let end = offset + u64::from(len);
    let last = (end + mask) & !mask;
    let head_edge = (first != offset).then_some(first);
    let tail_edge = (last != end).then(|| last - u64::from(block)).filter(|t| Some(*t) != head_edge);
    Span {
        offset: first,
        len: u32::try_from(last - first).unwrap_or(u32::MAX),
        head: u32::try_from(offset - first).unwrap_or(0),
        edges: [head_edge, tail_edge],
    }
}

/// The blocks of a device that are being changed in part.
#[derive(Debug, Default)]
pub(crate) struct EdgeOwners(Mutex<Owned>);

#[derive(Debug, Default)]
struct Owned {
    blocks: Vec<u64>,
    wanted: bool,
}

impl EdgeOwners {
    /// Takes all blocks, or none of them; whoever gets none is woken when some are free again.
    pub(crate) fn take(&self, edges: [Option<u64>; 2]) -> bool {
        let mut owned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if edges.iter().flatten().any(|edge| owned.blocks.contains(edge)) {
            owned.wanted = true;
            return false;
        }
        owned.blocks.extend(edges.iter().flatten());
        true
    }

    /// Gives blocks back; true if somebody waits for some.
    #[must_use = "those who wait are to be woken"]
    pub(crate) fn give(&self, edges: [Option<u64>; 2]) -> bool {
        let mut owned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        owned.blocks.retain(|block| !edges.contains(&Some(*block)));
        std::mem::take(&mut owned.wanted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One block owned by one at a time, both or none.
    #[test]
    fn blocks_have_one_owner() {
        let owners = EdgeOwners::default();
        assert!(owners.take([Some(0), Some(8192)]));
        assert!(!owners.take([Some(4096), Some(8192)]));
        assert!(owners.take([Some(4096), None]));
        assert!(owners.give([Some(0), Some(8192)]), "somebody waits");
        assert!(owners.take([None, Some(8192)]));
        assert!(!owners.give([Some(4096), None]), "nobody waits any more");
    }

    proptest! {
        /// The span holds the range, is whole blocks, and its edges are exactly the blocks that are not covered whole.
        #[test]
        fn spans_cover(sector in 0u64..1000, nr in 1u32..600, shift in 9u32..13) {
            let (block, offset, len) = (1u32 << shift, sector * 512, nr * 512);
            let s = span(offset, len, block);
            let (b, end) = (u64::from(block), offset + u64::from(len));
            prop_assert!(s.offset.is_multiple_of(b) && s.len.is_multiple_of(block));
            prop_assert!(s.offset <= offset && end <= s.offset + u64::from(s.len));
            prop_assert_eq!(s.offset + u64::from(s.head), offset);
            prop_assert!(u64::from(s.len) < u64::from(len) + 2 * b);
            let partial: Vec<u64> = (s.offset..s.offset + u64::from(s.len)).step_by(block as usize)
                .filter(|at| *at < offset || at + b > end).collect();
            prop_assert_eq!(s.edges.into_iter().flatten().collect::<Vec<_>>(), partial);
        }
    }
}
