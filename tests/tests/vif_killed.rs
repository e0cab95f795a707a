//! Network workers that are killed while frames flow both ways, again and again: frames may be lost, the connection never. No wrong
//! frame, no answer twice, every slot answered. `SPLITD_KILLS` sets how often; by default few enough for every test run.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::time::Duration;

use splitd_tests::netfront::control::status;
use splitd_tests::netfront::{Frontend, Options};
use splitd_tests::prng::Prng;
use splitd_tests::toolstack::VifConfig;
use splitd_tests::traffic::Traffic;
use splitd_tests::world::World;
use xenbus::sim::Held;

const DEVICE: &str = "vif/5/0";
/// splitd gives a worker up that dies too often; here it dies for a living.
const CONFIG: &str = "serve_vifs = \"all\"\ncrash_loop = { deaths = 1000000, within_s = 1 }";

fn kills() -> u32 {
    std::env::var("SPLITD_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(20)
}

/// Kills the worker under traffic, each time at another moment after it began to serve.
fn kill_under_traffic(options: Options, seed: u64) {
    let mut w = World::start(CONFIG).unwrap();
    let guest = w.guest(5).unwrap();
    let paths = w.attach_vif(&guest, &VifConfig::new(0)).unwrap();
    let mut front = Frontend::connect(&guest, 0, options).unwrap();
    let end = w.wire.end("vif5.0");
    end.wait_queues(front.queues.len()).unwrap();
    if let Some(control) = &mut front.control {
        for (number, queue) in (0..).zip(&front.queues) {
            assert_eq!(control.add_pages(number, &queue.pages()).unwrap(), status::SUCCESS);
        }
    }
    let traffic = Traffic::start(&mut front, Some(&end), seed).unwrap();
    let mut prng = Prng::new(seed);

    for n in 0..kills() {
        let old =
            w.kill_worker(DEVICE).unwrap().unwrap_or_else(|| panic!("no worker at kill {n}\n{}", w.log()));
        w.until(&format!("another worker serves after kill {n}"), |w| {
            w.show(DEVICE).is_ok_and(|r| r.worker == "serving" && r.pid.is_some_and(|p| p != old))
        })
        .unwrap();
        assert_eq!(w.tools.store().read(&format!("{}/state", paths.backend)).unwrap().as_deref(), Some("4"));
        // Also before it has served anything.
        std::thread::sleep(Duration::from_micros(prng.below(40_000)));
        if traffic.is_over() {
            panic!("the traffic ended at kill {n}: {:?}\n{}", traffic.finish(&mut front), w.log());
        }
    }

    // What flows now goes through the last successor.
    let report = traffic.finish(&mut front).unwrap();
    assert_eq!((report.wrong.as_slice(), report.refused), (&[] as &[String], 0), "{}", w.log());
    let least = u64::from(kills());
    assert!(report.arrived > least && report.received > least, "{report:?}\n{}", w.log());
    front.close().unwrap();
    assert_eq!(guest.held(), Held::default());
}

/// One queue, one event channel.
#[test]
fn a_killed_worker_is_not_noticed() {
    kill_under_traffic(Options { is_split: false, ..Options::default() }, 1);
}

/// Four queues, each with two event channels.
#[test]
fn a_killed_worker_of_four_queues_is_not_noticed() {
    kill_under_traffic(Options { queues: 4, ..Options::default() }, 2);
}

/// Two queues whose pages are all static grants: each successor maps them again, or copies by grant.
#[test]
fn a_killed_worker_with_static_grants_is_not_noticed() {
    kill_under_traffic(Options { queues: 2, control: true, ..Options::default() }, 3);
}
