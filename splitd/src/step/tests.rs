//! `step` over its whole input (a few ten thousand cases), and the sequences that libxl and real frontends go through.

use super::*;

const WORKERS: [Worker; 7] = [
    Worker::Absent,
    Worker::Opening,
    Worker::Opened,
    Worker::Connecting,
    Worker::Serving,
    Worker::Stopping,
    Worker::GaveUp,
];

fn frontends() -> Vec<Frontend> {
    let mut all = vec![Frontend::Gone];
    all.extend(State::ALL.map(Frontend::In));
    all
}

/// Every input there is, but for numbers, of which equal and unequal matter.
fn everything() -> Vec<(Observed, Device)> {
    let mut backends = vec![None];
    for state in State::ALL {
        for bits in 0..4 {
            backends.push(Some(Backend {
                state,
                online: bits & 1 != 0,
                script_done: bits & 2 != 0,
                sectors: Some(8),
            }));
        }
    }
    let mut all = Vec::new();
    for backend in backends {
        for frontend in frontends() {
            for worker in WORKERS {
                for bits in 0..128 {
                    let device = Device {
                        ours: bits & 1 != 0,
                        worker,
                        connection: bits & 2 != 0,
                        violation: bits & 4 != 0,
                        backoff: bits & 8 != 0,
                        is_vif: bits & 32 != 0,
                        settings_stale: bits & 64 != 0,
                        capacity_sectors: Some(if bits & 16 != 0 { 8 } else { 16 }),
                    };
                    all.push((Observed { backend, frontend }, device));
                }
            }
        }
    }
    all
}

fn alive(worker: Worker) -> bool {
    !matches!(worker, Worker::Absent | Worker::GaveUp)
}

/// A write to a directory that is not ours, or is gone, would take another backend's device over or bring back a
/// directory that the toolstack has removed (scenario 13).
#[test]
fn nothing_is_written_to_what_is_not_ours_or_gone() {
    for (seen, device) in everything() {
        let action = step(&seen, &device);
        if seen.backend.is_none() {
            assert!(
                matches!(action, Action::Stop | Action::Wait | Action::Forget),
                "{seen:?} {device:?}: {action:?}"
            );
        } else if !device.ours {
            assert_eq!(action, Action::Wait, "{seen:?} {device:?}");
        }
    }
}

/// A frontend that wants to be served is never told Closing or Closed for our own or the disk's trouble: Linux
/// would disable the disk for good.
#[test]
fn a_ready_frontend_is_never_closed_for_our_own_trouble() {
    for (seen, device) in everything() {
        let (Some(backend), Frontend::In(State::Initialised | State::Connected)) =
            (seen.backend, seen.frontend)
        else {
            continue;
        };
        if device.violation || !matches!(backend.state, State::InitWait | State::Connected) {
            continue;
        }
        let action = step(&seen, &device);
        assert!(
            !matches!(action, Action::Close | Action::FollowClosing | Action::Fail | Action::Introduce),
            "{seen:?} {device:?}: {action:?}"
        );
    }
}

/// No worker exists before its hotplug script ran, except one that takes over a connection already made.
#[test]
fn no_worker_is_launched_before_its_script_ran() {
    for (seen, device) in everything() {
        let action = step(&seen, &device);
        let script_done = seen.backend.is_some_and(|b| b.script_done);
        match action {
            Action::Launch => assert!(script_done && !device.backoff, "{seen:?} {device:?}"),
            Action::Recover => assert!(device.connection && !device.backoff, "{seen:?} {device:?}"),
            Action::Connect => assert!(script_done || device.connection, "{seen:?} {device:?}"),
            _ => {}
        }
    }
}

/// libxl waits for exactly 2 and then runs the script: leaving 2 in between costs it ten seconds (scenario 10).
#[test]
fn state_2_is_held_until_the_script_is_done() {
    for (seen, device) in everything() {
        let Some(Backend { state: State::InitWait, online: true, script_done: false, .. }) = seen.backend
        else {
            continue;
        };
        if seen.frontend == Frontend::Gone
            || device.violation
            || device.connection
            || device.worker == Worker::Serving
        {
            continue;
        }
        let action = step(&seen, &device);
        assert!(matches!(action, Action::Wait | Action::Stop), "{seen:?} {device:?}: {action:?}");
    }
}

/// State 6 says that nothing of the guest is mapped any more, and 2 starts afresh: neither while a worker lives.
#[test]
fn a_living_worker_is_ended_before_anything_is_closed_or_begun_anew() {
    for (seen, device) in everything() {
        let action = step(&seen, &device);
        if !alive(device.worker) {
            assert_ne!(action, Action::Stop, "{seen:?} {device:?}");
        } else if seen.backend.map(|b| b.state) != Some(State::Initialising) {
            assert!(
                !matches!(
                    action,
                    Action::Close | Action::Introduce | Action::Forget | Action::Fail | Action::Launch
                ),
                "{seen:?} {device:?}: {action:?}"
            );
        }
    }
}

/// What the device's task makes of an action, in the least time possible.
fn apply(action: Action, seen: &mut Observed, device: &mut Device) {
    let set = |seen: &mut Observed, state| {
        if let Some(b) = &mut seen.backend {
            b.state = state;
        }
    };
    match action {
        Action::Wait | Action::Forget => {}
        Action::Introduce => {
            set(seen, State::InitWait);
            *device = Device { worker: Worker::Absent, connection: false, violation: false, ..*device };
        }
        Action::Launch => (device.worker, device.connection) = (Worker::Opened, false),
        Action::Recover => device.worker = Worker::Opened,
        Action::Connect => (device.worker, device.connection) = (Worker::Serving, true),
        Action::Publish | Action::Resize => {
            set(seen, State::Connected);
            if let Some(b) = &mut seen.backend {
                b.sectors = device.capacity_sectors;
            }
        }
        Action::Adjust => device.settings_stale = false,
        Action::Reconfigure => set(seen, State::Reconfigured),
        Action::FollowClosing | Action::Fail => set(seen, State::Closing),
        Action::Stop => (device.worker, device.connection) = (Worker::Absent, false),
        Action::Close => {
            set(seen, State::Closed);
            *device = Device { worker: Worker::Absent, connection: false, violation: false, ..*device };
        }
        Action::Orphan => device.worker = Worker::GaveUp,
    }
}

/// From anywhere, with nothing changing outside, the device comes to rest: no loop for a guest to keep us busy with.
#[test]
fn every_situation_comes_to_rest() {
    for (start_seen, start_device) in everything() {
        let (mut seen, mut device) = (start_seen, start_device);
        let mut trail = Vec::new();
        loop {
            let action = step(&seen, &device);
            if matches!(action, Action::Wait | Action::Forget) {
                break;
            }
            trail.push(action);
            assert!(trail.len() <= 8, "{start_seen:?} {start_device:?}: {trail:?}");
            apply(action, &mut seen, &mut device);
        }
    }
}

struct Story {
    seen: Observed,
    device: Device,
}

impl Story {
    fn new() -> Self {
        Self {
            seen: Observed {
                backend: Some(Backend {
                    state: State::Initialising,
                    online: true,
                    script_done: false,
                    sectors: None,
                }),
                frontend: Frontend::In(State::Initialising),
            },
            device: Device {
                ours: true,
                worker: Worker::Absent,
                connection: false,
                violation: false,
                backoff: false,
                is_vif: false,
                settings_stale: false,
                capacity_sectors: Some(8),
            },
        }
    }

    fn connected() -> Self {
        let mut story = Self::new();
        story.run();
        story.script();
        story.run();
        story.frontend(State::Initialised);
        story.run();
        story
    }

    fn run(&mut self) -> Vec<Action> {
        let mut trail = Vec::new();
        loop {
            let action = step(&self.seen, &self.device);
            if action == Action::Wait {
                return trail;
            }
            trail.push(action);
            if action == Action::Forget {
                return trail;
            }
            apply(action, &mut self.seen, &mut self.device);
        }
    }

    fn frontend(&mut self, state: State) {
        self.seen.frontend = Frontend::In(state);
    }

    fn script(&mut self) {
        self.seen.backend.as_mut().unwrap().script_done = true;
    }

    fn toolstack_detaches(&mut self) {
        let backend = self.seen.backend.as_mut().unwrap();
        backend.online = false;
        if backend.state != State::Closed {
            backend.state = State::Closing;
        }
    }
}

/// Scenarios 1 and 7 with a stock script, which leaves the launch to us.
#[test]
fn attach_with_a_stock_script() {
    let mut story = Story::new();
    assert_eq!(story.run(), [Action::Introduce]);
    story.frontend(State::Initialised);
    assert_eq!(story.run(), [], "the script has not run");
    story.script();
    assert_eq!(story.run(), [Action::Launch, Action::Connect, Action::Publish]);
    story.frontend(State::Connected);
    assert_eq!(story.run(), []);
}

/// Scenario 11: idle detach; the frontend closes, then we do.
#[test]
fn detach() {
    let mut story = Story::connected();
    story.toolstack_detaches();
    assert_eq!(story.run(), [], "served until the frontend closes");
    story.frontend(State::Closing);
    assert_eq!(story.run(), [], "and while it says 5");
    story.frontend(State::Closed);
    assert_eq!(story.run(), [Action::Stop, Action::Close]);
    story.seen.backend = None;
    assert_eq!(story.run(), [Action::Forget]);
}

/// X20: a device that is to go is not offered again, whatever its frontend says; one that is to stay is.
#[test]
fn what_is_offline_begins_nothing() {
    for (seen, device) in everything() {
        let Some(backend) = seen.backend else { continue };
        if backend.state == State::Closed && !backend.online {
            assert_ne!(step(&seen, &device), Action::Introduce, "{seen:?} {device:?}");
        }
    }
}

/// Scenario 12, the frontend that is mounted says 5 and stays: a worker that dies then is replaced all the same.
#[test]
fn a_frontend_that_refuses_to_close_is_served_on() {
    let mut story = Story::connected();
    story.frontend(State::Closing);
    assert_eq!(story.run(), [Action::FollowClosing]);
    story.device.worker = Worker::Absent;
    assert_eq!(story.run(), [Action::Recover, Action::Connect]);
}

/// Control-plane §1.4: a device that never connected answers 6 at once, or `xl` waits ten seconds.
#[test]
fn detach_before_the_guest_booted() {
    let mut story = Story::new();
    story.run();
    story.script();
    assert_eq!(story.run(), [Action::Launch]);
    story.toolstack_detaches();
    assert_eq!(story.run(), [Action::Stop, Action::Close]);
}

/// Scenarios 13 and 20: the frontend's directory is removed under a running guest.
#[test]
fn forced_detach_and_destroy() {
    let mut story = Story::connected();
    story.toolstack_detaches();
    story.seen.frontend = Frontend::Gone;
    assert_eq!(story.run(), [Action::Stop, Action::Close]);
}

/// Scenario 19, kexec, and GRUB handing over to the kernel: 6, then 1 while `online` stays 1.
#[test]
fn reconnect_while_online() {
    let mut story = Story::connected();
    story.frontend(State::Closing);
    assert_eq!(story.run(), [Action::FollowClosing]);
    story.frontend(State::Closed);
    assert_eq!(story.run(), [Action::Stop, Action::Close]);
    story.frontend(State::Initialising);
    assert_eq!(story.run(), [Action::Introduce, Action::Launch]);
    story.frontend(State::Initialised);
    assert_eq!(story.run(), [Action::Connect, Action::Publish]);
}

/// The order in which Windows starts: 5, 6, 1, before anything was connected.
#[test]
fn the_windows_order() {
    let mut story = Story::new();
    story.run();
    story.frontend(State::Closing);
    assert_eq!(story.run(), [], "libxl has not seen our 2 yet");
    story.script();
    assert_eq!(story.run(), [Action::FollowClosing, Action::Close]);
    story.frontend(State::Closed);
    assert_eq!(story.run(), []);
    story.frontend(State::Initialising);
    assert_eq!(story.run(), [Action::Introduce, Action::Launch]);
}

/// A resume without suspend-cancel: the frontend starts over while we are connected.
#[test]
fn frontend_starts_over() {
    let mut story = Story::connected();
    story.frontend(State::Initialising);
    assert_eq!(story.run(), [Action::Stop, Action::Introduce, Action::Launch]);
}

/// Scenario 29: state stays 4, the guest sees only a pause.
#[test]
fn a_dead_worker_is_replaced_in_state_4() {
    let mut story = Story::connected();
    story.frontend(State::Connected);
    story.device.worker = Worker::Absent;
    assert_eq!(story.run(), [Action::Recover, Action::Connect]);
    story.device = Device { worker: Worker::Absent, backoff: true, ..story.device };
    assert_eq!(story.run(), []);
    story.device.worker = Worker::GaveUp;
    assert_eq!(story.run(), []);
    story.frontend(State::Closed);
    assert_eq!(story.run(), [Action::Close], "a frozen device still answers detach");
}

/// Scenario 32: an offender is closed with an error, stays closed, and may start again from 1.
#[test]
fn violation() {
    let mut story = Story::connected();
    story.frontend(State::Connected);
    story.device.violation = true;
    assert_eq!(story.run(), [Action::Stop, Action::Fail, Action::Close]);
    assert_eq!(story.run(), []);
    story.frontend(State::Initialised);
    assert_eq!(story.run(), [], "not before it says 1");
    story.frontend(State::Initialising);
    assert_eq!(story.run(), [Action::Introduce, Action::Launch]);
}

/// Scenario 35.
#[test]
fn resize() {
    let mut story = Story::connected();
    story.frontend(State::Connected);
    story.device.capacity_sectors = Some(4096);
    assert_eq!(story.run(), [Action::Resize]);
}

/// netfront's XDP: it asks with 7 and is answered with 8, then says 4 and is answered with 4; a disk's frontend that says 7 is none.
#[test]
fn a_vif_is_reconfigured_while_it_is_served() {
    let mut story = Story::connected();
    story.device.is_vif = true;
    story.frontend(State::Reconfiguring);
    assert_eq!(story.run(), [Action::Reconfigure]);
    story.frontend(State::Connected);
    assert_eq!(story.run(), [Action::Publish]);
    story.device.settings_stale = true;
    assert_eq!(story.run(), [Action::Adjust]);

    let mut disk = Story::connected();
    disk.frontend(State::Reconfiguring);
    assert_eq!(disk.run(), []);
}

/// Linux' netfront goes from 1 to 4, and its state counts only once the script is done.
#[test]
fn netfront_says_four_at_once() {
    let mut story = Story::new();
    story.device.is_vif = true;
    assert_eq!(story.run(), [Action::Introduce]);
    story.frontend(State::Connected);
    assert_eq!(story.run(), []);
    story.script();
    assert_eq!(story.run(), [Action::Launch, Action::Connect, Action::Publish]);
}
