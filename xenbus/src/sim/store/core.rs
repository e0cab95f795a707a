//! The simulated store without its sockets: connections as numbers, their watches and transactions, every request and its
//! answer. Knows nothing of threads.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::ops::{Ops, may_read};
use super::tree::{Change, Node, Transaction, Tree, View};
use crate::DomId;
use crate::store::wire::{
    BadRequest, Errno, Message, PAYLOAD_MAX, Permission, Request, Rights, is_path, is_watch_path,
};

const WATCHES_MAX: usize = 128;
const TRANSACTIONS_MAX: usize = 10;
const TRANSACTION_NODES_MAX: usize = 1024;
const INTRODUCED: &str = "@introduceDomain";
const RELEASED: &str = "@releaseDomain";

/// Everything the store knows.
#[derive(Debug)]
pub(super) struct Core {
    tree: Tree,
    connections: BTreeMap<u64, Connection>,
    introduced: BTreeSet<DomId>,
    next_connection: u64,
}

#[derive(Debug)]
struct Connection {
    domain: DomId,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
}

#[derive(Debug)]
struct Watch {
    path: String,
    token: String,
    /// What the caller left out of the path, and gets left out of events.
    home: Option<String>,
}

/// Messages to send, each to a connection.
pub(super) type Outgoing = Vec<(u64, Message)>;

/// A request's payload of an answer, or the name of an error.
type Answer = Result<Bytes, Errno>;

const OK: Bytes = Bytes::from_static(b"OK\0");

fn home(domain: DomId) -> String {
    format!("/local/domain/{domain}/")
}

impl Core {
    /// An empty store: the root alone, dom0's.
    pub(super) fn new() -> Self {
        let mut tree = Tree::default();
        let root = Node {
            value: Vec::new(),
            permissions: vec![Permission { domain: DomId::DOM0, rights: Rights::None }],
            children: BTreeSet::new(),
            generation: 0,
        };
        View { tree: &mut tree, transaction: None }.put("/", Some(root));
        let introduced = BTreeSet::from([DomId::DOM0]);
        Self { tree, connections: BTreeMap::new(), introduced, next_connection: 1 }
    }

    pub(super) fn connect(&mut self, domain: DomId) -> u64 {
        let number = self.next_connection;
        self.next_connection += 1;
        let connection =
            Connection { domain, watches: Vec::new(), transactions: BTreeMap::new(), next_transaction: 1 };
        self.connections.insert(number, connection);
        number
    }

    pub(super) fn disconnect(&mut self, number: u64) {
        self.connections.remove(&number);
    }

    /// Answers one message; the answer is the first of what is to be sent, unless the connection is gone.
    pub(super) fn handle(&mut self, number: u64, message: &Message) -> Outgoing {
        let Some(domain) = self.connections.get(&number).map(|c| c.domain) else { return Vec::new() };
        let (req_id, tx_id) = (message.req_id, message.tx_id);
        let mut later = Vec::new();
        let answer = match Request::parse(message) {
            Err(BadRequest::UnknownKind) => Err(Errno::NotImplemented),
            Err(BadRequest::Malformed) => Err(Errno::Invalid),
            Ok(request) => self.answer(number, domain, tx_id, &request, &mut later),
        };
        let answer = match answer {
            Ok(payload) => Message { kind: message.kind, req_id, tx_id, payload },
            Err(errno) => Message::error(errno, req_id, tx_id),
        };
        let mut outgoing = vec![(number, answer)];
        outgoing.append(&mut later);
        outgoing
    }

    /// A request of dom0 itself that needs no connection: for the host and for tests.
    pub(super) fn as_dom0(&mut self, request: &Request<'_>) -> (Answer, Outgoing) {
        let mut later = Vec::new();
        let answer = self.answer(0, DomId::DOM0, 0, request, &mut later);
        (answer, later)
    }

    fn answer(
        &mut self,
        number: u64,
        domain: DomId,
        tx_id: u32,
        request: &Request<'_>,
        later: &mut Outgoing,
    ) -> Answer {
        match request {
            Request::Watch { path, token } => self.watch(number, domain, path, token, later),
            Request::Unwatch { path, token } => self.unwatch(number, domain, path, token),
            Request::ResetWatches => {
                let connection = self.connection(number)?;
                connection.watches.clear();
                connection.transactions.clear();
                Ok(OK)
            }
            Request::TransactionStart if tx_id != 0 => Err(Errno::Busy),
            Request::TransactionStart => self.start_transaction(number, domain),
            Request::TransactionEnd { commit } => self.end_transaction(number, tx_id, *commit, later),
            Request::Introduce { domain: which, .. } => self.introduce(domain, *which, later),
            Request::Release { domain: which } => self.release(domain, *which, later),
            Request::IsIntroduced { domain: which } => {
                let known = self.introduced.contains(which);
                Ok(Bytes::from_static(if known { b"T\0" } else { b"F\0" }))
            }
            Request::DomainPath { domain: which } => Ok(format!("/local/domain/{which}\0").into()),
            _ => self.on_nodes(number, domain, tx_id, request, later),
        }
    }

    fn connection(&mut self, number: u64) -> Result<&mut Connection, Errno> {
        self.connections.get_mut(&number).ok_or(Errno::Io)
    }

    fn on_nodes(
        &mut self,
        number: u64,
        domain: DomId,
        tx_id: u32,
        request: &Request<'_>,
        later: &mut Outgoing,
    ) -> Answer {
        let path = request.path().filter(|p| is_path(p)).ok_or(Errno::Invalid)?;
        let path = if path.starts_with('/') { path.to_owned() } else { home(domain) + path };
        let mut transaction = None;
        if tx_id != 0 {
            let open = self.connections.get_mut(&number).and_then(|c| c.transactions.get_mut(&tx_id));
            let open = open.ok_or(Errno::NoEntry)?;
            if domain != DomId::DOM0 && open.len() > TRANSACTION_NODES_MAX {
                return Err(Errno::NoSpace);
            }
            transaction = Some(open);
        }
        let view = View { tree: &mut self.tree, transaction };
        let mut ops = Ops { view, caller: domain, changes: Vec::new() };
        let answer = run(&mut ops, &path, request);
        let changes = ops.changes;
        self.fire(&changes, later);
        answer
    }

    fn watch(&mut self, number: u64, domain: DomId, path: &str, token: &str, later: &mut Outgoing) -> Answer {
        if !is_watch_path(path) {
            return Err(Errno::Invalid);
        }
        let relative = !path.starts_with(['/', '@']);
        let absolute = if relative { home(domain) + path } else { path.to_owned() };
        let watches = &mut self.connection(number)?.watches;
        if watches.iter().any(|w| w.path == absolute && w.token == token) {
            return Err(Errno::Exists);
        }
        if domain != DomId::DOM0 && watches.len() >= WATCHES_MAX {
            return Err(Errno::TooBig);
        }
        let home = relative.then(|| home(domain));
        watches.push(Watch { path: absolute, token: token.to_owned(), home });
        later.push((number, Message::event(path.as_bytes(), token.as_bytes())));
        Ok(OK)
    }

    fn unwatch(&mut self, number: u64, domain: DomId, path: &str, token: &str) -> Answer {
        let absolute = if path.starts_with(['/', '@']) { path.to_owned() } else { home(domain) + path };
        let watches = &mut self.connection(number)?.watches;
        let at = watches.iter().position(|w| w.path == absolute && w.token == token);
        watches.remove(at.ok_or(Errno::NoEntry)?);
        Ok(OK)
    }

    fn start_transaction(&mut self, number: u64, domain: DomId) -> Answer {
        let connection = self.connection(number)?;
        if domain != DomId::DOM0 && connection.transactions.len() >= TRANSACTIONS_MAX {
            return Err(Errno::NoSpace);
        }
        let id = connection.next_transaction;
        connection.next_transaction = id.checked_add(1).unwrap_or(1);
        connection.transactions.insert(id, Transaction::default());
        Ok(format!("{id}\0").into())
    }

    fn end_transaction(&mut self, number: u64, tx_id: u32, commit: bool, later: &mut Outgoing) -> Answer {
        let open = self.connection(number)?.transactions.remove(&tx_id);
        let mut transaction = open.ok_or(Errno::NoEntry)?;
        if commit {
            if !self.tree.commit(&mut transaction) {
                return Err(Errno::Again);
            }
            self.fire(&transaction.changes, later);
        }
        Ok(OK)
    }

    fn introduce(&mut self, caller: DomId, domain: DomId, later: &mut Outgoing) -> Answer {
        if caller != DomId::DOM0 {
            return Err(Errno::Access);
        }
        if self.introduced.insert(domain) {
            self.fire_special(INTRODUCED, later);
        }
        Ok(OK)
    }

    fn release(&mut self, caller: DomId, domain: DomId, later: &mut Outgoing) -> Answer {
        if caller != DomId::DOM0 {
            return Err(Errno::Access);
        }
        if !self.introduced.remove(&domain) {
            return Err(Errno::NoEntry);
        }
        self.fire_special(RELEASED, later);
        Ok(OK)
    }

    /// The store's own events go to dom0 only.
    fn fire_special(&self, event: &str, later: &mut Outgoing) {
        for (number, c) in self.connections.iter().filter(|(_, c)| c.domain == DomId::DOM0) {
            for watch in c.watches.iter().filter(|w| w.path == event) {
                later.push((*number, Message::event(event.as_bytes(), watch.token.as_bytes())));
            }
        }
    }

    fn fire(&mut self, changes: &[Change], later: &mut Outgoing) {
        for change in changes {
            let node = View { tree: &mut self.tree, transaction: None }.get(&change.path);
            let node = node.or_else(|| change.removed.clone());
            for (number, connection) in &self.connections {
                let visible = node.as_ref().is_none_or(|n| may_read(&n.permissions, connection.domain));
                for watch in connection.watches.iter().filter(|w| visible && w.hears(change)) {
                    let path = watch.home.as_deref().and_then(|h| change.path.strip_prefix(h));
                    let path = path.unwrap_or(&change.path);
                    later.push((*number, Message::event(path.as_bytes(), watch.token.as_bytes())));
                }
            }
        }
    }
}

impl Watch {
    fn hears(&self, change: &Change) -> bool {
        let below = |path: &str| self.path == "/" || path.starts_with('/');
        match change.path.strip_prefix(self.path.as_str()) {
            Some("") => true,
            Some(rest) => !change.exact && below(rest),
            None => false,
        }
    }
}

fn run(ops: &mut Ops<'_>, path: &str, request: &Request<'_>) -> Answer {
    match request {
        Request::Directory { .. } => {
            let (_, names) = ops.list(path)?;
            if names.len() > PAYLOAD_MAX { Err(Errno::TooBig) } else { Ok(names.into()) }
        }
        Request::DirectoryPart { offset_bytes, .. } => ops.list_part(path, *offset_bytes).map(Bytes::from),
        Request::Read { .. } => ops.read(path).map(Bytes::from),
        Request::Write { value, .. } => ops.write(path, value).map(|()| OK),
        Request::Mkdir { .. } => ops.mkdir(path).map(|()| OK),
        Request::Remove { .. } => ops.remove(path).map(|()| OK),
        Request::Permissions { .. } => {
            let list = ops.permissions(path)?;
            Ok(list.iter().map(|p| format!("{p}\0")).collect::<String>().into())
        }
        Request::SetPermissions { permissions, .. } => {
            ops.set_permissions(path, permissions.clone()).map(|()| OK)
        }
        _ => Err(Errno::NotImplemented),
    }
}
