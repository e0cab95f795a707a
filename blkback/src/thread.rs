//! A queue's thread: waits for the connection, serves it, and says what became of it. Knows nothing of the control socket.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tracing::Span;
use worker::message::Fault;
use worker::sandbox;
use worker::wake::Bell;
use xenbus::hv::{EventChannel, GrantTable};

use crate::queue::{ConnectError, Left, Next, Parts, Queue, Stop, Terms};
use crate::shortage::Notice;

/// Longest that what is with the kernel is waited for when the device is given up unanswered.
const ABANDON_LIMIT: Duration = Duration::from_secs(10);

/// What the control thread wants.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve this ring.
    Connect(Box<Terms>),
    /// Take nothing more, answer everything, let go.
    Close,
    /// Take nothing more, answer everything, leave the connection to another worker.
    HandOver,
    /// Let go without answering.
    Abandon,
}

/// What a queue's thread says.
#[derive(Debug)]
pub(crate) enum Report {
    /// Its io_uring is its own: privileges are not needed any more.
    Ready,
    /// It cannot even begin.
    NotReady(String),
    /// Serving; this was left by a predecessor.
    Connected(Left),
    /// It cannot connect.
    Failed(Fault, String),
    /// The frontend broke the protocol.
    Violation(String),
    /// Our own trouble or the disk's.
    Frozen(String),
    /// It has waited long for memory of the kernel's, or has it again.
    Short(Notice),
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
    if let Err(e) = parts.disk.enable() {
        return line.report(Report::NotReady(e.to_string()));
    }
    line.report(Report::Ready);
    let terms = match line.commands.recv() {
        Ok(Command::Connect(terms)) => terms,
        // This frontend has fewer queues, or none came.
        Ok(Command::Close | Command::HandOver | Command::Abandon) | Err(_) => return,
    };
    let mut queue = match Queue::connect(parts, *terms) {
        Ok((queue, left)) => {
            line.report(Report::Connected(left));
            queue
        }
        Err(ConnectError::Frontend(why)) => return line.report(Report::Failed(Fault::Frontend, why)),
        Err(ConnectError::Host(why)) => return line.report(Report::Failed(Fault::Host, why)),
    };
    let over = match serve(&mut queue, line) {
        Ok(over) => over,
        Err(stop) => {
            line.report(match stop {
                Stop::Violation(why) => Report::Violation(why),
                Stop::Host(why) => Report::Frozen(why),
            });
            wait_to_leave(&mut queue, line);
            false
        }
    };
    queue.leave(over);
    line.report(Report::Stopped);
}

/// Until there is nothing more to serve; true if the connection is over, all answered.
fn serve<G: GrantTable, E: EventChannel>(queue: &mut Queue<G, E>, line: &Line) -> Result<bool, Stop> {
    let mut closing = None;
    loop {
        match line.commands.try_recv() {
            Ok(command @ (Command::Close | Command::HandOver)) => {
                queue.close();
                closing = Some(matches!(command, Command::Close));
            }
            Ok(Command::Abandon) | Err(TryRecvError::Disconnected) => {
                drain(queue);
                return Ok(false);
            }
            Ok(Command::Connect(_)) | Err(TryRecvError::Empty) => {}
        }
        let next = queue.turn()?;
        if let Some(notice) = queue.notice() {
            line.report(Report::Short(notice));
        }
        match (next, closing) {
            (_, Some(over)) if queue.is_idle() => return Ok(over),
            (Next::Again, _) => {}
            (Next::Wait(limit), _) => queue.wait(limit)?,
        }
    }
}

/// After a stop: the kernel may still finish, nothing is answered, and the control thread says when to go.
fn wait_to_leave<G: GrantTable, E: EventChannel>(queue: &mut Queue<G, E>, line: &Line) {
    drain(queue);
    while let Ok(command) = line.commands.recv() {
        match command {
            Command::Close | Command::HandOver | Command::Abandon => return,
            Command::Connect(_) => {}
        }
    }
}

fn drain<G: GrantTable, E: EventChannel>(queue: &mut Queue<G, E>) {
    let begun = Instant::now();
    while !queue.is_quiet() && begun.elapsed() < ABANDON_LIMIT {
        if let Err(stop) = queue.drain(Duration::from_millis(100)) {
            tracing::debug!(?stop, "while draining");
        }
    }
}
