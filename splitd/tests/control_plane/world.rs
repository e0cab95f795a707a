//! A simulated host with a real splitd, the obedient worker, and the two who write nodes: the toolstack and the guest. Every wait
//! is for a condition.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use xenbus::DomId;
use xenbus::sim::{SimDomain, SimHost};
use xenbus::store::{Address, Store};

/// Generous: the machine may be loaded.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) host: SimHost,
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
    splitd: Option<Child>,
    domains: Vec<SimDomain>,
}

/// One disk, as libxl and the guest see it.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) backend: String,
    pub(crate) frontend: String,
    pub(crate) xenbus_path: String,
    pub(crate) dev: String,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_config("serve = \"script\"\n")
    }

    pub(crate) fn with_config(config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("sd").tempdir().unwrap();
        fs::create_dir(dir.path().join("host")).unwrap();
        fs::create_dir(dir.path().join("sys")).unwrap();
        fs::write(dir.path().join("splitd.toml"), config).unwrap();
        let host = SimHost::start(&dir.path().join("host")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = host.dir().join("xenstored.sock");
        let store = runtime.block_on(Store::connect(&Address::Socket(socket))).unwrap();
        let mut world = Self { dir, host, store, runtime, splitd: None, domains: Vec::new() };
        world.start_splitd();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn start_splitd(&mut self) {
        self.start_splitd_with(&[]);
    }

    pub(crate) fn start_splitd_with(&mut self, environment: &[(&str, &str)]) {
        let worker =
            Path::new(env!("CARGO_BIN_EXE_splitd")).with_file_name("examples").join("obedient_worker");
        assert!(worker.exists(), "{}: `cargo test` builds it", worker.display());
        let log = fs::File::options().create(true).append(true).open(self.path("splitd.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_splitd"))
            .args(["--host", &format!("sim:{}", self.host.dir().display())])
            .arg("--run-dir")
            .arg(self.path("run"))
            .arg("--config")
            .arg(self.path("splitd.toml"))
            .arg("--sys")
            .arg(self.path("sys"))
            .arg("--blkback")
            .arg(worker)
            .env("RUST_LOG", "info")
            .env_remove("NOTIFY_SOCKET")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.splitd = Some(child);
        self.until("splitd answers", |world| world.ctl(&["list"]).status.success());
    }

    fn splitd_pid(&self) -> u32 {
        self.splitd.as_ref().unwrap().id()
    }

    pub(crate) fn splitd_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.splitd_pid())).unwrap().count()
    }

    /// Also those that have ended and not been waited for.
    pub(crate) fn splitd_children(&self) -> usize {
        let pid = self.splitd_pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().count()
    }

    /// SIGKILL.
    pub(crate) fn kill_splitd(&mut self) {
        let mut child = self.splitd.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("splitd.log")).unwrap_or_default()
    }

    pub(crate) fn run_dir_entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("run")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_splitctl"))
            .arg("--run-dir")
            .arg(self.path("run"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What `splitctl show --json` says of a disk.
    pub(crate) fn show(&self, disk: &Disk) -> Value {
        let output = self.ctl(&["show", "--json", &disk.dev]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        answer.get("device").cloned().unwrap_or(Value::Null)
    }

    pub(crate) fn pid(&self, disk: &Disk) -> Option<u32> {
        u32::try_from(self.show(disk)["pid"].as_u64()?).ok()
    }

    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "in vain: {what}\n{}", self.log());
            sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let value = self.runtime.block_on(self.store.read(path)).ok()?;
        Some(String::from_utf8(value).unwrap())
    }

    pub(crate) fn write(&self, dir: &str, pairs: &[(&str, &str)]) {
        self.runtime.block_on(async {
            let tx = |tx: xenbus::store::Nodes| async move {
                for (name, value) in pairs {
                    tx.write(&format!("{dir}/{name}"), value.as_bytes()).await?;
                }
                Ok::<(), xenbus::store::Error>(())
            };
            self.store.transaction(tx).await.unwrap();
        });
    }

    pub(crate) fn remove(&self, path: &str) {
        let _ = self.runtime.block_on(self.store.remove(path));
    }

    pub(crate) fn domain(&mut self, domid: u16) {
        let uuid = format!("00000000-0000-0000-0000-{domid:012}");
        self.domains.push(self.host.domain(DomId(domid), &format!("web{domid}"), &uuid, 8).unwrap());
    }

    /// What libxl writes for a disk, in one transaction; returns at once.
    pub(crate) fn attach(&self, domid: u16, target: &str, more: &[(&str, &str)]) -> Disk {
        let disk = Disk {
            backend: format!("/local/domain/0/backend/vbd/{domid}/51712"),
            frontend: format!("/local/domain/{domid}/device/vbd/51712"),
            xenbus_path: format!("backend/vbd/{domid}/51712"),
            dev: format!("vbd/{domid}/xvda"),
        };
        let mut pairs = vec![
            (disk.frontend.clone() + "/backend", disk.backend.clone()),
            (disk.frontend.clone() + "/state", "1".to_owned()),
            (disk.frontend.clone() + "/protocol", "x86_64-abi".to_owned()),
            (disk.backend.clone() + "/frontend", disk.frontend.clone()),
        ];
        let nodes = [
            ("frontend-id", domid.to_string()),
            ("params", target.to_owned()),
            ("script", "/etc/xen/scripts/block-splitd".to_owned()),
            ("online", "1".to_owned()),
            ("removable", "0".to_owned()),
            ("mode", "w".to_owned()),
            ("device-type", "disk".to_owned()),
            ("discard-enable", "1".to_owned()),
            ("state", "1".to_owned()),
        ];
        pairs.extend(nodes.into_iter().map(|(name, value)| (format!("{}/{name}", disk.backend), value)));
        pairs.extend(
            more.iter().map(|(name, value)| (format!("{}/{name}", disk.backend), (*value).to_owned())),
        );
        let pairs: Vec<_> =
            pairs.iter().map(|(path, value)| (path.trim_start_matches('/'), value.as_str())).collect();
        self.write("", &pairs);
        disk
    }

    /// As libxl waits: for exactly this state.
    pub(crate) fn backend_reaches(&self, disk: &Disk, state: &str) {
        let path = format!("{}/state", disk.backend);
        self.until(&format!("{} reaches state {state}", disk.dev), |world| {
            world.read(&path).as_deref() == Some(state)
        });
    }

    /// As the hotplug script does.
    pub(crate) fn script_adds(&self, disk: &Disk) -> Result<String, String> {
        let output = self.ctl(&["hotplug", "add", &disk.xenbus_path]);
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap().trim().to_owned());
        }
        self.write(&disk.backend, &[("hotplug-status", "connected")]);
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    pub(crate) fn guest_says(&self, disk: &Disk, state: &str) {
        self.write(&disk.frontend, &[("state", state)]);
    }

    pub(crate) fn guest_connects(&self, disk: &Disk) {
        self.write(
            &disk.frontend,
            &[("ring-ref", "8"), ("event-channel", "15"), ("feature-persistent", "1")],
        );
        self.guest_says(disk, "3");
    }

    /// From nothing to state 4.
    pub(crate) fn connected(&mut self, domid: u16, target: &str) -> Disk {
        self.domain(domid);
        let disk = self.attach(domid, target, &[]);
        self.backend_reaches(&disk, "2");
        self.script_adds(&disk).unwrap();
        self.guest_connects(&disk);
        self.backend_reaches(&disk, "4");
        self.guest_says(&disk, "4");
        disk
    }

    /// As `xl block-detach` begins.
    pub(crate) fn detach(&self, disk: &Disk) {
        self.write(&disk.backend, &[("online", "0"), ("state", "5")]);
    }

    /// As libxl ends a device.
    pub(crate) fn toolstack_removes(&self, disk: &Disk) {
        self.remove(&disk.frontend);
        self.remove(&disk.backend);
    }

    pub(crate) fn until_gone(&self, disk: &Disk) {
        self.until("the disk is forgotten", |world| {
            world.show(disk).is_null() && !world.run_dir_entries().iter().any(|name| name.starts_with("vbd-"))
        });
    }
}

pub(crate) fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

pub(crate) fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

impl Drop for World {
    fn drop(&mut self) {
        // splitd first, or it starts successors.
        if let Some(mut child) = self.splitd.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let host = format!("sim:{}", self.host.dir().display());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if words.split(|byte| *byte == 0).any(|word| word == host.as_bytes()) {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        }
    }
}
