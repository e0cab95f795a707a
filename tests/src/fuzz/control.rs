//! Lines on the sockets between splitd, workers and splitctl. A worker's own end is fed through a real socket, in pieces: it hears each
//! line once, in order, keeps no more than a line may have, and goes on after nonsense. What is understood says the same when it is
//! said again.

use std::cell::RefCell;
use std::fmt::Debug;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use splitd::{nodes, protocol};
use worker::control::{Control, Heard};
use worker::message::{FromWorker, ToWorker};
use worker::wake::Bell;

use super::input::Input;

/// The longest line that a worker reads.
const LINE_LEN: usize = 64 << 10;
/// A piece that a worker takes with one read.
const PIECE_LEN: usize = 4096;

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let piece = 1 + input.below(200);
    let times = input.byte();
    let mut stream = input.rest().to_vec();
    for line in stream.split(|b| *b == b'\n') {
        said_again::<ToWorker>(line);
        said_again::<FromWorker>(line);
        said_again::<protocol::Request>(line);
        said_again::<protocol::Response>(line);
        let text = String::from_utf8_lossy(line);
        assert!(nodes::printable(&text).len() <= 200 && nodes::quote(Some(line)).chars().count() <= 163);
        assert!(nodes::printable(&text).bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
    }
    // A line that is too long is not to be had from a short input otherwise.
    let piece = if times == 255 {
        stream = long(&stream);
        PIECE_LEN
    } else {
        piece
    };
    heard(&stream, piece);
}

fn long(stream: &[u8]) -> Vec<u8> {
    let line = stream.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = if line.is_empty() { b" " } else { line };
    line.iter().copied().cycle().take(LINE_LEN + 2 * PIECE_LEN).chain(stream.iter().copied()).collect()
}

fn said_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(line: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(line) else { return };
    let text = serde_json::to_vec(&message).unwrap();
    assert!(!text.contains(&b'\n'), "a message is a line");
    assert_eq!(serde_json::from_slice::<T>(&text).unwrap(), message);
}

/// What a worker makes of a line; `None` of one that is no message.
type Line = Option<ToWorker>;

struct Socket {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    control: Control,
}

thread_local! {
    static SOCKET: RefCell<Socket> = RefCell::new(Socket::new());
}

impl Socket {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let control = Control::new(listener, Bell::new().unwrap()).unwrap();
        Self { _dir: dir, path, control }
    }

    /// All lines there are.
    fn hear(&mut self, lines: &mut Vec<Line>) {
        // One wait reads, those after it find what is left of that.
        loop {
            match self.control.hear(Duration::ZERO).unwrap() {
                Heard::Said(message) => lines.push(Some(message)),
                Heard::Garbled(_) => lines.push(None),
                Heard::Nothing => return,
            }
        }
    }
}

fn heard(stream: &[u8], piece: usize) {
    SOCKET.with_borrow_mut(|socket| {
        let mut lines = Vec::new();
        while socket.control.has_peer() {
            socket.hear(&mut lines);
        }
        lines.clear();
        let mut client = UnixStream::connect(&socket.path).unwrap();
        while !socket.control.has_peer() {
            socket.hear(&mut lines);
        }
        let mut expected = Vec::new();
        let mut unread: Vec<u8> = Vec::new();
        for piece in stream.chunks(piece) {
            client.write_all(piece).unwrap();
            socket.hear(&mut lines);
            unread.extend(piece);
            if unread.len() > LINE_LEN {
                assert!(!socket.control.has_peer(), "{} bytes without an end are kept", unread.len());
                break;
            }
            while let Some(end) = unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                expected.push(serde_json::from_slice(&line).ok());
            }
            assert!(socket.control.has_peer(), "a worker hangs up on nonsense");
        }
        assert_eq!(lines, expected);
    });
}
