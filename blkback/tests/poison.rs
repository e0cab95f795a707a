//! A request that ends every worker that does it. Its successors find it out and answer it with an error, all others as ever; but
//! never a flush, of which blkfront would make success. Needs the feature `crash-points`.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod world;

use blkback::wire::{OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE};
use worker::message::{Abi, Connect, Fault, FromWorker, ToWorker};
use world::{Frontend, Worker, World};

/// Longer than any chain of deaths that leads to an end here.
const WORKERS_MAX: u32 = 10;

/// Starts successors until one lives; what it said of its predecessors, and how many died.
fn until_one_lives(world: &World, guest: &Frontend, poison: u64) -> (Worker, FromWorker, u32) {
    for died in 0..WORKERS_MAX {
        let sector = poison.to_string();
        let mut worker = Worker::spawn_with(world.dir.path(), &[("SPLITD_POISON_SECTOR", &sector)]);
        worker.open(world.open());
        worker.tell(&ToWorker::Connect(Connect { predecessor_crashed: died > 0, ..world.connect(guest) }));
        // It may live long enough to say that it serves, or not.
        let said = worker.try_hear();
        let lives = matches!(said, Some(FromWorker::Failed { .. })) || worker.outlives_its_work();
        match said {
            Some(said) if lives => return (worker, said, died),
            _ => {}
        }
    }
    panic!("{WORKERS_MAX} workers died");
}

/// One of five requests is deadly: four workers die before it is known (one that took it, one of all together, two of it alone),
/// which is one less than splitd allows; then it alone fails, and the disk serves on.
#[test]
fn a_deadly_request_is_found_and_given_up() {
    let world = World::new(1 << 20);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 5);
    let requests: Vec<_> = (0u64..5)
        .map(|i| {
            let page = usize::try_from(i).unwrap();
            guest.fill(page, 0x11);
            guest.request(if i == 1 { OP_READ } else { OP_WRITE }, i, i * 8, &[(page, 0, 7)])
        })
        .collect();
    guest.send(0, &requests);

    let (worker, said, died) = until_one_lives(&world, &guest, 16);

    assert!(matches!(said, FromWorker::Connected { given_up: 1, .. }), "{said:?}");
    assert_eq!(died, 4);
    let mut answers: Vec<_> = guest.answers(0, 5).iter().map(|a| (a.id, a.status)).collect();
    answers.sort_unstable();
    assert_eq!(answers, [(0, 0), (1, 0), (2, -1), (3, 0), (4, 0)]);
    assert_eq!(guest.ask(0, guest.request(OP_WRITE, 9, 0, &[(0, 0, 7)])), 0, "serves on");
    worker.disconnect();
}

/// Workers that are killed, however often and over whatever, say nothing about what they did.
#[test]
fn a_kill_blames_nobody() {
    let world = World::new(1 << 20);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    guest.send(0, &[guest.request(OP_WRITE, 1, 16, &[(0, 0, 7)])]);
    for _ in 0..6 {
        let mut worker = Worker::spawn_with(
            world.dir.path(),
            &[("SPLITD_CRASH_POINT", "after_taken"), ("SPLITD_POISON_SECTOR", "16")],
        );
        worker.open(world.open());
        worker.tell(&ToWorker::Connect(world.connect(&guest)));
        worker.child.wait().unwrap();
    }
    let mut worker = Worker::spawn(world.dir.path());
    worker.open(world.open());
    assert_eq!(worker.connect(world.connect(&guest)), 1);
    assert_eq!(guest.answers(0, 1).first().map(|a| a.status), Some(0));
    worker.disconnect();
}

/// A deadly flush is never answered: the connection stays, and nobody serves it.
#[test]
fn a_deadly_flush_is_not_answered() {
    let world = World::new(1 << 20);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    guest.send(0, &[guest.request(OP_FLUSH_DISKCACHE, 1, 0, &[])]);

    let (_worker, said, _) = until_one_lives(&world, &guest, 0);

    match said {
        FromWorker::Failed { fault: Fault::Host, reason } => assert!(reason.contains("flush"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(guest.poll(0).is_empty(), "nothing is answered");
}
