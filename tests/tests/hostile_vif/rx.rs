//! Slots of the rx ring that no driver would post, and none at all.

use splitd_tests::netif::{self, NR_SLOTS, RxResponse, rx};
use splitd_tests::packet::{self, UDP4, VnetHeader};
use splitd_tests::wire::Frame;
use splitd_tests::world::resident_kib;
use xenbus::hv::Access;
use xenbus::{DomId, GrantRef};

use splitd_tests::netfront::Queue;

use super::{Bed, SOON};

fn push(queue: &mut Queue, slots: &[(u16, GrantRef)]) {
    for &(id, gref) in slots {
        queue.rx.push(&netif::rx_request(id, gref));
    }
    queue.publish_rx().unwrap();
}

/// The next answers as they stand in the ring.
fn answers(b: &Bed, queue: &mut Queue, count: usize) -> Vec<RxResponse> {
    let mut answers = Vec::new();
    while answers.len() < count {
        match queue.rx.answer().unwrap() {
            Some((_, slot)) => answers.push(RxResponse::read(&slot)),
            None => assert!(queue.wait(SOON).unwrap(), "{answers:?}\n{}", b.world.log()),
        }
    }
    answers
}

/// N24: a page that cannot be written to is an error in its own slot; the frame's shape and the slots' order stay.
#[test]
fn bad_pages_are_errors_in_their_slots() {
    let mut b = Bed::new();
    let page = b.hostile.allocate(1).unwrap();
    let read_only = b.hostile.grant(page.frame(0), DomId::DOM0, Access::ReadOnly).unwrap();
    let others = b.hostile.grant(page.frame(0), DomId(6), Access::ReadWrite).unwrap();
    let mut queue = b.connect();
    let mut id = 0;
    for bad in [GrantRef(0), GrantRef(60_000), GrantRef(u32::MAX), read_only, others] {
        for k in 0..3u16 {
            let first = id;
            let slots: Vec<_> =
                (0..3).map(|i| (first + i, if i == k { bad } else { queue.rx_gref(first + i) })).collect();
            push(&mut queue, &slots);
            b.give(9000);
            let found = answers(&b, &mut queue, 3);
            for (i, answer) in (0..).zip(&found) {
                let flags = if i < 2 { rx::MORE_DATA } else { 0 };
                assert_eq!((answer.id, answer.flags), (first + i, flags), "N24 {bad} {k}: {found:?}");
                assert_eq!(answer.status < 0, i == k, "N24 {bad} {k}: {found:?}");
            }
            id += 3;
        }
    }
    b.start_over("N24");
    let mut queue = b.connect();
    b.serves(&mut queue, "after N24");
    b.neighbour_is_well();
}

/// N27: ids that are the same or any number are echoed in the ring's order.
#[test]
fn ids_are_echoed() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    let ids = [7, 7, 0xffff, 256, 0, 7];
    let slots: Vec<_> = ids.iter().map(|&id| (id, queue.rx_gref(id))).collect();
    push(&mut queue, &slots);
    for _ in ids {
        b.give(100);
    }
    let found: Vec<u16> = answers(&b, &mut queue, ids.len()).iter().map(|a| a.id).collect();
    assert_eq!(found, ids, "N27");
    b.start_over("N27");
    b.neighbour_is_well();
}

/// N25: one slot for a frame of 17: it waits, and what is posted one by one is not answered before all are there.
#[test]
fn a_long_frame_waits_for_all_its_slots() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    let pid = |b: &Bed| b.world.show("vif/5/0").unwrap().pid.unwrap();
    let worker = pid(&b);
    b.give(65_535 - UDP4.header_len());
    for posted in 1..16 {
        queue.post(posted).unwrap();
        assert_eq!(queue.rx.unconsumed().unwrap(), 0, "N25 {posted}");
    }
    queue.post(16).unwrap();
    assert_eq!(b.arrives(&mut queue, "N25").len(), 65_535);
    assert_eq!(pid(&b), worker, "N25: the worker died of it");
    b.serves(&mut queue, "N25");
    b.neighbour_is_well();
}

/// N26, XSA-392, XSA-424: a flood to a guest that posts nothing, or one slot and stops: the worker's memory stays what it is; and
/// once the guest posts, frames arrive.
#[test]
fn a_flood_to_a_guest_without_slots_is_bounded() {
    let mut b = Bed::new();
    for slots in [0, 1] {
        let mut queue = b.connect();
        queue.post(slots).unwrap();
        let pid = b.world.show("vif/5/0").unwrap().pid.unwrap();
        let bytes = packet::whole(UDP4, 77, 60_000);
        let frame = Frame { queue: 0, header: VnetHeader::default(), bytes };
        // Whatever is held in the end is held after the first of these.
        let mut most = 0;
        for round in 0..60 {
            let _ = b.wire.send(&frame);
            if round == 15 {
                most = resident_kib(pid).unwrap();
            }
        }
        let grown = resident_kib(pid).unwrap().saturating_sub(most);
        assert!(grown < 1024, "N26: {grown} KiB more");
        queue.post(NR_SLOTS).unwrap();
        assert_eq!(b.arrives(&mut queue, "N26").len(), 60_000 + UDP4.header_len());
        b.start_over("N26");
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after N26");
    b.neighbour_is_well();
}

/// N32, R12: frames are written to the page that another frame is read from, and over the ring itself.
#[test]
fn pages_with_two_uses_hurt_nobody() {
    let mut b = Bed::new();
    let both = b.hostile.grant(b.page.0.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let mut queue = b.connect();
    push(&mut queue, &[(0, both); 32]);
    for _ in 0..32 {
        b.give(1000);
        let request = netif::TxRequest { gref: b.page.1, offset: 0, flags: 0, id: 1, size: 1042 };
        Bed::push(&mut queue, &[request.slot()]);
        assert_eq!(b.answers(&mut queue, 1, "N32"), [(1, netif::OKAY)]);
        assert_eq!(b.wire.receive(SOON).unwrap().bytes.len(), 1042);
    }
    b.start_over("N32");

    for over_tx in [false, true] {
        let mut queue = b.connect();
        let own = if over_tx { queue.tx.gref() } else { queue.rx.gref() };
        push(&mut queue, &[(0, own); 32]);
        for fill in [0u8, 0xff, 0x5a] {
            let frame = Frame { queue: 0, header: VnetHeader::default(), bytes: vec![fill; 4096] };
            let _ = b.wire.send(&frame);
        }
        // It goes on or it closes, as it reads its own words; it lets go either way.
        queue.ports().0.notify().unwrap();
        b.start_over("R12");
        while b.wire.receive(std::time::Duration::ZERO).is_some() {}
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after N32 R12");
    b.neighbour_is_well();
}
