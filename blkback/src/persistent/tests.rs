//! The cache against a grant table that counts, refuses and runs short.

use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use xenbus::hv::GrantCopy;
use xenbus::memory::LocalMemory;

use super::*;

const SECOND: u64 = 1_000_000_000;

thread_local!(static MAPPED: Rc<Cell<usize>> = Rc::default());

#[derive(Debug)]
struct Pages(LocalMemory);

// SAFETY: page-aligned private memory, valid until dropped.
#[allow(unsafe_code)]
unsafe impl SharedMemory for Pages {
    fn base(&self) -> NonNull<u8> {
        self.0.address(0, self.0.len()).unwrap()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        MAPPED.with(|m| m.set(m.get() - self.0.len() / PAGE_LEN));
    }
}

#[derive(Default)]
struct Table {
    calls: usize,
    short: bool,
}

impl GrantTable for Table {
    type Mapping = Pages;

    fn map(&mut self, refs: &[GrantRef], _: Access) -> Result<Pages, MapError> {
        self.calls += 1;
        if self.short {
            return Err(MapError::Shortage(io::ErrorKind::OutOfMemory.into()));
        }
        if refs.contains(&GrantRef(666)) {
            return Err(MapError::BadGrant);
        }
        MAPPED.with(|m| m.set(m.get() + refs.len()));
        Ok(Pages(LocalMemory::new(refs.len() * PAGE_LEN).unwrap()))
    }

    fn copy(&mut self, _: &LocalMemory, _: &mut [GrantCopy]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn refs(range: std::ops::Range<u32>) -> impl Iterator<Item = GrantRef> + Clone {
    range.map(GrantRef)
}

fn mapped() -> usize {
    MAPPED.with(|m| m.get())
}

/// Pages are mapped once, together, and found again, also when one is named twice (hostile case B9).
#[test]
fn maps_once() {
    let (mut cache, mut table) = (Cache::new(), Table::default());

    assert!(cache.map_all(&mut table, refs(0..8).chain(refs(3..4)), 0));
    assert!(cache.map_all(&mut table, refs(4..6), 1));

    assert_eq!((table.calls, cache.pages(), mapped()), (1, 8, 8));
    let place = |gref| cache.page(GrantRef(gref)).map(|(pages, at)| (pages.len(), at));
    assert_eq!(place(4), Some((8 * PAGE_LEN, 4 * PAGE_LEN)));
    assert_eq!(place(5), Some((8 * PAGE_LEN, 5 * PAGE_LEN)));
    assert_eq!(place(9), None);
}

/// B26: a guest that never uses a page twice fills the budget and is copied from then on.
#[test]
fn endless_new_pages_are_copied() {
    let (mut cache, mut table) = (Cache::new(), Table::default());
    let mut copied = 0;
    for first in (0..100_000).step_by(10) {
        if !cache.map_all(&mut table, refs(first..first + 10), u64::from(first)) {
            copied += 1;
        }
    }

    assert!(cache.pages() <= MOST_PAGES && mapped() == cache.pages());
    assert_eq!(copied, 10_000 - MOST_PAGES / 10);
    assert!(cache.map_all(&mut table, refs(200_000..200_010), 2 * SECOND), "settled ones make room");
    assert!(cache.pages() <= MOST_PAGES);
}

/// Pages of one request never make room for each other: all that `map_all` promised are there.
#[test]
fn pages_of_one_call_stay() {
    let (mut cache, mut table) = (Cache::new(), Table::default());
    let budget = 1000 + u32::try_from(MOST_PAGES).unwrap();
    assert!(cache.map_all(&mut table, refs(1000..1001), 0));
    assert!(cache.map_all(&mut table, refs(1001..budget), 1));

    assert!(cache.map_all(&mut table, refs(1000..1001).chain(refs(budget..budget + 1)), 2 * SECOND));

    assert!(cache.page(GrantRef(1000)).is_some() && cache.page(GrantRef(budget)).is_some());
    assert!(cache.page(GrantRef(1001)).is_none(), "the oldest made room");
}

/// What is idle for a minute is given back.
#[test]
fn idle_pages_expire() {
    let (mut cache, mut table) = (Cache::new(), Table::default());
    assert!(cache.map_all(&mut table, refs(0..4), 0));
    assert!(cache.map_all(&mut table, refs(10..14), 0));
    assert!(cache.map_all(&mut table, refs(0..4), 30 * SECOND));

    cache.expire(59 * SECOND);
    assert_eq!(mapped(), 8);
    cache.expire(61 * SECOND);

    assert_eq!((mapped(), cache.pages()), (4, 4));
    assert!(cache.page(GrantRef(0)).is_some() && cache.page(GrantRef(10)).is_none());
}

/// A bad reference or a shortage of ours means copying, and a shortage is not asked for again at once.
#[test]
fn failures_mean_copy() {
    let (mut cache, mut table) = (Cache::new(), Table::default());
    assert!(cache.map_all(&mut table, refs(0..4), 0));

    assert!(!cache.map_all(&mut table, refs(0..4).chain(refs(666..667)), 1));
    table.short = true;
    assert!(!cache.map_all(&mut table, refs(2..6), 1));
    let calls = table.calls;
    assert!(!cache.map_all(&mut table, refs(2..6), 2));

    assert_eq!((table.calls, cache.take_shortages()), (calls, 1));
    assert_eq!(cache.pages(), 4);
}
