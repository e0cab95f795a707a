//! What guests may post, by rule of the protocol notes (B2) and number of the hostile catalogue (N).
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use proptest::prelude::*;

use super::*;
use crate::wire::{EXTRA_GSO, EXTRA_MCAST_ADD, EXTRA_MORE, TX_CSUM_BLANK, TX_EXTRA_INFO, TX_MORE_DATA};

fn slot(offset: u16, flags: u16, size: u16) -> TxSlot {
    let (o, f, s) = (offset.to_le_bytes(), flags.to_le_bytes(), size.to_le_bytes());
    [9, 0, 0, 0, o[0], o[1], f[0], f[1], 7, 0, s[0], s[1]]
}

fn extra(kind: u8, more: bool, body: [u8; 6]) -> TxSlot {
    let [a, b, c, d, e, f] = body;
    [kind, if more { EXTRA_MORE } else { 0 }, a, b, c, d, e, f, 0, 0, 0, 0]
}

fn frame(slots: &[TxSlot]) -> Frame {
    match parse(slots).unwrap().message {
        Message::Frame(frame) => frame,
        other => panic!("{other:?}"),
    }
}

fn refusal(slots: &[TxSlot]) -> (Refusal, usize) {
    match parse(slots).unwrap() {
        Parsed { message: Message::Refused(why), nr_slots, .. } => (why, nr_slots),
        other => panic!("{other:?}"),
    }
}

/// A chain of `n` slots of `len` bytes behind a first of 100.
fn chain(n: usize, len: u16) -> Vec<TxSlot> {
    let total = 100 + len * u16::try_from(n).unwrap();
    let mut slots = vec![slot(0, if n > 0 { TX_MORE_DATA } else { 0 }, total)];
    slots.extend((1..=n).map(|i| slot(0, if i < n { TX_MORE_DATA } else { 0 }, len)));
    slots
}

/// B2.2: the first slot's size is the whole frame's; its own share is the rest.
#[test]
fn the_first_slot_holds_what_the_others_do_not() {
    let found = frame(&[
        slot(10, TX_MORE_DATA | TX_CSUM_BLANK, 3000),
        slot(0, TX_MORE_DATA, 1000),
        slot(96, 0, 1500),
    ]);
    let lens: Vec<u16> = found.fragments().iter().map(|f| f.len).collect();
    assert_eq!((lens, found.len, found.csum_blank), (vec![500, 1000, 1500], 3000, true));
}

/// B2.5: 18 slots behind the first work, two more are dropped in step, what follows is fatal (XSA-39's kind, N1).
#[test]
fn chains_have_an_end() {
    assert_eq!(frame(&chain(18, 100)).fragments().len(), 19);
    for n in [19, 20] {
        assert_eq!(refusal(&chain(n, 100)), (Refusal::TooManySlots, n + 1));
    }
    assert_eq!(parse(&chain(21, 100)), Err(Fatal::Endless));
}

/// B2.5: pieces longer than the whole are dropped, the chain walked to its end.
#[test]
fn pieces_longer_than_the_whole() {
    let slots = [slot(0, TX_MORE_DATA, 1000), slot(0, TX_MORE_DATA, 1001), slot(0, 0, 10), slot(0, 0, 60)];
    assert_eq!(refusal(&slots), (Refusal::TooLong, 3));
}

/// B2.5: a piece that leaves its page ends the connection, in the first slot (by its share) as in others.
#[test]
fn pieces_stay_in_their_page() {
    assert!(matches!(parse(&[slot(4000, 0, 97)]), Err(Fatal::CrossesPage { offset: 4000, len: 97 })));
    assert!(parse(&[slot(4000, 0, 96)]).is_ok());
    let second = [slot(0, TX_MORE_DATA, 2000), slot(4095, 0, 2)];
    assert!(matches!(parse(&second), Err(Fatal::CrossesPage { .. })));
    // The whole is longer than a page; the first slot's share is not.
    assert!(parse(&[slot(3000, TX_MORE_DATA, 5000), slot(0, 0, 4000)]).is_ok());
    assert!(parse(&[slot(3000, TX_MORE_DATA, 5200), slot(0, 0, 4000)]).is_err());
}

/// B2.5: shorter than an Ethernet header is an error of the frame alone.
#[test]
fn runts_are_refused() {
    assert_eq!(refusal(&[slot(0, 0, 13)]), (Refusal::TooShort, 1));
    assert_eq!(refusal(&[slot(0, TX_MORE_DATA, 100), slot(0, 0, 90)]), (Refusal::TooShort, 2));
    assert_eq!(frame(&[slot(0, 0, 14)]).len, 14);
}

/// XSA-448 (CVE-2023-46838): a piece of no bytes is a piece.
#[test]
fn empty_pieces_are_pieces() {
    let found = frame(&[slot(0, TX_MORE_DATA, 60), slot(0, TX_MORE_DATA, 0), slot(4096, 0, 0)]);
    assert_eq!((found.fragments().len(), found.fragments()[0].len), (3, 60));
}

/// B2.4, B2.5: a ring that ends in the middle of a message is a broken frontend's.
#[test]
fn messages_end_in_the_ring() {
    assert_eq!(parse(&[slot(0, TX_MORE_DATA, 100)]), Err(Fatal::DataMissing));
    assert_eq!(parse(&[slot(0, TX_EXTRA_INFO, 100)]), Err(Fatal::ExtraMissing));
    assert_eq!(
        parse(&[slot(0, TX_EXTRA_INFO, 100), extra(EXTRA_GSO, true, [0; 6])]),
        Err(Fatal::ExtraMissing)
    );
}

/// B2.4: types of extra infos that there are, and those that there are not.
#[test]
fn extras_of_known_types() {
    for kind in 0..=255u8 {
        let parsed = parse(&[slot(0, TX_EXTRA_INFO, 100), extra(kind, false, [1, 0, 1, 0, 0, 0])]);
        assert_eq!(parsed.is_ok(), (1..=5).contains(&kind), "{kind}: {parsed:?}");
    }
}

/// N13: of two infos of one kind the last one counts, as with the kernel's netback, which keeps one of each.
#[test]
fn the_last_of_several_infos_counts() {
    let gso = |size: u8, kind: u8, more| extra(EXTRA_GSO, more, [size, 0, kind, 0, 0, 0]);
    let slots = [slot(0, TX_EXTRA_INFO, 1000), gso(9, 2, true), gso(100, 1, false)];
    assert_eq!(frame(&slots).gso, Some(Gso { size: 100, ipv6: false }));
    let bad_first = [slot(0, TX_EXTRA_INFO, 1000), gso(0, 1, true), gso(100, 1, false)];
    assert!(parse(&bad_first).is_ok());
    let bad_last = [slot(0, TX_EXTRA_INFO, 1000), gso(100, 1, true), gso(0, 1, false)];
    assert_eq!(parse(&bad_last), Err(Fatal::Gso));
}

/// B2.6: GSO of size 0 or of no known type ends the connection.
#[test]
fn gso_is_exact() {
    let with = |body| parse(&[slot(0, TX_EXTRA_INFO, 100), extra(EXTRA_GSO, false, body)]);
    assert_eq!(with([0, 0, 1, 0, 0, 0]), Err(Fatal::Gso));
    assert_eq!(with([1, 0, 3, 0, 0, 0]), Err(Fatal::Gso));
    let slots = [
        slot(0, TX_EXTRA_INFO | TX_MORE_DATA, 3000),
        extra(EXTRA_GSO, false, [0xa8, 5, 1, 0, 0, 0]),
        slot(0, 0, 2900),
    ];
    let parsed = parse(&slots).unwrap();
    assert_eq!((parsed.nr_extras, parsed.nr_slots), (1, 3));
    assert_eq!(frame(&slots).gso, Some(Gso { size: 1448, ipv6: false }));
}

/// B2.4: an order about multicast takes its slot and its extras, whatever its flags say of data.
#[test]
fn multicast_orders_carry_no_data() {
    let address = [0x33, 0x33, 0, 0, 0, 1];
    let slots = [slot(0, TX_EXTRA_INFO, 0), extra(EXTRA_MCAST_ADD, false, address), slot(0, 0, 60)];
    let parsed = parse(&slots).unwrap();
    assert_eq!(parsed.message, Message::Multicast { add: true, address });
    assert_eq!((parsed.nr_extras, parsed.nr_slots), (1, 2));
}

proptest! {
    /// Any bytes are a message or a reason; what is sent on lies in its pages and adds up.
    #[test]
    fn parsing_is_total(slots in prop::collection::vec(any::<TxSlot>(), 1..64)) {
        if let Ok(parsed) = parse(&slots) {
            prop_assert!(parsed.nr_slots > parsed.nr_extras && parsed.nr_slots <= slots.len());
            if let Message::Frame(frame) = parsed.message {
                let sum: u32 = frame.fragments().iter().map(|f| u32::from(f.len)).sum();
                prop_assert_eq!(sum, u32::from(frame.len));
                prop_assert_eq!(frame.fragments().len() + parsed.nr_extras, parsed.nr_slots);
                for f in frame.fragments() {
                    prop_assert!(u32::from(f.offset) + u32::from(f.len) <= 4096);
                }
                prop_assert!(frame.len >= 14);
            }
        }
    }

    /// Chains as frontends build them, of few flags, are parsed one after the other to the ring's end.
    #[test]
    fn well_formed_chains_are_frames(frames in prop::collection::vec((0usize..=18, 0u16..3000), 1..8)) {
        let slots: Vec<TxSlot> = frames.iter().flat_map(|&(n, len)| chain(n, len)).collect();
        let mut at = 0;
        for (n, len) in frames {
            let parsed = parse(&slots[at..]).unwrap();
            prop_assert!(matches!(parsed.message, Message::Frame(f) if u32::from(f.len) == 100 + u32::from(len) * u32::try_from(n).unwrap()));
            at += parsed.nr_slots;
        }
        prop_assert_eq!(at, slots.len());
    }
}
