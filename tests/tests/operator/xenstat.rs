//! Figures of disks of kind vbd3 as libxenstat of Xen 4.20 reads them: kthread-pid in the backend directory, then the file.

use std::fs;

use splitd_tests::blkfront::{Frontend, Load, Options};
use splitd_tests::toolstack::Paths;
use splitd_tests::world::World;

/// What xentop would find, if it is there: version, requests read, requests written.
fn seen(w: &mut World, paths: &Paths, shm: &std::path::Path) -> Option<(u64, u64, u64)> {
    let pid = w.tools.store().read(&format!("{}/kthread-pid", paths.backend)).ok().flatten()?;
    let bytes =
        fs::read(shm.join(format!("td3-{pid}/vbd-5-51712"))).ok().filter(|bytes| bytes.len() == 96)?;
    let word = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap());
    Some((word(0), word(3), word(7)))
}

/// They follow the disk's load, lead to the next splitd's directory after it was killed, and end with the disk.
#[test]
fn xentop_finds_a_vbd3_disk() {
    let mut w = World::start("").unwrap();
    let shm = w.run_dir().parent().unwrap().to_owned();
    let guest = w.guest(5).unwrap();
    let image = w.image("a.img", 1 << 16).unwrap();
    let mut disk = w.disk(0, &image);
    disk.kind = "vbd3";
    let paths = w.attach(&guest, &disk).unwrap_or_else(|e| panic!("{e}\n{}", w.log()));
    let mut front = Frontend::connect(&guest, disk.devid, Options::default()).unwrap();
    assert!(front.run(&Load { operations: Some(400), ..Load::default() }).unwrap().is_clean());
    let all_there = |w: &mut World| {
        seen(w, &paths, &shm).is_some_and(|(version, reads, writes)| version == 1 && reads + writes > 350)
    };
    w.until("xentop sees the load", all_there).unwrap();
    w.kill_splitd().unwrap();
    w.start_splitd().unwrap();
    w.until("and after a restart of splitd", all_there).unwrap();
    let dirs = fs::read_dir(&shm)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("td3-"));
    assert_eq!(dirs.count(), 1, "the old splitd's directory is left");
    w.tools.begin_detach(&paths, false).unwrap();
    front.wait_backend(&[5, 6]).unwrap();
    front.finish_close().unwrap();
    w.tools.finish_detach(&disk, &paths).unwrap();
    let pid = w.splitd_pid().unwrap();
    w.until("its figures end with it", |_| !shm.join(format!("td3-{pid}/vbd-5-51712")).exists()).unwrap();
}
