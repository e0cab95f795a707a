//! A thread that serves a ring, a queue's or the control ring: waits for the connection, serves it, and says what became of it. Knows
//! nothing of the control socket.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tracing::Span;
use worker::message::Fault;
use worker::sandbox;
use worker::wake::Bell;

use crate::queue::{ConnectError, Next, Stop};

/// What a thread serves.
pub(crate) trait Serve: Sized {
    /// What it has from the worker's start on.
    type Parts;
    /// What a connection brings.
    type Terms;

    /// Connects; says how many slots a dead predecessor had taken and not answered.
    fn connect(parts: Self::Parts, terms: &Self::Terms) -> Result<(Self, u32), ConnectError>;
    /// This frontend has no use for it.
    fn unused(parts: Self::Parts);
    /// All there is to do now.
    fn turn(&mut self) -> Result<Next, Stop>;
    /// Waits for something to do.
    fn wait(&mut self, limit: Option<Duration>) -> Result<(), Stop>;
    /// Lets go of the frontend: unmaps, unbinds. `in_order` says that nobody has to take over.
    fn leave(self, in_order: bool);
}

/// What the control thread wants.
#[derive(Debug)]
pub(crate) enum Command<T> {
    /// Serve these rings.
    Connect(Box<T>),
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
pub(crate) struct Handle<T> {
    pub(crate) commands: Sender<Command<T>>,
    pub(crate) bell: Bell,
}

impl<T> Handle<T> {
    pub(crate) fn command(&self, command: Command<T>) {
        // A thread that ended has said why.
        let _ = self.commands.send(command);
        self.bell.ring();
    }
}

/// The thread's end.
#[derive(Debug)]
pub(crate) struct Line<T> {
    pub(crate) number: usize,
    pub(crate) commands: Receiver<Command<T>>,
    pub(crate) reports: Sender<(usize, Report)>,
    /// The control thread's.
    pub(crate) bell: Bell,
    /// Names the device in the log.
    pub(crate) span: Span,
}

impl<T> Line<T> {
    fn report(&self, report: Report) {
        let _ = self.reports.send((self.number, report));
        self.bell.ring();
    }
}

/// The thread's whole life.
pub(crate) fn run<S: Serve>(parts: S::Parts, line: &Line<S::Terms>) {
    let _in_log = line.span.enter();
    if let Err(e) = sandbox::forget_paths() {
        return line.report(Report::NotReady(e.to_string()));
    }
    line.report(Report::Ready);
    let terms = loop {
        match line.commands.recv() {
            Ok(Command::Connect(terms)) => break terms,
            Ok(Command::Look) => {}
            // This frontend has fewer, or none came.
            Ok(Command::Leave(_)) | Err(_) => return S::unused(parts),
        }
    };
    let mut served = match S::connect(parts, &terms) {
        Ok((served, replayed)) => {
            line.report(Report::Connected(replayed));
            served
        }
        Err(ConnectError::Frontend(why)) => return line.report(Report::Failed(Fault::Frontend, why)),
        Err(ConnectError::Host(why)) => return line.report(Report::Failed(Fault::Host, why)),
    };
    let in_order = match serve(&mut served, line) {
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
    served.leave(in_order);
    line.report(Report::Stopped);
}

/// Until told to leave; says whether in order.
fn serve<S: Serve>(served: &mut S, line: &Line<S::Terms>) -> Result<bool, Stop> {
    loop {
        match line.commands.try_recv() {
            Ok(Command::Leave(in_order)) => return Ok(in_order),
            Err(TryRecvError::Disconnected) => return Ok(false),
            Ok(Command::Connect(_) | Command::Look) | Err(TryRecvError::Empty) => {}
        }
        match served.turn()? {
            Next::Again => {}
            Next::Wait(limit) => served.wait(limit)?,
        }
    }
}
