//! Workers that are killed under load, again and again: the guest must not notice (no error, no lost or doubled answer, no stale
//! write). `SPLITD_KILLS` sets how often; by default few enough for every test run.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::time::Duration;

use splitd_tests::blkfront::{Frontend, Load, Options};
use splitd_tests::prng::Prng;
use splitd_tests::world::World;
use xenbus::sim::Held;

const SECTORS: u64 = 1 << 16;
const DEVICE: &str = "vbd/5/xvda";
/// splitd gives a worker up that dies too often; here it dies for a living.
const PATIENT: &str = "crash_loop = { deaths = 1000000, within_s = 1 }";

fn kills() -> u32 {
    std::env::var("SPLITD_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(75)
}

/// Kills the worker of a running load `kills` times, each at another moment after it began to serve.
fn kill_under_load(config: &str, options: Options, load: &Load, seed: u64) {
    let mut w = World::start(&format!("{config}\n{PATIENT}")).unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front = Frontend::connect(&guest, disk.devid, options).unwrap();
    let running = front.start(load).unwrap();
    let mut prng = Prng::new(seed);

    for n in 0..kills() {
        let old =
            w.kill_worker(DEVICE).unwrap().unwrap_or_else(|| panic!("no worker at kill {n}\n{}", w.log()));
        w.until(&format!("another worker serves after kill {n}"), |w| {
            w.show(DEVICE).is_ok_and(|r| r.worker == "serving" && r.pid.is_some_and(|p| p != old))
        })
        .unwrap();
        // Also before it has served anything.
        std::thread::sleep(Duration::from_micros(prng.below(40_000)));
        assert!(!running.is_finished(), "the load ended at kill {n}\n{}", w.log());
    }

    running.stop();
    let report = running.finish(&mut front).unwrap();
    assert!(report.is_clean(), "{report:?}\n{}", w.log());
    assert!(report.done > u64::from(kills()), "it did serve in between: {report:?}");
    front.close().unwrap();
    assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));
    assert_eq!(guest.held(), Held::default());
}

fn load() -> Load {
    Load {
        operations: None,
        sectors: 1..89,
        flush_percent: 2,
        stall: Duration::from_secs(60),
        ..Load::default()
    }
}

/// Copy mode, full rings of four queues.
#[test]
fn a_killed_worker_is_not_noticed_in_copy_mode() {
    let options = Options { queues: 4, ..Options::default() };
    kill_under_load("persistent = false", options, &load(), 1);
}

/// Persistent mode: grants that the dead worker had mapped are mapped again.
#[test]
fn a_killed_worker_is_not_noticed_in_persistent_mode() {
    let options = Options { queues: 4, is_persistent: true, ..Options::default() };
    kill_under_load("persistent = true", options, &load(), 2);
}

/// Indirect requests, sub-page segments and discards, on a large ring: what the journal must hold is at its largest.
#[test]
fn a_killed_worker_is_not_noticed_with_indirect_requests() {
    let options = Options { ring_order: 2, segments: 64, depth: 64, ..Options::default() };
    let load = Load { sectors: 1..512, align_sectors: 1, discard_percent: 2, depth: 64, ..load() };
    kill_under_load("persistent = false", options, &load, 3);
}

/// A planned restart under full load leaves a successor nothing to do again, time after time, and the guest notices as little.
#[test]
fn a_planned_restart_is_drained_first() {
    let mut w = World::start("").unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front =
        Frontend::connect(&guest, disk.devid, Options { queues: 2, ..Options::default() }).unwrap();
    let running = front.start(&load()).unwrap();

    for n in 0..kills().min(50) {
        let (old, said) = (w.show(DEVICE).unwrap().pid, w.splitctl(&["restart", DEVICE]).unwrap());
        let now = w.show(DEVICE).unwrap().pid;
        assert_ne!(now, old);
        let pid = now.unwrap_or_default();
        assert_eq!(said, format!("{DEVICE}: worker {pid} serves, 0 requests done again\n"), "at {n}");
        assert!(!running.is_finished(), "the load ended at restart {n}\n{}", w.log());
    }

    running.stop();
    let report = running.finish(&mut front).unwrap();
    assert!(report.is_clean(), "{report:?}\n{}", w.log());
    assert!(report.done > 0, "{report:?}");
    assert!(!w.log().contains("worker died"), "{}", w.log());
    front.close().unwrap();
    assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));
    assert_eq!(guest.held(), Held::default());
}

/// Worker and splitd killed together: the next splitd finds the journal and starts a successor.
#[test]
fn both_may_die_at_once() {
    let mut w = World::start(PATIENT).unwrap();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", SECTORS).unwrap();
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk).unwrap();
    let mut front =
        Frontend::connect(&guest, disk.devid, Options { queues: 2, ..Options::default() }).unwrap();
    let running = front.start(&load()).unwrap();

    for n in 0..kills().min(50) {
        let old = w.show(DEVICE).unwrap().pid;
        w.kill_splitd().unwrap();
        splitd_tests::world::kill(old.unwrap()).unwrap();
        w.start_splitd().unwrap();
        w.until(&format!("served again after {n}"), |w| {
            w.show(DEVICE).is_ok_and(|r| r.worker == "serving" && r.pid.is_some() && r.pid != old)
        })
        .unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }

    running.stop();
    let report = running.finish(&mut front).unwrap();
    assert!(report.is_clean(), "{report:?}\n{}", w.log());
    front.close().unwrap();
    assert_eq!(front.oracle().check_file(&image).unwrap(), Ok(()));
    assert_eq!(guest.held(), Held::default());
}
