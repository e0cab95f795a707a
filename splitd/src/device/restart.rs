//! A restart that was asked for: a disk's worker first finishes what it took and hands its connection over; one that does not in time, or
//! does not know how, is killed, and its journal sees to the rest. Whoever asked hears of it when the successor serves.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;
use worker::message::{HAND_OVER_SINCE, ToWorker};

use super::{Answer, Device};
use crate::id::Kind;
use crate::step::Worker;

/// How long a worker may take to finish what it took; the guest waits meanwhile.
const HAND_OVER_TIME: Duration = Duration::from_secs(5);

/// A restart under way.
#[derive(Debug)]
pub(super) struct Restart {
    answer: Answer<String>,
    /// The old worker has ended.
    ended: bool,
}

impl Device {
    pub(super) fn restart(&mut self, answer: Answer<String>) {
        match self.begin_restart() {
            Ok(None) => {
                let ended = self.link.is_none();
                self.restart = Some(Restart { answer, ended });
            }
            // Whoever asked may have gone.
            Ok(Some(done)) => _ = answer.send(Ok(done)),
            Err(text) => _ = answer.send(Err(text)),
        }
    }

    /// What there is to say at once; `None` if a successor is on its way.
    fn begin_restart(&mut self) -> Result<Option<String>, String> {
        if let Some(reason) = &self.not_ours {
            return Err(format!("{}: not served by splitd: {reason}", self.id));
        }
        if self.restart.is_some() {
            return Err(format!("{}: a restart is under way already", self.id));
        }
        let id = self.id;
        if self.is_paused() {
            return Err(format!("{id}: paused; splitctl resume {id} goes on"));
        }
        self.crashes.clear();
        self.retry_at = None;
        match (&self.link, self.worker) {
            (Some(link), Worker::Serving)
                if id.kind != Kind::Vif && self.worker_version >= HAND_OVER_SINCE =>
            {
                info!(device = %id, pid = link.pid(), "hands over");
                link.say(ToWorker::HandOver);
                self.kill_at = Some(Instant::now() + HAND_OVER_TIME);
                Ok(None)
            }
            (Some(link), Worker::Opened | Worker::Connecting | Worker::Serving) => {
                link.kill();
                Ok(None)
            }
            (_, Worker::GaveUp) => {
                self.worker = Worker::Absent;
                self.alarm = None;
                Ok(if self.connected() { None } else { Some("tries again".to_owned()) })
            }
            (_, Worker::Absent) => {
                Ok(Some("no worker; one is started when the guest asks for it".to_owned()))
            }
            (
                _,
                Worker::Opening | Worker::Stopping | Worker::Opened | Worker::Connecting | Worker::Serving,
            ) => Err(format!("{id}: its worker is {:?}; try again", self.worker)),
        }
    }

    /// The worker is gone. True if that was asked for; a successor that dies is not.
    pub(super) fn ended_for_restart(&mut self, how: &str) -> bool {
        match &mut self.restart {
            Some(restart) if !restart.ended => {
                restart.ended = true;
                info!(device = %self.id, "worker ended for its restart: {how}");
                if !self.connected() {
                    self.answer_restart(Ok(
                        "worker ended; its successor is started with the guest".to_owned()
                    ));
                }
                true
            }
            Some(_) => {
                self.answer_restart(Err(format!("{}: the successor died: {how}", self.id)));
                false
            }
            None => false,
        }
    }

    /// The old worker ended before; answered when another serves.
    pub(super) fn restart_ended(&mut self, answer: Answer<String>) {
        self.restart = Some(Restart { answer, ended: true });
    }

    pub(super) fn answer_restart(&mut self, outcome: Result<String, String>) {
        if let Some(restart) = self.restart.take() {
            let _ = restart.answer.send(outcome);
        }
    }
}
