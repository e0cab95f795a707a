//! The client's handles: requests on nodes, transactions, watches. Knows nothing of sockets; see [`super::driver`].

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, oneshot};

use super::changes::{Changed, Changes};
use super::driver::{self, Answer, Job, Link, OWN_REQUESTS, Shared, Waiter, Watch, WatchJob};
use super::wire::{self, DirectoryPart, Errno, HEADER_LEN, Permission, Request};
use super::{Address, Error, link};
use crate::DomId;

/// Most requests sent and not answered. A store serves an unprivileged domain (a driver domain) at most 20 at a time.
const REQUESTS_MAX: usize = 16;
/// Most transactions open at a time; an unprivileged domain may have 10.
const TRANSACTIONS_MAX: usize = 8;
/// How often a transaction is tried, and a listing that changes while it is read.
const ATTEMPTS_MAX: u32 = 20;
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Most names in a listing.
const NAMES_MAX: usize = 1 << 16;

/// A client of the store; clones share one connection. Needs a tokio runtime with I/O and time.
#[derive(Clone, Debug)]
pub struct Store {
    nodes: Nodes,
}

impl Deref for Store {
    type Target = Nodes;

    fn deref(&self) -> &Nodes {
        &self.nodes
    }
}

/// The store's nodes, as one sees them from outside of a transaction or from inside of one.
#[derive(Clone, Debug)]
pub struct Nodes {
    client: Arc<Client>,
    transaction: Option<Open>,
}

/// An open transaction's number, which means something on its connection alone.
#[derive(Clone, Copy, Debug)]
struct Open {
    tx_id: u32,
    connection: u64,
}

#[derive(Debug)]
struct Client {
    jobs: UnboundedSender<Job>,
    shared: Arc<Shared>,
    payload_max: usize,
    next_req_id: AtomicU32,
    requests: Arc<Semaphore>,
    transactions: Semaphore,
}

impl Store {
    /// Connects. Later losses of the connection are made good in the background.
    pub async fn connect(address: &Address) -> Result<Self, Error> {
        let ends = link::open(address)
            .await
            .map_err(|source| Error::Connect { address: address.clone(), source })?;
        let (jobs, queue) = unbounded_channel();
        let shared =
            Arc::new(Shared { changes: Changes::default(), link: Mutex::new(Link::Up { connection: 1 }) });
        tokio::spawn(driver::run(address.clone(), ends, queue, Arc::clone(&shared)));
        let client = Arc::new(Client {
            jobs,
            shared,
            payload_max: address.payload_max(),
            next_req_id: AtomicU32::new(1),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            transactions: Semaphore::new(TRANSACTIONS_MAX),
        });
        Ok(Self { nodes: Nodes { client, transaction: None } })
    }

    /// Whether the store is there now. [`Store::changed`] tells of a return, too.
    #[must_use]
    pub fn link(&self) -> Link {
        *self.client.shared.link.lock()
    }

    /// Whether the store knows a domain.
    pub async fn is_introduced(&self, domain: DomId) -> Result<bool, Error> {
        let answer = self.call(&Request::IsIntroduced { domain }).await?;
        Ok(answer.payload.first() == Some(&b'T'))
    }

    /// Asks to hear of changes at and below `path` by [`Store::changed`]; the first news comes at once. Several paths may share
    /// a token. While the store is away the watch is noted, and set when it is back.
    pub async fn watch(&self, path: &str, token: &str) -> Result<(), Error> {
        let watch = WatchJob::Add(check_watch(path, token)?);
        self.send(&Request::Watch { path, token }, Some(watch)).await?;
        Ok(())
    }

    /// Takes a watch back, and what it had brought for its token if it was the last of it.
    pub async fn unwatch(&self, path: &str, token: &str) -> Result<(), Error> {
        let watch = WatchJob::Remove(check_watch(path, token)?);
        self.send(&Request::Unwatch { path, token }, Some(watch)).await?;
        Ok(())
    }

    /// Waits for changes and takes all there are, one entry per token: for one caller at a time. No change is lost, also if the
    /// wait is given up; how many there were, and in which order, is not told.
    pub async fn changed(&self) -> Vec<Changed> {
        self.client.shared.changes.take().await
    }

    /// Runs `work` in a transaction: all of it becomes visible at once, or nothing. It is run again, from the start, when others
    /// changed what it read or wrote; then [`Error::Again`]. An `Err` of `work` drops the transaction. Keep it short and do
    /// nothing slow inside of it: an open transaction delays a live update of the store.
    ///
    /// ```no_run
    /// # async fn set(store: xenbus::store::Store, path: String) -> Result<(), xenbus::store::Error> {
    /// store.transaction(async |nodes| nodes.write(&path, b"4").await).await
    /// # }
    /// ```
    pub async fn transaction<T, E, F>(&self, work: impl Fn(Nodes) -> F) -> Result<T, E>
    where
        E: From<Error>,
        F: Future<Output = Result<T, E>>,
    {
        let Ok(_permit) = self.client.transactions.acquire().await else {
            return Err(Error::Disconnected { path: "transaction".into() }.into());
        };
        for attempt in 0..ATTEMPTS_MAX {
            if let Some(pause) = pause_before(attempt) {
                tokio::time::sleep(pause).await;
            }
            let transaction = Transaction::start(self).await?;
            let result = work(transaction.nodes.clone()).await?;
            match transaction.commit().await {
                Ok(()) => return Ok(result),
                Err(Error::Again { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Again { path: "the nodes of a transaction".into(), attempts: ATTEMPTS_MAX }.into())
    }
}

/// The pause before an attempt, counted from 0: none, 1 ms, and then twice as long each time.
fn pause_before(attempt: u32) -> Option<Duration> {
    let doublings = attempt.checked_sub(1)?;
    Some(PAUSE_MAX.min(Duration::from_millis(1_u64 << doublings.min(16))))
}

fn check_watch(path: &str, token: &str) -> Result<Watch, Error> {
    if !wire::is_watch_path(path) {
        let reason = "not a path that xenstore can watch: letters, digits and -/_@, at most 3072 bytes";
        return Err(Error::Invalid { path: path.to_owned(), reason });
    }
    if token.contains('\0') {
        let reason = "a watch token may not hold a NUL byte";
        return Err(Error::Invalid { path: token.to_owned(), reason });
    }
    Ok(Watch { path: path.to_owned(), token: token.to_owned() })
}

/// An open transaction, dropped unless it is committed.
#[derive(Debug)]
struct Transaction {
    nodes: Nodes,
    open: Open,
    is_ended: bool,
}

impl Transaction {
    async fn start(store: &Store) -> Result<Self, Error> {
        let answer = store.call(&Request::TransactionStart).await?;
        let Some(tx_id) = driver::parse_transaction_id(&answer.payload) else {
            return Err(bad_answer("transaction", &answer.payload));
        };
        let open = Open { tx_id, connection: answer.connection };
        let nodes = Nodes { client: Arc::clone(&store.client), transaction: Some(open) };
        Ok(Self { nodes, open, is_ended: false })
    }

    async fn commit(mut self) -> Result<(), Error> {
        let result = self.nodes.call(&Request::TransactionEnd { commit: true }).await;
        self.is_ended = true;
        result.map(|_| ())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.is_ended {
            self.nodes.client.abort(self.open);
        }
    }
}

impl Client {
    fn req_id(&self) -> u32 {
        self.next_req_id.fetch_add(1, Ordering::Relaxed) % OWN_REQUESTS
    }

    /// Ends a transaction without waiting for it. Harmless if it has ended already.
    fn abort(&self, open: Open) {
        let request = Request::TransactionEnd { commit: false };
        let req_id = self.req_id();
        let mut message = BytesMut::new();
        if request.encode(req_id, open.tx_id, &mut message).is_ok() {
            let connection = Some(open.connection);
            let (kind, path) = (request.kind(), "transaction".to_owned());
            let job = Job { req_id, kind, path, message, connection, watch: None, waiter: None };
            // Fails if the driver is gone, and the transaction with it.
            let _ = self.jobs.send(job);
        }
    }
}

impl Nodes {
    /// The value of a node.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        Ok(self.call(&Request::Read { path }).await?.payload.to_vec())
    }

    /// The value of a node that holds UTF-8.
    pub async fn read_text(&self, path: &str) -> Result<String, Error> {
        let value = self.read(path).await?;
        String::from_utf8(value)
            .map_err(|_| Error::Invalid { path: path.to_owned(), reason: "its value is not UTF-8" })
    }

    /// As [`Nodes::read_text`]; `None` if there is no such node.
    pub async fn find_text(&self, path: &str) -> Result<Option<String>, Error> {
        match self.read_text(path).await {
            Ok(text) => Ok(Some(text)),
            Err(Error::NoEntry { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a value. Makes the node and its parents if they are missing: also those that somebody just removed, so write below
    /// a directory of others only in a transaction that has seen it.
    pub async fn write(&self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.call(&Request::Write { path, value }).await.map(|_| ())
    }

    /// Makes an empty node and its parents, if they are missing.
    pub async fn mkdir(&self, path: &str) -> Result<(), Error> {
        self.call(&Request::Mkdir { path }).await.map(|_| ())
    }

    /// Removes a node and all below it. What is not there may be reported as removed, or as [`Error::NoEntry`].
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.call(&Request::Remove { path }).await.map(|_| ())
    }

    /// The names of a node's children, however many.
    pub async fn directory(&self, path: &str) -> Result<Vec<String>, Error> {
        match self.call(&Request::Directory { path }).await {
            Ok(answer) => wire::parse_directory(&answer.payload)
                .map(|names| names.into_iter().map(str::to_owned).collect())
                .ok_or_else(|| bad_answer(path, &answer.payload)),
            Err(Error::Quota { errno: Errno::TooBig, .. }) => self.long_directory(path).await,
            Err(error) => Err(error),
        }
    }

    /// A node's permissions.
    pub async fn permissions(&self, path: &str) -> Result<Vec<Permission>, Error> {
        let answer = self.call(&Request::Permissions { path }).await?;
        wire::parse_permissions(&answer.payload).ok_or_else(|| bad_answer(path, &answer.payload))
    }

    /// Sets a node's permissions; the first names its owner.
    pub async fn set_permissions(&self, path: &str, permissions: &[Permission]) -> Result<(), Error> {
        let permissions = permissions.to_vec();
        self.call(&Request::SetPermissions { path, permissions }).await.map(|_| ())
    }

    /// Reads a list that is longer than a message, part by part, from the start again whenever it changed meanwhile.
    async fn long_directory(&self, path: &str) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        let mut generation = String::new();
        let (mut offset_bytes, mut restarts) = (0, 0);
        loop {
            let answer = self.call(&Request::DirectoryPart { path, offset_bytes }).await.map_err(no_parts)?;
            let part = DirectoryPart::parse(&answer.payload)
                .filter(|part| part.is_last || part.len_bytes > 0)
                .ok_or_else(|| bad_answer(path, &answer.payload))?;
            if offset_bytes > 0 && part.generation != generation {
                restarts += 1;
                if restarts == ATTEMPTS_MAX {
                    return Err(Error::Again { path: path.to_owned(), attempts: restarts });
                }
                names.clear();
                offset_bytes = 0;
                continue;
            }
            part.generation.clone_into(&mut generation);
            names.extend(part.names.iter().map(|&name| name.to_owned()));
            if part.is_last {
                return Ok(names);
            }
            if names.len() > NAMES_MAX {
                return Err(Error::TooBig { path: path.to_owned(), len: names.len(), allowed: NAMES_MAX });
            }
            offset_bytes += part.len_bytes;
        }
    }

    /// Sends a request about nodes and waits for its answer.
    async fn call(&self, request: &Request<'_>) -> Result<Answer, Error> {
        if let Some(path) = request.path()
            && !wire::is_path(path)
        {
            let reason = "not a xenstore path: letters, digits and -/_@, no empty part, no / at the end, \
                          at most 3072 bytes (2048 if relative)";
            return Err(Error::Invalid { path: path.to_owned(), reason });
        }
        self.send(request, None).await
    }

    async fn send(&self, request: &Request<'_>, watch: Option<WatchJob>) -> Result<Answer, Error> {
        let path = || request.path().unwrap_or("transaction").to_owned();
        let req_id = self.client.req_id();
        let allowed = self.client.payload_max;
        let mut message = BytesMut::new();
        let encoded = request.encode(req_id, self.transaction.map_or(0, |open| open.tx_id), &mut message);
        let len = encoded.map_or_else(|too_long| too_long.len, |()| message.len() - HEADER_LEN);
        if len > allowed {
            return Err(Error::TooBig { path: path(), len, allowed });
        }
        let Ok(permit) = Arc::clone(&self.client.requests).acquire_owned().await else {
            return Err(Error::Disconnected { path: path() });
        };
        let (done, answer) = oneshot::channel();
        let job = Job {
            req_id,
            kind: request.kind(),
            path: path(),
            message,
            connection: self.transaction.map(|open| open.connection),
            watch,
            waiter: Some(Waiter { done, permit }),
        };
        if self.client.jobs.send(job).is_err() {
            return Err(Error::Disconnected { path: path() });
        }
        answer.await.unwrap_or_else(|_| Err(Error::Disconnected { path: path() }))
    }
}

/// oxenstored does not know the request; only over the kernel's device does it come to that.
fn no_parts(error: Error) -> Error {
    match error {
        Error::Refused { path, errno: Errno::NotImplemented } => {
            let reason =
                "its children are more than one xenstore message holds, and this store sends no parts";
            Error::Invalid { path, reason }
        }
        other => other,
    }
}

fn bad_answer(path: &str, payload: &Bytes) -> Error {
    let shown = payload.get(..64).unwrap_or(payload).escape_ascii();
    Error::Protocol { path: path.to_owned(), reason: format!("the answer {shown}") }
}
