//! Frames from the tap to a guest's slots. What the guest gets is the frame, or segments that are the frame, told in no other terms than
//! it said that it takes; as many slots as were planned, each in its page.

use netback::hash::Hash;
use netback::offload::{self, Marks, ToGuest};
use netback::rx::{Piece, Plan};
use netback::segment::Segments;
use netback::vnet::Vnet;
use worker::message::VifFeatures;

use super::input::Input;
use crate::netif::{self, RxResponse};
use crate::packet::{self, Checksum, Shape, VnetHeader};

const PAGE_LEN: usize = 4096;
/// The longest that a tap gives.
const LONGEST: usize = 65_535;

/// A guest as it came out of the input.
struct Guest {
    features: VifFeatures,
    headroom: u16,
    hash: Option<Hash>,
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let guest = guest(&mut input);
    let (header, mut frame, is_honest) = frame(&mut input);
    let Ok(vnet) = Vnet::read(&header) else { return };
    let sent = frame.clone();
    let slot_len = Plan::first_slot_len(guest.headroom);
    match offload::to_guest(vnet, &mut frame, &guest.features, slot_len) {
        Err(why) => assert!(!is_honest || !guest.features.sg, "{why:?}"),
        Ok(ToGuest::Whole(marks)) => {
            if is_honest && !marks.csum_blank && vnet.partial.is_some() {
                packet::check(&frame, Checksum::Right).unwrap();
            }
            told(&guest, marks, vnet);
            laid_out(&guest, Marks { hash: guest.hash, ..marks }, frame.len());
        }
        Ok(ToGuest::Segments(segments)) => cut(&guest, segments, &vnet, &sent, is_honest),
    }
}

fn guest(input: &mut Input<'_>) -> Guest {
    let bits = input.byte();
    let headroom = if bits & 64 == 0 { 0 } else { input.u16() & 0x7fff };
    // An XDP program takes frames of one page.
    let features = VifFeatures {
        sg: bits & 1 == 0 && headroom == 0,
        gso_tcpv4: bits & 2 == 0 && headroom == 0,
        gso_tcpv6: bits & 4 == 0 && headroom == 0,
        csum_ipv4: bits & 8 == 0,
        csum_ipv6: bits & 16 == 0,
        rx_notify: true,
    };
    let hash = (bits & 32 != 0).then(|| Hash { kind: input.byte() % 4, value: input.u32() });
    Guest { features, headroom, hash }
}

/// A frame with its header, and whether Linux could have made it.
fn frame(input: &mut Input<'_>) -> ([u8; 12], Vec<u8>, bool) {
    let bits = input.byte();
    if bits & 128 != 0 {
        let mut header: [u8; 12] = input.array();
        header[1] = [0, 1, 4, 0x81, 5][usize::from(header[1]) % 5];
        let mut frame = input.rest().to_vec();
        frame.resize(frame.len().max(usize::from(bits & 127) * 64 + 1), bits);
        return (header, frame, false);
    }
    let shape = Shape { tags: usize::from(bits >> 4 & 1), is_v6: bits & 1 != 0, is_tcp: bits & 2 != 0 };
    let len = match bits >> 5 & 3 {
        0 => usize::from(input.byte()),
        1 => usize::from(input.u16() % 5000),
        _ => usize::from(input.u16()),
    };
    let mut frame = packet::open(shape, 3, len.min(LONGEST - shape.header_len()));
    let gso_size = if bits & 8 != 0 && shape.is_tcp { 1 + input.u16() % 3000 } else { 0 };
    let mut header = VnetHeader::of_open(shape, gso_size).bytes();
    let changes = input.below(4);
    for _ in 0..changes {
        let [at, value] = input.array();
        match usize::from(at) {
            at @ 0..12 => header[at] = value,
            at => frame[(at - 12) % 80 % shape.header_len()] = value,
        }
    }
    (header, frame, changes == 0)
}

/// Nothing is told that the guest did not say that it takes, or that the tap did not say.
fn told(guest: &Guest, marks: Marks, vnet: Vnet) {
    let Guest { features, .. } = guest;
    if let Some(gso) = marks.gso {
        assert!(if gso.ipv6 { features.gso_tcpv6 } else { features.gso_tcpv4 });
        assert!(marks.csum_blank && vnet.gso == Some(gso) && gso.size > 0);
    }
    if marks.csum_blank {
        assert!(vnet.partial.is_some() && (features.csum_ipv4 || features.csum_ipv6));
    }
}

/// The frame in the guest's slots; the responses are read as netfront reads them.
fn laid_out(guest: &Guest, marks: Marks, len: usize) {
    let plan = Plan::new(len, guest.headroom, marks);
    let nr_slots = plan.nr_slots();
    let (mut at, mut extras, mut more_data, mut more_extras) = (0, 0, false, false);
    for number in 0..nr_slots {
        let piece = plan.piece(number);
        let slot = piece.response(9, 0);
        match piece {
            Piece::Data { at: from, offset, len: piece_len, flags } => {
                let read = RxResponse::read(&slot);
                assert_eq!((read.id, read.offset, read.flags), (9, offset, flags));
                assert!(number == 0 || (more_data && !more_extras));
                assert_eq!((from, i32::from(read.status)), (at, i32::from(piece_len)));
                assert!(usize::from(offset) + usize::from(piece_len) <= PAGE_LEN && piece_len > 0);
                at += usize::from(piece_len);
                more_data = flags & netif::rx::MORE_DATA != 0;
                if number == 0 {
                    more_extras = flags & netif::rx::EXTRA_INFO != 0;
                    assert_eq!(flags & netif::rx::CSUM_BLANK != 0, marks.csum_blank);
                }
                assert_eq!(RxResponse::read(&piece.response(9, -3)).status, -3);
            }
            Piece::Extra(_) => {
                assert!(more_extras);
                let read = netif::Extra::read(&slot);
                assert!((netif::extra::GSO..=netif::extra::XDP).contains(&read.kind));
                more_extras = read.flags & netif::extra::MORE != 0;
                extras += 1;
            }
        }
    }
    assert!(at == len && !more_data && !more_extras);
    assert!(guest.features.sg || nr_slots - extras == 1, "{nr_slots} slots without scatter-gather");
    assert!(nr_slots <= 1 + 3 + LONGEST.div_ceil(PAGE_LEN));
}

fn cut(guest: &Guest, mut segments: Segments, vnet: &Vnet, sent: &[u8], is_honest: bool) {
    let size = usize::from(vnet.gso.unwrap().size);
    let longest = segments.longest();
    assert!(guest.features.sg || longest <= Plan::first_slot_len(guest.headroom));
    let mut out = vec![0; longest];
    let (mut count, mut done) = (0, 0);
    while let Some(len) = segments.next(sent, &mut out) {
        count += 1;
        assert!(count <= sent.len().div_ceil(size) && len <= longest);
        laid_out(guest, Marks { hash: guest.hash, ..Marks::default() }, len);
        if is_honest {
            let seen = packet::check(&out[..len], Checksum::Right).unwrap();
            assert_eq!(seen.at, done, "segments are the payload in order");
            done += seen.len;
        }
    }
    if is_honest && count > 0 {
        assert_eq!(count, done.div_ceil(size));
        assert!(sent.len() - done <= 14 + 4 + 40 + 20, "only headers are no payload");
    }
}
