//! Debian packages that a scenario wants in dom0 beside those of its image: fetched once by tests/lab/packages.sh, kept beside the images.
//! Knows neither what they are for nor who installs them.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::image::Images;
use crate::{apt, command};

/// The directory with `names` and what they depend on, as files.
pub(crate) fn fetched(images: &Images, names: &[String]) -> Result<PathBuf> {
    let dir = images.file(&format!("packages-{}", names.join("+")));
    if dir.exists() {
        return Ok(dir);
    }
    println!("lab: fetching {} for Xen {} (once)", names.join(" "), images.xen.version());
    let fetching = dir.with_extension(format!("tmp{}", process::id()));
    let log_path = fetching.with_extension("log");
    let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = Command::new("bash")
        .arg(command::root().join("tests/lab/packages.sh"))
        .arg(images.file("dom0.img"))
        .arg(&fetching)
        .args(names)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start bash")?;
    let sources = apt::sources_for(images.xen.suite())?;
    child.stdin.take().context("no pipe to packages.sh")?.write_all(sources.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        let _ = fs::remove_dir_all(&fetching);
        bail!("fetching {} ended with {status}; see {}", names.join(" "), log_path.display());
    }
    fs::remove_file(&log_path)?;
    if fs::rename(&fetching, &dir).is_err() {
        // Another process was faster.
        fs::remove_dir_all(&fetching)?;
    }
    Ok(dir)
}
