//! Slots of the tx ring that no driver would post: the frame is refused and the ring goes on, or the device closes with a reason.

use splitd_tests::netfront::{Outgoing, Queue};
use splitd_tests::netif::{ERROR, Extra, NULL, OKAY, TX_SLOT_LEN, TxRequest, extra, tx};
use splitd_tests::packet::{self, Checksum, Seen, Shape, TCP4, TCP6, UDP4, VnetHeader};
use xenbus::GrantRef;

use super::{Bed, SOON};

type Slot = [u8; TX_SLOT_LEN];

/// A request for bytes of the page with a good frame.
fn slot(gref: GrantRef, offset: u16, flags: u16, size: u16) -> Slot {
    TxRequest { gref, offset, flags, id: 5, size }.slot()
}

fn info(kind: u8, flags: u8, body: [u8; 6]) -> Slot {
    let mut slot = [0; TX_SLOT_LEN];
    slot[..8].copy_from_slice(&Extra { kind, flags, body }.bytes());
    slot
}

/// A first slot and `n` more of `len` bytes each, `first_len` bytes before them.
fn chain(gref: GrantRef, first_len: u16, n: usize, len: u16) -> Vec<Slot> {
    let more = |i: usize| if i < n { tx::MORE_DATA } else { 0 };
    let total = first_len + len * u16::try_from(n).unwrap();
    let mut slots = vec![slot(gref, 0, more(0), total)];
    slots.extend((1..=n).map(|i| slot(gref, 0, more(i), len)));
    slots
}

/// B2.8: each of these closes the device with a reason, and another connection serves.
fn all_close(cases: impl Fn(GrantRef) -> Vec<(String, Vec<Slot>)>) {
    let mut b = Bed::new();
    for (name, slots) in cases(b.page.1) {
        let mut queue = b.connect();
        Bed::push(&mut queue, &slots);
        b.closed(&name);
        b.start_over(&name);
        assert_eq!(queue.release(), Vec::<GrantRef>::new(), "{name}");
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after all of it");
    b.neighbour_is_well();
}

/// N3: pieces that leave their page, in the first slot and in others, over the wrap of 16 bits, too.
#[test]
fn pieces_that_leave_their_page_close() {
    all_close(|gref| {
        let first = [(4000, 97), (4095, 60), (4096, 60), (65_535, 60), (65_535, 65_535), (1, 4096)];
        let mut cases: Vec<_> = first
            .iter()
            .map(|&(offset, size)| (format!("N3 {offset}+{size}"), vec![slot(gref, offset, 0, size)]))
            .collect();
        for (offset, size) in [(4095, 2), (4096, 1), (65_535, 2), (0, 4097)] {
            let slots = vec![slot(gref, 0, tx::MORE_DATA, 5000), slot(gref, offset, 0, size)];
            cases.push((format!("N3 second {offset}+{size}"), slots));
        }
        // What the others do not take of the whole is the first one's.
        let share = vec![slot(gref, 3000, tx::MORE_DATA, 5200), slot(gref, 0, 0, 4000)];
        cases.push(("N3 share".into(), share));
        cases.push(("N5".into(), vec![slot(gref, 0, 0, 65_535)]));
        cases
    });
}

/// N6, N7, N10, N12: messages without an end.
#[test]
fn messages_without_an_end_close() {
    all_close(|gref| {
        let more = slot(gref, 0, tx::MORE_DATA, 100);
        let with = slot(gref, 0, tx::EXTRA_INFO, 100);
        let endless = info(extra::HASH, extra::MORE, [0; 6]);
        vec![
            ("N6 no second slot".into(), vec![more]),
            ("N6 no third slot".into(), vec![more, slot(gref, 0, tx::MORE_DATA, 10)]),
            ("N7 22 slots".into(), chain(gref, 100, 21, 20)),
            ("N7 256 slots".into(), chain(gref, 100, 255, 20)),
            ("N7 256 slots and no end".into(), vec![slot(gref, 0, tx::MORE_DATA, 60); 256]),
            ("N10".into(), vec![with]),
            ("N10 more data, too".into(), vec![slot(gref, 0, tx::EXTRA_INFO | tx::MORE_DATA, 100)]),
            ("N12".into(), [vec![with], vec![endless; 255]].concat()),
        ]
    });
}

/// N11, N14: extra infos that there are not.
#[test]
fn extra_infos_that_make_no_sense_close() {
    all_close(|gref| {
        let with = |info: Slot| vec![slot(gref, 0, tx::EXTRA_INFO, 1000), info];
        let mut cases = Vec::new();
        for kind in [0, 6, 7, 128, 255] {
            cases.push((format!("N11 {kind}"), with(info(kind, 0, [1, 0, 1, 0, 0, 0]))));
        }
        for body in [[0, 0, 1, 0, 0, 0], [100, 0, 0, 0, 0, 0], [100, 0, 3, 0, 0, 0], [100, 0, 255, 0, 0, 0]] {
            cases.push((format!("N14 {body:?}"), with(info(extra::GSO, 0, body))));
        }
        cases
    });
}

/// B2.7: each of these is answered slot by slot, in the ring's order, and no frame leaves; the connection goes on.
fn all_answered(b: &mut Bed, queue: &mut Queue, cases: Vec<(String, Vec<Slot>, Vec<i16>)>) {
    for (name, slots, expected) in cases {
        Bed::push(queue, &slots);
        let answers = b.answers(queue, slots.len(), &name);
        let statuses: Vec<i16> = answers.iter().map(|(_, status)| *status).collect();
        assert_eq!(statuses, expected, "{name}\n{}", b.world.log());
        b.serves(queue, &name);
    }
}

/// N1, N2, N4, N7, N8: frames that are refused; each slot is answered.
#[test]
fn frames_that_are_none_are_refused() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    let gref = b.page.1;
    let mut cases = Vec::new();
    for size in 0..14 {
        cases.push((format!("N1 N2 {size}"), vec![slot(gref, 0, 0, size)], vec![ERROR]));
    }
    let two = |total, second| vec![slot(gref, 0, tx::MORE_DATA, total), slot(gref, 0, 0, second)];
    for (total, second) in [(1000, 1001), (100, 100), (100, 90), (60, 4096), (0, 60), (13, 1)] {
        cases.push((format!("N4 {total} with {second}"), two(total, second), vec![ERROR; 2]));
    }
    for slots in [20, 21] {
        cases.push((format!("N7 {slots}"), chain(gref, 100, slots - 1, 50), vec![ERROR; slots]));
    }
    cases.push(("N8 all of them".into(), chain(gref, 0, 17, 0), vec![ERROR; 18]));
    all_answered(&mut b, &mut queue, cases);
    b.neighbour_is_well();
}

/// N20: any one of 18 grants is none: every slot is answered with an error, nothing leaves.
#[test]
fn a_bad_grant_among_good_ones_is_refused() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    let mut cases = Vec::new();
    for bad in [0, 1, 60_000, u32::MAX] {
        for k in 0..18 {
            let mut slots = chain(b.page.1, 100, 17, 50);
            slots[k][..4].copy_from_slice(&bad.to_le_bytes());
            cases.push((format!("N20 {bad} at {k}"), slots, vec![ERROR; 18]));
        }
    }
    // Behind an extra info, whose own answer stays.
    let gso = info(extra::GSO, 0, [100, 0, extra::TCPV4, 0, 0, 0]);
    let slots = vec![slot(GrantRef(0), 0, tx::EXTRA_INFO, 1000), gso];
    cases.push(("N20 with an extra info".into(), slots, vec![ERROR, NULL]));
    all_answered(&mut b, &mut queue, cases);
    b.neighbour_is_well();
}

/// N15, N16: offloads asked for where there is nothing to offload: taken, and dropped.
#[test]
fn offloads_without_a_place_are_dropped() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    let v4 = |bytes: &[u8]| [vec![2; 12], vec![8, 0], bytes.to_vec()].concat();
    let tcp = packet::open(TCP4, 1, 1000);
    let changed = |at: usize, value: u8| {
        let mut bytes = tcp.clone();
        bytes[at] = value;
        bytes
    };
    let tags = [vec![2u8; 12], [0x81, 0, 0, 5].repeat(10), tcp[12..].to_vec()].concat();
    let mut chained = packet::open(TCP6, 1, 1000);
    chained[20] = 60;
    chained.splice(54..54, [60, 0, 1, 4, 0, 0, 0, 0].repeat(100));
    for (name, bytes) in [
        ("ARP", [vec![2; 12], vec![8, 6], vec![0; 46]].concat()),
        ("ICMP", changed(23, 1)),
        ("a fragment", changed(20, 0x20)),
        ("a short IHL", changed(14, 0x44)),
        ("IHL 15 in a short frame", v4(&[0x4f; 30])),
        ("a version that is none", changed(14, 0x95)),
        ("TCP without its header", v4(&tcp[14..40])),
        ("TCP with a short data offset", changed(46, 0x40)),
        (
            "TCP with options beyond the end",
            tcp[..60].iter().enumerate().map(|(i, &x)| if i == 46 { 0xf0 } else { x }).collect(),
        ),
        ("VLAN x 10", tags),
        ("IPv6 with 100 extension headers", chained),
        ("nothing but Ethernet", vec![2; 14]),
    ] {
        let open = Outgoing::new(bytes.clone()).open();
        let gso = Outgoing::new(bytes).with(Extra::gso(extra::TCPV4, 500));
        for frame in [open, gso] {
            b.send(&mut queue, &frame, &format!("N15 N16 {name}"));
            b.serves(&mut queue, name);
        }
    }
    for (shape, kind) in [(UDP4, extra::TCPV4), (TCP4, extra::TCPV6), (TCP6, extra::TCPV4)] {
        let frame = Outgoing::new(packet::open(shape, 1, 3000)).with(Extra::gso(kind, 500));
        b.send(&mut queue, &frame, "N15");
        b.serves(&mut queue, "N15 another kind");
    }
    b.neighbour_is_well();
}

/// N7, N8, N9, N13, N14, N17, N19, N21: odd, and no fault: the frame leaves whole.
#[test]
fn odd_frames_leave_whole() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    let open = || Outgoing::new(packet::open(TCP4, 3, 1000)).open();
    let lens = |lens: Vec<usize>| Outgoing { slot_lens: lens, ..open() };
    let mut cases = vec![
        ("N9".to_owned(), lens([vec![14], vec![1; 17], vec![1054 - 31]].concat())),
        ("N13".to_owned(), open().with(Extra::gso(extra::TCPV6, 9)).with(Extra::gso(extra::TCPV4, 500))),
        ("N14 size 1".to_owned(), open().with(Extra::gso(extra::TCPV4, 1))),
        ("N14 size 65535".to_owned(), open().with(Extra::gso(extra::TCPV4, 65_535))),
        ("N17".to_owned(), Outgoing { flags: tx::CSUM_BLANK, ..open() }),
        ("N19".to_owned(), open().with(Extra { kind: extra::HASH, flags: 0, body: [0xff; 6] })),
    ];
    for slots in [18, 19] {
        cases.push((format!("N7 {slots}"), open().in_slots(slots)));
    }
    for place in 1..18 {
        let mut pieces = vec![62; 17];
        pieces.insert(place, 0);
        cases.push((format!("N8 {place}"), lens(pieces)));
    }
    for (name, frame) in cases {
        b.send(&mut queue, &frame, &name);
        let out = b.wire.receive(SOON).unwrap_or_else(|| panic!("{name}\n{}", b.world.log()));
        let gso_size = frame.extras.iter().filter_map(|e| e.as_gso()).next_back().map_or(0, |(_, size)| size);
        assert_eq!(out.header, VnetHeader::of_open(TCP4, gso_size), "{name}");
        let seen = Seen { shape: TCP4, number: 3, at: 0, len: 1000 };
        assert_eq!(packet::check(&out.bytes, Checksum::Open), Ok(seen), "{name}");
    }
    b.neighbour_is_well();
}

/// N12, N21: a message of extra infos alone, and ids that are the same or too large, are answered as they are.
#[test]
fn ids_are_echoed() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    let (mut slots, mut expected) = (Vec::new(), Vec::new());
    for id in [0, 0, 255, 256, 257, 0x7fff, 0xffff, 0] {
        slots.push(TxRequest { gref: b.page.1, offset: 0, flags: 0, id, size: 60 }.slot());
        expected.push((id, OKAY));
    }
    Bed::push(&mut queue, &slots);
    assert_eq!(b.answers(&mut queue, slots.len(), "N21"), expected);
    for _ in &slots {
        assert_eq!(b.wire.receive(SOON).unwrap().bytes.len(), 60);
    }

    let mut slots = vec![slot(b.page.1, 0, tx::EXTRA_INFO, 60)];
    slots.extend([info(extra::HASH, extra::MORE, [0; 6]); 254]);
    slots.push(info(extra::HASH, 0, [0; 6]));
    Bed::push(&mut queue, &slots);
    let statuses: Vec<i16> = b.answers(&mut queue, 256, "N12").iter().map(|(_, status)| *status).collect();
    assert_eq!(statuses, [vec![OKAY], vec![NULL; 255]].concat());
    assert_eq!(b.wire.receive(SOON).unwrap().bytes.len(), 60);
    b.serves(&mut queue, "N12 N21");
    b.neighbour_is_well();
}

/// N18: multicast orders without end, not negotiated: 64 addresses are kept, all are answered.
#[test]
fn multicast_orders_are_bounded() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    for n in 0..5000u32 {
        let [_, x, y, z] = n.to_be_bytes();
        let order = info(extra::MCAST_ADD, 0, [1, 0, 0x5e, x, y, z]);
        Bed::push(&mut queue, &[slot(GrantRef(0), 0, tx::EXTRA_INFO, 0), order]);
        let expected = if n < 64 { OKAY } else { ERROR };
        assert_eq!(b.answers(&mut queue, 2, "N18"), [(5, expected), (0, NULL)], "N18 {n}");
    }
    b.serves(&mut queue, "N18");
    b.neighbour_is_well();
}

/// VLAN tags that the network has are no fault, up to what any network nests.
#[test]
fn tagged_frames_are_no_fault() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    for tags in 1..=4 {
        let shape = Shape { tags, ..TCP4 };
        b.send(&mut queue, &Outgoing::new(packet::open(shape, 3, 100)).open(), "tags");
        assert_eq!(b.wire.receive(SOON).unwrap().header, VnetHeader::of_open(shape, 0));
    }
    b.neighbour_is_well();
}
