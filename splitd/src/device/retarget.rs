//! A disk that moves to another target under its running guest. `splitctl` copies; this is what splitd has to do about it: have the
//! worker say where the guest writes, hold the guest for the last piece, and put the other target in the place of the old one.
//! Whatever fails or dies on the way leaves the old target whole and served. Knows nothing of how a target is copied.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};
use worker::message::{Opened, WRITTEN_SINCE};
use worker::written;

use super::{Answer, Device};
use crate::id::Kind;
use crate::offer::Pairs;
use crate::record::Opening;
use crate::sharing::Access;
use crate::step::Worker;

/// How long a guest is held for the last piece at most: whoever copies may have died.
pub(super) const HOLD_TIME: Duration = Duration::from_secs(10);

/// What whoever copies needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The target as it is.
    pub target: PathBuf,
    /// What it turned out to be.
    pub identity: String,
    /// Its size, in units of 512 bytes.
    pub capacity_sectors: u64,
    /// Where the worker counts writes; see [`worker::written`].
    pub written: PathBuf,
    /// A region's length there, as a power of two.
    pub region_shift: u32,
}

/// Another target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Where it is.
    pub target: PathBuf,
    /// What it is, as a worker would say.
    pub identity: String,
}

/// A target that was left for another which nobody has written to yet.
#[derive(Debug)]
pub(super) struct Left {
    target: PathBuf,
    opened: Option<Opened>,
}

impl Device {
    /// From now on the worker counts where the guest writes.
    pub(super) fn begin_retarget(&self, to: Option<&Destination>) -> Result<Source, String> {
        let id = self.id;
        if let Some(reason) = &self.not_ours {
            return Err(format!("{id}: not served by splitd: {reason}"));
        }
        if id.kind == Kind::Vif {
            return Err(format!("{id}: only disks have a target to leave"));
        }
        if self.is_paused() || self.restart.is_some() {
            return Err(format!("{id}: it is paused, or its worker is being replaced; try again"));
        }
        let (Some(Opening::Disk(open)), Some(opened), Worker::Serving) =
            (self.record.as_ref().map(|record| &record.open), self.opened(), self.worker)
        else {
            return Err(format!(
                "{id}: its worker is {:?}: only a disk that a guest has connected moves",
                self.worker
            ));
        };
        if self.worker_version < WRITTEN_SINCE {
            return Err(format!(
                "{id}: its worker is of an older version that does not count: splitctl restart {id}"
            ));
        }
        if let Some(to) = to {
            let vm_uuid = &open.vm_uuid;
            self.host
                .sharing
                .borrow()
                .check(&to.identity, id, vm_uuid, Access::Exclusive)
                .map_err(|text| format!("{} {text}", to.target.display()))?;
        }
        let path = self.dir.join(written::FILE);
        let region_shift = written::shift_for(opened.capacity_sectors.saturating_mul(512));
        count_from_now_on(&path, region_shift).map_err(|trouble| format!("{}: {trouble}", path.display()))?;
        Ok(Source {
            target: open.target.clone(),
            identity: opened.identity.clone(),
            capacity_sectors: opened.capacity_sectors,
            written: path,
            region_shift,
        })
    }

    /// The copy is complete and the guest is held: the other target takes the place of the old one.
    pub(super) async fn retarget(&mut self, to: Destination, answer: Answer<String>) {
        match self.exchange(to).await {
            // Answered when the successor serves.
            Ok(()) => self.restart_ended(answer),
            // Whoever asked may have gone.
            Err(text) => _ = answer.send(Err(text)),
        }
    }

    async fn exchange(&mut self, to: Destination) -> Result<(), String> {
        let id = self.id;
        if self.held_until().is_none() {
            return Err(format!(
                "{id}: not held any more: it has gone on with its old target, which is whole"
            ));
        }
        let Some(record) = &mut self.record else { return Err(format!("{id}: nothing is on record of it")) };
        let vm_uuid = record.open.vm_uuid().to_owned();
        self.host
            .sharing
            .borrow()
            .check(&to.identity, id, &vm_uuid, Access::Exclusive)
            .map_err(|text| format!("{} {text}", to.target.display()))?;
        let Opening::Disk(open) = &mut record.open else { return Err(format!("{id}: not a disk")) };
        let target = std::mem::replace(&mut open.target, to.target.clone());
        let left = Left { target, opened: record.opened.take() };
        if let Err(trouble) = self.store_record() {
            self.go_back(left);
            return Err(format!("{}: {trouble}", self.dir.display()));
        }
        info!(device = %id, from = %left.target.display(), to = %to.target.display(), "moved");
        self.left = Some(left);
        self.end_pause();
        self.tell_toolstack(&to.target, Some(&to.identity)).await;
        Ok(())
    }

    fn go_back(&mut self, left: Left) {
        if let Some(record) = &mut self.record
            && let Opening::Disk(open) = &mut record.open
        {
            open.target = left.target;
            record.opened = left.opened;
        }
    }

    /// A worker could not serve what it was told to. True if that was the other target, which nobody has written to: the old one is
    /// served again.
    pub(super) fn failed_to_move(&mut self, reason: &str) -> bool {
        let Some(left) = self.left.take() else { return false };
        let (refused, target) = (self.target_text(), left.target.clone());
        self.go_back(left);
        if let Err(trouble) = self.store_record() {
            warn!(device = %self.id, "{}: {trouble}", self.dir.display());
        }
        warn!(device = %self.id, "{refused}: {reason}; served from {} again", target.display());
        self.answer_restart(Err(format!(
            "{refused}: {reason}; {} is served from {} again",
            self.id,
            target.display()
        )));
        self.toolstack_stale = true;
        self.worker = Worker::Absent;
        true
    }

    /// The other target is served: there is no way back.
    pub(super) fn has_moved(&mut self) {
        self.left = None;
    }

    /// What is on record is what is served: the toolstack's node is to say so, too, for whoever connects next.
    pub(super) async fn tell_toolstack_again(&mut self) {
        if !std::mem::take(&mut self.toolstack_stale) {
            return;
        }
        let on_record =
            self.record.as_ref().and_then(|record| record.open.disk()).map(|open| open.target.clone());
        if let Some(target) = on_record {
            self.tell_toolstack(&target, None).await;
        }
    }

    /// A splitd that died in between has left the toolstack's node behind.
    pub(super) fn compare_target(&mut self) {
        let on_record = self.record.as_ref().and_then(|record| record.open.disk()).map(|open| &open.target);
        let told = self.toolstack.as_ref().and_then(|toolstack| toolstack.target.as_ref().ok());
        self.toolstack_stale = matches!((on_record, told), (Some(ours), Some(theirs)) if ours != theirs);
    }

    async fn tell_toolstack(&mut self, target: &Path, identity: Option<&str>) {
        if let Some(toolstack) = &mut self.toolstack {
            toolstack.target = Ok(target.to_owned());
        }
        // The format that the toolstack named of a vbd3 is raw, or it would not be served.
        let format = if self.id.kind == Kind::Vbd3 { "aio:" } else { "" };
        let mut nodes = Pairs::from([("params", format!("{format}{}", target.display()))]);
        // Scripts of other disks look there for who has a device already.
        nodes.extend(
            identity.and_then(crate::ctl::physical_device).map(|numbers| ("physical-device", numbers)),
        );
        let Some(look) = self.last.clone() else { return };
        let Some(state) = look.observed.backend.map(|backend| backend.state) else { return };
        let written = self.write(&look, &nodes, state).await;
        if written != Ok(true) {
            warn!(device = %self.id, "params is not written yet: {written:?}");
            self.toolstack_stale = true;
            self.look_at = Some(Instant::now() + super::RETRY);
        }
    }
}

fn count_from_now_on(path: &Path, region_shift: u32) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)?;
    file.write_all_at(&u64::from(region_shift).to_le_bytes(), 0)
}
