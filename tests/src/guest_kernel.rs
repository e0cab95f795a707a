//! A guest whose network stack is Linux' own: frames between a netfront and a tap in another namespace, with all offloads, a thread for
//! each queue. Beside it the plainest thing that could stand in a backend's place, a copier from tap to tap. Knows nothing of what the
//! frames are for.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netback::offload;
use netback::tap::{Passed, TapQueue};
use netback::vnet::{VNET_LEN, Vnet};
use netback::wire::Gso;
use splitd::id::{DeviceId, Kind};
use splitd::tap::{Links, Tap};
use worker::message::Link;
use worker::wake::{self, Want};
use xen_ring::PAGE_LEN;
use xenbus::DomId;

use crate::blkfront::RingError;
use crate::netfront::{FrontError, Frontend, Incoming, Outgoing, Queue};
use crate::netif::{self, Extra, NR_SLOTS};

/// Longer than any frame with its header.
const LONGEST_LEN: usize = 17 * 4096;
/// How often a sleeping thread sees whether it is over.
const LOOK: Duration = Duration::from_millis(50);
/// Frames that are moved before the other way has its turn.
const BATCH: usize = 64;

/// A tap with all offloads, by the name that splitd would give it.
pub fn tap(guest: u16, queues: u16, dir: &Path) -> io::Result<(String, Vec<TapQueue>)> {
    let id = DeviceId { backend: DomId(0), frontend: DomId(guest), devid: 0, kind: Kind::Vif };
    std::fs::create_dir_all(dir)?;
    let tap = Tap::open(&Links::Kernel, id, dir)?;
    let queues: Vec<TapQueue> =
        tap.queues(queues)?.into_iter().map(|file| TapQueue::new(file, Link::Tap)).collect();
    if let Some(queue) = queues.first() {
        queue.set_offload(true, true)?;
        queue.set_carrier(true)?;
    }
    Ok((tap.name(), queues))
}

/// Threads that move frames until they are told to stop.
#[derive(Debug)]
pub struct Moving<T> {
    threads: Vec<JoinHandle<Result<T, FrontError>>>,
    stop: Arc<AtomicBool>,
}

impl<T: Send + 'static> Moving<T> {
    fn start<P: Send + 'static>(
        name: &str,
        pairs: impl IntoIterator<Item = P>,
        work: fn(P, &AtomicBool) -> Result<T, FrontError>,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for pair in pairs {
            let stop = Arc::clone(&stop);
            let named = std::thread::Builder::new().name(name.into());
            threads.push(named.spawn(move || work(pair, &stop))?);
        }
        Ok(Self { threads, stop })
    }

    /// What the threads give back.
    pub fn stop(mut self) -> Result<Vec<T>, FrontError> {
        self.stop.store(true, Ordering::Release);
        let panicked = |_| FrontError::Backend("a thread that moves frames panicked".into());
        std::mem::take(&mut self.threads).into_iter().map(|thread| thread.join().map_err(panicked)?).collect()
    }
}

impl<T> Drop for Moving<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// The guest's kernel uses the tap as its interface: its frames go to the frontend's queues and back. Both are away until
/// [`Moving::stop`]. Queues of the tap that the frontend does not have are left out.
pub fn run(front: &mut Frontend, taps: Vec<TapQueue>) -> io::Result<Moving<(Queue, TapQueue)>> {
    for unused in taps.iter().skip(front.queues.len()) {
        unused.detach()?;
    }
    Moving::start("guest", std::mem::take(&mut front.queues).into_iter().zip(taps), |(queue, tap), stop| {
        let buffer = vec![0; LONGEST_LEN];
        let mut guest = Guest { queue, tap, buffer, len: 0, waiting: None, spare: Vec::new(), blocked: None };
        while !stop.load(Ordering::Acquire) {
            guest.turn()?;
        }
        Ok((guest.queue, guest.tap))
    })
}

/// One queue.
struct Guest {
    queue: Queue,
    tap: TapQueue,
    /// The frame that was read last.
    buffer: Vec<u8>,
    len: usize,
    /// That frame has no room in the ring; its bytes stand in the buffer.
    waiting: Option<Outgoing>,
    /// For the next frame from the ring.
    spare: Vec<u8>,
    /// A frame that has no room in the tap.
    blocked: Option<Vec<u8>>,
}

fn ring(error: RingError) -> FrontError {
    FrontError::Backend(error.to_string())
}

impl Guest {
    fn turn(&mut self) -> Result<(), FrontError> {
        let mut has_moved = false;
        for answer in self.queue.reap()? {
            has_moved = true;
            if answer.status != netif::OKAY {
                return Err(FrontError::Backend(format!("{answer:?} to a good frame")));
            }
        }
        for _ in 0..BATCH {
            let Some(frame) = self.waiting.take().map_or_else(|| self.outgoing(), |f| Ok(Some(f)))? else {
                break;
            };
            let bytes = self.buffer.get(..self.len).unwrap_or_default();
            if self.queue.send_bytes(bytes, &frame).is_none() {
                self.waiting = Some(frame);
                break;
            }
            has_moved = true;
        }
        self.queue.publish()?;
        for _ in 0..BATCH {
            if self.blocked.is_some() && !self.write()? {
                break;
            }
            if self.queue.rx.unconsumed().map_err(ring)? == 0 {
                break;
            }
            let mut bytes = std::mem::take(&mut self.spare);
            bytes.clear();
            bytes.resize(VNET_LEN, 0);
            let Some(frame) = self.queue.receive_behind(bytes)? else { break };
            has_moved = true;
            self.blocked = incoming(frame);
        }
        let _ = self.blocked.is_some() && self.write()?;
        self.queue.post(NR_SLOTS)?;
        if has_moved { Ok(()) } else { self.sleep() }
    }

    /// The next frame of the guest's kernel.
    fn outgoing(&mut self) -> Result<Option<Outgoing>, FrontError> {
        let mut header = [0; VNET_LEN];
        let Passed::Frame(len) = self.tap.read(&mut header, &mut self.buffer)? else { return Ok(None) };
        self.len = len;
        let vnet = Vnet::read(&header).map_err(|e| FrontError::Backend(format!("{e:?}")))?;
        let whole = |at: usize| (len - at).min(PAGE_LEN);
        let slot_lens = (0..len).step_by(PAGE_LEN).map(whole).collect();
        let frame = Outgoing { slot_lens, ..Outgoing::new(Vec::new()) };
        let frame = if vnet.partial.is_some() { frame.open() } else { frame };
        Ok(Some(match vnet.gso {
            Some(gso) => frame.with(Extra::gso(1 + u8::from(gso.ipv6), gso.size)),
            None => frame,
        }))
    }

    /// Gives the guest's kernel a frame; false if there is no room.
    fn write(&mut self) -> Result<bool, FrontError> {
        let Some(frame) = &self.blocked else { return Ok(true) };
        if self.tap.write(frame)? == Passed::Blocked {
            return Ok(false);
        }
        self.spare = self.blocked.take().unwrap_or_default();
        Ok(true)
    }

    fn sleep(&mut self) -> Result<(), FrontError> {
        let Self { queue, tap, .. } = self;
        if queue.tx.final_check().map_err(ring)? | queue.rx.final_check().map_err(ring)? {
            return Ok(());
        }
        let (tx, rx) = queue.ports();
        let tap_wanted = match (self.waiting.is_none(), self.blocked.is_some()) {
            (true, true) => Some(Want::Both),
            (true, false) => Some(Want::Read),
            (false, true) => Some(Want::Write),
            (false, false) => None,
        };
        let files = [
            Some((tx.as_fd(), Want::Read)),
            rx.map(|rx| (rx.as_fd(), Want::Read)),
            tap_wanted.map(|want| (tap.as_fd(), want)),
        ];
        wake::ready(files, Some(LOOK))?;
        tx.wait(Duration::ZERO)?;
        rx.map_or(Ok(false), |rx| rx.wait(Duration::ZERO))?;
        Ok(())
    }
}

/// A frame as the guest's kernel is given it, behind room for its header.
fn incoming(mut frame: Incoming) -> Option<Vec<u8>> {
    let gso = frame.gso().map(|(kind, size)| Gso { size, ipv6: kind == netif::extra::TCPV6 });
    let is_open = frame.is_open();
    let (header, body) = frame.bytes.split_at_mut_checked(VNET_LEN)?;
    // What cannot be is dropped by the guest's kernel, too.
    let vnet = offload::to_tap(body, is_open, gso).ok()?;
    header.copy_from_slice(&vnet.bytes());
    Some(frame.bytes)
}

/// Name of the threads of [`copy`].
pub const COPIER: &str = "copier";

/// Frames from the one tap to the other and back, as they are.
pub fn copy(pairs: impl IntoIterator<Item = (TapQueue, TapQueue)>) -> io::Result<Moving<()>> {
    Moving::start(COPIER, pairs, |(one, other), stop| {
        let mut buffer = vec![0; LONGEST_LEN];
        while !stop.load(Ordering::Acquire) {
            if !(pass(&one, &other, &mut buffer)? | pass(&other, &one, &mut buffer)?) {
                let files = [&one, &other].map(|tap| Some((tap.as_fd(), Want::Read)));
                wake::ready(files, Some(LOOK))?;
            }
        }
        Ok(())
    })
}

/// A batch one way; true if there was something.
fn pass(from: &TapQueue, to: &TapQueue, buffer: &mut [u8]) -> io::Result<bool> {
    for nr in 0..BATCH {
        let mut header = [0; VNET_LEN];
        let Some((place, frame)) = buffer.split_at_mut_checked(VNET_LEN) else { return Ok(false) };
        let Passed::Frame(len) = from.read(&mut header, frame)? else { return Ok(nr > 0) };
        place.copy_from_slice(&header);
        to.write(buffer.get(..VNET_LEN + len).unwrap_or_default())?;
    }
    Ok(true)
}
