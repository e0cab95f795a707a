//! A worker's end of its control socket: accepts one splitd at a time, reads and writes lines of JSON. A splitd that goes away
//! is no event but its absence; the next one is accepted when it comes. Knows nothing of what is said.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::message::{FromWorker, ToWorker};
use crate::wake::{self, Bell};

/// Longest line that is read; `Open` with a 4 KiB path is far below.
const MAX_LINE_LEN: usize = 64 * 1024;

/// What a wait brought.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Said(ToWorker),
    /// A line that is no message of ours; splitd is still there.
    Garbled(String),
    /// The bell rang, or the time was up.
    Nothing,
}

/// The socket.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    bell: Bell,
    peer: Option<UnixStream>,
    unread: Vec<u8>,
}

impl Control {
    /// Takes over the listening socket; `bell` ends a wait early.
    pub fn new(listener: UnixListener, bell: Bell) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, bell, peer: None, unread: Vec::new() })
    }

    /// True while a splitd is connected.
    #[must_use]
    pub fn has_peer(&self) -> bool {
        self.peer.is_some()
    }

    /// Waits for a message, the bell, or `limit`.
    pub fn hear(&mut self, limit: Duration) -> io::Result<Heard> {
        if let Some(heard) = self.next_line() {
            return Ok(heard);
        }
        let listener = self.peer.is_none().then(|| self.listener.as_fd());
        let peer = self.peer.as_ref().map(AsFd::as_fd);
        let [arrived, spoke, rang] = wake::readable([listener, peer, Some(self.bell.as_fd())], limit)?;
        if rang {
            self.bell.hush();
        }
        if arrived {
            self.accept();
        }
        if spoke {
            self.read();
        }
        Ok(self.next_line().unwrap_or(Heard::Nothing))
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            self.unread.clear();
            self.peer = Some(stream);
        }
    }

    fn read(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        let mut bytes = [0; 4096];
        match peer.read(&mut bytes) {
            Ok(len) if len > 0 => {
                self.unread.extend_from_slice(bytes.get(..len).unwrap_or_default());
                if self.unread.len() > MAX_LINE_LEN {
                    self.hang_up("a line of more than 64 KiB");
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(_) => self.hang_up("it went away"),
            Err(e) => self.hang_up(&e.to_string()),
        }
    }

    fn next_line(&mut self) -> Option<Heard> {
        let end = self.unread.iter().position(|&b| b == b'\n')?;
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        Some(match serde_json::from_slice(&line) {
            Ok(message) => Heard::Said(message),
            Err(e) => Heard::Garbled(e.to_string()),
        })
    }

    /// Says something, if anybody listens.
    pub fn say(&mut self, message: &FromWorker) {
        let Some(peer) = &mut self.peer else { return };
        let Ok(mut line) = serde_json::to_vec(message) else { return };
        line.push(b'\n');
        // A splitd that has stopped reading is as good as gone; it is told everything when it comes back.
        if let Err(e) = peer.write_all(&line) {
            self.hang_up(&e.to_string());
        }
    }

    fn hang_up(&mut self, why: &str) {
        tracing::info!(why, "splitd is gone");
        self.peer = None;
        self.unread.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    fn hear(control: &mut Control) -> Heard {
        for _ in 0..100 {
            match control.hear(Duration::from_secs(5)).unwrap() {
                Heard::Nothing => {}
                heard => return heard,
            }
        }
        panic!("nothing heard");
    }

    /// A splitd dies in the middle of a line and the next one is served from a clean start.
    #[test]
    fn one_splitd_after_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut control = Control::new(listener, Bell::new().unwrap()).unwrap();
        let mut first = UnixStream::connect(&path).unwrap();
        first.write_all(b"{\"say\":\"refresh\"}\n{\"say\":\"hel").unwrap();
        assert!(matches!(hear(&mut control), Heard::Said(ToWorker::Refresh)));
        drop(first);

        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(b"{\"say\":\"hello\",\"version\":1}\nnonsense\n").unwrap();

        assert!(matches!(hear(&mut control), Heard::Said(ToWorker::Hello { version: 1 })));
        assert!(matches!(hear(&mut control), Heard::Garbled(_)));
        control.say(&FromWorker::Thawed);
        let mut line = String::new();
        BufReader::new(second).read_line(&mut line).unwrap();
        assert_eq!(line, "{\"say\":\"thawed\"}\n");
    }
}
