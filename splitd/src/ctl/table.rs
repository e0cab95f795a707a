//! Output: aligned columns for people, `key=value` for pipes, JSON for programs. Pure. Knows nothing of where rows come from.

use std::fmt::Write;

use serde_json::Value;

/// A column: its head in tables, and the key of its value.
pub type Column = (&'static str, &'static str);

/// As `xl block-list` begins, and then what it cannot say.
pub const LIST: [Column; 16] = [
    ("Vdev", "vdev"),
    ("BE", "backend"),
    ("handle", "devid"),
    ("state", "state"),
    ("evt-ch", "event_channel"),
    ("ring-ref", "ring_ref"),
    ("BE-path", "backend_path"),
    ("domain", "domain"),
    ("worker", "worker"),
    ("pid", "pid"),
    ("mode", "mode"),
    ("queues", "queues"),
    ("transfer", "transfer"),
    ("restarts", "restarts"),
    ("target", "target"),
    ("note", "note"),
];

/// As `xl network-list` begins, and then what it cannot say.
pub const LIST_VIFS: [Column; 14] = [
    ("Idx", "devid"),
    ("BE", "backend"),
    ("Mac Addr.", "mac"),
    ("handle", "devid"),
    ("state", "state"),
    ("evt-ch", "event_channel"),
    ("tx-/rx-ring-ref", "ring_refs"),
    ("BE-path", "backend_path"),
    ("domain", "domain"),
    ("worker", "worker"),
    ("pid", "pid"),
    ("queues", "queues"),
    ("tap", "target"),
    ("note", "note"),
];

/// A value as a word; `-` where there is none.
#[must_use]
pub fn word(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Aligned columns; the last one is not padded.
#[must_use]
pub fn aligned(columns: &[Column], rows: &[Value]) -> String {
    let mut lines = vec![columns.iter().map(|(head, _)| (*head).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|(_, key)| word(row.get(key))).collect()));
    let width = |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|w| w.chars().count()).max();
    let widths: Vec<_> = (0..columns.len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let mut padded = String::new();
        for (word, width) in line.iter().zip(&widths) {
            let _ = write!(padded, "{word:width$} ");
        }
        let _ = writeln!(text, "{}", padded.trim_end());
    }
    text
}

/// One line of `key=value` each; values with spaces are quoted as JSON.
#[must_use]
pub fn pairs(rows: &[Value]) -> String {
    let mut text = String::new();
    for row in rows {
        let Some(row) = row.as_object() else { continue };
        let words = row.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| match value {
            Value::String(s) if !s.is_empty() && !s.contains([' ', '"', '=']) => format!("{key}={s}"),
            other => format!("{key}={other}"),
        });
        let _ = writeln!(text, "{}", words.collect::<Vec<_>>().join(" "));
    }
    text
}

/// Key and value, a line each.
#[must_use]
pub fn sheet(row: &Value) -> String {
    let Some(row) = row.as_object() else { return String::new() };
    let width = row.keys().map(|key| key.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in row {
        let _ = writeln!(text, "{key:width$}  {}", word(Some(value)));
    }
    text
}

/// The state as people read it beside the number that tools parse.
#[must_use]
pub fn state_name(state: Option<u64>) -> &'static str {
    match state {
        Some(1) => "Initialising",
        Some(2) => "InitWait",
        Some(3) => "Initialised",
        Some(4) => "Connected",
        Some(5) => "Closing",
        Some(6) => "Closed",
        Some(7) => "Reconfiguring",
        Some(8) => "Reconfigured",
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// People pipe `xl block-list` into awk: the first seven columns are its own.
    #[test]
    fn lists_begin_like_xl_block_list() {
        let row = json!({"vdev": "xvda", "backend": 0, "devid": 51712, "state": 4, "event_channel": 15, "ring_ref": 8,
            "backend_path": "/local/domain/0/backend/vbd/5/51712", "worker": "serving", "domain": null});
        let text = aligned(&LIST, &[row]);
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("Vdev BE handle state evt-ch ring-ref BE-path "), "{text}");
        let words: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(words[..7], ["xvda", "0", "51712", "4", "15", "8", "/local/domain/0/backend/vbd/5/51712"]);
    }

    /// A pipe gets words that can be split at spaces.
    #[test]
    fn pairs_can_be_parsed() {
        let text = pairs(&[json!({"a": "x", "b": 1, "c": "two words", "d": null, "e": ""})]);
        assert_eq!(text, "a=x b=1 c=\"two words\" e=\"\"\n");
    }
}
