//! The kernel's own backends, as sysfs shows them: is one there, what does it hold, does it take new devices by itself. All
//! paths are below a given `/sys`. Knows nothing of why one asks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::id::{self, DeviceId, Kind};
use crate::place::{self, Place};

/// A backend of the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Of disks.
    Blkback,
    /// Of network interfaces.
    Netback,
}

impl Backend {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Blkback, Self::Netback];

    /// The one that would serve devices of this kind.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Vbd => Some(Self::Blkback),
            Kind::Vif => Some(Self::Netback),
            Kind::Vbd3 => None,
        }
    }

    /// Its name for modprobe.
    #[must_use]
    pub fn module(self) -> &'static str {
        match self {
            Self::Blkback => "xen-blkback",
            Self::Netback => "xen-netback",
        }
    }

    /// What its driver is called, and its devices begin with, on the bus.
    #[must_use]
    pub fn driver(self) -> &'static str {
        match self {
            Self::Blkback => "vbd",
            Self::Netback => "vif",
        }
    }
}

/// How a backend of the kernel's is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Not at all.
    Absent,
    /// As a module, which can be kept out.
    Module,
    /// In the kernel itself.
    BuiltIn,
}

/// A host's `/sys`.
#[derive(Clone, Debug)]
pub struct Sys {
    root: PathBuf,
}

impl Sys {
    /// The physical device beneath a target that a worker has open.
    #[must_use]
    pub fn place(&self, identity: &str) -> Place {
        place::of(&self.root, identity)
    }

    /// Below `root`, usually `/sys`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn bus(&self) -> PathBuf {
        self.root.join("bus/xen-backend")
    }

    /// The driver that is bound to a device.
    #[must_use]
    pub fn bound_driver(&self, device: &DeviceId) -> Option<String> {
        if device.kind == Kind::Vbd3 {
            return None;
        }
        self.driver_of(&id::dir_name(device))
    }

    fn driver_of(&self, name: &str) -> Option<String> {
        let driver = fs::read_link(self.bus().join("devices").join(name).join("driver")).ok()?;
        Some(driver.file_name().unwrap_or(driver.as_os_str()).to_string_lossy().into_owned())
    }

    /// How a backend of the kernel's is there.
    #[must_use]
    pub fn driver(&self, backend: Backend) -> Driver {
        let module = self.root.join("module").join(backend.module().replace('-', "_"));
        if module.join("initstate").exists() {
            Driver::Module
        } else if module.exists() || self.bus().join("drivers").join(backend.driver()).exists() {
            Driver::BuiltIn
        } else {
            Driver::Absent
        }
    }

    /// Devices on the bus with the driver that each is bound to.
    #[must_use]
    pub fn devices(&self) -> Vec<(String, Option<String>)> {
        let Ok(entries) = fs::read_dir(self.bus().join("devices")) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut devices: Vec<_> =
            names.map(|name| (self.driver_of(&name), name)).map(|(d, n)| (n, d)).collect();
        devices.sort();
        devices
    }

    /// Devices that a backend of the kernel's holds.
    #[must_use]
    pub fn held(&self, backend: Backend) -> Vec<String> {
        let is_its = |name: &str| name.split_once('-').is_some_and(|(kind, _)| kind == backend.driver());
        let held = self.devices().into_iter().filter(|(name, driver)| is_its(name) && driver.is_some());
        held.map(|(name, _)| name).collect()
    }

    fn autoprobe_path(&self) -> PathBuf {
        self.bus().join("drivers_autoprobe")
    }

    /// Whether drivers take new devices by themselves; `None` without such a bus.
    #[must_use]
    pub fn autoprobe(&self) -> Option<bool> {
        Some(fs::read_to_string(self.autoprobe_path()).ok()?.trim() != "0")
    }

    /// Whether a backend of the kernel's takes a device the moment it appears: serving it, too, would be two masters.
    #[must_use]
    pub fn takes_new(&self, backend: Backend) -> bool {
        self.driver(backend) != Driver::Absent && self.autoprobe() == Some(true)
    }

    /// Lets drivers take new devices by themselves, or not.
    pub fn set_autoprobe(&self, on: bool) -> io::Result<()> {
        let path = self.autoprobe_path();
        write_existing(&path, if on { "1" } else { "0" })
    }

    /// Gives a device to the driver of its type, if there is one; false if there is none.
    pub fn bind(&self, name: &str) -> io::Result<bool> {
        let Some((kind, _)) = name.split_once('-') else { return Ok(false) };
        let bind = self.bus().join("drivers").join(kind).join("bind");
        if !bind.exists() {
            return Ok(false);
        }
        write_existing(&bind, name).map(|()| true)
    }
}

/// As a shell's `echo >` to a sysfs file: it is never made, nor cut.
fn write_existing(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    let of_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = fs::File::options().write(true).open(path).map_err(of_path)?;
    file.write_all(value.as_bytes()).map_err(of_path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xenbus::DomId;

    /// A bus with a disk of the kernel's, one of nobody's, and a network interface.
    pub(crate) fn host(dir: &Path) -> Sys {
        let bus = dir.join("bus/xen-backend");
        for device in ["vbd-5-51712", "vbd-6-51712", "vif-5-0"] {
            fs::create_dir_all(bus.join("devices").join(device)).unwrap();
        }
        for driver in ["vbd", "vif"] {
            fs::create_dir_all(bus.join("drivers").join(driver)).unwrap();
            fs::write(bus.join("drivers").join(driver).join("bind"), "").unwrap();
        }
        let driver = "../../../../bus/xen-backend/drivers/vbd";
        std::os::unix::fs::symlink(driver, bus.join("devices/vbd-5-51712/driver")).unwrap();
        fs::write(bus.join("drivers_autoprobe"), "1\n").unwrap();
        Sys::new(dir)
    }

    /// What a host with kernel backends looks like.
    #[test]
    fn what_the_kernel_holds() {
        let dir = tempfile::tempdir().unwrap();
        let sys = host(dir.path());
        let disk =
            |domid| DeviceId { backend: DomId(0), kind: Kind::Vbd, frontend: DomId(domid), devid: 51712 };
        assert_eq!(sys.bound_driver(&disk(5)).as_deref(), Some("vbd"));
        assert_eq!(sys.bound_driver(&disk(6)), None);
        assert_eq!(sys.bound_driver(&DeviceId { kind: Kind::Vbd3, ..disk(5) }), None);
        assert_eq!(sys.held(Backend::Blkback), ["vbd-5-51712"]);
        assert_eq!(sys.held(Backend::Netback), [""; 0]);
        assert_eq!(sys.driver(Backend::Blkback), Driver::BuiltIn);
        fs::create_dir_all(dir.path().join("module/xen_blkback")).unwrap();
        fs::write(dir.path().join("module/xen_blkback/initstate"), "live\n").unwrap();
        assert_eq!(sys.driver(Backend::Blkback), Driver::Module);
        assert_eq!(sys.driver(Backend::Netback), Driver::BuiltIn);
        assert_eq!(sys.autoprobe(), Some(true));
        assert!(Backend::ALL.into_iter().all(|backend| sys.takes_new(backend)));
        sys.set_autoprobe(false).unwrap();
        assert_eq!(sys.autoprobe(), Some(false));
        assert!(!Backend::ALL.into_iter().any(|backend| sys.takes_new(backend)));
        assert!(sys.bind("vif-5-0").unwrap());
        assert!(!sys.bind("console-5-0").unwrap());
        assert_eq!(
            fs::read_to_string(dir.path().join("bus/xen-backend/drivers/vif/bind")).unwrap(),
            "vif-5-0"
        );
    }

    /// A machine without Xen.
    #[test]
    fn no_bus() {
        let dir = tempfile::tempdir().unwrap();
        let sys = Sys::new(dir.path());
        assert_eq!(Backend::ALL.map(|backend| sys.driver(backend)), [Driver::Absent; 2]);
        assert_eq!((sys.autoprobe(), sys.devices()), (None, Vec::new()));
        assert!(sys.set_autoprobe(false).unwrap_err().to_string().contains("drivers_autoprobe"));
    }
}
