//! Moving a chunk's data through pages of the guest that stay mapped, which spares a call of the hypervisor. Knows nothing of
//! how mappings are kept.
//!
//! The disk never works on such pages itself. A kernel that has one pinned for direct I/O when the process is killed cannot take
//! its mapping away in time, and drops a reference too many (seen on Linux 6.1, PV dom0: "Bad rss-counter state", then a page
//! with no reference left, for which later I/O of anybody fails with ENOMEM). A copy leaves nothing pinned.

use std::time::Duration;

use worker::uring::Disk;
use xenbus::hv::{EventChannel, GrantTable};

use super::Queue;
use crate::figures::Counter;
use crate::pool::Run;
use crate::request::Direction;
use crate::slot::ChunkId;

/// How often idle mappings are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

impl<G: GrantTable, E: EventChannel, D: Disk> Queue<G, E, D> {
    /// Moves a chunk's data between its buffer and the guest; false if it is to be done by grant copies.
    pub(super) fn move_mapped(&mut self, id: ChunkId, run: Run) -> bool {
        let chunk = *self.chunk(id);
        let (Some(cache), Some(memory)) = (&mut self.cache, self.disk.memory()) else { return false };
        let at = usize::from(chunk.slot) * self.segments_per_slot + usize::from(chunk.first_segment);
        let segments = self.segments.get(at..at + usize::from(chunk.nr_segments)).unwrap_or_default();
        if !cache.map_all(&mut self.grants, segments.iter().map(|s| s.gref), self.now_ns) {
            return false;
        }
        let mut local = run.offset() + chunk.head_bytes as usize;
        for segment in segments {
            let len = segment.len_bytes() as usize;
            let Some((pages, page)) = cache.page(segment.gref) else { return false };
            let theirs = page + usize::from(segment.first) * 512;
            let moved = match chunk.direction {
                Direction::Write => memory.copy_from(local, pages, theirs, len),
                Direction::Read => memory.copy_to(local, pages, theirs, len),
            };
            if !moved {
                return false;
            }
            local += len;
        }
        true
    }

    /// Gives back what is idle; says how long to wait until the next look.
    pub(super) fn look_after_mappings(&mut self) -> Option<Duration> {
        let cache = self.cache.as_mut()?;
        let looked_before = self.mappings_seen_ns;
        if u128::from(self.now_ns - looked_before) >= LOOK_INTERVAL.as_nanos() {
            self.mappings_seen_ns = self.now_ns;
            cache.expire(self.now_ns);
        }
        self.figures.set(Counter::MappedPages, cache.pages() as u64);
        self.figures.add(Counter::MapShortages, cache.take_shortages());
        (cache.pages() > 0).then_some(LOOK_INTERVAL)
    }
}
