//! One vif's control thread: speaks with splitd, opens everything, hands the connection to the queues' threads, passes new settings
//! on. Touches no frame. Knows nothing of xenstore.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tracing::Span;
use worker::control::{Control, Heard};
use worker::message::{self, ConnectVif, Fault, FromWorker, Phase, ToWorker, VifSettings};
use worker::sandbox;
use worker::wake::Bell;
use xenbus::hv::Hypervisor;

use crate::control;
use crate::queue::Terms;
use crate::shared::Shared;
use crate::thread::{Command, Handle, Report};

mod open;

/// How long queues may take to let go.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// How often that is looked at.
const CLOSE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for a message: there is nothing to look after until one comes.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(60);

/// Everything there is after `OpenVif`.
#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    queues: Vec<Handle<Terms>>,
    control: Option<Handle<control::Terms>>,
}

/// The device.
#[derive(Debug)]
pub struct Vif<H> {
    host: H,
    nr_taps: u16,
    control: Control,
    bell: Bell,
    reports: Receiver<(usize, Report)>,
    reporter: Sender<(usize, Report)>,
    phase: Phase,
    held: Option<Held>,
    connection: Option<u64>,
    /// Threads that are still connecting, and what they found.
    connecting: Option<(usize, u32)>,
    frozen: Option<String>,
    violation: Option<String>,
    /// Threads that serve or are on their way to.
    running: usize,
    closing_since: Option<Instant>,
    span: Span,
}

impl<H: Hypervisor> Vif<H>
where
    H::Grants: 'static,
    H::Events: 'static,
{
    /// Waits for splitd on `listener`; `nr_taps` queues of the tap were left open for us.
    pub fn new(host: H, listener: UnixListener, nr_taps: u16) -> io::Result<Self> {
        let bell = Bell::new()?;
        let (reporter, reports) = crossbeam_channel::unbounded();
        Ok(Self {
            host,
            nr_taps,
            control: Control::new(listener, bell.clone())?,
            bell,
            reports,
            reporter,
            phase: Phase::Started,
            held: None,
            connection: None,
            connecting: None,
            frozen: None,
            violation: None,
            running: 0,
            closing_since: None,
            span: Span::none(),
        })
    }

    /// Serves until told to disconnect.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            let span = self.span.clone();
            let _in_log = span.enter();
            let limit = if self.closing_since.is_some() { CLOSE_INTERVAL } else { MESSAGE_INTERVAL };
            match self.control.hear(limit)? {
                Heard::Said(message) => self.obey(message),
                Heard::Garbled(why) => self.fail(Fault::Host, format!("message not understood: {why}")),
                Heard::Nothing => {}
            }
            while let Ok((_, report)) = self.reports.try_recv() {
                self.note(report);
            }
            if self.closing_since.is_some_and(|since| self.running == 0 || since.elapsed() > CLOSE_LIMIT) {
                self.control.say(&FromWorker::Disconnected);
                return Ok(());
            }
        }
    }

    fn obey(&mut self, message: ToWorker) {
        match message {
            ToWorker::Hello { .. } => self.hello(),
            ToWorker::OpenVif(_) if self.held.is_some() => self.fail(Fault::Host, "opened already".into()),
            ToWorker::OpenVif(open) => match self.open(&open) {
                Ok(()) => self.control.say(&FromWorker::OpenedVif),
                Err((fault, why)) => self.fail(fault, why),
            },
            ToWorker::ConnectVif(connect) => {
                if let Err((fault, why)) = self.connect(&connect) {
                    self.fail(fault, why);
                }
            }
            ToWorker::SetVif(settings) => self.set(&settings),
            ToWorker::Open(_) | ToWorker::Connect(_) => {
                self.fail(Fault::Host, "a disk is blkback's, not netback's".into());
            }
            // Its rings are answered in order: a kill leaves nothing to be done twice.
            ToWorker::Refresh | ToWorker::HandOver => {}
            ToWorker::Disconnect => self.close(),
        }
    }

    fn hello(&mut self) {
        self.control.say(&FromWorker::Hello {
            version: message::VERSION,
            pid: std::process::id(),
            phase: self.phase,
            opened: None,
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

    fn set(&mut self, settings: &VifSettings) {
        if let Some(held) = &self.held {
            held.shared.set(settings);
            held.queues.iter().for_each(|q| q.command(Command::Look));
        }
    }

    fn connect(&mut self, connect: &ConnectVif) -> Result<(), (Fault, String)> {
        let Some(held) = &mut self.held else { return Err((Fault::Host, "connect before open".into())) };
        if self.connection.is_some() {
            return Err((Fault::Host, "connected already".into()));
        }
        let (count, most) = (connect.queues.len(), held.queues.len());
        if count == 0 || count > most {
            return Err((Fault::Frontend, format!("{count} queues; 1 to {most} are allowed")));
        }
        self.connection = Some(connect.connection);
        let threads = count + usize::from(connect.control.is_some());
        self.connecting = Some((threads, 0));
        self.running = threads;
        held.shared.set(&connect.settings);
        for (handle, ring) in held.queues.iter().zip(&connect.queues) {
            handle.command(Command::Connect(Box::new(Terms {
                connection: connect.connection,
                ring: ring.clone(),
                features: connect.features,
            })));
        }
        match (connect.control, &held.control) {
            (Some(ring), Some(handle)) => handle.command(Command::Connect(Box::new(control::Terms {
                connection: connect.connection,
                ring,
                nr_queues: u32::try_from(count).unwrap_or(1),
            }))),
            _ => held.control.take().into_iter().for_each(|handle| handle.command(Command::Leave(false))),
        }
        // Threads of queues that this frontend does not use end here, and take their queues out of the tap's.
        held.queues.drain(count..).for_each(|handle| handle.command(Command::Leave(false)));
        Ok(())
    }

    fn note(&mut self, report: Report) {
        match report {
            Report::Ready | Report::NotReady(_) => {}
            Report::Connected(replayed) => self.note_connected(replayed),
            Report::Failed(fault, why) => {
                self.running = self.running.saturating_sub(1);
                // One answer to `ConnectVif`, whatever the other queues say.
                if self.connecting.take().is_some() {
                    self.command_all(false);
                    self.fail(fault, why);
                }
            }
            Report::Violation(reason) => {
                tracing::warn!(reason, "the frontend broke the protocol");
                self.violation = Some(reason.clone());
                self.command_all(false);
                self.control.say(&FromWorker::Violation { reason });
            }
            Report::Frozen(reason) => {
                tracing::error!(reason, "frozen");
                self.phase = Phase::Frozen;
                self.frozen = Some(reason.clone());
                self.control.say(&FromWorker::Frozen { reason });
            }
            Report::Stopped => self.running = self.running.saturating_sub(1),
        }
    }

    fn note_connected(&mut self, replayed: u32) {
        let Some((left, total)) = &mut self.connecting else { return };
        *total += replayed;
        *left -= 1;
        if *left > 0 {
            return;
        }
        let replayed = *total;
        self.connecting = None;
        // A worker serves one connection: nothing is bound any more, nor mapped, but for a guest that may ask for it.
        let may_map = self.held.as_ref().is_some_and(|held| held.control.is_some());
        let forbidden: &[u32] = if may_map { &[open::BIND] } else { &[open::BIND, open::MAP] };
        if let Err(e) = sandbox::forbid(forbidden) {
            tracing::warn!(error = %e, "sandbox not tightened");
        }
        if self.phase == Phase::Opened {
            self.phase = Phase::Connected;
        }
        tracing::info!(replayed, "connected");
        self.control.say(&FromWorker::Connected { replayed, fence_ms: 0, given_up: 0 });
    }

    fn command_all(&self, in_order: bool) {
        if let Some(held) = &self.held {
            held.queues.iter().for_each(|q| q.command(Command::Leave(in_order)));
            held.control.iter().for_each(|c| c.command(Command::Leave(in_order)));
        }
    }

    fn close(&mut self) {
        if self.closing_since.is_some() {
            return;
        }
        self.closing_since = Some(Instant::now());
        let in_order = self.phase != Phase::Frozen && self.violation.is_none();
        self.phase = Phase::Disconnecting;
        self.command_all(in_order);
    }
}
