//! What guest and network leave to each other: open checksums and uncut TCP, and the software where one side cannot take them.

use splitd_tests::netfront::{Incoming, Options, Outgoing};
use splitd_tests::netif::{Extra, extra, rx, tx};
use splitd_tests::packet::{self, Checksum, Seen, Shape, TCP4, TCP6, UDP4, UDP6, VnetHeader};

use super::{Bed, assert_right};

const TAGGED: Shape = Shape { tags: 1, ..TCP4 };
const TAGGED6: Shape = Shape { tags: 1, ..TCP6 };

fn gso_kind(shape: Shape) -> u8 {
    if shape.is_v6 { extra::TCPV6 } else { extra::TCPV4 }
}

/// B4: an open checksum leaves with its place and the pseudo header's sum, whatever the guest left there; tagged frames, too.
#[test]
fn open_checksums_leave_open() {
    let mut b = Bed::new(Options::default());
    for (number, shape) in (1..).zip([TCP4, TCP6, UDP4, UDP6, TAGGED, TAGGED6]) {
        for garbage in [None, Some(0), Some(0xffff), Some(0x1234)] {
            let mut bytes = packet::open(shape, number, 1000);
            if let Some(garbage) = garbage {
                let at = shape.transport_at() + if shape.is_tcp { 16 } else { 6 };
                packet::put(&mut bytes, at, garbage);
            }
            let frame = b.out(0, &Outgoing::new(bytes).open());
            assert_eq!(frame.header, VnetHeader::of_open(shape, 0));
            let seen = Seen { shape, number, at: 0, len: 1000 };
            assert_eq!(packet::check(&frame.bytes, Checksum::Open), Ok(seen));
        }
    }
}

/// B4: a checksum that the guest calls right, without leaving it open, is a plain frame to the tap.
#[test]
fn validated_frames_leave_plain() {
    let mut b = Bed::new(Options::default());
    let mut frame = Outgoing::new(packet::whole(TCP4, 1, 500));
    frame.flags = tx::DATA_VALIDATED;
    let frame = b.out(0, &frame);
    assert_eq!(frame.header, VnetHeader::default());
    assert_right(&frame.bytes, TCP4, 1, 500);
}

/// B2.4, B2.6, B4: uncut TCP leaves uncut: its header says how to cut it. With an open checksum or without, the latter is opened.
#[test]
fn uncut_tcp_leaves_uncut() {
    let mut b = Bed::new(Options::default());
    for (number, shape) in (1..).zip([TCP4, TCP6, TAGGED, TAGGED6]) {
        for len in [1449, 14_480, 65_535 - shape.header_len()] {
            let with = |frame: Outgoing| frame.with(Extra::gso(gso_kind(shape), 1448));
            let open = with(Outgoing::new(packet::open(shape, number, len)).open());
            let complete = with(Outgoing::new(packet::whole(shape, number, len)));
            for frame in [open, complete] {
                let frame = b.out(0, &frame);
                assert_eq!(frame.header, VnetHeader::of_open(shape, 1448));
                let seen = Seen { shape, number, at: 0, len };
                assert_eq!(packet::check(&frame.bytes, Checksum::Open), Ok(seen));
            }
        }
    }
}

/// B2.4: extra infos of other kinds beside GSO's, in any order, change nothing.
#[test]
fn other_extra_infos_beside_gso_are_passed_over() {
    let mut b = Bed::new(Options::default());
    let hash = Extra { kind: extra::HASH, flags: 0, body: [1, 1, 7, 7, 7, 7] };
    let xdp = Extra { kind: extra::XDP, flags: 0, body: [0, 1, 0, 0, 0, 0] };
    let gso = Extra::gso(extra::TCPV4, 1000);
    for extras in [vec![hash, gso], vec![gso, hash], vec![xdp, gso, hash], vec![hash, xdp, gso]] {
        let mut frame = Outgoing::new(packet::open(TCP4, 1, 20_000)).open();
        frame.extras = extras;
        let frame = b.out(0, &frame);
        assert_eq!(frame.header, VnetHeader::of_open(TCP4, 1000));
    }
}

/// B4: open checksums stay open for a guest that takes them and are finished for one that does not, and where netfront would not find
/// their place (VLAN).
#[test]
fn open_checksums_arrive_open_or_right() {
    let takes_all = Options::default();
    let takes_v4 = Options { csum_ipv6: false, ..Options::default() };
    for (options, open_shapes) in
        [(takes_all, vec![TCP4, TCP6, UDP4, UDP6]), (takes_v4, vec![TCP4, UDP4]), (Options::plain(), vec![])]
    {
        let mut b = Bed::new(options);
        for (number, shape) in (1..).zip([TCP4, TCP6, UDP4, UDP6, TAGGED, TAGGED6]) {
            b.give(0, VnetHeader::of_open(shape, 0), packet::open(shape, number, 1001));
            let frame = b.next(0);
            let seen = Ok(Seen { shape, number, at: 0, len: 1001 });
            if open_shapes.contains(&shape) {
                assert_eq!(frame.flags, rx::CSUM_BLANK | rx::DATA_VALIDATED);
                assert_eq!(packet::check(&frame.bytes, Checksum::Open), seen);
            } else {
                assert!(!frame.is_open(), "{frame:?}");
                assert_eq!(packet::check(&frame.bytes, Checksum::Right), seen);
            }
        }
        // 2: the kernel has looked at it.
        b.give(0, VnetHeader { flags: 2, ..VnetHeader::default() }, packet::whole(UDP4, 50, 10));
        assert_eq!(b.next(0).flags, rx::DATA_VALIDATED);
    }
}

/// B3: a guest that takes uncut TCP is given it with the extra info behind the first slot.
#[test]
fn uncut_tcp_arrives_uncut() {
    let mut b = Bed::new(Options::default());
    for (number, shape) in (1..).zip([TCP4, TCP6]) {
        for len in [3000, 20_000, 65_535 - shape.header_len()] {
            b.give(0, VnetHeader::of_open(shape, 1400), packet::open(shape, number, len));
            let frame = b.next(0);
            assert_eq!(frame.extras, [Extra::gso(gso_kind(shape), 1400)]);
            assert!(frame.is_open() && frame.flags & rx::DATA_VALIDATED != 0);
            let seen = Seen { shape, number, at: 0, len };
            assert_eq!(packet::check(&frame.bytes, Checksum::Open), Ok(seen));
        }
    }
}

/// Segments that together are the frame, each with right checksums, none longer than `size` and none but the last shorter.
fn assert_cut(b: &mut Bed, shape: Shape, number: u32, len: usize, size: usize) {
    let mut at = 0;
    while at < len {
        let frame: Incoming = b.next(0);
        assert_eq!((frame.extras.as_slice(), frame.is_open()), (&[] as &[Extra], false));
        let segment = (len - at).min(size);
        let seen = Seen { shape, number, at, len: segment };
        assert_eq!(packet::check(&frame.bytes, Checksum::Right), Ok(seen));
        at += segment;
    }
}

/// B4, "the trap": uncut TCP is cut for a guest that takes none, for one that takes that of the other IP version only, and for every
/// guest where it is tagged.
#[test]
fn uncut_tcp_arrives_cut() {
    let without_v4 = Options { gso_tcpv4: false, ..Options::default() };
    let without_v6 = Options { gso_tcpv6: false, ..Options::default() };
    let no_checksums = Options { csum_ipv6: false, ..Options::default() };
    for (options, shapes) in [
        (Options::plain(), vec![TCP4, TCP6, TAGGED, TAGGED6]),
        (without_v4, vec![TCP4]),
        (without_v6, vec![TCP6]),
        (no_checksums, vec![TCP6]),
        (Options::default(), vec![TAGGED, TAGGED6]),
    ] {
        let mut b = Bed::new(options);
        for (number, shape) in (1..).zip(shapes) {
            for (len, size) in
                [(3000, 1448), (1448 * 4, 1448), (65_000, 1448), (5000, 100), (300, 1), (40, 536)]
            {
                b.give(0, VnetHeader::of_open(shape, size), packet::open(shape, number, len));
                assert_cut(&mut b, shape, number, len, size.into());
            }
        }
        b.detach();
    }
}

/// A guest of one slot is given segments of one slot; uncut TCP whose segments are longer is dropped.
#[test]
fn segments_fit_a_guest_of_one_slot() {
    let mut b = Bed::new(Options::plain());
    b.give(0, VnetHeader::of_open(TCP4, 8948), packet::open(TCP4, 1, 30_000));
    b.give(0, VnetHeader::of_open(TCP4, 4000), packet::open(TCP4, 2, 30_000));
    assert_cut(&mut b, TCP4, 2, 30_000, 4000);
}

/// B4: what a tap hands out and nobody offered to take (UDP to be cut, tunnels) is dropped, and the next frame passes.
#[test]
fn offloads_that_were_not_offered_are_dropped() {
    let mut b = Bed::new(Options::default());
    let open = VnetHeader::of_open(UDP4, 0);
    for header in [
        VnetHeader { gso_type: 3, gso_size: 500, ..open },
        VnetHeader { gso_type: 5, gso_size: 500, ..open },
        VnetHeader { gso_type: 1, gso_size: 500, ..open },
        VnetHeader { gso_type: 1, gso_size: 500, ..VnetHeader::default() },
        VnetHeader { csum_start: 5000, ..open },
        VnetHeader { csum_offset: 5000, ..open },
        VnetHeader { csum_start: 0xffff, csum_offset: 0xffff, ..open },
    ] {
        b.give(0, header, packet::open(UDP4, 1, 3000));
        b.give(0, VnetHeader::default(), packet::whole(UDP4, 2, 100));
        let frame = b.next(0);
        assert_right(&frame.bytes, UDP4, 2, 100);
    }
}
