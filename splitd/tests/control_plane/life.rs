//! A disk's life: attached, connected, taken over by successors, reconnected, detached, destroyed.

use crate::world::{World, kill, runs};

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

/// A planned restart: the worker is asked to hand over, and the operator hears of it when a successor serves. It is no crash.
#[test]
fn a_restart_hands_over() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/a.img");
    let first = world.pid(&disk).unwrap();
    for arguments in [vec!["restart", disk.dev.as_str()], vec!["restart", "--all"]] {
        let before = world.pid(&disk).unwrap();
        let output = world.ctl(&arguments);
        let now = world.pid(&disk).unwrap();
        assert!(output.status.success() && now != before && !runs(before), "{output:?}");
        let said = format!("{}: worker {now} serves, 0 requests done again\n", disk.dev);
        assert_eq!(String::from_utf8_lossy(&output.stdout), said);
    }
    assert!(world.log().contains("hands over") && !world.log().contains("worker died"), "{}", world.log());
    assert!(!runs(first));
    assert_eq!(world.read(&format!("{}/state", disk.backend)).as_deref(), Some("4"));
}

/// A worker that does not hand over within five seconds is killed, and its successor goes by the journal.
#[test]
fn a_restart_does_not_wait_for_ever() {
    let mut world = World::new();
    let disk = world.connected(5, "/srv/clings.img");
    let before = world.pid(&disk).unwrap();
    let output = world.ctl(&["restart", &disk.dev]);
    assert!(output.status.success(), "{output:?}");
    assert!(world.pid(&disk).is_some_and(|now| now != before) && !runs(before));
    assert!(world.log().contains("no answer while Serving; killed"), "{}", world.log());
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
