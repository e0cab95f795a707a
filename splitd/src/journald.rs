//! splitd's lines for the system's journal, in its native form (systemd's JOURNAL_NATIVE_PROTOCOL): a line about a device carries
//! its numbers as the fields DOMID, DEVID and DEVICE_KIND. Knows nothing of what is logged.

use std::fmt::{Debug, Write};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::select;

/// Where the journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Longest message: a datagram has a limit of its own, and a longer line helps nobody.
const MESSAGE_LEN_MAX: usize = 32 << 10;

/// Sends each event to the journal. One that cannot be sent is lost, as on any full pipe; splitd goes on.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Connects; what is sent never blocks.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let _ = self.socket.send(&line.datagram(*event.metadata().level()));
    }
}

#[derive(Default)]
struct Line {
    message: String,
    /// ` key=value` for each other field, as in text.
    rest: String,
    device: Option<String>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => {
                let _ = write!(self.rest, " {name}={value:?}");
            }
        }
        if field.name() == "device" {
            self.device = Some(format!("{value:?}"));
        }
    }
}

impl Line {
    fn datagram(&self, level: Level) -> Vec<u8> {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        let mut out = Vec::new();
        field(&mut out, "PRIORITY", priority);
        field(&mut out, "SYSLOG_IDENTIFIER", "splitd");
        if let Some(device) = self.device.as_deref().and_then(|text| select::parse(text).ok()) {
            field(&mut out, "DOMID", device.domain);
            field(&mut out, "DEVID", &device.devid.to_string());
            field(&mut out, "DEVICE_KIND", device.kind.backend_name());
        }
        let text = format!("{}{}", self.message, self.rest);
        let end = (0..=text.len().min(MESSAGE_LEN_MAX)).rev().find(|at| text.is_char_boundary(*at));
        field(&mut out, "MESSAGE", text.get(..end.unwrap_or(0)).unwrap_or_default());
        out
    }
}

/// Name and value; with a length, so that a value may hold anything.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// What a datagram says: pairs of name and value.
    fn parse(mut bytes: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while let Some(at) = bytes.iter().position(|b| *b == b'\n') {
            let (name, rest) = (&bytes[..at], &bytes[at + 1..]);
            let len = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
            let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
            fields.push((text(name), text(&rest[8..8 + len])));
            assert_eq!(rest[8 + len], b'\n');
            bytes = &rest[9 + len..];
        }
        fields
    }

    /// A device's lines are found by its numbers; a guest's text cannot add a field.
    #[test]
    fn fields_of_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::connect(&path).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(device = %"vbd/5/xvda", pid = 9, "bad\nDOMID=0");
            tracing::info!("ready");
        });
        let mut bytes = [0; 4096];
        let n = journal.recv(&mut bytes).unwrap();
        let fields = parse(&bytes[..n]);
        let expected = [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "splitd"),
            ("DOMID", "5"),
            ("DEVID", "51712"),
            ("DEVICE_KIND", "vbd"),
            ("MESSAGE", "bad\nDOMID=0 device=vbd/5/xvda pid=9"),
        ];
        assert_eq!(fields, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let n = journal.recv(&mut bytes).unwrap();
        assert_eq!(parse(&bytes[..n])[2], ("MESSAGE".to_owned(), "ready".to_owned()));
    }
}
