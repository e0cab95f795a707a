//! A disk that waits while its target is copied or snapshotted: its worker finishes what it took and ends, and no successor starts
//! until it is told to. The guest's next requests stay in its ring. A mark in the run directory tells a later splitd.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use worker::message::{HAND_OVER_SINCE, ToWorker};

use super::retarget::HOLD_TIME;
use super::{Answer, Device};
use crate::id::Kind;
use crate::stats::Totals;
use crate::step::Worker;

/// How long the storage may take for what the guest has asked already.
const DRAIN_TIME: Duration = Duration::from_secs(20);

/// Whether a disk is paused.
#[derive(Debug)]
pub(super) enum Pause {
    /// It is not.
    No,
    /// Its worker was told to finish.
    Draining(Answer<String>, Wait),
    /// Nobody has its target open.
    Held(Wait),
}

/// For what a disk waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// For somebody to say that it goes on.
    ForWord,
    /// For the last piece of its copy; at the latest until then.
    ForCopy(Instant),
}

/// What stands in the mark of a disk that waits for its copy.
const COPY: &str = "copy";

impl Device {
    pub(super) fn pause(&mut self, wait: Wait, answer: Answer<String>) {
        match self.begin_pause() {
            Ok(None) => self.pause = Pause::Draining(answer, wait),
            // Whoever asked may have gone.
            Ok(Some(done)) => _ = answer.send(Ok(done)),
            Err(text) => _ = answer.send(Err(text)),
        }
    }

    /// What there is to say at once; `None` once the worker was told.
    fn begin_pause(&mut self) -> Result<Option<String>, String> {
        let id = self.id;
        if let Some(reason) = &self.not_ours {
            return Err(format!("{id}: not served by splitd: {reason}"));
        }
        if id.kind == Kind::Vif {
            return Err(format!(
                "{id}: only disks are paused; an interface's cable is pulled by `ip link set DEV down`"
            ));
        }
        match (&self.pause, &self.link, self.worker) {
            (Pause::Held(Wait::ForWord), _, _) => Ok(Some("paused already".to_owned())),
            (Pause::Held(Wait::ForCopy(_)), _, _) => Err(format!("{id}: moves to another target; try again")),
            (Pause::Draining(..), _, _) => Err(format!("{id}: a pause is under way already")),
            _ if self.restart.is_some() => Err(format!("{id}: its worker is being replaced; try again")),
            (Pause::No, Some(link), Worker::Serving) if self.worker_version >= HAND_OVER_SINCE => {
                link.say(ToWorker::HandOver);
                self.kill_at = Some(Instant::now() + DRAIN_TIME);
                Ok(None)
            }
            (Pause::No, Some(_), Worker::Serving) => Err(format!(
                "{id}: its worker is of an older version that cannot pause: splitctl restart {id}"
            )),
            (Pause::No, _, worker) => Err(format!(
                "{id}: its worker is {worker:?}: only a disk that a guest has connected is paused"
            )),
        }
    }

    pub(super) fn resume(&mut self, answer: Answer<String>) {
        if !self.is_paused() {
            let _ = answer.send(Err(format!("{}: not paused", self.id)));
            return;
        }
        self.end_pause();
        info!(device = %self.id, "resumed");
        // Answered when the successor serves.
        self.restart_ended(answer);
    }

    /// The worker is gone. True if that was a pause, whether it came to be or not.
    pub(super) fn ended_for_pause(&mut self, how: &str) -> bool {
        let (answer, wait) = match std::mem::replace(&mut self.pause, Pause::No) {
            Pause::Draining(answer, wait) => (answer, wait),
            other => {
                self.pause = other;
                return false;
            }
        };
        let outcome = self.hold(how, wait);
        if let Err(text) = &outcome {
            warn!(device = %self.id, "not paused: {text}");
        }
        let _ = answer.send(outcome);
        true
    }

    /// Only a worker that has answered all it took leaves a target at rest.
    fn hold(&mut self, how: &str, wait: Wait) -> Result<String, String> {
        let in_flight = match Totals::read(&self.host.run_dir, self.id) {
            Ok(Some(totals)) => totals.counters.get("in_flight_now").copied(),
            _ => None,
        };
        match in_flight {
            Some(0) => {}
            Some(n) => {
                let id = self.id;
                return Err(format!(
                    "{id}: {n} requests were still under way ({how}); it goes on, not paused"
                ));
            }
            None => return Err(format!("{}: what it had under way is not known; it goes on", self.id)),
        }
        // First: a splitd that starts now must not start a worker.
        let (mark, wait) = match wait {
            Wait::ForWord => ("", wait),
            Wait::ForCopy(_) => (COPY, Wait::ForCopy(Instant::now() + HOLD_TIME)),
        };
        std::fs::write(self.mark(), mark)
            .map_err(|trouble| format!("{}: {trouble}", self.mark().display()))?;
        self.pause = Pause::Held(wait);
        self.worker = Worker::GaveUp;
        info!(device = %self.id, "paused");
        Ok(format!("paused; its requests wait until splitctl resume {}", self.id))
    }

    /// No pause outlives what was paused.
    pub(super) fn end_pause(&mut self) {
        if self.is_paused() {
            self.pause = Pause::No;
            self.worker = Worker::Absent;
        }
        match std::fs::remove_file(self.mark()) {
            Err(trouble) if trouble.kind() != std::io::ErrorKind::NotFound => {
                warn!(device = %self.id, "{}: {trouble}", self.mark().display());
            }
            _ => {}
        }
    }

    /// Its worker is gone and its connection is on record: whether an earlier splitd was told to leave it so.
    pub(super) fn adopt_pause(&mut self) {
        match std::fs::read_to_string(self.mark()) {
            // Whoever copied asks again: meanwhile the guest goes on.
            Ok(text) if text == COPY => self.end_pause(),
            Ok(_) => {
                self.pause = Pause::Held(Wait::ForWord);
                self.worker = Worker::GaveUp;
            }
            Err(trouble) if trouble.kind() == std::io::ErrorKind::NotFound => {}
            Err(trouble) => warn!(device = %self.id, "{}: {trouble}", self.mark().display()),
        }
    }

    /// When the guest goes on by itself.
    pub(super) fn held_until(&self) -> Option<Instant> {
        match self.pause {
            Pause::Held(Wait::ForCopy(until)) => Some(until),
            _ => None,
        }
    }

    /// Whoever copied is too late or gone: the old target is whole, and the guest goes on with it.
    pub(super) fn end_hold(&mut self) {
        warn!(device = %self.id, "held for its copy for {} s: goes on with its old target", HOLD_TIME.as_secs());
        self.end_pause();
    }

    pub(super) fn is_paused(&self) -> bool {
        matches!(self.pause, Pause::Held(_))
    }

    fn mark(&self) -> PathBuf {
        self.dir.join("paused")
    }
}
