//! Debian's packages, downloaded and unpacked into the user's cache, never installed: programs that tests meet, such as the real
//! xenstored and Prometheus. Knows nothing of what is done with them.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The directory into which these packages are unpacked. `release` is where they come from if the machine's own has none of them.
pub fn unpacked(name: &str, packages: &[&str], release: &str) -> io::Result<PathBuf> {
    once(name, &packages.concat(), |root| download(root, packages, release))
}

fn cache_dir() -> io::Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(base.ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))?.join("splitd"))
}

/// A directory of the cache, named by the hash of what it is made from; made now if it is not there. Others may make it at the
/// same time: the first to finish wins.
pub fn once(name: &str, inputs: &str, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    let cache = cache_dir()?;
    fs::create_dir_all(&cache)?;
    let dir = cache.join(format!("{name}-{:016x}", hash(inputs.as_bytes())));
    if !dir.exists() {
        let draft = tempfile::Builder::new().prefix(name).tempdir_in(&cache)?;
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
fn download(root: &Path, packages: &[&str], release: &str) -> io::Result<()> {
    let debs = tempfile::tempdir()?;
    let apt = |options: &[String], command: &[&str]| {
        run(Command::new("apt-get").args(options).arg("-qq").args(command).current_dir(debs.path()))
    };
    let get = [&["download"], packages].concat();
    if apt(&[], &get).is_err() {
        let own = tempfile::tempdir()?;
        let path = |name: &str| own.path().join(name).display().to_string();
        fs::create_dir_all(path("lists/partial"))?;
        let mut options =
            vec![format!("-oDir::State={}", path("")), format!("-oDir::Cache={}", path("cache"))];
        apt(&options, &["update"])?;
        if apt(&options, &get).is_err() {
            fs::write(path("sources.list"), sources(&options, release)?)?;
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
fn sources(options: &[String], release: &str) -> io::Result<String> {
    let wanted = ["Created-By: Packages", "Component: main", "Origin: Debian"];
    let mut list = Command::new("apt-get");
    list.args(options).args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"]).args(wanted);
    let archives = String::from_utf8_lossy(&list.output()?.stdout).into_owned();
    let lines = archives.lines().filter_map(|line| {
        let (uri, suite) = line.split_once(' ')?;
        let pocket = suite.find('-').and_then(|at| suite.get(at..)).unwrap_or_default();
        Some(format!("deb [signed-by={KEYRING}] {uri} {release}{pocket} main\n"))
    });
    Ok(lines.collect())
}

/// Runs it; what it said last if it fails.
pub fn run(command: &mut Command) -> io::Result<()> {
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
