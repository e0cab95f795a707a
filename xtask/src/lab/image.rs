//! Images of dom0 and of the guests' root: built once by tests/lab/images/build.sh, kept outside the tree under a name
//! that hashes what they are made from. Knows nothing about boots.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, process};

use anyhow::{Context, Result, bail};

use super::Xen;
use crate::{apt, command};

/// One built set of images.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    pub(crate) dir: PathBuf,
    pub(crate) xen: Xen,
}

impl Images {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The guests' kernel, as `6.1`.
    pub(crate) fn kernel(&self) -> Result<String> {
        let version = fs::read_to_string(self.file("kernel-version"))?;
        Ok(version.trim().splitn(3, '.').take(2).collect::<Vec<_>>().join("."))
    }
}

/// Where images are kept: `SPLITD_LAB_CACHE`, or `splitd-lab` in the user's cache.
pub(crate) fn cache() -> Result<PathBuf> {
    let dir = if let Some(dir) = env::var_os("SPLITD_LAB_CACHE") {
        PathBuf::from(dir)
    } else if let Some(dir) = env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(dir).join("splitd-lab")
    } else {
        PathBuf::from(env::var_os("HOME").context("HOME is not set: say SPLITD_LAB_CACHE")?)
            .join(".cache/splitd-lab")
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Whether the images for `xen` are there already.
pub(crate) fn is_built(xen: Xen) -> Result<bool> {
    Ok(dir_for(xen)?.exists())
}

/// The images for `xen`, built now if they are not there.
pub(crate) fn ready(xen: Xen) -> Result<Images> {
    let dir = dir_for(xen)?;
    if !dir.exists() {
        build(xen, &dir)?;
    }
    Ok(Images { dir, xen })
}

fn dir_for(xen: Xen) -> Result<PathBuf> {
    let inputs = command::root().join("tests/lab/images");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&inputs)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut hash = Fnv::default();
    hash.add(xen.version().as_bytes());
    hash.add(xen.suite().as_bytes());
    for file in files {
        hash.add(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.add(&fs::read(&file)?);
    }
    Ok(cache()?.join(format!("xen{}-{:016x}", xen.version(), hash.0)))
}

/// Builds beside the final place and renames: another lab sees all of it or nothing.
fn build(xen: Xen, dir: &Path) -> Result<()> {
    let sources = apt::sources_for(xen.suite())?;
    let building = dir.with_extension(format!("tmp{}", process::id()));
    fs::create_dir_all(&building)?;
    println!("lab: building images of {} with Xen {} (some minutes, once)", xen.suite(), xen.version());
    let log_path = building.with_extension("log");
    let log = fs::File::create(&log_path)?;
    let mut child = Command::new("bash")
        .arg(command::root().join("tests/lab/images/build.sh"))
        .args([xen.suite(), xen.version()])
        .arg(&building)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start bash")?;
    child.stdin.take().context("no pipe to build.sh")?.write_all(sources.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        let text = fs::read_to_string(&log_path).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        let _ = fs::remove_dir_all(&building);
        bail!(
            "building the image of {} ended with {status}; {}:\n{}",
            xen.suite(),
            log_path.display(),
            tail.join("\n")
        );
    }
    fs::remove_file(&log_path)?;
    if fs::rename(&building, dir).is_err() {
        // Another process was faster; its images are as good.
        fs::remove_dir_all(&building)?;
    }
    Ok(())
}

/// FNV-1a: the names must stay the same from one Rust release to the next.
#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.0 = (self.0 ^ 0xff).wrapping_mul(0x0100_0000_01b3);
    }
}
