//! Indices, words and event channels of the rings themselves.

use splitd_tests::hostile::Verdict;
use splitd_tests::netfront::Queue;
use splitd_tests::netif::{NR_SLOTS, TxRequest};
use splitd_tests::prng::Prng;
use xenbus::hv::Access;
use xenbus::sim::GuestPages;
use xenbus::{DomId, GrantRef};

use super::{Bed, SOON};

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;

fn poke(ring: &GuestPages, at: usize, value: u32) {
    assert!(ring.write(at, &value.to_le_bytes()));
}

fn peek(ring: &GuestPages, at: usize) -> u32 {
    let mut word = [0; 4];
    assert!(ring.read(at, &mut word));
    u32::from_le_bytes(word)
}

/// B2.1, R1, R2, R3: indices that claim more than the ring holds, ahead or behind, on either ring.
#[test]
fn an_impossible_req_prod_closes_this_device_only() {
    let mut b = Bed::new();
    for ahead in [257u32, 258, 1000, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX] {
        for on_rx in [false, true] {
            let name = format!("R1 R2 R3 {ahead} ahead, rx {on_rx}");
            let mut queue = b.connect();
            b.serves(&mut queue, &name);
            let ring = if on_rx { queue.rx.pages() } else { queue.tx.pages() };
            let base = if ahead > 0x8000_0000 { peek(ring, RSP_PROD) } else { peek(ring, REQ_PROD) };
            poke(ring, REQ_PROD, base.wrapping_add(ahead));
            queue.ports().0.notify().unwrap();
            // The rx ring is looked at when there is something to give.
            let _ = on_rx.then(|| b.give(100));
            b.closed(&name);
            b.start_over(&name);
        }
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after all of it");
    b.neighbour_is_well();
}

/// R5, R6: the words that a frontend may write but a backend must not rest on.
#[test]
fn garbage_in_event_words_and_rsp_prod_is_ignored() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    queue.post(NR_SLOTS).unwrap();
    let mut prng = Prng::new(3);
    for n in 0..100 {
        for ring in [queue.tx.pages(), queue.rx.pages()] {
            let garbage = prng.next_u64().to_le_bytes();
            poke(ring, REQ_EVENT, u32::from_le_bytes([garbage[0], garbage[1], garbage[2], garbage[3]]));
            // The backend's next publication sets this right.
            poke(ring, RSP_PROD, n);
        }
        // Without a sleep that asks for it no event need come.
        queue.ports().0.notify().unwrap();
        let request = TxRequest { gref: b.page.1, offset: 0, flags: 0, id: 1, size: 60 };
        let ring = queue.tx.pages();
        let at = peek(ring, REQ_PROD);
        assert!(ring.write(64 + (at % NR_SLOTS) as usize * 12, &request.slot()));
        poke(ring, REQ_PROD, at.wrapping_add(1));
        queue.ports().0.notify().unwrap();
        let frame = b.wire.receive(SOON).unwrap_or_else(|| panic!("R5 R6 {n}\n{}", b.world.log()));
        assert_eq!(frame.bytes.len(), 60);
        b.give(60);
        let (world, expected) = (&mut b.world, n + 1);
        let ring = queue.rx.pages();
        world.until("R5 R6: given", |_| peek(ring, RSP_PROD) == expected).unwrap();
        poke(queue.rx.pages(), RSP_EVENT, 0x5555_5555);
    }
    b.start_over("R5 R6");
    b.neighbour_is_well();
}

/// R6: a ring that was in use before is none to begin with.
#[test]
fn a_used_ring_is_refused() {
    let mut b = Bed::new();
    for on_rx in [false, true] {
        let queues = [Queue::new(&b.hostile, true).unwrap()];
        let ring = if on_rx { queues[0].rx.pages() } else { queues[0].tx.pages() };
        poke(ring, REQ_PROD, 7);
        poke(ring, RSP_PROD, 7);
        b.attacker.offer(&Bed::honest(&queues)).unwrap();
        assert_eq!(b.attacker.verdict(SOON).unwrap(), Verdict::Closed, "{}", b.world.log());
        b.closed("R6 used");
        b.start_over("R6 used");
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after R6");
    b.neighbour_is_well();
}

/// R8, XSA-332: events without work cost the worker, and nobody else.
#[test]
fn a_storm_of_events_is_survived() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    for _ in 0..300_000 {
        queue.ports().0.notify().unwrap();
    }
    b.serves(&mut queue, "R8");
    b.start_over("R8");
    b.neighbour_is_well();
    let lines = b.world.log().lines().count();
    assert!(lines < 100, "R8 made {lines} lines of log");
}

/// R9, R10: the port is closed while it is used and its number given to another use.
#[test]
fn a_closed_port_hurts_nobody() {
    let mut b = Bed::new();
    let queue = b.connect();
    let port = queue.ports().0.port();
    b.hostile.close_port(port);
    let reused = b.hostile.allocate_port(DomId(6)).unwrap();
    assert_eq!(reused.port(), port);
    queue.ports().0.notify().unwrap();
    b.start_over("R9 R10");
    let mut queue = b.connect();
    b.serves(&mut queue, "after R9");
    b.neighbour_is_well();
}

/// R11: rings that were never granted, or not so that answers could be written, or to somebody else.
#[test]
fn rings_that_are_not_ours_are_refused() {
    let mut b = Bed::new();
    let page = b.hostile.allocate(1).unwrap();
    let read_only = b.hostile.grant(page.frame(0), DomId::DOM0, Access::ReadOnly).unwrap();
    let others = b.hostile.grant(page.frame(0), DomId(6), Access::ReadWrite).unwrap();
    for gref in [GrantRef(0), GrantRef(60_000), GrantRef(u32::MAX), read_only, others] {
        for node in ["tx-ring-ref", "rx-ring-ref"] {
            let name = format!("R11 {node} {gref}");
            let queues = [Queue::new(&b.hostile, true).unwrap()];
            let mut nodes = Bed::honest(&queues);
            nodes.insert(node.into(), gref.to_string());
            b.attacker.offer(&nodes).unwrap();
            assert_eq!(b.attacker.verdict(SOON).unwrap(), Verdict::Closed, "{name}\n{}", b.world.log());
            b.closed(&name);
            b.start_over(&name);
        }
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after R11");
    b.neighbour_is_well();
}

/// R16: full rings of which no answer is ever taken, closed as they are.
#[test]
fn answers_that_nobody_takes_hurt_nobody() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    queue.post(NR_SLOTS).unwrap();
    let request = TxRequest { gref: b.page.1, offset: 0, flags: 0, id: 1, size: 60 }.slot();
    Bed::push(&mut queue, &[request; 256]);
    for _ in 0..256 {
        assert_eq!(b.wire.receive(SOON).unwrap().bytes.len(), 60);
        b.give(60);
    }
    for ring in [queue.tx.pages(), queue.rx.pages()] {
        b.world.until("R16 all answered", |_| peek(ring, RSP_PROD) == NR_SLOTS).unwrap();
    }
    b.start_over("R16");
    let mut queue = b.connect();
    b.serves(&mut queue, "after R16");
    b.neighbour_is_well();
}

/// R4, R7, N-any: slots and indices of random bytes, changed while they are read. Whatever becomes of the device, it lets go, and the
/// next connection serves.
#[test]
fn rings_of_random_bytes_hurt_nobody() {
    let mut b = Bed::new();
    let mut prng = Prng::new(11);
    for round in 0..12 {
        let queue = b.connect();
        let (tx, rx) = (queue.tx.pages(), queue.rx.pages());
        for _ in 0..2000 {
            for (ring, slot_len) in [(tx, 12usize), (rx, 8)] {
                let words: Vec<u8> = (0..2).flat_map(|_| prng.next_u64().to_le_bytes()).collect();
                let mut slot = words[..slot_len].to_vec();
                if prng.chance(90) && slot_len == 12 {
                    // Near enough to a frame to come far.
                    slot[..4].copy_from_slice(&b.page.1.0.to_le_bytes());
                    (slot[4], slot[5], slot[7], slot[11]) = (slot[4] & 0x3f, 0, 0, slot[11] & 3);
                }
                let place = usize::try_from(prng.below(NR_SLOTS.into())).unwrap();
                assert!(ring.write(64 + place * slot_len, &slot));
                if prng.chance(50) {
                    poke(ring, REQ_PROD, peek(ring, RSP_PROD).wrapping_add(u32::from(words[12])));
                }
            }
            queue.ports().0.notify().unwrap();
            if prng.chance(20) {
                let _ = b.wire.send(&splitd_tests::wire::Frame {
                    queue: 0,
                    header: splitd_tests::packet::VnetHeader::default(),
                    bytes: vec![1; 5000],
                });
            }
            while b.wire.receive(std::time::Duration::ZERO).is_some() {}
        }
        b.start_over(&format!("R4 R7 round {round}"));
        while b.wire.receive(std::time::Duration::ZERO).is_some() {}
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after R4 R7");
    b.neighbour_is_well();
}
