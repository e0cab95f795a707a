//! What a hostile or broken frontend may write into its own directory, against the real splitd. Numbers are those of the hostile
//! catalogue. Outcome F: this device alone is closed, with the reason in its error node, and it can be started over; outcome
//! I: ignored.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::time::Duration;

use splitd_tests::blkfront::{Frontend, Load, Options, Ring};
use splitd_tests::blkif::Abi;
use splitd_tests::hostile::{Attacker, Nodes, Verdict, error_node};
use splitd_tests::prng::Prng;
use splitd_tests::toolstack::DiskConfig;
use splitd_tests::world::World;
use xenbus::hv::Access;
use xenbus::sim::{Held, SimDomain};
use xenbus::{DomId, GrantRef};

const SECTORS: u64 = 1 << 12;
const SOON: Duration = Duration::from_secs(60);

struct Bed {
    world: World,
    hostile: SimDomain,
    disk: DiskConfig,
    attacker: Attacker,
    neighbour: Frontend,
}

fn bed() -> Bed {
    let mut world = World::start("").unwrap();
    let (hostile, beside) = (world.guest(5).unwrap(), world.guest(6).unwrap());
    let (a, b) = (world.image("a.img", SECTORS).unwrap(), world.image("b.img", SECTORS).unwrap());
    let (disk, other) = (world.disk(0, &a), world.disk(0, &b));
    world.attach(&hostile, &disk).unwrap();
    world.attach(&beside, &other).unwrap();
    let neighbour = Frontend::connect(&beside, other.devid, Options::default()).unwrap();
    let attacker = Attacker::new(&hostile, disk.devid).unwrap();
    Bed { world, hostile, disk, attacker, neighbour }
}

impl Bed {
    fn rings(&self, count: usize, pages: u32) -> Vec<Ring> {
        (0..count).map(|_| Ring::new(&self.hostile, Abi::Native64, pages).unwrap()).collect()
    }

    /// The device is closed with a reason, can be started over, and then serves an honest frontend; the neighbour never noticed.
    fn closed_and_well(&mut self, name: &str) {
        let verdict = self.attacker.verdict(SOON).unwrap();
        assert_eq!(verdict, Verdict::Closed, "{name}\n{}", self.world.log());
        let reason = error_node(self.world.tools.store(), "vbd", DomId(5), self.disk.devid).unwrap();
        assert!(reason.is_some_and(|r| !r.is_empty()), "{name}: no reason\n{}", self.world.log());
        self.start_over(name);
    }

    fn start_over(&mut self, name: &str) {
        self.attacker.start_over(SOON).unwrap_or_else(|e| panic!("{name}: {e}\n{}", self.world.log()));
        let hostile = self.hostile.clone();
        self.world.until("everything let go", |_| hostile.held() == Held::default()).unwrap();
    }

    fn connects(&mut self, name: &str) {
        let rings = self.rings(1, 1);
        self.attacker.offer(&Attacker::honest(&rings)).unwrap();
        let verdict = self.attacker.verdict(SOON).unwrap();
        assert_eq!(verdict, Verdict::Connected, "{name}\n{}", self.world.log());
        self.attacker.say("4").unwrap();
        self.start_over(name);
    }

    fn neighbour_is_well(&mut self) {
        let report = self.neighbour.run(&Load { operations: Some(200), ..Load::default() }).unwrap();
        assert!(report.is_clean(), "the neighbour: {report:?}\n{}", self.world.log());
    }
}

fn with(nodes: &Nodes, changes: &[(&str, &str)]) -> Nodes {
    let mut nodes = nodes.clone();
    for (name, value) in changes {
        if *value == "-" {
            nodes.remove(*name);
        } else {
            nodes.insert((*name).into(), (*value).into());
        }
    }
    nodes
}

/// X3 to X9: rings, ports, counts and orders that are none.
#[test]
fn an_offer_that_makes_no_sense_closes_this_device_only() {
    let mut b = bed();
    let one = b.rings(1, 1);
    let honest = Attacker::honest(&one);
    let long = "7".repeat(1500);
    let mut offers: Vec<(String, Nodes)> = Vec::new();
    for value in ["", "-1", "0x8", "1e3", " 8", "8 ", "4294967296", "99999999999999999999", "abc", &long] {
        offers.push((format!("X3 ring-ref {value:.20?}"), with(&honest, &[("ring-ref", value)])));
        offers.push((format!("X4 event-channel {value:.20?}"), with(&honest, &[("event-channel", value)])));
    }
    for value in ["0", "4294967295", "5", "100000"] {
        offers.push((format!("R11 X4 event-channel {value}"), with(&honest, &[("event-channel", value)])));
    }
    for value in ["0", "4294967295", "50000", "131072"] {
        offers.push((format!("R11 ring-ref {value}"), with(&honest, &[("ring-ref", value)])));
    }
    offers.push(("no ring-ref".into(), with(&honest, &[("ring-ref", "-")])));
    offers.push(("no event-channel".into(), with(&honest, &[("event-channel", "-")])));
    for value in ["0", "5", "4294967296", "x", "-1", ""] {
        offers.push((format!("X5 queues {value:?}"), with(&honest, &[("multi-queue-num-queues", value)])));
    }
    offers.push(("X8 two queues, none there".into(), with(&honest, &[("multi-queue-num-queues", "2")])));
    let two = b.rings(2, 1);
    let queues = Attacker::honest(&two);
    offers.push(("X8 a queue without port".into(), with(&queues, &[("queue-1/event-channel", "-")])));
    offers.push((
        "X8 a queue elsewhere".into(),
        with(&queues, &[("queue-1/ring-ref", "-"), ("queue-999/ring-ref", "8")]),
    ));
    let same = queues.get("queue-0/event-channel").unwrap().clone();
    offers.push(("N29 two queues, one port".into(), with(&queues, &[("queue-1/event-channel", &same)])));
    for value in ["31", "-1", "5", "4294967296", "x"] {
        offers.push((format!("X6 order {value}"), with(&honest, &[("ring-page-order", value)])));
    }
    let large = b.rings(1, 4);
    let pages = Attacker::honest(&large);
    offers.push(("X6 ring-ref3 missing".into(), with(&pages, &[("ring-ref3", "-")])));
    offers.push(("X6 order without ring-ref0".into(), with(&honest, &[("ring-page-order", "0")])));
    for value in ["x86_16-abi", "", &long] {
        offers.push((format!("X9 protocol {value:.20?}"), with(&honest, &[("protocol", value)])));
    }

    for (name, nodes) in &offers {
        b.attacker.offer(nodes).unwrap();
        b.closed_and_well(name);
    }
    b.connects("after all of it");
    b.neighbour_is_well();
}

/// R11: pages that a guest may name but that are not granted for this.
#[test]
fn a_ring_that_cannot_be_mapped_closes_this_device_only() {
    let mut b = bed();
    let rings = b.rings(1, 1);
    let honest = Attacker::honest(&rings);
    let page = b.hostile.allocate(1).unwrap();
    let grant = |to, access| b.hostile.grant(page.frame(0), to, access).unwrap();
    let read_only = grant(DomId::DOM0, Access::ReadOnly);
    let other = grant(DomId(6), Access::ReadWrite);
    let no_page = b.hostile.grant(0x000f_ffff, DomId::DOM0, Access::ReadWrite).unwrap();
    let revoked = grant(DomId::DOM0, Access::ReadWrite);
    assert!(b.hostile.end_access(revoked));
    let for_other = b.hostile.allocate_port(DomId(6)).unwrap();

    for (name, gref) in
        [("read-only", read_only), ("another's", other), ("no page", no_page), ("revoked", revoked)]
    {
        b.attacker.offer(&with(&honest, &[("ring-ref", &gref.to_string())])).unwrap();
        b.closed_and_well(&format!("R11 ring {name}"));
    }
    b.attacker.offer(&with(&honest, &[("event-channel", &for_other.port().to_string())])).unwrap();
    b.closed_and_well("R10 a port for another domain");
    b.connects("after all of it");
    b.neighbour_is_well();
}

/// X6, X7, B22, X15: odd, but each of it is either harmless or what some frontend leaves behind.
#[test]
fn odd_offers_that_must_work_do() {
    let mut b = bed();
    let rings = b.rings(1, 1);
    let honest = Attacker::honest(&rings);
    let gref = honest.get("ring-ref").unwrap().clone();
    let offers = [
        ("stale ring-ref0 of an earlier kernel", with(&honest, &[("ring-ref0", "4000000000")])),
        (
            "stale ring-ref beside an order",
            with(&honest, &[("ring-page-order", "0"), ("ring-ref0", &gref), ("ring-ref", "77777")]),
        ),
        (
            "stale queue directories",
            with(&honest, &[("queue-0/ring-ref", "1"), ("queue-3/event-channel", "x")]),
        ),
        ("one queue, said so", with(&honest, &[("multi-queue-num-queues", "1"), ("queue-0/ring-ref", "9")])),
        ("no protocol", with(&honest, &[("protocol", "-")])),
        (
            "X15 another backend named",
            with(&honest, &[("backend-id", "9"), ("backend", "/local/domain/9/backend/vbd/5/51712")]),
        ),
        ("unknown features", with(&honest, &[("feature-surprise-remove", "1"), ("target-id", "x")])),
    ];
    let backend = b.attacker.backend.clone();
    for (name, nodes) in &offers {
        b.attacker.offer(nodes).unwrap();
        assert_eq!(b.attacker.verdict(SOON).unwrap(), Verdict::Connected, "{name}\n{}", b.world.log());
        b.attacker.say("4").unwrap();
        b.attacker
            .offer(&with(nodes, &[("protocol", "junk"), ("ring-ref", "1"), ("event-channel", "2")]))
            .unwrap();
        b.attacker.say("4").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(
            b.attacker.verdict(SOON).unwrap(),
            Verdict::Connected,
            "B22 changed while connected, {name}"
        );
        b.start_over(name);
    }
    assert_eq!(b.attacker.backend, backend);
    b.neighbour_is_well();
}

/// X1, X2, X17: states that are none, and a random walk through those that are.
#[test]
fn states_in_any_order_hurt_nobody() {
    let mut b = bed();
    for state in ["", "abc", "-1", "99", "4294967300", "4 ", "0", "7", "8", "2"] {
        b.attacker.say(state).unwrap();
    }
    b.start_over("X1");
    b.connects("after X1");

    let rings = b.rings(1, 1);
    let honest = Attacker::honest(&rings);
    let mut prng = Prng::new(5);
    for _ in 0..1000 {
        match prng.below(9) {
            3 => b.attacker.offer(&honest).unwrap(),
            n => b.attacker.say(&n.to_string()).unwrap(),
        }
        if prng.chance(5) {
            std::thread::sleep(Duration::from_millis(prng.below(30)));
        }
    }
    b.start_over("X2");
    b.connects("after X2");
    b.neighbour_is_well();
}

/// X12, X14: the directory goes away, or its nodes become directories, at each step of connecting.
#[test]
fn a_directory_that_vanishes_is_a_frontend_that_went() {
    for step in 0..4 {
        let mut b = bed();
        let rings = b.rings(1, 1);
        let honest = Attacker::honest(&rings);
        if step >= 1 {
            b.attacker.offer(&honest).unwrap();
        }
        if step >= 2 {
            assert_eq!(b.attacker.verdict(SOON).unwrap(), Verdict::Connected);
        }
        if step >= 3 {
            b.attacker.say("4").unwrap();
        }

        let home = b.attacker.home.clone();
        b.world.tools.store().remove(&home).unwrap();

        let hostile = b.hostile.clone();
        b.world.until("let go", |_| hostile.held() == Held::default()).unwrap();
        let paths = splitd_tests::toolstack::Paths::new(DomId(5), &b.disk);
        b.world.tools.begin_detach(&paths, true).unwrap();
        b.world
            .tools
            .finish_detach(&b.disk, &paths)
            .unwrap_or_else(|e| panic!("{step}: {e}\n{}", b.world.log()));
        let left = b.world.tools.store().list("/local/domain/0/backend/vbd").unwrap();
        assert_eq!(left, ["6"], "step {step}: nothing was made anew");
        b.neighbour_is_well();
    }
}

/// X14, X10, X11: nodes with children, many nodes, nodes rewritten without end.
#[test]
fn a_busy_directory_hurts_nobody() {
    let mut b = bed();
    let rings = b.rings(1, 1);
    let honest = Attacker::honest(&rings);
    for node in ["ring-ref", "event-channel", "state", "protocol"] {
        b.attacker.offer(&with(&honest, &[(&format!("{node}/child"), "1"), ("ring-ref/x", "2")])).unwrap();
        assert_eq!(b.attacker.verdict(SOON).unwrap(), Verdict::Connected, "X14 {node}\n{}", b.world.log());
        b.attacker.say("4").unwrap();
        b.attacker.store.remove(&format!("{}/{node}/child", b.attacker.home)).unwrap();
        b.start_over(node);
    }
    for i in 0..800 {
        let path = format!("{}/junk/{i}-{}", b.attacker.home, "x".repeat(20));
        if b.attacker.store.write(&path, "").is_err() {
            break;
        }
    }
    for i in 0..20_000u32 {
        let path = format!("{}/feature-persistent", b.attacker.home);
        b.attacker.store.write(&path, &i.to_string()).unwrap();
    }
    b.connects("X10 X11");
    b.neighbour_is_well();
    let lines = b.world.log().lines().count();
    assert!(lines < 500, "X10 made {lines} lines of log");
}

/// The largest rings that may be offered are mapped and bound whole, and let go of whole.
#[test]
fn the_largest_rings_are_let_go() {
    let mut b = bed();
    let rings = b.rings(4, 16);
    b.attacker.offer(&Attacker::honest(&rings)).unwrap();
    assert_eq!(b.attacker.verdict(SOON).unwrap(), Verdict::Connected, "{}", b.world.log());
    assert_eq!(b.hostile.held(), Held { grants: 64, ports: 4 });
    b.start_over("four largest rings");
    for ring in rings {
        assert_eq!(ring.release(), Vec::<GrantRef>::new());
    }
}
