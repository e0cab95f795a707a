//! One device's task: it looks, takes one step, looks again, and in between hears its worker, its clock and the operator. All
//! decisions about states are `step`'s; this file keeps what `step` is told. Knows nothing of other devices but the
//! sharing registry.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};
use worker::message::{Opened, ToWorker};
use xenbus::DomId;
use xenbus::store::Store;

use self::pause::Wait;
use self::retarget::{Destination, Source};
use crate::allowance::Allowance;
use crate::config::Config;
use crate::crashes::{Crashes, Verdict};
use crate::id::{self, DeviceId, Kind};
use crate::kernel::Sys;
use crate::limits::Limits;
use crate::observe::{self, Blind, Look, Toolstack};
use crate::record::{Opening, Record};
use crate::report::Report;
use crate::sharing::Registry;
use crate::step::{self, Action, Frontend, Worker, step};
use crate::tap::{Links, Tap};
use crate::worker_link::{News, WorkerLink};

mod actions;
mod adoption;
mod launching;
mod news;
mod ownership;
mod pause;
mod restart;
pub mod retarget;
mod vif;

/// Longest wait for the store at one look; a store that stalls must not keep us from a dead worker.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// When to look again after a look or a write failed.
const RETRY: Duration = Duration::from_secs(1);

/// Steps in a row before the task looks after its other duties; a device that never rests is a bug.
const STEPS_MAX: u32 = 16;

/// How long a worker may take to end once its device is gone from xenstore.
const STOP_GONE: Duration = Duration::from_secs(60);

/// Looks that a frontend may cause: a whole attach and detach takes about fifteen.
const LOOKS: u32 = 100;
const LOOK_EACH: Duration = Duration::from_millis(100);

/// Log lines likewise.
const LINES: u32 = 40;
const LINE_EACH: Duration = Duration::from_millis(500);

/// What all devices of a host share.
#[derive(Debug)]
pub struct Host {
    /// xenstore.
    pub store: Store,
    /// The domain we run in.
    pub backend: DomId,
    /// `splitd.toml`
    pub config: Config,
    /// What workers are told: `xen` or `sim:DIR`.
    pub host: String,
    /// The program that serves disks.
    pub blkback: PathBuf,
    /// The program that serves network interfaces.
    pub netback: PathBuf,
    /// What network interfaces have for taps.
    pub links: Links,
    /// `/run/splitd`
    pub run_dir: PathBuf,
    /// `/sys`
    pub sys: Sys,
    /// What disks are held to.
    pub limits: Limits,
    /// Who has which image open.
    pub sharing: RefCell<Registry>,
    /// What `splitctl` is told, kept up to date by each device.
    pub reports: RefCell<BTreeMap<DeviceId, Report>>,
}

/// How to reach a device's task.
#[derive(Clone, Debug)]
pub struct Mailbox {
    /// Something changed in xenstore; many changes are one.
    pub dirty: Rc<Notify>,
    /// Commands.
    pub commands: mpsc::Sender<Command>,
}

/// An answer to a command.
pub type Answer<T> = oneshot::Sender<Result<T, String>>;

/// What an operator or a script wants.
#[derive(Debug)]
pub enum Command {
    /// The hotplug script asks for a worker.
    HotplugAdd(Answer<Opened>),
    /// Look at the target's size.
    Resize(Answer<String>),
    /// Replace the worker; try again after giving up.
    Restart(Answer<String>),
    /// Let go of the target and have the guest wait.
    Pause(Answer<String>),
    /// Go on.
    Resume(Answer<String>),
    /// Count where the guest writes, for a copy to that target.
    BeginRetarget(Option<Destination>, Answer<Source>),
    /// Have the guest wait for the last piece of a copy.
    HoldForCopy(Answer<String>),
    /// Serve from there.
    Retarget(Destination, Answer<String>),
}

pub(crate) struct Device {
    host: Rc<Host>,
    id: DeviceId,
    /// Its run directory.
    dir: PathBuf,
    worker: Worker,
    link: Option<WorkerLink>,
    generation: u64,
    news: mpsc::Sender<(u64, News)>,
    record: Option<Record>,
    /// A network interface's.
    tap: Option<Tap>,
    violation: Option<String>,
    error_written: bool,
    toolstack: Option<Toolstack>,
    last: Option<Look>,
    /// The frontend's `state`, watched.
    watched: Option<String>,
    /// The hotplug script, waiting for its worker.
    script: Option<Answer<Opened>>,
    alarm: Option<String>,
    not_ours: Option<String>,
    /// Whose it is has been looked at.
    decided: bool,
    crashes: Crashes,
    /// Requests answered up to the last death.
    done_before: u64,
    /// One that was asked for.
    restart: Option<restart::Restart>,
    /// The last worker ended by itself.
    predecessor_crashed: bool,
    pause: pause::Pause,
    /// The target that it has just left.
    left: Option<retarget::Left>,
    /// `params` is another target than is served.
    toolstack_stale: bool,
    /// Of the messages that its worker speaks.
    worker_version: u32,
    kill_at: Option<Instant>,
    retry_at: Option<Instant>,
    look_at: Option<Instant>,
    restarts: u64,
    lines: Allowance,
}

impl Device {
    /// Starts the task; it ends when the device is gone.
    pub(crate) fn start(host: Rc<Host>, id: DeviceId) -> (Mailbox, tokio::task::JoinHandle<()>) {
        let (commands, commanded) = mpsc::channel(16);
        let (news, heard) = mpsc::channel(64);
        let mailbox = Mailbox { dirty: Rc::new(Notify::new()), commands };
        let device = Self {
            dir: host.run_dir.join(id::dir_name(&id)),
            crashes: Crashes::new(host.config.crash_loop),
            host,
            id,
            worker: Worker::Absent,
            link: None,
            generation: 0,
            news,
            record: None,
            tap: None,
            violation: None,
            error_written: false,
            toolstack: None,
            last: None,
            watched: None,
            script: None,
            alarm: None,
            not_ours: None,
            decided: false,
            done_before: 0,
            restart: None,
            predecessor_crashed: false,
            pause: pause::Pause::No,
            left: None,
            toolstack_stale: false,
            worker_version: 0,
            kill_at: None,
            retry_at: None,
            look_at: None,
            restarts: 0,
            lines: Allowance::new(LINES, LINE_EACH, Instant::now()),
        };
        let dirty = Rc::clone(&mailbox.dirty);
        let task = tokio::task::spawn_local(device.run(dirty, commanded, heard));
        (mailbox, task)
    }

    async fn run(
        mut self,
        dirty: Rc<Notify>,
        mut commanded: mpsc::Receiver<Command>,
        mut heard: mpsc::Receiver<(u64, News)>,
    ) {
        self.adopt(&mut heard).await;
        let allowance = || Allowance::new(LOOKS, LOOK_EACH, Instant::now());
        let (mut looks, mut hearings) = (allowance(), (0, allowance()));
        while self.settle().await {
            self.publish_report();
            let times = [self.kill_at, self.retry_at, self.look_at, self.held_until()];
            let alarm_clock = times.into_iter().flatten().min();
            tokio::select! {
                // A frontend that writes its state a million times, or a worker that never stops talking, costs us this much,
                // and its neighbours nothing.
                () = dirty.notified() => afford(&mut looks).await,
                Some((generation, news)) = heard.recv() => {
                    // What a predecessor said is not held against a worker; `Crashes` limits how often one follows another.
                    if hearings.0 != generation {
                        hearings = (generation, allowance());
                    }
                    afford(&mut hearings.1).await;
                    self.hear(generation, news).await;
                }
                Some(command) = commanded.recv() => self.obey(command).await,
                () = sleep_until(alarm_clock.unwrap_or_else(Instant::now)), if alarm_clock.is_some() => self.ring(),
            }
        }
        self.forget().await;
    }

    /// Looks and steps until there is nothing to do; false when the device is gone.
    async fn settle(&mut self) -> bool {
        for _ in 0..STEPS_MAX {
            let Some((look, blind)) = self.look().await else { return true };
            if look.observed.backend.is_none() && self.worker == Worker::Stopping && self.kill_at.is_none() {
                // What is in flight may take as long as its storage does, unless nobody is left to care.
                self.kill_at = Some(Instant::now() + STOP_GONE);
            }
            self.judge_ownership(&look).await;
            if !blind {
                self.tell_toolstack_again().await;
            }
            let action = step(&look.observed, &self.facts());
            let needs_no_store = matches!(action, Action::Recover)
                || (action == Action::Connect && self.record.as_ref().is_some_and(|r| r.connect.is_some()));
            match action {
                Action::Wait => return true,
                _ if blind && !needs_no_store => return true,
                Action::Forget => return false,
                _ => {}
            }
            if let Err(trouble) = self.act(action, &look).await {
                warn!(device = %self.id, "{action:?}: {trouble}");
                self.look_at = Some(Instant::now() + RETRY);
                return true;
            }
        }
        error!(device = %self.id, "does not come to rest after {STEPS_MAX} steps");
        self.look_at = Some(Instant::now() + RETRY);
        true
    }

    /// What stands in xenstore; what last stood there, and `true`, while the store is away.
    async fn look(&mut self) -> Option<(Look, bool)> {
        self.look_at = None;
        match timeout(LOOK_TIME, observe::look(&self.host.store, self.id)).await {
            Ok(Ok(look)) => {
                self.watch_frontend(look.frontend_path.as_deref()).await;
                self.last = Some(look.clone());
                return Some((look, false));
            }
            Ok(Err(Blind::Store(trouble))) => warn!(device = %self.id, "{trouble}"),
            Ok(Err(Blind::StoreAway)) | Err(_) => {}
        }
        self.look_at = Some(Instant::now() + RETRY);
        self.last.clone().map(|look| (look, true))
    }

    async fn watch_frontend(&mut self, dir: Option<&str>) {
        let Some(path) = dir.map(|dir| format!("{dir}/state")) else { return };
        if self.watched.as_ref() == Some(&path) {
            return;
        }
        match self.host.store.watch(&path, &frontend_token(self.id)).await {
            // Set twice is set: the kernel's device even allows it.
            Ok(()) | Err(xenbus::store::Error::Exists { .. }) => self.watched = Some(path),
            Err(trouble) => {
                warn!(device = %self.id, "{trouble}");
                self.look_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn facts(&self) -> step::Device {
        step::Device {
            ours: self.not_ours.is_none(),
            worker: self.worker,
            connection: self.connected(),
            violation: self.violation.is_some(),
            backoff: self.retry_at.is_some(),
            is_vif: self.id.kind == Kind::Vif,
            settings_stale: self.settings_stale(),
            capacity_sectors: self.opened().map(|opened| opened.capacity_sectors),
        }
    }

    fn connected(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.connect.is_some())
    }

    fn opened(&self) -> Option<&Opened> {
        self.record.as_ref()?.opened.as_ref()
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::HotplugAdd(answer) => self.hotplug_add(answer).await,
            Command::Resize(answer) => {
                let outcome = match (&self.link, self.worker) {
                    (Some(link), Worker::Serving | Worker::Opened) => {
                        link.say(ToWorker::Refresh);
                        Ok("the worker looks at its target's size; a change shows in `splitctl show`"
                            .to_owned())
                    }
                    _ => Err(format!("{}: no worker serves it", self.id)),
                };
                let _ = answer.send(outcome);
            }
            Command::Restart(answer) => self.restart(answer),
            Command::Pause(answer) => self.pause(Wait::ForWord, answer),
            Command::BeginRetarget(to, answer) => _ = answer.send(self.begin_retarget(to.as_ref())),
            Command::HoldForCopy(answer) => self.pause(Wait::ForCopy(Instant::now()), answer),
            Command::Retarget(to, answer) => self.retarget(to, answer).await,
            Command::Resume(answer) => self.resume(answer),
        }
    }

    /// A deadline has come.
    fn ring(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
        }
        if self.held_until().is_some_and(|at| at <= now) {
            self.end_hold();
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            if let Some(link) = &self.link {
                warn!(device = %self.id, pid = link.pid(), "no answer while {:?}; killed", self.worker);
                link.kill();
            }
            if self.worker == Worker::Opening {
                self.answer_script(Err(format!(
                    "{}: not opened after {} s: its storage does not answer",
                    self.target_text(),
                    launching::OPEN_TIME.as_secs()
                )));
            }
        }
    }

    /// The worker is gone without having been told to.
    fn died(&mut self, how: &str) {
        let was = self.worker;
        self.worker = Worker::Absent;
        if self.script.is_some() {
            let text = format!("{}: the worker ended while it was opened: {how}", self.target_text());
            self.answer_script(Err(text));
            self.discard_record();
            return;
        }
        if was == Worker::Opening && self.failed_to_move(how)
            || self.ended_for_pause(how)
            || self.ended_for_restart(how)
        {
            return;
        }
        let done = crate::stats::requests_done(&self.dir);
        let progress = done > std::mem::replace(&mut self.done_before, done);
        match self.crashes.note(Instant::now(), progress) {
            Verdict::Again(after) => {
                warn!(device = %self.id, "worker died while {was:?}: {how}; its successor starts in {after:?}");
                self.retry_at = (!after.is_zero()).then(|| Instant::now() + after);
            }
            Verdict::GiveUp => {
                self.raise(format!("the worker keeps dying, last while {was:?}: {how}"));
                self.worker = Worker::GaveUp;
            }
        }
    }

    /// Whether a line that a guest can cause at will may be logged.
    fn may_log(&mut self) -> bool {
        let admitted = self.lines.take(Instant::now());
        if let Some(left_out @ 1..) = admitted {
            info!(device = %self.id, "{left_out} lines left out");
        }
        admitted.is_some()
    }

    /// Our own trouble: told loudly, never to the guest.
    fn raise(&mut self, alarm: String) {
        error!(device = %self.id, "ALARM: {alarm}");
        self.answer_restart(Err(format!("{}: {alarm}", self.id)));
        self.alarm = Some(alarm);
    }

    fn answer_script(&mut self, outcome: Result<Opened, String>) {
        if let Some(answer) = self.script.take() {
            // A script that has been killed meanwhile hears nothing.
            let _ = answer.send(outcome);
        }
    }

    fn target_text(&self) -> String {
        match self.record.as_ref().map(|record| &record.open) {
            Some(Opening::Disk(open)) => open.target.display().to_string(),
            Some(Opening::Vif(_)) | None => self.id.to_string(),
        }
    }

    fn publish_report(&self) {
        let observed = self.last.as_ref().map(|look| look.observed);
        let report = Report {
            id: self.id,
            state: observed.and_then(|o| o.backend).map(|b| b.state),
            frontend: observed.map(|o| o.frontend).and_then(|f| match f {
                Frontend::In(state) => Some(state),
                Frontend::Gone => None,
            }),
            online: observed.and_then(|o| o.backend).is_some_and(|b| b.online),
            worker: self.worker,
            pid: self.link.as_ref().map(WorkerLink::pid),
            record: self.record.clone(),
            tap: self.tap.as_ref().map(Tap::name),
            domain_name: self.toolstack.as_ref().and_then(|t| t.domain_name.clone()),
            mac: self.toolstack.as_ref().and_then(|t| t.mac.clone()),
            alarm: self.alarm.clone(),
            not_ours: self.not_ours.clone(),
            restarts: self.restarts,
            paused: self.is_paused(),
        };
        self.host.reports.borrow_mut().insert(self.id, report);
    }

    /// The device is gone from xenstore, and so is its worker.
    async fn forget(&mut self) {
        info!(device = %self.id, "gone");
        self.answer_script(Err(format!("{}: removed meanwhile", self.id)));
        self.host.sharing.borrow_mut().release(self.id);
        self.host.limits.leave(self.id);
        self.remove_tap();
        self.host.reports.borrow_mut().remove(&self.id);
        if let Some(path) = self.watched.take()
            && let Err(trouble) = self.host.store.unwatch(&path, &frontend_token(self.id)).await
        {
            warn!(device = %self.id, "{trouble}");
        }
        if self.error_written {
            self.remove_error_node().await;
        }
        match std::fs::remove_dir_all(&self.dir) {
            Err(trouble) if trouble.kind() != std::io::ErrorKind::NotFound => {
                warn!(device = %self.id, "{}: {trouble}", self.dir.display());
            }
            _ => {}
        }
    }
}

async fn afford(looks: &mut Allowance) {
    if looks.take(Instant::now()).is_none() {
        tokio::time::sleep(LOOK_EACH).await;
    }
}

/// The token under which a frontend's state is watched.
pub(crate) fn frontend_token(id: DeviceId) -> String {
    format!("frontend:{}", id::dir_name(&id))
}
