//! Every rule that a request is held to, by the number of its hostile case where it has one.

use proptest::prelude::*;

use super::*;
use crate::wire::{MAX_SLOT_LEN, SECTORS_PER_PAGE};

const LIMITS: Limits = Limits {
    capacity_sectors: 1000,
    alignment_sectors: 1,
    read_only: false,
    max_indirect_segments: 256,
    discard: true,
    discard_secure: false,
    barrier: true,
};

const ABIS: [Abi; 2] = [Abi::Native64, Abi::X86_32];

fn slot(abi: Abi, operation: u8, second: u8, third: u16, sector: u64) -> Slot {
    let at = if abi == Abi::Native64 { 8 } else { 4 };
    let mut slot = [0; MAX_SLOT_LEN];
    slot[0] = operation;
    slot[1] = second;
    slot[2..4].copy_from_slice(&third.to_le_bytes());
    slot[at..at + 8].copy_from_slice(&42u64.to_le_bytes());
    slot[at + 8..at + 16].copy_from_slice(&sector.to_le_bytes());
    slot
}

fn with_segments(abi: Abi, operation: u8, sector: u64, segments: &[(u8, u8)]) -> Slot {
    let count = u8::try_from(segments.len()).unwrap();
    let mut out = slot(abi, operation, count, 0, sector);
    let at = if abi == Abi::Native64 { 24 } else { 20 };
    for (i, &(first, last)) in segments.iter().enumerate().take(11) {
        let gref = GrantRef(100 + u32::try_from(i).unwrap());
        out[at + i * 8..at + i * 8 + 8].copy_from_slice(&Segment { gref, first, last }.encode());
    }
    out
}

fn discard_slot(abi: Abi, flag: u8, sector: u64, nr_sectors: u64) -> Slot {
    let mut out = slot(abi, wire::OP_DISCARD, flag, 0, sector);
    let at = if abi == Abi::Native64 { 24 } else { 20 };
    out[at..at + 8].copy_from_slice(&nr_sectors.to_le_bytes());
    out
}

fn run(abi: Abi, slot: &Slot, limits: &Limits) -> Result<Request, Reject> {
    parse(abi, slot, limits, &mut [Segment::EMPTY; 11])
}

fn refusal(abi: Abi, slot: &Slot, limits: &Limits) -> (Status, Why) {
    let reject = run(abi, slot, limits).unwrap_err();
    assert_eq!(reject.id, 42, "an answer names its request");
    (reject.status, reject.why)
}

/// A stock request in both layouts (hostile case B21 is the 32-bit one).
#[test]
fn plain_read_and_write() {
    for abi in ABIS {
        for (operation, direction) in [(wire::OP_READ, Direction::Read), (wire::OP_WRITE, Direction::Write)] {
            let mut segments = [Segment::EMPTY; 11];
            let bytes = with_segments(abi, operation, 992, &[(0, 3), (4, 7)]);

            let request = parse(abi, &bytes, &LIMITS, &mut segments).unwrap();

            let action = Action::Transfer { direction, order: Order::Free, sector: 992, nr_segments: 2 };
            assert_eq!(request, Request { id: 42, operation, action });
            assert_eq!(segments[1], Segment { gref: GrantRef(101), first: 4, last: 7 });
        }
    }
}

/// B1: an operation that does not exist is answered EOPNOTSUPP with its own number, never dropped.
#[test]
fn unknown_operations() {
    for abi in ABIS {
        for operation in [4].into_iter().chain(7..=255) {
            let reject = run(abi, &slot(abi, operation, 1, 0, 0), &LIMITS).unwrap_err();

            assert_eq!((reject.status, reject.operation), (Status::NotSupported, operation));
        }
    }
}

/// What was not offered is not supported: barrier with several queues, discard without `discard-enable`, indirect 0.
#[test]
fn operations_not_offered() {
    let limits = Limits { barrier: false, discard: false, max_indirect_segments: 0, ..LIMITS };
    for operation in [wire::OP_WRITE_BARRIER, wire::OP_DISCARD, wire::OP_INDIRECT] {
        let (status, why) = refusal(Abi::Native64, &slot(Abi::Native64, operation, 1, 1, 0), &limits);

        assert_eq!((status, why), (Status::NotSupported, Why::Operation));
    }
}

/// B2, B3: no segment, or more than the slot holds.
#[test]
fn direct_segment_counts() {
    for abi in ABIS {
        for operation in [wire::OP_READ, wire::OP_WRITE] {
            for count in [0].into_iter().chain(12..=255) {
                let refused = refusal(abi, &slot(abi, operation, count, 0, 0), &LIMITS);

                assert_eq!(refused, (Status::Error, Why::SegmentCount(u16::from(count))));
            }
        }
    }
}

/// B4, B5, B15: segments backwards or outside of their page, on READ as well as on WRITE, direct and indirect.
#[test]
fn segments_outside_their_page() {
    for first in 0..=u8::MAX {
        for last in [0, 1, 6, 7, 8, 9, 127, 128, 255] {
            let good = first <= last && last < SECTORS_PER_PAGE;
            for (operation, direction) in
                [(wire::OP_READ, Direction::Read), (wire::OP_WRITE, Direction::Write)]
            {
                let bytes = with_segments(Abi::Native64, operation, 0, &[(0, 7), (first, last)]);
                let table = [Segment { gref: GrantRef(1), first, last }];

                assert_eq!(run(Abi::Native64, &bytes, &LIMITS).is_ok(), good, "{first}..={last}");
                assert_eq!(LIMITS.check_segments(direction, 0, &table).is_ok(), good);
            }
        }
    }
}

/// B6: ranges that end beyond the disk or wrap, and the last one that fits.
#[test]
fn ranges_beyond_the_end() {
    for sector in [993, 999, 1000, 1 << 55, 1 << 63, u64::MAX - 7, u64::MAX] {
        let bytes = with_segments(Abi::Native64, wire::OP_READ, sector, &[(0, 7)]);

        assert_eq!(refusal(Abi::Native64, &bytes, &LIMITS), (Status::Error, Why::Range), "{sector}");
    }
    assert!(
        run(Abi::Native64, &with_segments(Abi::Native64, wire::OP_READ, 992, &[(0, 7)]), &LIMITS).is_ok()
    );
}

/// B29: after a shrink the same request is refused.
#[test]
fn requests_after_a_shrink() {
    let bytes = with_segments(Abi::Native64, wire::OP_WRITE, 992, &[(0, 7)]);
    let shrunk = Limits { capacity_sectors: 999, ..LIMITS };

    assert!(run(Abi::Native64, &bytes, &LIMITS).is_ok());
    assert_eq!(refusal(Abi::Native64, &bytes, &shrunk), (Status::Error, Why::Range));
}

/// B7: start or length that is not a multiple of the block that was offered.
#[test]
fn misaligned_for_the_block() {
    let limits = Limits { alignment_sectors: 8, ..LIMITS };
    for (sector, segments) in [(1, [(0, 7)]), (4, [(0, 7)]), (8, [(0, 6)]), (8, [(1, 7)])] {
        let bytes = with_segments(Abi::Native64, wire::OP_READ, sector, &segments);

        assert_eq!(refusal(Abi::Native64, &bytes, &limits), (Status::Error, Why::Alignment));
    }
    assert!(run(Abi::Native64, &with_segments(Abi::Native64, wire::OP_READ, 8, &[(0, 7)]), &limits).is_ok());
}

/// B10, B14: indirect counts at and beyond each bound.
#[test]
fn indirect_segment_counts() {
    for abi in ABIS {
        for count in [0, 257, 4096, 4097, u16::MAX] {
            let refused = refusal(abi, &slot(abi, wire::OP_INDIRECT, wire::OP_READ, count, 0), &LIMITS);
            assert_eq!(refused, (Status::Error, Why::SegmentCount(count)));
        }
        for count in [1, 12, 256] {
            let bytes = slot(abi, wire::OP_INDIRECT, wire::OP_WRITE, count, 7);
            let request = run(abi, &bytes, &LIMITS).unwrap();
            assert_eq!(request.operation, wire::OP_WRITE, "the inner operation is echoed");
            assert!(matches!(
                request.action,
                Action::Indirect { direction: Direction::Write, sector: 7, nr_segments, .. } if nr_segments == count
            ));
        }
    }
    let wide = Limits { max_indirect_segments: u16::MAX, ..LIMITS };
    let nine_pages = slot(Abi::Native64, wire::OP_INDIRECT, wire::OP_READ, 4097, 0);
    assert_eq!(refusal(Abi::Native64, &nine_pages, &wide), (Status::Error, Why::SegmentCount(4097)));
}

/// B11: only a read or a write can be indirect.
#[test]
fn indirect_inner_operations() {
    for inner in 2..=255 {
        let refused = refusal(Abi::Native64, &slot(Abi::Native64, wire::OP_INDIRECT, inner, 1, 0), &LIMITS);

        assert_eq!(refused, (Status::Error, Why::IndirectOperation(inner)));
    }
}

/// B16: empty, wrapping and oversized discards.
#[test]
fn discard_ranges() {
    for abi in ABIS {
        for (sector, nr) in [(0, 0), (0, 1001), (1000, 1), (1, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX)]
        {
            let refused = refusal(abi, &discard_slot(abi, 0, sector, nr), &LIMITS);
            assert_eq!(refused, (Status::Error, Why::Range), "{sector}+{nr}");
        }
        let whole = run(abi, &discard_slot(abi, 0, 0, 1000), &LIMITS).unwrap();
        assert_eq!(whole.action, Action::Discard { sector: 0, nr_sectors: 1000, secure: false });
    }
}

/// B17: secure discard where it was not offered is an error, and plain discard goes on.
#[test]
fn secure_discard_not_offered() {
    let refused = refusal(Abi::Native64, &discard_slot(Abi::Native64, 1, 0, 8), &LIMITS);
    let offered = Limits { discard_secure: true, ..LIMITS };

    assert_eq!(refused, (Status::Error, Why::Operation));
    assert!(run(Abi::Native64, &discard_slot(Abi::Native64, 1, 0, 8), &offered).is_ok());
}

/// B17, B18 (XSA-142, CVE-2013-2140): nothing that writes passes on a read-only disk; reads and empty flushes do.
#[test]
fn read_only_disk() {
    let limits = Limits { read_only: true, ..LIMITS };
    let abi = Abi::Native64;
    let writes = [
        with_segments(abi, wire::OP_WRITE, 0, &[(0, 7)]),
        with_segments(abi, wire::OP_WRITE_BARRIER, 0, &[(0, 7)]),
        with_segments(abi, wire::OP_FLUSH_DISKCACHE, 0, &[(0, 7)]),
        slot(abi, wire::OP_INDIRECT, wire::OP_WRITE, 1, 0),
        discard_slot(abi, 0, 0, 8),
    ];
    for bytes in writes {
        assert_eq!(refusal(abi, &bytes, &limits), (Status::Error, Why::ReadOnly));
    }
    assert!(run(abi, &with_segments(abi, wire::OP_READ, 0, &[(0, 7)]), &limits).is_ok());
    assert!(run(abi, &slot(abi, wire::OP_FLUSH_DISKCACHE, 0, 0, 0), &limits).is_ok());
}

/// B19, B20: flush and barrier with and without data; the sector of an empty one is not looked at (blkfront sends 0 or junk).
#[test]
fn flush_and_barrier() {
    let abi = Abi::Native64;
    let empty = |op| run(abi, &slot(abi, op, 0, 0, u64::MAX), &LIMITS).unwrap().action;
    let data = |op| run(abi, &with_segments(abi, op, 8, &[(0, 7)]), &LIMITS).unwrap().action;
    let write = |order| Action::Transfer { direction: Direction::Write, order, sector: 8, nr_segments: 1 };

    assert_eq!(empty(wire::OP_FLUSH_DISKCACHE), Action::Flush { order: Order::Free });
    assert_eq!(empty(wire::OP_WRITE_BARRIER), Action::Flush { order: Order::Barrier });
    assert_eq!(data(wire::OP_FLUSH_DISKCACHE), write(Order::Flush));
    assert_eq!(data(wire::OP_WRITE_BARRIER), write(Order::Barrier));
}

/// B23, B33: the handle is not looked at and any id is echoed.
#[test]
fn handle_ignored_id_echoed() {
    let mut bytes = with_segments(Abi::Native64, wire::OP_READ, 0, &[(0, 7)]);
    bytes[2..4].copy_from_slice(&0xabcdu16.to_le_bytes());
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());

    assert_eq!(run(Abi::Native64, &bytes, &LIMITS).unwrap().id, u64::MAX);
}

proptest! {
    /// Whatever a guest writes, an accepted request stays on the disk and inside its pages, and an answer echoes the id.
    #[test]
    fn accepted_requests_are_harmless(
        bytes in proptest::collection::vec(any::<u8>(), MAX_SLOT_LEN),
        operation in 0u8..8,
        small_sector in proptest::option::of(0u64..1100),
        abi in proptest::sample::select(ABIS.to_vec()),
        read_only: bool,
    ) {
        let mut slot: Slot = bytes.try_into().unwrap();
        slot[0] = operation;
        slot[1] %= 14;
        let at = if abi == Abi::Native64 { 16 } else { 12 };
        if let Some(sector) = small_sector {
            slot[at..at + 8].copy_from_slice(&sector.to_le_bytes());
        }
        let limits = Limits { read_only, ..LIMITS };
        let mut segments = [Segment::EMPTY; 11];
        let id = wire::header(abi, &slot).id;

        match parse(abi, &slot, &limits, &mut segments) {
            Ok(request) => {
                prop_assert_eq!(request.id, id);
                match request.action {
                    Action::Transfer { direction, sector, nr_segments, .. } => {
                        prop_assert!((1..=11).contains(&nr_segments));
                        let table = &segments[..usize::from(nr_segments)];
                        prop_assert!(table.iter().all(|s| s.first <= s.last && s.last < 8));
                        let total: u64 = table.iter().map(|s| u64::from(s.last - s.first) + 1).sum();
                        prop_assert!(u128::from(sector) + u128::from(total) <= 1000);
                        prop_assert!(direction == Direction::Read || !read_only);
                    }
                    Action::Indirect { direction, nr_segments, .. } => {
                        prop_assert!((1..=256).contains(&nr_segments));
                        prop_assert!(direction == Direction::Read || !read_only);
                    }
                    Action::Discard { sector, nr_sectors, secure } => {
                        prop_assert!(!read_only && !secure && nr_sectors > 0);
                        prop_assert!(u128::from(sector) + u128::from(nr_sectors) <= 1000);
                    }
                    Action::Flush { .. } => {}
                }
            }
            Err(reject) => {
                prop_assert_eq!(reject.id, id);
                prop_assert_ne!(reject.status, Status::Okay);
            }
        }
    }
}
