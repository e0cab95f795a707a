//! What xl and libxl do to the store: a disk's nodes in one transaction, the wait for state 2, the hotplug script, detaching,
//! destroying. Knows nothing of rings, nor of who the backend is.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use xenbus::DomId;
use xenbus::sim::{SimDomain, SimHost};
use xenbus::store::wire::{Errno, Permission, Rights};

use crate::blkfront::state;
use crate::store::{StoreClient, StoreError};

mod vif;

pub use vif::VifConfig;

/// Longest wait for states 2 and 6. libxl gives up after 10 s; a test machine under load is given more, and no verdict rests on
/// speed here.
pub const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the toolstack gave up, as `xl` would say it.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The store, or a state that did not come in time.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The script could not be run.
    #[error("{script}: {source}")]
    Spawn {
        /// Which.
        script: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The script failed, and what it left in `hotplug-error`.
    #[error("script: {0}")]
    Script(String),
    /// The device is there already.
    #[error("device already exists in xenstore: {0}")]
    Exists(String),
}

/// What `xl` runs between state 2 and the guest's turn.
#[derive(Clone, Debug)]
pub enum Hotplug {
    /// What `block-splitd` does: asks splitd through splitctl, and writes what that says.
    Splitctl {
        /// The program.
        splitctl: PathBuf,
        /// splitd's run directory.
        run_dir: PathBuf,
    },
    /// What the stock `block` script leaves behind for a target that is a block device or a loop device of its own.
    Stock,
}

/// A disk, as in `xl`'s configuration.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// `xvda`.
    pub vdev: String,
    /// Its number.
    pub devid: u32,
    /// `target=`.
    pub target: PathBuf,
    /// `access=rw`.
    pub is_writable: bool,
    /// `devtype=cdrom`.
    pub is_cdrom: bool,
    /// `discard`.
    pub has_discard: bool,
    /// `direct-io-safe`.
    pub is_direct_io_safe: bool,
    /// `script=`.
    pub hotplug: Hotplug,
    /// `backend/vbd` or `backend/vbd3`.
    pub kind: &'static str,
}

impl DiskConfig {
    /// A writable disk `xvda`, `xvdb`, … by its index.
    #[must_use]
    pub fn new(index: u8, target: &Path, hotplug: Hotplug) -> Self {
        let letter = char::from(b'a' + index.min(15));
        Self {
            vdev: format!("xvd{letter}"),
            devid: 51712 + u32::from(index.min(15)) * 16,
            target: target.to_owned(),
            is_writable: true,
            is_cdrom: false,
            has_discard: true,
            is_direct_io_safe: false,
            hotplug,
            kind: "vbd",
        }
    }
}

/// A toolstack, as dom0.
#[derive(Debug)]
pub struct Toolstack {
    store: StoreClient,
}

/// Where a device's nodes are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The guest's directory.
    pub frontend: String,
    /// The backend's directory.
    pub backend: String,
    /// libxl's own directory.
    pub libxl: String,
    /// `backend/vbd/7/51712`, as scripts get it.
    pub xenbus_path: String,
    /// The backend's directory of all devices of this kind of the guest's.
    parent: String,
}

impl Paths {
    /// Those of a disk of a domain.
    #[must_use]
    pub fn new(domain: DomId, disk: &DiskConfig) -> Self {
        Self::of(domain, disk.kind, "vbd", disk.devid)
    }

    /// Those of a network interface of a domain.
    #[must_use]
    pub fn vif(domain: DomId, devid: u32) -> Self {
        Self::of(domain, "vif", "vif", devid)
    }

    fn of(domain: DomId, kind: &str, front_kind: &str, devid: u32) -> Self {
        let parent = format!("/local/domain/0/backend/{kind}/{domain}");
        Self {
            frontend: format!("/local/domain/{domain}/device/{front_kind}/{devid}"),
            backend: format!("{parent}/{devid}"),
            libxl: format!("/libxl/{domain}/device/{front_kind}/{devid}"),
            xenbus_path: format!("backend/{kind}/{domain}/{devid}"),
            parent,
        }
    }
}

fn flag(value: bool) -> String {
    u32::from(value).to_string()
}

fn backend_nodes(domain: DomId, disk: &DiskConfig, paths: &Paths) -> Vec<(&'static str, String)> {
    let script = match &disk.hotplug {
        Hotplug::Splitctl { .. } => "/etc/xen/scripts/block-splitd".to_owned(),
        Hotplug::Stock => "/etc/xen/scripts/block".to_owned(),
    };
    let mut nodes = vec![
        ("frontend", paths.frontend.clone()),
        ("params", disk.target.display().to_string()),
        ("script", script),
        ("frontend-id", domain.to_string()),
        ("online", flag(true)),
        ("removable", flag(disk.is_cdrom)),
        ("bootable", flag(true)),
        ("state", state::INITIALISING.to_string()),
        ("dev", disk.vdev.clone()),
        ("type", "phy".to_owned()),
        ("mode", if disk.is_writable { "w" } else { "r" }.to_owned()),
        ("device-type", if disk.is_cdrom { "cdrom" } else { "disk" }.to_owned()),
        ("discard-enable", flag(disk.has_discard)),
        ("specification", "xen".to_owned()),
    ];
    if disk.is_direct_io_safe {
        nodes.push(("direct-io-safe", flag(true)));
    }
    nodes
}

fn frontend_nodes(disk: &DiskConfig, paths: &Paths) -> Vec<(&'static str, String)> {
    vec![
        ("backend", paths.backend.clone()),
        ("backend-id", "0".to_owned()),
        ("state", state::INITIALISING.to_string()),
        ("virtual-device", disk.devid.to_string()),
        ("device-type", if disk.is_cdrom { "cdrom" } else { "disk" }.to_owned()),
        ("trusted", flag(true)),
        ("protocol", "x86_64-abi".to_owned()),
    ]
}

fn owned_by(owner: DomId, reader: DomId) -> [Permission; 2] {
    [Permission { domain: owner, rights: Rights::None }, Permission { domain: reader, rights: Rights::Read }]
}

impl Toolstack {
    /// Connects to dom0's store of a simulated host.
    pub fn connect(host: &SimHost) -> Result<Self, ToolError> {
        Ok(Self { store: StoreClient::connect(&host.dir().join("xenstored.sock"))? })
    }

    /// Its connection.
    pub fn store(&mut self) -> &mut StoreClient {
        &mut self.store
    }

    /// `xl block-attach`: nodes, state 2, script. On failure the nodes stay, as with xl.
    pub fn attach(&mut self, domain: DomId, disk: &DiskConfig) -> Result<Paths, ToolError> {
        let paths = self.write_nodes(domain, disk)?;
        self.store.wait_state(&format!("{}/state", paths.backend), &[state::INIT_WAIT], STATE_TIMEOUT)?;
        self.run_script(disk, &paths, "add")?;
        Ok(paths)
    }

    /// All nodes of a disk, in one transaction.
    pub fn write_nodes(&mut self, domain: DomId, disk: &DiskConfig) -> Result<Paths, ToolError> {
        let paths = Paths::new(domain, disk);
        let (back, front) = (backend_nodes(domain, disk, &paths), frontend_nodes(disk, &paths));
        self.write_device(domain, &paths, &back, &front)?;
        Ok(paths)
    }

    fn write_device(
        &mut self,
        domain: DomId,
        paths: &Paths,
        back: &[(&str, String)],
        front: &[(&str, String)],
    ) -> Result<(), ToolError> {
        if self.store.read(&format!("{}/state", paths.backend))?.is_some() {
            return Err(ToolError::Exists(paths.backend.clone()));
        }
        self.store.transaction(|store| {
            store.make(&paths.libxl, &[Permission { domain: DomId::DOM0, rights: Rights::None }])?;
            store.write(&format!("{}/frontend", paths.libxl), &paths.frontend)?;
            store.write(&format!("{}/backend", paths.libxl), &paths.backend)?;
            store.make(&paths.frontend, &owned_by(domain, DomId::DOM0))?;
            for (name, value) in front {
                store.write(&format!("{}/{name}", paths.frontend), value)?;
            }
            store.make(&paths.backend, &owned_by(DomId::DOM0, domain))?;
            for (name, value) in back {
                store.write(&format!("{}/{name}", paths.backend), value)?;
                store.write(&format!("{}/{name}", paths.libxl), value)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn run_script(&mut self, disk: &DiskConfig, paths: &Paths, action: &str) -> Result<(), ToolError> {
        let numbers = match &disk.hotplug {
            Hotplug::Stock => "7:0".to_owned(),
            Hotplug::Splitctl { splitctl, run_dir } => {
                let output = Command::new(splitctl)
                    .arg("--run-dir")
                    .arg(run_dir)
                    .args(["hotplug", action, &paths.xenbus_path])
                    .output()
                    .map_err(|source| ToolError::Spawn { script: splitctl.clone(), source })?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
                if action == "add" && !output.status.success() {
                    let error = text(&output.stderr);
                    self.store.write(&format!("{}/hotplug-error", paths.backend), &error)?;
                    self.store.write(&format!("{}/hotplug-status", paths.backend), "error")?;
                    return Err(ToolError::Script(error));
                }
                text(&output.stdout)
            }
        };
        if action == "add" {
            let target = disk.target.display().to_string();
            if !numbers.is_empty() {
                self.store.write(&format!("{}/physical-device", paths.backend), &numbers)?;
            }
            self.store.write(&format!("{}/physical-device-path", paths.backend), &target)?;
            self.store.write(&format!("{}/hotplug-status", paths.backend), "connected")?;
        }
        Ok(())
    }

    /// The first half of `xl block-detach`: tells the backend; by force, the frontend's directory goes, too.
    pub fn begin_detach(&mut self, paths: &Paths, is_forced: bool) -> Result<(), ToolError> {
        self.store.transaction(|store| {
            if is_forced {
                remove_if_there(store, &paths.frontend)?;
            }
            let state = store.read(&format!("{}/state", paths.backend))?;
            store.write(&format!("{}/online", paths.backend), "0")?;
            if state.as_deref() != Some("6") {
                store.write(&format!("{}/state", paths.backend), &state::CLOSING.to_string())?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// The second half: waits for state 6, runs the script, removes all nodes and empty parents.
    pub fn finish_detach(&mut self, disk: &DiskConfig, paths: &Paths) -> Result<(), ToolError> {
        self.store.wait_state(&format!("{}/state", paths.backend), &[state::CLOSED], STATE_TIMEOUT)?;
        self.run_script(disk, paths, "remove")?;
        self.remove_device(paths)
    }

    fn remove_device(&mut self, paths: &Paths) -> Result<(), ToolError> {
        self.store.transaction(|store| {
            for path in [&paths.frontend, &paths.libxl, &paths.backend] {
                remove_if_there(store, path)?;
            }
            if store.list(&paths.parent)?.is_empty() {
                remove_if_there(store, &paths.parent)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// `xl destroy`: all its disks by force, then the domain.
    pub fn destroy(
        &mut self,
        host: &SimHost,
        guest: &SimDomain,
        disks: &[DiskConfig],
    ) -> Result<(), ToolError> {
        let paths: Vec<_> = disks.iter().map(|d| Paths::new(guest.id(), d)).collect();
        for p in &paths {
            self.begin_detach(p, true)?;
        }
        for (disk, p) in disks.iter().zip(&paths) {
            self.finish_detach(disk, p)?;
        }
        host.destroy(guest.id()).map_err(StoreError::Io)?;
        Ok(())
    }
}

fn remove_if_there(store: &mut StoreClient, path: &str) -> Result<(), StoreError> {
    store.remove(path).or_else(|e| if e.errno() == Some(Errno::NoEntry) { Ok(()) } else { Err(e) })
}
