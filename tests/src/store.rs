//! A blocking xenstore client for guests and toolstacks of the simulated world: one request at a time. Knows nothing of what
//! the nodes mean.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use xenbus::store::wire::{Errno, Event, Kind, Message, Permission, Request, parse_directory};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's answer.
    #[error("{path}: {}", errno.name())]
    Refused {
        /// What was asked for.
        path: String,
        /// The error's name.
        errno: Errno,
    },
    /// The connection.
    #[error("the store's socket: {0}")]
    Io(#[from] io::Error),
    /// It did not come in time.
    #[error("{path} is {found:?} after {waited:?}, not {expected}")]
    TimedOut {
        /// What was waited for.
        path: String,
        /// What it was last.
        found: Option<String>,
        /// What it had to be.
        expected: String,
        /// How long.
        waited: Duration,
    },
}

impl StoreError {
    /// The store's errno, if that is what it was.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// A connection, as the domain whose socket it is.
#[derive(Debug)]
pub struct StoreClient {
    stream: UnixStream,
    input: BytesMut,
    next_req_id: u32,
    transaction: u32,
    events: VecDeque<(String, String)>,
}

/// How long one may wait for an answer before something is broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

impl StoreClient {
    /// Connects to the socket of a domain.
    pub fn connect(socket: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            stream: UnixStream::connect(socket)?,
            input: BytesMut::new(),
            next_req_id: 1,
            transaction: 0,
            events: VecDeque::new(),
        })
    }

    /// Asks anything.
    pub fn call(&mut self, request: &Request<'_>) -> Result<Bytes, StoreError> {
        let req_id = self.next_req_id;
        self.next_req_id = req_id.wrapping_add(1);
        let mut bytes = BytesMut::new();
        let too_long = |e: xenbus::store::wire::TooLong| io::Error::new(io::ErrorKind::InvalidInput, e);
        request.encode(req_id, self.transaction, &mut bytes).map_err(too_long)?;
        self.stream.write_all(&bytes)?;
        loop {
            let message =
                self.receive(ANSWER_TIMEOUT)?.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?;
            if message.kind == Kind::WATCH_EVENT {
                self.queue(&message);
            } else if message.req_id == req_id {
                if message.kind != Kind::ERROR {
                    return Ok(message.payload);
                }
                let errno = Errno::parse(&message.payload).unwrap_or(Errno::Io);
                return Err(StoreError::Refused { path: request.path().unwrap_or("-").into(), errno });
            }
        }
    }

    fn queue(&mut self, message: &Message) {
        if let Some(event) = Event::parse(&message.payload) {
            self.events.push_back((event.path.into(), event.token.into()));
        }
    }

    /// The next message; `None` when the time is over.
    fn receive(&mut self, timeout: Duration) -> io::Result<Option<Message>> {
        let deadline = Instant::now() + timeout;
        let mut chunk = [0; 4096];
        loop {
            if let Some(message) =
                Message::decode(&mut self.input).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?
            {
                return Ok(Some(message));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// A node's value; `None` if there is no such node.
    pub fn read(&mut self, path: &str) -> Result<Option<String>, StoreError> {
        match self.call(&Request::Read { path }) {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            Err(e) if e.errno() == Some(Errno::NoEntry) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A node's value as a number; `None` if there is no such node or no number in it.
    pub fn read_number(&mut self, path: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.read(path)?.and_then(|v| v.parse().ok()))
    }

    /// Sets a node.
    pub fn write(&mut self, path: &str, value: &str) -> Result<(), StoreError> {
        self.call(&Request::Write { path, value: value.as_bytes() }).map(|_| ())
    }

    /// Removes a node and all below it.
    pub fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        self.call(&Request::Remove { path }).map(|_| ())
    }

    /// The children of a node; none if there is no such node.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        match self.call(&Request::Directory { path }) {
            Ok(names) => {
                Ok(parse_directory(&names).unwrap_or_default().into_iter().map(str::to_owned).collect())
            }
            Err(e) if e.errno() == Some(Errno::NoEntry) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Makes a directory anew that `list` may use, as `n7 r0`.
    pub fn make(&mut self, path: &str, list: &[Permission]) -> Result<(), StoreError> {
        self.remove(path).or_else(|e| if e.errno() == Some(Errno::NoEntry) { Ok(()) } else { Err(e) })?;
        self.call(&Request::Mkdir { path })?;
        self.call(&Request::SetPermissions { path, permissions: list.to_vec() }).map(|_| ())
    }

    /// Does all of `work` at once; again if others were faster.
    pub fn transaction<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let id = self.call(&Request::TransactionStart)?;
            let id = str::from_utf8(&id).ok().and_then(|t| t.trim_end_matches('\0').parse().ok());
            self.transaction = id.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            let result = work(self);
            let end = self.call(&Request::TransactionEnd { commit: result.is_ok() });
            self.transaction = 0;
            match end {
                Err(e) if e.errno() == Some(Errno::Again) => {}
                Err(e) => return Err(e),
                Ok(_) => return result,
            }
        }
    }

    /// Sets a watch; the first event comes at once.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        self.call(&Request::Watch { path, token }).map(|_| ())
    }

    /// Takes a watch back, and the events it left.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let result = self.call(&Request::Unwatch { path, token }).map(|_| ());
        self.events.retain(|(_, t)| t != token);
        result
    }

    /// The next event, its path and token; `None` when the time is over.
    pub fn event(&mut self, timeout: Duration) -> Result<Option<(String, String)>, StoreError> {
        if self.events.is_empty()
            && let Some(message) = self.receive(timeout)?
        {
            self.queue(&message);
        }
        Ok(self.events.pop_front())
    }

    /// Waits until a node's value is accepted, and returns it.
    pub fn wait_for(
        &mut self,
        path: &str,
        expected: &str,
        timeout: Duration,
        mut accept: impl FnMut(Option<&str>) -> bool,
    ) -> Result<Option<String>, StoreError> {
        let token = format!("wait-{}", self.next_req_id);
        self.watch(path, &token)?;
        let start = Instant::now();
        let found = loop {
            let found = self.read(path)?;
            let left = timeout.saturating_sub(start.elapsed());
            if accept(found.as_deref()) {
                break Ok(found);
            }
            if left.is_zero() {
                let (path, expected, waited) = (path.to_owned(), expected.to_owned(), start.elapsed());
                break Err(StoreError::TimedOut { path, found, expected, waited });
            }
            self.event(left)?;
        };
        self.unwatch(path, &token)?;
        found
    }

    /// Waits until a `state` node has one of the given values.
    pub fn wait_state(&mut self, path: &str, states: &[u32], timeout: Duration) -> Result<u32, StoreError> {
        let number = |v: Option<&str>| v.and_then(|v| v.parse::<u32>().ok()).unwrap_or(0);
        let accept = |v: Option<&str>| states.contains(&number(v));
        let found = self.wait_for(path, &format!("one of {states:?}"), timeout, accept)?;
        Ok(number(found.as_deref()))
    }
}
