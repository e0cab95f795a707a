//! What to do about a device, decided from what stands in xenstore now and what splitd knows of its worker: a pure
//! function, because watches are hints that may be merged, doubled or skip states. Knows neither how to read a store nor how
//! to run a process.
//!
//! ```text
//!  ours   frontend        what happens
//!  ─────  ──────────────  ────────────────────────────────────────────────────────────────────────────
//!    1    any             Introduce: say what does not depend on the target; the toolstack waits for exactly 2
//!    2    1, 2            nothing until the hotplug script is done; Launch if it left the worker to us
//!    2    3, 4            script done: (Launch,) Connect, then Publish ─► 4
//!    4    3, 4            serving; Recover a worker that died; Resize when the target's size differs from `sectors`;
//!                          Adjust a vif whose settings in xenstore are not its worker's
//!    4    7               a vif: Reconfigure ─► 8; then 4 again when the frontend says 4
//!    4    5               FollowClosing ─► 5, and keep serving: an old frontend that is mounted says 5 and means no
//!    5    3, 4, 5         keep serving if there is a connection, else Close at once
//!   2-5   6, gone         Stop the worker, then Close ─► 6
//!    4    1               Stop, then Introduce ─► 2: the guest was resumed without a word
//!    6    1               Introduce ─► 2 while `online` is 1 (kexec, a boot loader handing over)
//!   1-5   broke a rule    Stop, Fail ─► 5 with the error node, Close ─► 6
//!   gone  any             Stop, Forget
//! ```
//!
//! State 2 is never left before `hotplug-status` is `connected` (or `online` is 0): the toolstack re-reads the node when
//! its watch fires, and would miss it. Closing and Closed are never written for a trouble of our own.

use xenbus::XenbusState as State;

/// What xenstore says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Our directory; `None` once the toolstack has removed it.
    pub backend: Option<Backend>,
    /// The guest's.
    pub frontend: Frontend,
}

/// What matters of the backend directory, which only the toolstack, its script and we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// `state`
    pub state: State,
    /// `online`: the device is to stay.
    pub online: bool,
    /// `hotplug-status` is `connected`: the script ran, so the toolstack has seen our 2.
    pub script_done: bool,
    /// `sectors`, as last published.
    pub sectors: Option<u64>,
}

/// What the guest's directory says. All of it is hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frontend {
    /// No `state` node.
    Gone,
    /// What stands there; anything that is no state is `Unknown`, which Linux takes for closed, and so do we.
    In(State),
}

/// What splitd knows by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// False: some other backend serves it; nothing is ever written.
    pub ours: bool,
    /// The process.
    pub worker: Worker,
    /// A `Connect` is on record that has not been ended: the frontend's ring is in use, whether or not a worker lives.
    pub connection: bool,
    /// The frontend broke the protocol and has not been closed for it yet.
    pub violation: bool,
    /// No launch now: the last ones died too fast.
    pub backoff: bool,
    /// A network interface: it may be reconfigured, and has settings that change.
    pub is_vif: bool,
    /// What the toolstack wants of a vif now is not what its worker was told.
    pub settings_stale: bool,
    /// The target's size, once a worker has said it.
    pub capacity_sectors: Option<u64>,
}

/// Where the worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// There is none.
    Absent,
    /// Told to open its target.
    Opening,
    /// Has its target, no frontend.
    Opened,
    /// Told to serve.
    Connecting,
    /// Serves (or is frozen, which it answers for itself).
    Serving,
    /// Told to end.
    Stopping,
    /// There is none, and no other is started until an operator says so.
    GaveUp,
}

/// The one thing to do next; then everything is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until something changes.
    Wait,
    /// Publish the offer, state 2.
    Introduce,
    /// Start a worker and let it open its target.
    Launch,
    /// Read the frontend's nodes and let the worker serve them; or again those on record.
    Connect,
    /// Publish what the target is, state 4.
    Publish,
    /// Publish the target's new size, state 4 once more.
    Resize,
    /// Tell the worker the settings that are wanted now.
    Adjust,
    /// Read what the frontend changed, tell the worker, state 8.
    Reconfigure,
    /// Start a worker that takes the dead one's connection over.
    Recover,
    /// State 5, still serving.
    FollowClosing,
    /// End the worker.
    Stop,
    /// Error node, state 5.
    Fail,
    /// State 6.
    Close,
    /// Connected by its state, but nothing on record of the connection: freeze, alarm.
    Orphan,
    /// The directory is gone and so is the worker: drop the device.
    Forget,
}

/// What to do next.
#[must_use]
pub fn step(seen: &Observed, device: &Device) -> Action {
    let Some(backend) = seen.backend else { return leave(device, Action::Forget) };
    if !device.ours {
        return Action::Wait;
    }
    let state = backend.state;
    if device.violation && state != State::Closed {
        let verdict = if state == State::Closing { Action::Close } else { Action::Fail };
        return leave(device, verdict);
    }
    match state {
        State::Initialising => new(seen, backend),
        State::InitWait => offered(seen, backend, device),
        State::Initialised | State::Connected | State::Reconfigured => connected(seen, backend, device),
        State::Closing => closing(seen, device),
        State::Closed => closed(seen, backend, device),
        State::Unknown | State::Reconfiguring => Action::Wait,
    }
}

/// The worker ends first, if there is one.
fn leave(device: &Device, then: Action) -> Action {
    match device.worker {
        Worker::Absent | Worker::GaveUp => then,
        Worker::Stopping => Action::Wait,
        Worker::Opening | Worker::Opened | Worker::Connecting | Worker::Serving => Action::Stop,
    }
}

fn new(seen: &Observed, backend: Backend) -> Action {
    match seen.frontend {
        // Both directories are made in one transaction: without the other end there is nobody to offer anything to.
        Frontend::Gone if backend.online => Action::Wait,
        Frontend::Gone => Action::Close,
        _ => Action::Introduce,
    }
}

fn offered(seen: &Observed, backend: Backend, device: &Device) -> Action {
    let may_leave = backend.script_done || !backend.online;
    match seen.frontend {
        Frontend::Gone => leave(device, Action::Close),
        Frontend::In(State::Closing) if may_leave => Action::FollowClosing,
        Frontend::In(State::Closed | State::Unknown) if may_leave => leave(device, Action::Close),
        Frontend::In(State::Initialised | State::Connected) => match device.worker {
            Worker::Serving => Action::Publish,
            _ => bring_up(backend, device),
        },
        Frontend::In(State::Initialising | State::InitWait) => match device.worker {
            // It went back to the start while its rings were being connected.
            Worker::Connecting | Worker::Serving => Action::Stop,
            Worker::Absent if backend.script_done && !device.backoff => Action::Launch,
            _ => Action::Wait,
        },
        Frontend::In(_) => Action::Wait,
    }
}

/// The frontend is ready and nobody serves it yet.
fn bring_up(backend: Backend, device: &Device) -> Action {
    match device.worker {
        Worker::Absent if device.backoff => Action::Wait,
        Worker::Absent if device.connection => Action::Recover,
        Worker::Absent if backend.script_done => Action::Launch,
        Worker::Opened if backend.script_done || device.connection => Action::Connect,
        _ => Action::Wait,
    }
}

fn connected(seen: &Observed, backend: Backend, device: &Device) -> Action {
    match seen.frontend {
        Frontend::Gone | Frontend::In(State::Closed | State::Unknown) => leave(device, Action::Close),
        Frontend::In(State::Closing) => Action::FollowClosing,
        Frontend::In(State::Initialising) if backend.online => leave(device, Action::Introduce),
        Frontend::In(State::Initialising) => leave(device, Action::Close),
        _ => match serve_on(device) {
            Action::Wait if device.worker == Worker::Serving => changed(seen, backend, device),
            other => other,
        },
    }
}

/// What changes while a frontend is served.
fn changed(seen: &Observed, backend: Backend, device: &Device) -> Action {
    if device.is_vif {
        return match (backend.state, seen.frontend) {
            (State::Connected, Frontend::In(State::Reconfiguring)) => Action::Reconfigure,
            (State::Reconfigured, Frontend::In(State::Connected)) => Action::Publish,
            _ if device.settings_stale => Action::Adjust,
            _ => Action::Wait,
        };
    }
    match (backend.sectors, device.capacity_sectors) {
        (Some(published), Some(capacity)) if published != capacity => Action::Resize,
        _ => Action::Wait,
    }
}

/// A frontend that was connected is served on, whatever became of the worker.
fn serve_on(device: &Device) -> Action {
    match device.worker {
        Worker::Absent if !device.connection => Action::Orphan,
        Worker::Absent if device.backoff => Action::Wait,
        Worker::Absent => Action::Recover,
        Worker::Opened if device.connection => Action::Connect,
        // A worker that never had this frontend's rings cannot serve a connection nobody remembers.
        Worker::Opened => Action::Stop,
        _ => Action::Wait,
    }
}

fn closing(seen: &Observed, device: &Device) -> Action {
    match seen.frontend {
        Frontend::Gone | Frontend::In(State::Closed | State::Unknown | State::Initialising) => {
            leave(device, Action::Close)
        }
        _ if !device.connection => leave(device, Action::Close),
        _ => serve_on(device),
    }
}

fn closed(seen: &Observed, backend: Backend, device: &Device) -> Action {
    match seen.frontend {
        Frontend::In(State::Initialising) if backend.online => leave(device, Action::Introduce),
        _ => leave(device, Action::Wait),
    }
}

#[cfg(test)]
mod tests;
