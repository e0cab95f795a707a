//! A simulated Xen host that works across processes: the same binaries run on a machine without Xen. As unkind as the real
//! one: mappings are counted until the process is gone, one bad reference fails a whole map, an event is masked until it is
//! acknowledged, a second bind of a port is refused. Knows nothing of block devices.
//!
//! ```text
//!   DIR/host.sock        packets: pin and unpin grants, bind and unbind ports; one connection per grant table and channel
//!   memfds, by SCM_RIGHTS: a guest's memory · its grant entries · its channels' pending and mask words
//!   eventfds: one for each end of a channel
//! ```
//!
//! Copies, notifications and acknowledgements go through the shared memory and the eventfds alone. What a sandboxed
//! backend needs after it has opened everything: `sendmsg`, `recvmsg`, `mmap`, `munmap`, `read`, `write`.

mod domain;
mod events;
mod grants;
mod host;
mod link;
#[allow(unsafe_code)]
mod memfd;
mod message;
#[allow(unsafe_code)]
mod socket;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use domain::{GuestPages, GuestPort, Held, SimDomain};
pub use events::SimEvents;
pub use grants::SimGrants;
pub use memfd::{GuestWindow, SimMapping};
pub use table::{BAD_GRANT_REF, BAD_PAGE};

use crate::DomId;
use crate::hv::Hypervisor;

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
        let (for_thread, stopped) = (Arc::clone(&domains), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("sim-host".into()).spawn(move || {
            if let Err(e) = host::serve(&listener, &stopped, &for_thread) {
                tracing::error!(error = %e, "the simulated host stopped");
            }
        })?;
        Ok(Self { dir: dir.to_owned(), domains, stop, thread: Some(thread) })
    }

    /// Its directory, for `--host sim:DIR`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new domain; `AlreadyExists` if the number is taken.
    pub fn domain(&self, id: DomId, pages: u32) -> io::Result<SimDomain> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if domains.contains_key(&id) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let domain = Arc::new(domain::Domain::new(id, pages)?);
        domains.insert(id, Arc::clone(&domain));
        Ok(SimDomain::new(domain))
    }

    /// The domain is gone for all who come later; what backends hold of it they keep until they let go.
    pub fn destroy(&self, id: DomId) {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
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
