//! Keeping the kernel's backends off devices that splitd is to serve, and letting them back: the one change to a host that an
//! operator asks for by name. Touches no running device. Knows of splitd its configuration and what it is told.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::config::{Config, WhichVifs};
use crate::kernel::{Backend, Driver, Sys};

/// Below the host's root.
const CONFIG: &str = "etc/splitd/splitd.toml";
const TMPFILES: &str = "etc/tmpfiles.d/splitd.conf";

const TMPFILES_TEXT: &str = include_str!("../../../dist/tmpfiles-splitd.conf");

/// The rule that keeps a module out: its file below the host's root, and what it says.
fn rule(backend: Backend) -> (&'static str, &'static str) {
    match backend {
        Backend::Blkback => {
            ("etc/modprobe.d/splitd.conf", include_str!("../../../dist/modprobe-splitd.conf"))
        }
        Backend::Netback => {
            ("etc/modprobe.d/splitd-vifs.conf", include_str!("../../../dist/modprobe-splitd-vifs.conf"))
        }
    }
}

/// What a backend serves.
fn devices(backend: Backend) -> &'static str {
    match backend {
        Backend::Blkback => "disks",
        Backend::Netback => "interfaces",
    }
}

/// Whose devices splitd serves stands there in its configuration.
fn key(backend: Backend) -> &'static str {
    match backend {
        Backend::Blkback => "serve",
        Backend::Netback => "serve_vifs",
    }
}

/// A host, or a directory that looks like one.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    sys: Sys,
    /// Only says what it would do.
    is_dry: bool,
}

impl Machine {
    /// Below `root`, usually `/`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), sys: Sys::new(&root.join("sys")), is_dry: false }
    }

    /// The same, where nothing is changed: what is said to have been done only would be.
    #[must_use]
    pub fn dry(self) -> Self {
        Self { is_dry: true, ..self }
    }

    fn set_autoprobe(&self, on: bool) -> io::Result<()> {
        if self.is_dry { Ok(()) } else { self.sys.set_autoprobe(on) }
    }

    /// Its `/sys`.
    #[must_use]
    pub fn sys(&self) -> &Sys {
        &self.sys
    }

    /// A path of the host.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Its `splitd.toml`.
    pub fn config(&self) -> anyhow::Result<Config> {
        Config::load(&self.path(CONFIG))
    }

    /// The file with the rule that keeps a module out, if it is there.
    #[must_use]
    pub fn kept_out_by(&self, backend: Backend) -> Option<String> {
        let (file, _) = rule(backend);
        self.path(file).exists().then(|| format!("/{file}"))
    }

    /// Keeps these backends of the kernel's away from new devices; says what it did, a line each.
    pub fn take_over(&self, backends: &[Backend]) -> anyhow::Result<Vec<String>> {
        if self.sys.autoprobe().is_none() && self.root == Path::new("/") {
            bail!(
                "there is no bus xen-backend in /sys: this is not a domain that can serve devices; nothing was done"
            );
        }
        if backends.contains(&Backend::Netback) && self.config()?.serve_vifs == WhichVifs::None {
            bail!(
                "serve_vifs in /{CONFIG} is \"none\": new interfaces would have no backend at all; set it and \
                 restart splitd first; nothing was done"
            );
        }
        let mut done = Vec::new();
        for &backend in backends {
            self.keep_away(backend, &mut done)?;
        }
        for &backend in backends.iter().filter(|b| self.kept_out_by(**b).is_some()) {
            let (devices, key) = (devices(backend), key(backend));
            done.push(format!("new {devices} that `{key}` in splitd.toml does not name have no backend"));
        }
        let is_out = |b| self.sys.driver(b) == Driver::Absent && self.kept_out_by(b).is_some();
        if self.sys.autoprobe() == Some(false) && Backend::ALL.into_iter().all(is_out) {
            self.remove(TMPFILES, &mut done)?;
            self.set_autoprobe(true)?;
            done.push(
                "set /sys/bus/xen-backend/drivers_autoprobe to 1: other kinds' drivers take their devices"
                    .to_owned(),
            );
        }
        Ok(done)
    }

    fn keep_away(&self, backend: Backend, done: &mut Vec<String>) -> anyhow::Result<()> {
        let held = self.sys.held(backend);
        let (file, text) = rule(backend);
        match self.sys.driver(backend) {
            Driver::Absent => done.push(self.install(file, text)?),
            Driver::Module if held.is_empty() => {
                done.push(self.install(file, text)?);
                done.push(self.unload(backend)?);
            }
            // With devices of the kernel's in use, or a driver that cannot be kept out, both serve side by side.
            Driver::Module | Driver::BuiltIn => {
                done.push(self.install(TMPFILES, TMPFILES_TEXT)?);
                self.set_autoprobe(false)?;
                done.push(format!(
                    "set /sys/bus/xen-backend/drivers_autoprobe to 0: splitd decides which {} the kernel gets",
                    devices(backend)
                ));
                if !held.is_empty() {
                    done.push(format!("left with the kernel until they are detached: {}", held.join(" ")));
                }
            }
        }
        Ok(())
    }

    /// Undoes [`take_over`](Self::take_over), for whatever backends it was. `served` are the devices that splitd serves, each with
    /// the backend that could take it; they stay with splitd until they are detached. `load` brings a driver in.
    pub fn hand_back(
        &self,
        served: &[(Backend, String)],
        load: impl Fn(Backend) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<String>> {
        let of = |backend| served.iter().filter(move |(of, _)| *of == backend).map(|(_, name)| name.as_str());
        let names = |backend| of(backend).collect::<Vec<_>>().join(" ");
        let loads = |backend| of(backend).next().is_some() && self.sys.driver(backend) == Driver::Absent;
        let before = self.sys.autoprobe();
        for backend in Backend::ALL.into_iter().filter(|b| loads(*b)) {
            // A driver that comes in later would take every device on the bus, also those in use. It comes in now, while none
            // is taken by itself.
            self.set_autoprobe(false).with_context(|| {
                format!(
                    "splitd serves {}, which the kernel's driver would take; nothing was done",
                    names(backend)
                )
            })?;
        }
        let mut done = Vec::new();
        for backend in Backend::ALL {
            let (file, text) = rule(backend);
            let removed = self.remove(file, &mut done)?;
            if loads(backend) {
                if self.is_dry {
                    // Loading is the caller's.
                } else if let Err(trouble) = load(backend) {
                    done.push(self.install(file, text)?);
                    self.set_autoprobe(before != Some(false))?;
                    let why = format!("{} could not be loaded, and splitd serves", backend.module());
                    return Err(trouble.context(format!("{why} {}; {}", names(backend), done.join("; "))));
                }
                done.push(format!("loaded {}", backend.module()));
            } else if removed && self.sys.driver(backend) == Driver::Absent {
                // As long as it is not there splitd takes new devices, and udev brings it in for the same ones.
                let (module, devices) = (backend.module(), devices(backend));
                let loaded = if self.is_dry { Ok(()) } else { load(backend) };
                done.push(match loaded {
                    Ok(()) => format!("loaded {module}: new {devices} are the kernel's"),
                    Err(trouble) => format!("{trouble}: load {module} before new {devices} are attached"),
                });
            }
        }
        self.remove(TMPFILES, &mut done)?;
        if self.sys.autoprobe() == Some(false) {
            self.set_autoprobe(true)?;
            done.push(
                "set /sys/bus/xen-backend/drivers_autoprobe to 1: the kernel takes new devices".to_owned(),
            );
        }
        if done.is_empty() {
            done.push("nothing to do: the kernel's backends were not kept away".to_owned());
        }
        if !served.is_empty() {
            let names: Vec<_> = served.iter().map(|(_, name)| name.as_str()).collect();
            done.push(format!("left with splitd until they are detached: {}", names.join(" ")));
        }
        Ok(done)
    }

    /// True if it was there.
    fn remove(&self, file: &str, done: &mut Vec<String>) -> anyhow::Result<bool> {
        let path = self.path(file);
        let outcome = if self.is_dry { fs::metadata(path).map(drop) } else { fs::remove_file(path) };
        match outcome {
            Ok(()) => {
                done.push(format!("removed /{file}"));
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("/{file}")),
        }
    }

    fn install(&self, file: &str, text: &str) -> anyhow::Result<String> {
        let path = self.path(file);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return Ok(format!("/{file} is there already"));
        }
        if self.is_dry {
            return Ok(format!("wrote /{file}"));
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(format!("wrote /{file}"))
    }

    /// `modprobe MODULE`
    pub fn load(backend: Backend) -> anyhow::Result<()> {
        let module = backend.module();
        let status = Command::new("modprobe").arg(module).status().context("modprobe")?;
        if status.success() { Ok(()) } else { bail!("modprobe {module}: {status}") }
    }

    fn unload(&self, backend: Backend) -> anyhow::Result<String> {
        let module = backend.module();
        if self.is_dry {
            return Ok(format!("unloaded {module}, which held no {}", devices(backend)));
        }
        let status = Command::new("modprobe").args(["-r", module]).status().context("modprobe")?;
        if status.success() {
            return Ok(format!("unloaded {module}, which held no {}", devices(backend)));
        }
        self.set_autoprobe(false)?;
        Ok(format!(
            "{module} could not be unloaded: set /sys/bus/xen-backend/drivers_autoprobe to 0 until the next boot"
        ))
    }
}

#[cfg(test)]
mod tests;
