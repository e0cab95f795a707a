//! What a hostile frontend may do to its ring, its grants and its event channel while it is served, by the real worker. Numbers
//! are those of the hostile catalogue. A neighbour is at work all the time and must not notice.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::time::{Duration, Instant};

use splitd_tests::blkfront::{Frontend, Load, Options, Ring, Running};
use splitd_tests::blkif::{self, Abi, ERROR, OKAY, Segment, Slot};
use splitd_tests::hostile::{Attacker, Verdict, error_node};
use splitd_tests::prng::Prng;
use splitd_tests::toolstack::{DiskConfig, Paths};
use splitd_tests::world::World;
use xenbus::hv::Access;
use xenbus::sim::{Held, SimDomain};
use xenbus::{DomId, GrantRef};

const SECTORS: u64 = 1 << 12;
const SOON: Duration = Duration::from_secs(60);
const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;

struct Bed {
    world: World,
    hostile: SimDomain,
    disk: DiskConfig,
    attacker: Attacker,
    neighbour: Frontend,
    beside: Option<Running>,
}

impl Bed {
    fn new(config: &str) -> Self {
        let mut world = World::start(config).unwrap();
        let (hostile, other_guest) = (world.guest(5).unwrap(), world.guest(6).unwrap());
        let (a, b) = (world.image("a.img", SECTORS).unwrap(), world.image("b.img", SECTORS).unwrap());
        let (disk, other) = (world.disk(0, &a), world.disk(0, &b));
        world.attach(&hostile, &disk).unwrap();
        world.attach(&other_guest, &other).unwrap();
        let mut neighbour = Frontend::connect(&other_guest, other.devid, Options::default()).unwrap();
        let beside = neighbour.start(&Load { operations: None, depth: 4, ..Load::default() }).unwrap();
        let attacker = Attacker::new(&hostile, disk.devid).unwrap();
        Self { world, hostile, disk, attacker, neighbour, beside: Some(beside) }
    }

    /// An honest connection of one ring, to be abused.
    fn connect(&mut self) -> Ring {
        self.connect_with(&[])
    }

    fn connect_with(&mut self, more: &[(&str, &str)]) -> Ring {
        let ring = Ring::new(&self.hostile, Abi::Native64, 1).unwrap();
        let rings = [ring];
        let mut nodes = Attacker::honest(&rings);
        nodes.extend(more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        self.attacker.offer(&nodes).unwrap();
        let verdict = self.attacker.verdict(SOON).unwrap();
        assert_eq!(verdict, Verdict::Connected, "{}", self.world.log());
        self.attacker.say("4").unwrap();
        let [ring] = rings;
        ring
    }

    fn closed(&mut self, name: &str) {
        let path = format!("{}/state", self.attacker.backend);
        let closed = self.attacker.store.wait_state(&path, &[5, 6], SOON);
        assert!(closed.is_ok(), "{name}: {closed:?}\n{}", self.world.log());
        let reason = error_node(self.world.tools.store(), "vbd", DomId(5), self.disk.devid).unwrap();
        assert!(reason.is_some_and(|r| !r.is_empty()), "{name}: no reason\n{}", self.world.log());
    }

    fn start_over(&mut self, name: &str) {
        self.attacker.start_over(SOON).unwrap_or_else(|e| panic!("{name}: {e}\n{}", self.world.log()));
        let hostile = self.hostile.clone();
        self.world.until("everything let go", |_| hostile.held() == Held::default()).unwrap();
    }

    /// Reads one sector the honest way.
    fn serves(&mut self, ring: &mut Ring, name: &str) {
        let page = self.hostile.allocate(1).unwrap();
        let gref = self.hostile.grant(page.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
        let segment = Segment { gref, first: 0, last: 7 };
        ring.push(Slot::direct(Abi::Native64, blkif::READ, 77, 0, &[segment]).bytes());
        ring.publish().unwrap();
        let answer = ring.wait_answer(SOON).unwrap();
        assert!(
            answer.is_some_and(|a| (a.id, a.status) == (77, OKAY)),
            "{name}: {answer:?}\n{}",
            self.world.log()
        );
    }

    fn neighbour_is_well(&mut self) {
        let Some(beside) = self.beside.take() else { return };
        beside.stop();
        let report = beside.finish(&mut self.neighbour).unwrap();
        assert!(report.is_clean() && report.done > 0, "the neighbour: {report:?}\n{}", self.world.log());
    }
}

fn poke(ring: &Ring, at: usize, value: u32) {
    assert!(ring.pages().write(at, &value.to_le_bytes()));
}

fn peek(ring: &Ring, at: usize) -> u32 {
    let mut word = [0; 4];
    assert!(ring.pages().read(at, &mut word));
    u32::from_le_bytes(word)
}

/// R1, R2, R3: indices that claim more than the ring holds, ahead or behind.
#[test]
fn an_impossible_req_prod_closes_this_device_only() {
    let mut b = Bed::new("");
    for ahead in [33u32, 34, 1000, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX] {
        let name = format!("R1 R2 req_prod {ahead} ahead");
        let mut ring = b.connect();
        b.serves(&mut ring, &name);
        poke(&ring, REQ_PROD, peek(&ring, REQ_PROD).wrapping_add(ahead));
        ring.events().notify().unwrap();
        b.closed(&name);
        b.start_over(&name);
    }
    let mut ring = b.connect();
    b.serves(&mut ring, "after all of it");
    b.neighbour_is_well();
}

/// R5, R6: the words that a frontend may write but a backend must not rest on.
#[test]
fn garbage_in_event_words_and_rsp_prod_is_ignored() {
    let mut b = Bed::new("");
    let mut ring = b.connect();
    let mut prng = Prng::new(3);
    for n in 0..200 {
        let garbage = prng.next_u64().to_le_bytes();
        poke(&ring, REQ_EVENT, u32::from_le_bytes([garbage[0], garbage[1], garbage[2], garbage[3]]));
        poke(&ring, RSP_EVENT, u32::from_le_bytes([garbage[4], garbage[5], garbage[6], garbage[7]]));
        // The backend's next publication sets it right.
        poke(&ring, RSP_PROD, n);
        ring.events().notify().unwrap();
        b.serves(&mut ring, "R5 R6");
    }
    b.start_over("R5 R6");
    b.neighbour_is_well();
}

/// R8: events without work cost the worker, and nobody else.
#[test]
fn a_storm_of_events_is_survived() {
    let mut b = Bed::new("");
    let mut ring = b.connect();
    for _ in 0..1_000_000 {
        ring.events().notify().unwrap();
    }
    b.serves(&mut ring, "R8");
    b.start_over("R8");
    b.neighbour_is_well();
    let lines = b.world.log().lines().count();
    assert!(lines < 100, "R8 made {lines} lines of log");
}

/// R9, R10: the port is closed mid-I/O and its number given to another use.
#[test]
fn a_closed_port_hurts_nobody() {
    let mut b = Bed::new("");
    let ring = b.connect();
    b.hostile.close_port(ring.port());
    let reused = b.hostile.allocate_port(DomId(6)).unwrap();
    assert_eq!(reused.port(), ring.port());
    ring.events().notify().unwrap();
    assert!(!reused.wait(Duration::from_millis(100)).unwrap());
    b.start_over("R9 R10");
    let mut ring = b.connect();
    b.serves(&mut ring, "after R9");
    b.neighbour_is_well();
}

/// R12: reads of the disk into the ring's own page, which is what its requests then are.
#[test]
fn a_ring_that_is_read_over_hurts_nobody() {
    let mut b = Bed::new("");
    let image = b.disk.target.clone();
    for fill in [0x00, 0xff, 0x5a] {
        std::fs::write(&image, vec![fill; usize::try_from(SECTORS).unwrap() * 512]).unwrap();
        let mut ring = b.connect();
        let own = Segment { gref: ring.refs()[0], first: 0, last: 7 };
        for id in 0..32 {
            ring.push(Slot::direct(Abi::Native64, blkif::READ, id, id * 8, &[own]).bytes());
        }
        ring.publish().unwrap();
        ring.events().notify().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        b.start_over("R12");
    }
    let mut ring = b.connect();
    b.serves(&mut ring, "after R12");
    b.neighbour_is_well();
}

/// R4, R7, F10: another thread scribbles over slots and indices while they are read.
#[test]
fn a_ring_that_changes_while_it_is_read_hurts_nobody() {
    let mut b = Bed::new("");
    let mut prng = Prng::new(11);
    let page = b.hostile.allocate(1).unwrap();
    let gref = b.hostile.grant(page.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    for round in 0..12 {
        let ring = b.connect();
        let end = Instant::now() + Duration::from_millis(250);
        let mut req_prod = 0u32;
        while Instant::now() < end {
            let at = 64 + usize::try_from(prng.below(32 * 112)).unwrap();
            assert!(ring.pages().write(at, &prng.next_u64().to_le_bytes()));
            if prng.chance(30) {
                let slot = 64 + (req_prod % 32) as usize * 112;
                let segment = Segment { gref, first: 0, last: 7 };
                let id = prng.next_u64();
                let good = Slot::direct(
                    Abi::Native64,
                    prng.below(7).to_le_bytes()[0],
                    id,
                    prng.below(SECTORS),
                    &[segment],
                );
                assert!(ring.pages().write(slot, good.bytes()));
                req_prod = req_prod.wrapping_add(1);
                poke(&ring, REQ_PROD, req_prod);
                ring.events().notify().unwrap();
            }
            // In the later rounds also over what was never there.
            if round >= 6 && prng.chance(2) {
                poke(&ring, REQ_PROD, req_prod.wrapping_add(u32::from(prng.next_u64().to_le_bytes()[0])));
            }
        }
        b.start_over(&format!("R4 R7 round {round}"));
    }
    let mut ring = b.connect();
    b.serves(&mut ring, "after R4 R7");
    b.neighbour_is_well();
    let lines = b.world.log().lines().count();
    assert!(lines < 1000, "R7 made {lines} lines of log");
}

/// R16, B32: a full ring of which no answer is ever taken, closed as it is.
#[test]
fn answers_that_nobody_takes_hurt_nobody() {
    let mut b = Bed::new("");
    let page = b.hostile.allocate(1).unwrap();
    let gref = b.hostile.grant(page.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    let mut ring = b.connect();
    for id in 0..32 {
        let segment = Segment { gref, first: 0, last: 7 };
        ring.push(Slot::direct(Abi::Native64, blkif::WRITE, id, id * 8, &[segment]).bytes());
    }
    ring.publish().unwrap();
    let full = |ring: &Ring| peek(ring, RSP_PROD) == 32;
    b.world.until("all answered", |_| full(&ring)).unwrap();
    for _ in 0..1000 {
        ring.events().notify().unwrap();
    }
    b.start_over("R16");
    let mut ring = b.connect();
    for id in 0..32 {
        let segment = Segment { gref, first: 0, last: 7 };
        ring.push(Slot::direct(Abi::Native64, blkif::WRITE, id, id * 8, &[segment]).bytes());
    }
    ring.publish().unwrap();
    b.start_over("B32 closed with a full ring");
    let mut ring = b.connect();
    b.serves(&mut ring, "after R16");
    b.neighbour_is_well();
}

/// B26, B27, B34, R15: persistent grants without end, changed under the backend, and then the domain is destroyed.
#[test]
fn persistent_grants_are_bounded_and_let_go() {
    let mut b = Bed::new("persistent = true");
    let mut ring = b.connect_with(&[("feature-persistent", "1")]);
    let page = b.hostile.allocate(1).unwrap();
    let other = b.hostile.allocate(1).unwrap();
    let mut most = 0;
    for id in 0..20_000u64 {
        let gref = b.hostile.grant(page.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
        let segment = Segment { gref, first: 0, last: 0 };
        ring.push(Slot::direct(Abi::Native64, blkif::READ, id, 0, &[segment]).bytes());
        ring.publish().unwrap();
        let answer = ring.wait_answer(SOON).unwrap();
        assert!(answer.is_some_and(|a| a.status == OKAY), "{id}: {answer:?}\n{}", b.world.log());
        if id % 3 == 0 {
            b.hostile.overwrite_grant(gref, other.frame(0), DomId::DOM0, Access::ReadOnly);
        }
        most = most.max(b.hostile.held().grants);
    }
    assert!(most <= 1100, "B26: {most} pages held at once");

    // Granted no more: whether the backend still has it mapped or not, an answer comes.
    let gone = b.hostile.grant(page.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
    assert!(b.hostile.end_access(gone));
    let segment = Segment { gref: gone, first: 0, last: 7 };
    ring.push(Slot::direct(Abi::Native64, blkif::READ, 1, 0, &[segment]).bytes());
    ring.publish().unwrap();
    assert!(ring.wait_answer(SOON).unwrap().is_some_and(|a| a.status == ERROR));

    let paths = Paths::new(DomId(5), &b.disk);
    b.world.tools.begin_detach(&paths, true).unwrap();
    b.world.tools.finish_detach(&b.disk, &paths).unwrap_or_else(|e| panic!("{e}\n{}", b.world.log()));
    b.world.host.destroy(DomId(5)).unwrap();
    let hostile = b.hostile.clone();
    b.world.until("R15 no zombie", |_| hostile.held() == Held::default()).unwrap();
    b.neighbour_is_well();
}

/// B31: connecting and going, over and over.
#[test]
fn connecting_without_end_leaves_nothing() {
    let mut b = Bed::new("");
    for n in 0..60 {
        let mut ring = b.connect();
        if n % 2 == 0 {
            b.serves(&mut ring, "B31");
        }
        b.start_over("B31");
        assert_eq!(ring.release(), Vec::<GrantRef>::new());
    }
    b.neighbour_is_well();
}
