//! A simulated Xen host that works across processes: the same binaries run on a machine without Xen. As unkind as the real
//! one: mappings are counted until the process is gone, one bad reference fails a whole map, an event is masked until it is
//! acknowledged, a second bind of a port is refused. Knows nothing of block devices.
//!
//! ```text
//!   DIR/xenstored.sock   xenstore's wire protocol, as dom0; xenstored-N.sock as domain N
//!   DIR/host.sock        packets: pin and unpin grants, bind and unbind ports; one connection per grant table and channel
//!   memfds, by SCM_RIGHTS: a guest's memory · its grant entries · its channels' pending and mask words
//!   eventfds: one for each end of a channel
//! ```
//!
//! Copies, notifications and acknowledgements go through the shared memory and the eventfds alone. What a sandboxed
//! backend needs after it has opened everything: `sendmsg`, `recvmsg`, `mmap`, `munmap`, `read`, `write`.

mod domain;
mod events;
#[allow(unsafe_code)]
mod faulty;
mod grants;
mod host;
mod link;
#[allow(unsafe_code)]
mod memfd;
mod message;
#[allow(unsafe_code)]
mod socket;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use domain::{GuestPages, GuestPort, Held, SimDomain};
pub use events::SimEvents;
pub use faulty::{Faulty, LateMapping, Plan};
pub use grants::SimGrants;
pub use memfd::{GuestWindow, SimMapping};
pub use table::{BAD_GRANT_REF, BAD_PAGE};

use crate::DomId;
use crate::hv::Hypervisor;
use crate::store::wire::{Errno, Permission, Request, Rights};

/// The backend's view of a simulated host.
#[derive(Clone, Debug)]
pub struct Sim {
    host: PathBuf,
}

impl Sim {
    /// The host whose directory is `dir`; connects only when a device is opened.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        Self { host: dir.join("host.sock") }
    }
}

impl Hypervisor for Sim {
    type Grants = SimGrants;
    type Events = SimEvents;

    fn open_grants(&self, frontend: DomId) -> io::Result<SimGrants> {
        SimGrants::open(&self.host, frontend)
    }

    fn open_events(&self, frontend: DomId) -> io::Result<SimEvents> {
        SimEvents::open(&self.host, frontend)
    }
}

/// The host itself, served from threads of this process until dropped.
#[derive(Debug)]
pub struct SimHost {
    dir: PathBuf,
    domains: host::Domains,
    store: store::StoreServer,
    stop: Arc<socket::EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl SimHost {
    /// Serves a new host in `dir`, which must exist and hold none yet.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let path = dir.join("host.sock");
        let listener = socket::listen(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let domains: host::Domains = Arc::new(Mutex::new(BTreeMap::new()));
        let stop = Arc::new(socket::EventFd::new()?);
        let store = store::StoreServer::start(dir)?;
        let (for_thread, stopped) = (Arc::clone(&domains), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("sim-host".into()).spawn(move || {
            if let Err(e) = host::serve(&listener, &stopped, &for_thread) {
                tracing::error!(error = %e, "the simulated host stopped");
            }
        })?;
        let host = Self { dir: dir.to_owned(), domains, store, stop, thread: Some(thread) };
        host.write("/tool/xenstored", b"").map_err(store_error)?;
        host.write("/local/domain/0/domid", b"0").map_err(store_error)?;
        host.write("/local/domain/0/name", b"Domain-0").map_err(store_error)?;
        Ok(host)
    }

    /// Its directory, for `--host sim:DIR`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A listening packet socket `name` in its directory, for what else the host is wired to: a connection's reads and writes are
    /// whole messages.
    pub fn listen(&self, name: &str) -> io::Result<UnixListener> {
        Ok(socket::listen(&self.dir.join(name))?.into())
    }

    /// A new domain, with the nodes that libxl makes for it and a store socket of its own; `AlreadyExists` if the number is
    /// taken.
    pub fn domain(&self, id: DomId, name: &str, uuid: &str, pages: u32) -> io::Result<SimDomain> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if domains.contains_key(&id) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("domain {id} exists")));
        }
        let domain = Arc::new(domain::Domain::new(id, pages)?);
        domains.insert(id, Arc::clone(&domain));
        drop(domains);
        if id == DomId::DOM0 {
            return Ok(SimDomain::new(domain, self.dir.join("xenstored.sock")));
        }
        self.describe(id, name, uuid).map_err(store_error)?;
        let socket = self.store.listen(id)?;
        Ok(SimDomain::new(domain, socket))
    }

    fn describe(&self, id: DomId, name: &str, uuid: &str) -> Result<(), Errno> {
        let home = format!("/local/domain/{id}");
        let read_only = |path: &str| self.make(path, DomId::DOM0, id);
        for path in [home.clone(), format!("/vm/{uuid}"), format!("{home}/device"), format!("/libxl/{id}")] {
            read_only(&path)?;
        }
        for writable in ["data", "drivers", "feature", "attr", "error"] {
            self.make(&format!("{home}/{writable}"), id, id)?;
        }
        self.write(&format!("/vm/{uuid}/uuid"), uuid.as_bytes())?;
        self.write(&format!("/vm/{uuid}/name"), name.as_bytes())?;
        self.write(&format!("{home}/vm"), format!("/vm/{uuid}").as_bytes())?;
        self.write(&format!("{home}/name"), name.as_bytes())?;
        self.write(&format!("{home}/domid"), id.to_string().as_bytes())?;
        self.store.as_dom0(&[Request::Introduce { domain: id, ring_frame: 0, port: 1 }])?;
        Ok(())
    }

    /// An empty node that `owner` owns and `reader` may read.
    fn make(&self, path: &str, owner: DomId, reader: DomId) -> Result<(), Errno> {
        let permissions = vec![
            Permission { domain: owner, rights: Rights::None },
            Permission { domain: reader, rights: Rights::Read },
        ];
        self.store.as_dom0(&[Request::Mkdir { path }, Request::SetPermissions { path, permissions }])?;
        Ok(())
    }

    fn write(&self, path: &str, value: &[u8]) -> Result<(), Errno> {
        self.store.as_dom0(&[Request::Write { path, value }])?;
        Ok(())
    }

    /// The domain is gone for all who come later, and its nodes with it; what backends hold of it they keep until they let go.
    /// Devices are the toolstack's to remove first.
    pub fn destroy(&self, id: DomId) -> io::Result<()> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if id == DomId::DOM0 {
            return Ok(());
        }
        self.store.close(id);
        let home = format!("/local/domain/{id}");
        let vm = self.store.as_dom0(&[Request::Read { path: &format!("{home}/vm") }]).map_err(store_error)?;
        let vm = vm.first().and_then(|v| str::from_utf8(v).ok()).unwrap_or_default();
        self.store
            .as_dom0(&[
                Request::Remove { path: vm },
                Request::Remove { path: &home },
                Request::Remove { path: &format!("/libxl/{id}") },
                Request::Release { domain: id },
            ])
            .map_err(store_error)?;
        Ok(())
    }

    /// Cuts all of the store's clients off, as when it dies; nodes are kept, as a successor would have them.
    pub fn disconnect_store(&self) {
        self.store.disconnect_all();
    }
}

fn store_error(errno: Errno) -> io::Error {
    io::Error::other(format!("the simulated store: {}", errno.name()))
}

impl Drop for SimHost {
    fn drop(&mut self) {
        if self.stop.signal().is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(self.dir.join("host.sock"));
    }
}
