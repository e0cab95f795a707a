//! Trouble: frontends, targets and workers that do what they must not. Each costs its own disk at most.

use crate::world::{World, kill};

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
    assert!(String::from_utf8_lossy(&output.stderr).contains("the successor died"), "{output:?}");
    world.until("it gives up again", |world| world.show(&disk)["worker"] == "gave-up");
    world.detach(&disk);
    world.guest_says(&disk, "6");
    world.backend_reaches(&disk, "6");
}

/// Requests that a worker gave up are an alarm beside a disk that goes on; a restart says that somebody has looked at it.
#[test]
fn a_given_up_request_is_an_alarm() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/poisoned.img");
    world.until("the alarm", |world| world.show(&disk)["alarm"].is_string());
    assert!(world.show(&disk)["alarm"].as_str().unwrap().contains("answered with an error"));
    assert_eq!(world.show(&disk)["worker"], "serving");
    assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("4"));
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
