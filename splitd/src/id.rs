//! Names of a device that are splitd's own: its directory below the run directory, which is also what the kernel calls it on
//! its bus. Pure. Knows nothing of a device's state.

use xenbus::DomId;
// A device's task and `step`'s view of it are devices, too; here it is only which.
pub use xenbus::{Device as DeviceId, DeviceKind as Kind};

/// Backend directories that hold disks.
pub const DISKS: [Kind; 2] = [Kind::Vbd, Kind::Vbd3];

/// The device that a node in or below its backend directory belongs to.
#[must_use]
pub fn of_backend_path(path: &str) -> Option<DeviceId> {
    DeviceId::split_backend_path(path).map(|(device, _)| device).filter(is_possible)
}

/// `vbd-5-51712`
#[must_use]
pub fn dir_name(device: &DeviceId) -> String {
    format!("{}-{}-{}", device.kind.backend_name(), device.frontend, device.devid)
}

/// The device of `backend` that [`dir_name`] made a name of.
#[must_use]
pub fn from_dir_name(name: &str, backend: DomId) -> Option<DeviceId> {
    let path = format!("backend/{}", name.replacen('-', "/", 2));
    let (device, rest) = DeviceId::split_xenbus_path(&path, backend)?;
    (rest.is_empty() && is_possible(&device) && dir_name(&device) == name).then_some(device)
}

/// Of a domain that can exist.
#[must_use]
pub fn is_possible(device: &DeviceId) -> bool {
    device.frontend < DomId::FIRST_RESERVED
}

/// A disk of a domain that can exist.
#[must_use]
pub fn is_disk(device: &DeviceId) -> bool {
    DISKS.contains(&device.kind) && is_possible(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in the run directory is ours or is left alone.
    #[test]
    fn directory_names() {
        let device = DeviceId { backend: DomId(0), kind: Kind::Vbd, frontend: DomId(5), devid: 51712 };
        assert_eq!(dir_name(&device), "vbd-5-51712");
        assert_eq!(from_dir_name("vbd-5-51712", DomId(0)), Some(device));
        let vif = DeviceId { kind: Kind::Vif, devid: 0, ..device };
        assert_eq!(from_dir_name("vif-5-0", DomId(0)), Some(vif));
        for name in
            ["vbd-5", "vbd-5-51712-1", "vbd-05-51712", "vbd-32752-1", "vbd/5/51712", "splitd.sock", ""]
        {
            assert_eq!(from_dir_name(name, DomId(0)), None, "{name}");
        }
    }
}
