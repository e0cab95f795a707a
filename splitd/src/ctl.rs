//! `splitctl`: a client of splitd's socket, and what an operator does on a host besides. Knows nothing of xenstore.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::protocol::{LINE_LEN_MAX, Request, Response, VERSION, Verb};

pub mod doctor;
pub mod policy;
pub mod table;
pub mod takeover;

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

    /// Xen's `block-common.sh` writes both numbers in hexadecimal; its sharing check compares the text.
    #[test]
    fn physical_devices_are_hexadecimal() {
        assert_eq!(physical_device("dev:253:17").as_deref(), Some("fd:11"));
        for none in ["file:8:1:99", "dev:8", "dev:x:1", ""] {
            assert_eq!(physical_device(none), None, "{none}");
        }
    }
}
