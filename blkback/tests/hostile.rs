//! What a frontend that means harm gets: an error, or the end of its own device; never another's data, never a hung or dead
//! worker. Each test names the cases of the hostile frontend's catalogue that it is.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod world;

use std::time::{Duration, Instant};

use blkback::wire::{OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE};
use worker::message::{Abi, Connect, Fault, FromWorker, Open, Phase, ToWorker, TransferMode};
use world::{Frontend, LIMIT, Worker, World};
use xen_ring::PAGE_LEN;
use xenbus::hv::Access;
use xenbus::sim::Held;
use xenbus::{DomId, GrantRef};

const MIB: u64 = 1 << 20;
const MODES: [TransferMode; 2] = [TransferMode::Copy, TransferMode::Persistent];

fn serving(world: &World, frontend: &Frontend, mode: TransferMode) -> Worker {
    let mut worker = Worker::spawn(world.dir.path());
    worker.open(world.open());
    worker.connect(Connect { mode, ..world.connect(frontend) });
    worker
}

fn violation(worker: &mut Worker) -> String {
    match worker.hear() {
        FromWorker::Violation { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// R1, R2: `req_prod` too far ahead or backwards ends this device, with the numbers in the reason, and everything is let go.
#[test]
fn ring_overrun() {
    for req_prod in [33u32, 1000, u32::MAX, 1 << 31] {
        let world = World::new(MIB);
        let guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
        let mut worker = serving(&world, &guest, TransferMode::Copy);

        assert!(guest.queues[0].pages.write(0, &req_prod.to_le_bytes()));
        guest.queues[0].port.notify().unwrap();

        assert!(violation(&mut worker).contains(&req_prod.to_string()));
        worker.redial();
        assert!(matches!(worker.ask(&ToWorker::Hello { version: 1 }), FromWorker::Hello { .. }));
        violation(&mut worker);
        worker.disconnect();
        assert_eq!(world.guest.held(), Held::default());
    }
}

/// R3, R5: event indices full of junk cost notifications at most; the ring goes on over the wrap of its slots.
#[test]
fn junk_in_event_indices() {
    let world = World::new(MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let worker = serving(&world, &guest, TransferMode::Copy);
    for i in 0..100u64 {
        for at in [4, 12] {
            assert!(guest.queues[0].pages.write(at, &i.wrapping_mul(0x9e37_79b9).to_le_bytes()[..4]));
        }
        guest.send(0, &[guest.request(OP_READ, i, 0, &[(0, 0, 7)])]);
        guest.queues[0].port.notify().unwrap();
        let begun = Instant::now();
        while guest.poll(0).is_empty() {
            assert!(begun.elapsed() < LIMIT);
            std::thread::yield_now();
        }
    }
    worker.disconnect();
}

/// R6: a guest that moves `rsp_prod` itself while its backend is dead is found out by the journal.
#[test]
fn forged_rsp_prod_across_a_restart() {
    let world = World::new(MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let worker = serving(&world, &guest, TransferMode::Copy);
    assert_eq!(guest.ask(0, guest.request(OP_READ, 1, 0, &[(0, 0, 7)])), 0);
    worker.kill();
    assert!(guest.queues[0].pages.write(8, &7u32.to_le_bytes()));

    let mut successor = Worker::spawn(world.dir.path());
    successor.open(world.open());

    match successor.ask(&ToWorker::Connect(world.connect(&guest))) {
        FromWorker::Failed { fault: Fault::Frontend, reason } => {
            assert!(reason.contains("rsp_prod"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
}

/// R8: a million notifications without work neither stop the worker nor its answers.
#[test]
fn event_storm() {
    let world = World::new(MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let worker = serving(&world, &guest, TransferMode::Copy);
    let begun = Instant::now();
    for _ in 0..1_000_000 {
        guest.queues[0].port.notify().unwrap();
    }

    assert_eq!(guest.ask(0, guest.request(OP_READ, 1, 0, &[(0, 0, 7)])), 0);
    worker.disconnect();
    let wakeups = worker::counters::read(&world.dir.path().join("counters")).unwrap().total("wakeups");
    let most = 200 + u64::try_from(begun.elapsed().as_millis()).unwrap();
    assert!(wakeups < most, "{wakeups} wakeups for a million notifications; at most {most} in that time");
}

/// R11: ring pages that were not granted to us, and an event channel that is not there: the frontend's fault, by name.
#[test]
fn ring_that_is_not_ours() {
    let world = World::new(MIB);
    let guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let read_only = world.guest.grant(guest.queues[0].pages.frame(0), DomId::DOM0, Access::ReadOnly).unwrap();
    let to_another = world.guest.grant(guest.queues[0].pages.frame(0), DomId(9), Access::ReadWrite).unwrap();
    for gref in [0, u32::MAX, 5000, read_only.0, to_another.0] {
        let mut connect = world.connect(&guest);
        connect.queues[0].ring_refs = vec![gref];
        let mut worker = Worker::spawn(world.dir.path());
        worker.open(world.open());
        match worker.ask(&ToWorker::Connect(connect)) {
            FromWorker::Failed { fault: Fault::Frontend, reason } => {
                assert!(reason.contains("ring-ref"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
        worker.disconnect();
    }
    let mut connect = world.connect(&guest);
    connect.queues[0].port = 4000;
    let mut worker = Worker::spawn(world.dir.path());
    worker.open(world.open());
    match worker.ask(&ToWorker::Connect(connect)) {
        FromWorker::Failed { fault: Fault::Frontend, reason } => {
            assert!(reason.contains("event-channel"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    worker.disconnect();
    assert_eq!(world.guest.held(), Held::default());
}

/// R12: a read into the ring's own page ends at worst this device; the worker lives.
#[test]
fn data_over_the_ring() {
    for mode in MODES {
        let world = World::new(MIB);
        std::fs::write(&world.image, vec![0xff; 1 << 20]).unwrap();
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
        let mut worker = serving(&world, &guest, mode);
        guest.data_refs[0] = guest.queues[0].refs[0];

        guest.send(0, &[guest.request(OP_READ, 1, 0, &[(0, 0, 7)])]);

        // What the worker makes of a ring full of ones depends on the moment: an answer, or the device's end.
        std::thread::sleep(Duration::from_millis(50));
        worker.redial();
        assert!(matches!(worker.ask(&ToWorker::Hello { version: 1 }), FromWorker::Hello { .. }));
        worker.tell(&ToWorker::Disconnect);
        while !matches!(worker.hear(), FromWorker::Disconnected) {}
        assert!(worker.child.wait().unwrap().success());
        assert_eq!(world.guest.held(), Held::default());
    }
}

/// B8, B9, B30: one id in flight many times, one page in every segment, one sector under many writes: each is answered.
#[test]
fn the_same_again_and_again() {
    for mode in MODES {
        let world = World::new(MIB);
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
        let worker = serving(&world, &guest, mode);
        let all: Vec<_> = (0..11).map(|_| (0, 0, 7)).collect();

        guest.send(0, &vec![guest.request(OP_WRITE, 7, 0, &all); 32]);
        let answers = guest.answers(0, 32);

        assert!(answers.iter().all(|a| (a.id, a.status) == (7, 0)));
        worker.disconnect();
    }
}

/// B12, B13, B15: tables on pages that are not granted, or full of nonsense.
#[test]
fn bad_indirect_tables() {
    for mode in MODES {
        let world = World::new(MIB);
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 4);
        let worker = serving(&world, &guest, mode);
        let good = guest.indirect(OP_WRITE, 1, 0, 0, &[1, 2]);
        let mut foreign = good.clone();
        foreign[28..32].copy_from_slice(&u32::MAX.to_le_bytes());

        // The good one first: its table must not be taken for that of the next.
        assert_eq!(guest.ask(0, good.clone()), 0);
        assert_eq!(guest.ask(0, foreign), -1);
        guest.fill(0, 0xff);
        assert_eq!(guest.ask(0, good.clone()), -1);
        for (first, last) in [(0, 8), (5, 4), (7, 255)] {
            let segment = blkback::wire::Segment { gref: guest.data_refs[1], first, last };
            assert!(guest.data.write(0, &segment.encode()));
            assert_eq!(guest.ask(0, good.clone()), -1, "B15: sectors {first} to {last}");
        }
        worker.disconnect();
    }
}

/// B24, B25, B27, B34: pages revoked, read-only, or granted anew as another page. An error for that request; nothing is written
/// where it must not be; the next request works.
#[test]
fn bad_data_grants() {
    for mode in MODES {
        let world = World::new(MIB);
        std::fs::write(&world.image, vec![0x77; 1 << 20]).unwrap();
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 4);
        let read_only = world.guest.grant(guest.data.frame(1), DomId::DOM0, Access::ReadOnly).unwrap();
        let worker = serving(&world, &guest, mode);
        guest.data_refs[1] = read_only;
        guest.data_refs[2] = GrantRef(7000);

        let segments = [(0, 0, 7), (1, 0, 7)];
        assert_eq!(guest.ask(0, guest.request(OP_READ, 1, 0, &segments)), -1, "into a read-only page");
        assert_eq!(guest.page(1), [0; PAGE_LEN]);
        assert_eq!(guest.ask(0, guest.request(OP_WRITE, 2, 0, &[(2, 0, 7)])), -1, "from no page");
        assert_eq!(guest.ask(0, guest.request(OP_WRITE, 3, 8, &[(1, 0, 7)])), 0, "from a read-only page");
        assert_eq!(guest.ask(0, guest.request(OP_READ, 4, 0, &[(0, 0, 7)])), 0);
        assert_eq!(guest.page(0), [0x77; PAGE_LEN], "the refused write wrote nothing");
        worker.disconnect();
        assert_eq!(world.guest.held(), Held::default());
    }
}

/// B26: a hundred thousand distinct references in persistent mode: bounded mappings, no error.
#[test]
fn endless_references() {
    let world = World::new(MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let worker = serving(&world, &guest, TransferMode::Persistent);
    let mut most_held = 0;
    let mut grants: Vec<GrantRef> = vec![];
    for round in 0..60u64 {
        let fresh = |_| world.guest.grant(guest.data.frame(0), DomId::DOM0, Access::ReadWrite).unwrap();
        guest.data_refs = (0..11 * 8).map(fresh).collect();
        grants.extend(&guest.data_refs);
        let requests: Vec<_> = (0..8)
            .map(|i| {
                let segments: Vec<_> = (i * 11..i * 11 + 11).map(|page| (page, 0, 7)).collect();
                guest.request(OP_READ, round, 0, &segments)
            })
            .collect();
        guest.send(0, &requests);
        assert!(guest.answers(0, 8).iter().all(|a| a.status == 0));
        most_held = most_held.max(world.guest.held().grants);
    }
    assert!((1000..1100).contains(&most_held), "{most_held} of {} mapped", grants.len());
    worker.disconnect();
    assert_eq!(world.guest.held(), Held::default());
}

/// B32: told to go with a full ring: what was taken is answered, then all is let go.
#[test]
fn disconnect_with_a_full_ring() {
    for mode in MODES {
        let world = World::new(16 * MIB);
        let mut guest = Frontend::new(&world.guest, 2, 2, Abi::Native64, 11);
        let worker = serving(&world, &guest, mode);
        let all: Vec<_> = (0..11).map(|page| (page, 0, 7)).collect();
        for queue in 0..2 {
            let requests: Vec<_> = (0..128).map(|i| guest.request(OP_WRITE, i, i * 88, &all)).collect();
            guest.send(queue, &requests);
        }

        worker.disconnect();

        for queue in 0..2 {
            assert!(guest.poll(queue).iter().all(|a| a.status == 0));
        }
        let counters = worker::counters::read(&world.dir.path().join("counters")).unwrap();
        assert_eq!(counters.total("in_flight_now"), 0, "taken and never answered");
        assert_eq!(world.guest.held(), Held::default());
    }
}

/// XSA-142: a disk opened read-only takes no write in any form.
#[test]
fn read_only_disk() {
    let world = World::new(MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 2);
    let mut worker = Worker::spawn(world.dir.path());
    let opened = worker.open(Open { read_only: true, ..world.open() });
    worker.connect(Connect { mode: TransferMode::Persistent, ..world.connect(&guest) });
    assert!(opened.read_only && opened.discard.is_none());

    assert_eq!(guest.ask(0, guest.request(OP_WRITE, 1, 0, &[(0, 0, 7)])), -1);
    assert_eq!(guest.ask(0, guest.indirect(OP_WRITE, 2, 0, 1, &[0])), -1);
    assert_eq!(guest.ask(0, guest.discard(3, 0, 8)), -2);
    assert_eq!(guest.ask(0, guest.request(OP_FLUSH_DISKCACHE, 4, 0, &[])), 0);
    assert_eq!(guest.ask(0, guest.request(OP_READ, 5, 0, &[(0, 0, 7)])), 0);
    assert_eq!(world.guest.held().grants, 2, "the ring's page, and the one read into");
    worker.disconnect();
}

/// R4, R7, B13: every byte of the ring's pages and of a table changes at any time, also while it is copied. Whatever is read is read
/// once, so the worker ends the device or goes on; it does not die of it.
#[test]
fn scribbled_ring() {
    for mode in MODES {
        let world = World::new(MIB);
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 4);
        let mut worker = serving(&world, &guest, mode);
        let requests: Vec<_> = (0..16)
            .map(|i| match i % 3 {
                0 => guest.indirect(OP_READ, i, 0, 0, &[1, 2]),
                1 => guest.request(OP_WRITE, i, i, &[(1, 0, 7)]),
                _ => guest.request(OP_READ, i, i, &[(2, 1, 5), (3, 0, 0)]),
            })
            .collect();
        guest.send(0, &requests);
        let begun = Instant::now();
        let mut seed = 0x1234_5678_9abc_def1u64;
        while begun.elapsed() < Duration::from_millis(400) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let [at, at_high, value, which, req_prod, ..] = seed.to_le_bytes();
            let at = 64 + usize::from(u16::from_le_bytes([at, at_high])) % (PAGE_LEN - 64);
            // Junk in the slots and the table, and a req_prod that stays plausible now and then.
            assert!(guest.queues[0].pages.write(at, &[value]));
            assert!(guest.data.write(at, &[value]));
            if which < 8 {
                assert!(guest.queues[0].pages.write(0, &[req_prod % 48]));
            }
            guest.queues[0].port.notify().unwrap();
        }

        worker.redial();
        assert!(matches!(worker.ask(&ToWorker::Hello { version: 1 }), FromWorker::Hello { .. }));
        worker.tell(&ToWorker::Disconnect);
        while !matches!(worker.hear(), FromWorker::Disconnected) {}
        assert!(worker.child.wait().unwrap().success());
        assert_eq!(world.guest.held(), Held::default());
    }
}

/// R9: the guest closes its end of the event channel in the middle of its I/O: what was taken is finished, and all is let go.
#[test]
fn port_closed_midway() {
    let world = World::new(MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let worker = serving(&world, &guest, TransferMode::Copy);
    guest.send(0, &vec![guest.request(OP_READ, 1, 0, &[(0, 0, 7)]); 32]);

    let other = world.guest.allocate_port(DomId::DOM0).unwrap();
    drop(std::mem::replace(&mut guest.queues[0].port, other));

    let begun = Instant::now();
    let mut answered = 0;
    while answered < 32 {
        assert!(begun.elapsed() < LIMIT);
        answered += guest.poll(0).len();
    }
    worker.disconnect();
    assert_eq!(world.guest.held(), Held::default());
}

/// R15: the guest is destroyed with I/O in flight and pages mapped: nothing of it is held afterwards.
#[test]
fn destroyed_under_load() {
    for mode in MODES {
        let world = World::new(MIB);
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 352);
        let worker = serving(&world, &guest, mode);
        let requests: Vec<_> = (0..32)
            .map(|i| {
                let segments: Vec<_> = (i * 11..i * 11 + 11).map(|page| (page, 0, 7)).collect();
                guest.request(OP_WRITE, i as u64, 0, &segments)
            })
            .collect();
        guest.send(0, &requests);

        world.host.destroy(world::GUEST).unwrap();

        worker.disconnect();
        assert_eq!(world.guest.held(), Held::default());
    }
}

/// R16: answers that nobody takes hold the ring, nothing else; when they are taken, all goes on.
#[test]
fn answers_nobody_takes() {
    let world = World::new(MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let mut worker = serving(&world, &guest, TransferMode::Copy);
    guest.send(0, &vec![guest.request(OP_READ, 1, 0, &[(0, 0, 7)]); 32]);
    std::thread::sleep(Duration::from_millis(50));
    for _ in 0..1000 {
        guest.queues[0].port.notify().unwrap();
    }

    worker.redial();
    assert!(matches!(
        worker.ask(&ToWorker::Hello { version: 1 }),
        FromWorker::Hello { phase: Phase::Connected, .. }
    ));
    assert_eq!(guest.answers(0, 32).len(), 32);
    assert_eq!(guest.ask(0, guest.request(OP_READ, 2, 0, &[(0, 0, 7)])), 0);
    worker.disconnect();
}
