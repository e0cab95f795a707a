//! The simulated host's store: a server of xenstore's real wire protocol, on one socket per domain. Knows nothing of grants
//! and events.

mod core;
mod ops;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};

use self::core::{Core, Outgoing};
use super::socket::{Epoll, EventFd};
use crate::DomId;
use crate::store::wire::{Errno, Message, PAYLOAD_MAX, Request};

/// Messages that wait for a slow client before it is cut off.
const BACKLOG_MAX: usize = 1 << 16;
const STOP: u64 = 0;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server; stops when dropped.
#[derive(Debug)]
pub(super) struct StoreServer {
    dir: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    listeners: Mutex<Listeners>,
    epoll: Epoll,
    stop: EventFd,
}

#[derive(Debug)]
struct State {
    core: Core,
    clients: HashMap<u64, Client>,
}

#[derive(Debug)]
struct Client {
    out: SyncSender<Message>,
    stream: UnixStream,
    domain: DomId,
}

#[derive(Debug, Default)]
struct Listeners {
    by_number: BTreeMap<u64, (UnixListener, DomId)>,
    next: u64,
}

/// The socket of a domain's store: dom0's has the name that the real one has.
fn socket_path(dir: &Path, domain: DomId) -> PathBuf {
    dir.join(if domain == DomId::DOM0 { "xenstored.sock".into() } else { format!("xenstored-{domain}.sock") })
}

impl StoreServer {
    pub(super) fn start(dir: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { core: Core::new(), clients: HashMap::new() }),
            listeners: Mutex::new(Listeners { next: STOP + 1, ..Listeners::default() }),
            epoll: Epoll::new()?,
            stop: EventFd::new()?,
        });
        shared.epoll.add(shared.stop.as_fd(), STOP)?;
        let mut server = Self { dir: dir.to_owned(), shared, thread: None };
        server.listen(DomId::DOM0)?;
        let shared = Arc::clone(&server.shared);
        let thread = std::thread::Builder::new().name("sim-store".into()).spawn(move || {
            if let Err(e) = shared.accept() {
                tracing::error!(error = %e, "the simulated store stopped");
            }
        })?;
        server.thread = Some(thread);
        Ok(server)
    }

    /// Opens a domain's socket and returns its path.
    pub(super) fn listen(&self, domain: DomId) -> io::Result<PathBuf> {
        let path = socket_path(&self.dir, domain);
        let listener = UnixListener::bind(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let mut listeners = lock(&self.shared.listeners);
        let number = listeners.next;
        listeners.next += 1;
        self.shared.epoll.add(listener.as_fd(), number)?;
        listeners.by_number.insert(number, (listener, domain));
        Ok(path)
    }

    /// Closes a domain's socket and connections.
    pub(super) fn close(&self, domain: DomId) {
        lock(&self.shared.listeners).by_number.retain(|_, (_, d)| *d != domain);
        for client in lock(&self.shared.state).clients.values().filter(|c| c.domain == domain) {
            let _ = client.stream.shutdown(Shutdown::Both);
        }
        let _ = std::fs::remove_file(socket_path(&self.dir, domain));
    }

    /// Cuts every client off, as a store that dies does; its nodes are kept.
    pub(super) fn disconnect_all(&self) {
        for client in lock(&self.shared.state).clients.values() {
            let _ = client.stream.shutdown(Shutdown::Both);
        }
    }

    /// Does dom0's requests in a row, with the watches they fire.
    pub(super) fn as_dom0(&self, requests: &[Request<'_>]) -> Result<Vec<Bytes>, Errno> {
        let mut state = lock(&self.shared.state);
        let mut answers = Vec::new();
        for request in requests {
            let (answer, outgoing) = state.core.as_dom0(request);
            state.send(outgoing);
            answers.push(answer?);
        }
        Ok(answers)
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.disconnect_all();
        if self.shared.stop.signal().is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
        for (_, domain) in lock(&self.shared.listeners).by_number.values() {
            let _ = std::fs::remove_file(socket_path(&self.dir, *domain));
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>) -> io::Result<()> {
        loop {
            for number in self.epoll.wait()? {
                if number == STOP {
                    return Ok(());
                }
                let listeners = lock(&self.listeners);
                let Some((listener, domain)) = listeners.by_number.get(&number) else { continue };
                let (stream, _) = listener.accept()?;
                let domain = *domain;
                drop(listeners);
                self.serve(stream, domain)?;
            }
        }
    }

    /// Two threads for a client: a slow reader must not hold up the store.
    fn serve(self: &Arc<Self>, stream: UnixStream, domain: DomId) -> io::Result<()> {
        let (out, queue) = sync_channel(BACKLOG_MAX);
        let (writer, shutter) = (stream.try_clone()?, stream.try_clone()?);
        let number = {
            let mut state = lock(&self.state);
            let number = state.core.connect(domain);
            state.clients.insert(number, Client { out, stream: shutter, domain });
            number
        };
        let shared = Arc::clone(self);
        std::thread::Builder::new().name("sim-store-in".into()).spawn(move || {
            shared.read(number, &stream);
            let mut state = lock(&shared.state);
            state.core.disconnect(number);
            state.clients.remove(&number);
        })?;
        std::thread::Builder::new().name("sim-store-out".into()).spawn(move || write(&writer, &queue))?;
        Ok(())
    }

    fn read(&self, number: u64, mut stream: &UnixStream) {
        let mut input = BytesMut::new();
        let mut chunk = [0u8; PAYLOAD_MAX];
        loop {
            match Message::decode(&mut input) {
                Ok(Some(message)) => {
                    let mut state = lock(&self.state);
                    let outgoing = state.core.handle(number, &message);
                    state.send(outgoing);
                    continue;
                }
                Ok(None) => {}
                Err(_) => return,
            }
            match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => input.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

impl State {
    fn send(&self, outgoing: Outgoing) {
        for (number, message) in outgoing {
            let Some(client) = self.clients.get(&number) else { continue };
            if let Err(TrySendError::Full(_)) = client.out.try_send(message) {
                let _ = client.stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn write(mut stream: &UnixStream, queue: &Receiver<Message>) {
    let mut output = BytesMut::new();
    while let Ok(message) = queue.recv() {
        let mut next = Some(message);
        while let Some(message) = next.take() {
            if message.encode(&mut output).is_err() {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            next = if output.len() < PAYLOAD_MAX { queue.try_recv().ok() } else { None };
        }
        if stream.write_all(&output).is_err() {
            return;
        }
        output.clear();
    }
    let _ = stream.shutdown(Shutdown::Both);
}
