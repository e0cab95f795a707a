//! The nodes of the simulated store and its transactions: a transaction reads through to the tree, remembers what it saw, and
//! commits only if all of that is still so (the rule of the C xenstored). Knows nothing of connections, watches or rights.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::DomId;
use crate::store::wire::Permission;

/// One node. The first permission names its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) value: Vec<u8>,
    pub(super) permissions: Vec<Permission>,
    pub(super) children: BTreeSet<String>,
    /// Differs after every change of the node, in the whole life of the store.
    pub(super) generation: u64,
}

impl Node {
    pub(super) fn owner(&self) -> DomId {
        self.permissions.first().map_or(DomId::DOM0, |p| p.domain)
    }

    /// Bytes that count against the quota of a node.
    pub(super) fn len_bytes(&self) -> usize {
        let children: usize = self.children.iter().map(|c| c.len() + 1).sum();
        self.value.len() + self.permissions.len() * 8 + children
    }
}

/// A change that watches hear of.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) path: String,
    /// What the node was when it went away.
    pub(super) removed: Option<Arc<Node>>,
    /// Only watches of exactly this path: it went away with a parent.
    pub(super) exact: bool,
}

/// All nodes by their absolute path.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: HashMap<String, Arc<Node>>,
    owned: HashMap<DomId, usize>,
    generation: u64,
}

/// Changes that are not visible to others yet.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    overlay: BTreeMap<String, Option<Arc<Node>>>,
    /// The generation each node had when it was first looked at; `None` if there was no such node.
    seen: BTreeMap<String, Option<u64>>,
    owned: HashMap<DomId, isize>,
    pub(super) changes: Vec<Change>,
}

impl Transaction {
    /// Nodes it has touched.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }
}

/// The tree as one caller sees it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) transaction: Option<&'a mut Transaction>,
}

impl View<'_> {
    pub(super) fn get(&mut self, path: &str) -> Option<Arc<Node>> {
        let base = self.tree.nodes.get(path);
        let Some(t) = &mut self.transaction else { return base.map(Arc::clone) };
        if let Some(own) = t.overlay.get(path) {
            return own.clone();
        }
        let generation = base.map(|n| n.generation);
        t.seen.entry(path.to_owned()).or_insert(generation);
        base.map(Arc::clone)
    }

    /// Replaces or removes a node; only the caller knows that its parent's children agree.
    pub(super) fn put(&mut self, path: &str, node: Option<Node>) {
        let old = self.get(path).map(|n| n.owner());
        self.tree.generation += 1;
        let generation = self.tree.generation;
        let new = node.as_ref().map(Node::owner);
        let node = node.map(|n| Arc::new(Node { generation, ..n }));
        match &mut self.transaction {
            Some(t) => {
                for (owner, change) in [(old, -1), (new, 1)] {
                    if let Some(owner) = owner {
                        *t.owned.entry(owner).or_default() += change;
                    }
                }
                t.overlay.insert(path.to_owned(), node);
            }
            None => self.tree.put(path, node),
        }
    }

    /// Nodes that a domain owns.
    pub(super) fn owned(&self, domain: DomId) -> usize {
        let base = self.tree.owned.get(&domain).copied().unwrap_or(0);
        let own = self.transaction.as_ref().and_then(|t| t.owned.get(&domain)).copied().unwrap_or(0);
        base.saturating_add_signed(own)
    }

    pub(super) fn changed(&mut self, change: Change, changes: &mut Vec<Change>) {
        match &mut self.transaction {
            Some(t) => t.changes.push(change),
            None => changes.push(change),
        }
    }
}

impl Tree {
    fn put(&mut self, path: &str, node: Option<Arc<Node>>) {
        if let Some(node) = &node {
            *self.owned.entry(node.owner()).or_default() += 1;
        }
        let old = match node {
            Some(node) => self.nodes.insert(path.to_owned(), node),
            None => self.nodes.remove(path),
        };
        if let Some(count) = old.and_then(|n| self.owned.get_mut(&n.owner())) {
            *count -= 1;
        }
    }

    /// Makes a transaction's changes the tree's; false, and nothing done, if anything it saw has changed.
    pub(super) fn commit(&mut self, transaction: &mut Transaction) -> bool {
        let current = |path: &String| self.nodes.get(path).map(|n| n.generation);
        if transaction.seen.iter().any(|(path, generation)| current(path) != *generation) {
            return false;
        }
        for (path, node) in std::mem::take(&mut transaction.overlay) {
            self.put(&path, node);
        }
        true
    }
}
