//! `splitctl log`: what the system's journal holds of one device. Knows journalctl's options and the fields that splitd writes.

use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use super::table;

/// The options for a device as `show` has it: what splitd wrote with its fields, or its worker now, as plain text.
#[must_use]
pub fn options(device: &Value, follow: bool, lines: Option<u32>) -> Vec<String> {
    let mut options = vec!["--no-pager".to_owned(), "--output=short-iso".to_owned()];
    options.extend(follow.then(|| "--follow".to_owned()));
    options.extend(lines.map(|n| format!("--lines={n}")));
    options.push(format!("DOMID={}", table::word(device.get("domid"))));
    options.push(format!("DEVID={}", table::word(device.get("devid"))));
    options.push(format!("DEVICE_KIND={}", table::word(device.get("kind"))));
    if let Some(pid) = device.get("pid").and_then(Value::as_u64) {
        options.extend(["+".to_owned(), "_SYSTEMD_UNIT=splitd.service".to_owned(), format!("_PID={pid}")]);
    }
    options
}

/// Runs journalctl on this terminal.
pub fn show(device: &Value, follow: bool, lines: Option<u32>) -> anyhow::Result<()> {
    let status = Command::new("journalctl").args(options(device, follow, lines)).status().context(
        "journalctl cannot be started; without systemd, splitd's lines are wherever its standard error goes",
    )?;
    if status.success() { Ok(()) } else { bail!("journalctl: {status}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Fields are matched together, the worker beside them.
    #[test]
    fn matches() {
        let device = json!({"domid": 5, "devid": 51712, "kind": "vbd", "pid": 77});
        let options = options(&device, true, Some(9));
        assert_eq!(
            options[2..],
            [
                "--follow",
                "--lines=9",
                "DOMID=5",
                "DEVID=51712",
                "DEVICE_KIND=vbd",
                "+",
                "_SYSTEMD_UNIT=splitd.service",
                "_PID=77"
            ]
        );
    }
}
