//! The one task that owns the connection: sends jobs, hands answers to whoever asked, notes watch events, and when the
//! connection is lost opens it again and sets all watches again. Knows nothing of paths or values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::sleep;

use super::changes::Changes;
use super::link::{self, Incoming, Outgoing, Rejected};
use super::wire::{Event, Kind, Message, Request, TooLong, parse_unsigned};
use super::{Address, Error};

/// First and longest pause between two attempts to reach a store that is away.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Whether the store is there. Connections are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is.
    Up {
        /// How many there have been.
        connection: u64,
    },
    /// It is not; it is being looked for.
    Away {
        /// The last one there was.
        connection: u64,
    },
}

/// What the client's handles and the driver share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) changes: Changes,
    pub(super) link: Mutex<Link>,
}

/// A request on its way to the store.
#[derive(Debug)]
pub(super) struct Job {
    /// Not in use by any other job.
    pub(super) req_id: u32,
    pub(super) kind: Kind,
    /// For errors.
    pub(super) path: String,
    /// The whole message.
    pub(super) message: BytesMut,
    /// For a request inside of a transaction: the connection that the transaction belongs to.
    pub(super) connection: Option<u64>,
    /// What it does to the table of watches.
    pub(super) watch: Option<WatchJob>,
    /// Who waits for the answer.
    pub(super) waiter: Option<Waiter>,
}

#[derive(Clone, Debug)]
pub(super) enum WatchJob {
    Add(Watch),
    Remove(Watch),
}

#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) path: String,
    pub(super) token: String,
}

/// Who waits for an answer; the permit bounds how many do.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) done: oneshot::Sender<Result<Answer, Error>>,
    pub(super) permit: OwnedSemaphorePermit,
}

/// A successful answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) payload: Bytes,
    /// The connection it came on.
    pub(super) connection: u64,
}

/// A request that was sent and not answered.
#[derive(Debug)]
struct Pending {
    kind: Kind,
    path: String,
    watch: Option<WatchJob>,
    waiter: Option<Waiter>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("nobody uses the client any more")]
    Unused,
    #[error(transparent)]
    Io(io::Error),
    #[error("not the protocol: {0}")]
    Protocol(String),
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<TooLong> for Lost {
    fn from(error: TooLong) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// Serves until nobody uses the client any more.
pub(super) async fn run(
    address: Address,
    (mut incoming, outgoing): (Incoming, Outgoing),
    mut jobs: UnboundedReceiver<Job>,
    shared: std::sync::Arc<Shared>,
) {
    let mut driver = Driver {
        changes: &shared.changes,
        outgoing,
        pending: HashMap::new(),
        watches: BTreeMap::new(),
        connection: 1,
        next_own: 0,
    };
    loop {
        let lost = driver.serve(incoming, &mut jobs).await;
        if matches!(lost, Lost::Unused) {
            return;
        }
        *shared.link.lock() = Link::Away { connection: driver.connection };
        driver.outgoing = Outgoing::Closed;
        driver.fail_pending(&lost);
        tracing::warn!(%address, reason = %lost, "connection to xenstore lost");
        let Some(ends) = driver.reconnect(&address, &mut jobs).await else { return };
        (incoming, driver.outgoing) = ends;
        driver.connection += 1;
        driver.restore_watches();
        *shared.link.lock() = Link::Up { connection: driver.connection };
        shared.changes.note_return(driver.watches.keys());
        tracing::warn!(%address, connection = driver.connection, "xenstore is back");
    }
}

struct Driver<'a> {
    changes: &'a Changes,
    outgoing: Outgoing,
    pending: HashMap<u32, Pending>,
    /// The paths watched under each token.
    watches: BTreeMap<String, BTreeSet<String>>,
    connection: u64,
    /// Numbers the driver's own requests.
    next_own: u32,
}

impl Driver<'_> {
    /// Serves one connection to its end.
    async fn serve(&mut self, mut incoming: Incoming, jobs: &mut UnboundedReceiver<Job>) -> Lost {
        let mut input = BytesMut::new();
        loop {
            let result = tokio::select! {
                received = incoming.receive(&mut input) => match received {
                    Ok(()) => self.take_messages(&mut input),
                    Err(error) => Err(error.into()),
                },
                progress = self.outgoing.progress(), if !self.outgoing.is_idle() => match progress {
                    Ok(rejected) => {
                        self.reject(rejected);
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                },
                job = jobs.recv() => match job {
                    Some(job) => {
                        self.start(job);
                        Ok(())
                    }
                    None => Err(Lost::Unused),
                },
            };
            if let Err(lost) = result {
                return lost;
            }
        }
    }

    /// Sends a job, unless it is decided without the store.
    fn start(&mut self, job: Job) {
        if job.connection.is_some_and(|connection| connection != self.connection) {
            return finish(job.waiter, Err(Error::Disconnected { path: job.path }));
        }
        if let Some(watch) = &job.watch
            && let Err(error) = self.record(watch)
        {
            return finish(job.waiter, Err(error));
        }
        self.outgoing.push(job.req_id, job.message);
        let Job { req_id, kind, path, watch, waiter, .. } = job;
        self.pending.insert(req_id, Pending { kind, path, watch, waiter });
    }

    /// Enters a watch into the table, or takes it out. The kernel's device would take a watch twice and fire it twice.
    fn record(&mut self, watch: &WatchJob) -> Result<(), Error> {
        match watch {
            WatchJob::Add(Watch { path, token }) => {
                if !self.watches.entry(token.clone()).or_default().insert(path.clone()) {
                    return Err(Error::Exists { path: path.clone() });
                }
            }
            WatchJob::Remove(watch) => {
                if !self.forget(watch) {
                    return Err(Error::NoEntry { path: watch.path.clone() });
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, Watch { path, token }: &Watch) -> bool {
        let Some(paths) = self.watches.get_mut(token) else { return false };
        let was_there = paths.remove(path);
        if paths.is_empty() {
            self.watches.remove(token);
            self.changes.forget(token);
        }
        was_there
    }

    fn take_messages(&mut self, input: &mut BytesMut) -> Result<(), Lost> {
        while let Some(message) = Message::decode_answer(input)? {
            if message.kind == Kind::WATCH_EVENT {
                self.take_event(&message)?;
            } else {
                self.take_answer(message)?;
            }
        }
        Ok(())
    }

    /// An event for a token that is watched no more was under way when the watch was given up.
    fn take_event(&self, message: &Message) -> Result<(), Lost> {
        let event = Event::parse(&message.payload)
            .ok_or_else(|| Lost::Protocol(format!("event {}", message.payload.escape_ascii())))?;
        if self.watches.contains_key(event.token) {
            self.changes.note(event.token, event.path);
        }
        Ok(())
    }

    fn take_answer(&mut self, message: Message) -> Result<(), Lost> {
        self.outgoing.answered(message.req_id);
        let Some(pending) = self.pending.remove(&message.req_id) else {
            return Err(Lost::Protocol(format!(
                "an answer to request {}, which is not open",
                message.req_id
            )));
        };
        let Pending { kind, path, watch, waiter } = pending;
        if message.kind == Kind::ERROR {
            self.fail(watch, waiter, Error::of_payload(&message.payload, kind, path));
        } else if message.kind == kind {
            let answer = Answer { payload: message.payload, connection: self.connection };
            self.succeed(kind, waiter, answer);
        } else {
            let reason = format!("kind {} in answer to kind {}", message.kind.0, kind.0);
            finish(waiter, Err(Error::Protocol { path, reason: reason.clone() }));
            return Err(Lost::Protocol(reason));
        }
        Ok(())
    }

    /// A transaction that nobody waits for any more is ended here: an open one would hold up a live update of the store.
    fn succeed(&mut self, kind: Kind, waiter: Option<Waiter>, answer: Answer) {
        let payload = answer.payload.clone();
        let Some(Waiter { done, permit }) = waiter else { return };
        drop(permit);
        if done.send(Ok(answer)).is_ok() || kind != Kind::TRANSACTION_START {
            return;
        }
        if let Some(tx_id) = parse_transaction_id(&payload) {
            self.send_own(&Request::TransactionEnd { commit: false }, tx_id, None);
        }
    }

    /// Ends a request that the store refused, with what it had already done to the table of watches.
    fn fail(&mut self, watch: Option<WatchJob>, waiter: Option<Waiter>, error: Error) {
        if let Some(WatchJob::Add(watch)) = &watch {
            if waiter.is_none() {
                tracing::error!(path = watch.path, token = watch.token, %error, "xenstore refuses a watch it had before");
            }
            self.forget(watch);
        }
        finish(waiter, Err(error));
    }

    fn reject(&mut self, rejected: Option<Rejected>) {
        let Some(Rejected { req_id, source }) = rejected else { return };
        if let Some(Pending { kind, path, watch, waiter }) = self.pending.remove(&req_id) {
            self.fail(watch, waiter, Error::of_write(source, kind, path));
        }
    }

    /// Sends a request that no caller waits for, under a number from the half that callers do not use.
    fn send_own(&mut self, request: &Request<'_>, tx_id: u32, watch: Option<WatchJob>) {
        let req_id = OWN_REQUESTS | self.next_own;
        self.next_own = self.next_own.wrapping_add(1);
        let mut message = BytesMut::new();
        if request.encode(req_id, tx_id, &mut message).is_ok() {
            self.outgoing.push(req_id, message);
            let path = request.path().unwrap_or_default().to_owned();
            self.pending.insert(req_id, Pending { kind: request.kind(), path, watch, waiter: None });
        }
    }

    /// Ends all that was sent on a connection that is gone. A watch that was being set stays in the table: it will be set again.
    fn fail_pending(&mut self, lost: &Lost) {
        for (_, Pending { path, watch, waiter, .. }) in self.pending.drain() {
            let result = match (watch, lost) {
                (Some(_), _) => Ok(Answer { payload: Bytes::new(), connection: self.connection }),
                (None, Lost::Protocol(reason)) => Err(Error::Protocol { path, reason: reason.clone() }),
                (None, _) => Err(Error::Disconnected { path }),
            };
            finish(waiter, result);
        }
    }

    /// Opens a new connection; meanwhile refuses jobs, except that watches are entered into the table or taken out of it.
    /// `None`: nobody uses the client any more.
    async fn reconnect(
        &mut self,
        address: &Address,
        jobs: &mut UnboundedReceiver<Job>,
    ) -> Option<(Incoming, Outgoing)> {
        let (mut pause, longest) = RECONNECT;
        loop {
            let attempt = async move {
                sleep(pause).await;
                link::open(address).await
            };
            tokio::pin!(attempt);
            let result = loop {
                tokio::select! {
                    result = &mut attempt => break result,
                    job = jobs.recv() => self.start_while_away(job?),
                }
            };
            match result {
                Ok(ends) => return Some(ends),
                Err(error) => tracing::debug!(%address, %error, "xenstore is still away"),
            }
            pause = longest.min(pause * 2);
        }
    }

    fn start_while_away(&mut self, job: Job) {
        let result = match &job.watch {
            Some(watch) => {
                self.record(watch).map(|()| Answer { payload: Bytes::new(), connection: self.connection })
            }
            None => Err(Error::Disconnected { path: job.path }),
        };
        finish(job.waiter, result);
    }

    /// Sets all watches again, ahead of any request: what is read from now on is watched.
    fn restore_watches(&mut self) {
        let watches: Vec<Watch> = self
            .watches
            .iter()
            .flat_map(|(token, paths)| {
                paths.iter().map(|path| Watch { path: path.clone(), token: token.clone() })
            })
            .collect();
        for watch in watches {
            let request = Request::Watch { path: &watch.path, token: &watch.token };
            self.send_own(&request, 0, Some(WatchJob::Add(watch.clone())));
        }
    }
}

/// Request numbers from here on are the driver's own; those below are the callers'.
pub(super) const OWN_REQUESTS: u32 = 1 << 31;

fn finish(waiter: Option<Waiter>, result: Result<Answer, Error>) {
    if let Some(Waiter { done, permit }) = waiter {
        drop(permit);
        // Whoever asked may have given up.
        let _ = done.send(result);
    }
}

/// The number in an answer to `TRANSACTION_START`.
pub(super) fn parse_transaction_id(payload: &[u8]) -> Option<u32> {
    let text = payload.strip_suffix(&[0]).unwrap_or(payload);
    str::from_utf8(text).ok().and_then(parse_unsigned).filter(|&tx_id| tx_id != 0)
}
