//! More of the control plane's acceptance scenarios, as far as they need no Xen, with real workers and verified data; each cites its
//! number.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::time::Duration;

use splitd_tests::blkfront::{Frontend, Load, Options};
use splitd_tests::toolstack::{DiskConfig, Hotplug, Paths, ToolError};
use splitd_tests::world::World;
use xenbus::sim::Held;

const SECTORS: u64 = 1 << 15;

fn load(operations: u64) -> Load {
    Load { operations: Some(operations), ..Load::default() }
}

/// Scenario 2: an unmodified `phy:` or `file:` line, served by itself, with what the stock script wrote left alone.
#[test]
fn a_stock_script_is_enough() {
    let mut w = World::start("serve = \"all\"").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = DiskConfig::new(0, &image, Hotplug::Stock);
    w.attach(&guest, &disk).unwrap();

    let mut front = Frontend::connect(&guest, disk.devid, Options::default()).unwrap();

    let report = front.run(&load(300)).unwrap();
    assert!(report.is_clean(), "{report:?}\n{}", w.log());
    assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));
    let node = format!("{}/physical-device", front.backend());
    assert_eq!(w.tools.store().read(&node).unwrap().as_deref(), Some("7:0"));
}

/// Scenario 3: eight disks of one guest, all at work at once, one worker each; all destroyed together.
#[test]
fn eight_disks_of_one_guest() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let mut disks = Vec::new();
    for i in 0..8 {
        let image = w.image(&format!("{i}.img"), SECTORS).unwrap();
        let disk = w.disk(i, &image);
        w.attach(&guest, &disk).unwrap();
        disks.push(disk);
    }
    let options = Options { queues: 2, depth: 8, ..Options::default() };
    let mut fronts: Vec<_> =
        disks.iter().map(|d| Frontend::connect(&guest, d.devid, options.clone()).unwrap()).collect();
    let running: Vec<_> =
        fronts.iter_mut().map(|f| f.start(&Load { depth: 8, ..load(150) }).unwrap()).collect();
    for (running, (front, disk)) in running.into_iter().zip(fronts.iter_mut().zip(&disks)) {
        let report = running.finish(front).unwrap();
        assert!(report.is_clean(), "{}: {report:?}\n{}", disk.vdev, w.log());
        assert_eq!(front.oracle().check_file(&disk.target).unwrap(), Ok(()), "{}", disk.vdev);
    }
    let mut pids: Vec<_> = disks.iter().map(|d| w.show(&format!("vbd/5/{}", d.vdev)).unwrap().pid).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 8, "one worker each: {pids:?}");

    w.tools.destroy(&w.host, &guest, &disks).unwrap_or_else(|e| panic!("{e}\n{}", w.log()));
    w.until("nothing held", |_| guest.held() == Held::default()).unwrap();
}

/// Scenario 12: detached under load. The backend goes to 5 and serves on until the frontend is done; nothing in flight is lost.
#[test]
fn a_disk_is_detached_under_load() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front =
        Frontend::connect(&guest, disk.devid, Options { queues: 2, ..Options::default() }).unwrap();
    let running = front.start(&Load { operations: None, ..Load::default() }).unwrap();
    let paths = Paths::new(guest.id(), &disk);

    w.tools.begin_detach(&paths, false).unwrap();
    front.wait_backend(&[5]).unwrap_or_else(|e| panic!("{e}\n{}", w.log()));
    front.store().write(&format!("{}/state", paths.frontend), "5").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!running.is_finished(), "it serves on");
    running.stop();
    let report = running.finish(&mut front).unwrap();
    assert!(report.is_clean(), "{report:?}\n{}", w.log());

    front.finish_close().unwrap();
    w.tools.finish_detach(&disk, &paths).unwrap();
    assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));
    assert_eq!(guest.held(), Held::default());
}

/// Scenario 13: by force, from a guest that does not answer; the nodes stay gone.
#[test]
fn a_silent_guest_is_detached_by_force() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front = Frontend::connect(&guest, disk.devid, Options::default()).unwrap();
    let report = front.run(&load(200)).unwrap();
    assert!(report.is_clean(), "{report:?}");
    let paths = Paths::new(guest.id(), &disk);

    w.tools.begin_detach(&paths, true).unwrap();
    w.tools.finish_detach(&disk, &paths).unwrap_or_else(|e| panic!("{e}\n{}", w.log()));

    w.until("forgotten", |w| w.show("vbd/5/xvda").is_err()).unwrap();
    assert_eq!(guest.held(), Held::default());
    assert_eq!(w.tools.store().read(&paths.backend).unwrap(), None, "not made anew");
    assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));
}

/// Scenario 25: a second guest on an image that is written to is told why not; two that only read are not stopped.
#[test]
fn an_image_is_shared_only_by_readers() {
    let mut w = World::start("").unwrap();
    let (one, two) = (w.guest(5).unwrap(), w.guest(6).unwrap());
    let image = w.image("a.img", SECTORS).unwrap();
    let writer = w.disk(0, &image);
    w.attach(&one, &writer).unwrap();

    let refused = w.attach(&two, &writer).unwrap_err();
    let ToolError::Script(text) = &refused else { panic!("{refused}\n{}", w.log()) };
    assert!(text.contains("a.img"), "{text}");

    let shared = w.image("b.img", SECTORS).unwrap();
    let reader = DiskConfig { is_writable: false, ..w.disk(1, &shared) };
    w.attach(&one, &reader).unwrap();
    w.attach(&two, &reader).unwrap();
    for guest in [&one, &two] {
        let mut front = Frontend::connect(guest, reader.devid, Options::default()).unwrap();
        let report = front.run(&Load { read_percent: 100, flush_percent: 0, ..load(100) }).unwrap();
        assert!(report.is_clean(), "{report:?}");
    }
}
