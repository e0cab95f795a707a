//! xenstore: its wire format, for both ends, and an async client. Knows nothing of what a device's nodes mean.
//!
//! ```text
//!  Store (any number of clones) ──jobs──► driver (one task) ══ socket or /dev/xen/xenbus ══ xenstored
//!        ◄── answers, by request ─────────┤
//!        ◄── changes, by token, bounded ──┘   reconnects, sets the watches again
//! ```

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

mod changes;
mod client;
mod driver;
mod error;
mod link;
pub mod wire;

pub use changes::{Changed, Paths};
pub use client::{Nodes, Store};
pub use driver::Link;
pub use error::Error;
pub use wire::{Permission, Rights};

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// xenstored's socket, in the domain it runs in.
    Socket(PathBuf),
    /// The kernel's device, in any domain.
    Device(PathBuf),
}

impl Address {
    /// Looks where Xen's own tools look: `$XENSTORED_PATH`, `$XENSTORED_RUNDIR/socket`, `/run/xenstored/socket`,
    /// `/dev/xen/xenbus`, `/proc/xen/xenbus`. What the first names is taken as it is; of the others, the first that exists.
    #[must_use]
    pub fn discover() -> Option<Self> {
        Self::discover_in(|name| env::var_os(name), |path| path.exists())
    }

    fn discover_in(
        variable: impl Fn(&str) -> Option<OsString>,
        exists: impl Fn(&Path) -> bool,
    ) -> Option<Self> {
        if let Some(path) = variable("XENSTORED_PATH") {
            return Some(Self::of(path.into()));
        }
        let run_dir = variable("XENSTORED_RUNDIR").map(|dir| Self::Socket(Path::new(&dir).join("socket")));
        let usual = [
            Self::Socket("/run/xenstored/socket".into()),
            Self::Device("/dev/xen/xenbus".into()),
            Self::Device("/proc/xen/xenbus".into()),
        ];
        run_dir.into_iter().chain(usual).find(|address| exists(address.path()))
    }

    /// A character device is the kernel's; all else is taken for a socket.
    #[must_use]
    pub fn of(path: PathBuf) -> Self {
        let is_device = path.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device());
        if is_device { Self::Device(path) } else { Self::Socket(path) }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Socket(path) | Self::Device(path) => path,
        }
    }

    /// The longest payload that may be sent there: the kernel's device counts the header in.
    fn payload_max(&self) -> usize {
        match self {
            Self::Socket(_) => wire::PAYLOAD_MAX,
            Self::Device(_) => wire::PAYLOAD_MAX - wire::HEADER_LEN,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod address_tests {
    use super::*;

    /// The order is that of Xen's own tools, so that an operator's environment means the same to us.
    #[test]
    fn addresses_are_looked_for_in_xens_order() {
        let none = |_: &str| None;
        let find = |existing: &'static str| Address::discover_in(none, |path| path == Path::new(existing));
        assert_eq!(find("/run/xenstored/socket"), Some(Address::Socket("/run/xenstored/socket".into())));
        assert_eq!(find("/dev/xen/xenbus"), Some(Address::Device("/dev/xen/xenbus".into())));
        assert_eq!(find("/proc/xen/xenbus"), Some(Address::Device("/proc/xen/xenbus".into())));
        assert_eq!(find("/nowhere"), None);

        let run_dir = |name: &str| (name == "XENSTORED_RUNDIR").then(|| "/r".into());
        assert_eq!(Address::discover_in(run_dir, |_| true), Some(Address::Socket("/r/socket".into())));
        let both = |name: &str| Some(if name == "XENSTORED_PATH" { "/p".into() } else { "/r".into() });
        assert_eq!(Address::discover_in(both, |_| false), Some(Address::Socket("/p".into())));
        assert_eq!(Address::of("/dev/null".into()), Address::Device("/dev/null".into()));
    }
}
