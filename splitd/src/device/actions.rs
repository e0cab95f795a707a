//! What each action of `step` comes to: transactions on the backend directory, and words to the worker. A transaction that
//! does not find the state it was decided on changes nothing; the next look decides anew.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use worker::message::{Connect, ToWorker, TransferMode};
use xenbus::XenbusState as State;
use xenbus::store::{Error, Nodes};

use super::Device;
use crate::id::Kind;
use crate::nodes::Offer;
use crate::observe::{self, Look, Unusable};
use crate::offer::{self, Pairs};
use crate::record::Connection;
use crate::sharing::Access;
use crate::step::{Action, Worker};
use crate::together;

/// How long a worker without a frontend may take to end.
const STOP_IDLE: Duration = Duration::from_secs(5);

/// `EINVAL`: the number that an error node begins with, as the kernel writes it.
const EINVAL: u32 = 22;

impl Device {
    pub(super) async fn act(&mut self, action: Action, look: &Look) -> Result<(), String> {
        match action {
            Action::Wait | Action::Forget => Ok(()),
            Action::Introduce => self.introduce(look).await,
            Action::Launch => self.launch_by_itself().await,
            Action::Recover => self.recover().await,
            Action::Connect => self.connect(look).await,
            Action::Publish | Action::Resize => self.publish(look).await,
            Action::Adjust => self.adjust(),
            Action::Reconfigure => self.reconfigure(look).await,
            Action::FollowClosing => self.switch(look, State::Closing).await,
            Action::Stop => {
                self.stop();
                Ok(())
            }
            Action::Fail => self.fail(look).await,
            Action::Close => self.close(look).await,
            Action::Orphan => {
                self.worker = Worker::GaveUp;
                self.raise(
                    "its state is 4, but nothing is on record of the connection; detach it in the guest or with \
                     xl block-detach"
                        .to_owned(),
                );
                Ok(())
            }
        }
    }

    /// Writes `pairs` and then `state`, if `state` still is what was seen; false if not.
    pub(super) async fn write(&mut self, look: &Look, pairs: &Pairs, state: State) -> Result<bool, String> {
        let Some(seen) = look.observed.backend.map(|backend| backend.state) else { return Ok(false) };
        let dir = &self.id.backend_dir();
        let work = |tx: Nodes| async move {
            let tx = &tx;
            let write = |name: &str, value: String| {
                let path = format!("{dir}/{name}");
                async move { tx.write(&path, value.as_bytes()).await }
            };
            // All at once: a state that is another by now drops the transaction, and the writes with it.
            let mut writes: Vec<_> = pairs.iter().map(|(name, value)| write(name, value.clone())).collect();
            writes.push(write("state", state.to_value()));
            let path = format!("{dir}/state");
            // The look at the state goes first, or it would see our own.
            let (now, written) = tokio::join!(biased; observe::node(tx, &path), together::all(writes));
            if now?.as_deref().map(State::parse) != Some(seen) {
                return Err(Dropped::Stale);
            }
            Ok(written.into_iter().collect::<Result<(), Error>>()?)
        };
        let written = match self.host.store.transaction(work).await {
            Ok(()) => true,
            Err(Dropped::Stale) => false,
            Err(Dropped::Store(trouble)) => return Err(trouble.to_string()),
        };
        if written && state != seen && self.may_log() {
            info!(device = %self.id, "state {seen} -> {state}");
        }
        Ok(written)
    }

    async fn switch(&mut self, look: &Look, state: State) -> Result<(), String> {
        self.write(look, &Pairs::new(), state).await.map(|_| ())
    }

    /// Nothing of an earlier connection counts any more.
    fn start_over(&mut self) {
        self.discard_record();
        self.end_pause();
        self.violation = None;
        self.alarm = None;
        self.worker = Worker::Absent;
        self.retry_at = None;
        self.host.sharing.borrow_mut().release(self.id);
        if let Some(tap) = &self.tap {
            tap.set_carrier_off();
        }
    }

    async fn introduce(&mut self, look: &Look) -> Result<(), String> {
        let toolstack =
            observe::toolstack(&self.host.store, self.id).await.map_err(|trouble| trouble.to_string())?;
        let pairs = match self.id.kind {
            Kind::Vif => {
                // The script that follows looks for the tap.
                self.open_tap()?;
                offer::vif(&self.host.config, self.toolstack.as_ref())
            }
            Kind::Vbd | Kind::Vbd3 => offer::before_target(&self.host.config, &toolstack),
        };
        self.toolstack = Some(toolstack);
        if self.write(look, &pairs, State::InitWait).await? {
            self.start_over();
        }
        Ok(())
    }

    async fn connect(&mut self, look: &Look) -> Result<(), String> {
        let Some(record) = &self.record else { return Err("connects without a record".to_owned()) };
        if let Some(connect) = record.connect.clone() {
            self.say_connect(&connect);
            return Ok(());
        }
        let access = self.access();
        if let Some(opened) = &record.opened {
            let vm_uuid = record.open.vm_uuid();
            let claim = self.host.sharing.borrow_mut().claim(&opened.identity, self.id, vm_uuid, access);
            if let Err(text) = claim {
                self.raise(format!("{} {text}", self.target_text()));
                self.worker = Worker::GaveUp;
                if let Some(link) = self.link.take() {
                    link.say(ToWorker::Disconnect);
                }
                return Ok(());
            }
        }
        let Some(dir) = look.frontend_path.as_deref() else { return Ok(()) };
        if self.id.kind == Kind::Vif {
            return self.connect_vif(look, dir).await;
        }
        let config = &self.host.config;
        let offer = Offer { max_queues: config.max_queues, max_ring_order: config.max_ring_page_order };
        let (choices, queues) = match observe::frontend(&self.host.store, dir, offer).await {
            Ok(found) => found,
            Err(Unusable::Bad(node)) => {
                self.violation = Some(node.to_string());
                return Ok(());
            }
            Err(Unusable::Store(trouble)) => return Err(trouble.to_string()),
        };
        let persistent = config.persistent && choices.persistent;
        let connect = Connect {
            connection: random().map_err(|trouble| trouble.to_string())?,
            barrier: queues.len() == 1,
            queues,
            abi: choices.abi,
            predecessor_crashed: false,
            mode: if persistent { TransferMode::Persistent } else { TransferMode::Copy },
            fence_timeout_ms: config.fence_timeout_ms,
        };
        self.begin_connection(Connection::Disk(connect))
    }

    pub(super) fn begin_connection(&mut self, connection: Connection) -> Result<(), String> {
        if let Some(record) = &mut self.record {
            record.connect = Some(connection.clone());
        }
        // On record before the worker hears of it: from then on its successor must know the connection.
        self.store_record().map_err(|trouble| trouble.to_string())?;
        self.say_connect(&connection);
        Ok(())
    }

    fn say_connect(&mut self, connection: &Connection) {
        if let Some(link) = &self.link {
            let mut message = connection.message();
            if let ToWorker::Connect(connect) = &mut message {
                connect.predecessor_crashed = self.predecessor_crashed;
            }
            link.say(message);
            self.worker = Worker::Connecting;
        }
    }

    async fn publish(&mut self, look: &Look) -> Result<(), String> {
        if self.id.kind == Kind::Vif {
            return self.write(look, &Pairs::new(), State::Connected).await.map(|_| ());
        }
        let connection = self.record.as_ref().and_then(|r| r.connect.as_ref());
        let barrier = connection.and_then(Connection::disk).is_some_and(|c| c.barrier);
        let (Some(toolstack), Some(opened)) = (&self.toolstack, self.opened()) else {
            return Err("connected without knowing its target".to_owned());
        };
        let pairs = if look.observed.backend.is_some_and(|b| b.state == State::Connected) {
            info!(device = %self.id, "resized to {} sectors", opened.capacity_sectors);
            vec![("sectors", opened.capacity_sectors.to_string())]
        } else {
            offer::with_target(&self.host.config, toolstack, opened, barrier)
        };
        self.write(look, &pairs, State::Connected).await.map(|_| ())
    }

    fn stop(&mut self) {
        let Some(link) = &self.link else {
            self.worker = Worker::Absent;
            return;
        };
        let was = std::mem::replace(&mut self.worker, Worker::Stopping);
        self.kill_at = match was {
            Worker::Opening => {
                // It hangs in its storage's open or will be ready in a moment; in neither case is there anything to finish.
                link.kill();
                None
            }
            Worker::Opened | Worker::Connecting => {
                link.say(ToWorker::Disconnect);
                Some(Instant::now() + STOP_IDLE)
            }
            _ => {
                link.say(ToWorker::Disconnect);
                None
            }
        };
        self.answer_script(Err(format!("{}: detached while it was opened", self.target_text())));
        self.answer_restart(Err(format!("{}: detached meanwhile", self.id)));
    }

    /// The frontend's fault, where the kernel's backends leave theirs; then Closing.
    async fn fail(&mut self, look: &Look) -> Result<(), String> {
        let reason = self.violation.clone().unwrap_or_default();
        if self.may_log() {
            warn!(device = %self.id, "the frontend broke the protocol: {reason}");
        }
        let path = self.id.error_node();
        let text = format!("{EINVAL} {reason}");
        self.host.store.write(&path, text.as_bytes()).await.map_err(|trouble| trouble.to_string())?;
        self.error_written = true;
        self.switch(look, State::Closing).await
    }

    pub(super) async fn remove_error_node(&mut self) {
        let path = self.id.error_node();
        let dir = path.trim_end_matches("/error");
        match self.host.store.remove(dir).await {
            Err(trouble) if !trouble.is_no_entry() => warn!(device = %self.id, "{trouble}"),
            _ => self.error_written = false,
        }
        // The guest's directory of errors, once it was the last.
        if let Some((guest, _)) = dir.rsplit_once('/')
            && self.host.store.directory(guest).await.is_ok_and(|devices| devices.is_empty())
        {
            // Gone already is as good.
            let _ = self.host.store.remove(guest).await;
        }
    }

    async fn close(&mut self, look: &Look) -> Result<(), String> {
        if self.write(look, &Pairs::new(), State::Closed).await? {
            self.start_over();
        }
        Ok(())
    }

    pub(super) fn access(&self) -> Access {
        self.toolstack.as_ref().map_or(Access::ReadOnly, |toolstack| toolstack.access)
    }
}

/// Why a transaction came to nothing.
enum Dropped {
    /// The state is not the one that it was decided on.
    Stale,
    Store(Error),
}

impl From<Error> for Dropped {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// A number that no earlier connection had.
pub(super) fn random() -> std::io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
