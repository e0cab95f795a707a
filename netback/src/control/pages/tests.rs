//! Orders about static grants against a simulated guest, and what a successor makes of one that its predecessor died over.

use std::sync::Arc;

use worker::message::{VifControlRing, VifSettings};
use worker::wake::Bell;
use xen_ring::FrontRing;
use xenbus::DomId;
use xenbus::hv::Hypervisor;
use xenbus::sim::{GuestPages, GuestPort, GuestWindow, Sim, SimDomain, SimHost};

use super::*;
use crate::caps::Caps;
use crate::control::kept::Kept;
use crate::control::order::{Request, SLOT_LEN, Slot};
use crate::control::{Parts, Terms};
use crate::shared::Shared;
use crate::steering::Words;
use crate::thread::Serve;

type Ours = Control<<Sim as Hypervisor>::Grants, <Sim as Hypervisor>::Events>;

/// A guest with a control ring, a page for lists, and pages to be mapped: the last one for reading alone.
struct Bed {
    dir: tempfile::TempDir,
    guest: SimDomain,
    front: FrontRing<GuestWindow>,
    port: GuestPort,
    ring: u32,
    list: (GuestPages, u32),
    pages: [GrantRef; 4],
    _host: SimHost,
}

const OKAY: (Status, u32) = (Status::Success, 0);

fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let host = SimHost::start(dir.path()).unwrap();
    let guest = host.domain(DomId(5), "guest", "0b1d5a8e-6c1f-4a53-9d5e-000000000005", 64).unwrap();
    let grant =
        |pages: &GuestPages, page, access| guest.grant(pages.frame(page), DomId::DOM0, access).unwrap();
    let [ring, list, data] = [1, 1, 4].map(|count| guest.allocate(count).unwrap());
    let front = FrontRing::new(ring.window().unwrap(), SLOT_LEN).unwrap();
    let pages = [0, 1, 2, 3]
        .map(|page| grant(&data, page, if page == 3 { Access::ReadOnly } else { Access::ReadWrite }));
    let list_gref = grant(&list, 0, Access::ReadWrite).0;
    Bed {
        port: guest.allocate_port(DomId::DOM0).unwrap(),
        ring: grant(&ring, 0, Access::ReadWrite).0,
        list: (list, list_gref),
        front,
        pages,
        dir,
        guest,
        _host: host,
    }
}

impl Bed {
    /// A worker's control thread, the first one's or a successor's.
    fn connect(&self) -> Ours {
        let sim = Sim::open(self.dir.path());
        let parts = Parts {
            shared: Arc::new(Shared::new(&VifSettings::default(), Words::private(), Caps::default())),
            grants: sim.open_grants(DomId(5)).unwrap(),
            events: sim.open_events(DomId(5)).unwrap(),
            bell: Bell::new().unwrap(),
            kept: Kept::open(&self.dir.path().join("kept-control"), 2).unwrap(),
            pages: vec![Arc::default(), Arc::default()],
            steering: None,
            can_steer: false,
        };
        let ring = VifControlRing { ring_ref: self.ring, port: self.port.port().0 };
        Ours::connect(parts, &Terms { connection: 1, ring, nr_queues: 2 })
            .map(|(control, _)| control)
            .unwrap()
    }

    /// A list in the guest's page.
    fn list(&self, entries: &[(GrantRef, u16)]) -> u32 {
        for (i, (gref, flags)) in entries.iter().enumerate() {
            assert!(self.list.0.write(i * ENTRY_LEN, &gref.0.to_le_bytes()));
            assert!(self.list.0.write(i * ENTRY_LEN + 4, &flags.to_le_bytes()));
        }
        self.list.1
    }

    fn status(&self, entry: usize) -> u16 {
        let mut bytes = [0; 2];
        assert!(self.list.0.read(entry * ENTRY_LEN + 6, &mut bytes));
        u16::from_le_bytes(bytes)
    }

    fn mapped(&self) -> [bool; 4] {
        self.pages.map(|gref| self.guest.grant_in_use(gref))
    }

    /// An order to queue 1, in its slot and read.
    fn order(kind: u16, gref: u32, count: u32) -> (Slot, StaticOrder) {
        let mut slot = Slot::default();
        slot[2..4].copy_from_slice(&kind.to_le_bytes());
        for (place, word) in slot[4..].chunks_exact_mut(4).zip([1, gref, count]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        match Request::read(&slot).order {
            crate::control::order::Order::Static { queue: 1, order } => (slot, order),
            other => panic!("{other:?}"),
        }
    }

    /// A worker takes an order and carries it out, and dies before the answer; the answer that its successor gives.
    fn answered_by_a_successor(&mut self, kind: u16, gref: u32, count: u32) -> (Ours, (u32, u32)) {
        let mut first = self.connect();
        let (slot, order) = Self::order(kind, gref, count);
        self.front.push_request(&slot);
        let _ = self.front.publish();
        let mut taken = Slot::default();
        let index = first.ring.consume(&mut taken);
        first.parts.kept.keep(index, &taken);
        first.obey_static(1, order, false);
        drop(first);
        assert_eq!(self.mapped(), [false; 4], "nothing outlives a worker");
        let mut second = self.connect();
        second.turn().unwrap();
        assert_eq!(self.front.unconsumed().unwrap(), 1);
        let mut answer = Slot::default();
        self.front.consume(&mut answer);
        let [_, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3, ..] = answer;
        (second, (u32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes([d0, d1, d2, d3])))
    }
}

/// A list is added whole or not at all: with one page that is not granted so, or none that is, nothing stays mapped.
#[test]
fn a_list_is_added_whole_or_not_at_all() {
    let b = bed();
    let mut control = b.connect();
    let [first, second, third, fixed] = b.pages;
    for bad in [(fixed, 0), (GrantRef(9999), 0), (GrantRef(9999), 1), (third, 2)] {
        let list = b.list(&[(first, 0), (second, 1), bad]);
        let answer = control.obey_static(1, StaticOrder::Add { gref: list, count: 3 }, false);
        assert_eq!((answer, b.mapped()), (BAD, [false; 4]), "{bad:?}");
    }
    let list = b.list(&[(first, 0), (fixed, 1)]);
    assert_eq!(control.obey_static(1, StaticOrder::Add { gref: list, count: 2 }, false), OKAY);
    assert_eq!(b.mapped(), [true, false, false, true]);
    let removal = StaticOrder::Remove { gref: list, count: 2 };
    assert_eq!(control.obey_static(0, removal, false), OKAY, "of another queue");
    assert_eq!((b.status(0), b.status(1), b.mapped()), (2, 2, [true, false, false, true]));
    control.leave(true);
    assert_eq!(b.mapped(), [false; 4]);
}

/// Where the guest cannot be told what became of each, nothing is unmapped: the list stands in a page for reading alone.
#[test]
fn a_removal_that_cannot_be_told_is_none() {
    let b = bed();
    let mut control = b.connect();
    let [first, .., fixed] = b.pages;
    let list = b.list(&[(first, 0)]);
    assert_eq!(control.obey_static(1, StaticOrder::Add { gref: list, count: 1 }, false), OKAY);
    let removal = StaticOrder::Remove { gref: fixed.0, count: 1 };
    assert_eq!((control.obey_static(1, removal, false), b.mapped()[0]), (BAD, true));
}

/// A worker that dies between carrying an order out and answering it: the successor's answer is the one that was due, and what it maps
/// is what the guest was told.
#[test]
fn a_successor_gives_the_answer_that_was_due() {
    let mut b = bed();
    let [first, second, _, fixed] = b.pages;
    let list = b.list(&[(first, 0), (fixed, 1)]);
    let (control, answer) = b.answered_by_a_successor(9, list, 2);
    assert_eq!((answer, b.mapped()), ((0, 0), [true, false, false, true]));
    drop(control);

    let list = b.list(&[(first, 0), (first, 0)]);
    let (control, answer) = b.answered_by_a_successor(10, list, 2);
    assert_eq!((answer, b.mapped()), ((0, 1), [false, false, false, true]));
    assert_eq!((b.status(0), b.status(1)), (0, 2));
    drop(control);

    // Neither of these, which nobody died over, comes back; what was there does.
    let mut control = b.connect();
    let list = b.list(&[(second, 0)]);
    assert_eq!(control.obey_static(1, StaticOrder::Remove { gref: list, count: 1 }, false), OKAY);
    assert_eq!((b.status(0), b.mapped()), (2, [false, false, false, true]));
    control.leave(true);
}
