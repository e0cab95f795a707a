//! Where the real stores come from: Debian's packages, downloaded and unpacked into the user's cache, never installed; and the
//! library that is preloaded into them, built from `xenstored-shim/`. Knows nothing of how they are run.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The release of Xen, Debian's release that has it, and the packages that the stores consist of. They run on later ones, too.
const XEN: &str = "4.17";
const RELEASE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
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
        let cache = cache_dir()?;
        fs::create_dir_all(&cache)?;
        let root = once(&cache, "xenstored", &PACKAGES.concat(), download)?;
        let shim = once(&cache, "xenstored-shim", SHIM, compile)?.join("shim.so");
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

fn cache_dir() -> io::Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(base.ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))?.join("splitd"))
}

/// A directory of the cache, named by the hash of what it is made from; made now if it is not there. Others may make it at the
/// same time: the first to finish wins.
fn once(
    cache: &Path,
    name: &str,
    inputs: &str,
    make: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let dir = cache.join(format!("{name}-{:016x}", hash(inputs.as_bytes())));
    if !dir.exists() {
        let draft = tempfile::Builder::new().prefix(name).tempdir_in(cache)?;
        make(draft.path())?;
        let made = fs::rename(draft.path(), &dir);
        if !dir.exists() {
            made?;
        }
    }
    Ok(dir)
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Downloads with the machine's own lists of packages; where there are none, with lists fetched for this alone; and where these
/// have another Xen, with those of the release that has this one. Root is not needed.
fn download(root: &Path) -> io::Result<()> {
    let debs = tempfile::tempdir()?;
    let apt = |options: &[String], command: &[&str]| {
        run(Command::new("apt-get").args(options).arg("-qq").args(command).current_dir(debs.path()))
    };
    let get = [&["download"], &PACKAGES[..]].concat();
    if apt(&[], &get).is_err() {
        let own = tempfile::tempdir()?;
        let path = |name: &str| own.path().join(name).display().to_string();
        fs::create_dir_all(path("lists/partial"))?;
        let mut options =
            vec![format!("-oDir::State={}", path("")), format!("-oDir::Cache={}", path("cache"))];
        apt(&options, &["update"])?;
        if apt(&options, &get).is_err() {
            fs::write(path("sources.list"), sources(&options)?)?;
            options.push(format!("-oDir::Etc::SourceList={}", path("sources.list")));
            options.push(format!("-oDir::Etc::SourceParts={}", path("none")));
            apt(&options, &["update"])?;
            apt(&options, &get)?;
        }
    }
    for entry in fs::read_dir(debs.path())? {
        let deb = entry?.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(root))?;
        }
    }
    Ok(())
}

/// The machine's own archives, as sources of the release that has the packages.
fn sources(options: &[String]) -> io::Result<String> {
    let wanted = ["Created-By: Packages", "Component: main", "Origin: Debian"];
    let mut list = Command::new("apt-get");
    list.args(options).args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"]).args(wanted);
    let archives = String::from_utf8_lossy(&list.output()?.stdout).into_owned();
    let lines = archives.lines().filter_map(|line| {
        let (uri, suite) = line.split_once(' ')?;
        let pocket = suite.find('-').and_then(|at| suite.get(at..)).unwrap_or_default();
        Some(format!("deb [signed-by={KEYRING}] {uri} {RELEASE}{pocket} main\n"))
    });
    Ok(lines.collect())
}

fn compile(dir: &Path) -> io::Result<()> {
    let source = dir.join("shim.c");
    fs::write(&source, SHIM)?;
    let flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"];
    run(Command::new("cc").args(flags).arg(dir.join("shim.so")).arg(source).arg("-ldl"))
}

fn run(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("no word of why");
    Err(io::Error::other(format!("{program} ended with {}: {last}", output.status)))
}
