//! retarget: a disk moves to another file under a guest that writes, and whatever dies on the way leaves the old one whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use splitd::protocol::Verb;
use splitd_tests::blkfront::Load;
use splitd_tests::world::{self, World};

use crate::Bed;

const DEVICE: &str = "vbd/5/xvda";

fn load() -> Load {
    Load { operations: None, read_percent: 30, flush_percent: 2, discard_percent: 1, ..Load::default() }
}

fn place(bed: &Bed, name: &str) -> PathBuf {
    let image = PathBuf::from(bed.world.show(DEVICE).unwrap().target.unwrap());
    image.with_file_name(name)
}

fn params(world: &mut World) -> String {
    let path = format!("{}/params", world.show(DEVICE).unwrap().backend_path);
    world.tools.store().read(&path).unwrap().unwrap_or_default()
}

fn start(bed: &Bed, to: &Path) -> Child {
    let mut command = Command::new(bed.world.splitctl_program());
    command.arg("--run-dir").arg(bed.world.run_dir()).args(["retarget", DEVICE]).arg(to);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Under a verifying load the disk moves twice; its worker and splitd are killed after that, and the guest has noticed nothing: the
/// last copy is what was written, byte for byte, and the first target is as it was when the disk left it.
#[test]
fn a_disk_moves_under_load() {
    let mut bed = Bed::new("crash_loop = { deaths = 1000, within_s = 1 }");
    let first = place(&bed, "a.img");
    let running = bed.disk.start(&load()).unwrap();
    let said = bed.world.splitctl(&["retarget", DEVICE, place(&bed, "b.img").to_str().unwrap()]).unwrap();
    assert!(said.contains("is served from") && said.contains("b.img"), "{said}");
    let left = fs::read(&first).unwrap();
    assert_eq!(bed.world.show(DEVICE).unwrap().target.as_deref(), place(&bed, "b.img").to_str());
    let told = params(&mut bed.world);
    assert!(told.ends_with("/b.img"), "{told}");
    let last = place(&bed, "c.img");
    bed.world.splitctl(&["retarget", DEVICE, last.to_str().unwrap()]).unwrap();
    bed.world.kill_worker(DEVICE).unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    bed.world.kill_splitd().unwrap();
    bed.world.start_splitd().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    running.stop();
    let report = running.finish(&mut bed.disk).unwrap();
    assert!(report.is_clean() && report.done > 0, "{report:?}\n{}", bed.world.log());
    assert_eq!(bed.disk.oracle().check_file(&last).unwrap(), Ok(()));
    assert!(fs::read(&first).unwrap() == left, "the target that was left has changed");
    // Who connects next in the same domain finds the same disk.
    let told = params(&mut bed.world);
    assert!(told.ends_with("/c.img"), "{told}");
    assert_eq!(bed.world.show(DEVICE).unwrap().target.as_deref(), last.to_str());
}

/// SIGKILL for whoever copies, at many moments, and for the worker meanwhile: the guest goes on with its old target.
#[test]
fn a_copy_may_die() {
    let mut bed = Bed::new("crash_loop = { deaths = 1000, within_s = 1 }");
    let image = place(&bed, "a.img");
    let running = bed.disk.start(&load()).unwrap();
    for round in 0..12 {
        let mut copying = start(&bed, &place(&bed, "b.img"));
        std::thread::sleep(Duration::from_millis(5 + 15 * round));
        if round % 3 == 0 {
            let _ = bed.world.kill_worker(DEVICE).unwrap();
        }
        if copying.try_wait().unwrap().is_some() {
            break;
        }
        world::kill(copying.id()).unwrap();
        copying.wait().unwrap();
        bed.world.until("serves again", |w| w.show(DEVICE).is_ok_and(|row| row.worker == "serving")).unwrap();
        if !bed.world.show(DEVICE).unwrap().target.unwrap().ends_with("a.img") {
            break;
        }
    }
    running.stop();
    let report = running.finish(&mut bed.disk).unwrap();
    assert!(report.is_clean() && report.done > 0, "{report:?}\n{}", bed.world.log());
    let serves = PathBuf::from(bed.world.show(DEVICE).unwrap().target.unwrap());
    assert!(serves == image || serves == place(&bed, "b.img"));
    assert_eq!(bed.disk.oracle().check_file(&serves).unwrap(), Ok(()));
}

/// A guest that is held for a copy whose maker has gone goes on by itself; a splitd that starts meanwhile does not wait for that.
#[test]
fn nobody_is_held_for_long() {
    let mut bed = Bed::new("");
    let device = || DEVICE.to_owned();
    bed.world.ask(Verb::RetargetBegin { device: device(), to: None }).unwrap();
    bed.world.ask(Verb::RetargetHold { device: device() }).unwrap();
    bed.world.until("held", |w| w.show(DEVICE).is_ok_and(|row| row.worker == "paused")).unwrap();
    bed.world.until("it goes on", |w| w.show(DEVICE).is_ok_and(|row| row.worker == "serving")).unwrap();
    bed.world.ask(Verb::RetargetHold { device: device() }).unwrap();
    bed.world.kill_splitd().unwrap();
    bed.world.start_splitd().unwrap();
    bed.world.until("it goes on", |w| w.show(DEVICE).is_ok_and(|row| row.worker == "serving")).unwrap();
    let report = bed.disk.run(&Load { operations: Some(100), ..Load::default() }).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// What cannot be served is not moved to; each refusal names the thing. A copy that nobody can open leads back to the old target.
#[test]
fn refusals() {
    let mut bed = Bed::new("");
    let there = place(&bed, "there.img");
    fs::write(&there, "precious").unwrap();
    for (device, target, part) in [
        (DEVICE, there.to_str().unwrap(), "is there already"),
        (DEVICE, "b.img", "an absolute path"),
        (DEVICE, place(&bed, "a.img").to_str().unwrap(), "the disk is served from there"),
        (DEVICE, "/dev/null/x", "/dev/null/x"),
        (DEVICE, "/proc/x", "/proc/x"),
        ("vif/5/0", place(&bed, "b.img").to_str().unwrap(), "only disks"),
    ] {
        let output = bed.world.run_splitctl(&["retarget", device, target]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(part), "{device} {target}: {said}");
    }
    assert_eq!(fs::read(&there).unwrap(), b"precious");

    let gone = splitd::device::retarget::Destination {
        target: place(&bed, "gone.img"),
        identity: "file:0:0:1".to_owned(),
    };
    let device = || DEVICE.to_owned();
    let early =
        bed.world.ask(Verb::RetargetFinish { device: device(), to: gone.clone() }).unwrap_err().to_string();
    assert!(early.contains("not held any more"), "{early}");
    bed.world.ask(Verb::RetargetBegin { device: device(), to: None }).unwrap();
    bed.world.ask(Verb::RetargetHold { device: device() }).unwrap();
    let failed = bed.world.ask(Verb::RetargetFinish { device: device(), to: gone }).unwrap_err().to_string();
    assert!(
        failed.contains("gone.img") && failed.contains("is served from") && failed.contains("a.img again"),
        "{failed}"
    );
    bed.world.until("it goes on", |w| w.show(DEVICE).is_ok_and(|row| row.worker == "serving")).unwrap();
    let report = bed.disk.run(&Load { operations: Some(100), ..Load::default() }).unwrap();
    assert!(report.is_clean(), "{report:?}");
    bed.world.until("params is the old target", |w| params(w).ends_with("/a.img")).unwrap();
}
