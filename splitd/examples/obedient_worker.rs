//! A worker that answers as one must and does no I/O at all: splitd's tests run it in the place of blkback, and it shows the
//! messages in the smallest program there can be. What the name of its target says, it does: a target with `missing` in its
//! path is not there, with `hang` it never answers, and so on. Knows nothing of Xen.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use worker::message::{Discard, Fault, FromWorker, LISTEN_FD, Open, Opened, Phase, ToWorker, VERSION};

struct Worker {
    phase: Phase,
    target: String,
    opened: Option<Opened>,
    connection: Option<u64>,
}

fn main() {
    let Ok(listener) = worker::start::adopt_listener(LISTEN_FD) else {
        eprintln!("descriptor {LISTEN_FD} is no listening socket: splitd starts this program");
        std::process::exit(2);
    };
    let mut worker = Worker { phase: Phase::Started, target: String::new(), opened: None, connection: None };
    while let Ok((stream, _)) = listener.accept() {
        // A splitd that goes away is followed by another one.
        let _ = worker.serve(&stream);
    }
}

impl Worker {
    fn does(&self, word: &str) -> bool {
        self.target.contains(word)
    }

    fn serve(&mut self, stream: &UnixStream) -> std::io::Result<()> {
        for line in BufReader::new(stream).lines() {
            let message = serde_json::from_str(&line?).map_err(std::io::Error::other)?;
            for answer in self.answer(message) {
                let mut text = serde_json::to_vec(&answer)?;
                text.push(b'\n');
                let heard = (&*stream).write_all(&text);
                if answer == FromWorker::Disconnected {
                    // Whether or not anybody still listens.
                    std::process::exit(0);
                }
                heard?;
            }
            if self.does("babbles") {
                (&*stream).write_all(b"\x00 this is no message\n")?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, message: ToWorker) -> Vec<FromWorker> {
        match message {
            ToWorker::Hello { .. } => vec![FromWorker::Hello {
                version: VERSION,
                pid: std::process::id(),
                phase: self.phase,
                opened: self.opened.clone(),
                connection: self.connection,
            }],
            ToWorker::Open(open) => self.open(&open),
            ToWorker::Connect(connect) => {
                if self.does("dies-connecting") {
                    std::process::abort();
                }
                if self.does("bad-ring") {
                    let reason = "ring-ref is 8: not a page that the guest granted".to_owned();
                    return vec![FromWorker::Failed { fault: Fault::Frontend, reason }];
                }
                self.connection = Some(connect.connection);
                self.phase = Phase::Connected;
                let given_up = u32::from(self.does("poisoned"));
                let mut answers = vec![FromWorker::Connected { replayed: 0, fence_ms: 0, given_up }];
                if self.does("violates") {
                    let reason = "req_prod is 4096: at most 32 requests fit".to_owned();
                    answers.push(FromWorker::Violation { reason });
                }
                if self.does("freezes") {
                    answers.push(FromWorker::Frozen { reason: "fsync: Input/output error".to_owned() });
                }
                answers
            }
            ToWorker::OpenVif(_) => {
                self.phase = Phase::Opened;
                vec![FromWorker::OpenedVif]
            }
            ToWorker::ConnectVif(connect) => {
                self.connection = Some(connect.connection);
                self.phase = Phase::Connected;
                vec![FromWorker::Connected { replayed: 0, fence_ms: 0, given_up: 0 }]
            }
            ToWorker::SetVif(_) => Vec::new(),
            ToWorker::Refresh => vec![FromWorker::Resized { capacity_sectors: self.capacity() }],
            ToWorker::HandOver if self.does("clings") => Vec::new(),
            ToWorker::HandOver => std::process::exit(0),
            ToWorker::Disconnect => vec![FromWorker::Disconnected],
        }
    }

    fn open(&mut self, open: &Open) -> Vec<FromWorker> {
        self.target = open.target.display().to_string();
        if self.does("missing") {
            let reason = format!("{}: No such file or directory", self.target);
            return vec![FromWorker::Failed { fault: Fault::Target, reason }];
        }
        if self.does("dies-opening") {
            std::process::abort();
        }
        if self.does("hang") {
            loop {
                std::thread::park();
            }
        }
        let identity = match std::fs::metadata(&self.target) {
            _ if self.does("/dev/") => "dev:253:17".to_owned(),
            Ok(metadata) => format!("file:1:{}", metadata.ino()),
            Err(_) => format!("file:1:{}", self.target),
        };
        let opened = Opened {
            capacity_sectors: self.capacity(),
            logical_block_len_bytes: 512,
            physical_block_len_bytes: 4096,
            discard: Some(Discard { granularity_bytes: 4096, alignment_bytes: 0, secure: false }),
            read_only: open.read_only,
            identity,
        };
        self.opened = Some(opened.clone());
        self.phase = Phase::Opened;
        vec![FromWorker::Opened(opened)]
    }

    fn capacity(&self) -> u64 {
        std::fs::metadata(&self.target).map_or(2048, |metadata| metadata.len() / 512)
    }
}
