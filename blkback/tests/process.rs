//! The worker as a process: what it refuses to open, the fence, its sandbox, its size.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod world;

use std::os::fd::AsFd;

use blkback::wire::OP_READ;
use worker::fence::{self, FenceKey};
use worker::message::{Abi, Connect, FromWorker, Open, Phase, ToWorker};
use world::{Frontend, Worker, World};
use xenbus::sim::Held;

const MIB: u64 = 1 << 20;

/// What `Open` refuses reaches the operator by name, and the worker still ends in order.
#[test]
fn open_refuses_by_name() {
    let world = World::new(MIB);
    for (open, word) in [
        (Open { target: "/nonexistent".into(), ..world.open() }, "/nonexistent"),
        (Open { max_queues: 0, ..world.open() }, "max_queues"),
        (Open { max_ring_order: 5, ..world.open() }, "max_ring_order"),
        (Open { buffer_len_bytes: 4096, ..world.open() }, "buffer_len_bytes"),
        (Open { max_indirect_segments: 4096, ..world.open() }, "max_indirect_segments"),
        (Open { frontend: 0x7ff0, ..world.open() }, "frontend"),
    ] {
        let mut worker = Worker::spawn(world.dir.path());
        match worker.ask(&ToWorker::Open(open)) {
            FromWorker::Failed { reason, .. } => assert!(reason.contains(word), "{reason}"),
            other => panic!("{other:?}"),
        }
        worker.disconnect();
    }
}

/// The fence: while anybody else's I/O on the device may be in flight nothing is mapped or answered; too long means frozen with
/// an alarm, still detachable; its end means served. A disk for reading alone has one, too: what a dead worker still reads keeps the
/// event channel.
#[test]
fn fence_holds_back_and_lets_go() {
    held_back_and_let_go(fence::Open::ReadWrite);
    held_back_and_let_go(fence::Open::ReadOnly);
}

fn held_back_and_let_go(how: fence::Open) {
    let read_only = how == fence::Open::ReadOnly;
    let world = World::new(MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let predecessor = std::fs::OpenOptions::new().read(true).write(!read_only).open(&world.image).unwrap();
    let open = || Open { read_only, ..world.open() };
    let key = FenceKey::new(&open().vm_uuid, open().devid);
    assert!(fence::try_lock(predecessor.as_fd(), how, key).unwrap());
    guest.send(0, &[guest.request(OP_READ, 1, 0, &[(0, 0, 7)])]);
    let connect = Connect { fence_timeout_ms: 50, ..world.connect(&guest) };

    let mut gives_up = Worker::spawn(world.dir.path());
    gives_up.open(open());
    assert!(matches!(gives_up.ask(&ToWorker::Connect(connect.clone())), FromWorker::Frozen { .. }));
    gives_up.disconnect();

    let mut waits = Worker::spawn(world.dir.path());
    waits.open(open());
    assert!(matches!(waits.ask(&ToWorker::Connect(connect)), FromWorker::Frozen { .. }));
    assert!(guest.poll(0).is_empty());
    assert_eq!(world.guest.held(), Held::default(), "nothing is touched before the fence");
    drop(predecessor);
    assert_eq!(waits.hear(), FromWorker::Thawed);
    assert!(matches!(waits.hear(), FromWorker::Connected { .. }));
    assert_eq!(guest.answers(0, 1)[0].status, 0);
    match waits.ask(&ToWorker::Hello { version: 1 }) {
        FromWorker::Hello { phase: Phase::Connected, .. } => {}
        other => panic!("{other:?}"),
    }
    waits.disconnect();
}

/// A worker that serves but has nothing to do is small: its own memory beside the buffers stays below 4 MiB.
#[test]
fn idle_worker_is_small() {
    let world = World::new(MIB);
    let guest = Frontend::new(&world.guest, 2, 0, Abi::Native64, 1);
    let mut worker = Worker::spawn(world.dir.path());
    worker.open(world.open());
    worker.connect(world.connect(&guest));

    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", worker.child.id())).unwrap();
    let kib = |name: &str| -> u64 {
        let line = smaps.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let buffers_kib = world.open().buffer_len_bytes >> 10;

    assert!(kib("Private_Dirty:") < buffers_kib + 4096, "{smaps}");
    worker.disconnect();
}

/// The sandbox as the kernel sees it: every thread filtered, no new privileges, and, started as root, another user without any
/// capability.
#[test]
fn sandboxed() {
    let world = World::new(MIB);
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let is_root = own.lines().any(|l| l.starts_with("Uid:\t0\t"));
    let uid = is_root.then_some(61_234);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 1);
    let mut worker = Worker::spawn(world.dir.path());
    worker.open(Open { uid, ..world.open() });
    worker.connect(world.connect(&guest));
    assert_eq!(guest.ask(0, guest.request(OP_READ, 1, 0, &[(0, 0, 7)])), 0);

    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", worker.child.id())).unwrap() {
        // The thread of a queue that this frontend does not have may be ending just now.
        let Ok(status) = std::fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()), "{status}");
        assert_eq!(field("Seccomp_filters:"), "2", "tightened once connected");
        if let Some(uid) = uid {
            assert!(field("Uid:").split_whitespace().all(|u| u == uid.to_string()), "{status}");
            assert_eq!(field("CapPrm:"), "0000000000000000");
            assert_eq!(field("Groups:"), "");
        }
        threads += 1;
    }
    assert!(threads >= 2, "the control thread and the queue's");
    worker.disconnect();
}
