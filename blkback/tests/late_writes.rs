//! A killed worker's last write that lands late: with the fence, before its successor does anything; without it, over what the guest wrote
//! and was told is there. The second is what the first rests on: this disk really is that late. Needs the feature `crash-points`.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod late_disk;
mod world;

use std::time::Duration;

use blkback::wire::OP_WRITE;
use late_disk::LateDisk;
use worker::message::{Abi, Connect, FromWorker, Open, ToWorker};
use world::{Frontend, Worker, World};
use xen_ring::PAGE_LEN;

struct Bed {
    disk: LateDisk,
    guest: Frontend,
    world: World,
}

impl Bed {
    fn open(&self) -> Open {
        Open { target: self.disk.path(), discard: false, ..self.world.open() }
    }

    fn connect(&self) -> Connect {
        self.world.connect(&self.guest)
    }
}

/// A worker is killed while the disk holds its write of ones back; its successor has been told to connect.
fn killed_mid_write(environment: &[(&str, &str)]) -> Option<(Bed, Worker)> {
    let world = World::new(1 << 20);
    let disk = LateDisk::mount(world.dir.path(), 1 << 20)?;
    let guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 2);
    let mut bed = Bed { disk, guest, world };
    let mut first = Worker::spawn(bed.world.dir.path());
    first.open(bed.open());
    first.connect(bed.connect());
    bed.disk.hold_next_write();
    bed.guest.fill(0, 1);
    bed.guest.send(0, &[bed.guest.request(OP_WRITE, 1, 0, &[(0, 0, 7)])]);
    bed.disk.wait_until_held();
    first.kill();
    let mut successor = Worker::spawn_with(bed.world.dir.path(), environment);
    successor.open(bed.open());
    successor.tell(&ToWorker::Connect(bed.connect()));
    Some((bed, successor))
}

impl Bed {
    /// The guest hears of its first write, and writes twos over it.
    fn write_twos(&mut self) {
        assert_eq!(self.guest.answers(0, 1).first().map(|a| (a.id, a.status)), Some((1, 0)));
        self.guest.fill(1, 2);
        assert_eq!(self.guest.ask(0, self.guest.request(OP_WRITE, 2, 0, &[(1, 0, 7)])), 0);
    }
}

/// Nothing is answered before the late write has landed; what the guest writes then stays.
#[test]
fn a_successor_waits_for_a_late_write() {
    let Some((mut bed, mut successor)) = killed_mid_write(&[]) else { return };
    std::thread::sleep(Duration::from_millis(500));
    assert!(bed.guest.poll(0).is_empty(), "answered while the predecessor's write is under way");

    bed.disk.release();
    match successor.hear() {
        FromWorker::Connected { replayed: 1, fence_ms, .. } => assert!(fence_ms >= 400, "{fence_ms}"),
        other => panic!("{other:?}"),
    }
    bed.write_twos();
    assert_eq!(bed.disk.read(0, PAGE_LEN), [2; PAGE_LEN]);
    successor.disconnect();
}

/// The same without the fence: the guest's later write was answered, and is lost.
#[test]
fn without_the_fence_a_late_write_is_corruption() {
    let Some((mut bed, mut successor)) = killed_mid_write(&[("SPLITD_WITHOUT", "fence")]) else { return };
    assert!(matches!(successor.hear(), FromWorker::Connected { replayed: 1, .. }));
    bed.write_twos();
    assert_eq!(bed.disk.read(0, PAGE_LEN), [2; PAGE_LEN]);

    bed.disk.release();

    assert_eq!(bed.disk.read(0, PAGE_LEN), [1; PAGE_LEN], "the disk of this test does not write late");
    successor.disconnect();
}
