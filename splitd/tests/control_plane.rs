//! splitd, splitctl and a worker as processes on a simulated host, against what libxl and guests write: the scenarios of a disk's
//! life that need no data path. Each names its acceptance scenario or its line of the hostile catalogue.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod world;

use world::{World, kill, runs};

/// Scenarios 1, 7 and 11: attach, connect, idle detach; nothing is left.
#[test]
fn attach_and_detach() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let pid = world.pid(&disk).unwrap();
    for (node, value) in [
        ("sectors", "2048"),
        ("sector-size", "512"),
        ("physical-sector-size", "4096"),
        ("info", "0"),
        ("max-ring-page-order", "4"),
        ("multi-queue-max-queues", "4"),
        ("feature-max-indirect-segments", "256"),
        ("feature-flush-cache", "1"),
        ("feature-persistent", "0"),
        ("feature-discard", "1"),
        ("discard-granularity", "4096"),
    ] {
        assert_eq!(world.read(&format!("{}/{node}", disk.backend)).as_deref(), Some(value), "{node}");
    }
    world.detach(&disk);
    world.guest_says(&disk, "5");
    world.guest_says(&disk, "6");
    world.backend_reaches(&disk, "6");
    world.toolstack_removes(&disk);
    world.until_gone(&disk);
    world.until("the worker ends", |_| !runs(pid));
    assert_eq!(world.read(&disk.backend), None, "nothing brings a removed directory back");
}

/// Scenario 10's bookkeeping: rounds of attach, kill, reconnect and detach leave no descriptor, process or directory behind.
#[test]
fn rounds_leave_nothing() {
    let mut world = World::new();
    world.domain(5);
    let round = |world: &World| {
        let disk = world.attach(5, "/srv/a.img", &[]);
        world.backend_reaches(&disk, "2");
        world.script_adds(&disk).unwrap();
        world.guest_connects(&disk);
        world.backend_reaches(&disk, "4");
        let pid = world.pid(&disk).unwrap();
        kill(pid);
        world.until("a successor serves", |world| {
            world.show(&disk)["worker"] == "serving" && world.pid(&disk).is_some_and(|now| now != pid)
        });
        world.guest_says(&disk, "6");
        world.backend_reaches(&disk, "6");
        world.guest_says(&disk, "1");
        world.backend_reaches(&disk, "2");
        world.detach(&disk);
        world.guest_says(&disk, "6");
        world.backend_reaches(&disk, "6");
        world.toolstack_removes(&disk);
        world.until_gone(&disk);
    };
    round(&world);
    let (fds, children) = (world.splitd_fds(), world.splitd_children());
    for _ in 0..10 {
        round(&world);
    }
    world.until("all descriptors are closed", |world| world.splitd_fds() <= fds);
    world.until("all children are reaped", |world| world.splitd_children() <= children);
}

/// No worker before its script ran, exactly one after.
#[test]
fn a_worker_starts_with_its_script() {
    let mut world = World::new();
    world.domain(5);
    let disk = world.attach(5, "/srv/a.img", &[]);
    world.backend_reaches(&disk, "2");
    world.guest_connects(&disk);
    world.until("the guest's state is seen", |world| world.show(&disk)["frontend_state"] == 3);
    assert_eq!(world.pid(&disk), None);
    assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("2"));
    world.script_adds(&disk).unwrap();
    world.backend_reaches(&disk, "4");
    assert_eq!(world.log().matches("worker started").count(), 1);
}

/// Scenario 2: with a stock script, splitd launches by itself once the script is done.
#[test]
fn stock_script() {
    let mut world = World::with_config("serve = \"all\"\n");
    world.domain(5);
    let disk = world.attach(5, "/dev/vg/a", &[("script", "/etc/xen/scripts/block")]);
    world.backend_reaches(&disk, "2");
    world.write(&disk.backend, &[("physical-device", "fd:11"), ("hotplug-status", "connected")]);
    world.guest_connects(&disk);
    world.backend_reaches(&disk, "4");
    assert_eq!(world.show(&disk)["target"], "/dev/vg/a");
}

/// The script writes `physical-device` for a block device alone.
#[test]
fn block_devices_have_numbers() {
    let mut world = World::new();
    for (domid, target, numbers) in [(5, "/dev/vg/a", "fd:11"), (6, "/srv/b.img", "")] {
        world.domain(domid);
        let disk = world.attach(domid, target, &[]);
        world.backend_reaches(&disk, "2");
        assert_eq!(world.script_adds(&disk).unwrap(), numbers);
    }
}

/// Scenarios 4 and 9: the reason reaches `xl` by the script, nothing is left behind, and the next try works.
#[test]
fn a_target_that_is_not_there() {
    let mut world = World::new();
    world.domain(5);
    for target in ["/srv/missing.img", "/srv/dies-opening.img", "relative.img", ""] {
        let disk = world.attach(5, target, &[]);
        world.backend_reaches(&disk, "2");
        let reason = world.script_adds(&disk).unwrap_err();
        assert!(reason.contains(if target.is_empty() { "target=" } else { target }), "{reason}");
        world.detach(&disk);
        world.backend_reaches(&disk, "6");
        world.toolstack_removes(&disk);
        world.until_gone(&disk);
    }
    let disk = world.attach(5, "/srv/a.img", &[]);
    world.backend_reaches(&disk, "2");
    world.script_adds(&disk).unwrap();
}

/// Scenario 36's near miss: storage that does not answer costs its own script an error, others nothing; detach still works.
#[test]
fn hanging_storage() {
    let mut world = World::new();
    world.domain(5);
    let disk = world.attach(5, "/srv/hang.img", &[]);
    world.backend_reaches(&disk, "2");
    let reason = std::thread::scope(|scope| {
        let script = scope.spawn(|| {
            let output = world.ctl(&["hotplug", "add", &disk.xenbus_path]);
            String::from_utf8(output.stderr).unwrap()
        });
        world.until("the worker opens", |world| world.show(&disk)["worker"] == "opening");
        world.detach(&disk);
        world.backend_reaches(&disk, "6");
        script.join().unwrap()
    });
    assert!(reason.contains("/srv/hang.img"), "{reason}");
    world.until("the worker is gone", |world| world.pid(&disk).is_none());
}

/// Scenario 12: an old frontend that is mounted says 5 and stays; it is served on, and goes back to 4.
#[test]
fn a_frontend_that_refuses_to_close() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let pid = world.pid(&disk).unwrap();
    world.guest_says(&disk, "5");
    world.backend_reaches(&disk, "5");
    kill(pid);
    world.until("a successor serves", |world| {
        world.show(&disk)["worker"] == "serving" && world.pid(&disk).is_some_and(|now| now != pid)
    });
    assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("5"));
}

/// Scenarios 13 and 20: forced detach and destroy take the frontend's directory away first.
#[test]
fn forced_detach() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    world.remove(&disk.frontend);
    world.detach(&disk);
    world.backend_reaches(&disk, "6");
    world.toolstack_removes(&disk);
    world.until_gone(&disk);
    assert_eq!(world.read(&disk.backend), None);
}

/// The toolstack gave up waiting and removed everything.
#[test]
fn a_directory_removed_under_a_running_worker() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let pid = world.pid(&disk).unwrap();
    world.toolstack_removes(&disk);
    world.until_gone(&disk);
    world.until("the worker ends", |_| !runs(pid));
    assert_eq!(world.read(&disk.backend), None);
}

/// Scenario 19: kexec, and a boot loader handing over, while `online` stays 1; the second connection is a new one.
#[test]
fn reconnect() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let first = world.pid(&disk);
    for _ in 0..3 {
        world.guest_says(&disk, "5");
        world.backend_reaches(&disk, "5");
        world.guest_says(&disk, "6");
        world.backend_reaches(&disk, "6");
        world.guest_says(&disk, "1");
        world.backend_reaches(&disk, "2");
        world.guest_connects(&disk);
        world.backend_reaches(&disk, "4");
    }
    assert_ne!(world.pid(&disk), first);
    assert_eq!(world.log().matches("worker started").count(), 4);
}

/// Scenario 29: a worker dies, its successor takes the same connection over, state stays 4.
#[test]
fn a_killed_worker_is_replaced() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let before = world.pid(&disk).unwrap();
    kill(before);
    world.until("a successor serves", |world| {
        world.show(&disk)["worker"] == "serving" && world.pid(&disk).is_some_and(|now| now != before)
    });
    assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("4"));
    assert!(!world.log().contains("4 -> "), "the state is never touched");
}

/// Scenario 29: splitd dies, the worker does not notice, the next splitd finds it; and both dying at once.
#[test]
fn splitd_killed_alone_and_with_its_worker() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let pid = world.pid(&disk).unwrap();
    world.kill_splitd();
    world.start_splitd();
    world.until("the worker is adopted", |world| world.show(&disk)["worker"] == "serving");
    assert_eq!(world.pid(&disk), Some(pid));
    world.kill_splitd();
    kill(pid);
    world.start_splitd();
    world.until("a successor serves", |world| {
        world.show(&disk)["worker"] == "serving" && world.pid(&disk).is_some_and(|now| now != pid)
    });
    assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("4"));
    world.detach(&disk);
    world.guest_says(&disk, "6");
    world.backend_reaches(&disk, "6");
}

/// A disk is removed while splitd is away: the next splitd ends its worker. So does it with one that is on no record.
#[test]
fn workers_that_nobody_needs_any_more() {
    let mut world = World::new();
    let first = world.connected(5, "/srv/a.img");
    let second = world.connected(6, "/srv/b.img");
    let pids = [world.pid(&first).unwrap(), world.pid(&second).unwrap()];
    world.kill_splitd();
    world.toolstack_removes(&first);
    world.toolstack_removes(&second);
    std::fs::remove_file(world.dir.path().join("run/vbd-6-51712/launch.json")).unwrap();
    world.start_splitd();
    world.until("both workers end", |_| pids.iter().all(|pid| !runs(*pid)));
    world.until_gone(&first);
    assert_eq!(world.read(&first.backend), None);
}

/// X22: another guest has the same number after splitd was away: its connection is nobody's.
#[test]
fn a_recycled_domain_number() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let pid = world.pid(&disk).unwrap();
    world.kill_splitd();
    kill(pid);
    world.until("the worker is gone", |_| !runs(pid));
    world.toolstack_removes(&disk);
    world.write("/local/domain/5", &[("vm", "/vm/another")]);
    let disk = world.attach(5, "/srv/a.img", &[]);
    world.start_splitd();
    world.backend_reaches(&disk, "2");
    assert_eq!(world.pid(&disk), None, "no worker for a connection that was another guest's");
    world.script_adds(&disk).unwrap();
    world.guest_connects(&disk);
    world.backend_reaches(&disk, "4");
}

/// A worker that dies at each attempt ends as a frozen disk with an alarm, never as a closed one; detach is answered all the same.
#[test]
fn a_crash_loop_freezes() {
    let mut world = World::new();
    world.domain(5);
    let disk = world.attach(5, "/srv/dies-connecting.img", &[]);
    world.backend_reaches(&disk, "2");
    world.script_adds(&disk).unwrap();
    world.guest_connects(&disk);
    world.until("splitd gives up", |world| world.show(&disk)["worker"] == "gave-up");
    assert!(world.show(&disk)["alarm"].as_str().unwrap().contains("keeps dying"));
    assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("2"));
    let output = world.ctl(&["restart", &disk.dev]);
    assert!(output.status.success());
    world.until("it gives up again", |world| world.show(&disk)["worker"] == "gave-up");
    world.detach(&disk);
    world.guest_says(&disk, "6");
    world.backend_reaches(&disk, "6");
}

/// Frozen for the disk's trouble: state stays 4, the operator sees why.
#[test]
fn a_frozen_disk_is_an_alarm() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/freezes.img");
    world.until("the alarm", |world| world.show(&disk)["alarm"].is_string());
    assert!(world.show(&disk)["alarm"].as_str().unwrap().contains("fsync"));
    assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("4"));
}

/// Scenario 32: who breaks the protocol is closed with a reason; whether by its nodes, its ring or its requests.
#[test]
fn violations() {
    let mut world = World::new();
    world.domain(5);
    world.domain(6);
    let neighbour = world.connected(7, "/srv/neighbour.img");
    let by_nodes = world.attach(5, "/srv/a.img", &[]);
    world.backend_reaches(&by_nodes, "2");
    world.script_adds(&by_nodes).unwrap();
    world.write(&by_nodes.frontend, &[("ring-ref", "0x8"), ("event-channel", "15")]);
    world.guest_says(&by_nodes, "3");
    world.backend_reaches(&by_nodes, "6");
    let error = world.read("/local/domain/0/error/backend/vbd/5/51712/error").unwrap();
    assert!(error.starts_with("22 ring-ref is \"0x8\""), "{error}");

    for target in ["/srv/bad-ring.img", "/srv/violates.img"] {
        let disk = world.attach(6, target, &[]);
        world.backend_reaches(&disk, "2");
        world.script_adds(&disk).unwrap();
        world.guest_connects(&disk);
        world.backend_reaches(&disk, "6");
        let error = world.read("/local/domain/0/error/backend/vbd/6/51712/error").unwrap();
        assert!(error.starts_with("22 r"), "{error}");
        world.toolstack_removes(&disk);
        world.until("the error goes with the disk", |world| {
            world.read("/local/domain/0/error/backend/vbd/6/51712/error").is_none()
        });
    }
    assert_eq!(world.read(&format!("{}/state", neighbour.backend)).as_deref(), Some("4"));
    // It may start over.
    world.guest_says(&by_nodes, "1");
    world.backend_reaches(&by_nodes, "2");
    world.guest_connects(&by_nodes);
    world.backend_reaches(&by_nodes, "4");
}

/// X1, X2, X10: a frontend that writes any state at any time closes its own disk at most, and its neighbour's list answers.
#[test]
fn a_frontend_that_flips_its_state() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let neighbour = world.connected(6, "/srv/b.img");
    let states = ["9", "abc", "", "-1", "4294967300", "2", "7", "8", "0", "6", "1", "3", "5", "4", "1"];
    for round in 0..20 {
        for at in 0..states.len() {
            world.guest_says(&disk, states[(at * 7 + round) % states.len()]);
        }
    }
    assert_eq!(world.read(&format!("{}/state", neighbour.backend)).as_deref(), Some("4"));
    world.guest_says(&disk, "6");
    world.backend_reaches(&disk, "6");
    world.guest_says(&disk, "1");
    world.backend_reaches(&disk, "2");
    world.guest_connects(&disk);
    world.backend_reaches(&disk, "4");
}

/// Scenario 25.
#[test]
fn sharing() {
    let mut world = World::new();
    let first = world.connected(5, "/srv/a.img");
    world.domain(6);
    let second = world.attach(6, "/srv/a.img", &[]);
    world.backend_reaches(&second, "2");
    let reason = world.script_adds(&second).unwrap_err();
    assert!(reason.contains("/srv/a.img") && reason.contains("vbd/5/xvda"), "{reason}");
    world.toolstack_removes(&second);
    world.until("the second is gone", |world| world.show(&second).is_null());
    let shared = world.attach(6, "/srv/a.img", &[("mode", "w!")]);
    world.backend_reaches(&shared, "2");
    world.script_adds(&shared).unwrap();
    world.toolstack_removes(&shared);
    world.toolstack_removes(&first);
    world.until_gone(&first);
    for domid in [5, 6] {
        let reader = world.attach(domid, "/srv/a.img", &[("mode", "r"), ("discard-enable", "0")]);
        world.backend_reaches(&reader, "2");
        world.script_adds(&reader).unwrap();
    }
}

/// Scenario 35: `sectors` and `state` are written together, so that the guest looks.
#[test]
fn resize() {
    let mut world = World::new();
    let image = world.dir.path().join("a.img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let disk = world.connected(5, image.to_str().unwrap());
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(2 << 20).unwrap();
    assert!(world.ctl(&["resize", "vbd/web5/51712"]).status.success());
    let path = format!("{}/sectors", disk.backend);
    world.until("the new size is published", |world| world.read(&path).as_deref() == Some("4096"));
    world.until("it is shown", |world| world.show(&disk)["sectors"] == 4096);
}

/// X23: behind the path of a connected disk stands another image when its worker dies. Serving that would be corruption.
#[test]
fn another_image_behind_the_same_path() {
    let mut world = World::new();
    let image = world.dir.path().join("a.img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let disk = world.connected(5, image.to_str().unwrap());
    let other = world.dir.path().join("b.img");
    std::fs::write(&other, vec![0; 1 << 20]).unwrap();
    std::fs::rename(&other, &image).unwrap();
    kill(world.pid(&disk).unwrap());
    world.until("splitd refuses to go on", |world| world.show(&disk)["worker"] == "gave-up");
    assert!(world.show(&disk)["alarm"].as_str().unwrap().contains("when the guest connected"));
    assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("4"));
    world.detach(&disk);
    world.guest_says(&disk, "6");
    world.backend_reaches(&disk, "6");
}

/// X14, X19, X20: a directory where a value should be, a script that failed, a toolstack that changes its mind.
#[test]
fn odd_nodes() {
    let mut world = World::new();
    world.domain(5);
    let disk = world.attach(5, "/srv/a.img", &[]);
    world.backend_reaches(&disk, "2");
    world.write(&disk.backend, &[("hotplug-status", "error")]);
    world.guest_connects(&disk);
    world.until("the guest's state is seen", |world| world.show(&disk)["frontend_state"] == 3);
    assert!(world.pid(&disk).is_none(), "a script that failed has no worker");
    world.script_adds(&disk).unwrap();
    world.backend_reaches(&disk, "4");
    world.detach(&disk);
    world.write(&disk.backend, &[("online", "1")]);
    world.guest_says(&disk, "6");
    world.backend_reaches(&disk, "6");
    world.write(&disk.frontend, &[("ring-ref/0", "8"), ("ring-ref", "")]);
    world.guest_says(&disk, "1");
    world.backend_reaches(&disk, "2");
    world.guest_says(&disk, "3");
    world.backend_reaches(&disk, "6");
    let error = world.read("/local/domain/0/error/backend/vbd/5/51712/error").unwrap();
    assert!(error.contains("ring-ref is \"\""), "{error}");
}

/// X12: the frontend's directory goes at each step of a connection; nothing hangs, nothing is brought back.
#[test]
fn a_frontend_that_vanishes_at_each_step() {
    let mut world = World::new();
    world.domain(5);
    for steps in 0..4 {
        let disk = world.attach(5, "/srv/a.img", &[]);
        world.backend_reaches(&disk, "2");
        if steps > 0 {
            world.script_adds(&disk).unwrap();
        }
        if steps > 1 {
            world.guest_connects(&disk);
        }
        if steps > 2 {
            world.backend_reaches(&disk, "4");
        }
        world.remove(&disk.frontend);
        world.backend_reaches(&disk, "6");
        world.toolstack_removes(&disk);
        world.until_gone(&disk);
        assert_eq!(world.read(&disk.frontend), None);
        assert_eq!(world.read(&disk.backend), None);
    }
}

/// Hosts move guest by guest: what a kernel driver is bound to, or another script serves, is left alone.
#[test]
fn other_backends_devices_are_left_alone() {
    let mut world = World::new();
    world.domain(5);
    world.domain(6);
    let device = world.dir.path().join("sys/bus/xen-backend/devices/vbd-6-51712");
    std::fs::create_dir_all(&device).unwrap();
    std::os::unix::fs::symlink("../../../../bus/xen-backend/drivers/vbd", device.join("driver")).unwrap();
    let by_script = world.attach(5, "/srv/a.img", &[("script", "/etc/xen/scripts/block")]);
    let by_driver = world.attach(6, "/srv/b.img", &[]);
    for (disk, reason) in [(&by_script, "serve"), (&by_driver, "driver vbd")] {
        world.until("it is listed", |world| world.show(disk)["not_served"].is_string());
        assert!(world.show(disk)["not_served"].as_str().unwrap().contains(reason));
        assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("1"));
    }
    let reason = world.script_adds(&by_driver).unwrap_err();
    assert!(reason.contains("kernel's driver vbd"), "{reason}");
}

/// Scenario 33: beside a kernel backend that takes nothing by itself, each disk gets the right one, and other kinds theirs.
#[test]
fn side_by_side_with_the_kernels_backend() {
    let mut world = World::new();
    world.domain(5);
    world.domain(6);
    let bus = world.dir.path().join("sys/bus/xen-backend");
    for driver in ["vbd", "vif"] {
        std::fs::create_dir_all(bus.join("drivers").join(driver)).unwrap();
        std::fs::write(bus.join("drivers").join(driver).join("bind"), "").unwrap();
    }
    for device in ["vbd-5-51712", "vbd-6-51712", "vif-6-0"] {
        std::fs::create_dir_all(bus.join("devices").join(device)).unwrap();
    }
    std::fs::write(bus.join("drivers_autoprobe"), "0\n").unwrap();
    let ours = world.attach(5, "/srv/a.img", &[]);
    let theirs = world.attach(6, "/srv/b.img", &[("script", "/etc/xen/scripts/block")]);
    world.backend_reaches(&ours, "2");
    let bound =
        |driver: &str| std::fs::read_to_string(bus.join("drivers").join(driver).join("bind")).unwrap();
    world.until("the kernel's disk is given to it", |_| bound("vbd").contains("vbd-6-51712"));
    world.until("and the interface", |_| bound("vif").contains("vif-6-0"));
    assert!(!bound("vbd").contains("vbd-5-51712"));
    assert_eq!(world.read(&format!("{}/state", theirs.backend)).as_deref(), Some("1"));
}

/// Scenario 27: pygrub attaches the guest's disk to dom0 itself.
#[test]
fn frontend_0() {
    let world = World::new();
    let disk = world.attach(0, "/srv/a.img", &[]);
    world.backend_reaches(&disk, "2");
    world.script_adds(&disk).unwrap();
    world.guest_connects(&disk);
    world.backend_reaches(&disk, "4");
    let list = String::from_utf8(world.ctl(&["list"]).stdout).unwrap();
    assert!(list.contains("dom0's own"), "{list}");
}

/// Disks that were there before splitd are found when it starts, in whatever state they are.
#[test]
fn disks_that_came_first() {
    let mut world = World::new();
    world.domain(5);
    world.kill_splitd();
    let disk = world.attach(5, "/srv/a.img", &[]);
    world.start_splitd();
    world.backend_reaches(&disk, "2");
    world.kill_splitd();
    world.toolstack_removes(&disk);
    world.start_splitd();
    assert!(world.show(&disk).is_null());
}

/// A store that goes away and comes back changes nothing for a disk that is served; a worker that dies meanwhile is replaced.
#[test]
fn the_store_goes_away() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let pid = world.pid(&disk);
    for _ in 0..3 {
        world.host.disconnect_store();
    }
    world.until("splitd is back at the store", |world| {
        world.read(&disk.backend).is_some() && world.show(&disk)["state"] == 4
    });
    assert_eq!(world.pid(&disk), pid);
    kill(pid.unwrap());
    world.until("a successor serves", |world| {
        world.show(&disk)["worker"] == "serving" && world.pid(&disk) != pid && world.pid(&disk).is_some()
    });
    world.guest_says(&disk, "6");
    world.backend_reaches(&disk, "6");
}

/// A worker that says what is no message is killed and replaced: it may have been taken over by its guest.
#[test]
fn a_worker_that_babbles() {
    let mut world = World::new();
    world.domain(5);
    let disk = world.attach(5, "/srv/babbles.img", &[]);
    world.backend_reaches(&disk, "2");
    let _ = world.script_adds(&disk);
    world.write(&disk.backend, &[("hotplug-status", "connected")]);
    world.until("splitd gives up on it", |world| world.show(&disk)["worker"] == "gave-up");
    assert!(world.log().contains("killed"), "{}", world.log());
}

/// Whoever waits for READY=1 finds each disk that there was looked at.
#[test]
fn readiness_is_told_to_systemd() {
    let mut world = World::new();
    world.domain(5);
    world.kill_splitd();
    let disk = world.attach(5, "/srv/a.img", &[]);
    let path = world.dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    world.start_splitd_with(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let mut text = [0; 256];
    let len = socket.recv(&mut text).unwrap();
    let text = String::from_utf8(text[..len].to_vec()).unwrap();
    assert!(text.contains("READY=1") && text.contains("STATUS=1 disks"), "{text}");
    world.backend_reaches(&disk, "2");
}

/// Usage errors are 2, failures 1 with a reason, nothing is silently ignored.
#[test]
fn exit_codes() {
    let world = World::new();
    for (arguments, code, part) in [
        (&["list", "--jsn"][..], 2, "--jsn"),
        (&["restart"], 2, "<DEV>"),
        (&["show", "vbd/9/xvda"], 1, "no such device"),
        (&["show", "xvda"], 1, "vbd/DOMAIN/VDEV"),
        (&["hotplug", "add", "backend/vif/5/0"], 1, "XENBUS_PATH"),
    ] {
        let output = world.ctl(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    let list = world.ctl(&["list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!((&list["version"], &list["devices"]), (&serde_json::json!(1), &serde_json::json!([])));
}
