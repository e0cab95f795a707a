//! A worker that is killed at any moment costs its guest nothing: each request is answered once, every byte is right, and the
//! successor serves on the same ring (design: hitless restart).

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blkback::wire::{OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE};
use worker::message::{Abi, Connect, FromWorker, ToWorker, TransferMode};
use world::{Frontend, LIMIT, Worker, World};
use xen_ring::PAGE_LEN;

/// Pages of the disk that are written and read back, each by its own requests in turn.
const PAGES: usize = 64;

/// xorshift: the same run for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What a page of the disk is in the middle of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Write(u8),
    Read,
    Flush,
}

/// A guest with as many requests in flight as the ring holds, which checks every byte it reads.
struct Verifier {
    guest: Frontend,
    random: Random,
    disk: Vec<u8>,
    doing: BTreeMap<u64, (usize, Doing)>,
    next_id: u64,
    answered: u64,
}

impl Verifier {
    fn new(guest: Frontend, seed: u64) -> Self {
        let (disk, doing) = (vec![0; PAGES], BTreeMap::new());
        Self { guest, random: Random(seed), disk, doing, next_id: 0, answered: 0 }
    }

    /// Fills the ring with requests on pages that have none.
    fn fill(&mut self) {
        let mut requests = Vec::new();
        while self.doing.len() < 32 {
            let page = usize::try_from(self.random.below(PAGES as u64)).unwrap();
            if self.doing.values().any(|(p, _)| *p == page) {
                continue;
            }
            let (id, kind) = (self.next_id, self.random.below(16));
            self.next_id += 1;
            let segment = [(page, 0, 7)];
            let (doing, request) = match kind {
                0 => (Doing::Flush, self.guest.request(OP_FLUSH_DISKCACHE, id, 0, &[])),
                1..=7 => {
                    self.guest.fill(page, 0xee);
                    (Doing::Read, self.guest.request(OP_READ, id, page as u64 * 8, &segment))
                }
                8 => {
                    let byte = self.byte(page);
                    let table = PAGES + page;
                    (Doing::Write(byte), self.guest.indirect(OP_WRITE, id, page as u64 * 8, table, &[page]))
                }
                _ => {
                    let byte = self.byte(page);
                    (Doing::Write(byte), self.guest.request(OP_WRITE, id, page as u64 * 8, &segment))
                }
            };
            self.doing.insert(id, (page, doing));
            requests.push(request);
        }
        self.guest.send(0, &requests);
    }

    fn byte(&mut self, page: usize) -> u8 {
        let byte = u8::try_from(self.random.below(256)).unwrap();
        self.guest.fill(page, byte);
        byte
    }

    fn take_answers(&mut self) {
        for answer in self.guest.poll(0) {
            let (page, doing) = self
                .doing
                .remove(&answer.id)
                .unwrap_or_else(|| panic!("answered twice or never asked: {answer:?}"));
            assert_eq!(answer.status, 0);
            self.answered += 1;
            match doing {
                Doing::Write(byte) => self.disk[page] = byte,
                Doing::Read => assert_eq!(self.guest.page(page), [self.disk[page]; PAGE_LEN], "page {page}"),
                Doing::Flush => {}
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.take_answers();
            self.fill();
            let _ = self.guest.queues[0].ring.final_check().unwrap();
            self.guest.queues[0].port.wait(Duration::from_millis(1)).unwrap();
        }
    }

    fn finish(&mut self) {
        let begun = Instant::now();
        while !self.doing.is_empty() {
            assert!(begun.elapsed() < LIMIT, "{} never answered", self.doing.len());
            self.take_answers();
            let _ = self.guest.queues[0].ring.final_check().unwrap();
            self.guest.queues[0].port.wait(Duration::from_millis(10)).unwrap();
        }
    }
}

fn kill_again_and_again(mode: TransferMode, kills: u32) {
    let world = World::new(1 << 20);
    let guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, u32::try_from(2 * PAGES).unwrap());
    let connect = Connect { mode, ..world.connect(&guest) };
    let mut verifier = Verifier::new(guest, 0x5eed + u64::from(kills));
    let mut replayed = 0;
    for _ in 0..kills {
        let mut worker = Worker::spawn_with(world.dir.path(), &[("RUST_BACKTRACE", "1")]);
        worker.open(world.open());
        replayed += worker.connect(connect.clone());
        let time = Duration::from_micros(verifier.random.below(15_000));
        verifier.run_for(time);
        worker.kill();
        // As a guest that is on its own for a moment: it sees what was published and fills the ring again.
        verifier.take_answers();
        verifier.fill();
    }
    let mut worker = Worker::spawn(world.dir.path());
    worker.open(world.open());
    worker.connect(connect);
    verifier.finish();

    assert!(verifier.answered > u64::from(kills), "{} answered", verifier.answered);
    assert!(replayed > 0, "no kill ever left work behind");
    let image = std::fs::read(&world.image).unwrap();
    for (page, byte) in verifier.disk.iter().enumerate() {
        assert_eq!(
            image[page * PAGE_LEN..(page + 1) * PAGE_LEN],
            [*byte; PAGE_LEN],
            "page {page} on the disk"
        );
    }
    worker.disconnect();
}

/// At a full ring, at random moments, in copy mode.
#[test]
fn killed_under_load_copying() {
    kill_again_and_again(TransferMode::Copy, 60);
}

/// The same on the guest's own pages, which the dead worker's I/O still writes to until the fence is passed.
#[test]
fn killed_under_load_on_mapped_pages() {
    kill_again_and_again(TransferMode::Persistent, 60);
}

/// A successor that was told other terms than the dead worker promised refuses, instead of serving on a ring it would misread.
#[test]
fn other_terms_are_refused() {
    let world = World::new(1 << 20);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 4);
    let mut worker = Worker::spawn(world.dir.path());
    worker.open(world.open());
    worker.connect(world.connect(&guest));
    assert_eq!(guest.ask(0, guest.request(OP_WRITE, 1, 0, &[(0, 0, 7)])), 0);
    worker.kill();

    let mut successor = Worker::spawn(world.dir.path());
    successor.open(world.open());
    let other = Connect { abi: Abi::X86_32, ..world.connect(&guest) };
    assert!(matches!(successor.ask(&ToWorker::Connect(other)), FromWorker::Failed { .. }));
    successor.kill();

    let mut fresh = Worker::spawn(world.dir.path());
    fresh.open(world.open());
    let new_number = Connect { connection: 2, ..world.connect(&guest) };
    match fresh.ask(&ToWorker::Connect(new_number)) {
        FromWorker::Failed { reason, .. } => assert!(reason.contains("no journal"), "{reason}"),
        other => panic!("a used ring without its journal: {other:?}"),
    }
}

/// Every named crash point, the first time it is passed and later ones, in both modes: the places where a kill could hurt are
/// hit for certain, not by luck.
#[cfg(feature = "crash-points")]
#[test]
fn killed_at_every_crash_point() {
    const ALWAYS: [&str; 13] = [
        "after_fence",
        "after_map",
        "after_bind",
        "after_copy",
        "after_taken",
        "after_segments",
        "before_disk",
        "after_write",
        "after_flush",
        "after_staged",
        "before_publish",
        "after_publish",
        "before_notify",
    ];
    const COPYING: [&str; 3] = ["after_copy_in", "after_read", "after_copy_out"];
    for (mode, more) in [(TransferMode::Copy, &COPYING[..]), (TransferMode::Persistent, &[])] {
        let world = World::new(1 << 20);
        let guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, u32::try_from(2 * PAGES).unwrap());
        let connect = Connect { mode, ..world.connect(&guest) };
        let mut verifier = Verifier::new(guest, 0xc4a5);
        for name in ALWAYS.iter().chain(more) {
            for count in if name.starts_with("after_fence") || *name == "after_map" || *name == "after_bind" {
                vec![1]
            } else {
                vec![1, 2, 7, 40]
            } {
                let point = format!("{name}:{count}");
                let mut worker = Worker::spawn_with(world.dir.path(), &[("SPLITD_CRASH_POINT", &point)]);
                worker.open(world.open());
                worker.try_connect(connect.clone());
                let begun = Instant::now();
                while worker.child.try_wait().unwrap().is_none() {
                    assert!(begun.elapsed() < LIMIT, "{point} is never passed");
                    verifier.run_for(Duration::from_millis(2));
                }
                verifier.take_answers();
                verifier.fill();
            }
        }
        let mut worker = Worker::spawn(world.dir.path());
        worker.open(world.open());
        worker.connect(connect);
        verifier.finish();
        worker.disconnect();
    }
}

/// R12, B13 across a restart: a successor carries out the segments that were checked, not what the guest made of its table since.
#[cfg(feature = "crash-points")]
#[test]
fn tables_are_kept_with_their_requests() {
    let world = World::new(1 << 20);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 4);
    let connect = world.connect(&guest);
    let mut worker = Worker::spawn_with(world.dir.path(), &[("SPLITD_CRASH_POINT", "before_disk")]);
    worker.open(world.open());
    worker.connect(connect.clone());
    guest.fill(1, 0x5a);
    let write = guest.indirect(OP_WRITE, 1, 16, 0, &[1]);
    guest.send(0, &[write]);
    worker.child.wait().unwrap();
    guest.fill(0, 0xff);

    let mut successor = Worker::spawn(world.dir.path());
    successor.open(world.open());
    assert_eq!(successor.connect(connect), 1);

    assert_eq!(guest.answers(0, 1)[0].status, 0);
    assert_eq!(std::fs::read(&world.image).unwrap()[16 * 512..24 * 512], [0x5a; PAGE_LEN]);
    successor.disconnect();
}
