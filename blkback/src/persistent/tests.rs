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

/// Pages are mapped once, together, and found again; a page named twice counts twice (hostile case B9).
#[test]
fn maps_once() {
    let (mut cache, mut table) = (Cache::new(), Table::default());

    assert!(cache.acquire(&mut table, refs(0..8).chain(refs(3..4)), 0));
    cache.release(refs(0..8).chain(refs(3..4)));
    assert!(cache.acquire(&mut table, refs(4..6), 1));

    assert_eq!((table.calls, cache.pages(), mapped()), (1, 8, 8));
    let (a, b) = (cache.address(GrantRef(4)).unwrap(), cache.address(GrantRef(5)).unwrap());
    assert_eq!(b as usize - a as usize, PAGE_LEN);
    assert!(cache.address(GrantRef(9)).is_none());
}

/// B26: a guest that never uses a page twice fills the budget and is copied from then on; nothing is unmapped under it.
#[test]
fn endless_new_pages_are_copied() {
    let (mut cache, mut table) = (Cache::new(), Table::default());
    let mut copied = 0;
    for first in (0..100_000).step_by(10) {
        if cache.acquire(&mut table, refs(first..first + 10), u64::from(first)) {
            cache.release(refs(first..first + 10));
        } else {
            copied += 1;
        }
    }

    assert!(cache.pages() <= MOST_PAGES && mapped() == cache.pages());
    assert_eq!(copied, 10_000 - MOST_PAGES / 10);
    assert!(cache.acquire(&mut table, refs(200_000..200_010), 2 * SECOND), "settled ones make room");
    assert!(cache.pages() <= MOST_PAGES);
}

/// Pages in use are never unmapped, idle ones go after a minute.
#[test]
fn expiry_spares_what_is_in_use() {
    let (mut cache, mut table) = (Cache::new(), Table::default());
    assert!(cache.acquire(&mut table, refs(0..4), 0));
    assert!(cache.acquire(&mut table, refs(10..14), 0));
    cache.release(refs(10..14));

    cache.expire(59 * SECOND);
    assert_eq!(mapped(), 8);
    cache.expire(61 * SECOND);

    assert_eq!((mapped(), cache.pages()), (4, 4));
    assert!(cache.address(GrantRef(0)).is_some() && cache.address(GrantRef(10)).is_none());
}

/// A bad reference or a shortage of ours means copying, leaves nothing marked, and a shortage is not asked for again at once.
#[test]
fn failures_mean_copy() {
    let (mut cache, mut table) = (Cache::new(), Table::default());
    assert!(cache.acquire(&mut table, refs(0..4), 0));
    cache.release(refs(0..4));

    assert!(!cache.acquire(&mut table, refs(0..4).chain(refs(666..667)), 1));
    table.short = true;
    assert!(!cache.acquire(&mut table, refs(2..6), 1));
    let calls = table.calls;
    assert!(!cache.acquire(&mut table, refs(2..6), 2));

    assert_eq!((table.calls, cache.take_shortages()), (calls, 1));
    cache.expire(100 * SECOND);
    assert_eq!(mapped(), 0, "nothing was left marked");
}
