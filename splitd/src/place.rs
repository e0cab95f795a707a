//! Which physical device lies beneath a target: from the numbers that a worker reported, through partitions, LVs and crypt mappings, by
//! what the kernel says in /sys. Nothing of the storage itself is touched. Knows nothing of who shares it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Mappings upon mappings: more is a loop or a mistake.
const LEVELS_MAX: u32 = 16;

/// The device that is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name; of a stack over several disks all of theirs.
    pub device: String,
    /// It has heads that move.
    pub rotational: bool,
    /// Nothing is known of what lies beneath: it is taken as a device by itself.
    pub alone: bool,
}

/// Finds it, by `dev:8:1` or `file:8:1:131`.
#[must_use]
pub fn of(sys: &Path, identity: &str) -> Place {
    let mut parts = identity.split(':').skip(1);
    let numbers = parts.next().zip(parts.next());
    let unknown = || Place { device: identity_of_device(identity), rotational: false, alone: true };
    let Some((major, minor)) = numbers else { return unknown() };
    let node = sys.join("dev/block").join(format!("{major}:{minor}"));
    let mut disks = BTreeSet::new();
    if !collect(&node, LEVELS_MAX, &mut disks) || disks.is_empty() {
        return unknown();
    }
    let rotational = disks.iter().any(|name| {
        let file = sys.join("block").join(name).join("queue/rotational");
        fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
    });
    Place { device: disks.into_iter().collect::<Vec<_>>().join("+"), rotational, alone: false }
}

/// Files of one file system share it, whatever it is.
fn identity_of_device(identity: &str) -> String {
    let numbers: Vec<&str> = identity.split(':').skip(1).take(2).collect();
    if numbers.len() == 2 { format!("device {}", numbers.join(":")) } else { identity.to_owned() }
}

/// Adds the disks beneath a node of /sys; false if it cannot be followed.
fn collect(node: &Path, levels: u32, disks: &mut BTreeSet<String>) -> bool {
    let Ok(real) = fs::canonicalize(node) else { return false };
    if levels == 0 {
        return false;
    }
    // A partition is part of the disk whose directory it lies in.
    let whole: PathBuf = if real.join("partition").exists() {
        match real.parent() {
            Some(parent) => parent.to_owned(),
            None => return false,
        }
    } else {
        real
    };
    let slaves: Vec<PathBuf> = fs::read_dir(whole.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    if slaves.is_empty() {
        let Some(name) = whole.file_name() else { return false };
        disks.insert(name.to_string_lossy().into_owned());
        return true;
    }
    slaves.iter().all(|slave| collect(slave, levels - 1, disks))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A /sys with an SSD of two partitions, a disk with heads, and an LV over each and over both.
    fn sys() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for (disk, rotational) in [("sda", "0"), ("sdb", "1")] {
            fs::create_dir_all(at(&format!("devices/{disk}/queue"))).unwrap();
            fs::create_dir_all(at(&format!("devices/{disk}/slaves"))).unwrap();
            fs::write(at(&format!("devices/{disk}/queue/rotational")), rotational).unwrap();
        }
        for part in ["sda1", "sda2"] {
            fs::create_dir_all(at(&format!("devices/sda/{part}"))).unwrap();
            fs::write(at(&format!("devices/sda/{part}/partition")), "1").unwrap();
        }
        fs::create_dir_all(at("dev/block")).unwrap();
        fs::create_dir_all(at("block")).unwrap();
        for (dm, slaves) in
            [("dm-0", vec!["sda/sda2"]), ("dm-1", vec!["sda/sda2", "sdb"]), ("dm-2", vec!["dm-2"])]
        {
            fs::create_dir_all(at(&format!("devices/{dm}/slaves"))).unwrap();
            for slave in slaves {
                let name = slave.rsplit('/').next().unwrap();
                symlink(at(&format!("devices/{slave}")), at(&format!("devices/{dm}/slaves/{name}"))).unwrap();
            }
        }
        let nodes = [
            ("8:0", "sda"),
            ("8:2", "sda/sda2"),
            ("8:16", "sdb"),
            ("253:0", "dm-0"),
            ("253:1", "dm-1"),
            ("253:2", "dm-2"),
        ];
        for (numbers, target) in nodes {
            symlink(at(&format!("devices/{target}")), at(&format!("dev/block/{numbers}"))).unwrap();
        }
        for disk in ["sda", "sdb"] {
            symlink(at(&format!("devices/{disk}")), at(&format!("block/{disk}"))).unwrap();
        }
        dir
    }

    /// LVs, partitions and files lead to the disks beneath; what leads nowhere, or in circles, is a device by itself.
    #[test]
    fn stacks_are_followed() {
        let sys = sys();
        for (identity, device, rotational, alone) in [
            ("dev:8:0", "sda", false, false),
            ("dev:8:2", "sda", false, false),
            ("file:8:2:131", "sda", false, false),
            ("dev:253:0", "sda", false, false),
            ("dev:253:1", "sda+sdb", true, false),
            ("dev:8:16", "sdb", true, false),
            ("file:0:45:7", "device 0:45", false, true),
            ("dev:253:2", "device 253:2", false, true),
            ("nonsense", "nonsense", false, true),
        ] {
            let wanted = Place { device: device.into(), rotational, alone };
            assert_eq!(of(sys.path(), identity), wanted, "{identity}");
        }
    }
}
