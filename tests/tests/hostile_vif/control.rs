//! Orders on the control ring that no driver would give, and the ring itself.

use splitd_tests::hostile::Verdict;
use splitd_tests::netfront::Queue;
use splitd_tests::netfront::control::{Control, kind, order, status};
use splitd_tests::prng::Prng;
use xenbus::hv::Access;
use xenbus::sim::Held;
use xenbus::{DomId, GrantRef};

use super::{Bed, SOON};

const REQ_PROD: usize = 0;

impl Bed {
    pub(crate) fn connect_control(&mut self, queues: usize) -> (Vec<Queue>, Control) {
        let queues: Vec<Queue> = (0..queues).map(|_| Queue::new(&self.hostile, false).unwrap()).collect();
        let control = Control::new(&self.hostile).unwrap();
        let mut nodes = Self::honest(&queues);
        nodes.extend(control.nodes());
        self.attacker.offer(&nodes).unwrap();
        let verdict = self.attacker.verdict(SOON).unwrap();
        assert_eq!(verdict, Verdict::Connected, "{}", self.world.log());
        self.attacker.say("4").unwrap();
        self.wire.wait_queues(queues.len()).unwrap();
        (queues, control)
    }
}

/// N28: each order that makes no sense is refused, the ring goes on, and nothing of it counts.
#[test]
fn orders_that_make_no_sense_are_refused() {
    let mut b = Bed::new();
    let (mut queues, mut control) = b.connect_control(2);
    let own = control.ring.gref().0;
    let page = b.hostile.allocate(1).unwrap();
    let others = b.hostile.grant(page.frame(0), DomId(6), Access::ReadOnly).unwrap().0;
    assert_eq!(control.ask(kind::SET_ALGORITHM, [1, 0, 0]).unwrap().0, status::SUCCESS);
    assert_eq!(control.ask(kind::SET_SIZE, [4, 0, 0]).unwrap().0, status::SUCCESS);
    let entries: Vec<u8> = [0u32, 1, 0, 2].iter().flat_map(|q| q.to_le_bytes()).collect();
    let good = control.with_page(&entries).0;
    let bad = [
        (kind::SET_ALGORITHM, [2, 0, 0]),
        (kind::SET_ALGORITHM, [u32::MAX, 0, 0]),
        (kind::SET_FLAGS, [16, 0, 0]),
        (kind::SET_FLAGS, [u32::MAX, 0, 0]),
        (kind::SET_KEY, [good, 41, 0]),
        (kind::SET_KEY, [good, u32::MAX, 0]),
        (kind::SET_KEY, [0, 40, 0]),
        (kind::SET_KEY, [60_000, 40, 0]),
        (kind::SET_KEY, [u32::MAX, 40, 0]),
        (kind::SET_KEY, [others, 40, 0]),
        (kind::SET_SIZE, [129, 0, 0]),
        (kind::SET_SIZE, [u32::MAX, 0, 0]),
        (kind::SET_MAPPING, [good, 4, 0]),
        (kind::SET_MAPPING, [good, 5, 0]),
        (kind::SET_MAPPING, [good, 1, 4]),
        (kind::SET_MAPPING, [good, 4, u32::MAX]),
        (kind::SET_MAPPING, [good, u32::MAX, 4]),
        (kind::SET_MAPPING, [good, u32::MAX, u32::MAX]),
        (kind::SET_MAPPING, [u32::MAX, 2, 0]),
        (kind::SET_MAPPING, [others, 2, 0]),
    ];
    for (kind, data) in bad {
        let answer =
            control.ask(kind, data).unwrap_or_else(|e| panic!("N28 {kind} {data:?}: {e}\n{}", b.world.log()));
        assert_eq!(answer, (status::INVALID_PARAMETER, 0), "N28 {kind} {data:?}");
    }
    for kind in [0, 11, 12, 0xffff] {
        for data in [[0; 3], [good, 4, 0], [u32::MAX; 3]] {
            assert_eq!(control.ask(kind, data).unwrap(), (status::NOT_SUPPORTED, 0), "N28 {kind} {data:?}");
        }
    }
    // The ring's own page is a page like another.
    assert_eq!(control.ask(kind::SET_KEY, [own, 40, 0]).unwrap().0, status::SUCCESS);
    assert_eq!(control.ask(kind::SET_MAPPING, [good, 3, 0]).unwrap().0, status::SUCCESS);
    b.serves(&mut queues[0], "after N28");
    b.start_over("N28");
    assert_eq!(control.release(), 0);
    b.neighbour_is_well();
}

/// N28, R1, R2, R11: a ring that claims too much, or is none.
#[test]
fn a_control_ring_that_is_none_closes() {
    let mut b = Bed::new();
    for ahead in [129u32, 1000, 0x8000_0000, u32::MAX] {
        let name = format!("R1 R2 control {ahead}");
        let (_queues, mut control) = b.connect_control(1);
        control.ask(kind::GET_SIZE, [0; 3]).unwrap();
        assert!(control.ring.pages().write(REQ_PROD, &1u32.wrapping_add(ahead).to_le_bytes()));
        control.port.notify().unwrap();
        b.closed(&name);
        b.start_over(&name);
    }
    let refuse = |b: &mut Bed, name: &str, node: &str, value: Option<String>| {
        let queues = [Queue::new(&b.hostile, false).unwrap()];
        let control = Control::new(&b.hostile).unwrap();
        let mut nodes = Bed::honest(&queues);
        nodes.extend(control.nodes());
        match value {
            Some(value) => nodes.insert(node.into(), value),
            None => nodes.remove(node),
        };
        b.attacker.offer(&nodes).unwrap();
        assert_eq!(b.attacker.verdict(SOON).unwrap(), Verdict::Closed, "{name}\n{}", b.world.log());
        b.closed(name);
        b.start_over(name);
    };
    for gref in [GrantRef(0), GrantRef(60_000), GrantRef(u32::MAX)] {
        refuse(&mut b, &format!("R11 {gref}"), "ctrl-ring-ref", Some(gref.to_string()));
    }
    for (node, value) in [
        ("ctrl-ring-ref", Some("x".to_owned())),
        ("event-channel-ctrl", None),
        ("event-channel-ctrl", Some("0".to_owned())),
        ("event-channel-ctrl", Some("4294967295".to_owned())),
    ] {
        refuse(&mut b, &format!("N28 {node}={value:?}"), node, value);
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after R1 R11");
    b.neighbour_is_well();
}

/// R8, R4, R7: events without orders, and orders of random bytes that change while they are read, cost nobody else anything, and the
/// guest's own frames go on.
#[test]
fn a_storm_of_orders_is_survived() {
    let mut b = Bed::new();
    let (mut queues, mut control) = b.connect_control(1);
    for _ in 0..100_000 {
        control.port.notify().unwrap();
    }
    assert_eq!(control.ask(kind::GET_SIZE, [0; 3]).unwrap(), (status::SUCCESS, 128), "R8");
    let mut prng = Prng::new(5);
    let below = |prng: &mut Prng, n| u32::try_from(prng.below(n)).unwrap();
    for id in 0..3000u16 {
        let data = [(); 3].map(|()| {
            let odd = prng.next_u64();
            if prng.chance(50) { below(&mut prng, 200) } else { u32::try_from(odd & 0xffff_ffff).unwrap() }
        });
        let slot = order(id, u16::try_from(below(&mut prng, 12)).unwrap(), data);
        if control.ring.free() == 0 {
            while control.ring.answer().unwrap().is_none() {
                assert!(control.ring.final_check().unwrap() || control.port.wait(SOON).unwrap(), "R4");
            }
        }
        control.ring.push(&slot);
        if control.ring.publish() {
            control.port.notify().unwrap();
        }
        let at = 64 + usize::try_from(prng.below(4000)).unwrap();
        let _ = prng.chance(30) && control.ring.pages().write(at, &[id.to_le_bytes()[0]]);
        while control.ring.answer().unwrap().is_some() {}
    }
    b.serves(&mut queues[0], "R4 R7");
    b.start_over("R4 R7 R8");
    let hostile = b.hostile.clone();
    b.world.until("let go", |_| hostile.held() == Held::default()).unwrap();
    b.neighbour_is_well();
}
