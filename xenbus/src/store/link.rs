//! One connection to a store: bytes in, messages out. The socket is a stream; the kernel's device takes one message per `write`,
//! never says that it is writable, and may block in it until xenstored has answered, so that is done on a thread of its own. It also
//! sends a message's body later than its `write` returns, from a buffer that the next `write` fills anew (Linux
//! drivers/xen/xenbus, seen as EINVAL for well-formed paths): so one request at a time. Knows nothing of what the messages mean.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use super::Address;

/// Bytes asked for by one `read`.
const READ_LEN: usize = 8192;
/// How often, and with which pauses, a socket is tried that has too many waiting: for 10 s.
const CONNECT_ATTEMPTS: u32 = 1000;
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// Opens a connection.
pub(super) async fn open(address: &Address) -> io::Result<(Incoming, Outgoing)> {
    match address {
        Address::Socket(path) => {
            let (incoming, outgoing) = connect(path).await?.into_split();
            let outgoing = Outgoing::Socket { stream: outgoing, unsent: BytesMut::new() };
            Ok((Incoming::Socket(incoming), outgoing))
        }
        Address::Device(path) => open_device(path),
    }
}

/// Connects to a socket. xenstored lets one connection wait to be accepted and has the others told `EAGAIN`.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    for _ in 0..CONNECT_ATTEMPTS {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(CONNECT_PAUSE).await,
            result => return result,
        }
    }
    UnixStream::connect(path).await
}

fn open_device(path: &Path) -> io::Result<(Incoming, Outgoing)> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    // tokio's only plain file that it polls; that it is called a pipe does not matter here.
    let incoming = pipe::Receiver::from_file_unchecked(file.try_clone()?)?;
    let outgoing =
        Outgoing::Device { file: Arc::new(file), unsent: VecDeque::new(), writing: None, open: None };
    Ok((Incoming::Device(incoming), outgoing))
}

/// The receiving side.
#[derive(Debug)]
pub(super) enum Incoming {
    Socket(OwnedReadHalf),
    Device(pipe::Receiver),
}

impl Incoming {
    /// Appends what has arrived to `input`, waiting for at least a byte; `UnexpectedEof` at the end. May be given up at any time.
    pub(super) async fn receive(&mut self, input: &mut BytesMut) -> io::Result<()> {
        input.reserve(READ_LEN);
        let len = match self {
            Self::Socket(stream) => stream.read_buf(input).await?,
            Self::Device(file) => file.read_buf(input).await?,
        };
        if len == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// A message that the kernel's device answered by an error of the `write` itself.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) req_id: u32,
    pub(super) source: io::Error,
}

/// The sending side, with the messages not sent yet.
#[derive(Debug)]
pub(super) enum Outgoing {
    Socket {
        stream: OwnedWriteHalf,
        unsent: BytesMut,
    },
    Device {
        file: Arc<File>,
        unsent: VecDeque<(u32, Bytes)>,
        writing: Option<Writing>,
        /// Written and not answered.
        open: Option<u32>,
    },
    /// The connection is lost.
    Closed,
}

/// One `write` of the device, under way.
#[derive(Debug)]
pub(super) struct Writing {
    req_id: u32,
    written: JoinHandle<io::Result<()>>,
}

impl Outgoing {
    /// Adds one whole message to what is to be sent.
    pub(super) fn push(&mut self, req_id: u32, message: BytesMut) {
        match self {
            Self::Socket { unsent, .. } => unsent.unsplit(message),
            Self::Device { unsent, .. } => unsent.push_back((req_id, message.freeze())),
            Self::Closed => {}
        }
    }

    /// There is nothing to send, or not yet.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Socket { unsent, .. } => unsent.is_empty(),
            Self::Device { unsent, writing, open, .. } => {
                writing.is_none() && (unsent.is_empty() || open.is_some())
            }
            Self::Closed => true,
        }
    }

    /// A request has its answer.
    pub(super) fn answered(&mut self, req_id: u32) {
        if let Self::Device { open, .. } = self
            && *open == Some(req_id)
        {
            *open = None;
        }
    }

    /// Sends some of it. May be given up at any time. An `Err` means that the connection is lost.
    pub(super) async fn progress(&mut self) -> io::Result<Option<Rejected>> {
        match self {
            Self::Closed => Ok(None),
            Self::Socket { stream, unsent } => {
                if unsent.has_remaining() && stream.write_buf(unsent).await? == 0 {
                    return Err(ErrorKind::WriteZero.into());
                }
                Ok(None)
            }
            Self::Device { file, unsent, writing, open } => {
                let current = match writing {
                    Some(current) => current,
                    None => {
                        let Some((req_id, message)) = unsent.pop_front() else { return Ok(None) };
                        *open = Some(req_id);
                        let file = Arc::clone(file);
                        let written = spawn_blocking(move || write_message(&file, &message));
                        writing.insert(Writing { req_id, written })
                    }
                };
                let req_id = current.req_id;
                let result = (&mut current.written).await;
                *writing = None;
                match result {
                    Ok(Ok(())) => Ok(None),
                    Ok(Err(source)) => {
                        *open = None;
                        Ok(Some(Rejected { req_id, source }))
                    }
                    Err(stopped) => Err(io::Error::other(stopped)),
                }
            }
        }
    }
}

/// The kernel takes a whole message or none of it; after an error it has dropped what it had.
fn write_message(mut file: &File, message: &[u8]) -> io::Result<()> {
    loop {
        match file.write(message) {
            Ok(len) if len == message.len() => return Ok(()),
            Ok(_) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
