//! Which device: the kind of its backend directory, the guest's domain and the device's number, and all the names made of
//! them. Knows nothing of a device's state.

use std::fmt;

use xenbus::DomId;

/// Backend directories that hold disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `backend/vbd`, which the kernel's driver also knows.
    Vbd,
    /// `backend/vbd3` (`backendtype=tap`, Xen 4.19 and later), which no kernel driver ever binds to.
    Vbd3,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Vbd, Self::Vbd3];

    /// The directory's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vbd3 => "vbd3",
        }
    }
}

/// One disk of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    /// The guest; first, so that lists are ordered by it.
    pub frontend: DomId,
    /// The number that stands for `xvda` and the like.
    pub devid: u32,
    /// Where its backend directory is.
    pub kind: Kind,
}

impl DeviceId {
    /// From a kind, a domain and a device as they stand in a path.
    #[must_use]
    pub fn parse(kind: &str, frontend: &str, devid: &str) -> Option<Self> {
        let kind = Kind::ALL.into_iter().find(|k| k.name() == kind)?;
        let frontend = u16::try_from(crate::nodes::number(frontend.as_bytes())?).ok()?;
        let devid = crate::nodes::number(devid.as_bytes())?;
        (frontend < DomId::FIRST_RESERVED.0).then_some(Self { frontend: DomId(frontend), devid, kind })
    }

    /// The device that a path in or below a backend directory belongs to: absolute, or relative to the backend's home as
    /// hotplug scripts get it (`backend/vbd/5/51712`).
    #[must_use]
    pub fn from_backend_path(path: &str) -> Option<Self> {
        let mut parts =
            path.strip_prefix('/').unwrap_or(path).split('/').skip_while(|part| *part != "backend").skip(1);
        Self::parse(parts.next()?, parts.next()?, parts.next()?)
    }

    /// The backend directory.
    #[must_use]
    pub fn backend_path(&self, backend: DomId) -> String {
        format!("/local/domain/{backend}/backend/{}/{}/{}", self.kind.name(), self.frontend, self.devid)
    }

    /// Where an error of this device is left, as the kernel's backends do.
    #[must_use]
    pub fn error_path(&self, backend: DomId) -> String {
        format!(
            "/local/domain/{backend}/error/backend/{}/{}/{}/error",
            self.kind.name(),
            self.frontend,
            self.devid
        )
    }

    /// The home of the frontend's domain, outside of which nothing of a frontend is ever looked for.
    #[must_use]
    pub fn frontend_home(&self) -> String {
        format!("/local/domain/{}/", self.frontend)
    }

    /// `vbd-5-51712`: the run directory's name and the kernel's for the device on its bus.
    #[must_use]
    pub fn dir_name(&self) -> String {
        format!("{}-{}-{}", self.kind.name(), self.frontend, self.devid)
    }

    /// The inverse of [`dir_name`](Self::dir_name).
    #[must_use]
    pub fn from_dir_name(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let id = Self::parse(parts.next()?, parts.next()?, parts.next()?)?;
        parts.next().is_none().then_some(id)
    }
}

impl fmt::Display for DeviceId {
    /// `vbd/5/xvda`, as an operator names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind.name(), self.frontend, vdev_name(self.devid))
    }
}

/// The name a Linux guest gives the device; the number itself where there is none (xen-vbd-interface(7)).
#[must_use]
pub fn vdev_name(devid: u32) -> String {
    let (prefix, disk, partition) = match devid {
        n if n >> 28 == 1 => ("xvd", (n >> 8) & 0xf_ffff, n & 0xff),
        n if n >> 8 == 202 => ("xvd", (n >> 4) & 0xf, n & 0xf),
        n if n >> 8 == 8 => ("sd", (n >> 4) & 0xf, n & 0xf),
        n if n >> 8 == 3 => ("hd", (n >> 6) & 0x3, n & 0x3f),
        n if n >> 8 == 22 => ("hd", 2 + ((n >> 6) & 0x3), n & 0x3f),
        n => return n.to_string(),
    };
    let mut name = prefix.to_owned();
    name.push_str(&letters(disk));
    if partition != 0 {
        name.push_str(&partition.to_string());
    }
    name
}

/// 0 is a, 25 is z, 26 is aa.
fn letters(disk: u32) -> String {
    let mut text = Vec::new();
    let mut rest = disk + 1;
    while rest > 0 {
        rest -= 1;
        text.push(b'a' + u8::try_from(rest % 26).unwrap_or(0));
        rest /= 26;
    }
    text.iter().rev().map(|byte| char::from(*byte)).collect()
}

/// The number of a device given as `xvda`, `xvda2`, `sdb`, `hdc` or as a number.
#[must_use]
pub fn parse_vdev(text: &str) -> Option<u32> {
    if let Some(devid) = crate::nodes::number(text.as_bytes()) {
        return Some(devid);
    }
    let (prefix, rest) = ["xvd", "sd", "hd"].into_iter().find_map(|p| Some((p, text.strip_prefix(p)?)))?;
    let split = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
    let (disk, partition) = rest.split_at_checked(split)?;
    if disk.is_empty() || disk.len() > 4 {
        return None;
    }
    let disk = disk.bytes().fold(0_u32, |n, byte| n * 26 + u32::from(byte - b'a') + 1) - 1;
    let partition = if partition.is_empty() { 0 } else { crate::nodes::number(partition.as_bytes())? };
    match prefix {
        "xvd" if disk < 16 && partition < 16 => Some(202 << 8 | disk << 4 | partition),
        "xvd" if disk < 1 << 20 && partition < 256 => Some(1 << 28 | disk << 8 | partition),
        "sd" if disk < 16 && partition < 16 => Some(8 << 8 | disk << 4 | partition),
        "hd" if disk < 2 && partition < 64 => Some(3 << 8 | disk << 6 | partition),
        "hd" if disk < 4 && partition < 64 => Some(22 << 8 | (disk - 2) << 6 | partition),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xen-vbd-interface(7); `xl` prints and accepts the same.
    #[test]
    fn devices_by_name() {
        for (devid, name) in [
            (51712, "xvda"),
            (51714, "xvda2"),
            (51728, "xvdb"),
            (51952, "xvdp"),
            (268_439_552, "xvdq"),
            (268_442_112, "xvdaa"),
            (768, "hda"),
            (832, "hdb"),
            (5632, "hdc"),
            (2048, "sda"),
            (7, "7"),
        ] {
            assert_eq!(vdev_name(devid), name);
            assert_eq!(parse_vdev(name), Some(devid), "{name}");
        }
        for bad in ["", "xvd", "xvda-1", "xvdä", "vda", "xvdaaaaa", "xvda999", "sdq"] {
            assert_eq!(parse_vdev(bad), None, "{bad}");
        }
    }

    /// Watches report absolute paths of any depth, scripts get relative ones.
    #[test]
    fn devices_by_path() {
        let id = DeviceId { kind: Kind::Vbd, frontend: DomId(5), devid: 51712 };
        for path in [
            "backend/vbd/5/51712",
            "/local/domain/0/backend/vbd/5/51712",
            "/local/domain/0/backend/vbd/5/51712/queue/x",
        ] {
            assert_eq!(DeviceId::from_backend_path(path), Some(id), "{path}");
        }
        for path in
            ["/local/domain/0/backend/vbd/5", "backend/vif/5/0", "backend/vbd/99999/1", "vbd/5/51712", ""]
        {
            assert_eq!(DeviceId::from_backend_path(path), None, "{path}");
        }
        assert_eq!(DeviceId::from_dir_name(&id.dir_name()), Some(id));
        assert_eq!(id.to_string(), "vbd/5/xvda");
    }
}
