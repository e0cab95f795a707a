//! Trouble of our own making under verified load: a host that runs out of map handles or memory, a store that goes away, rounds of
//! attaching that must leave nothing. A shortage of ours is waiting or copying, never a guest's I/O error.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::path::{Path, PathBuf};
use std::time::Duration;

use splitd_tests::blkfront::{Frontend, Load, Options};
use splitd_tests::toolstack::Paths;
use splitd_tests::world::{Programs, World};
use xenbus::sim::Held;

const SECTORS: u64 = 1 << 15;
const DEVICE: &str = "vbd/5/xvda";

fn faulty(config: &str, faults: &str) -> World {
    let blkback = PathBuf::from(env!("CARGO_BIN_EXE_faulty_blkback"));
    let programs = Programs { blkback, ..Programs::build().unwrap() };
    World::start_with(config, programs, &[("SPLITD_FAULTS", faults)]).unwrap()
}

/// Each shortage by itself, in both transfer modes, also over a worker's death.
#[test]
fn a_shortage_is_never_an_io_error() {
    for (config, faults) in [
        ("persistent = false", "map-first=3,bind-first=4"),
        ("persistent = true", "map-every=3"),
        ("persistent = true", "map-every=2,bind-first=2"),
    ] {
        let mut w = faulty(config, faults);
        let guest = w.guest(5).unwrap();
        let image = w.image("a.img", SECTORS).unwrap();
        let disk = w.disk(0, &image);
        w.attach(&guest, &disk).unwrap_or_else(|e| panic!("{faults}: {e}\n{}", w.log()));
        let is_persistent = config.ends_with("true");
        let options = Options { is_persistent, segments: 32, queues: 2, ..Options::default() };
        let mut front = Frontend::connect(&guest, disk.devid, options)
            .unwrap_or_else(|e| panic!("{faults}: {e}\n{}", w.log()));
        let running = front.start(&Load { operations: Some(2000), ..Load::default() }).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        w.kill_worker(DEVICE).unwrap();

        let report = running.finish(&mut front).unwrap();

        assert!(report.is_clean(), "{config}, {faults}: {report:?}\n{}", w.log());
        front.close().unwrap();
        assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));
        assert_eq!(guest.held(), Held::default());
    }
}

/// A host that fails in ways nobody foresaw: the disk freezes with an alarm, the guest sees no error, and detaching works.
#[test]
fn an_unforeseen_failure_freezes_and_is_an_alarm() {
    let mut w = faulty("persistent = false", "copy-call-every=7");
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front = Frontend::connect(&guest, disk.devid, Options::default()).unwrap();
    let load = Load { operations: Some(200), stall: Duration::from_secs(1), ..Load::default() };

    let report = front.run(&load).unwrap();

    assert_eq!((report.io_errors, report.verify_errors), (0, 0), "{report:?}");
    assert!(report.unanswered > 0 && report.faults.is_none(), "{report:?}");
    w.until("an alarm", |w| w.show(DEVICE).is_ok_and(|r| r.alarm.is_some_and(|a| a.contains("grant copy"))))
        .unwrap();
    assert_eq!(w.show(DEVICE).unwrap().state, Some(4));
    let paths = Paths::new(guest.id(), &disk);
    w.tools.begin_detach(&paths, true).unwrap();
    w.tools.finish_detach(&disk, &paths).unwrap_or_else(|e| panic!("{e}\n{}", w.log()));
    w.until("nothing held", |_| guest.held() == Held::default()).unwrap();
}

/// R13, R14: a guest that switches its grant table to and fro, or whose pages are paged out, makes copies end with any status there
/// is. Such a request has an error, at once; no byte is wrong, no request is lost, and the disk serves on.
#[test]
fn any_status_of_a_copy_is_that_requests_error_alone() {
    let mut w = faulty("persistent = false", "copy-every=41");
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front = Frontend::connect(&guest, disk.devid, Options::default()).unwrap();

    let report = front.run(&Load { operations: Some(1000), ..Load::default() }).unwrap();

    assert!(report.io_errors > 16, "each status came up: {report:?}");
    assert_eq!((report.verify_errors, report.unanswered), (0, 0), "{report:?}");
    assert!(report.faults.is_none() && report.done + report.io_errors == 1000, "{report:?}");
    let row = w.show(DEVICE).unwrap();
    assert_eq!((row.restarts, row.alarm), (0, None), "{}", w.log());
    front.close().unwrap();
    assert_eq!(guest.held(), Held::default());
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Processes whose parent is `pid`: workers, dead ones that nobody has waited for among them.
fn children(pid: u32) -> usize {
    let path = format!("/proc/{pid}/task/{pid}/children");
    std::fs::read_to_string(path).unwrap_or_default().split_whitespace().count()
}

fn entries(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = names.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Rounds of attach, I/O and detach leave no node, grant, port, descriptor, process or file.
#[test]
fn rounds_of_attaching_leave_nothing() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    let pid = w.splitd_pid().unwrap();
    // The connection on which splitd was last asked may take a moment to close.
    let settle = |_| {
        std::thread::sleep(Duration::from_millis(5));
        open_files(pid)
    };
    let before = (0..20).map(settle).min().unwrap();
    let files = entries(&w.run_dir());
    for round in 0..40 {
        w.attach(&guest, &disk).unwrap();
        let mut front =
            Frontend::connect(&guest, disk.devid, Options { queues: 2, ..Options::default() }).unwrap();
        let load = Load { operations: Some(20), read_percent: 0, ..Load::default() };
        assert!(front.run(&load).unwrap().is_clean(), "round {round}");
        let paths = Paths::new(guest.id(), &disk);
        w.tools.begin_detach(&paths, false).unwrap();
        front.wait_backend(&[5, 6]).unwrap();
        front.finish_close().unwrap();
        w.tools.finish_detach(&disk, &paths).unwrap();
        w.until("forgotten", |w| w.show(DEVICE).is_err() && children(pid) == 0).unwrap();
        w.until("descriptors as before", |_| open_files(pid) <= before)
            .unwrap_or_else(|e| panic!("round {round}: {} open, {before} before: {e}", open_files(pid)));
        w.until("files as before", |w| entries(&w.run_dir()) == files)
            .unwrap_or_else(|e| panic!("round {round}: {:?}: {e}", entries(&w.run_dir())));
    }
    assert_eq!(entries(&w.run_dir().join("accounts")), Vec::<String>::new());
    assert_eq!(guest.held(), Held::default());
    assert_eq!(w.tools.store().list("/local/domain/0/backend/vbd").unwrap(), Vec::<String>::new());
}

/// The store's connections are cut again and again under load, also while a worker dies: the guest notices nothing, and afterwards
/// the disk is detached as ever.
#[test]
fn a_store_that_goes_away_stops_no_io() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front = Frontend::connect(&guest, disk.devid, Options::default()).unwrap();
    let running = front.start(&Load { operations: None, ..Load::default() }).unwrap();

    for round in 0..20 {
        w.host.disconnect_store();
        if round % 4 == 0 {
            let old = w.kill_worker(DEVICE).unwrap();
            w.until("a successor", |w| w.show(DEVICE).is_ok_and(|r| r.worker == "serving" && r.pid != old))
                .unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    running.stop();
    let report = running.finish(&mut front).unwrap();
    assert!(report.is_clean(), "{report:?}\n{}", w.log());

    // Both clients of this test were cut off, too.
    w.tools = splitd_tests::toolstack::Toolstack::connect(&w.host).unwrap();
    *front.store() = splitd_tests::store::StoreClient::connect(guest.store_socket()).unwrap();
    let paths = Paths::new(guest.id(), &disk);
    w.tools.begin_detach(&paths, false).unwrap();
    front.wait_backend(&[5, 6]).unwrap();
    front.finish_close().unwrap();
    w.tools.finish_detach(&disk, &paths).unwrap_or_else(|e| panic!("{e}\n{}", w.log()));
}
