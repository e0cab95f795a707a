//! Keeping the kernel's disk backend off disks that splitd is to serve, and letting it back: the one change to a host that an
//! operator asks for by name. Touches no running disk. Knows nothing of splitd's own state but what it is told.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::kernel::{Driver, Sys};

/// Below the host's root.
const MODPROBE: &str = "etc/modprobe.d/splitd.conf";
const TMPFILES: &str = "etc/tmpfiles.d/splitd.conf";

const MODPROBE_TEXT: &str = include_str!("../../../dist/modprobe-splitd.conf");

const TMPFILES_TEXT: &str = include_str!("../../../dist/tmpfiles-splitd.conf");

/// A host, or a directory that looks like one.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    sys: Sys,
}

impl Machine {
    /// Below `root`, usually `/`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), sys: Sys::new(&root.join("sys")) }
    }

    /// Its `/sys`.
    #[must_use]
    pub fn sys(&self) -> &Sys {
        &self.sys
    }

    /// A path of the host.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// The rule that keeps the module out is there.
    #[must_use]
    pub fn module_is_kept_out(&self) -> bool {
        self.path(MODPROBE).exists()
    }

    /// Keeps the kernel's disk backend away from new disks; says what it did, a line each.
    pub fn take_over(&self) -> anyhow::Result<Vec<String>> {
        if self.sys.autoprobe().is_none() && self.root == Path::new("/") {
            bail!(
                "there is no bus xen-backend in /sys: this is not a domain that can serve disks; nothing was done"
            );
        }
        let held = self.sys.kernel_disks();
        match self.sys.blkback() {
            Driver::Absent => self.take_over_absent(),
            Driver::Module if held.is_empty() => {
                let mut done = vec![self.install(MODPROBE, MODPROBE_TEXT)?];
                done.push(self.unload()?);
                Ok(done)
            }
            Driver::Module | Driver::BuiltIn => self.stop_autoprobe(&held),
        }
    }

    fn take_over_absent(&self) -> anyhow::Result<Vec<String>> {
        let mut done = vec![self.install(MODPROBE, MODPROBE_TEXT)?];
        if self.sys.autoprobe() == Some(false) {
            self.sys.set_autoprobe(true)?;
            done.push(
                "set /sys/bus/xen-backend/drivers_autoprobe to 1: other kinds' drivers take their devices"
                    .to_owned(),
            );
        }
        Ok(done)
    }

    /// With disks of the kernel's in use, or a driver that cannot be kept out, both serve side by side.
    fn stop_autoprobe(&self, held: &[String]) -> anyhow::Result<Vec<String>> {
        let mut done = vec![self.install(TMPFILES, TMPFILES_TEXT)?];
        self.sys.set_autoprobe(false)?;
        done.push(
            "set /sys/bus/xen-backend/drivers_autoprobe to 0: splitd decides which disks the kernel gets"
                .into(),
        );
        if !held.is_empty() {
            done.push(format!("left with the kernel until they are detached: {}", held.join(" ")));
        }
        Ok(done)
    }

    /// Undoes [`take_over`](Self::take_over). `served` are the disks that splitd serves; they stay with it until they are
    /// detached. `load` brings the kernel's driver in.
    pub fn hand_back(
        &self,
        served: &[String],
        load: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<String>> {
        let mut done = Vec::new();
        let loads = !served.is_empty() && self.sys.blkback() == Driver::Absent;
        if loads {
            // A driver that comes in later would take every disk on the bus, also those in use. It comes in now, while none is
            // taken by itself.
            self.sys
                .set_autoprobe(false)
                .context("splitd serves disks that the kernel's driver would take; nothing was done")?;
        }
        for file in [MODPROBE, TMPFILES] {
            match fs::remove_file(self.path(file)) {
                Ok(()) => done.push(format!("removed /{file}")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("/{file}")),
            }
        }
        if loads {
            if let Err(trouble) = load() {
                let again = self.take_over_absent();
                let text = format!(
                    "the kernel's driver could not be loaded, and splitd serves {}",
                    served.join(" ")
                );
                return Err(trouble.context(format!("{text}; {}", again?.join("; "))));
            }
            done.push("loaded xen-blkback".to_owned());
        }
        if self.sys.autoprobe() == Some(false) {
            self.sys.set_autoprobe(true)?;
            done.push(
                "set /sys/bus/xen-backend/drivers_autoprobe to 1: the kernel takes new disks".to_owned(),
            );
        }
        if !served.is_empty() {
            done.push(format!("left with splitd until they are detached: {}", served.join(" ")));
        }
        if done.is_empty() {
            done.push("nothing to do: the kernel's backend was not kept away".to_owned());
        } else if self.sys.blkback() == Driver::Absent && served.is_empty() {
            done.push("the kernel's disk backend is loaded at the next disk that is attached".to_owned());
        }
        Ok(done)
    }

    fn install(&self, file: &str, text: &str) -> anyhow::Result<String> {
        let path = self.path(file);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return Ok(format!("/{file} is there already"));
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(format!("wrote /{file}"))
    }

    /// `modprobe xen-blkback`
    pub fn load() -> anyhow::Result<()> {
        let status = Command::new("modprobe").arg("xen-blkback").status().context("modprobe")?;
        if status.success() { Ok(()) } else { bail!("modprobe xen-blkback: {status}") }
    }

    fn unload(&self) -> anyhow::Result<String> {
        let status = Command::new("modprobe").args(["-r", "xen-blkback"]).status().context("modprobe")?;
        if status.success() {
            return Ok("unloaded xen-blkback, which held no disk".to_owned());
        }
        self.sys.set_autoprobe(false)?;
        Ok("xen-blkback could not be unloaded: set /sys/bus/xen-backend/drivers_autoprobe to 0 until the next boot".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(driver: bool, held: bool) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        let bus = dir.path().join("sys/bus/xen-backend");
        fs::create_dir_all(bus.join("devices/vbd-5-51712")).unwrap();
        fs::write(bus.join("drivers_autoprobe"), "1\n").unwrap();
        if driver {
            fs::create_dir_all(bus.join("drivers/vbd")).unwrap();
        }
        if held {
            std::os::unix::fs::symlink("x/drivers/vbd", bus.join("devices/vbd-5-51712/driver")).unwrap();
        }
        let machine = Machine::new(dir.path());
        (dir, machine)
    }

    /// Scenario 33, first half: with no driver there, a rule keeps it out; and back.
    #[test]
    fn module_kept_out() {
        let (_dir, machine) = host(false, false);
        assert_eq!(machine.take_over().unwrap(), ["wrote /etc/modprobe.d/splitd.conf"]);
        assert!(machine.module_is_kept_out());
        assert_eq!(machine.take_over().unwrap(), ["/etc/modprobe.d/splitd.conf is there already"]);
        assert_eq!(machine.sys().autoprobe(), Some(true));
        let never = || -> anyhow::Result<()> { panic!("nothing is loaded for nobody") };
        let done = machine.hand_back(&[], never).unwrap();
        assert_eq!(done[0], "removed /etc/modprobe.d/splitd.conf");
        assert!(!machine.module_is_kept_out());
        assert!(machine.hand_back(&[], never).unwrap()[0].starts_with("nothing to do"));
    }

    /// Scenario 33, second half: a disk of the kernel's stays with the kernel, new ones are decided one by one.
    #[test]
    fn side_by_side() {
        let (_dir, machine) = host(true, true);
        let done = machine.take_over().unwrap();
        assert!(
            done.iter().any(|line| line.contains("left with the kernel") && line.contains("vbd-5-51712")),
            "{done:?}"
        );
        assert_eq!(machine.sys().autoprobe(), Some(false));
        assert!(!machine.module_is_kept_out());
        let done = machine.hand_back(&["vbd/6/xvda".to_owned()], || panic!("it is loaded")).unwrap();
        assert!(
            done.iter().any(|line| line.contains("left with splitd") && line.contains("vbd/6/xvda")),
            "{done:?}"
        );
        assert_eq!(machine.sys().autoprobe(), Some(true));
    }

    /// A driver that comes in attaches to every disk on the bus, whatever its state, unless drivers take none by themselves.
    #[test]
    fn a_driver_comes_back_beside_served_disks_without_taking_them() {
        let (_dir, machine) = host(false, false);
        machine.take_over().unwrap();
        let served = ["vbd/5/xvda".to_owned()];
        let refused = machine.hand_back(&served, || bail!("modprobe: no")).unwrap_err();
        assert!(format!("{refused:#}").contains("vbd/5/xvda"), "{refused:#}");
        assert!(machine.module_is_kept_out(), "as before");
        assert_eq!(machine.sys().autoprobe(), Some(true));

        let autoprobe = machine.sys().clone();
        let load = || {
            assert_eq!(autoprobe.autoprobe(), Some(false));
            Ok(())
        };
        machine.hand_back(&served, load).unwrap();

        assert!(!machine.module_is_kept_out());
        assert_eq!(machine.sys().autoprobe(), Some(true));
    }
}
