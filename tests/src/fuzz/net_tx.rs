//! Slots from a guest to frames for the tap. Every slot is taken once, in order; a frame is the bytes that its slots name and nothing
//! else; what the tap is asked to do to it lies inside of it.

use netback::offload;
use netback::tx::{self, Frame, Message};
use netback::vnet::Vnet;
use netback::wire::{TxRequest, TxSlot};
use xenbus::GrantRef;

use super::input::Input;
use crate::netif;
use crate::packet::{self, Shape};

/// Slots of one input: more than a ring has.
const MOST: usize = 300;
const PAGE_LEN: usize = 4096;

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let pages = pages(&mut input);
    let slots = slots(&mut input);
    let mut rest = &slots[..];
    while !rest.is_empty() {
        let Ok(parsed) = tx::parse(rest) else { return };
        assert!(parsed.nr_extras < parsed.nr_slots && parsed.nr_slots <= rest.len());
        let own = &rest[..parsed.nr_slots];
        rest = &rest[parsed.nr_slots..];
        match parsed.message {
            Message::Frame(frame) => sent_on(&pages, own, parsed.nr_extras, &frame),
            Message::Multicast { .. } => assert_eq!(parsed.nr_slots, parsed.nr_extras + 1),
            Message::Refused(_) => {}
        }
    }
}

/// What a guest's pages hold: frames of each shape, changed here and there.
fn pages(input: &mut Input<'_>) -> [Vec<u8>; 4] {
    let shape = input.byte();
    std::array::from_fn(|i| {
        let shape = Shape {
            tags: usize::from(shape >> 2 & 1),
            is_v6: (usize::from(shape) + i) & 1 != 0,
            is_tcp: (usize::from(shape) + i) & 2 != 0,
        };
        let mut page = packet::open(shape, 7, PAGE_LEN - shape.header_len());
        for _ in 0..input.below(4) {
            let [at, value] = input.array();
            page[usize::from(at) % 80] = value;
        }
        page
    })
}

/// A slot a few bytes, most of them such as frontends write.
pub(super) fn slots(input: &mut Input<'_>) -> Vec<TxSlot> {
    let mut slots = Vec::new();
    while !input.is_empty() && slots.len() < MOST {
        let kind = input.byte();
        match kind >> 6 {
            0 => slots.push(input.array()),
            1 => {
                let mut slot = [0; 12];
                let body = input.array();
                let extra = netif::Extra { kind: kind % 7, flags: kind >> 3 & 1, body: spread(body, input) };
                slot[..8].copy_from_slice(&extra.bytes());
                slots.push(slot);
            }
            _ => {
                let [flags, gref, size, times] = input.array();
                let request = netif::TxRequest {
                    gref: GrantRef((gref & 3).into()),
                    offset: if gref & 128 == 0 { 0 } else { input.u16() % 4200 },
                    flags: (flags & 15).into(),
                    id: gref.into(),
                    size: if size < 128 { u16::from(size) * 37 } else { input.u16() },
                };
                let times = if kind & 32 == 0 { 1 } else { usize::from(times % 24) };
                slots.extend(std::iter::repeat_n(request.slot(), times));
            }
        }
    }
    slots
}

/// GSO of a likely size, or anything.
fn spread([size, kind]: [u8; 2], input: &mut Input<'_>) -> [u8; 6] {
    if kind & 128 == 0 { [size, size >> 5, kind % 4, 0, 0, 0] } else { input.array() }
}

fn sent_on(pages: &[Vec<u8>], own: &[TxSlot], nr_extras: usize, frame: &Frame) {
    let first = TxRequest::read(&own[0]);
    let named: Vec<TxRequest> =
        [first].into_iter().chain(own[nr_extras + 1..].iter().map(TxRequest::read)).collect();
    assert_eq!(frame.len, first.size);
    assert_eq!(frame.fragments().len(), named.len());
    let mut bytes = Vec::new();
    for (i, (piece, named)) in frame.fragments().iter().zip(&named).enumerate() {
        assert_eq!((piece.gref, piece.offset), (named.gref, named.offset));
        assert!(i == 0 || piece.len == named.size);
        let page = &pages[piece.gref as usize % pages.len()];
        let from = usize::from(piece.offset);
        bytes.extend(&page[from..from + usize::from(piece.len)]);
    }
    assert!(bytes.len() == usize::from(frame.len) && bytes.len() >= 14);
    let before = bytes.clone();
    let Ok(vnet) = offload::to_tap(&mut bytes, frame.csum_blank, frame.gso) else { return };
    asked_of_the_tap(frame, &vnet, &before, &bytes);
    if vnet.gso.is_none() && vnet.partial.is_some() {
        let plain = offload::finished(vnet, &mut bytes);
        assert_eq!(plain, Vnet::default(), "what is open can be filled in");
    }
}

/// The kernel refuses a header that points outside of the frame; a frame that it would have refused is the guest's doing unseen.
fn asked_of_the_tap(frame: &Frame, vnet: &Vnet, before: &[u8], after: &[u8]) {
    assert_eq!(vnet.gso, frame.gso);
    assert_eq!(vnet.partial.is_some(), frame.csum_blank || frame.gso.is_some());
    assert_eq!(Vnet::read(&vnet.bytes()), Ok(*vnet));
    let Some(partial) = vnet.partial else {
        assert_eq!(before, after);
        return;
    };
    let (start, offset) = (usize::from(partial.start), usize::from(partial.offset));
    let place = start + offset;
    assert!(matches!(offset, 6 | 16) && start >= 34 && place + 2 <= after.len());
    assert!(place + 2 <= usize::from(vnet.header_len) && usize::from(vnet.header_len) <= after.len());
    assert_eq!(before[..place], after[..place]);
    assert_eq!(before[place + 2..], after[place + 2..]);
}
