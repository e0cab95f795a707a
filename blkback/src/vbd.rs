//! One vbd's control thread: speaks with splitd, opens everything, passes the fence, hands the connection to the queues'
//! threads, watches the disk's size. Does no I/O for the guest and never waits for the disk. Knows nothing of xenstore.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tracing::Span;
use worker::control::{Control, Heard};
use worker::fence::{self, FenceKey};
use worker::message::{self, Connect, Fault, FromWorker, Open, Opened, Phase, ToWorker, TransferMode};
use worker::sandbox;
use worker::wake::Bell;
use xenbus::hv::Hypervisor;
use xenbus::memory::LocalMemory;

use crate::queue::{Device, Left, Terms};
use crate::request::Limits;
use crate::shortage::{self, Notice};
use crate::target::Target;
use crate::thread::{Command, Handle, Report};

mod open;

/// How often the disk's size is looked at: a thousand idle disks are as many wake-ups in that time.
const RESIZE_INTERVAL: Duration = Duration::from_secs(15);
/// How often a fence that is held is tried.
const FENCE_INTERVAL: Duration = Duration::from_millis(5);
/// How long queues may take to finish once told to close: a disk that hangs does not hold a detach for ever.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);
/// How often that is looked at.
const CLOSE_INTERVAL: Duration = Duration::from_secs(1);

/// Everything there is after `Open`.
#[derive(Debug)]
struct Held {
    open: Open,
    opened: Opened,
    target: Arc<Target>,
    device: Arc<Device>,
    memory: Option<LocalMemory>,
    queues: Vec<Handle>,
}

/// A connection on its way.
#[derive(Debug)]
struct Connecting {
    connect: Connect,
    since: Instant,
    late: bool,
    /// How long the fence took, once it was passed.
    fence_ms: Option<u64>,
    /// Queues that are still connecting.
    left: usize,
    from_predecessor: Left,
}

/// How a worker's life ends that is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// With the connection.
    Disconnect,
    /// With the connection taken over by another worker.
    HandOver,
}

/// The device.
#[derive(Debug)]
pub struct Vbd<H> {
    host: H,
    control: Control,
    bell: Bell,
    reports: Receiver<(usize, Report)>,
    reporter: Sender<(usize, Report)>,
    phase: Phase,
    held: Option<Held>,
    connecting: Option<Connecting>,
    connection: Option<u64>,
    /// Why nothing is answered, told to every splitd anew.
    frozen: Option<String>,
    violation: Option<String>,
    /// Queues that wait for memory of the kernel's.
    short: usize,
    /// Queues that serve or are on their way to.
    running: usize,
    closing: Option<(Instant, Ending)>,
    size_seen: Instant,
    /// Names the device in the log.
    span: Span,
}

impl<H: Hypervisor> Vbd<H>
where
    H::Grants: 'static,
    H::Events: 'static,
{
    /// Waits for splitd on `listener`.
    pub fn new(host: H, listener: UnixListener) -> io::Result<Self> {
        let bell = Bell::new()?;
        let (reporter, reports) = crossbeam_channel::unbounded();
        Ok(Self {
            host,
            control: Control::new(listener, bell.clone())?,
            bell,
            reports,
            reporter,
            phase: Phase::Started,
            held: None,
            connecting: None,
            connection: None,
            frozen: None,
            violation: None,
            short: 0,
            running: 0,
            closing: None,
            size_seen: Instant::now(),
            span: Span::none(),
        })
    }

    /// Serves until told to disconnect.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            let span = self.span.clone();
            let _in_log = span.enter();
            let fencing = self.connecting.as_ref().is_some_and(|c| c.fence_ms.is_none());
            let limit = match (fencing, &self.closing) {
                (true, _) => FENCE_INTERVAL,
                (_, Some(_)) => CLOSE_INTERVAL,
                _ => RESIZE_INTERVAL,
            };
            match self.control.hear(limit)? {
                Heard::Said(message) => self.obey(message),
                Heard::Garbled(why) => self.fail(Fault::Host, format!("message not understood: {why}")),
                Heard::Nothing => {}
            }
            while let Ok((_, report)) = self.reports.try_recv() {
                self.note(report);
            }
            self.try_fence();
            if self.size_seen.elapsed() >= RESIZE_INTERVAL {
                self.look_at_size();
            }
            if let Some(ending) = self.has_closed() {
                if ending == Ending::Disconnect {
                    self.control.say(&FromWorker::Disconnected);
                }
                return Ok(());
            }
        }
    }

    fn obey(&mut self, message: ToWorker) {
        match message {
            ToWorker::Hello { .. } => self.hello(),
            ToWorker::Open(_) if self.held.is_some() => self.fail(Fault::Host, "opened already".into()),
            ToWorker::Open(open) => match self.open(open) {
                Ok(opened) => self.control.say(&FromWorker::Opened(opened)),
                Err((fault, why)) => self.fail(fault, why),
            },
            ToWorker::Connect(connect) => {
                if let Err((fault, why)) = self.begin_connect(connect) {
                    self.fail(fault, why);
                }
            }
            ToWorker::OpenVif(_) | ToWorker::ConnectVif(_) | ToWorker::SetVif(_) => {
                self.fail(Fault::Host, "a network interface is netback's, not blkback's".into());
            }
            ToWorker::Refresh => self.look_at_size(),
            ToWorker::HandOver => self.close(Ending::HandOver),
            ToWorker::Disconnect => self.close(Ending::Disconnect),
        }
    }

    fn hello(&mut self) {
        self.control.say(&FromWorker::Hello {
            version: message::VERSION,
            pid: std::process::id(),
            phase: self.phase,
            opened: self.held.as_ref().map(|h| h.opened.clone()),
            connection: self.connection,
        });
        if let Some(reason) = self.frozen.clone() {
            self.control.say(&FromWorker::Frozen { reason });
        }
        if let Some(reason) = self.violation.clone() {
            self.control.say(&FromWorker::Violation { reason });
        }
    }

    fn fail(&mut self, fault: Fault, reason: String) {
        tracing::warn!(?fault, reason, "failed");
        self.control.say(&FromWorker::Failed { fault, reason });
    }

    fn freeze(&mut self, reason: String) {
        tracing::error!(reason, "frozen");
        if let Some(held) = &self.held {
            held.device.frozen.store(true, Ordering::Release);
            held.device.ring_all();
        }
        self.phase = Phase::Frozen;
        self.frozen = Some(reason.clone());
        self.control.say(&FromWorker::Frozen { reason });
    }

    fn begin_connect(&mut self, connect: Connect) -> Result<(), (Fault, String)> {
        let Some(held) = &self.held else { return Err((Fault::Host, "connect before open".into())) };
        if self.connecting.is_some() || self.connection.is_some() {
            return Err((Fault::Host, "connected already".into()));
        }
        let most = held.queues.len();
        if connect.queues.is_empty() || connect.queues.len() > most {
            let why = format!("{} queues; 1 to {most} are allowed", connect.queues.len());
            return Err((Fault::Frontend, why));
        }
        if let Some(ring) = connect.queues.iter().find(|q| q.ring_refs.len() > 1 << held.open.max_ring_order)
        {
            let why = format!(
                "{} ring pages; at most {} are allowed",
                ring.ring_refs.len(),
                1 << held.open.max_ring_order
            );
            return Err((Fault::Frontend, why));
        }
        self.connection = Some(connect.connection);
        self.connecting = Some(Connecting {
            left: connect.queues.len(),
            connect,
            since: Instant::now(),
            late: false,
            fence_ms: None,
            from_predecessor: Left::default(),
        });
        self.try_fence();
        Ok(())
    }

    /// Nothing of the guest is touched before whatever a predecessor left in flight has ended.
    fn try_fence(&mut self) {
        let (Some(held), Some(connecting)) = (&mut self.held, &mut self.connecting) else { return };
        if connecting.fence_ms.is_some() || self.closing.is_some() {
            return;
        }
        let key = FenceKey::new(&held.open.vm_uuid, held.open.devid);
        let open = if held.opened.read_only { fence::Open::ReadOnly } else { fence::Open::ReadWrite };
        let unfenced = worker::crash::without("fence");
        let passed = if unfenced { Ok(true) } else { fence::try_lock(held.target.as_fd(), open, key) };
        let waited = connecting.since.elapsed();
        match passed {
            Ok(true) => {
                connecting.fence_ms = Some(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
                worker::crash_point!("after_fence");
                let late = connecting.late;
                if let Some(gate) = held.device.gate.get() {
                    gate.nothing_in_flight();
                }
                self.connect_queues();
                if late {
                    self.phase = Phase::Opened;
                    self.frozen = None;
                    self.control.say(&FromWorker::Thawed);
                }
            }
            Ok(false) => {
                let limit = Duration::from_millis(connecting.connect.fence_timeout_ms);
                if waited > limit && !connecting.late {
                    connecting.late = true;
                    let reason = format!(
                        "fence: a predecessor's I/O is still in flight after {} ms",
                        limit.as_millis()
                    );
                    self.phase = Phase::Frozen;
                    self.frozen = Some(reason.clone());
                    tracing::error!(reason, "frozen");
                    self.control.say(&FromWorker::Frozen { reason });
                }
            }
            Err(e) => {
                self.connecting = None;
                self.freeze(format!("fence: {e}"));
            }
        }
    }

    fn connect_queues(&mut self) {
        let (Some(held), Some(connecting)) = (&mut self.held, &self.connecting) else { return };
        let connect = &connecting.connect;
        let discard = held.opened.discard;
        let limits = Limits {
            capacity_sectors: held.opened.capacity_sectors,
            // Any sector goes: a disk with larger blocks is read, changed and written.
            alignment_sectors: 1,
            read_only: held.opened.read_only,
            max_indirect_segments: held.open.max_indirect_segments,
            discard: discard.is_some(),
            discard_secure: discard.is_some_and(|d| d.secure),
            barrier: connect.barrier,
        };
        let Some(memory) = held.memory.take() else { return };
        let parts = memory.split(connect.queues.len());
        self.running = connect.queues.len();
        for ((handle, ring), memory) in held.queues.iter().zip(&connect.queues).zip(parts) {
            handle.command(Command::Connect(Box::new(Terms {
                frontend: held.open.frontend,
                connection: connect.connection,
                predecessor_crashed: connect.predecessor_crashed,
                busy_poll_ns: u64::from(held.open.busy_poll_us) * 1000,
                ring: ring.clone(),
                abi: connect.abi,
                mode: connect.mode,
                limits,
                block_len: held.opened.logical_block_len_bytes,
                memory,
            })));
        }
        // Threads of queues that this frontend does not use end here.
        held.queues.truncate(connect.queues.len());
    }

    fn note(&mut self, report: Report) {
        match report {
            Report::Ready | Report::NotReady(_) => {}
            Report::Connected(left) => self.note_connected(left),
            Report::Failed(fault, why) => {
                self.running = self.running.saturating_sub(1);
                // One answer to `Connect`, whatever the other queues say.
                if self.connecting.take().is_some() {
                    self.command_all(|| Command::Abandon);
                    self.fail(fault, why);
                }
            }
            Report::Violation(reason) => {
                tracing::warn!(reason, "the frontend broke the protocol");
                self.violation = Some(reason.clone());
                self.command_all(|| Command::Abandon);
                self.control.say(&FromWorker::Violation { reason });
            }
            Report::Frozen(reason) => self.freeze(reason),
            Report::Short(notice) => self.note_shortage(notice),
            Report::Stopped => self.running = self.running.saturating_sub(1),
        }
    }

    /// Requests wait for memory of the kernel's and are tried again until there is some: to the guest as good as frozen, though
    /// nothing is stopped.
    fn note_shortage(&mut self, notice: Notice) {
        match notice {
            Notice::Lasts => self.short += 1,
            Notice::Over => self.short = self.short.saturating_sub(1),
        }
        match (notice, self.short, self.phase) {
            (Notice::Lasts, 1, Phase::Connected) => {
                let reason = format!(
                    "the kernel has had no memory for I/O for {} s; still trying",
                    shortage::UNTOLD.as_secs()
                );
                tracing::error!(reason, "short of memory");
                self.frozen = Some(reason.clone());
                self.control.say(&FromWorker::Frozen { reason });
            }
            (Notice::Over, 0, Phase::Connected) => {
                self.frozen = None;
                self.control.say(&FromWorker::Thawed);
            }
            _ => {}
        }
    }

    fn note_connected(&mut self, left: Left) {
        let Some(connecting) = &mut self.connecting else { return };
        connecting.from_predecessor.replayed += left.replayed;
        connecting.from_predecessor.given_up += left.given_up;
        connecting.left = connecting.left.saturating_sub(1);
        if connecting.left > 0 {
            return;
        }
        let Left { replayed, given_up } = connecting.from_predecessor;
        let fence_ms = connecting.fence_ms.unwrap_or(0);
        // A worker serves one connection: nothing is bound any more, which matters most for dom0 as a frontend, to which an
        // event channel device cannot be restricted; and nothing is mapped if all is copied.
        let spent: &[u32] = match connecting.connect.mode {
            TransferMode::Copy => &[open::BIND, open::MAP],
            TransferMode::Persistent => &[open::BIND],
        };
        if let Err(e) = sandbox::forbid(spent) {
            tracing::warn!(error = %e, "sandbox not tightened");
        }
        self.connecting = None;
        if self.phase == Phase::Opened {
            self.phase = Phase::Connected;
        }
        tracing::info!(replayed, fence_ms, "connected");
        self.control.say(&FromWorker::Connected { replayed, fence_ms, given_up });
    }

    fn command_all(&self, command: impl Fn() -> Command) {
        if let Some(held) = &self.held {
            held.queues.iter().for_each(|q| q.command(command()));
        }
    }

    fn close(&mut self, ending: Ending) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some((Instant::now(), ending));
        let abandoned = self.phase == Phase::Frozen || self.violation.is_some();
        // To a splitd that comes now a connection that is handed over is one that goes on.
        if ending == Ending::Disconnect {
            self.phase = Phase::Disconnecting;
        }
        self.command_all(|| match ending {
            _ if abandoned => Command::Abandon,
            Ending::Disconnect => Command::Close,
            Ending::HandOver => Command::HandOver,
        });
    }

    fn has_closed(&self) -> Option<Ending> {
        let (since, ending) = self.closing?;
        (self.running == 0 || since.elapsed() > CLOSE_LIMIT).then_some(ending)
    }

    fn look_at_size(&mut self) {
        self.size_seen = Instant::now();
        let Some(held) = &mut self.held else { return };
        let capacity_sectors = match held.target.capacity_sectors() {
            Ok(now) => now,
            Err(e) => return tracing::warn!(error = %e, "size of the target"),
        };
        if capacity_sectors == held.opened.capacity_sectors {
            return;
        }
        tracing::info!(from = held.opened.capacity_sectors, to = capacity_sectors, "resized");
        held.opened.capacity_sectors = capacity_sectors;
        held.device.capacity_sectors.store(capacity_sectors, Ordering::Relaxed);
        self.control.say(&FromWorker::Resized { capacity_sectors });
    }
}
