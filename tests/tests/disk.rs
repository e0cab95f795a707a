//! A guest's disk from end to end without Xen: the real splitd, splitctl and workers, a toolstack that does what libxl does, and
//! a frontend that verifies every byte. Numbers are those of the control plane's acceptance scenarios.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::time::Duration;

use splitd_tests::blkfront::{Frontend, Load, Options, Report};
use splitd_tests::blkif::Abi;
use splitd_tests::toolstack::{Paths, ToolError};
use splitd_tests::world::World;
use xenbus::sim::{Held, SimDomain};

const SECTORS: u64 = 1 << 17;

fn assert_clean(report: &Report, world: &World) {
    assert!(report.is_clean(), "{report:?}\n{}", world.log());
}

fn detach(
    world: &mut World,
    guest: &SimDomain,
    front: &mut Frontend,
    disk: &splitd_tests::toolstack::DiskConfig,
) {
    let paths = Paths::new(guest.id(), disk);
    world.tools.begin_detach(&paths, false).unwrap();
    front.wait_backend(&[5, 6]).unwrap();
    front.finish_close().unwrap();
    world.tools.finish_detach(disk, &paths).unwrap();
}

/// Scenarios 1, 7 and 11, with every shape of connection: attach, verify, detach, nothing left.
#[test]
fn a_disk_comes_serves_and_goes() {
    let shapes = [
        (Options::default(), "persistent = false"),
        (Options { abi: Abi::X86_32, ring_order: 4, depth: 128, ..Options::default() }, "persistent = false"),
        (
            Options { queues: 4, ring_order: 1, segments: 256, is_persistent: true, ..Options::default() },
            "persistent = true",
        ),
        (
            Options { queues: 2, segments: 64, is_persistent: true, ..Options::default() },
            "persistent = false",
        ),
    ];
    for (options, config) in shapes {
        let mut w = World::start(config).unwrap();
        let guest = w.guest(5).unwrap();
        let image = w.image("a.img", SECTORS).unwrap();
        let disk = w.disk(0, &image);
        w.attach(&guest, &disk).unwrap_or_else(|e| panic!("{e}\n{}", w.log()));
        let mut front = Frontend::connect(&guest, disk.devid, options.clone())
            .unwrap_or_else(|e| panic!("{e}\n{}", w.log()));
        assert_eq!(front.disk().sectors, SECTORS);
        assert_eq!(front.disk().is_persistent, options.is_persistent && config.ends_with("true"));

        for (align_sectors, discard_percent) in [(8, 0), (1, 2)] {
            let sectors = 1..options.segments as u64 * 8 + 1;
            let load =
                Load { operations: Some(1000), align_sectors, discard_percent, sectors, ..Load::default() };
            assert_clean(&front.run(&load).unwrap(), &w);
        }
        assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));

        detach(&mut w, &guest, &mut front, &disk);
        assert_eq!(guest.held(), Held::default());
        w.until("splitd has forgotten it", |w| w.show("vbd/5/xvda").is_err()).unwrap();
        assert_eq!(w.tools.store().list("/local/domain/0/backend/vbd").unwrap(), Vec::<String>::new());
    }
}

/// Scenario 19's kexec: the frontend closes, comes back with other rings, and finds its data.
#[test]
fn a_frontend_reconnects_and_finds_its_data() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front =
        Frontend::connect(&guest, disk.devid, Options { queues: 4, ..Options::default() }).unwrap();
    let load = Load { operations: Some(500), ..Load::default() };
    assert_clean(&front.run(&load).unwrap(), &w);

    for (queues, ring_order, abi) in [(1, 0, Abi::X86_32), (2, 2, Abi::Native64), (1, 0, Abi::Native64)] {
        front.reconnect(Options { queues, ring_order, abi, ..Options::default() }).unwrap();
        assert_eq!(front.queues().len(), queues as usize);
        assert_clean(&front.run(&load).unwrap(), &w);
    }
    detach(&mut w, &guest, &mut front, &disk);
    assert_eq!(guest.held(), Held::default());
}

/// Scenarios 4 and 9: a target that cannot be opened is an error in xl's own words, at once, and leaves nothing in the way.
#[test]
fn a_bad_target_is_told_and_the_next_one_works() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let bad = w.disk(0, std::path::Path::new("/no/such/image"));

    let error = w.attach(&guest, &bad).unwrap_err();

    let ToolError::Script(text) = &error else { panic!("{error}\n{}", w.log()) };
    assert!(text.contains("/no/such/image"), "{text}");
    let paths = Paths::new(guest.id(), &bad);
    assert!(matches!(w.attach(&guest, &bad), Err(ToolError::Exists(_))), "scenario 8");
    w.tools.begin_detach(&paths, false).unwrap();
    w.tools.finish_detach(&bad, &paths).unwrap();

    let image = w.image("a.img", SECTORS).unwrap();
    let good = w.disk(0, &image);
    w.attach(&guest, &good).unwrap();
    let mut front = Frontend::connect(&guest, good.devid, Options::default()).unwrap();
    assert_clean(&front.run(&Load { operations: Some(100), ..Load::default() }).unwrap(), &w);
}

/// Scenario 20: destroyed under full I/O; nothing of the domain is held, or it would be a zombie.
#[test]
fn a_destroyed_guest_is_let_go() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front =
        Frontend::connect(&guest, disk.devid, Options { queues: 4, ..Options::default() }).unwrap();
    let load = Load { operations: None, stall: Duration::from_millis(500), ..Load::default() };
    let running = front.start(&load).unwrap();
    std::thread::sleep(Duration::from_millis(200));

    w.tools
        .destroy(&w.host, &guest, std::slice::from_ref(&disk))
        .unwrap_or_else(|e| panic!("{e}\n{}", w.log()));

    w.until("nothing is held", |_| guest.held() == Held::default()).unwrap();
    running.stop();
    let report = running.finish(&mut front).unwrap();
    assert_eq!(report.verify_errors + report.io_errors, 0, "{report:?}");
}

/// Scenario 35: the image grows while it is served.
#[test]
fn a_grown_image_is_noticed_by_the_guest() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front = Frontend::connect(&guest, disk.devid, Options::default()).unwrap();
    assert_clean(&front.run(&Load { operations: Some(200), ..Load::default() }).unwrap(), &w);

    std::fs::File::options().write(true).open(&image).unwrap().set_len(2 * SECTORS * 512).unwrap();
    w.ask(splitd::protocol::Verb::Resize { device: "vbd/5/xvda".into() }).unwrap();

    front.wait_resized(2 * SECTORS).unwrap();
    let report = front.run(&Load { operations: Some(1000), seed: 9, ..Load::default() }).unwrap();
    assert_clean(&report, &w);
    assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));
}

/// Scenario 29's second half: splitd dies, I/O goes on, its successor adopts the worker, and detaching works.
#[test]
fn a_new_splitd_adopts_what_runs() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front = Frontend::connect(&guest, disk.devid, Options::default()).unwrap();
    let pid = w.show("vbd/5/xvda").unwrap().pid.unwrap();
    let running = front.start(&Load { operations: None, ..Load::default() }).unwrap();

    for _ in 0..3 {
        w.kill_splitd().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        w.start_splitd().unwrap();
        w.until("adopted", |w| w.show("vbd/5/xvda").is_ok_and(|r| r.worker == "serving")).unwrap();
        assert_eq!(w.show("vbd/5/xvda").unwrap().pid, Some(pid), "the same worker");
    }

    running.stop();
    assert_clean(&running.finish(&mut front).unwrap(), &w);
    detach(&mut w, &guest, &mut front, &disk);
    assert_eq!(guest.held(), Held::default());
}
