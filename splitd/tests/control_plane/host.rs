//! What concerns the whole host: whose disk it is, who may share, what operators and systemd see.

use crate::world::World;

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

    let bus = world.dir.path().join("sys/bus/xen-backend");
    std::fs::create_dir_all(bus.join("drivers/vbd")).unwrap();
    std::fs::write(bus.join("drivers_autoprobe"), "1\n").unwrap();
    world.domain(7);
    let about_to_be_taken = world.attach(7, "/srv/c.img", &[]);
    let reason = world.script_adds(&about_to_be_taken).unwrap_err();
    assert!(reason.contains("splitctl takeover"), "{reason}");
    assert_eq!(world.read(&format!("{}/state", about_to_be_taken.backend)).as_deref(), Some("1"));
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
    assert!(text.contains("READY=1") && text.contains("STATUS=1 devices"), "{text}");
    world.backend_reaches(&disk, "2");
}

/// Usage errors are 2, failures 1 with a reason, nothing is silently ignored.
#[test]
fn exit_codes() {
    let world = World::new();
    for (arguments, code, part) in [
        (&["list", "--jsn"][..], 2, "--jsn"),
        (&["restart"], 2, "<DEV|--all>"),
        (&["show", "vbd/9/xvda"], 1, "no such device"),
        (&["show", "xvda"], 2, "vbd/DOMAIN/VDEV"),
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
