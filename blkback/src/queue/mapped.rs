//! Chunks that need no buffer, because the guest's pages are mapped: the disk reads and writes them in place. Knows nothing of
//! how mappings are kept.

use std::time::Duration;

use worker::uring::Rw;
use xen_ring::SharedMemory;
use xenbus::hv::{EventChannel, GrantTable};

use super::{Queue, Stop, TARGET};
use crate::figures::Counter;
use crate::persistent::Cache;
use crate::slot::{Chunk, ChunkId, SlotId, Tag};

/// How often idle mappings are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Room for the addresses of every chunk's pages.
pub(super) fn room<M: SharedMemory>(
    cache: Option<&Cache<M>>,
    nr_chunks: usize,
    pages_per_chunk: u32,
) -> Vec<libc::iovec> {
    vec![NOTHING; cache.map_or(0, |_| nr_chunks * pages_per_chunk as usize)]
}

impl<G: GrantTable, E: EventChannel> Queue<G, E> {
    /// Has the pages of some segments mapped and held; false if they are to be copied.
    pub(super) fn acquire_pages(&mut self, id: SlotId, first: usize, last: usize) -> bool {
        let Some(cache) = &mut self.cache else { return false };
        let at = usize::from(id) * self.segments_per_slot;
        let segments = self.segments.get(at + first..at + last).unwrap_or_default();
        cache.acquire(&mut self.grants, segments.iter().map(|s| s.gref), self.now_ns)
    }

    /// Lets go of a chunk's pages: before its request is answered.
    pub(super) fn release_pages(&mut self, chunk: &Chunk) {
        let Some(cache) = &mut self.cache else { return };
        let at = usize::from(chunk.slot) * self.segments_per_slot + usize::from(chunk.first_segment);
        let segments = self.segments.get(at..at + usize::from(chunk.nr_segments)).unwrap_or_default();
        cache.release(segments.iter().map(|s| s.gref));
    }

    /// Gives a chunk on the guest's own pages, or what is left of it, to the disk.
    pub(super) fn send_pages_to_disk(&mut self, id: ChunkId, rw: Rw) -> Result<(), Stop> {
        let chunk = *self.chunk(id);
        let Some(cache) = &self.cache else { return Ok(()) };
        let at = usize::from(chunk.slot) * self.segments_per_slot + usize::from(chunk.first_segment);
        let segments = self.segments.get(at..at + usize::from(chunk.nr_segments)).unwrap_or_default();
        let room = self.most_pages_per_chunk as usize;
        let iovecs = self.iovecs.get_mut(usize::from(id) * room..).unwrap_or_default();
        let mut done = chunk.done_bytes as usize;
        let mut used = 0;
        for segment in segments {
            let len = segment.len_bytes() as usize;
            let skip = done.min(len);
            done -= skip;
            let Some(page) = cache.address(segment.gref) else { continue };
            if let Some(iovec) = iovecs.get_mut(used).filter(|_| len > skip) {
                let start = page.wrapping_add(usize::from(segment.first) * 512 + skip);
                *iovec = libc::iovec { iov_base: start.cast(), iov_len: len - skip };
                used += 1;
            }
        }
        let iovecs = iovecs.get(..used).unwrap_or_default();
        let offset = chunk.offset_bytes + u64::from(chunk.done_bytes);
        // SAFETY: a chunk's iovecs are written again only when it was completed, long after the next submit. The pages stay
        // mapped until then: the cache unmaps nothing that is in use, and `leave` leaks it while anything is in flight.
        unsafe { self.uring.transfer_scattered(rw, TARGET, offset, iovecs, Tag::Chunk(id).pack())? };
        Ok(())
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
