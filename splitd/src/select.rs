//! Finding the device that an operator means: `vbd/5/xvda`, `vbd/5/51712`, `vbd/web1/xvda`. Pure. Knows nothing of sockets.

use xenbus::{DomId, Vdev};

use crate::id::{DeviceId, Kind};
use crate::nodes::number;
use crate::report::Row;

/// What an operator wrote for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub(crate) kind: Kind,
    pub(crate) domain: &'a str,
    pub(crate) devid: u32,
}

pub(crate) fn parse(text: &str) -> Result<Named<'_>, String> {
    let mut parts = text.splitn(3, '/');
    let (Some(kind), Some(domain), Some(vdev)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!(
            "DEV is {text:?}: allowed are vbd/DOMAIN/VDEV, as in vbd/5/xvda or vbd/web1/51712, and vif/DOMAIN/NUMBER"
        ));
    };
    let kind = Kind::ALL.into_iter().find(|k| k.backend_name() == kind);
    let kind = kind.ok_or_else(|| format!("DEV is {text:?}: the first part may be vbd, vbd3 or vif"))?;
    let devid = match kind {
        Kind::Vif => number(vdev.as_bytes())
            .ok_or_else(|| format!("DEV is {text:?}: an interface is named by its number, as in vif/5/0"))?,
        Kind::Vbd | Kind::Vbd3 => {
            let Vdev(devid) = vdev.parse().map_err(|error| format!("DEV is {text:?}: {error}"))?;
            devid
        }
    };
    Ok(Named { kind, domain, devid })
}

/// Gives `text` back if it has the form of a device's name.
pub fn named(text: &str) -> Result<String, String> {
    parse(text).map(|_| text.to_owned())
}

/// The device that `text` names, among those there are.
pub fn device(text: &str, rows: &[Row]) -> Result<DeviceId, String> {
    let Named { kind, domain, devid } = parse(text)?;
    let domid = number(domain.as_bytes()).and_then(|n| u16::try_from(n).ok());
    let found = rows.iter().find(|row| {
        row.kind == kind.backend_name()
            && row.devid == devid
            && (domid == Some(row.domid) || row.domain.as_deref() == Some(domain))
    });
    found.and_then(Row::id).ok_or_else(|| format!("{text}: no such device; splitctl list shows all"))
}

impl Row {
    /// Its device.
    #[must_use]
    pub fn id(&self) -> Option<DeviceId> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.backend_name() == self.kind)?;
        Some(DeviceId { backend: DomId(self.backend), frontend: DomId(self.domid), devid: self.devid, kind })
    }
}
