//! What a hostile network frontend may do to its nodes, its rings, its grants and its event channels, against the real worker. Numbers
//! are those of the hostile catalogue. A neighbour's frames flow all the time, and it must not notice.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

mod control;
mod nodes;
mod rings;
mod rx;
mod static_grants;
mod tx;

use std::time::Duration;

use splitd_tests::hostile::{Attacker, Nodes, Verdict, error_node};
use splitd_tests::netfront::{Frontend, Options, Outgoing, Queue, queue_nodes};
use splitd_tests::netif::{NR_SLOTS, OKAY, TxResponse};
use splitd_tests::packet::{self, Checksum, Seen, UDP4, VnetHeader};
use splitd_tests::toolstack::VifConfig;
use splitd_tests::traffic::Traffic;
use splitd_tests::wire::{End, Frame};
use splitd_tests::world::World;
use xenbus::DomId;
use xenbus::GrantRef;
use xenbus::hv::Access;
use xenbus::sim::{GuestPages, Held, SimDomain};

const SOON: Duration = Duration::from_secs(60);

struct Bed {
    world: World,
    hostile: SimDomain,
    attacker: Attacker,
    /// The far end of the hostile guest's wire.
    wire: End,
    /// A page with a good frame in it, that dom0 may read, and its grant.
    page: (GuestPages, GrantRef),
    neighbour: Frontend,
    beside: Option<Traffic>,
}

impl Bed {
    fn new() -> Self {
        let mut world = World::start("serve_vifs = \"all\"").unwrap();
        let (hostile, other) = (world.guest(5).unwrap(), world.guest(6).unwrap());
        for guest in [&hostile, &other] {
            world.attach_vif(guest, &VifConfig::new(0)).unwrap();
        }
        let mut neighbour = Frontend::connect(&other, 0, Options::default()).unwrap();
        let far = world.wire.end("vif6.0");
        far.wait_queues(1).unwrap();
        let beside = Traffic::start(&mut neighbour, Some(&far), 9).unwrap();
        let attacker = Attacker::of_vif(&hostile, 0).unwrap();
        let page = hostile.allocate(1).unwrap();
        assert!(page.write(0, &packet::whole(UDP4, 1, 4096 - UDP4.header_len())));
        let gref = hostile.grant(page.frame(0), DomId::DOM0, Access::ReadOnly).unwrap();
        let wire = world.wire.end("vif5.0");
        Self { world, hostile, attacker, wire, page: (page, gref), neighbour, beside: Some(beside) }
    }

    /// What an honest frontend would offer of these queues.
    fn honest(queues: &[Queue]) -> Nodes {
        let mut nodes = queue_nodes(queues);
        for node in ["request-rx-copy", "feature-sg", "feature-rx-notify", "feature-gso-tcpv4"] {
            nodes.insert(node.into(), "1".into());
        }
        nodes
    }

    /// An honest connection of one queue without pages posted, to be abused.
    fn connect(&mut self) -> Queue {
        let queues = [Queue::new(&self.hostile, false).unwrap()];
        let nodes = Self::honest(&queues);
        self.attacker.offer(&nodes).unwrap();
        let verdict = self.attacker.verdict(SOON).unwrap();
        assert_eq!(verdict, Verdict::Connected, "{}", self.world.log());
        self.attacker.say("4").unwrap();
        self.wire.wait_queues(1).unwrap();
        let [queue] = queues;
        queue
    }

    /// Pushes raw tx slots and shows them.
    fn push(queue: &mut Queue, slots: &[[u8; 12]]) {
        for slot in slots {
            queue.tx.push(slot);
        }
        queue.publish().unwrap();
    }

    /// The next answers in the ring's order: ids and statuses.
    fn answers(&self, queue: &mut Queue, count: usize, name: &str) -> Vec<(u16, i16)> {
        let mut answers = Vec::new();
        while answers.len() < count {
            match queue.tx.answer().unwrap() {
                Some((_, slot)) => {
                    let answer = TxResponse::read(&slot);
                    assert!(answer.is_clean, "{name}: {slot:?}");
                    answers.push((answer.id, answer.status));
                }
                None => assert!(
                    queue.wait(SOON).unwrap(),
                    "{name}: {count} answers are due, {answers:?} came\n{}",
                    self.world.log()
                ),
            }
        }
        answers
    }

    fn closed(&mut self, name: &str) {
        let path = format!("{}/state", self.attacker.backend);
        let closed = self.attacker.store.wait_state(&path, &[5, 6], SOON);
        assert!(closed.is_ok(), "{name}: {closed:?}\n{}", self.world.log());
        let reason = error_node(self.world.tools.store(), "vif", DomId(5), 0).unwrap();
        assert!(reason.is_some_and(|r| !r.is_empty()), "{name}: no reason\n{}", self.world.log());
    }

    fn start_over(&mut self, name: &str) {
        self.attacker.start_over(SOON).unwrap_or_else(|e| panic!("{name}: {e}\n{}", self.world.log()));
        let hostile = self.hostile.clone();
        self.world.until("everything let go", |_| hostile.held() == Held::default()).unwrap();
    }

    /// Sends a frame that is no fault, as a driver would.
    fn send(&self, queue: &mut Queue, frame: &Outgoing, name: &str) {
        queue.send(frame).unwrap_or_else(|| panic!("{name}: no room"));
        queue.publish().unwrap();
        while queue.unanswered() > 0 {
            assert!(queue.wait(SOON).unwrap(), "{name}: no answer\n{}", self.world.log());
            let answers = queue.reap().unwrap_or_else(|e| panic!("{name}: {e}\n{}", self.world.log()));
            assert!(answers.iter().all(|a| a.status == OKAY), "{name}: {answers:?}\n{}", self.world.log());
        }
    }

    /// A good frame leaves, and nothing before it; another one arrives.
    fn serves(&mut self, queue: &mut Queue, name: &str) {
        let log = |b: &Self| format!("{name}\n{}", b.world.log());
        self.send(queue, &Outgoing::new(packet::whole(UDP4, 77, 300)), name);
        let frame = self.wire.receive(SOON).unwrap_or_else(|| panic!("no frame: {}", log(self)));
        let seen = Seen { shape: UDP4, number: 77, at: 0, len: 300 };
        assert_eq!(packet::check(&frame.bytes, Checksum::Right), Ok(seen), "{}", log(self));

        queue.post(NR_SLOTS).unwrap();
        self.give(300);
        let received = self.arrives(queue, name);
        assert_eq!(packet::check(&received, Checksum::Right), Ok(seen), "{}", log(self));
    }

    fn give(&self, len: usize) {
        let bytes = packet::whole(UDP4, 77, len);
        assert!(self.wire.send(&Frame { queue: 0, header: VnetHeader::default(), bytes }));
    }

    fn arrives(&self, queue: &mut Queue, name: &str) -> Vec<u8> {
        loop {
            if let Some(frame) =
                queue.receive().unwrap_or_else(|e| panic!("{name}: {e}\n{}", self.world.log()))
            {
                return frame.bytes;
            }
            assert!(queue.wait(SOON).unwrap(), "{name}: no frame\n{}", self.world.log());
        }
    }

    fn neighbour_is_well(&mut self) {
        let Some(beside) = self.beside.take() else { return };
        let report = beside.finish(&mut self.neighbour).unwrap();
        assert_eq!((report.wrong.as_slice(), report.refused), (&[] as &[String], 0), "{}", self.world.log());
        assert!(report.arrived > 0 && report.received > 0, "{report:?}");
        let rows = ["vif/5/0", "vif/6/0"].map(|device| self.world.show(device).unwrap());
        for row in rows {
            assert_eq!((row.restarts, row.alarm), (0, None), "no worker died\n{}", self.world.log());
        }
        let lines = self.world.log().lines().count();
        assert!(lines < 1000, "{lines} lines of log");
    }
}
