//! What may be done with nodes, and by whom: rights, quotas, creation of parents, removal of subtrees, as the C xenstored
//! has it. Knows nothing of connections.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::tree::{Change, Node, View};
use crate::DomId;
use crate::store::wire::{Errno, PAYLOAD_MAX, Permission, Rights};

/// Nodes that an unprivileged domain may own.
pub(super) const NODES_MAX: usize = 1000;
/// Bytes of a node of an unprivileged domain.
pub(super) const NODE_LEN_MAX: usize = 2048;
/// Entries in the permissions of a node, set by an unprivileged domain.
pub(super) const PERMISSIONS_MAX: usize = 5;

/// One caller's request on the nodes it sees.
#[derive(Debug)]
pub(super) struct Ops<'a> {
    pub(super) view: View<'a>,
    pub(super) caller: DomId,
    /// What became visible.
    pub(super) changes: Vec<Change>,
}

fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

fn child(path: &str, name: &str) -> String {
    if path == "/" { format!("/{name}") } else { format!("{path}/{name}") }
}

/// What `domain` may do with a node that has these permissions.
pub(super) fn rights(permissions: &[Permission], domain: DomId) -> Rights {
    let Some((owner, others)) = permissions.split_first() else { return Rights::None };
    if domain == DomId::DOM0 || owner.domain == domain {
        return Rights::Both;
    }
    others.iter().find(|p| p.domain == domain).map_or(owner.rights, |p| p.rights)
}

pub(super) fn may_read(permissions: &[Permission], domain: DomId) -> bool {
    matches!(rights(permissions, domain), Rights::Read | Rights::Both)
}

fn may_write(permissions: &[Permission], domain: DomId) -> bool {
    matches!(rights(permissions, domain), Rights::Write | Rights::Both)
}

impl Ops<'_> {
    fn is_privileged(&self) -> bool {
        self.caller == DomId::DOM0
    }

    /// The node, if the caller may `allowed` it. Who may not read the parents does not learn whether it exists.
    fn node(&mut self, path: &str, allowed: fn(&[Permission], DomId) -> bool) -> Result<Arc<Node>, Errno> {
        if let Some(node) = self.view.get(path) {
            return if allowed(&node.permissions, self.caller) { Ok(node) } else { Err(Errno::Access) };
        }
        let above = self.nearest_parent(path);
        let visible = above.is_some_and(|(_, node)| may_read(&node.permissions, self.caller));
        Err(if visible { Errno::NoEntry } else { Errno::Access })
    }

    fn nearest_parent(&mut self, path: &str) -> Option<(String, Arc<Node>)> {
        let mut at = parent(path)?;
        loop {
            if let Some(node) = self.view.get(at) {
                return Some((at.to_owned(), node));
            }
            at = parent(at)?;
        }
    }

    fn changed(&mut self, path: &str) {
        let change = Change { path: path.to_owned(), removed: None, exact: false };
        self.view.changed(change, &mut self.changes);
    }

    pub(super) fn read(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        self.node(path, may_read).map(|node| node.value.clone())
    }

    pub(super) fn permissions(&mut self, path: &str) -> Result<Vec<Permission>, Errno> {
        self.node(path, may_read).map(|node| node.permissions.clone())
    }

    /// Generation and names, each ended by a NUL.
    pub(super) fn list(&mut self, path: &str) -> Result<(u64, Vec<u8>), Errno> {
        let node = self.node(path, may_read)?;
        let mut names = Vec::new();
        for child in &node.children {
            names.extend_from_slice(child.as_bytes());
            names.push(0);
        }
        Ok((node.generation, names))
    }

    /// The payload of an answer to `DIRECTORY_PART`.
    pub(super) fn list_part(&mut self, path: &str, offset: u32) -> Result<Vec<u8>, Errno> {
        let (generation, names) = self.list(path)?;
        let mut part = format!("{generation}\0").into_bytes();
        let rest = names.get(offset as usize..).unwrap_or_default();
        // One byte stays for the empty name that marks the end.
        let room = PAYLOAD_MAX - 1 - part.len();
        let len = if rest.len() <= room {
            rest.len()
        } else {
            rest.get(..room).and_then(|r| r.iter().rposition(|b| *b == 0)).map_or(0, |last| last + 1)
        };
        part.extend_from_slice(rest.get(..len).unwrap_or_default());
        if len == rest.len() {
            part.push(0);
        }
        Ok(part)
    }

    pub(super) fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Errno> {
        match self.view.get(path) {
            Some(node) if may_write(&node.permissions, self.caller) => {
                self.put_checked(path, Node { value: value.to_vec(), ..Node::clone(&node) })?;
            }
            Some(_) => return Err(Errno::Access),
            None => self.create(path, value)?,
        }
        self.changed(path);
        Ok(())
    }

    pub(super) fn mkdir(&mut self, path: &str) -> Result<(), Errno> {
        match self.view.get(path) {
            Some(node) if may_write(&node.permissions, self.caller) => Ok(()),
            Some(_) => Err(Errno::Access),
            None => {
                self.create(path, b"")?;
                self.changed(path);
                Ok(())
            }
        }
    }

    /// Makes a node and the parents it lacks; they inherit permissions, and an unprivileged domain owns what it makes.
    fn create(&mut self, path: &str, value: &[u8]) -> Result<(), Errno> {
        let Some((above_path, above)) = self.nearest_parent(path) else { return Err(Errno::NoEntry) };
        if !may_write(&above.permissions, self.caller) {
            return Err(Errno::Access);
        }
        let mut permissions = above.permissions.clone();
        if !self.is_privileged()
            && let Some(owner) = permissions.first_mut()
        {
            owner.domain = self.caller;
        }
        let mut missing = vec![path];
        while let Some(at) = missing.last().and_then(|p| parent(p)).filter(|p| *p != above_path) {
            missing.push(at);
        }
        if !self.is_privileged() && self.view.owned(self.caller) + missing.len() > NODES_MAX {
            return Err(Errno::NoSpace);
        }
        let mut top = Node::clone(&above);
        top.children.insert(name(missing.last().unwrap_or(&path)).to_owned());
        self.put_checked(&above_path, top)?;
        let mut below = None;
        for at in missing {
            let value = if at == path { value.to_vec() } else { Vec::new() };
            let children: BTreeSet<String> = below.into_iter().collect();
            self.put_checked(at, Node { value, permissions: permissions.clone(), children, generation: 0 })?;
            below = Some(name(at).to_owned());
        }
        Ok(())
    }

    fn put_checked(&mut self, path: &str, node: Node) -> Result<(), Errno> {
        if !self.is_privileged() && node.len_bytes() > NODE_LEN_MAX {
            return Err(Errno::NoSpace);
        }
        self.view.put(path, Some(node));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str) -> Result<(), Errno> {
        let Some(parent_path) = parent(path) else { return Err(Errno::Invalid) };
        if let Err(e) = self.node(path, may_write) {
            // Removing what is not there succeeds where it could have been.
            let parent_exists = e == Errno::NoEntry && self.view.get(parent_path).is_some();
            return if parent_exists { Ok(()) } else { Err(e) };
        }
        if let Some(above) = self.view.get(parent_path) {
            let mut above = Node::clone(&above);
            above.children.remove(name(path));
            self.view.put(parent_path, Some(above));
        }
        self.remove_tree(path.to_owned());
        Ok(())
    }

    fn remove_tree(&mut self, path: String) {
        let mut left = vec![(path, false)];
        while let Some((at, exact)) = left.pop() {
            let Some(node) = self.view.get(&at) else { continue };
            left.extend(node.children.iter().map(|c| (child(&at, c), true)));
            self.view.put(&at, None);
            let change = Change { path: at, removed: Some(node), exact };
            self.view.changed(change, &mut self.changes);
        }
    }

    pub(super) fn set_permissions(&mut self, path: &str, permissions: Vec<Permission>) -> Result<(), Errno> {
        let node = self.node(path, |_, _| true)?;
        if !self.is_privileged() {
            if node.owner() != self.caller {
                return Err(Errno::Access);
            }
            if permissions.first().is_none_or(|p| p.domain != self.caller) {
                return Err(Errno::NotPermitted);
            }
            if permissions.len() > PERMISSIONS_MAX {
                return Err(Errno::NoSpace);
            }
        }
        self.put_checked(path, Node { permissions, ..Node::clone(&node) })?;
        self.changed(path);
        Ok(())
    }
}
