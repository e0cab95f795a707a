//! How `splitctl` shows splitd's answers: tables on a terminal, `key=value` in a pipe, JSON where it is asked for. Knows nothing of
//! sockets or of the command line.

use std::io::IsTerminal;

use serde_json::{Value, json};

use super::table;

/// As one JSON object, with the version of its form.
#[must_use]
pub fn as_json(mut result: Value) -> String {
    if let Some(object) = result.as_object_mut() {
        object.insert("version".to_owned(), json!(1));
    }
    format!("{result}\n")
}

/// The devices of an answer.
#[must_use]
pub fn take_rows(result: &Value) -> Vec<Value> {
    result.get("devices").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// `list`
#[must_use]
pub fn list(result: Value, wants_json: bool) -> String {
    if wants_json {
        return as_json(result);
    }
    let mut rows = take_rows(&result);
    for row in &mut rows {
        let note = ["alarm", "not_served"].into_iter().find_map(|key| row.get(key).and_then(Value::as_str));
        let note = note.map(str::to_owned).or_else(|| (row.get("domid") == Some(&json!(0))).then(dom0_note));
        row["note"] = json!(note);
    }
    if !std::io::stdout().is_terminal() {
        return table::pairs(&rows);
    }
    for row in &mut rows {
        let state = row.get("state").and_then(Value::as_u64);
        row["state"] = json!(format!("{} {}", table::word(row.get("state")), table::state_name(state)));
        let refs = ["ring_ref", "rx_ring_ref"].map(|key| table::word(row.get(key)));
        row["ring_refs"] = json!(refs.join("/"));
    }
    let (vifs, disks): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_vif);
    let tables = [(disks, &table::LIST[..]), (vifs, &table::LIST_VIFS[..])];
    let tables = tables.into_iter().filter(|(rows, _)| !rows.is_empty());
    tables.map(|(rows, columns)| table::aligned(columns, &rows)).collect::<Vec<_>>().join("\n")
}

fn is_vif(row: &Value) -> bool {
    row.get("kind").and_then(Value::as_str) == Some("vif")
}

/// Only the devices of these domains, by name or number; an error if one has none.
pub fn of_domains(mut result: Value, domains: &[String]) -> anyhow::Result<Value> {
    if domains.is_empty() {
        return Ok(result);
    }
    let is_its = |row: &Value, domain: &str| {
        [row.get("domid"), row.get("domain")].into_iter().any(|v| v.is_some() && table::word(v) == domain)
    };
    let rows = take_rows(&result);
    if let Some(domain) = domains.iter().find(|domain| !rows.iter().any(|row| is_its(row, domain))) {
        anyhow::bail!(
            "{domain}: no domain of that name or number has a device here; splitctl list shows all"
        );
    }
    let chosen = rows.into_iter().filter(|row| domains.iter().any(|domain| is_its(row, domain)));
    result["devices"] = chosen.collect();
    Ok(result)
}

fn dom0_note() -> String {
    "dom0's own: its worker's event channels cannot be restricted".to_owned()
}

/// `show`
#[must_use]
pub fn show(result: Value, wants_json: bool) -> String {
    if wants_json { as_json(result) } else { result.get("device").map(table::sheet).unwrap_or_default() }
}

/// `stats`
#[must_use]
pub fn stats(result: Value, wants_json: bool) -> String {
    if wants_json {
        return as_json(result);
    }
    let mut rows = take_rows(&result);
    for row in &mut rows {
        if let Some(figures) = row.as_object_mut() {
            figures.remove("queues");
            figures.remove("histograms");
        }
    }
    if std::io::stdout().is_terminal() {
        rows.iter().map(table::sheet).collect()
    } else {
        table::pairs(&rows)
    }
}
