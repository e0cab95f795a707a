//! The real host: Linux's `/dev/xen/gntdev` and `/dev/xen/evtchn`. What is opened here stays in this process alone: a fork, or another
//! holder of the same open file, would keep a dead worker's pages mapped and its ports bound. Knows nothing of rings or xenstore.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::DomId;
use crate::hv::Hypervisor;

#[allow(unsafe_code)]
mod abi;
mod evtchn;
#[allow(unsafe_code)]
mod gntdev;
#[cfg(test)]
mod tests;

pub use evtchn::Events;
pub use gntdev::{Grants, Mapping};

/// A machine that runs Xen, seen from dom0 or from a driver domain.
#[derive(Clone, Debug)]
pub struct Xen {
    device_dir: PathBuf,
}

impl Default for Xen {
    fn default() -> Self {
        Self { device_dir: "/dev/xen".into() }
    }
}

impl Hypervisor for Xen {
    type Grants = Grants;
    type Events = Events;

    fn open_grants(&self, frontend: DomId) -> io::Result<Grants> {
        Ok(Grants::new(open(&self.device_dir.join("gntdev"))?, frontend))
    }

    fn open_events(&self, frontend: DomId) -> io::Result<Events> {
        Events::new(open(&self.device_dir.join("evtchn"))?, frontend)
    }
}

/// Opens a device, closed on exec, without blocking; an error names it.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
