//! What a connected vbd does for an honest frontend, from `Open` to `Disconnected`, in the real process.

#![allow(clippy::unwrap_used)] // helpers of tests

mod world;

use std::os::unix::fs::FileExt;

use blkback::wire::{OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE, OP_WRITE_BARRIER};
use worker::message::{Abi, Connect, FromWorker, Phase, ToWorker, TransferMode};
use world::{Frontend, Worker, World};
use xen_ring::PAGE_LEN;

const MIB: u64 = 1 << 20;

const MODES: [TransferMode; 2] = [TransferMode::Copy, TransferMode::Persistent];

fn serving(world: &World, frontend: &Frontend) -> Worker {
    serving_in(world, frontend, TransferMode::Copy)
}

fn serving_in(world: &World, frontend: &Frontend, mode: TransferMode) -> Worker {
    let mut worker = Worker::spawn(world.dir.path());
    assert!(matches!(
        worker.ask(&ToWorker::Hello { version: 1 }),
        FromWorker::Hello { phase: Phase::Started, opened: None, .. }
    ));
    worker.open(world.open());
    assert_eq!(worker.connect(Connect { mode, ..world.connect(frontend) }), 0);
    worker
}

/// Bytes written by the guest are on the disk and come back, in both layouts, at sector granularity; then all is let go.
#[test]
fn writes_reach_the_disk_and_come_back() {
    for abi in [Abi::Native64, Abi::X86_32] {
        let world = World::new(16 * MIB);
        let mut guest = Frontend::new(&world.guest, 1, 0, abi, 16);
        let worker = serving(&world, &guest);
        guest.fill(0, 0xa1);
        guest.fill(1, 0xb2);

        let segments = [(0, 0, 7), (1, 2, 4)];
        assert_eq!(guest.ask(0, guest.request(OP_WRITE, 1, 9, &segments)), 0);
        assert_eq!(guest.ask(0, guest.request(OP_FLUSH_DISKCACHE, 2, 0, &[])), 0);
        assert_eq!(guest.ask(0, guest.request(OP_READ, 3, 12, &[(2, 0, 7)])), 0);

        let mut on_disk = [0; 11 * 512];
        std::fs::File::open(&world.image).unwrap().read_exact_at(&mut on_disk, 9 * 512).unwrap();
        assert_eq!(on_disk[..PAGE_LEN], [0xa1; PAGE_LEN]);
        assert_eq!(on_disk[PAGE_LEN..], [0xb2; 3 * 512]);
        assert_eq!(guest.page(2)[..5 * 512], [0xa1; 5 * 512]);
        assert_eq!(guest.page(2)[5 * 512..], [0xb2; 3 * 512]);
        worker.disconnect();
        assert_eq!(world.guest.held(), xenbus::sim::Held::default(), "nothing mapped or bound is left");
    }
}

/// B28: sectors within a page go from where they are named and to where they are named, and the rest of the page stays as it was.
#[test]
fn sectors_within_a_page() {
    let page = |first: u8| -> Vec<u8> { (0..8).flat_map(|i| [first + i; 512]).collect() };
    for mode in MODES {
        let world = World::new(MIB);
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 2);
        let worker = serving_in(&world, &guest, mode);
        assert!(guest.data.write(0, &page(0x10)) && guest.data.write(PAGE_LEN, &page(0xa0)));

        assert_eq!(guest.ask(0, guest.request(OP_WRITE, 1, 40, &[(0, 3, 5)])), 0);
        assert_eq!(guest.ask(0, guest.request(OP_READ, 2, 40, &[(1, 1, 3)])), 0);

        let mut expected = page(0xa0);
        expected[512..4 * 512].copy_from_slice(&page(0x10)[3 * 512..6 * 512]);
        assert_eq!(guest.page(1), expected, "{mode:?}");
        worker.disconnect();
    }
}

/// A megabyte by an indirect request, larger than a chunk and as large as the queue's buffers.
#[test]
fn indirect_requests() {
    for mode in MODES {
        let world = World::new(16 * MIB);
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 600);
        let worker = serving_in(&world, &guest, mode);
        let out: Vec<usize> = (1..257).collect();
        let back: Vec<usize> = (301..557).collect();
        for &page in &out {
            guest.fill(page, u8::try_from(page % 251).unwrap());
        }

        let write = guest.indirect(OP_WRITE, 1, 8, 0, &out);
        let read = guest.indirect(OP_READ, 2, 8, 300, &back);
        guest.send(0, &[write]);
        let wrote = guest.answers(0, 1)[0];
        guest.send(0, &[read]);
        let done = guest.answers(0, 1)[0];

        assert_eq!((wrote.operation, wrote.status), (OP_WRITE, 0));
        assert_eq!((done.operation, done.status), (OP_READ, 0), "the inner operation is echoed");
        for (a, b) in out.iter().zip(&back) {
            assert_eq!(guest.page(*a), guest.page(*b));
        }
        worker.disconnect();
    }
}

/// Full rings on two queues with more data than there are buffers: all waits, nothing fails.
#[test]
fn two_full_queues_share_few_buffers() {
    for mode in MODES {
        let world = World::new(64 * MIB);
        let mut guest = Frontend::new(&world.guest, 2, 2, Abi::Native64, 2 * 128 * 11);
        let worker = serving_in(&world, &guest, mode);
        for round in 0..3u64 {
            for queue in 0..2usize {
                let requests: Vec<_> = (0..128usize)
                    .map(|i| {
                        let first = (queue * 128 + i) * 11;
                        let segments: Vec<_> = (first..first + 11).map(|page| (page, 0, 7)).collect();
                        segments.iter().for_each(|s| guest.fill(s.0, u8::try_from((s.0 + 1) % 251).unwrap()));
                        let operation = if round == 2 { OP_READ } else { OP_WRITE };
                        guest.request(operation, i as u64, first as u64 * 8, &segments)
                    })
                    .collect();
                guest.send(queue, &requests);
            }
            for queue in 0..2 {
                let mut answers = guest.answers(queue, 128);
                answers.sort_unstable();
                assert!(answers.iter().zip(0..).all(|(a, i)| a.id == i && a.status == 0), "{answers:?}");
            }
        }
        let image = std::fs::read(&world.image).unwrap();
        for page in 0..2 * 128 * 11usize {
            assert_eq!(image[page * PAGE_LEN], u8::try_from((page + 1) % 251).unwrap(), "page {page}");
        }
        worker.disconnect();
    }
}

/// B20: barriers among writes, 32 back to back, with and without data: order is kept and each is answered.
#[test]
fn barriers() {
    for mode in MODES {
        let world = World::new(16 * MIB);
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 32);
        let worker = serving_in(&world, &guest, mode);
        let requests: Vec<_> = (0..32usize)
            .map(|i| {
                guest.fill(i, u8::try_from(i + 1).unwrap());
                match i % 4 {
                    0 => guest.request(OP_WRITE, i as u64, 0, &[(i, 0, 7)]),
                    3 => guest.request(OP_WRITE_BARRIER, i as u64, 0, &[]),
                    _ => guest.request(OP_WRITE_BARRIER, i as u64, 0, &[(i, 0, 7)]),
                }
            })
            .collect();

        guest.send(0, &requests);
        let answers = guest.answers(0, 32);

        assert!(answers.iter().zip(0..).all(|(a, i)| a.id == i && a.status == 0), "{answers:?}");
        let image = std::fs::read(&world.image).unwrap();
        assert_eq!(image[..PAGE_LEN], [31; PAGE_LEN], "the last barrier's data came last");
        worker.disconnect();
    }
}

/// B20: a barrier waits for an indirect request before it, too, although that one's table has to be fetched first.
#[test]
fn a_barrier_behind_an_indirect_request() {
    for mode in MODES {
        let world = World::new(16 * MIB);
        let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 64);
        let worker = serving_in(&world, &guest, mode);
        let pages: Vec<usize> = (1..33).collect();
        pages.iter().for_each(|&page| guest.fill(page, 1));
        guest.fill(40, 2);
        let write = guest.indirect(OP_WRITE, 0, 0, 50, &pages);
        let barrier = guest.request(OP_WRITE_BARRIER, 1, 0, &[(40, 0, 7)]);

        guest.send(0, &[write, barrier]);
        let answers = guest.answers(0, 2);

        assert!(answers.iter().zip(0..).all(|(a, i)| a.id == i && a.status == 0), "{answers:?}");
        let image = std::fs::read(&world.image).unwrap();
        assert_eq!(image[..PAGE_LEN], [2; PAGE_LEN], "the barrier's data came last");
        worker.disconnect();
    }
}

/// Discard gives blocks back and reads as zeroes; a piece beyond the end is refused.
#[test]
fn discard_punches_holes() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new(16 * MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 16);
    let worker = serving(&world, &guest);
    guest.fill(0, 0xff);
    let all: Vec<_> = (0..11).map(|_| (0, 0, 7)).collect();
    assert_eq!(guest.ask(0, guest.request(OP_WRITE, 1, 0, &all)), 0);
    assert_eq!(guest.ask(0, guest.request(OP_FLUSH_DISKCACHE, 2, 0, &[])), 0);
    let before = std::fs::metadata(&world.image).unwrap().blocks();

    assert_eq!(guest.ask(0, guest.discard(3, 0, 80)), 0);
    assert_eq!(guest.ask(0, guest.discard(4, 16 * MIB / 512 - 1, 2)), -1);
    assert_eq!(guest.ask(0, guest.request(OP_READ, 5, 0, &[(1, 0, 7)])), 0);

    assert!(std::fs::metadata(&world.image).unwrap().blocks() < before);
    assert_eq!(guest.page(1), [0; PAGE_LEN]);
    worker.disconnect();
}

/// splitd dies and comes back: I/O goes on meanwhile and the new one hears where the worker stands.
#[test]
fn survives_splitd() {
    let world = World::new(16 * MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 16);
    let mut worker = serving(&world, &guest);

    worker.socket.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(guest.ask(0, guest.request(OP_WRITE, 1, 0, &[(0, 0, 7)])), 0);
    worker.redial();

    match worker.ask(&ToWorker::Hello { version: 1 }) {
        FromWorker::Hello { phase: Phase::Connected, opened: Some(_), connection: Some(1), .. } => {}
        other => panic!("{other:?}"),
    }
    worker.disconnect();
}

/// The disk grows and shrinks under a connected guest: noticed by itself, and the new end holds (B29).
#[test]
fn resize_is_noticed() {
    let world = World::new(16 * MIB);
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 16);
    let mut worker = serving(&world, &guest);
    let image = std::fs::OpenOptions::new().write(true).open(&world.image).unwrap();
    let last = |mib: u64| mib * MIB / 512 - 8;
    assert_eq!(guest.ask(0, guest.request(OP_READ, 1, last(32), &[(0, 0, 7)])), -1);

    image.set_len(32 * MIB).unwrap();
    assert_eq!(worker.hear(), FromWorker::Resized { capacity_sectors: 32 * MIB / 512 });
    assert_eq!(guest.ask(0, guest.request(OP_READ, 2, last(32), &[(0, 0, 7)])), 0);
    image.set_len(16 * MIB).unwrap();
    worker.tell(&ToWorker::Refresh);
    assert_eq!(worker.hear(), FromWorker::Resized { capacity_sectors: 16 * MIB / 512 });
    assert_eq!(guest.ask(0, guest.request(OP_READ, 3, last(32), &[(0, 0, 7)])), -1);
    worker.disconnect();
}

/// Loop devices need root; where there are none, the lab's scenario `large_blocks` is what is left of these tests.
fn has_loop_devices() -> bool {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/loop-control");
    if let Err(e) = &opened {
        eprintln!("SKIPPED: /dev/loop-control: {e}");
    }
    opened.is_ok()
}

fn losetup(arguments: &[&str]) -> String {
    let output = std::process::Command::new("losetup").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Sectors of 512 bytes on a disk of 4 KiB blocks (hostile case B28, too): many small writes into the same blocks from two queues
/// at once, each of which must leave its neighbours alone; reads at any sector; discards of parts of blocks.
#[test]
fn sectors_on_large_blocks() {
    if !has_loop_devices() {
        return;
    }
    let mut world = World::new(16 * MIB);
    let image = world.image.to_str().unwrap().to_owned();
    let device = losetup(&["--direct-io=on", "--sector-size", "4096", "--find", "--show", &image]);
    world.image = device.clone().into();
    let mut guest = Frontend::new(&world.guest, 2, 0, Abi::Native64, 64);
    let mut worker = Worker::spawn(world.dir.path());
    let opened = worker.open(world.open());
    worker.connect(Connect { mode: TransferMode::Persistent, ..world.connect(&guest) });
    assert_eq!(opened.logical_block_len_bytes, 4096);

    for round in 0..20u64 {
        for queue in 0..2 {
            let requests: Vec<_> = (0..32u64)
                .map(|i| {
                    let sector = i * 2 + queue as u64;
                    let page = usize::try_from(i).unwrap() * 2 + queue;
                    guest.fill(page, u8::try_from((round * 64 + sector) % 251).unwrap());
                    guest.request(OP_WRITE, i, sector, &[(page, 3, 3)])
                })
                .collect();
            guest.send(queue, &requests);
        }
        for queue in 0..2 {
            assert!(guest.answers(queue, 32).iter().all(|a| a.status == 0));
        }
        let expected = |sector: u64| u8::try_from((round * 64 + sector) % 251).unwrap();
        assert_eq!(guest.ask(0, guest.request(OP_READ, 1, 5, &[(0, 1, 7), (1, 0, 7)])), 0);
        for (i, sector) in (5..12).enumerate() {
            assert_eq!(
                guest.page(0)[(i + 1) * 512..(i + 2) * 512],
                [expected(sector); 512],
                "sector {sector}"
            );
        }
        assert_eq!(guest.page(1)[..512], [expected(12); 512]);
    }
    guest.fill(0, 0xd1);
    let segments = [(0, 5, 7), (0, 0, 7), (0, 0, 2)];
    assert_eq!(guest.ask(0, guest.request(OP_WRITE, 2, 101, &segments)), 0, "head, whole block, tail");
    assert_eq!(guest.ask(0, guest.discard(3, 1, 8)), 0, "no whole block: kept");
    assert_eq!(guest.ask(0, guest.discard(4, 13, 12)), 0, "one whole block: gone");
    assert_eq!(guest.ask(0, guest.request(OP_FLUSH_DISKCACHE, 5, 0, &[])), 0);
    worker.disconnect();
    losetup(&["--detach", &device]);

    let bytes = std::fs::read(image).unwrap();
    let sector = |i: usize| &bytes[i * 512..(i + 1) * 512];
    let kept = |i: usize| [u8::try_from((19 * 64 + i) % 251).unwrap(); 512];
    assert!((0..16).chain(24..64).all(|i| sector(i) == kept(i)));
    assert!((16..24).all(|i| sector(i) == [0; 512]));
    assert!(
        (101..115).all(|i| sector(i) == [0xd1; 512]) && sector(100) == [0; 512] && sector(115) == [0; 512]
    );
}

/// A block device: its own blocks and size, and discards by ioctl off the queue's thread. Needs root and a loop device.
#[test]
fn block_device() {
    if !has_loop_devices() {
        return;
    }
    let mut world = World::new(16 * MIB);
    let device = losetup(&["--direct-io=on", "--find", "--show", world.image.to_str().unwrap()]);
    let image = std::mem::replace(&mut world.image, device.clone().into());
    let mut guest = Frontend::new(&world.guest, 1, 0, Abi::Native64, 16);
    let mut worker = Worker::spawn(world.dir.path());
    let opened = worker.open(world.open());
    worker.connect(world.connect(&guest));
    guest.fill(0, 0xc3);

    let wrote = guest.ask(0, guest.request(OP_WRITE, 1, 0, &[(0, 0, 7), (0, 0, 7)]));
    let discarded = guest.ask(0, guest.discard(2, 0, 8));
    let flushed = guest.ask(0, guest.request(OP_FLUSH_DISKCACHE, 3, 0, &[]));
    worker.disconnect();
    losetup(&["--detach", &device]);

    assert!(opened.identity.starts_with("dev:7:") && opened.discard.is_some(), "{opened:?}");
    assert_eq!((wrote, discarded, flushed), (0, 0, 0));
    let bytes = std::fs::read(image).unwrap();
    assert_eq!(bytes[..PAGE_LEN], [0; PAGE_LEN]);
    assert_eq!(bytes[PAGE_LEN..2 * PAGE_LEN], [0xc3; PAGE_LEN]);
}
