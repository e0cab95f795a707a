//! A disk request's slot, in each layout. What is accepted lies in its pages and on the disk, says nothing that the guest did not
//! write, and writes nothing where nothing may be written.

use blkback::request::{self, Action, Direction, Limits, Reject, Request};
use blkback::wire::{self, Segment, Status};
use worker::message::Abi;

use super::input::Input;
use crate::blkif;

/// Slots of one input.
const MOST: usize = 16;

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (abi, limits) = terms(&mut input);
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let slot = slot(&mut input, abi, limits.capacity_sectors);
        let mut segments = [Segment::EMPTY; 11];
        match request::parse(abi, &slot, &limits, &mut segments) {
            Ok(request) => accepted(&mut input, abi, &slot, &limits, &request, &segments),
            Err(reject) => refused(abi, &slot, &reject),
        }
    }
}

pub(super) fn terms(input: &mut Input<'_>) -> (Abi, Limits) {
    // arm's layout is that of 64-bit x86.
    let abi = if input.flag() { Abi::X86_32 } else { Abi::Native64 };
    let bits = input.byte();
    let limits = Limits {
        capacity_sectors: u64::from(input.u16()),
        alignment_sectors: 1 << (bits >> 6),
        read_only: bits & 1 != 0,
        max_indirect_segments: [256, 256, 0, 32][usize::from(bits >> 1 & 3)],
        discard: bits & 8 == 0,
        discard_secure: bits & 16 != 0,
        barrier: bits & 32 == 0,
    };
    (abi, limits)
}

pub(super) fn slot(input: &mut Input<'_>, abi: Abi, capacity_sectors: u64) -> wire::Slot {
    let mut slot = [0; wire::MAX_SLOT_LEN];
    let len = wire::slot_len(abi);
    let operation = input.byte();
    if operation == 0xff {
        slot[..len].copy_from_slice(&input.array::<{ wire::MAX_SLOT_LEN }>()[..len]);
        return slot;
    }
    let theirs = theirs(abi);
    let (count, id) = (input.byte(), u64::from(input.byte()));
    let sector = input.edgy(capacity_sectors);
    let made = match operation % 8 {
        blkif::DISCARD => blkif::Slot::discard(theirs, count, id, sector, input.edgy(capacity_sectors)),
        blkif::INDIRECT => {
            let grefs = std::array::from_fn::<_, 8, _>(|_| xenbus::GrantRef(u32::from(input.byte())));
            blkif::Slot::indirect(theirs, count % 3, id, sector, input.u16() % 600, &grefs)
        }
        other => {
            let segments: Vec<_> = (0..count % 13).map(|_| segment(input)).collect();
            blkif::Slot::direct(theirs, other, id, sector, &segments)
        }
    };
    slot[..len].copy_from_slice(made.bytes());
    slot
}

pub(super) fn segment(input: &mut Input<'_>) -> blkif::Segment {
    let [gref, first, last] = input.array();
    blkif::Segment { gref: xenbus::GrantRef(gref.into()), first: first % 10, last: last % 10 }
}

pub(super) fn theirs(abi: Abi) -> blkif::Abi {
    match abi {
        Abi::Native64 => blkif::Abi::Native64,
        Abi::X86_32 => blkif::Abi::X86_32,
    }
}

/// Where the id stands; the sector follows it, then what depends on the operation.
fn id_at(abi: Abi) -> usize {
    if abi == Abi::Native64 { 8 } else { 4 }
}

/// Sectors of a table, which lies in its pages.
fn sectors(table: &[Segment]) -> u128 {
    let inside = |s: &Segment| s.first <= s.last && s.last < 8;
    assert!(table.iter().all(inside), "{table:?}");
    table.iter().map(|s| u128::from(s.last - s.first) + 1).sum()
}

fn on_disk(limits: &Limits, sector: u64, sectors: u128) {
    let end = u128::from(sector) + sectors;
    assert!(end <= u128::from(limits.capacity_sectors), "{sector} + {sectors} on {limits:?}");
}

fn accepted(
    input: &mut Input<'_>,
    abi: Abi,
    slot: &wire::Slot,
    limits: &Limits,
    request: &Request,
    segments: &[Segment],
) {
    let theirs = theirs(abi);
    let (id, operation) = (request.id, request.operation);
    let may_write = |direction| assert!(direction == Direction::Read || !limits.read_only);
    let again = match request.action {
        Action::Transfer { direction, sector, nr_segments, .. } => {
            may_write(direction);
            assert_eq!(direction == Direction::Read, operation == blkif::READ);
            let table = &segments[..nr_segments.into()];
            assert!(!table.is_empty());
            on_disk(limits, sector, sectors(table));
            let table: Vec<_> =
                table.iter().map(|s| blkif::Segment { gref: s.gref, first: s.first, last: s.last }).collect();
            blkif::Slot::direct(theirs, operation, id, sector, &table)
        }
        Action::Indirect { direction, sector, nr_segments, grefs } => {
            may_write(direction);
            assert!((1..=limits.max_indirect_segments).contains(&nr_segments));
            check_table(input, limits, direction, sector, nr_segments);
            blkif::Slot::indirect(theirs, operation, id, sector, nr_segments, &grefs)
        }
        Action::Discard { sector, nr_sectors, secure } => {
            assert!(!limits.read_only && nr_sectors > 0 && (limits.discard_secure || !secure));
            on_disk(limits, sector, nr_sectors.into());
            blkif::Slot::discard(theirs, u8::from(secure), id, sector, nr_sectors)
        }
        Action::Flush { .. } => blkif::Slot::direct(theirs, operation, id, 0, &[]),
    };
    assert_eq!(meaning(abi, slot, &request.action), again.bytes(), "{request:?}");
}

/// Segments in the guest's own pages are held to the same.
fn check_table(input: &mut Input<'_>, limits: &Limits, direction: Direction, sector: u64, nr: u16) {
    let table: Vec<_> = (0..nr)
        .map(|_| if input.is_empty() { [1, 0, 0, 0, 0, 7, 0, 0] } else { input.array() })
        .map(Segment::decode)
        .collect();
    if limits.check_segments(direction, sector, &table).is_ok() {
        let sectors = sectors(&table);
        on_disk(limits, sector, sectors);
        assert_eq!((u128::from(sector) | sectors) & u128::from(limits.alignment_sectors - 1), 0);
    }
}

/// The slot without the bytes that nobody has to look at for this action.
fn meaning(abi: Abi, slot: &wire::Slot, action: &Action) -> Vec<u8> {
    let mut kept = slot[..wire::slot_len(abi)].to_vec();
    let body = id_at(abi) + 16;
    kept[4..id_at(abi)].fill(0);
    let mut end = body;
    match *action {
        Action::Transfer { nr_segments, .. } => {
            kept[2..4].fill(0);
            for i in 0..usize::from(nr_segments) {
                kept[body + i * 8 + 6..body + i * 8 + 8].fill(0);
            }
            end += usize::from(nr_segments) * 8;
        }
        Action::Indirect { .. } => {
            kept[body..body + 4].fill(0);
            end += 4 + 8 * 4;
        }
        Action::Discard { .. } => {
            kept[1] &= 1;
            kept[2..4].fill(0);
            end += 8;
        }
        Action::Flush { .. } => {
            kept[2..4].fill(0);
            kept[body - 8..body].fill(0);
        }
    }
    kept[end..].fill(0);
    kept
}

fn refused(abi: Abi, slot: &wire::Slot, reject: &Reject) {
    assert_ne!(reject.status, Status::Okay);
    assert_eq!(reject.id.to_le_bytes(), slot[id_at(abi)..id_at(abi) + 8]);
    let echoed = if slot[0] == blkif::INDIRECT { slot[1] } else { slot[0] };
    assert_eq!(reject.operation, echoed);
    let answer = wire::response(reject.id, reject.operation, reject.status);
    let mut padded = [0; wire::MAX_SLOT_LEN];
    padded[..answer.len()].copy_from_slice(&answer);
    let read = blkif::Response::parse(theirs(abi), &padded[..wire::slot_len(abi)]);
    assert!(read.is_clean && read.id == reject.id && read.operation == echoed && read.status < 0);
}
