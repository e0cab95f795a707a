//! What `splitctl` is told about a device: a snapshot without pointers into anything live, and its JSON. Knows nothing of tables.

use serde::{Deserialize, Serialize};
use xenbus::{Vdev, XenbusState as State};

use crate::id::{DeviceId, Kind};
use crate::record::{Connection, Record};
use crate::step::Worker;

/// A device's task publishes this after every change.
#[derive(Clone, Debug)]
pub struct Report {
    pub(crate) id: DeviceId,
    pub(crate) state: Option<State>,
    pub(crate) frontend: Option<State>,
    pub(crate) online: bool,
    pub(crate) worker: Worker,
    pub(crate) pid: Option<u32>,
    pub(crate) record: Option<Record>,
    pub(crate) tap: Option<String>,
    pub(crate) domain_name: Option<String>,
    pub(crate) mac: Option<String>,
    pub(crate) alarm: Option<String>,
    pub(crate) not_ours: Option<String>,
    pub(crate) restarts: u64,
    pub(crate) paused: bool,
}

/// One device as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// `vbd/5/xvda`
    pub device: String,
    /// `vbd`, `vbd3` or `vif`
    pub kind: String,
    /// The guest.
    pub domid: u16,
    /// Its name.
    pub domain: Option<String>,
    /// `51712`
    pub devid: u32,
    /// `xvda`; of a network interface its number
    pub vdev: String,
    /// The domain that serves it.
    pub backend: u16,
    /// Our state.
    pub state: Option<u8>,
    /// The guest's.
    pub frontend_state: Option<u8>,
    /// The toolstack wants it to stay.
    pub online: bool,
    /// `absent`, `opening`, `opened`, `connecting`, `serving`, `stopping`, `gave-up`, `paused`
    pub worker: String,
    /// Its process.
    pub pid: Option<u32>,
    /// What it serves: a file, a device, a tap.
    pub target: Option<String>,
    /// `file:…` or `dev:…`
    pub identity: Option<String>,
    /// Of 512 bytes.
    pub sectors: Option<u64>,
    /// `r` or `w`
    pub mode: Option<String>,
    /// `copy` or `persistent`
    pub transfer: Option<String>,
    /// How many queues the guest connected.
    pub queues: usize,
    /// Of the first queue.
    pub event_channel: Option<u32>,
    /// Of the first queue's first page.
    pub ring_ref: Option<u32>,
    /// Of a network interface's first queue, to the guest.
    pub rx_ring_ref: Option<u32>,
    /// Of a network interface.
    pub mac: Option<String>,
    /// The backend directory.
    pub backend_path: String,
    /// Workers that took over from a dead one.
    pub restarts: u64,
    /// Our own trouble that somebody must look at.
    pub alarm: Option<String>,
    /// Why splitd does not serve it.
    pub not_served: Option<String>,
}

impl Report {
    /// For `splitctl`.
    #[must_use]
    pub fn row(&self) -> Row {
        let open = self.record.as_ref().and_then(|record| record.open.disk());
        let opened = self.record.as_ref().and_then(|record| record.opened.as_ref());
        let connection = self.record.as_ref().and_then(|record| record.connect.as_ref());
        let transfer = connection.and_then(Connection::disk).map(|c| format!("{:?}", c.mode).to_lowercase());
        let (queues, event_channel, ring_ref, rx_ring_ref) = match connection {
            None => (0, None, None, None),
            Some(Connection::Disk(c)) => {
                let first = c.queues.first();
                (
                    c.queues.len(),
                    first.map(|q| q.port),
                    first.and_then(|q| q.ring_refs.first().copied()),
                    None,
                )
            }
            Some(Connection::Vif(c)) => {
                let first = c.queues.first();
                (c.queues.len(), first.map(|q| q.tx_port), first.map(|q| q.tx_ref), first.map(|q| q.rx_ref))
            }
        };
        let vdev = match self.id.kind {
            Kind::Vif => self.id.devid.to_string(),
            Kind::Vbd | Kind::Vbd3 => Vdev(self.id.devid).to_string(),
        };
        Row {
            device: self.id.to_string(),
            kind: self.id.kind.backend_name().to_owned(),
            domid: self.id.frontend.0,
            domain: self.domain_name.clone(),
            devid: self.id.devid,
            vdev,
            backend: self.id.backend.0,
            state: self.state.map(State::number),
            frontend_state: self.frontend.map(State::number),
            online: self.online,
            worker: if self.paused { "paused" } else { worker_word(self.worker) }.to_owned(),
            pid: self.pid,
            target: open.map(|open| open.target.display().to_string()).or_else(|| self.tap.clone()),
            identity: opened.map(|opened| opened.identity.clone()),
            sectors: opened.map(|opened| opened.capacity_sectors),
            mode: open.map(|open| if open.read_only { "r" } else { "w" }.to_owned()),
            transfer,
            queues,
            event_channel,
            ring_ref,
            rx_ring_ref,
            mac: self.mac.clone(),
            backend_path: self.id.backend_dir(),
            restarts: self.restarts,
            alarm: self.alarm.clone(),
            not_served: self.not_ours.clone(),
        }
    }
}

fn worker_word(worker: Worker) -> &'static str {
    match worker {
        Worker::Absent => "absent",
        Worker::Opening => "opening",
        Worker::Opened => "opened",
        Worker::Connecting => "connecting",
        Worker::Serving => "serving",
        Worker::Stopping => "stopping",
        Worker::GaveUp => "gave-up",
    }
}
