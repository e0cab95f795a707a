//! What a guest sees of a disk that fails: errors where they are honest, and silence where an error would be taken for success.
//! Needs the feature `crash-points`, which has the disk fail on command.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod world;

use std::time::Duration;

use blkback::wire::{OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE};
use worker::message::{Abi, Connect, FromWorker, Phase, ToWorker, TransferMode};
use world::{Frontend, Worker, World};
use xen_ring::PAGE_LEN;

fn serving(world: &World, frontend: &Frontend, mode: TransferMode, fault: &str) -> Worker {
    let mut worker = Worker::spawn_with(world.dir.path(), &[("SPLITD_DISK_FAULT", fault)]);
    worker.open(world.open());
    worker.connect(Connect { mode, ..world.connect(frontend) });
    worker
}

/// A failed flush is never answered: blkfront would make success of an error and never flush again. The device freezes with an
/// alarm, also on its other queue, and can still be detached; a successor flushes again and answers everything.
#[test]
fn failed_flush_freezes() {
    let world = World::new(1 << 20);
    let mut guest = Frontend::new(&world.guest, 2, 0, Abi::Native64, 2);
    let mut worker = serving(&world, &guest, TransferMode::Copy, "flush:5:2");
    assert_eq!(guest.ask(0, guest.request(OP_FLUSH_DISKCACHE, 1, 0, &[])), 0);

    guest.send(0, &[guest.request(OP_FLUSH_DISKCACHE, 2, 0, &[])]);
    match worker.hear() {
        FromWorker::Frozen { reason } => assert!(reason.contains("flush failed"), "{reason}"),
        other => panic!("{other:?}"),
    }
    guest.send(0, &[guest.request(OP_WRITE, 3, 0, &[(0, 0, 7)])]);
    guest.send(1, &[guest.request(OP_WRITE, 4, 8, &[(1, 0, 7)])]);
    std::thread::sleep(Duration::from_millis(100));
    assert!(guest.poll(0).is_empty() && guest.poll(1).is_empty(), "nothing is answered");
    worker.redial();
    assert!(matches!(
        worker.ask(&ToWorker::Hello { version: 1 }),
        FromWorker::Hello { phase: Phase::Frozen, .. }
    ));
    assert!(matches!(worker.hear(), FromWorker::Frozen { .. }));
    worker.disconnect();

    let mut successor = Worker::spawn(world.dir.path());
    successor.open(world.open());
    successor.connect(world.connect(&guest));
    assert!(guest.answers(0, 2).iter().all(|a| a.status == 0));
    assert!(guest.answers(1, 1).iter().all(|a| a.status == 0));
    successor.disconnect();
}

/// A flush that the kernel ends well while another queue's has failed, and nobody has heard of that yet, is not answered either: the
/// kernel tells an error of the file once, and what it lost may be this one's.
#[test]
fn success_beside_an_unheard_failure_is_not_answered() {
    let world = World::new(1 << 20);
    let mut guest = Frontend::new(&world.guest, 2, 0, Abi::Native64, 2);
    let faults = [("SPLITD_DISK_FAULT", "flush:5:1"), ("SPLITD_PAUSE", "flush_failed:2000")];
    let mut worker = Worker::spawn_with(world.dir.path(), &faults);
    worker.open(world.open());
    worker.connect(world.connect(&guest));

    guest.send(0, &[guest.request(OP_FLUSH_DISKCACHE, 1, 0, &[])]);
    // Long enough for the first to have been ended by the kernel; its queue then stands still for two seconds.
    std::thread::sleep(Duration::from_millis(300));
    guest.send(
        1,
        &[guest.request(OP_FLUSH_DISKCACHE, 2, 0, &[]), guest.request(OP_WRITE, 3, 8, &[(1, 0, 7)])],
    );
    let early = guest.answers(1, 1);

    assert_eq!(early.iter().map(|a| (a.id, a.status)).collect::<Vec<_>>(), [(3, 0)], "the write alone");
    assert!(matches!(worker.hear(), FromWorker::Frozen { .. }));
    std::thread::sleep(Duration::from_millis(100));
    assert!(guest.poll(0).is_empty() && guest.poll(1).is_empty(), "nothing is answered");
    worker.disconnect();
}

/// EIO and ENOSPC of data are errors of that request alone; EAGAIN, EINTR and dom0's own ENOMEM are not seen at all.
#[test]
fn data_errors() {
    for mode in [TransferMode::Copy, TransferMode::Persistent] {
        let passing = [(libc::EAGAIN, 0), (libc::EINTR, 0), (libc::ENOMEM, 0)];
        for (errno, status) in [(libc::EIO, -1), (libc::ENOSPC, -1)].into_iter().chain(passing) {
            let world = World::new(1 << 20);
            let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 2);
            let worker = serving(&world, &guest, mode, &format!("data:{errno}:2"));

            let statuses: Vec<_> =
                (0..4).map(|i| guest.ask(0, guest.request(OP_WRITE, i, 0, &[(0, 0, 7)]))).collect();

            assert_eq!(statuses, [0, status, 0, 0], "errno {errno}");
            worker.disconnect();
        }
    }
}

/// A failed discard is an error, never EOPNOTSUPP, which would end discards for good.
#[test]
fn discard_error() {
    let world = World::new(1 << 20);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let worker = serving(&world, &guest, TransferMode::Copy, &format!("discard:{}:1", libc::EOPNOTSUPP));

    assert_eq!(guest.ask(0, guest.discard(1, 0, 8)), -1);
    assert_eq!(guest.ask(0, guest.discard(2, 0, 8)), 0);
    worker.disconnect();
}

/// Every operation comes back half done and is taken up where it stopped, on buffers and on mapped pages.
#[test]
fn short_operations_go_on() {
    for mode in [TransferMode::Copy, TransferMode::Persistent] {
        let world = World::new(1 << 20);
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 22);
        let worker = serving(&world, &guest, mode, "data:0");
        let out: Vec<_> = (0..11).map(|page| (page, 0, 7)).collect();
        let back: Vec<_> = (11..22).map(|page| (page, 0, 7)).collect();
        (0..11).for_each(|page| guest.fill(page, u8::try_from(page + 1).unwrap()));

        assert_eq!(guest.ask(0, guest.request(OP_WRITE, 1, 0, &out)), 0);
        assert_eq!(guest.ask(0, guest.request(OP_READ, 2, 0, &back)), 0);

        for page in 0..11 {
            assert_eq!(guest.page(page + 11), [u8::try_from(page + 1).unwrap(); PAGE_LEN]);
        }
        worker.disconnect();
    }
}
