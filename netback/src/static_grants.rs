//! A queue's static grants: pages of the guest that stay mapped because it asked so by its control ring. The control ring's thread
//! changes them, the queue copies through them; one lock for a queue's whole batch, so that no page goes while a batch is copied. A
//! page that is not here is copied by grant, which is always right. Bytes are only ever copied between such a page and our own memory,
//! once: what the guest changes under us is data, and nothing is parsed or pinned in place. Knows nothing of rings or orders.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};
use xen_ring::{PAGE_LEN, SharedMemory};
use xenbus::GrantRef;
use xenbus::hv::{Direction, GrantCopy};
use xenbus::memory::LocalMemory;

/// Most pages of a queue: as many as both of its rings can name at a time, and as one list holds.
pub(crate) const MOST_PAGES: usize = 512;

/// A page that the guest wants mapped.
#[derive(Debug)]
pub(crate) struct Page<M> {
    /// `None` in a successor that could not map it again: it is copied by grant, and the guest's to remove.
    pub(crate) mapping: Option<M>,
    /// Nothing is to be written there.
    pub(crate) is_read_only: bool,
    /// Where it is kept for a successor.
    pub(crate) place: usize,
}

/// The pages.
#[derive(Debug)]
pub(crate) struct StaticGrants<M>(Mutex<HashMap<GrantRef, Page<M>>>);

/// The pages, none of which goes as long as this is held.
pub(crate) struct Pages<'a, M>(MutexGuard<'a, HashMap<GrantRef, Page<M>>>);

impl<M> Default for StaticGrants<M> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<M: SharedMemory> StaticGrants<M> {
    /// For a batch.
    pub(crate) fn hold(&self) -> Pages<'_, M> {
        Pages(self.0.lock())
    }

    /// Whether a page is here, and for reading alone.
    pub(crate) fn is_read_only(&self, gref: GrantRef) -> Option<bool> {
        self.0.lock().get(&gref).map(|page| page.is_read_only)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Adds pages that are not here.
    pub(crate) fn add(&self, pages: Vec<(GrantRef, Page<M>)>) {
        self.0.lock().extend(pages);
    }

    /// Takes pages out; they are unmapped when what comes back is dropped.
    pub(crate) fn remove(&self, refs: &[GrantRef]) -> Vec<Page<M>> {
        let mut pages = self.0.lock();
        refs.iter().filter_map(|gref| pages.remove(gref)).collect()
    }

    /// All of them.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.0.lock());
        drop(all);
    }
}

impl<M: SharedMemory> Pages<'_, M> {
    /// Does a copy through the page's mapping; false (and nothing copied) if it is to be done by grant.
    pub(crate) fn copy(&self, memory: &LocalMemory, copy: &GrantCopy) -> bool {
        let Some(Page { mapping: Some(page), is_read_only, .. }) = self.0.get(&copy.gref) else {
            return false;
        };
        let (theirs, len) = (usize::from(copy.offset), usize::from(copy.len));
        match copy.direction {
            _ if theirs + len > PAGE_LEN => false,
            Direction::FromGuest => memory.copy_from(copy.local, page, theirs, len),
            // The hypervisor's own answer is the right one here.
            Direction::ToGuest if *is_read_only => false,
            Direction::ToGuest => memory.copy_to(copy.local, page, theirs, len),
        }
    }
}

#[cfg(test)]
mod tests {
    use xenbus::DomId;
    use xenbus::hv::{Access, GrantStatus, GrantTable, Hypervisor};
    use xenbus::sim::{Sim, SimHost};

    use super::*;

    fn copy(gref: GrantRef, offset: u16, direction: Direction) -> GrantCopy {
        GrantCopy { gref, offset, len: 4, local: 8, direction, status: GrantStatus::GENERAL_ERROR }
    }

    /// Through the mapping where there is one; nothing is written to a page for reading, nothing leaves its page, and a page that
    /// was removed is none, neither here nor in the guest.
    #[test]
    fn only_what_is_mapped_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let host = SimHost::start(dir.path()).unwrap();
        let guest = host.domain(DomId(5), "guest", "0b1d5a8e-6c1f-4a53-9d5e-000000000005", 64).unwrap();
        let mut table = Sim::open(dir.path()).open_grants(DomId(5)).unwrap();
        let theirs = guest.allocate(3).unwrap();
        assert!(theirs.write(0, &[1; 4096]) && theirs.write(4096, &[2; 4096]));
        let refs = [(0, Access::ReadOnly), (1, Access::ReadWrite), (2, Access::ReadWrite)]
            .map(|(page, access)| guest.grant(theirs.frame(page), DomId::DOM0, access).unwrap());
        let [fixed, free, lost] = refs;
        let grants = StaticGrants::default();
        let mut map = |gref, access| Some(table.map(&[gref], access).unwrap());
        grants.add(vec![
            (fixed, Page { mapping: map(fixed, Access::ReadOnly), is_read_only: true, place: 0 }),
            (free, Page { mapping: map(free, Access::ReadWrite), is_read_only: false, place: 1 }),
            (lost, Page { mapping: None, is_read_only: false, place: 2 }),
        ]);
        let memory = LocalMemory::new(PAGE_LEN).unwrap();
        {
            let pages = grants.hold();
            assert!(pages.copy(&memory, &copy(fixed, 4092, Direction::FromGuest)));
            assert!(pages.copy(&memory, &copy(free, 100, Direction::ToGuest)));
            let mut bytes = [0; 8];
            assert!(theirs.read(4096 + 98, &mut bytes));
            assert_eq!(bytes, [2, 2, 1, 1, 1, 1, 2, 2]);
            assert!(!pages.copy(&memory, &copy(fixed, 0, Direction::ToGuest)), "for reading");
            for (gref, offset) in [(fixed, 4093), (lost, 0), (GrantRef(9999), 0)] {
                assert!(!pages.copy(&memory, &copy(gref, offset, Direction::FromGuest)), "{gref} {offset}");
            }
        }
        assert_eq!((grants.is_read_only(fixed), grants.is_read_only(GrantRef(9999))), (Some(true), None));
        assert!(!guest.end_access(free));
        assert_eq!(grants.remove(&[free, GrantRef(9999)]).len(), 1);
        assert!(guest.end_access(free));
        assert!(!grants.hold().copy(&memory, &copy(free, 100, Direction::ToGuest)));
        assert_eq!(grants.len(), 2);
        grants.clear();
        assert_eq!((grants.len(), guest.end_access(fixed)), (0, true));
    }
}
