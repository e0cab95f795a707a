//! Where a device's nodes are, and how people call it. Pure text. Knows nothing of what the nodes hold.

use std::fmt;
use std::str::FromStr;

use crate::DomId;
use crate::vdev::Vdev;

/// The kinds of devices that there are backends for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceKind {
    /// A disk.
    Vbd,
    /// A disk that no kernel driver takes for its own (`backendtype=tap`, Xen 4.19 and later).
    Vbd3,
    /// A network interface.
    Vif,
}

impl DeviceKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Vbd, Self::Vbd3, Self::Vif];

    /// The name of its directory on the backend's side.
    #[must_use]
    pub fn backend_name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vbd3 => "vbd3",
            Self::Vif => "vif",
        }
    }

    /// The name of its directory on the frontend's side: a guest cannot tell the kinds of disks apart.
    #[must_use]
    pub fn frontend_name(self) -> &'static str {
        match self {
            Self::Vbd | Self::Vbd3 => "vbd",
            Self::Vif => "vif",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.backend_name() == name)
    }
}

/// One device: which backend's domain, what kind, whose, which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// The domain whose backend serves it.
    pub backend: DomId,
    /// Disk or network interface.
    pub kind: DeviceKind,
    /// The guest.
    pub frontend: DomId,
    /// Its number: of a disk see [`Vdev`], of a network interface its index.
    pub devid: u32,
}

/// A text that is not a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a device: vbd/DOMAIN/NAME-OR-NUMBER (vbd/5/xvda, vbd/5/51712), vbd3/…, vif/DOMAIN/INDEX"
)]
pub struct NotADevice {
    /// The text.
    pub text: String,
}

impl Device {
    /// The directory that a backend's domain keeps for all devices of one kind.
    #[must_use]
    pub fn kind_dir(backend: DomId, kind: DeviceKind) -> String {
        format!("/local/domain/{backend}/backend/{}", kind.backend_name())
    }

    /// The backend's directory: the toolstack's nodes, and ours.
    #[must_use]
    pub fn backend_dir(&self) -> String {
        format!("{}/{}/{}", Self::kind_dir(self.backend, self.kind), self.frontend, self.devid)
    }

    /// The frontend's directory. The guest owns it: every value in it may be hostile. The `frontend` node in the backend's
    /// directory says the same.
    #[must_use]
    pub fn frontend_dir(&self) -> String {
        format!("/local/domain/{}/device/{}/{}", self.frontend, self.kind.frontend_name(), self.devid)
    }

    /// Where a backend says what went wrong while it ran.
    #[must_use]
    pub fn error_node(&self) -> String {
        let (backend, kind) = (self.backend, self.kind.backend_name());
        format!("/local/domain/{backend}/error/backend/{kind}/{}/{}/error", self.frontend, self.devid)
    }

    /// What a hotplug script knows as `XENBUS_PATH`.
    #[must_use]
    pub fn xenbus_path(&self) -> String {
        format!("backend/{}/{}/{}", self.kind.backend_name(), self.frontend, self.devid)
    }

    /// Splits a path at or below a backend's directory into the device and what is behind it (`""` for the directory itself).
    /// `None` for all other paths.
    #[must_use]
    pub fn split_backend_path(path: &str) -> Option<(Self, &str)> {
        let (backend, rest) = path.strip_prefix("/local/domain/")?.split_once('/')?;
        Self::split_xenbus_path(rest, canonical(backend).map(DomId)?)
    }

    /// As [`Device::split_backend_path`], for a path relative to the home of `backend`: `XENBUS_PATH` is such a one.
    #[must_use]
    pub fn split_xenbus_path(path: &str, backend: DomId) -> Option<(Self, &str)> {
        let (kind, rest) = path.strip_prefix("backend/")?.split_once('/')?;
        let (frontend, rest) = rest.split_once('/')?;
        let (devid, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let kind = DeviceKind::parse(kind)?;
        let device =
            Self { backend, kind, frontend: canonical(frontend).map(DomId)?, devid: canonical(devid)? };
        Some((device, rest))
    }

    /// Reads what an operator calls a device of `backend`, as [`Device`] is displayed or with a disk's number for its name.
    pub fn parse(text: &str, backend: DomId) -> Result<Self, NotADevice> {
        Self::find(text, backend).ok_or_else(|| NotADevice { text: text.to_owned() })
    }

    fn find(text: &str, backend: DomId) -> Option<Self> {
        let mut parts = text.split('/');
        let (kind, frontend, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = DeviceKind::parse(kind)?;
        let devid = match kind {
            DeviceKind::Vbd | DeviceKind::Vbd3 => name.parse::<Vdev>().ok()?.0,
            DeviceKind::Vif => canonical(name)?,
        };
        let frontend = canonical(frontend).map(DomId)?;
        parts.next().is_none().then_some(Self { backend, kind, frontend, devid })
    }
}

/// As operators write it: `vbd/5/xvda`, `vif/5/0`.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, frontend) = (self.kind.backend_name(), self.frontend);
        match self.kind {
            DeviceKind::Vbd | DeviceKind::Vbd3 => f.pad(&format!("{kind}/{frontend}/{}", Vdev(self.devid))),
            DeviceKind::Vif => f.pad(&format!("{kind}/{frontend}/{}", self.devid)),
        }
    }
}

/// A number written in the one way that it can be: so that no two directories are one device.
fn canonical<T: FromStr + fmt::Display>(text: &str) -> Option<T> {
    let number: T = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: Device =
        Device { backend: DomId(0), kind: DeviceKind::Vbd, frontend: DomId(5), devid: 51712 };

    /// The directories of control-plane §1.1, as libxl writes them.
    #[test]
    fn directories_are_libxls() {
        assert_eq!(DISK.backend_dir(), "/local/domain/0/backend/vbd/5/51712");
        assert_eq!(DISK.frontend_dir(), "/local/domain/5/device/vbd/51712");
        assert_eq!(DISK.error_node(), "/local/domain/0/error/backend/vbd/5/51712/error");
        assert_eq!(DISK.xenbus_path(), "backend/vbd/5/51712");
        let tap = Device { kind: DeviceKind::Vbd3, ..DISK };
        assert_eq!(tap.backend_dir(), "/local/domain/0/backend/vbd3/5/51712");
        assert_eq!(tap.frontend_dir(), DISK.frontend_dir());
    }

    /// A watch event names a node at any depth below the device.
    #[test]
    fn paths_are_split_into_device_and_node() {
        let split = Device::split_backend_path;
        assert_eq!(split("/local/domain/0/backend/vbd/5/51712"), Some((DISK, "")));
        assert_eq!(split("/local/domain/0/backend/vbd/5/51712/queue-0/x"), Some((DISK, "queue-0/x")));
        assert_eq!(Device::split_xenbus_path("backend/vbd/5/51712", DomId(0)), Some((DISK, "")));
        for path in [
            "/local/domain/0/backend/vbd/5",
            "/local/domain/0/backend/vbd/05/51712",
            "/local/domain/0/backend/vbd/5/+51712",
            "/local/domain/0/backend/vbd/65536/51712",
            "/local/domain/0/backend/console/5/0",
            "/local/domain/5/device/vbd/51712",
            "backend/vbd/5/51712",
        ] {
            assert_eq!(split(path), None, "{path}");
        }
    }

    /// What `list` prints can be typed back, and a wrong name gets told what is right.
    #[test]
    fn operators_names_are_read_back() {
        assert_eq!(DISK.to_string(), "vbd/5/xvda");
        assert_eq!(Device::parse("vbd/5/xvda", DomId(0)), Ok(DISK));
        assert_eq!(Device::parse("vbd/5/51712", DomId(0)), Ok(DISK));
        let nic = Device { kind: DeviceKind::Vif, devid: 0, ..DISK };
        assert_eq!(Device::parse(&nic.to_string(), DomId(0)), Ok(nic));
        for text in ["", "vbd", "vbd/5", "vbd/5/xvda/1", "vbd/x/xvda", "vif/5/xvda", "disk/5/xvda"] {
            let error = Device::parse(text, DomId(0)).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")));
        }
    }

    proptest! {
        /// Any text is a device or is not; a device's directory is its own and no other's.
        #[test]
        fn splitting_is_total_and_exact(text in "(/local/domain/)?[0-9a-z/]{0,40}", frontend: u16, devid: u32) {
            if let Some((device, rest)) = Device::split_backend_path(&text) {
                let again = format!("{}/{rest}", device.backend_dir());
                prop_assert_eq!(again.trim_end_matches('/'), text.trim_end_matches('/'));
            }
            let _ = Device::parse(&text, DomId(0));
            let device = Device { frontend: DomId(frontend), devid, ..DISK };
            let dir = device.backend_dir();
            prop_assert_eq!(Device::split_backend_path(&dir), Some((device, "")));
            prop_assert_eq!(Device::parse(&device.to_string(), DomId(0)), Ok(device));
        }
    }
}
