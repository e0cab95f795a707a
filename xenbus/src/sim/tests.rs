//! The simulated host from both sides, in one process.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use xen_ring::SharedMemory;

use super::*;
use crate::hv::{Access, Direction, EventChannel, GrantCopy, GrantStatus, GrantTable, MapError, Pending};
use crate::memory::LocalMemory;
use crate::{GrantRef, Port};

const GUEST: DomId = DomId(7);
const UUID: &str = "0b1d5a8e-6c1f-4a53-9d5e-000000000007";

struct World {
    _dir: tempfile::TempDir,
    host: SimHost,
    guest: SimDomain,
    sim: Sim,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let host = SimHost::start(dir.path()).unwrap();
    let guest = host.domain(GUEST, "guest", UUID, 256).unwrap();
    let sim = Sim::open(dir.path());
    World { _dir: dir, host, guest, sim }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn copy(gref: GrantRef, direction: Direction) -> GrantCopy {
    GrantCopy { gref, offset: 8, len: 16, local: 100, direction, status: GrantStatus::GENERAL_ERROR }
}

/// A ring's pages come from anywhere in guest memory and must appear side by side, in the order of the references.
#[test]
fn mapped_pages_are_the_guests_own_in_the_order_asked() {
    let w = world();
    let pages = w.guest.allocate(4).unwrap();
    let refs: Vec<_> = [3, 1]
        .iter()
        .map(|i| w.guest.grant(pages.frame(*i), DomId::DOM0, Access::ReadWrite).unwrap())
        .collect();
    let mut grants = w.sim.open_grants(GUEST).unwrap();

    let mapping = grants.map(&refs, Access::ReadWrite).unwrap();

    assert!(pages.write(3 * 4096, b"three") && pages.write(4096, b"one"));
    let ring = xen_ring::BackRing::attach(mapping, 112, xen_ring::Indices::default()).unwrap();
    let req_prod = u32::from_ne_bytes(*b"thre");
    assert_eq!(ring.unconsumed().unwrap_err().req_prod, req_prod);
    let mapping = ring.into_memory();
    assert_eq!(mapping.len(), 8192);
    drop(mapping);
    assert!(refs.iter().all(|r| w.guest.end_access(*r)));
}

/// blkfront disables a disk whose grant is still mapped when it is answered: ending access must see every mapping.
#[test]
fn access_ends_only_after_the_last_mapping() {
    let w = world();
    let pages = w.guest.allocate(1).unwrap();
    let gref = w.guest.grant(pages.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let mut grants = w.sim.open_grants(GUEST).unwrap();
    let first = grants.map(&[gref, gref], Access::ReadOnly).unwrap();
    let second = grants.map(&[gref], Access::ReadWrite).unwrap();

    assert!(!w.guest.end_access(gref));
    drop(second);
    assert!(!w.guest.end_access(gref));
    drop(first);
    assert!(w.guest.end_access(gref));
    assert_eq!(w.guest.held(), Held::default());
}

/// A killed worker's mappings go with its connection, and with nothing else (reliability: B7, B9).
#[test]
fn the_end_of_a_connection_unpins() {
    let w = world();
    let pages = w.guest.allocate(1).unwrap();
    let gref = w.guest.grant(pages.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let mut grants = w.sim.open_grants(GUEST).unwrap();
    let mapping = grants.map(&[gref], Access::ReadWrite).unwrap();

    drop(grants);
    assert!(w.guest.grant_in_use(gref), "a mapping outlives the table it came from");
    drop(mapping);
    until("unpinned", || !w.guest.grant_in_use(gref));
}

/// gntdev has no status per grant: one bad reference fails the whole map, and pins none of the others (hostile R11).
#[test]
fn one_bad_reference_fails_the_whole_map() {
    let w = world();
    let pages = w.guest.allocate(2).unwrap();
    let good = w.guest.grant(pages.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let read_only = w.guest.grant(pages.frame(1), DomId::DOM0, Access::ReadOnly).unwrap();
    let other_domain = w.guest.grant(pages.frame(1), DomId(3), Access::ReadWrite).unwrap();
    let no_page = w.guest.grant(1_000_000, DomId::DOM0, Access::ReadWrite).unwrap();
    let mut grants = w.sim.open_grants(GUEST).unwrap();

    for bad in [GrantRef(0), GrantRef(u32::MAX), GrantRef(5_000), read_only, other_domain, no_page] {
        let result = grants.map(&[good, bad, good], Access::ReadWrite);
        assert!(matches!(result, Err(MapError::BadGrant)), "{bad}: {result:?}");
        assert!(!w.guest.grant_in_use(good), "{bad}");
    }
    assert!(grants.map(&[good, read_only], Access::ReadOnly).is_ok());
}

/// Each copy has a status of its own; a bad one does not disturb its neighbours (reliability: B6).
#[test]
fn copies_answer_one_by_one() {
    let w = world();
    let pages = w.guest.allocate(2).unwrap();
    let good = w.guest.grant(pages.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let read_only = w.guest.grant(pages.frame(1), DomId::DOM0, Access::ReadOnly).unwrap();
    assert!(pages.write(4096 + 8, b"sixteen bytes!!!"));
    let local = LocalMemory::new(4096).unwrap();
    let mut grants = w.sim.open_grants(GUEST).unwrap();
    let mut ops = [
        copy(read_only, Direction::FromGuest),
        copy(read_only, Direction::ToGuest),
        copy(GrantRef(u32::MAX), Direction::FromGuest),
        copy(good, Direction::ToGuest),
    ];

    grants.copy(&local, &mut ops).unwrap();

    assert_eq!(ops.map(|op| op.status.0), [0, -1, -3, 0]);
    let mut seen = [0; 16];
    assert!(pages.read(8, &mut seen));
    assert_eq!(&seen, b"sixteen bytes!!!");
}

/// A range that leaves the page or the local memory is our own mistake and fails the call before anything is copied.
#[test]
fn copies_outside_fail_the_call() {
    let w = world();
    let pages = w.guest.allocate(1).unwrap();
    let gref = w.guest.grant(pages.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let local = LocalMemory::new(4096).unwrap();
    let mut grants = w.sim.open_grants(GUEST).unwrap();
    let good = copy(gref, Direction::ToGuest);

    for bad in [GrantCopy { offset: 4095, ..good }, GrantCopy { local: 4090, ..good }] {
        let mut ops = [good, bad];
        let e = grants.copy(&local, &mut ops).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(ops[0].status, GrantStatus::GENERAL_ERROR);
    }
}

/// The rules of evtchn: pending at once when bound, masked until acknowledged, many sends are one event.
#[test]
fn an_event_is_masked_until_acknowledged() {
    let w = world();
    let port = w.guest.allocate_port(DomId::DOM0).unwrap();
    let mut events = w.sim.open_events(GUEST).unwrap();

    events.bind(port.port()).unwrap();

    assert_eq!(events.pending().unwrap(), Pending::Event, "a fresh binding is pending");
    port.notify().unwrap();
    port.notify().unwrap();
    assert_eq!(events.pending().unwrap(), Pending::None, "masked");
    events.ack().unwrap();
    assert_eq!(events.pending().unwrap(), Pending::Event, "delivered by the unmasking");
    events.ack().unwrap();
    assert_eq!(events.pending().unwrap(), Pending::None, "once");
    port.notify().unwrap();
    assert_eq!(events.pending().unwrap(), Pending::Event);
}

/// The other way there is no mask: the guest's own interrupt handler is not ours to simulate.
#[test]
fn the_guest_is_told() {
    let w = world();
    let port = w.guest.allocate_port(DomId::DOM0).unwrap();
    let mut events = w.sim.open_events(GUEST).unwrap();
    assert_eq!(events.notify().unwrap_err().kind(), io::ErrorKind::NotConnected);
    events.bind(port.port()).unwrap();

    events.notify().unwrap();

    assert!(port.wait(Duration::from_secs(20)).unwrap());
    assert!(!port.wait(Duration::ZERO).unwrap());
}

/// A successor cannot bind while its predecessor lives, and can as soon as that is dead; what was sent in between is lost,
/// which the pending first event makes up for (reliability: B1 to B3).
#[test]
fn a_port_is_bound_once_and_again_after_death() {
    let w = world();
    let port = w.guest.allocate_port(DomId::DOM0).unwrap();
    let mut first = w.sim.open_events(GUEST).unwrap();
    let mut second = w.sim.open_events(GUEST).unwrap();
    first.bind(port.port()).unwrap();

    assert_eq!(second.bind(port.port()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    drop(first);
    until("port free", || !port.is_bound());
    port.notify().unwrap();
    second.bind(port.port()).unwrap();
    assert_eq!(second.pending().unwrap(), Pending::Event);

    second.unbind().unwrap();
    assert!(!port.is_bound());
    second.bind(port.port()).unwrap();
}

/// Ports that a guest may name but that are not for us (hostile R10, X4).
#[test]
fn a_port_that_is_not_ours_is_refused() {
    let w = world();
    let for_other = w.guest.allocate_port(DomId(3)).unwrap();
    let closed = w.guest.allocate_port(DomId::DOM0).unwrap().port();
    let mut events = w.sim.open_events(GUEST).unwrap();

    for port in [for_other.port(), closed, Port(0), Port(u32::MAX)] {
        assert_eq!(events.bind(port).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{port}");
    }
    assert!(w.sim.open_grants(DomId(99)).is_err());
}

/// A guest that closes its end mid-I/O (hostile R9) must not make notifying fail, nor reach the port's next user.
#[test]
fn notifying_a_closed_port_is_dropped() {
    let w = world();
    let port = w.guest.allocate_port(DomId::DOM0).unwrap();
    let mut events = w.sim.open_events(GUEST).unwrap();
    events.bind(port.port()).unwrap();

    let number = port.port();
    drop(port);
    let reused = w.guest.allocate_port(DomId::DOM0).unwrap();

    assert_eq!(reused.port(), number);
    events.notify().unwrap();
    assert!(!reused.wait(Duration::ZERO).unwrap());
}

/// The backend sleeps on the descriptor: no send may be lost between its last look and its acknowledgement.
#[test]
fn no_event_is_lost_between_two_threads() {
    const ROUNDS: u32 = 20_000;
    let w = world();
    let port = w.guest.allocate_port(DomId::DOM0).unwrap();
    let counter = w.guest.allocate(1).unwrap();
    let gref = w.guest.grant(counter.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let mut events = w.sim.open_events(GUEST).unwrap();
    events.bind(port.port()).unwrap();
    let sim = w.sim.clone();

    let backend = std::thread::spawn(move || {
        let mut grants = sim.open_grants(GUEST).unwrap();
        let local = LocalMemory::new(4096).unwrap();
        let mut seen = [0; 4];
        while u32::from_ne_bytes(seen) < ROUNDS {
            let event = socket::EventFd::from_fd(events.as_fd().try_clone_to_owned().unwrap());
            assert!(event.wait(Duration::from_secs(20)).unwrap(), "lost after {}", u32::from_ne_bytes(seen));
            events.pending().unwrap();
            let from = GrantCopy { offset: 0, len: 4, local: 0, ..copy(gref, Direction::FromGuest) };
            grants.copy(&local, &mut [from]).unwrap();
            assert!(local.read(0, &mut seen));
            events.ack().unwrap();
            events.notify().unwrap();
        }
    });
    for i in 1..=ROUNDS {
        assert!(counter.write(0, &i.to_ne_bytes()));
        port.notify().unwrap();
    }
    backend.join().unwrap();
    assert!(port.wait(Duration::ZERO).unwrap());
}

/// Destroying a domain takes nothing from a backend that still holds pages of it, which is what makes zombies visible.
#[test]
fn a_destroyed_domain_is_held_until_let_go() {
    let w = world();
    let pages = w.guest.allocate(1).unwrap();
    let gref = w.guest.grant(pages.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let mut grants = w.sim.open_grants(GUEST).unwrap();
    let mapping = grants.map(&[gref], Access::ReadWrite).unwrap();

    w.host.destroy(GUEST).unwrap();

    assert_eq!(w.guest.held(), Held { grants: 1, ports: 0 });
    assert!(w.sim.open_grants(GUEST).is_err());
    let next = w.host.domain(GUEST, "again", UUID, 16).unwrap();
    drop(mapping);
    assert_eq!(w.guest.held(), Held::default());
    assert_eq!(next.held(), Held::default());
}

/// Guest pages come back and join up again: a reconnecting frontend must not run out.
#[test]
fn freed_pages_are_one_run_again() {
    let w = world();
    let a = w.guest.allocate(100).unwrap();
    let b = w.guest.allocate(100).unwrap();
    assert_eq!(w.guest.allocate(100).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    drop(a);
    drop(b);
    assert_eq!(w.guest.allocate(256).unwrap().pages(), 256);
}

#[derive(Debug)]
struct ThirdTime;

impl Plan for ThirdTime {
    fn map(&self, n: u64, _refs: &[GrantRef]) -> Option<MapError> {
        (n == 2).then(|| MapError::Shortage(io::ErrorKind::OutOfMemory.into()))
    }

    fn copy(&self, n: u64, _op: &GrantCopy) -> Option<GrantStatus> {
        (n == 2).then_some(BAD_PAGE)
    }

    fn unmap_delay(&self, n: u64) -> Duration {
        Duration::from_millis(if n == 0 { 50 } else { 0 })
    }
}

/// Fault tests rest on it: exactly the planned calls fail, and nothing else is different.
#[test]
fn planned_calls_fail_and_no_others() {
    let w = world();
    let pages = w.guest.allocate(1).unwrap();
    let gref = w.guest.grant(pages.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let local = LocalMemory::new(4096).unwrap();
    let mut grants = Faulty::new(w.sim.clone(), Arc::new(ThirdTime)).open_grants(GUEST).unwrap();

    let mut ops = [copy(gref, Direction::ToGuest); 4];
    grants.copy(&local, &mut ops).unwrap();
    assert_eq!(ops.map(|op| op.status), [GrantStatus::OKAY, GrantStatus::OKAY, BAD_PAGE, GrantStatus::OKAY]);

    let late = grants.map(&[gref], Access::ReadWrite).unwrap();
    assert_eq!(late.len(), 4096);
    drop(late);
    assert!(w.guest.grant_in_use(gref), "unmapped later");
    until("unmapped", || !w.guest.grant_in_use(gref));
    drop(grants.map(&[gref], Access::ReadWrite).unwrap());
    assert!(!w.guest.grant_in_use(gref));
    assert!(matches!(grants.map(&[gref], Access::ReadWrite), Err(MapError::Shortage(_))));
    assert!(grants.map(&[gref], Access::ReadWrite).is_ok());
}
