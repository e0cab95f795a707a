//! A simulated domain: its memory, grant table and event channels, as the host keeps them and as the guest itself uses
//! them. Knows nothing of rings, drivers or the store.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use xen_ring::PAGE_LEN;

use super::memfd::{GuestWindow, Memfd};
use super::socket::EventFd;
use super::table::{CHANNELS, ChannelWords, Entry, GRANT_ENTRIES, GrantEntries, RESERVED_GRANTS};
use crate::hv::Access;
use crate::{DomId, GrantRef, Port};

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mappings of one page by all backends.
#[derive(Debug, Default)]
struct Pins {
    read: u32,
    write: u32,
}

/// Pages and grant references that are free.
#[derive(Debug)]
struct Free {
    /// Start and length of runs of free frames.
    frames: BTreeMap<u32, u32>,
    grants: Vec<GrantRef>,
    next_grant: u32,
}

/// What the host and the guest share of one domain.
#[derive(Debug)]
pub(super) struct Domain {
    id: DomId,
    pub(super) memory: Arc<Memfd>,
    pub(super) entries: GrantEntries,
    pub(super) words: Arc<ChannelWords>,
    pins: Mutex<HashMap<GrantRef, Pins>>,
    free: Mutex<Free>,
    channels: Mutex<BTreeMap<Port, Arc<Channel>>>,
    slots: Arc<Mutex<Vec<usize>>>,
}

/// One event channel of a guest; lives until both ends have let go.
#[derive(Debug)]
pub(super) struct Channel {
    /// Its place among the words.
    pub(super) slot: usize,
    /// The guest's end.
    pub(super) guest: EventFd,
    remote: DomId,
    backend: Mutex<Option<Arc<EventFd>>>,
    slots: Arc<Mutex<Vec<usize>>>,
}

impl Channel {
    pub(super) fn unbind(&self) {
        *lock(&self.backend) = None;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        lock(&self.slots).push(self.slot);
    }
}

impl Domain {
    pub(super) fn new(id: DomId, pages: u32) -> io::Result<Self> {
        Ok(Self {
            id,
            memory: Arc::new(Memfd::new(c"splitd-sim-memory", pages as usize * PAGE_LEN)?),
            entries: GrantEntries(Memfd::new(c"splitd-sim-grants", GRANT_ENTRIES as usize * 8)?),
            words: Arc::new(ChannelWords(Memfd::new(c"splitd-sim-events", ChannelWords::LEN)?)),
            pins: Mutex::default(),
            free: Mutex::new(Free {
                frames: BTreeMap::from([(0, pages)]),
                grants: Vec::new(),
                next_grant: RESERVED_GRANTS,
            }),
            channels: Mutex::default(),
            slots: Arc::new(Mutex::new((0..CHANNELS).rev().collect())),
        })
    }

    /// Pins all pages for a mapping by dom0 and returns their frames; `None` and nothing pinned if one cannot be.
    pub(super) fn pin(&self, refs: &[GrantRef], access: Access) -> Option<Vec<u32>> {
        let mut pins = lock(&self.pins);
        let mut frames = Vec::with_capacity(refs.len());
        for (i, gref) in refs.iter().enumerate() {
            let frame = self.entries.pin(*gref, DomId::DOM0, access).ok();
            if frame.is_some() {
                let pin = pins.entry(*gref).or_default();
                match access {
                    Access::ReadOnly => pin.read += 1,
                    Access::ReadWrite => pin.write += 1,
                }
            }
            let exists = frame.filter(|f| self.memory.address(*f as usize * PAGE_LEN, PAGE_LEN).is_some());
            let Some(frame) = exists else {
                let pinned = i + usize::from(frame.is_some());
                self.unpin_locked(&mut pins, refs.get(..pinned).unwrap_or(refs), access);
                return None;
            };
            frames.push(frame);
        }
        Some(frames)
    }

    pub(super) fn unpin(&self, refs: &[GrantRef], access: Access) {
        self.unpin_locked(&mut lock(&self.pins), refs, access);
    }

    fn unpin_locked(&self, pins: &mut HashMap<GrantRef, Pins>, refs: &[GrantRef], access: Access) {
        for gref in refs {
            let Some(pin) = pins.get_mut(gref) else { continue };
            match access {
                Access::ReadOnly => pin.read = pin.read.saturating_sub(1),
                Access::ReadWrite => pin.write = pin.write.saturating_sub(1),
            }
            let (read, write) = (pin.read > 0, pin.write > 0);
            if !read && !write {
                pins.remove(gref);
            }
            self.entries.unpin(*gref, read, write);
        }
    }

    /// Binds the backend's end, if the port is there, meant for dom0 and not bound; a first event is pending at once.
    pub(super) fn bind(&self, port: Port, event: &Arc<EventFd>) -> Option<Arc<Channel>> {
        let channel = lock(&self.channels).get(&port).filter(|c| c.remote == DomId::DOM0).map(Arc::clone)?;
        let mut backend = lock(&channel.backend);
        if backend.is_some() {
            return None;
        }
        *backend = Some(Arc::clone(event));
        self.words.reset(channel.slot, event).ok()?;
        drop(backend);
        Some(channel)
    }
}

/// What backends still hold of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Pages mapped.
    pub grants: usize,
    /// Event channels bound.
    pub ports: usize,
}

/// A guest's own view of its domain. Clones are the same domain.
#[derive(Clone, Debug)]
pub struct SimDomain(Arc<Domain>, PathBuf);

impl SimDomain {
    pub(super) fn new(domain: Arc<Domain>, store: PathBuf) -> Self {
        Self(domain, store)
    }

    /// The socket on which the store knows it as this domain.
    #[must_use]
    pub fn store_socket(&self) -> &Path {
        &self.1
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> DomId {
        self.0.id
    }

    /// What backends hold. A destroyed domain that anything is held of would be a zombie in `xl list`.
    #[must_use]
    pub fn held(&self) -> Held {
        let ports = lock(&self.0.channels).values().filter(|c| lock(&c.backend).is_some()).count();
        Held { grants: lock(&self.0.pins).len(), ports }
    }

    /// Takes contiguous pages; `OutOfMemory` if there is no such run.
    pub fn allocate(&self, pages: u32) -> io::Result<GuestPages> {
        let frame = {
            let mut free = lock(&self.0.free);
            let run = free.frames.iter().find(|(_, len)| **len >= pages).map(|(start, len)| (*start, *len));
            let (start, len) = run.filter(|_| pages > 0).ok_or(io::ErrorKind::OutOfMemory)?;
            free.frames.remove(&start);
            if len > pages {
                free.frames.insert(start + pages, len - pages);
            }
            start
        };
        Ok(GuestPages { domain: Arc::clone(&self.0), frame, pages })
    }

    /// Grants a frame to another domain. The frame is not looked at: a hostile guest grants what it likes.
    pub fn grant(&self, frame: u32, to: DomId, access: Access) -> io::Result<GrantRef> {
        let gref = {
            let mut free = lock(&self.0.free);
            match free.grants.pop() {
                Some(gref) => gref,
                None if free.next_grant < GRANT_ENTRIES => {
                    free.next_grant += 1;
                    GrantRef(free.next_grant - 1)
                }
                None => return Err(io::ErrorKind::StorageFull.into()),
            }
        };
        self.0.entries.grant(gref, Entry::new(frame, to, access));
        Ok(gref)
    }

    /// Changes what an entry grants, in use or not, as only a hostile guest would.
    pub fn overwrite_grant(&self, gref: GrantRef, frame: u32, to: DomId, access: Access) {
        self.0.entries.grant(gref, Entry::new(frame, to, access));
    }

    /// True while a backend has the page mapped.
    #[must_use]
    pub fn grant_in_use(&self, gref: GrantRef) -> bool {
        self.0.entries.in_use(gref)
    }

    /// Ends a grant and frees its reference; false, and nothing done, while a backend has the page mapped.
    #[must_use]
    pub fn end_access(&self, gref: GrantRef) -> bool {
        let ended = self.0.entries.end_access(gref);
        if ended {
            lock(&self.0.free).grants.push(gref);
        }
        ended
    }

    /// A new event channel that `remote` may bind to.
    pub fn allocate_port(&self, remote: DomId) -> io::Result<GuestPort> {
        let slot = lock(&self.0.slots).pop().ok_or(io::ErrorKind::StorageFull)?;
        let slots = Arc::clone(&self.0.slots);
        let channel = Channel { slot, guest: EventFd::new()?, remote, backend: Mutex::default(), slots };
        let channel = Arc::new(channel);
        let mut channels = lock(&self.0.channels);
        let mut port = Port(1);
        while channels.contains_key(&port) {
            port.0 += 1;
        }
        channels.insert(port, Arc::clone(&channel));
        drop(channels);
        Ok(GuestPort { domain: Arc::clone(&self.0), port, channel })
    }
}

impl SimDomain {
    /// Closes a port under whoever uses it, as only a hostile guest would; its number is free for the next.
    pub fn close_port(&self, port: Port) {
        lock(&self.0.channels).remove(&port);
    }
}

/// Contiguous pages of a guest, given back on drop.
#[derive(Debug)]
pub struct GuestPages {
    domain: Arc<Domain>,
    frame: u32,
    pages: u32,
}

impl GuestPages {
    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The frame of the page `index`.
    #[must_use]
    pub fn frame(&self, index: u32) -> u32 {
        assert!(index < self.pages, "page {index} of {}", self.pages);
        self.frame + index
    }

    /// The same memory as a ring's end wants it.
    #[must_use]
    pub fn window(&self) -> Option<GuestWindow> {
        let offset = self.frame as usize * PAGE_LEN;
        GuestWindow::new(Arc::clone(&self.domain.memory), offset, self.len())
    }

    /// Copies bytes out; false if the range is not inside.
    #[must_use]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        self.inside(offset, out.len()) && self.domain.memory.read(self.base() + offset, out)
    }

    /// Copies bytes in; false if the range is not inside.
    #[must_use]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        self.inside(offset, bytes.len()) && self.domain.memory.write(self.base() + offset, bytes)
    }

    fn base(&self) -> usize {
        self.frame as usize * PAGE_LEN
    }

    fn len(&self) -> usize {
        self.pages as usize * PAGE_LEN
    }

    fn inside(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len())
    }
}

impl Drop for GuestPages {
    fn drop(&mut self) {
        let mut free = lock(&self.domain.free);
        let (mut start, mut len) = (self.frame, self.pages);
        if let Some(next) = free.frames.remove(&(start + len)) {
            len += next;
        }
        if let Some((&before, &before_len)) = free.frames.range(..start).next_back()
            && before + before_len == start
        {
            free.frames.remove(&before);
            start = before;
            len += before_len;
        }
        free.frames.insert(start, len);
    }
}

/// The guest's end of an event channel; closed on drop.
#[derive(Debug)]
pub struct GuestPort {
    domain: Arc<Domain>,
    port: Port,
    channel: Arc<Channel>,
}

impl GuestPort {
    /// Its number.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Tells the backend; silently dropped while nobody is bound.
    pub fn notify(&self) -> io::Result<()> {
        match &*lock(&self.channel.backend) {
            Some(event) => self.domain.words.send(self.channel.slot, event),
            None => Ok(()),
        }
    }

    /// Waits for an event and takes it; false when the time is over.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        Ok(self.channel.guest.wait(timeout)? && self.channel.guest.take()?)
    }

    /// True while a backend is bound to it.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        lock(&self.channel.backend).is_some()
    }
}

impl AsFd for GuestPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.guest.as_fd()
    }
}

impl Drop for GuestPort {
    fn drop(&mut self) {
        let mut channels = lock(&self.domain.channels);
        if channels.get(&self.port).is_some_and(|c| Arc::ptr_eq(c, &self.channel)) {
            channels.remove(&self.port);
        }
    }
}
