//! What a worker's news mean for its device.

use tokio::time::Instant;
use tracing::{info, warn};
use worker::message::{Fault, FromWorker, Opened, Phase, VERSION};

use super::Device;
use super::launching::OPEN_TIME;
use crate::nodes::printable;
use crate::record::Connection;
use crate::step::Worker;
use crate::worker_link::{News, WorkerLink};

impl Device {
    pub(super) async fn hear(&mut self, generation: u64, news: News) {
        if self.link.as_ref().map(|link| link.generation) != Some(generation) {
            return;
        }
        match news {
            News::Said(message) => self.heard(message),
            News::Broke(how) => warn!(device = %self.id, "the worker {how}; killed"),
            News::Ended(end) => {
                self.predecessor_crashed = end.crashed;
                self.ended(&end.how);
            }
        }
    }

    fn ended(&mut self, how: &str) {
        self.link = None;
        self.kill_at = None;
        match self.worker {
            Worker::Stopping => self.let_go(),
            Worker::Absent | Worker::GaveUp => {}
            Worker::Opening | Worker::Opened | Worker::Connecting | Worker::Serving => self.died(how),
        }
    }

    /// The worker ended as it was told to: the connection is over.
    fn let_go(&mut self) {
        self.worker = Worker::Absent;
        self.kill_at = None;
        self.host.sharing.borrow_mut().release(self.id);
        self.discard_record();
    }

    fn heard(&mut self, message: FromWorker) {
        match message {
            FromWorker::Hello { version, phase, opened, connection, .. } => {
                self.greeted(version, phase, opened, connection);
            }
            FromWorker::Opened(opened) if self.worker == Worker::Opening => self.target_open(opened),
            FromWorker::OpenedVif if self.worker == Worker::Opening => {
                self.kill_at = None;
                self.worker = Worker::Opened;
                self.keep_record();
            }
            FromWorker::Connected { replayed, fence_ms, given_up } if self.worker == Worker::Connecting => {
                if self.may_log() {
                    info!(device = %self.id, replayed, fence_ms, "serving");
                }
                self.worker = Worker::Serving;
                self.has_moved();
                self.alarm = None;
                self.kill_at = None;
                let pid = self.link.as_ref().map_or(0, WorkerLink::pid);
                self.answer_restart(Ok(format!("worker {pid} serves, {replayed} requests done again")));
                if given_up > 0 {
                    self.raise(format!(
                        "{given_up} requests that ended two workers each were answered with an error; the log has them"
                    ));
                }
            }
            FromWorker::Failed { fault, reason } => self.failed(fault, &reason),
            FromWorker::Resized { capacity_sectors } => {
                if let Some(opened) = self.record.as_mut().and_then(|record| record.opened.as_mut()) {
                    opened.capacity_sectors = capacity_sectors;
                }
                self.keep_record();
            }
            FromWorker::Violation { reason } => {
                self.violation = Some(printable(&reason));
            }
            FromWorker::Frozen { reason } => self.raise(format!("frozen: {reason}")),
            FromWorker::Thawed => {
                info!(device = %self.id, "thawed");
                self.alarm = None;
            }
            FromWorker::Disconnected if self.worker == Worker::Stopping => {
                // Nothing is mapped any more: what waits for state 6 need not wait for the process's last instructions.
                self.link = None;
                self.let_go();
            }
            FromWorker::Opened(_)
            | FromWorker::OpenedVif
            | FromWorker::Connected { .. }
            | FromWorker::Disconnected => {
                warn!(device = %self.id, "the worker, {:?}, says {message:?}, which answers nothing", self.worker);
            }
        }
    }

    fn greeted(&mut self, version: u32, phase: Phase, opened: Option<Opened>, connection: Option<u64>) {
        self.worker_version = version;
        if version + 1 < VERSION || version > VERSION + 1 {
            self.raise(format!(
                "its worker speaks version {version}, splitd {VERSION}: splitctl restart {}",
                self.id
            ));
        }
        let Some(link) = &self.link else { return };
        if phase == Phase::Started {
            // Also one that an earlier splitd started and then died before it could say so.
            if let Some(record) = &self.record {
                link.say(record.open.message());
                self.worker = Worker::Opening;
                self.kill_at = Some(Instant::now() + OPEN_TIME);
            }
            return;
        }
        // One that was running already.
        let Some(record) = &mut self.record else { return };
        match (&mut record.opened, opened) {
            // It has talked to a guest since: who else may have its image is decided by what it said before.
            (Some(known), Some(now)) => known.capacity_sectors = now.capacity_sectors,
            (unknown @ None, found) => *unknown = found,
            (Some(_), None) => {}
        }
        let known = record.connect.as_ref().map(Connection::number);
        self.worker = match phase {
            // It was told to connect, and will say so when it has.
            Phase::Opened if connection.is_some() && connection == known => Worker::Connecting,
            Phase::Started | Phase::Opened => Worker::Opened,
            Phase::Disconnecting => Worker::Stopping,
            Phase::Connected | Phase::Frozen if connection == known => Worker::Serving,
            Phase::Connected | Phase::Frozen => {
                self.raise(format!("its worker serves connection {connection:?}, on record is {known:?}"));
                Worker::Serving
            }
        };
        self.kill_at = None;
        if phase == Phase::Frozen {
            self.raise("frozen".to_owned());
        }
        self.reclaim();
    }

    /// An adopted worker's image counts as in use, whatever the rules say now: it is.
    fn reclaim(&mut self) {
        self.place();
        let Some(record) = &self.record else { return };
        let Some(opened) = &record.opened else { return };
        let access = self.access();
        let vm_uuid = record.open.vm_uuid();
        let claim = self.host.sharing.borrow_mut().claim(&opened.identity, self.id, vm_uuid, access);
        if let Err(text) = claim {
            self.raise(format!("{} {text}", self.target_text()));
        }
    }

    fn target_open(&mut self, opened: Opened) {
        self.kill_at = None;
        let Some(record) = &mut self.record else { return };
        // A connection is to one image for its life; another one behind the same path would be corruption.
        if let (Some(before), Some(_)) = (&record.opened, &record.connect)
            && before.identity != opened.identity
        {
            let text = format!(
                "{} is {} now and was {} when the guest connected",
                record.open.disk().map(|open| open.target.display().to_string()).unwrap_or_default(),
                opened.identity,
                before.identity
            );
            self.refuse(text);
            return;
        }
        record.opened = Some(opened.clone());
        let vm_uuid = record.open.vm_uuid().to_owned();
        let access = self.access();
        let claim = self.host.sharing.borrow_mut().claim(&opened.identity, self.id, &vm_uuid, access);
        if let Err(text) = claim {
            self.refuse(format!("{} {text}", self.target_text()));
            return;
        }
        self.worker = Worker::Opened;
        self.place();
        self.keep_record();
        if self.may_log() {
            info!(device = %self.id, sectors = opened.capacity_sectors, identity = opened.identity, "target open");
        }
        self.answer_script(Ok(opened));
    }

    /// The worker is of no use with this target.
    fn refuse(&mut self, text: String) {
        if let Some(link) = self.link.take() {
            link.kill();
        }
        self.kill_at = None;
        if self.failed_to_move(&text) {
            return;
        }
        if self.script.is_some() {
            self.worker = Worker::Absent;
            self.discard_record();
            self.answer_script(Err(text));
        } else {
            self.worker = Worker::GaveUp;
            self.raise(text);
        }
    }

    fn failed(&mut self, fault: Fault, reason: &str) {
        match (self.worker, fault) {
            (Worker::Opening, _) if self.script.is_some() => self.refuse(reason.to_owned()),
            (Worker::Connecting | Worker::Serving, Fault::Frontend) => {
                self.violation = Some(printable(reason))
            }
            (Worker::Opening | Worker::Connecting, _) => {
                if let Some(link) = self.link.take() {
                    link.kill();
                }
                self.kill_at = None;
                self.alarm = Some(reason.to_owned());
                self.died(reason);
            }
            _ => warn!(device = %self.id, "the worker, {:?}, reports: {reason}", self.worker),
        }
    }

    fn keep_record(&self) {
        if let Err(trouble) = self.store_record() {
            warn!(device = %self.id, "{}: {trouble}", self.dir.display());
        }
    }
}
