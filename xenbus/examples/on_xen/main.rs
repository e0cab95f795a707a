//! Holds the real host to what the seam promises, on a running Xen, in dom0, as root: dom0 grants pages to itself (`xen-gntalloc`) and
//! has event channels to itself, so no guest is needed. Then the store over the kernel's device. One line for each check; a
//! failed one is a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod frontend;
mod store;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use frontend::{Granted, Peer};
use xen_ring::{PAGE_LEN, SharedMemory};
use xenbus::hv::{
    Access, Direction, EventChannel, GrantCopy, GrantStatus, GrantTable, Hypervisor, MapError, Pending,
};
use xenbus::memory::LocalMemory;
use xenbus::xen::{Events, Grants, Xen};
use xenbus::{DomId, GrantRef, Port};

/// Longest for what takes a moment.
const LIMIT: Duration = Duration::from_secs(30);

fn main() {
    let checks: [(&str, fn()); 10] = [
        ("pages are mapped in order and written through", pages_are_mapped),
        ("a mapping is given back when it is dropped", mappings_are_given_back),
        ("a bad reference is the guest's fault", bad_references),
        ("a page granted for reading is mapped for reading only", read_only_pages),
        ("copies go both ways, each with a status", copies),
        ("a fresh channel is pending, and masked until acknowledged", events_are_masked),
        ("a port is bound once, and again after it was given up", ports_are_exclusive),
        ("a restricted device binds to no other domain", restricted),
        ("the store over the kernel's device", store::on_the_kernels_device),
        ("the store's errors over the kernel's device", store::errors),
    ];
    for (name, check) in checks {
        let began = Instant::now();
        check();
        println!("ok {name} ({:?})", began.elapsed());
    }
    println!("ALL OK");
}

fn grants() -> Grants {
    Xen::default().open_grants(DomId::DOM0).unwrap()
}

fn low(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

fn byte<M: SharedMemory>(mapping: &M, at: usize) -> u8 {
    frontend::load(mapping.base(), at)
}

/// Waits until a condition holds.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not after {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn pages_are_mapped() {
    let pages = Granted::new(40, true);
    for page in 0..40 {
        pages.store(page * PAGE_LEN + 5, low(page) + 1);
    }
    let mut grants = grants();
    let reversed: Vec<GrantRef> = pages.refs().iter().rev().copied().collect();
    let mapping = grants.map(&reversed, Access::ReadWrite).unwrap();
    assert_eq!(mapping.len(), 40 * PAGE_LEN);
    for page in 0..40 {
        assert_eq!(byte(&mapping, (39 - page) * PAGE_LEN + 5), low(page) + 1);
    }
    frontend::store(mapping.base(), 39 * PAGE_LEN + 9, 77);
    assert_eq!(pages.load(9), 77);
    let again = grants.map(&pages.refs()[..1], Access::ReadWrite).unwrap();
    assert_eq!(byte(&again, 9), 77, "the same page twice");
}

fn mappings_are_given_back() {
    let mut grants = grants();
    for round in 0..=u8::MAX {
        let pages = Granted::new(32, true);
        let mapping = grants.map(pages.refs(), Access::ReadWrite).unwrap();
        pages.store(1, round);
        assert_eq!(byte(&mapping, 1), round);
        drop(mapping);
    }
    // gntalloc has 1024 pages: 8192 were granted, so they came back.
}

fn bad_references() {
    let pages = Granted::new(3, true);
    let mut grants = grants();
    let [a, b, c] = pages.refs()[..] else { panic!("three pages") };
    for bad in [GrantRef(0x00ff_ffff), GrantRef(u32::MAX)] {
        let result = grants.map(&[a, bad, c], Access::ReadWrite);
        assert!(matches!(result, Err(MapError::BadGrant)), "{bad}: {:?}", result.err());
    }
    drop(grants.map(&[a, b, c], Access::ReadWrite).unwrap());
}

fn read_only_pages() {
    let pages = Granted::new(1, false);
    pages.store(3, 9);
    let mut grants = grants();
    let mapping = grants.map(pages.refs(), Access::ReadOnly).unwrap();
    assert_eq!(byte(&mapping, 3), 9);
    // The kernel does not say why: it counts as our shortage, and copying instead gets the status.
    let result = grants.map(pages.refs(), Access::ReadWrite);
    assert!(matches!(result, Err(MapError::Shortage(_))), "{:?}", result.err());
    let local = LocalMemory::new(1).unwrap();
    let mut ops = [op(pages.refs()[0], 0, 8, 0, Direction::ToGuest)];
    grants.copy(&local, &mut ops).unwrap();
    assert!(!ops[0].status.is_okay(), "{:?}", ops[0].status);
}

fn op(gref: GrantRef, offset: u16, len: u16, local: usize, direction: Direction) -> GrantCopy {
    GrantCopy { gref, offset, len, local, direction, status: GrantStatus::GENERAL_ERROR }
}

fn copies() {
    let pages = Granted::new(64, true);
    let mut grants = grants();
    let local = LocalMemory::new(64 * PAGE_LEN).unwrap();
    for (page, _) in pages.refs().iter().enumerate() {
        pages.store(page * PAGE_LEN + 4095, low(page));
    }
    // Across our own page's end, both ways in one call, more than one batch of the kernel's.
    let mut ops: Vec<GrantCopy> = (pages.refs().iter().enumerate())
        .flat_map(|(page, &gref)| {
            let there = op(gref, 4000, 96, page * 100 + 1, Direction::FromGuest);
            [there, op(gref, 0, 96, page * 100 + 1, Direction::ToGuest)]
        })
        .collect();
    ops.push(op(GrantRef(0x00ff_ffff), 0, 1, 0, Direction::ToGuest));
    grants.copy(&local, &mut ops).unwrap();
    let bad = ops.pop().unwrap();
    assert!(!bad.status.is_okay(), "{:?}", bad.status);
    assert!(ops.iter().all(|op| op.status.is_okay()));
    for page in 0..64 {
        let mut out = [0; 96];
        assert!(local.read(page * 100 + 1, &mut out));
        assert_eq!((out[95], pages.load(page * PAGE_LEN + 95)), (low(page), low(page)));
    }
}

fn is_readable(events: &impl AsFd) -> bool {
    frontend::is_readable(events.as_fd())
}

fn bound(peer: &Peer) -> Events {
    let mut events = Xen::default().open_events(DomId::DOM0).unwrap();
    events.bind(peer.port()).unwrap();
    events
}

fn events_are_masked() {
    let mut peer = Peer::new();
    let mut events = bound(&peer);
    until("a fresh channel is pending", || is_readable(&events));
    assert_eq!(events.pending().unwrap(), Pending::Event);
    peer.notify();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(events.pending().unwrap(), Pending::None, "masked until acknowledged");
    events.ack().unwrap();
    until("what came meanwhile is told", || is_readable(&events));
    assert_eq!(events.pending().unwrap(), Pending::Event);
    assert_eq!(events.pending().unwrap(), Pending::None);
    events.ack().unwrap();
    peer.drain();
    events.notify().unwrap();
    until("the peer hears", || peer.drain());
    for _ in 0..10_000 {
        peer.notify();
        until("an event", || events.pending().unwrap() == Pending::Event);
        events.ack().unwrap();
    }
}

fn ports_are_exclusive() {
    let peer = Peer::new();
    let mut first = bound(&peer);
    let mut second = Xen::default().open_events(DomId::DOM0).unwrap();
    assert_eq!(second.bind(peer.port()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    first.unbind().unwrap();
    second.bind(peer.port()).unwrap();
    drop(second);
    first.bind(peer.port()).unwrap();
    until("a fresh channel is pending", || first.pending().unwrap() == Pending::Event);
    assert!(first.bind(Port(u32::MAX)).is_err());
}

fn restricted() {
    let peer = Peer::new();
    let mut events = Xen::default().open_events(DomId(5)).unwrap();
    assert!(events.bind(peer.port()).is_err(), "domain 5 is not there");
    assert!(is_restricted(&mut events));
}

/// A device that is restricted to one domain cannot be restricted to another.
fn is_restricted(events: &mut Events) -> bool {
    frontend::restrict(events.as_fd(), 6).is_err()
}
