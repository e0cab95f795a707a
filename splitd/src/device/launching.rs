//! From a device's words in xenstore to a running worker with its target open.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use worker::message::{Open, Opened, QosFiles};
use xenbus::Vdev;

use super::{Answer, Device};
use crate::id::Kind;
use crate::limits::Disk;
use crate::observe::{self, Toolstack};
use crate::process::{self, Handle};
use crate::record::{Opening, Record};
use crate::sharing::Access;
use crate::step::Worker;
use crate::worker_link::WorkerLink;

/// Longest wait for a worker to have its target open. libxl kills a script after 40 s; it must hear of this before.
pub(super) const OPEN_TIME: Duration = Duration::from_secs(25);

impl Device {
    /// The hotplug script asks: it waits, and hears the outcome in words for `xl`.
    pub(super) async fn hotplug_add(&mut self, answer: Answer<Opened>) {
        if let Some(reason) = &self.not_ours {
            let text = format!("{}: not served by splitd: {reason}; see splitctl doctor", self.id);
            let _ = answer.send(Err(text));
            return;
        }
        match (self.worker, self.opened().cloned()) {
            (Worker::Absent | Worker::GaveUp, _) => {
                self.script = Some(answer);
                if let Err(text) = self.launch().await {
                    self.answer_script(Err(text));
                }
            }
            (Worker::Opening, _) => self.script = Some(answer),
            (_, Some(opened)) => {
                let _ = answer.send(Ok(opened));
            }
            (_, None) => {
                let _ = answer.send(Err(format!("{}: its worker is {:?}; try again", self.id, self.worker)));
            }
        }
    }

    /// A stock script is done, or the frontend came back: nobody waits for the outcome.
    pub(super) async fn launch_by_itself(&mut self) -> Result<(), String> {
        if let Err(text) = self.launch().await {
            self.worker = Worker::GaveUp;
            self.raise(text);
        }
        Ok(())
    }

    async fn launch(&mut self) -> Result<(), String> {
        let toolstack =
            observe::toolstack(&self.host.store, self.id).await.map_err(|trouble| trouble.to_string())?;
        let open = match self.id.kind {
            Kind::Vif => Opening::Vif(self.open_vif(&toolstack)?),
            Kind::Vbd | Kind::Vbd3 => Opening::Disk(self.open(&toolstack)?),
        };
        self.toolstack = Some(toolstack);
        self.record = Some(Record::new(open));
        self.start_worker().await
    }

    /// The successor of a dead worker is told what that one was told.
    pub(super) async fn recover(&mut self) -> Result<(), String> {
        self.restarts += 1;
        if let Err(text) = self.start_worker().await {
            self.died(&text);
        }
        Ok(())
    }

    fn open(&self, toolstack: &Toolstack) -> Result<Open, String> {
        let config = &self.host.config;
        Ok(Open {
            frontend: self.id.frontend.0,
            devid: self.id.devid,
            vm_uuid: toolstack.vm_uuid.clone(),
            target: toolstack.target.clone()?,
            read_only: toolstack.access == Access::ReadOnly,
            discard: toolstack.discard,
            max_queues: config.max_queues.get(),
            max_ring_order: config.max_ring_page_order,
            max_indirect_segments: config.max_indirect_segments,
            buffer_len_bytes: config.buffer_bytes,
            busy_poll_us: config.busy_poll_us,
            run_dir: self.dir.clone(),
            uid: self.uid(),
            qos: Some(self.limit(toolstack)?),
        })
    }

    /// Has the disk's limits written out.
    pub(super) fn limit(&self, toolstack: &Toolstack) -> Result<QosFiles, String> {
        self.make_dir()?;
        let disk = Disk {
            name: toolstack.domain_name.clone(),
            uuid: toolstack.vm_uuid.clone(),
            vdev: Vdev(self.id.devid).to_string(),
            dir: self.dir.clone(),
            place: None,
        };
        self.host.limits.enter(self.id, disk)
    }

    /// Its target is open: what lies beneath is shared with others.
    pub(super) fn place(&mut self) {
        let Some(identity) = self.opened().map(|opened| opened.identity.clone()) else { return };
        if let Err(trouble) = self.host.limits.place(self.id, self.host.sys.place(&identity)) {
            self.raise(trouble);
        }
    }

    /// Whose user the worker is to be.
    pub(super) fn uid(&self) -> Option<u32> {
        let base = self.host.config.worker_uid_base;
        let own_user = base == 0 || self.host.host != "xen" || !process::is_root();
        (!own_user).then(|| base + u32::from(self.id.frontend.0))
    }

    async fn start_worker(&mut self) -> Result<(), String> {
        self.make_dir()?;
        let socket = self.dir.join("control.sock");
        let of_socket = |trouble| format!("{}: {trouble}", socket.display());
        match fs::remove_file(&socket) {
            Err(trouble) if trouble.kind() != std::io::ErrorKind::NotFound => return Err(of_socket(trouble)),
            _ => {}
        }
        let listener = UnixListener::bind(&socket).map_err(of_socket)?;
        let (program, taps) = match self.id.kind {
            Kind::Vif => (self.host.netback.clone(), self.tap_queues()?),
            Kind::Vbd | Kind::Vbd3 => (self.host.blkback.clone(), Vec::new()),
        };
        let handle = Handle::spawn(&program, &self.host.host, &listener, &taps)
            .map_err(|trouble| format!("{} cannot be started: {trouble}", program.display()))?;
        if let Some(record) = &mut self.record {
            record.process = Some(handle.process);
        }
        self.generation += 1;
        let pid = handle.process.pid;
        if self.may_log() {
            info!(device = %self.id, pid, "worker started");
        }
        let link = WorkerLink::start(handle, &socket, self.generation, self.news.clone())
            .await
            .map_err(of_socket)?;
        self.link = Some(link);
        self.worker = Worker::Opening;
        self.kill_at = Some(Instant::now() + OPEN_TIME);
        self.store_record().map_err(|trouble| format!("{}: {trouble}", self.dir.display()))
    }

    pub(super) fn make_dir(&self) -> Result<(), String> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|trouble| format!("{}: {trouble}", self.dir.display()))
    }

    pub(super) fn store_record(&self) -> std::io::Result<()> {
        match &self.record {
            Some(record) => record.store(&self.dir),
            None => Ok(()),
        }
    }

    pub(super) fn discard_record(&mut self) {
        self.record = None;
        if let Err(trouble) = Record::remove(&self.dir) {
            warn!(device = %self.id, "{}: {trouble}", self.dir.display());
        }
    }
}
