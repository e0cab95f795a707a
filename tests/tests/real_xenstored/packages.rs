//! Where the real stores come from: Debian's packages, downloaded and unpacked into the user's cache, never installed; and the
//! library that is preloaded into them, built from `xenstored-shim/`. Knows nothing of how they are run.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use splitd_tests::packages::{self, run};

/// The release of Xen, Debian's release that has it, and the packages that the stores consist of. They run on later ones, too.
const XEN: &str = "4.17";
const RELEASE: &str = "bookworm";
const PACKAGES: [&str; 9] = [
    "xen-utils-4.17",
    "libxenmisc4.17",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxentoolcore1",
    "libxentoollog1",
];
const SHIM: &str = include_str!("../../xenstored-shim/shim.c");

/// What is needed to start a store.
#[derive(Debug)]
pub(crate) struct Packages {
    root: PathBuf,
    pub(crate) shim: PathBuf,
}

impl Packages {
    /// The packages, the same for all tests of a run. `None`, said loudly, if they cannot be had; where `CI` is set that is a failure.
    pub(crate) fn get() -> Option<&'static Self> {
        static PACKAGES: OnceLock<Option<Packages>> = OnceLock::new();
        let found = PACKAGES.get_or_init(|| match Self::prepare() {
            Ok(packages) => Some(packages),
            Err(error) => {
                // Past the test harness, which would keep it to itself.
                let _ = writeln!(
                    io::stderr(),
                    "\nSKIPPED: tests against the real xenstored: {error}. They need `cc`, and `apt-get` with Xen {XEN}'s packages."
                );
                None
            }
        });
        assert!(found.is_some() || env::var_os("CI").is_none(), "CI runs these tests or fails");
        found.as_ref()
    }

    fn prepare() -> io::Result<Self> {
        let root = packages::unpacked("xenstored", &PACKAGES, RELEASE)?;
        let shim = packages::once("xenstored-shim", SHIM, compile)?.join("shim.so");
        Ok(Self { root, shim })
    }

    /// A program of Xen's.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.root.join("usr/lib/xen-4.17/bin").join(name)
    }

    /// `LD_LIBRARY_PATH` for it.
    pub(crate) fn libraries(&self) -> OsString {
        let dirs = ["usr/lib/x86_64-linux-gnu", "usr/lib/xen-4.17/lib/x86_64-linux-gnu"];
        env::join_paths(dirs.map(|dir| self.root.join(dir))).unwrap()
    }
}

fn compile(dir: &Path) -> io::Result<()> {
    let source = dir.join("shim.c");
    fs::write(&source, SHIM)?;
    let flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"];
    run(Command::new("cc").args(flags).arg(dir.join("shim.so")).arg(source).arg("-ldl"))
}
