//! Checksums and segments against a slow sum of our own, by rule of the protocol notes (B4).
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use proptest::prelude::*;

use super::*;
use crate::headers::tests::frame;

const ALL: VifFeatures = VifFeatures {
    sg: true,
    gso_tcpv4: true,
    gso_tcpv6: true,
    csum_ipv4: true,
    csum_ipv6: true,
    rx_notify: true,
};

/// Whether the TCP or UDP checksum of a whole frame is right: the sum of everything, the checksum included, is all ones.
fn is_right(frame: &[u8]) -> bool {
    let found = headers::parse(frame).unwrap();
    let (ip, t) = (found.ip.unwrap(), found.transport.unwrap());
    let mut sum = u32::from(ip.protocol) + u32::try_from(transport_len(frame, ip)).unwrap();
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0))).sum()
    };
    sum += words(headers::addresses(frame, ip)) + words(&frame[t.at..]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

/// What a kernel does with an open checksum.
fn close(frame: &mut [u8], partial: Partial) {
    let sum: u32 = frame[usize::from(partial.start)..]
        .chunks(2)
        .map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    put(frame, usize::from(partial.start + partial.offset), !sum).unwrap();
}

/// A frame as a tap gives it, its checksum open.
fn open(tags: usize, is_v6: bool, is_tcp: bool, payload: &[u8]) -> (Vnet, Vec<u8>) {
    let mut frame = frame(tags, is_v6, is_tcp, payload);
    let vnet = to_tap(&mut frame, true, None).unwrap();
    (vnet, frame)
}

/// B4: an open checksum reaches the tap with the right places and sum, whatever the guest left there; tagged frames, too, which
/// the kernel's netback drops.
#[test]
fn open_checksums_go_to_the_tap() {
    for (tags, is_v6, is_tcp) in [
        (0, false, true),
        (0, true, true),
        (0, false, false),
        (0, true, false),
        (1, false, true),
        (2, true, true),
    ] {
        let mut frame = frame(tags, is_v6, is_tcp, b"some odd payload.");
        let found = headers::parse(&frame).unwrap().transport.unwrap();
        put(&mut frame, found.checksum_at(), 0xbeef).unwrap();

        let vnet = to_tap(&mut frame, true, None).unwrap();

        assert_eq!(usize::from(vnet.header_len), found.end);
        close(&mut frame, vnet.partial.unwrap());
        assert!(is_right(&frame), "{tags} {is_v6} {is_tcp}");
    }
}

/// A short frame is padded to 60 bytes: the padding is not TCP's.
#[test]
fn padding_is_not_summed_up() {
    let mut padded = frame(0, false, true, b"ab");
    padded.resize(60, 0);
    let vnet = to_tap(&mut padded, true, None).unwrap();
    close(&mut padded, vnet.partial.unwrap());
    assert!(is_right(&padded[..56]));
}

/// B4: what has no TCP or UDP header cannot have an open checksum; without one it passes as it is.
#[test]
fn no_transport_no_open_checksum() {
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(to_tap(&mut arp.clone(), true, None), Err(Unfit::NoTransport));
    assert_eq!(to_tap(&mut arp, false, None), Ok(Vnet::default()));
    let gso = |ipv6| Some(Gso { size: 1000, ipv6 });
    assert_eq!(to_tap(&mut frame(0, false, false, b"udp"), true, gso(false)), Err(Unfit::OtherKind));
    assert_eq!(to_tap(&mut frame(0, false, true, b"v4"), true, gso(true)), Err(Unfit::OtherKind));
}

/// B4, `rx_gso_checksum_fixup`: uncut TCP without an open checksum gets one.
#[test]
fn gso_is_always_open() {
    let vnet =
        to_tap(&mut frame(0, false, true, &[7; 3000]), false, Some(Gso { size: 1448, ipv6: false })).unwrap();
    assert_eq!(
        (vnet.partial, vnet.gso.map(|g| g.size)),
        (Some(Partial { start: 34, offset: 16 }), Some(1448))
    );
}

/// B4: what the guest takes goes to it open, what it does not is finished; "the trap": tagged and tunnelled frames are always
/// finished.
#[test]
fn open_checksums_go_to_guests_that_take_them() {
    let blank = Marks { csum_blank: true, validated: true, ..Marks::default() };
    for (features, is_v6, expected) in [
        (ALL, false, blank),
        (ALL, true, blank),
        (VifFeatures { csum_ipv6: false, ..ALL }, true, Marks::default()),
        (VifFeatures { csum_ipv4: false, ..ALL }, false, Marks::default()),
    ] {
        let (vnet, mut frame) = open(0, is_v6, false, b"payload");
        assert_eq!(to_guest(vnet, &mut frame, &features, 4096), Ok(ToGuest::Whole(expected)));
        assert!(expected.csum_blank || is_right(&frame));
    }
    let (vnet, mut tagged) = open(1, false, true, b"tagged");
    assert_eq!(to_guest(vnet, &mut tagged, &ALL, 4096), Ok(ToGuest::Whole(Marks::default())));
    assert!(is_right(&tagged));
    // VXLAN: the inner sum is open, the outer UDP has none.
    let (inner_vnet, inner) = open(0, false, true, b"inner");
    let mut outer = frame(0, false, false, &[&[8, 0, 0, 0, 0, 0, 9, 0], inner.as_slice()].concat());
    let inner_at = outer.len() - inner.len();
    let partial =
        inner_vnet.partial.map(|p| Partial { start: p.start + u16::try_from(inner_at).unwrap(), ..p });
    assert_eq!(
        to_guest(Vnet { partial, ..Vnet::default() }, &mut outer, &ALL, 4096),
        Ok(ToGuest::Whole(Marks::default()))
    );
    assert!(is_right(&outer[inner_at..]));
}

/// An open checksum that lies outside of the frame is no frame of the kernel's, and is not acted on.
#[test]
fn open_checksums_lie_in_the_frame() {
    for (start, offset) in [(100, 0), (50, 16), (65535, 65535)] {
        let vnet = Vnet { partial: Some(Partial { start, offset }), ..Vnet::default() };
        assert_eq!(to_guest(vnet, &mut frame(0, false, true, b""), &ALL, 4096), Err(Unfit::Range));
    }
}

/// A guest without scatter-gather is given what fits into a slot.
#[test]
fn long_frames_need_scatter_gather() {
    let features = VifFeatures { sg: false, ..ALL };
    let mut long = frame(0, false, false, &[0; 4096]);
    assert_eq!(to_guest(Vnet::default(), &mut long, &features, 4096), Err(Unfit::TooLong));
    let vnet = to_tap(&mut long.clone(), true, None).unwrap();
    assert_eq!(to_guest(vnet, &mut long, &features, 4096), Err(Unfit::TooLong));
    assert!(to_guest(Vnet::default(), &mut long, &ALL, 4096).is_ok());
}

/// So is what is cut for it, where the cuts are longer than a slot.
#[test]
fn cut_frames_need_scatter_gather() {
    let features = VifFeatures { sg: false, gso_tcpv4: false, ..ALL };
    let (vnet, mut frame) = uncut(0, false, 5000, &[0; 9000]);
    assert!(matches!(to_guest(vnet, &mut frame, &features, 4096), Err(Unfit::TooLong)));
    let (vnet, mut frame) = uncut(0, false, 1000, &[0; 9000]);
    assert!(matches!(to_guest(vnet, &mut frame, &features, 4096), Ok(ToGuest::Segments(_))));
}

fn uncut(tags: usize, is_v6: bool, size: u16, payload: &[u8]) -> (Vnet, Vec<u8>) {
    let mut frame = frame(tags, is_v6, true, payload);
    let vnet = to_tap(&mut frame, true, Some(Gso { size, ipv6: is_v6 })).unwrap();
    (vnet, frame)
}

proptest! {
    /// Segments are frames of their own with right checksums and lengths; their payloads are the whole's, in order.
    #[test]
    fn segments_are_whole_frames(
        payload in prop::collection::vec(any::<u8>(), 1..9000), size in 88u16..1500, tags in 0usize..3, is_v6: bool,
    ) {
        let (vnet, mut frame) = uncut(tags, is_v6, size, &payload);
        // FIN, PSH and CWR: the first two belong to the last segment, the third to the first.
        let flags_at = headers::parse(&frame).unwrap().transport.unwrap().at + 13;
        frame[flags_at] |= 0x89;
        let features = VifFeatures { gso_tcpv4: false, gso_tcpv6: false, ..ALL };
        let Ok(ToGuest::Segments(mut segments)) = to_guest(vnet, &mut frame, &features, 4096) else { panic!("whole") };
        let (mut out, mut joined, mut flags) = (vec![0; segments.longest()], Vec::new(), Vec::new());
        while let Some(len) = segments.next(&frame, &mut out) {
            let segment = &out[..len];
            prop_assert!(is_right(segment));
            let found = headers::parse(segment).unwrap();
            let (ip, t) = (found.ip.unwrap(), found.transport.unwrap());
            prop_assert_eq!(transport_len(segment, ip), len - ip.end);
            let sequence = u32::from_be_bytes(segment[t.at + 4..t.at + 8].try_into().unwrap());
            prop_assert_eq!(sequence as usize, 1 + joined.len());
            if !is_v6 {
                prop_assert_eq!(checksum::fold(checksum::add(0, &segment[ip.at..ip.end])), 0xffff);
            }
            flags.push(segment[t.at + 13] & 0x89);
            joined.extend_from_slice(&segment[t.end..]);
        }
        prop_assert_eq!(joined, payload);
        let last = flags.len() - 1;
        for (i, flags) in flags.iter().enumerate() {
            prop_assert_eq!(*flags, if i == 0 { 0x80 } else { 0 } | if i == last { 9 } else { 0 });
        }
    }

    /// Whatever a tap or a guest says of a frame, it is told apart without a panic, and what the guest is given fits.
    #[test]
    fn offloads_are_total(
        header: [u8; crate::vnet::VNET_LEN], mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        is_tcp: bool, is_v6: bool, blank: bool, gso in prop::option::of((1u16.., any::<bool>())), well: bool,
    ) {
        if well {
            bytes = frame(0, is_v6, is_tcp, &bytes);
        }
        let _ = to_tap(&mut bytes.clone(), blank, gso.map(|(size, ipv6)| Gso { size, ipv6 }));
        if let Ok(vnet) = Vnet::read(&header)
            && let Ok(ToGuest::Segments(mut segments)) = to_guest(vnet, &mut bytes, &VifFeatures::default(), 4096)
        {
            let mut out = vec![0; segments.longest()];
            while segments.next(&bytes, &mut out).is_some() {}
        }
    }
}
