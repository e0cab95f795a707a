//! A queue's persistent mappings: pages of the guest that stay mapped between requests, found by grant reference. Bounded; idle
//! ones expire; whenever a page cannot be mapped the caller copies instead, so that a shortage of ours is never a guest's error.
//! Pages are only ever copied from and to, never given to the disk: see `queue/mapped.rs`. Knows nothing of requests.

use std::collections::HashMap;

use xen_ring::{PAGE_LEN, SharedMemory};
use xenbus::GrantRef;
use xenbus::hv::{Access, GrantTable, MapError};

/// Pages that one queue keeps mapped: what a Linux frontend's pool for 32 slots of 32 segments and their tables holds.
const MOST_PAGES: usize = 1056;
/// Mappings not used for so long are given back.
const EXPIRES_NS: u64 = 60_000_000_000;
/// Younger mappings are not evicted for new ones: a guest that never reuses its pages is copied from, not mapped in turns.
const SETTLED_NS: u64 = 1_000_000_000;
/// After a shortage of ours nothing is mapped for so long.
const SHORTAGE_PAUSE_NS: u64 = 1_000_000_000;

/// Pages that were mapped together, and will be unmapped together.
#[derive(Debug)]
struct Batch<M> {
    mapping: M,
    refs: Vec<GrantRef>,
    used_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    batch: usize,
    page: usize,
}

/// The mappings.
#[derive(Debug)]
pub(crate) struct Cache<M> {
    batches: Vec<Option<Batch<M>>>,
    places: HashMap<GrantRef, Place>,
    misses: Vec<GrantRef>,
    pages: usize,
    paused_until_ns: u64,
    shortages: u64,
}

impl<M: SharedMemory> Cache<M> {
    pub(crate) fn new() -> Self {
        Self {
            batches: Vec::new(),
            places: HashMap::with_capacity(MOST_PAGES),
            misses: Vec::with_capacity(64),
            pages: 0,
            paused_until_ns: 0,
            shortages: 0,
        }
    }

    /// Pages mapped now.
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// How often mapping failed for want of something of ours, since last asked.
    pub(crate) fn take_shortages(&mut self) -> u64 {
        std::mem::take(&mut self.shortages)
    }

    /// Makes sure that all pages are mapped; false if they are to be copied. They stay mapped until the next call at least.
    pub(crate) fn map_all<G>(
        &mut self,
        grants: &mut G,
        refs: impl Iterator<Item = GrantRef> + Clone,
        now_ns: u64,
    ) -> bool
    where
        G: GrantTable<Mapping = M>,
    {
        self.misses.clear();
        for gref in refs {
            // What is marked cannot be evicted to make room for the rest.
            if let Some(batch) = self.batch_of(gref) {
                batch.used_ns = now_ns;
            } else if !self.misses.contains(&gref) {
                self.misses.push(gref);
            }
        }
        self.misses.is_empty() || self.map_misses(grants, now_ns)
    }

    /// The mapping that has a page, and where in it.
    pub(crate) fn page(&self, gref: GrantRef) -> Option<(&M, usize)> {
        let place = self.places.get(&gref)?;
        let batch = self.batches.get(place.batch)?.as_ref()?;
        Some((&batch.mapping, place.page * PAGE_LEN))
    }

    fn batch_of(&mut self, gref: GrantRef) -> Option<&mut Batch<M>> {
        let place = self.places.get(&gref)?;
        self.batches.get_mut(place.batch)?.as_mut()
    }

    fn map_misses<G: GrantTable<Mapping = M>>(&mut self, grants: &mut G, now_ns: u64) -> bool {
        if now_ns < self.paused_until_ns || !self.make_room(now_ns) {
            return false;
        }
        let mapping = match grants.map(&self.misses, Access::ReadWrite) {
            Ok(mapping) => mapping,
            // A copy says which of them is bad.
            Err(MapError::BadGrant) => return false,
            Err(MapError::Shortage(_) | MapError::Host(_)) => {
                self.shortages += 1;
                self.paused_until_ns = now_ns + SHORTAGE_PAUSE_NS;
                return false;
            }
        };
        let batch = self.batches.iter().position(Option::is_none).unwrap_or_else(|| {
            self.batches.push(None);
            self.batches.len() - 1
        });
        for (page, &gref) in self.misses.iter().enumerate() {
            self.places.insert(gref, Place { batch, page });
        }
        self.pages += self.misses.len();
        if let Some(place) = self.batches.get_mut(batch) {
            *place = Some(Batch { mapping, refs: self.misses.clone(), used_ns: now_ns });
        }
        true
    }

    fn make_room(&mut self, now_ns: u64) -> bool {
        while self.pages + self.misses.len() > MOST_PAGES {
            let mapped = self.batches.iter().enumerate().filter_map(|(i, b)| Some((i, b.as_ref()?)));
            match mapped.min_by_key(|(_, b)| b.used_ns) {
                Some((i, batch)) if now_ns.saturating_sub(batch.used_ns) >= SETTLED_NS => self.unmap(i),
                _ => return false,
            }
        }
        true
    }

    /// Gives back what was not used for long.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        for i in 0..self.batches.len() {
            let old = |b: &Batch<M>| now_ns.saturating_sub(b.used_ns) >= EXPIRES_NS;
            if self.batches.get(i).and_then(Option::as_ref).is_some_and(old) {
                self.unmap(i);
            }
        }
    }

    fn unmap(&mut self, i: usize) {
        if let Some(batch) = self.batches.get_mut(i).and_then(Option::take) {
            self.pages -= batch.refs.len();
            for gref in &batch.refs {
                self.places.remove(gref);
            }
        }
    }
}

#[cfg(test)]
mod tests;
