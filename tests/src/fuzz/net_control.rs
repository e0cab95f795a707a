//! The control ring's orders. A refused one changes nothing, an obeyed one stays in bounds, no page is read beyond its end; the hash of
//! a frame is the one that is computed here, bit by bit.

use std::cell::RefCell;
use std::sync::atomic::AtomicU32;

use netback::control::order::{self, FETCH_LEN, HashOrder, Order, Request, SLOT_LEN, Slot, Status, Terms};
use netback::hash::{self, ALL_TYPES, Hashing, MAPPING_LEN, NR_WORDS};

use super::input::Input;
use crate::packet::{self, Shape};

/// Orders of one input.
const MOST: usize = 64;

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let terms = Terms { nr_queues: 1 + u32::from(input.byte() % 8), can_steer: input.byte() != 0 };
    let frame = frame(&mut input);
    let mut hashing = Hashing::default();
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let slot = slot(&mut input);
        let fill = input.byte();
        obey(&mut hashing, &slot, terms, fill);
    }
    hashes_alike(&hashing, &frame);
}

fn frame(input: &mut Input<'_>) -> Vec<u8> {
    let bits = input.byte();
    let shape = Shape { tags: usize::from(bits >> 7), is_v6: bits & 1 != 0, is_tcp: bits & 2 != 0 };
    let mut frame = packet::open(shape, u32::from(input.u16()), 0);
    for _ in 0..bits >> 2 & 3 {
        let [at, value] = input.array();
        let at = usize::from(at) % frame.len();
        frame[at] = value;
    }
    frame.truncate(frame.len() - usize::from(bits >> 4 & 7) * 4);
    frame
}

fn slot(input: &mut Input<'_>) -> Slot {
    let kind = input.byte();
    if kind == 0xff {
        return input.array();
    }
    let mut slot = [0; SLOT_LEN];
    slot[..2].copy_from_slice(&input.array::<2>());
    slot[2] = kind % 12;
    for at in [4, 8, 12] {
        let around = input.one_of(&[40, 128]);
        slot[at..at + 4].copy_from_slice(&input.edgy_u32(around).to_le_bytes());
    }
    slot
}

/// A page of the guest's: readable or not, small numbers or large ones.
fn page(fill: u8, out: &mut [u8]) -> bool {
    assert!(out.len() <= FETCH_LEN, "{} bytes of a page", out.len());
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = if i % 4 == 0 || fill & 1 != 0 { fill >> 2 } else { 0 };
    }
    fill & 2 == 0
}

fn obey(hashing: &mut Hashing, slot: &Slot, terms: Terms, fill: u8) {
    let before = hashing.clone();
    let request = Request::read(slot);
    // Static grants have lists of their own, and change nothing here.
    let Order::Hash(order) = request.order else { return };
    let (status, data) = order::obey(hashing, order, terms, |_, out| page(fill, out));
    assert!(status == Status::Success || (*hashing == before && data == 0), "{request:?}");
    assert!(hashing.size as usize <= MAPPING_LEN && hashing.types & !ALL_TYPES == 0, "{request:?}");
    assert!(hashing.mapping.iter().all(|queue| *queue < terms.nr_queues), "{request:?}");
    assert!(terms.can_steer || !hashing.is_on);
    if let (HashOrder::SetMapping { count, first, .. }, Status::Success) = (order, status) {
        let places = first as usize..(first + count) as usize;
        let kept = |(i, queue): (usize, &u32)| places.contains(&i) || *queue == before.mapping[i];
        assert!(hashing.mapping.iter().enumerate().all(kept), "only what was named changes: {request:?}");
    }
    let answer = request.response(status, data);
    assert_eq!(answer[..4], slot[..4]);
    assert_eq!(answer[4..8] == [0; 4], status == Status::Success);
}

thread_local! {
    static WORDS: RefCell<Vec<AtomicU32>> = RefCell::new((0..NR_WORDS).map(|_| AtomicU32::new(0)).collect());
}

fn hashes_alike(hashing: &Hashing, frame: &[u8]) {
    let found = WORDS.with_borrow(|words| {
        hashing.publish(words);
        hash::of_frame(words, frame)
    });
    let types = if hashing.is_on { hashing.types } else { 0 };
    let expected = input_of(types, frame).map(|(kind, input)| (kind, toeplitz(&hashing.key, &input)));
    assert_eq!(found.map(|hash| (hash.kind, hash.value)), expected, "{hashing:?} {frame:x?}");
}

/// What is hashed of a frame, and the number of its type: ports where they are wanted and there, else addresses.
fn input_of(types: u32, frame: &[u8]) -> Option<(u8, Vec<u8>)> {
    let (kind, addresses, ports_at) = match frame.get(12..14)? {
        [8, 0] => {
            let header = frame.get(14..34)?;
            let is_whole = header[6] & 0x3f == 0 && header[7] == 0;
            let at = 14 + usize::from(header[0] & 15) * 4;
            (0, &header[12..20], (header[9] == 6 && is_whole).then_some(at))
        }
        [0x86, 0xdd] => {
            let header = frame.get(14..54)?;
            (2, &header[8..40], (header[6] == 6).then_some(54))
        }
        _ => return None,
    };
    let ports = ports_at.filter(|_| types >> (kind + 1) & 1 != 0).and_then(|at| frame.get(at..at + 4));
    match ports {
        Some(ports) => Some((kind + 1, [addresses, ports].concat())),
        None if types >> kind & 1 != 0 => Some((kind, addresses.to_vec())),
        None => None,
    }
}

/// The hash by its definition: for each bit that is set, the 32 bits of the key that stand there.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], i: usize| u32::from(bytes.get(i / 8).copied().unwrap_or(0) >> (7 - i % 8) & 1);
    let window = |from: usize| (0..32).fold(0, |word, i| word << 1 | bit(key, from + i));
    (0..input.len() * 8).filter(|&i| bit(input, i) == 1).fold(0, |hash, i| hash ^ window(i))
}
