//! pause and resume: a guest under load waits while nobody has its image open, and goes on without an error.

use std::fs;
use std::path::Path;
use std::time::Duration;

use splitd_tests::blkfront::Load;
use splitd_tests::toolstack::Paths;
use xenbus::DomId;

use crate::Bed;

/// Processes other than this one that have the file open.
fn openers(image: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    pids.filter(|pid| pid.parse::<u32>().is_ok() && *pid != own)
        .filter(|pid| {
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path == image)
        })
        .collect()
}

fn image(bed: &Bed) -> std::path::PathBuf {
    bed.world.show("vbd/5/xvda").unwrap().target.unwrap().into()
}

fn load() -> Load {
    Load { operations: None, read_percent: 30, ..Load::default() }
}

/// While a disk is paused its image is at rest: no opener, no change; afterwards every byte is what the guest wrote.
#[test]
fn a_paused_image_is_at_rest() {
    let mut bed = Bed::new("");
    let image = image(&bed);
    let running = bed.disk.start(&load()).unwrap();
    for round in 0..5 {
        std::thread::sleep(Duration::from_millis(50));
        let said = bed.world.splitctl(&["pause", "vbd/5/xvda"]).unwrap();
        assert!(said.contains("paused; its requests wait until splitctl resume vbd/5/xvda"), "{said}");
        assert_eq!(openers(&image), Vec::<String>::new(), "round {round}");
        let copy = fs::read(&image).unwrap();
        assert_eq!(bed.world.show("vbd/5/xvda").unwrap().worker, "paused");
        std::thread::sleep(Duration::from_millis(100));
        assert!(copy == fs::read(&image).unwrap(), "round {round}: the image changed while it was paused");
        let said = bed.world.splitctl(&["resume", "vbd/5/xvda"]).unwrap();
        assert!(said.contains("serves"), "{said}");
    }
    running.stop();
    let report = running.finish(&mut bed.disk).unwrap();
    assert!(report.is_clean() && report.done > 0, "{report:?}\n{}", bed.world.log());
    assert_eq!(bed.disk.oracle().check_file(&image).unwrap(), Ok(()));
}

/// Nothing but `resume` ends a pause: not splitd's death, not a restart that an upgrade makes.
#[test]
fn a_pause_outlives_splitd() {
    let mut bed = Bed::new("");
    let running = bed.disk.start(&load()).unwrap();
    bed.world.splitctl(&["pause", "vbd/5/xvda"]).unwrap();
    bed.world.kill_splitd().unwrap();
    bed.world.start_splitd().unwrap();
    bed.world
        .until("it is still paused", |w| w.show("vbd/5/xvda").is_ok_and(|row| row.worker == "paused"))
        .unwrap();
    let refused = bed.world.splitctl(&["restart", "vbd/5/xvda"]).unwrap_err().to_string();
    assert!(refused.contains("paused; splitctl resume vbd/5/xvda goes on"), "{refused}");
    bed.world.splitctl(&["restart", "--all"]).unwrap();
    assert_eq!(bed.world.show("vbd/5/xvda").unwrap().worker, "paused");
    assert!(bed.world.splitctl(&["pause", "vbd/5/xvda"]).unwrap().contains("paused already"));
    let metrics_of = bed.world.run_splitctl(&["doctor", "--root", "/nonexistent"]).unwrap();
    assert!(String::from_utf8_lossy(&metrics_of.stdout).contains("vbd/5/xvda: paused, its guest waits"));
    bed.world.splitctl(&["resume", "vbd/5/xvda"]).unwrap();
    running.stop();
    assert!(running.finish(&mut bed.disk).unwrap().is_clean());
}

/// A paused disk answers a detach, and the next disk of that name is not paused.
#[test]
fn a_paused_disk_detaches() {
    let mut bed = Bed::new("");
    let target = image(&bed);
    let disk = bed.world.disk(0, &target);
    let paths = Paths::new(DomId(5), &disk);
    bed.world.splitctl(&["pause", "vbd/5/xvda"]).unwrap();
    bed.world.tools.begin_detach(&paths, false).unwrap();
    bed.disk.wait_backend(&[5, 6]).unwrap();
    bed.disk.finish_close().unwrap();
    bed.world.tools.finish_detach(&disk, &paths).unwrap();
    bed.world.until("it is forgotten", |w| w.show("vbd/5/xvda").is_err()).unwrap();
}

/// What cannot be paused says why.
#[test]
fn refusals() {
    let bed = Bed::new("");
    for (line, part) in [
        (["pause", "vif/5/0"], "only disks are paused"),
        (["resume", "vbd/5/xvda"], "not paused"),
        (["pause", "vbd/6/xvda"], "no such device"),
    ] {
        let refused = bed.world.splitctl(&line).unwrap_err().to_string();
        assert!(refused.contains(part), "{line:?}: {refused}");
    }
}
