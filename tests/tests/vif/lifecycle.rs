//! Interfaces that come, go, come back, and outlive splitd. Numbers are those of the control plane's acceptance scenarios.

use std::time::Duration;

use splitd_tests::netfront::{Frontend, Options, Outgoing, state};
use splitd_tests::packet::{self, Shape, TCP4, TCP6, UDP4, UDP6, VnetHeader};
use splitd_tests::toolstack::{Paths, ToolError, VifConfig};
use splitd_tests::traffic::Traffic;
use splitd_tests::world::World;
use xenbus::sim::Held;

use super::{ALL, Bed, VIF, assert_right};

/// Attach, a frame each way of every shape, detach, nothing left.
#[test]
fn an_interface_comes_serves_and_goes() {
    for options in [Options::default(), Options::plain()] {
        let mut b = Bed::new(options);
        for (number, shape) in (1..).zip([TCP4, TCP6, UDP4, UDP6, Shape { tags: 1, ..TCP4 }]) {
            let frame = b.out(0, &Outgoing::new(packet::whole(shape, number, 700)));
            assert_right(&frame.bytes, shape, number, 700);
            assert_eq!((frame.queue, frame.header), (0, VnetHeader::default()));

            b.give(0, VnetHeader::default(), packet::whole(shape, number + 100, 900));
            let frame = b.next(0);
            assert_right(&frame.bytes, shape, number + 100, 900);
            assert_eq!((frame.flags, frame.nr_slots), (0, 1));
        }
        b.detach();
    }
}

/// B8: what a backend says at state 2.
#[test]
fn features_are_offered() {
    let mut b = Bed::new(Options::default());
    for (node, value) in [
        ("feature-sg", 1),
        ("feature-gso-tcpv4", 1),
        ("feature-gso-tcpv6", 1),
        ("feature-ipv6-csum-offload", 1),
        ("feature-rx-copy", 1),
        ("feature-rx-flip", 0),
        ("feature-multicast-control", 1),
        ("feature-split-event-channels", 1),
        ("feature-xdp-headroom", 1),
        ("feature-ctrl-ring", 1),
        ("multi-queue-max-queues", 4),
    ] {
        assert_eq!(b.front.backend_number(node).unwrap(), Some(value), "{node}");
    }
}

/// `splitctl list` and `show` know the interface, its tap and its worker.
#[test]
fn splitctl_shows_interfaces() {
    let b = Bed::new(Options { queues: 2, ..Options::default() });
    let list = b.world.splitctl(&["list"]).unwrap();
    let line = list.lines().find(|line| line.contains("vif/5/0")).unwrap_or_else(|| panic!("{list}"));
    assert!(line.contains(VIF) && line.contains("serving"), "{list}");
    let row = b.world.show("vif/5/0").unwrap();
    assert_eq!((row.state, row.queues, row.target.as_deref()), (Some(4), 2, Some(VIF)));
    assert_eq!((row.kind.as_str(), row.alarm), ("vif", None));
}

/// B9.3: state 4 waits for the script, for a frontend that is faster than it.
#[test]
fn the_script_comes_first() {
    let mut world = World::start(ALL).unwrap();
    let guest = world.guest(5).unwrap();
    let vif = VifConfig::new(0);
    let paths = world.tools.write_vif_nodes(guest.id(), &vif).unwrap();
    let connecting = std::thread::spawn({
        let guest = guest.clone();
        move || Frontend::connect(&guest, 0, Options::default())
    });
    let home = format!("{}/state", paths.frontend);
    world.tools.store().wait_state(&home, &[state::CONNECTED], super::SOON).unwrap();
    let state_path = format!("{}/state", paths.backend);
    // Time for a mistake, not for success.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(world.tools.store().read(&state_path).unwrap().as_deref(), Some("2"));

    world.tools.run_vif_script(guest.id(), &vif, &paths).unwrap();

    let mut front = connecting.join().unwrap().unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
    front.close().unwrap();
}

/// Scenario 19's kexec: closed while `online` is 1, the interface waits at 2 for the next driver, with whatever that can.
#[test]
fn a_frontend_reconnects() {
    let mut b = Bed::new(Options { queues: 4, ..Options::default() });
    for (number, options) in (1..).zip([
        Options::plain(),
        Options { queues: 2, is_split: false, ..Options::default() },
        Options { queues: 4, ..Options::default() },
        Options::default(),
    ]) {
        b.front.reconnect(options).unwrap_or_else(|e| panic!("{e}\n{}", b.world.log()));
        b.wire.wait_queues(b.front.queues.len()).unwrap();
        let last = b.front.queues.len() - 1;
        let frame = b.out(last, &Outgoing::new(packet::whole(UDP4, number, 1400)));
        assert_right(&frame.bytes, UDP4, number, 1400);
        b.give(u16::try_from(last).unwrap(), VnetHeader::default(), packet::whole(UDP4, number, 1400));
        let frame = b.next(last);
        assert_right(&frame.bytes, UDP4, number, 1400);
    }
    b.detach();
}

/// Scenario 8: attached twice is an error, and detaching what never connected needs nobody's help.
#[test]
fn an_interface_that_nobody_connects_goes() {
    let mut world = World::start(ALL).unwrap();
    let guest = world.guest(5).unwrap();
    let vif = VifConfig::new(3);
    let paths = world.attach_vif(&guest, &vif).unwrap();
    assert!(matches!(world.attach_vif(&guest, &vif), Err(ToolError::Exists(_))));
    world.tools.begin_detach(&paths, true).unwrap();
    world.tools.finish_vif_detach(&paths).unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
    world.until("splitd has forgotten it", |w| w.show("vif/5/3").is_err()).unwrap();
}

/// Scenario 20: destroyed under traffic; nothing of the domain is held, or it would be a zombie.
#[test]
fn a_destroyed_guest_is_let_go() {
    let mut b = Bed::new(Options { queues: 4, ..Options::default() });
    let traffic = Traffic::start(&mut b.front, Some(&b.wire), 1).unwrap();
    b.world.tools.begin_detach(&b.paths, true).unwrap();
    b.world.tools.finish_vif_detach(&b.paths).unwrap_or_else(|e| panic!("{e}\n{}", b.world.log()));
    b.world.host.destroy(b.guest.id()).unwrap();
    let guest = b.guest.clone();
    b.world.until("nothing is held", |_| guest.held() == Held::default()).unwrap();
    drop(traffic);
}

/// Scenario 29's second half: splitd dies, frames go on, its successor adopts the worker, and detaching works.
#[test]
fn a_new_splitd_adopts_what_runs() {
    let mut b = Bed::new(Options { queues: 2, ..Options::default() });
    let pid = b.world.show("vif/5/0").unwrap().pid.unwrap();
    let traffic = Traffic::start(&mut b.front, Some(&b.wire), 2).unwrap();
    for _ in 0..3 {
        b.world.kill_splitd().unwrap();
        b.world.start_splitd().unwrap();
        b.world.until("adopted", |w| w.show("vif/5/0").is_ok_and(|r| r.worker == "serving")).unwrap();
        assert_eq!(b.world.show("vif/5/0").unwrap().pid, Some(pid), "the same worker");
    }
    let report = traffic.finish(&mut b.front).unwrap();
    assert_eq!((report.wrong.as_slice(), report.refused), (&[] as &[String], 0), "{}", b.world.log());
    b.detach();
}

/// Two guests on a bridge: frames of the one reach the other, uncut where it can take that and cut where it cannot.
#[test]
fn guests_talk_to_each_other() {
    for options in [Options::default(), Options::plain()] {
        let mut b = Bed::new(Options::default());
        let other = b.world.guest(6).unwrap();
        b.world.attach_vif(&other, &VifConfig::new(0)).unwrap();
        let mut front = Frontend::connect(&other, 0, options).unwrap();
        b.world.wire.end("vif6.0").wait_queues(1).unwrap();
        b.world.wire.bridge(&[VIF, "vif6.0"]);

        let here = Traffic::start(&mut b.front, None, 3).unwrap();
        let there = Traffic::start(&mut front, None, 4).unwrap();
        b.world.until("frames pass", |_| here.received() > 500 && there.received() > 500).unwrap();
        let reports = [here.finish(&mut b.front).unwrap(), there.finish(&mut front).unwrap()];
        for report in reports {
            assert_eq!((report.wrong.as_slice(), report.refused), (&[] as &[String], 0), "{}", b.world.log());
        }
        front.close().unwrap();
        let paths = Paths::vif(other.id(), 0);
        b.world.tools.begin_detach(&paths, true).unwrap();
        b.world.tools.finish_vif_detach(&paths).unwrap();
        b.detach();
    }
}
