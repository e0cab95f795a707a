//! The far side of the wires of a simulated host: a socket to which every queue of every vif connects, and for each vif either an
//! inbox that a test reads, or other vifs, as on a bridge. Carries offloads as a tap does. Knows nothing of what is in a frame.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use xenbus::sim::SimHost;

use crate::packet::VnetHeader;

/// Frames in an inbox that nobody reads; then the vif has to wait, as with a full bridge port.
const INBOX: usize = 1024;
/// Longer than any frame with its header.
const LONGEST_LEN: usize = 1 << 17;
/// How long a full socket is waited for before a frame is dropped, as a bridge drops it.
const FULL: Duration = Duration::from_millis(1);
/// Longest wait for a queue to come or go.
const PATIENCE: Duration = Duration::from_secs(60);

/// A frame as a tap carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its queue.
    pub queue: u16,
    /// What is still to be done with it.
    pub header: VnetHeader,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// One queue's connection.
#[derive(Debug)]
struct Queue {
    number: u64,
    stream: UnixStream,
}

/// One vif.
#[derive(Debug)]
struct Port {
    queues: BTreeMap<u16, Queue>,
    inbox: SyncSender<Frame>,
    outbox: Arc<Mutex<Receiver<Frame>>>,
    /// Those that frames go to instead of into the inbox.
    bridged: Vec<String>,
}

impl Port {
    fn new() -> Self {
        let (inbox, outbox) = sync_channel(INBOX);
        Self { queues: BTreeMap::new(), inbox, outbox: Arc::new(Mutex::new(outbox)), bridged: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct Shared {
    ports: Mutex<BTreeMap<String, Port>>,
    changed: Condvar,
    connections: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The far side of all wires of a host.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    listener: UnixListener,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Listens for a host's vifs; before splitd is started, which looks for it then.
    pub fn start(host: &SimHost) -> io::Result<Self> {
        let listener = host.listen("wire.sock")?;
        let shared = Arc::new(Shared::default());
        let (for_thread, ours) = (Arc::clone(&shared), listener.try_clone()?);
        let thread = std::thread::Builder::new().name("wire".into()).spawn(move || {
            while let Ok((stream, _)) = ours.accept() {
                let shared = Arc::clone(&for_thread);
                let reader = std::thread::Builder::new().name("wire-queue".into());
                // Without a thread for it the connection is dropped, which the vif notices.
                let _ = reader.spawn(move || serve(&shared, stream));
            }
        })?;
        Ok(Self { shared, listener, thread: Some(thread) })
    }

    /// Frames of each of these go to all others from now on.
    pub fn bridge(&self, vifs: &[&str]) {
        let mut ports = lock(&self.shared.ports);
        for vif in vifs {
            let others = vifs.iter().filter(|other| other != &vif).map(|other| (*other).to_owned());
            ports.entry((*vif).to_owned()).or_insert_with(Port::new).bridged = others.collect();
        }
    }

    /// The far end of a vif's wire.
    #[must_use]
    pub fn end(&self, vif: &str) -> End {
        lock(&self.shared.ports).entry(vif.to_owned()).or_insert_with(Port::new);
        End { shared: Arc::clone(&self.shared), vif: vif.to_owned() }
    }
}

/// The far end of one vif's wire; clones are the same end.
#[derive(Clone, Debug)]
pub struct End {
    shared: Arc<Shared>,
    vif: String,
}

impl End {
    /// Waits until exactly so many queues are connected: a worker lets go of those that its frontend does not use.
    pub fn wait_queues(&self, count: usize) -> io::Result<()> {
        let ports = lock(&self.shared.ports);
        let is_so = |p: &mut BTreeMap<String, Port>| p.get(&self.vif).map_or(0, |p| p.queues.len()) != count;
        let (ports, waited) = self
            .shared
            .changed
            .wait_timeout_while(ports, PATIENCE, is_so)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let found: Vec<u16> =
                ports.get(&self.vif).into_iter().flat_map(|p| p.queues.keys().copied()).collect();
            return Err(io::Error::other(format!("{} has queues {found:?}, not {count} of them", self.vif)));
        }
        Ok(())
    }

    /// Gives a frame to the vif; false if the queue is full, or not connected (its worker may just have died): the frame is dropped.
    #[must_use]
    pub fn send(&self, frame: &Frame) -> bool {
        send(&self.shared, &self.vif, frame, false)
    }

    /// The next frame from the vif; `None` if none comes in time.
    #[must_use]
    pub fn receive(&self, timeout: Duration) -> Option<Frame> {
        let outbox = Arc::clone(&lock(&self.shared.ports).get(&self.vif)?.outbox);
        lock(&outbox).recv_timeout(timeout).ok()
    }
}

/// To the frame's queue, or to any.
fn send(shared: &Shared, vif: &str, frame: &Frame, any: bool) -> bool {
    let stream = {
        let ports = lock(&shared.ports);
        let Some(port) = ports.get(vif) else { return false };
        let other = || if any { port.queues.values().next() } else { None };
        let queue = port.queues.get(&frame.queue).or_else(other);
        match queue.map(|queue| queue.stream.try_clone()) {
            Some(Ok(stream)) => stream,
            _ => return false,
        }
    };
    let mut message = frame.header.bytes().to_vec();
    message.extend(&frame.bytes);
    (&stream).write(&message).is_ok_and(|len| len == message.len())
}

/// A queue's connection, to its end.
fn serve(shared: &Shared, mut stream: UnixStream) {
    let mut buffer = vec![0; LONGEST_LEN];
    let hello = stream.read(&mut buffer).ok().and_then(|len| buffer.get(..len)).and_then(name);
    let Some((vif, queue)) = hello else { return };
    let Ok(writer) = stream.try_clone() else { return };
    if writer.set_write_timeout(Some(FULL)).is_err() {
        return;
    }
    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
    lock(&shared.ports)
        .entry(vif.clone())
        .or_insert_with(Port::new)
        .queues
        .insert(queue, Queue { number, stream: writer });
    shared.changed.notify_all();
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        let Some((header, bytes)) = buffer.get(..len).and_then(|b| b.split_first_chunk()) else { continue };
        deliver(shared, &vif, Frame { queue, header: VnetHeader::read(header), bytes: bytes.to_vec() });
    }
    if let Some(port) = lock(&shared.ports).get_mut(&vif)
        && port.queues.get(&queue).is_some_and(|q| q.number == number)
    {
        port.queues.remove(&queue);
    }
    shared.changed.notify_all();
}

/// `vif5.0 2\n`
fn name(hello: &[u8]) -> Option<(String, u16)> {
    let (vif, queue) = str::from_utf8(hello).ok()?.strip_suffix('\n')?.split_once(' ')?;
    Some((vif.to_owned(), queue.parse().ok()?))
}

fn deliver(shared: &Shared, from: &str, frame: Frame) {
    let (inbox, bridged) = {
        let ports = lock(&shared.ports);
        let Some(port) = ports.get(from) else { return };
        (port.inbox.clone(), port.bridged.clone())
    };
    if bridged.is_empty() {
        // The inbox is there as long as the wire is.
        let _ = inbox.send(frame);
    } else {
        bridged.iter().for_each(|to| {
            send(shared, to, &frame, true);
        });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Wakes the thread that accepts; the readers end with their connections.
        if let Ok(listener) = self.listener.try_clone() {
            let _ = UnixStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for port in std::mem::take(&mut *lock(&self.shared.ports)).into_values() {
            port.queues.values().for_each(|queue| {
                let _ = queue.stream.shutdown(Shutdown::Both);
            });
        }
    }
}
