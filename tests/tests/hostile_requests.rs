//! Requests that no honest frontend makes, against the real worker. Numbers are those of the hostile catalogue. Each case is
//! answered exactly once a request and with a status that the catalogue allows; at the end the same ring still serves honest
//! load, and a neighbour has noticed nothing.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::time::Duration;

use splitd_tests::blkfront::{Frontend, Load, Options, Ring};
use splitd_tests::blkif::{self, Abi, ERROR, OKAY, Segment, Slot, UNSUPPORTED};
use splitd_tests::world::World;
use xenbus::hv::Access;
use xenbus::sim::{GuestPages, SimDomain};
use xenbus::{DomId, GrantRef};

const SECTORS: u64 = 1 << 14;
const ABI: Abi = Abi::Native64;
const REFUSED: &[i16] = &[ERROR];
const DONE: &[i16] = &[OKAY];
const ANY: &[i16] = &[OKAY, ERROR, UNSUPPORTED];

struct Case {
    name: String,
    slots: Vec<Slot>,
    allowed: &'static [i16],
}

fn case(name: impl Into<String>, slots: Vec<Slot>, allowed: &'static [i16]) -> Case {
    Case { name: name.into(), slots, allowed }
}

/// Pages of the hostile guest and what it granted of them.
struct Pages {
    guest: SimDomain,
    data: GuestPages,
    good: GrantRef,
    read_only: GrantRef,
    other_domain: GrantRef,
    revoked: GrantRef,
    no_page: GrantRef,
    /// Of the ring's own page.
    ring: GrantRef,
}

impl Pages {
    fn new(guest: &SimDomain, ring: GrantRef) -> Self {
        let data = guest.allocate(2).unwrap();
        let grant = |page: u32, to: DomId, access| guest.grant(data.frame(page), to, access).unwrap();
        let revoked = grant(0, DomId::DOM0, Access::ReadWrite);
        assert!(guest.end_access(revoked));
        let good = grant(0, DomId::DOM0, Access::ReadWrite);
        let no_page = guest.grant(u32::MAX >> 12, DomId::DOM0, Access::ReadWrite).unwrap();
        // The free list gives `revoked` to the next grant: keep it unused by going past the table's used part.
        Self {
            guest: guest.clone(),
            good,
            read_only: grant(1, DomId::DOM0, Access::ReadOnly),
            other_domain: grant(1, DomId(9), Access::ReadWrite),
            revoked: GrantRef(60_000.max(revoked.0)),
            no_page,
            ring,
            data,
        }
    }

    fn bad(&self) -> [(&'static str, GrantRef); 6] {
        [
            ("0", GrantRef(0)),
            ("u32::MAX", GrantRef(u32::MAX)),
            ("beyond the table", GrantRef(1 << 20)),
            ("another domain's", self.other_domain),
            ("revoked", self.revoked),
            ("no page", self.no_page),
        ]
    }

    /// An indirect page that describes `count` sectors-long segments of `segment`.
    fn table(&self, segments: &[Segment]) -> (GuestPages, GrantRef) {
        let page = self.guest.allocate(1).unwrap();
        let bytes: Vec<u8> = segments.iter().flat_map(|s| s.bytes()).collect();
        assert!(page.write(0, &bytes));
        let gref = self.guest.grant(page.frame(0), DomId::DOM0, Access::ReadOnly).unwrap();
        (page, gref)
    }
}

fn segment(gref: GrantRef, first: u8, last: u8) -> Segment {
    Segment { gref, first, last }
}

fn rw(operation: u8, id: u64, sector: u64, segments: &[Segment]) -> Slot {
    Slot::direct(ABI, operation, id, sector, segments)
}

/// B1 to B9: operations, segment counts, segments, sectors.
fn direct_cases(p: &Pages) -> Vec<Case> {
    let one = segment(p.good, 0, 7);
    let mut cases = Vec::new();
    for op in (0..=255u8).filter(|op| ![0, 1, 2, 3, 5, 6].contains(op)) {
        cases.push(case(
            format!("B1 operation {op}"),
            vec![rw(op, u64::from(op), 0, &[one])],
            &[UNSUPPORTED],
        ));
    }
    for op in [blkif::READ, blkif::WRITE] {
        cases.push(case(format!("B2 no segments, {op}"), vec![rw(op, 1, 0, &[])], REFUSED));
        for count in 12..=255 {
            let slot = rw(op, 1, 0, &[one; 11]).with_count(count);
            cases.push(case(format!("B3 {count} segments, {op}"), vec![slot], REFUSED));
        }
        for (first, last) in [(7, 0), (1, 0), (0, 8), (8, 8), (8, 9), (0, 255), (255, 255), (255, 0)] {
            let slot = rw(op, 1, 0, &[segment(p.good, first, last)]);
            cases.push(case(format!("B4 B5 sectors {first} to {last}, {op}"), vec![slot], REFUSED));
            let slot = rw(op, 1, 0, &[one, one, segment(p.good, first, last)]);
            cases.push(case(format!("B4 B5 third segment {first} to {last}, {op}"), vec![slot], REFUSED));
        }
        let two = segment(p.good, 0, 1);
        for sector in [1 << 63, u64::MAX, u64::MAX - 1, 1 << 55, (1 << 55) - 1, SECTORS, SECTORS - 1] {
            cases.push(case(format!("B6 sector {sector}, {op}"), vec![rw(op, 1, sector, &[two])], REFUSED));
        }
        cases.push(case(format!("B6 the last two, {op}"), vec![rw(op, 1, SECTORS - 2, &[two])], DONE));
        cases.push(case("B8 one id twice", vec![rw(op, 7, 0, &[one]), rw(op, 7, 8, &[one])], DONE));
        cases.push(case("B9 one page eleven times", vec![rw(op, 7, 0, &[one; 11])], DONE));
        cases.push(case("B23 wrong handle", vec![rw(op, 7, 0, &[one]).with_handle(0xffff)], DONE));
        cases.push(case("B33 the largest id", vec![rw(op, u64::MAX, 0, &[one])], DONE));
        for first in 1..8 {
            cases.push(case(
                format!("B28 from sector {first}"),
                vec![rw(op, 7, 3, &[segment(p.good, first, 7)])],
                DONE,
            ));
        }
        for (name, gref) in p.bad() {
            let slot = rw(op, 7, 0, &[one, segment(gref, 0, 7)]);
            cases.push(case(format!("R11 B24 grant {name}, {op}"), vec![slot], REFUSED));
        }
    }
    let same_place = (0..32).map(|id| rw(blkif::WRITE, id, 16, &[one])).collect();
    cases.push(case("B30 32 writes to one place", same_place, DONE));
    cases.push(case(
        "B25 read into a read-only page",
        vec![rw(0, 7, 0, &[segment(p.read_only, 0, 7)])],
        REFUSED,
    ));
    cases.push(case(
        "B25 write out of a read-only page",
        vec![rw(1, 7, 0, &[segment(p.read_only, 0, 7)])],
        DONE,
    ));
    cases
}

/// B10 to B15.
fn indirect_cases(p: &Pages, keep: &mut Vec<GuestPages>) -> Vec<Case> {
    let one = segment(p.good, 0, 0);
    let (page, table) = p.table(&[one; 512]);
    keep.push(page);
    let indirect = |op: u8, count: u16, pages: &[GrantRef]| Slot::indirect(ABI, op, 9, 0, count, pages);
    let mut cases = Vec::new();
    for (count, allowed) in [
        (0, REFUSED),
        (1, DONE),
        (256, DONE),
        (257, REFUSED),
        (512, REFUSED),
        (513, REFUSED),
        (65535, REFUSED),
    ] {
        for op in [blkif::READ, blkif::WRITE] {
            let slot = indirect(op, count, &[table; 8]);
            cases.push(case(format!("B10 B14 {count} indirect segments, {op}"), vec![slot], allowed));
        }
    }
    for op in (2..=255u8).step_by(7).chain([blkif::INDIRECT, blkif::DISCARD, blkif::FLUSH, blkif::BARRIER]) {
        cases.push(case(
            format!("B11 inner operation {op}"),
            vec![indirect(op, 12, &[table])],
            &[ERROR, UNSUPPORTED],
        ));
    }
    for (name, gref) in p.bad() {
        cases.push(case(format!("B12 table {name}"), vec![indirect(0, 12, &[gref])], REFUSED));
    }
    cases.push(case("B12 the ring as table", vec![indirect(1, 12, &[p.ring])], ANY));
    for wrong in [
        segment(p.good, 7, 0),
        segment(p.good, 0, 8),
        segment(p.good, 255, 255),
        segment(GrantRef(u32::MAX), 0, 7),
    ] {
        let mut segments = [one; 40];
        segments[39] = wrong;
        let (page, table) = p.table(&segments);
        keep.push(page);
        for op in [blkif::READ, blkif::WRITE] {
            cases.push(case(format!("B15 {wrong:?}, {op}"), vec![indirect(op, 40, &[table])], REFUSED));
        }
    }
    let beyond = Slot::indirect(ABI, blkif::WRITE, 9, SECTORS - 39, 40, &[table]);
    cases.push(case("B6 an indirect request that ends beyond the disk", vec![beyond], REFUSED));
    cases
}

/// B16, B19, B20.
fn other_cases(p: &Pages) -> Vec<Case> {
    let one = segment(p.good, 0, 7);
    let discard = |flag: u8, sector: u64, count: u64| Slot::discard(ABI, flag, 5, sector, count);
    let mut cases = Vec::new();
    for (sector, count) in [
        (0, 0),
        (0, u64::MAX),
        (8, u64::MAX),
        (u64::MAX, 8),
        (SECTORS, 8),
        (SECTORS - 8, 16),
        (0, 1 << 55),
        (1 << 63, 1 << 63),
    ] {
        cases.push(case(
            format!("B16 discard {count} from {sector}"),
            vec![discard(0, sector, count)],
            REFUSED,
        ));
    }
    cases.push(case("B16 the whole disk", vec![discard(0, 0, SECTORS)], DONE));
    cases.push(case("B17 secure, on a file", vec![discard(1, 0, 8)], &[ERROR, UNSUPPORTED]));
    cases.push(case("B17 unknown flags", vec![discard(0xfe, 0, 8)], ANY));
    cases.push(case("B19 flush with segments", vec![rw(blkif::FLUSH, 5, 0, &[one])], ANY));
    cases.push(case(
        "B19 flush with too many",
        vec![rw(blkif::FLUSH, 5, 0, &[one; 11]).with_count(255)],
        ANY,
    ));
    cases.push(case("B20 barrier", vec![rw(blkif::BARRIER, 5, 0, &[one])], DONE));
    cases.push(case("B20 barrier without data", vec![rw(blkif::BARRIER, 5, 0, &[])], DONE));
    let barriers = (0..32).map(|id| rw(blkif::BARRIER, id, id * 8, &[one])).collect();
    cases.push(case("B20 32 barriers", barriers, DONE));
    let mixed = (0..32u64)
        .map(|id| match id % 4 {
            0 => rw(blkif::BARRIER, id, 0, &[one]),
            1 => rw(blkif::FLUSH, id, 0, &[]),
            2 => rw(blkif::READ, id, SECTORS, &[one]),
            _ => rw(blkif::WRITE, id, 8, &[one]),
        })
        .collect();
    cases.push(case("B20 barriers, flushes, refusals and writes", mixed, ANY));
    cases
}

fn check(ring: &mut Ring, case: &Case, world: &World) {
    for slot in &case.slots {
        ring.push(slot.bytes());
    }
    ring.publish().unwrap();
    for n in 0..case.slots.len() {
        let answer = ring.wait_answer(Duration::from_secs(60)).unwrap();
        let answer =
            answer.unwrap_or_else(|| panic!("{}: answer {n} is missing\n{}", case.name, world.log()));
        assert!(
            case.allowed.contains(&answer.status),
            "{}: {answer:?}, allowed {:?}",
            case.name,
            case.allowed
        );
        assert!(answer.is_clean, "{}: {answer:?}", case.name);
        let asked = case.slots.iter().any(|s| s.bytes()[8..16] == answer.id.to_le_bytes());
        assert!(asked, "{}: {answer:?}", case.name);
    }
    assert_eq!(ring.answer().unwrap(), None, "{}: one answer too many", case.name);
    assert_eq!(ring.free(), ring.nr_slots(), "{}", case.name);
}

/// Everything a ring's slots can say, one after the other on one ring, beside a neighbour at work.
#[test]
fn malformed_requests_are_answered_and_hurt_nobody() {
    for config in ["persistent = false", "persistent = true"] {
        let mut w = World::start(config).unwrap();
        let (hostile, neighbour) = (w.guest(5).unwrap(), w.guest(6).unwrap());
        let options =
            Options { is_persistent: config.ends_with("true"), segments: 256, ..Options::default() };
        let (image, other) = (w.image("a.img", SECTORS).unwrap(), w.image("b.img", SECTORS).unwrap());
        let (disk, beside) = (w.disk(0, &image), w.disk(0, &other));
        w.attach(&hostile, &disk).unwrap();
        w.attach(&neighbour, &beside).unwrap();
        let mut front = Frontend::connect(&hostile, disk.devid, options).unwrap();
        let mut good = Frontend::connect(&neighbour, beside.devid, Options::default()).unwrap();
        let running = good.start(&Load { operations: None, depth: 4, ..Load::default() }).unwrap();
        let pid = w.show("vbd/5/xvda").unwrap().pid;

        let ring_page = front.queues()[0].ring().refs()[0];
        let pages = Pages::new(&hostile, ring_page);
        let mut keep = Vec::new();
        let mut cases = direct_cases(&pages);
        cases.extend(indirect_cases(&pages, &mut keep));
        cases.extend(other_cases(&pages));
        for case in &cases {
            check(front.queues()[0].ring_mut(), case, &w);
        }

        assert_eq!(w.show("vbd/5/xvda").unwrap().pid, pid, "the worker lives");
        let zeros = vec![0; 64 << 10];
        for sector in (0..SECTORS).step_by(128) {
            let write = splitd_tests::blkfront::Operation::Write { sector, count: 128, is_barrier: false };
            let status =
                front.queues()[0].request(write, &mut zeros.clone(), Duration::from_secs(60)).unwrap();
            assert_eq!(status, OKAY);
        }
        let report = front.run(&Load { operations: Some(300), ..Load::default() }).unwrap();
        assert!(report.is_clean(), "{report:?}\n{}", w.log());
        running.stop();
        let report = running.finish(&mut good).unwrap();
        assert!(report.is_clean(), "the neighbour: {report:?}");
        let lines = w.log().lines().filter(|l| l.contains("vbd/5") || l.contains("refused")).count();
        assert!(lines < 200, "{} cases made {lines} lines of log", cases.len());
        drop(pages.data);
    }
}

/// B17, B18: a disk that is offered read-only, and one without discard.
#[test]
fn what_was_not_offered_is_refused() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let read_only = splitd_tests::toolstack::DiskConfig { is_writable: false, ..w.disk(0, &image) };
    let plain = w.image("b.img", SECTORS).unwrap();
    let no_discard = splitd_tests::toolstack::DiskConfig { has_discard: false, ..w.disk(1, &plain) };
    w.attach(&guest, &read_only).unwrap();
    w.attach(&guest, &no_discard).unwrap();
    let mut front = Frontend::connect(&guest, read_only.devid, Options::default()).unwrap();
    assert_eq!(front.disk().info & 4, 4, "VDISK_READONLY");
    let pages = Pages::new(&guest, GrantRef(0));
    let one = segment(pages.good, 0, 7);
    let cases = [
        case("B18 write", vec![rw(blkif::WRITE, 1, 0, &[one])], REFUSED),
        case("B18 barrier", vec![rw(blkif::BARRIER, 1, 0, &[one])], &[ERROR, UNSUPPORTED]),
        case("B17 discard", vec![Slot::discard(ABI, 0, 1, 0, 8)], &[ERROR, UNSUPPORTED]),
        case("read", vec![rw(blkif::READ, 1, 0, &[one])], DONE),
    ];
    for case in &cases {
        check(front.queues()[0].ring_mut(), case, &w);
    }
    assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));

    let mut front = Frontend::connect(&guest, no_discard.devid, Options::default()).unwrap();
    assert!(!front.disk().has_discard);
    let discard = case("discard", vec![Slot::discard(ABI, 0, 1, 0, 8)], &[UNSUPPORTED]);
    check(front.queues()[0].ring_mut(), &discard, &w);
}

/// B25: a refused read leaves nothing of the disk in the guest's page, granted or not.
#[test]
fn a_refused_read_tells_nothing() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    std::fs::write(&image, vec![0x5a; usize::try_from(SECTORS).unwrap() * 512]).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front = Frontend::connect(&guest, disk.devid, Options::default()).unwrap();
    let pages = Pages::new(&guest, GrantRef(0));
    assert!(pages.data.write(0, &[0xee; 8192]));

    let read = case("read", vec![rw(blkif::READ, 1, 0, &[segment(pages.read_only, 0, 7)])], REFUSED);
    check(front.queues()[0].ring_mut(), &read, &w);

    let mut seen = vec![0; 4096];
    assert!(pages.data.read(4096, &mut seen));
    assert!(seen.iter().all(|b| *b == 0xee));
}
