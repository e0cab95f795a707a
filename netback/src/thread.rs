//! A queue's thread: waits for the connection, serves it, and says what became of it. Knows nothing of the control socket.

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tracing::Span;
use worker::message::Fault;
use worker::sandbox;
use worker::wake::Bell;
use xenbus::hv::{EventChannel, GrantTable};

use crate::queue::{ConnectError, Next, Parts, Queue, Stop, Terms};

/// What the control thread wants.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve these rings.
    Connect(Box<Terms>),
    /// Settings changed: look again.
    Look,
    /// Let go; in order if the flag is set, so that nobody takes over.
    Leave(bool),
}

/// What a queue's thread says.
#[derive(Debug)]
pub(crate) enum Report {
    /// It has given up what it has to: privileges are not needed any more.
    Ready,
    /// It cannot even begin.
    NotReady(String),
    /// Serving; so many slots were left by a predecessor.
    Connected(u32),
    /// It cannot connect.
    Failed(Fault, String),
    /// The frontend broke the protocol.
    Violation(String),
    /// Our own trouble.
    Frozen(String),
    /// Let go of everything.
    Stopped,
}

/// The control thread's end.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) commands: Sender<Command>,
    pub(crate) bell: Bell,
}

impl Handle {
    pub(crate) fn command(&self, command: Command) {
        // A thread that ended has said why.
        let _ = self.commands.send(command);
        self.bell.ring();
    }
}

/// The queue's end.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) commands: Receiver<Command>,
    pub(crate) reports: Sender<(usize, Report)>,
    /// The control thread's.
    pub(crate) bell: Bell,
    /// Names the device in the log.
    pub(crate) span: Span,
}

impl Line {
    fn report(&self, report: Report) {
        let _ = self.reports.send((self.number, report));
        self.bell.ring();
    }
}

/// The thread's whole life.
pub(crate) fn run<G: GrantTable, E: EventChannel>(parts: Parts<G, E>, line: &Line) {
    let _in_log = line.span.enter();
    if let Err(e) = sandbox::forget_paths() {
        return line.report(Report::NotReady(e.to_string()));
    }
    line.report(Report::Ready);
    let terms = loop {
        match line.commands.recv() {
            Ok(Command::Connect(terms)) => break terms,
            Ok(Command::Look) => {}
            // This frontend has fewer queues, or none came.
            Ok(Command::Leave(_)) | Err(_) => {
                if let Err(error) = parts.tap.detach() {
                    tracing::debug!(%error, "detach");
                }
                return;
            }
        }
    };
    let mut queue = match Queue::connect(parts, &terms) {
        Ok((queue, replayed)) => {
            line.report(Report::Connected(replayed));
            queue
        }
        Err(ConnectError::Frontend(why)) => return line.report(Report::Failed(Fault::Frontend, why)),
        Err(ConnectError::Host(why)) => return line.report(Report::Failed(Fault::Host, why)),
    };
    let in_order = match serve(&mut queue, line) {
        Ok(in_order) => in_order,
        Err(stop) => {
            line.report(match stop {
                Stop::Violation(why) => Report::Violation(why),
                Stop::Host(why) => Report::Frozen(why),
            });
            // The rings stay mapped until the control thread says so.
            while let Ok(Command::Look | Command::Connect(_)) = line.commands.recv() {}
            false
        }
    };
    queue.leave(in_order);
    line.report(Report::Stopped);
}

/// Until told to leave; says whether in order.
fn serve<G: GrantTable, E: EventChannel>(queue: &mut Queue<G, E>, line: &Line) -> Result<bool, Stop> {
    loop {
        match line.commands.try_recv() {
            Ok(Command::Leave(in_order)) => return Ok(in_order),
            Err(TryRecvError::Disconnected) => return Ok(false),
            Ok(Command::Connect(_) | Command::Look) | Err(TryRecvError::Empty) => {}
        }
        match queue.turn()? {
            Next::Again => {}
            Next::Wait(limit) => queue.wait(limit)?,
        }
    }
}
