//! `splitctl`: a client of splitd's socket, and what an operator does on a host besides. Knows nothing of xenstore.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::protocol::{LINE_LEN_MAX, Request, Response, VERSION, Verb};

pub mod doctor;
pub mod journal;
pub mod policy;
pub mod print;
pub mod retarget;
pub mod screen;
pub mod sla;
pub mod table;
pub mod takeover;
pub mod top;
pub mod trace;

/// Longest wait for an answer. A script is answered after 30 s at the latest.
const ANSWER_TIME: Duration = Duration::from_secs(35);

/// Asks splitd.
pub fn ask(socket: &Path, verb: Verb) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("splitd does not answer at {}: is it running?", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    let mut line = serde_json::to_vec(&Request { version: VERSION, verb })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_LEN_MAX)).read_line(&mut answer).context("splitd gave no answer")?;
    if answer.is_empty() {
        bail!("splitd ended before it answered");
    }
    let response: Response = serde_json::from_str(&answer).context("splitd's answer")?;
    match (response.result, response.error) {
        (_, Some(error)) => bail!(error),
        (Some(result), None) => Ok(result),
        (None, None) => bail!("splitd's answer is empty"),
    }
}

/// Replaces all workers, each once its predecessor's successor serves; the first failure ends it, and what has been done is told.
pub fn restart_all(ask: impl Fn(Verb) -> anyhow::Result<Value>) -> anyhow::Result<String> {
    let list = ask(Verb::List)?;
    let rows = list.get("devices").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let served: Vec<_> = rows
        .iter()
        .filter(|row| row.get("pid").is_some_and(|pid| !pid.is_null()))
        .filter_map(|row| row.get("device")?.as_str())
        .collect();
    let mut done = String::new();
    for (i, &device) in served.iter().enumerate() {
        match ask(Verb::Restart { device: device.to_owned() }) {
            Ok(result) => done.push_str(&format!("{device}: {}\n", table::word(result.get("done")))),
            Err(trouble) => {
                bail!("{done}{trouble}\n{} of {} were not tried any more", served.len() - i - 1, served.len())
            }
        }
    }
    Ok(done)
}

/// What a hotplug script is to write for a block device: `physical-device`, in hexadecimal; `None` for a regular file.
#[must_use]
pub fn physical_device(identity: &str) -> Option<String> {
    let mut parts = identity.split(':');
    let ("dev", major, minor) = (parts.next()?, parts.next()?, parts.next()?) else { return None };
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    Some(format!("{major:x}:{minor:x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rolling restart goes device by device, leaves out what has no worker, and ends at the first failure.
    #[test]
    fn restarts_end_at_the_first_failure() {
        let asked = std::cell::RefCell::new(Vec::new());
        let bad = std::cell::Cell::new("none");
        let ask = |verb| match verb {
            Verb::Restart { device } => {
                asked.borrow_mut().push(device.clone());
                if device == bad.get() {
                    bail!("{device}: no")
                }
                Ok(serde_json::json!({ "done": "well" }))
            }
            _ => Ok(serde_json::json!({ "devices": [
                { "device": "vbd/1/xvda", "pid": 7 }, { "device": "vbd/2/xvda", "pid": null },
                { "device": "vbd/3/xvda", "pid": 8 }, { "device": "vif/3/0", "pid": 9 },
            ] })),
        };
        assert_eq!(restart_all(ask).unwrap(), "vbd/1/xvda: well\nvbd/3/xvda: well\nvif/3/0: well\n");

        asked.borrow_mut().clear();
        bad.set("vbd/3/xvda");
        let text = restart_all(ask).unwrap_err().to_string();
        assert_eq!(text, "vbd/1/xvda: well\nvbd/3/xvda: no\n1 of 3 were not tried any more");
        assert_eq!(*asked.borrow(), ["vbd/1/xvda", "vbd/3/xvda"]);
    }

    /// Xen's `block-common.sh` writes both numbers in hexadecimal; its sharing check compares the text.
    #[test]
    fn physical_devices_are_hexadecimal() {
        assert_eq!(physical_device("dev:253:17").as_deref(), Some("fd:11"));
        for none in ["file:8:1:99", "dev:8", "dev:x:1", ""] {
            assert_eq!(physical_device(none), None, "{none}");
        }
    }
}
