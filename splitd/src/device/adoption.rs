//! Finding again what an earlier splitd left: a running worker, or the record of one that died with it.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{info, warn};
use worker::message::ToWorker;

use super::Device;
use crate::observe;
use crate::process::Handle;
use crate::record::{Opening, Record};
use crate::step::Worker;
use crate::worker_link::{News, WorkerLink};

/// How long a running worker's greeting is waited for before its device goes on without it.
const GREETING: Duration = Duration::from_secs(3);

impl Device {
    /// Before the first look: what `step` is told about a worker must be true from the start.
    pub(super) async fn adopt(&mut self, heard: &mut mpsc::Receiver<(u64, News)>) {
        let record = match Record::load(&self.dir) {
            Ok(Some(record)) => record,
            Ok(None) => {
                self.dismiss().await;
                return;
            }
            Err(trouble) => {
                self.raise(format!("what was on record of its worker cannot be read: {trouble}"));
                return;
            }
        };
        let toolstack = observe::toolstack(&self.host.store, self.id).await;
        let same_guest = match &toolstack {
            Ok(toolstack) => toolstack.vm_uuid == record.open.vm_uuid(),
            Err(trouble) => {
                warn!(device = %self.id, "{trouble}");
                true
            }
        };
        self.toolstack = toolstack.ok();
        self.adopt_tap();
        self.adopt_limits(&record);
        let process = record.process;
        let link = match process.map(Handle::adopt) {
            Some(Ok(Some(handle))) => {
                self.generation += 1;
                let socket = self.dir.join("control.sock");
                WorkerLink::start(handle, &socket, self.generation, self.news.clone()).await
            }
            Some(Ok(None)) | None => Err(std::io::ErrorKind::NotFound.into()),
            Some(Err(trouble)) => Err(trouble),
        };
        match link {
            Ok(link) if same_guest => {
                info!(device = %self.id, pid = link.pid(), "worker adopted");
                self.worker = if record.connect.is_some() { Worker::Serving } else { Worker::Opening };
                self.record = Some(record);
                self.compare_target();
                self.link = Some(link);
                self.await_greeting(heard).await;
            }
            Ok(link) => {
                warn!(device = %self.id, pid = link.pid(), "its worker served another guest of that number; ended");
                link.say(ToWorker::Disconnect);
                self.worker = Worker::Stopping;
                self.link = Some(link);
                self.discard_record();
            }
            Err(trouble) => {
                self.dismiss().await;
                if record.connect.is_some() && same_guest {
                    info!(device = %self.id, "worker gone ({trouble}), its connection is on record");
                    self.record = Some(record);
                    self.compare_target();
                    self.adopt_pause();
                } else {
                    self.discard_record();
                }
            }
        }
    }

    /// The policy may be another than when the worker was started.
    fn adopt_limits(&mut self, record: &Record) {
        let Some(toolstack) = self.toolstack.clone() else { return };
        let is_other = match &record.open {
            Opening::Vif(open) => open.accounts != Some(self.limit_vif(&toolstack)),
            Opening::Disk(open) => match self.limit(&toolstack) {
                Ok(files) => open.qos != Some(files),
                Err(trouble) => return self.raise(trouble),
            },
        };
        if is_other {
            warn!(device = %self.id, "started under another version or for another customer; splitctl restart has it limited anew");
        }
    }

    /// A worker that was started in the very moment that its splitd died is on no record, and waits for a word.
    async fn dismiss(&self) {
        let Ok(mut stream) = UnixStream::connect(self.dir.join("control.sock")).await else { return };
        warn!(device = %self.id, "a worker without a record; ended");
        if let Ok(mut line) = serde_json::to_vec(&ToWorker::Disconnect) {
            line.push(b'\n');
            // If it does not hear this, it is gone.
            let _ = stream.write_all(&line).await;
        }
    }

    async fn await_greeting(&mut self, heard: &mut mpsc::Receiver<(u64, News)>) {
        match timeout(GREETING, heard.recv()).await {
            Ok(Some((generation, news))) => self.hear(generation, news).await,
            Ok(None) => {}
            Err(_) => self.raise("its worker runs, but does not answer".to_owned()),
        }
    }
}
