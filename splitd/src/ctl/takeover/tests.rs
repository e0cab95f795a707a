//! Hosts in a directory: what takeover and handback write there, and in what order.

use std::path::Path;

use super::*;

const BOTH: [Backend; 2] = Backend::ALL;

fn on_bus(root: &Path) -> PathBuf {
    root.join("sys/bus/xen-backend")
}

/// A host on whose bus a disk and an interface are.
fn host() -> (tempfile::TempDir, Machine) {
    let dir = tempfile::tempdir().unwrap();
    for device in ["vbd-5-51712", "vif-5-0"] {
        fs::create_dir_all(on_bus(dir.path()).join("devices").join(device)).unwrap();
    }
    fs::write(on_bus(dir.path()).join("drivers_autoprobe"), "1\n").unwrap();
    let machine = Machine::new(dir.path());
    (dir, machine)
}

/// The kernel's backend is there, and holds this device, if any.
fn with_driver(dir: &tempfile::TempDir, backend: Backend, held: Option<&str>) {
    let bus = on_bus(dir.path());
    fs::create_dir_all(bus.join("drivers").join(backend.driver())).unwrap();
    if let Some(device) = held {
        let driver = format!("x/drivers/{}", backend.driver());
        std::os::unix::fs::symlink(driver, bus.join("devices").join(device).join("driver")).unwrap();
    }
}

fn serves_vifs(dir: &tempfile::TempDir) {
    let file = dir.path().join(CONFIG);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "serve_vifs = \"all\"\n").unwrap();
}

fn never(backend: Backend) -> anyhow::Result<()> {
    panic!("{} is not to be loaded", backend.module())
}

fn says(done: &[String], parts: &[&str]) {
    let found = done.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "no line with {parts:?} in {done:?}");
}

/// Scenario 33, first half: with no driver there, a rule keeps it out; and back.
#[test]
fn module_kept_out() {
    let (_dir, machine) = host();
    let disks = [Backend::Blkback];
    let done = machine.take_over(&disks).unwrap();
    assert_eq!(done[0], "wrote /etc/modprobe.d/splitd.conf");
    says(&done, &["new disks that `serve`", "have no backend"]);
    assert!(machine.kept_out_by(Backend::Blkback).is_some());
    assert!(machine.kept_out_by(Backend::Netback).is_none(), "interfaces were not asked for");
    assert_eq!(machine.take_over(&disks).unwrap()[0], "/etc/modprobe.d/splitd.conf is there already");
    assert_eq!(machine.sys().autoprobe(), Some(true));
    let done = machine.hand_back(&[], |_| Ok(())).unwrap();
    assert_eq!(done[0], "removed /etc/modprobe.d/splitd.conf");
    assert!(machine.kept_out_by(Backend::Blkback).is_none());
    assert!(machine.hand_back(&[], never).unwrap()[0].starts_with("nothing to do"));
}

/// The same for interfaces, with a rule of their own, beside that for disks; handback takes both away.
#[test]
fn both_modules_kept_out() {
    let (dir, machine) = host();
    serves_vifs(&dir);
    machine.take_over(&[Backend::Blkback]).unwrap();
    let done = machine.take_over(&[Backend::Netback]).unwrap();
    assert_eq!(done[0], "wrote /etc/modprobe.d/splitd-vifs.conf");
    says(&done, &["new interfaces that `serve_vifs`", "have no backend"]);
    let rule = fs::read_to_string(machine.path("etc/modprobe.d/splitd-vifs.conf")).unwrap();
    assert!(rule.contains("\ninstall xen-netback /bin/false\n") && !rule.contains("blkback"), "{rule}");
    assert!(BOTH.into_iter().all(|backend| machine.kept_out_by(backend).is_some()));

    let loaded = std::cell::RefCell::new(Vec::new());
    let load = |backend| {
        loaded.borrow_mut().push(backend);
        if backend == Backend::Netback {
            anyhow::bail!("modprobe xen-netback: not found")
        }
        Ok(())
    };
    let done = machine.hand_back(&[], load).unwrap();

    // Until it is there, splitd would take a new device for which udev brings it in.
    assert_eq!(loaded.into_inner(), BOTH);
    says(&done, &["loaded xen-blkback: new disks are the kernel's"]);
    says(&done, &["not found: load xen-netback before new interfaces"]);
    assert!(BOTH.into_iter().all(|backend| machine.kept_out_by(backend).is_none()));
}

/// With the kernel's netback away and nobody else to serve, new guests would have no network: refused, and nothing is written.
#[test]
fn interfaces_that_nobody_would_serve_stay_with_the_kernel() {
    let (_dir, machine) = host();
    let refused = machine.take_over(&BOTH).unwrap_err().to_string();
    assert!(refused.contains("serve_vifs"), "{refused}");
    assert!(BOTH.into_iter().all(|backend| machine.kept_out_by(backend).is_none()));
}

/// Scenario 33, second half: a disk of the kernel's stays with the kernel, new ones are decided one by one.
#[test]
fn side_by_side() {
    let (dir, machine) = host();
    with_driver(&dir, Backend::Blkback, Some("vbd-5-51712"));
    let done = machine.take_over(&[Backend::Blkback]).unwrap();
    says(&done, &["left with the kernel", "vbd-5-51712"]);
    assert_eq!(machine.sys().autoprobe(), Some(false));
    assert!(machine.kept_out_by(Backend::Blkback).is_none());
    let done = machine.hand_back(&[(Backend::Blkback, "vbd/6/xvda".to_owned())], never).unwrap();
    says(&done, &["left with splitd", "vbd/6/xvda"]);
    assert_eq!(machine.sys().autoprobe(), Some(true));
}

/// An interface of the kernel's stays with the kernel; the disks' rule, made before or after, does not let drivers loose again.
#[test]
fn interfaces_side_by_side() {
    let (dir, machine) = host();
    serves_vifs(&dir);
    with_driver(&dir, Backend::Netback, Some("vif-5-0"));
    let done = machine.take_over(&[Backend::Netback]).unwrap();
    says(&done, &["which interfaces the kernel gets"]);
    says(&done, &["left with the kernel", "vif-5-0"]);
    machine.take_over(&[Backend::Blkback]).unwrap();
    assert_eq!(machine.sys().autoprobe(), Some(false));
    assert!(machine.path(TMPFILES).exists(), "for the next boot");

    machine.hand_back(&[], |_| Ok(())).unwrap();

    assert_eq!(machine.sys().autoprobe(), Some(true));
    assert!(!machine.path(TMPFILES).exists() && machine.kept_out_by(Backend::Blkback).is_none());
}

/// Once rules keep both drivers out, drivers of other kinds may take their devices by themselves again.
#[test]
fn drivers_take_devices_again_once_both_are_out() {
    let (dir, machine) = host();
    serves_vifs(&dir);
    with_driver(&dir, Backend::Blkback, Some("vbd-5-51712"));
    machine.take_over(&BOTH).unwrap();
    assert_eq!(machine.sys().autoprobe(), Some(false));
    fs::remove_dir_all(on_bus(dir.path()).join("drivers/vbd")).unwrap();

    machine.take_over(&[Backend::Blkback]).unwrap();

    assert_eq!(machine.sys().autoprobe(), Some(true));
    assert!(!machine.path(TMPFILES).exists());
}

/// A driver that comes in attaches to every device on the bus, whatever its state, unless drivers take none by themselves.
#[test]
fn a_driver_comes_back_beside_served_devices_without_taking_them() {
    for (backend, device) in [(Backend::Blkback, "vbd/5/xvda"), (Backend::Netback, "vif/5/0")] {
        let (dir, machine) = host();
        serves_vifs(&dir);
        machine.take_over(&[backend]).unwrap();
        let served = [(backend, device.to_owned())];
        let refused = machine.hand_back(&served, |_| bail!("modprobe: no")).unwrap_err();
        assert!(format!("{refused:#}").contains(device), "{refused:#}");
        assert!(machine.kept_out_by(backend).is_some(), "as before");
        assert_eq!(machine.sys().autoprobe(), Some(true));

        let sys = machine.sys().clone();
        let load = |loaded| {
            assert_eq!((loaded, sys.autoprobe()), (backend, Some(false)));
            Ok(())
        };
        let done = machine.hand_back(&served, load).unwrap();

        says(&done, &["loaded", backend.module()]);
        assert!(machine.kept_out_by(backend).is_none());
        assert_eq!(machine.sys().autoprobe(), Some(true));
    }
}

/// Where one driver cannot come back, what was handed back of the other stays so, and is said.
#[test]
fn a_driver_that_does_not_come_back_does_not_hide_the_one_that_did() {
    let (dir, machine) = host();
    serves_vifs(&dir);
    machine.take_over(&BOTH).unwrap();
    let served = [(Backend::Blkback, "vbd/5/xvda".to_owned()), (Backend::Netback, "vif/5/0".to_owned())];
    let load = |backend| if backend == Backend::Blkback { Ok(()) } else { bail!("modprobe: no") };

    let refused = format!("{:#}", machine.hand_back(&served, load).unwrap_err());

    for part in ["vif/5/0", "loaded xen-blkback", "wrote /etc/modprobe.d/splitd-vifs.conf"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(machine.kept_out_by(Backend::Blkback).is_none());
    assert!(machine.kept_out_by(Backend::Netback).is_some());
}
