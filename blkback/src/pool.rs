//! A queue's transfer buffers: page runs out of a fixed area. No run free means wait, never an error. Knows nothing of the bytes.

use xen_ring::PAGE_LEN;

/// A run of pages, given back exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    first: u32,
    pages: u32,
}

impl Run {
    /// Of no page.
    pub(crate) const NONE: Self = Self { first: 0, pages: 0 };

    /// First byte in the area.
    pub(crate) fn offset(self) -> usize {
        self.first as usize * PAGE_LEN
    }
}

/// Which pages of the area are free, a bit each.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Vec<u64>,
    pages: u32,
}

impl Pool {
    /// Over an area of that many bytes.
    pub(crate) fn new(len_bytes: usize) -> Self {
        let pages = u32::try_from(len_bytes / PAGE_LEN).unwrap_or(u32::MAX);
        let mut pool = Self { free: vec![0; pages.div_ceil(64) as usize], pages };
        pool.mark(Run { first: 0, pages }, true);
        pool
    }

    /// Pages in all.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// The first run of that many pages.
    pub(crate) fn take(&mut self, pages: u32) -> Option<Run> {
        let mut first = 0;
        let mut found = 0;
        let mut at = 0;
        while at < self.pages {
            let word = self.free.get(at as usize / 64).copied().unwrap_or(0) >> (at % 64);
            if word == 0 {
                at = (at / 64 + 1) * 64;
                found = 0;
                continue;
            }
            let skip = word.trailing_zeros();
            if skip > 0 {
                at += skip;
                found = 0;
                continue;
            }
            if found == 0 {
                first = at;
            }
            let ones = word.trailing_ones().min(pages - found);
            found += ones;
            at += ones;
            if found == pages {
                let run = Run { first, pages };
                self.mark(run, false);
                return Some(run);
            }
        }
        None
    }

    /// Takes a run back.
    pub(crate) fn give(&mut self, run: Run) {
        self.mark(run, true);
    }

    fn mark(&mut self, run: Run, free: bool) {
        for page in run.first..run.first + run.pages {
            if let Some(word) = self.free.get_mut(page as usize / 64) {
                let bit = 1 << (page % 64);
                debug_assert_eq!(*word & bit != 0, !free, "page {page} given or taken twice");
                if free { *word |= bit } else { *word &= !bit }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Runs never overlap nor leave the area, and everything given back can be had again at once.
        #[test]
        fn runs_are_disjoint(pages in 1u32..300, wants in proptest::collection::vec((1u32..70, any::<bool>()), 0..80)) {
            let mut pool = Pool::new(pages as usize * PAGE_LEN);
            let mut held: Vec<Run> = Vec::new();
            for (want, give_first) in wants {
                if give_first && !held.is_empty() {
                    pool.give(held.remove(0));
                }
                if let Some(run) = pool.take(want) {
                    prop_assert_eq!(run.pages, want);
                    prop_assert!(run.first + run.pages <= pages);
                    let apart = |h: &Run| h.first + h.pages <= run.first || run.first + run.pages <= h.first;
                    prop_assert!(held.iter().all(apart));
                    held.push(run);
                }
            }
            for run in held {
                pool.give(run);
            }
            prop_assert!(pool.take(pages).is_some());
        }
    }
}
