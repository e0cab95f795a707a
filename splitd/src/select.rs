//! Finding the device that an operator means: `vbd/5/xvda`, `vbd/5/51712`, `vbd/web1/xvda`. Pure. Knows nothing of sockets.

use xenbus::{DomId, Vdev};

use crate::id::{DeviceId, Kind};
use crate::nodes::number;
use crate::report::Row;

/// The device that `text` names, among those there are.
pub fn device(text: &str, rows: &[Row]) -> Result<DeviceId, String> {
    let mut parts = text.splitn(3, '/');
    let (Some(kind), Some(domain), Some(vdev)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!(
            "DEV is {text:?}: allowed are vbd/DOMAIN/VDEV, as in vbd/5/xvda or vbd/web1/51712, and vif/DOMAIN/NUMBER"
        ));
    };
    let devid = match Kind::ALL.into_iter().find(|k| k.backend_name() == kind) {
        None => return Err(format!("DEV is {text:?}: the first part may be vbd, vbd3 or vif")),
        Some(Kind::Vif) => number(vdev.as_bytes())
            .ok_or_else(|| format!("DEV is {text:?}: an interface is named by its number, as in vif/5/0"))?,
        Some(Kind::Vbd | Kind::Vbd3) => {
            let Vdev(devid) = vdev.parse().map_err(|error| format!("DEV is {text:?}: {error}"))?;
            devid
        }
    };
    let domid = number(domain.as_bytes()).and_then(|n| u16::try_from(n).ok());
    let found = rows.iter().find(|row| {
        row.kind == kind
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
