//! A whole host without Xen: the simulated host in this process, the real splitd, splitctl and workers as processes beside it.
//! Knows nothing of what is tested on it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use splitd::ctl;
use splitd::protocol::Verb;
use splitd::report::Row;
use tempfile::TempDir;
use xenbus::DomId;
use xenbus::sim::{SimDomain, SimHost};

use crate::toolstack::{DiskConfig, Hotplug, Paths, ToolError, Toolstack, VifConfig};
use crate::wire::Wire;

/// Longest wait for anything that takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The daemon.
    pub splitd: PathBuf,
    /// Its command.
    pub splitctl: PathBuf,
    /// The program of disks' workers.
    pub blkback: PathBuf,
    /// The program of network interfaces' workers.
    pub netback: PathBuf,
    /// Where they were built; images are put there, too.
    pub dir: PathBuf,
}

impl Programs {
    /// Builds them in the profile of this very program, once, and says where they are.
    pub fn build() -> io::Result<Self> {
        static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let built = BUILT.get_or_init(|| build().map_err(|e| e.to_string()));
        let dir = built.clone().map_err(io::Error::other)?;
        let program = |name: &str| dir.join(name);
        Ok(Self {
            splitd: program("splitd"),
            splitctl: program("splitctl"),
            blkback: program("blkback"),
            netback: program("netback"),
            dir,
        })
    }
}

fn build() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.ancestors().find(|d| d.file_name().is_some_and(|n| n == "debug" || n == "release"));
    let dir = dir.ok_or_else(|| io::Error::other(format!("{}: not in a target directory", own.display())))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "-p", "splitd", "-p", "blkback", "-p", "netback"]);
    if let Some(target) = dir.parent() {
        command.env("CARGO_TARGET_DIR", target);
    }
    if dir.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status()?;
    if !status.success() {
        return Err(io::Error::other(format!("building splitd and its workers: {status}")));
    }
    Ok(dir.to_owned())
}

/// The host and all that runs on it.
#[derive(Debug)]
pub struct World {
    programs: Programs,
    config: PathBuf,
    environment: Vec<(String, String)>,
    splitd: Option<Child>,
    /// The simulated host.
    pub host: SimHost,
    /// xl.
    pub tools: Toolstack,
    /// What vifs are connected to.
    pub wire: Wire,
    /// They are taps of the kernel's instead.
    pub has_taps: bool,
    images: TempDir,
    dir: TempDir,
}

impl World {
    /// A host whose splitd has this configuration; its vifs are wires. Workers run as the user who runs this.
    pub fn start(config: &str) -> io::Result<Self> {
        Self::start_with(config, Programs::build()?, &[])
    }

    /// A host whose vifs are taps of the kernel's, in the network namespace that this runs in.
    pub fn start_on_taps(config: &str, programs: Programs) -> io::Result<Self> {
        Self::launch(config, programs, &[], true)
    }

    /// The same with other programs, and with more in splitd's environment, which its workers inherit.
    pub fn start_with(config: &str, programs: Programs, environment: &[(&str, &str)]) -> io::Result<Self> {
        Self::launch(config, programs, environment, false)
    }

    fn launch(
        config: &str,
        programs: Programs,
        environment: &[(&str, &str)],
        has_taps: bool,
    ) -> io::Result<Self> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let dir = TempDir::with_prefix("splitd-sim-")?;
        // Beside the programs: there is a file system with O_DIRECT, where /tmp may be a tmpfs.
        let images = TempDir::with_prefix_in("images-", &programs.dir)?;
        let host = SimHost::start(dir.path())?;
        let wire = Wire::start(&host)?;
        if has_taps {
            // splitd makes wires where there is something to connect them to.
            std::fs::remove_file(dir.path().join("wire.sock"))?;
        }
        let path = dir.path().join("splitd.toml");
        std::fs::write(&path, format!("worker_uid_base = 0\n{config}\n"))?;
        let tools = Toolstack::connect(&host).map_err(io::Error::other)?;
        let mut world = Self {
            programs,
            config: path,
            environment,
            splitd: None,
            host,
            tools,
            wire,
            has_taps,
            images,
            dir,
        };
        world.start_splitd()?;
        Ok(world)
    }

    /// Puts a policy where splitd looks for it; it counts from its next start or reload on.
    pub fn write_policy(&self, text: &str) -> io::Result<()> {
        std::fs::write(self.config.with_file_name("policy.toml"), text)
    }

    /// splitd's run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Where splitd keeps its ledger.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The process of splitd.
    #[must_use]
    pub fn splitd_pid(&self) -> Option<u32> {
        self.splitd.as_ref().map(Child::id)
    }

    /// What splitd and its workers said.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("splitd.log")).unwrap_or_default()
    }

    /// Starts splitd and waits until it answers.
    pub fn start_splitd(&mut self) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.path().join("splitd.log"))?;
        let child = Command::new(&self.programs.splitd)
            .arg("--host")
            .arg(format!("sim:{}", self.dir.path().display()))
            .arg("--config")
            .arg(&self.config)
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--blkback")
            .arg(&self.programs.blkback)
            .arg("--netback")
            .arg(&self.programs.netback)
            .arg("--sys")
            .arg(self.dir.path().join("sys"))
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--shm")
            .arg(self.dir.path())
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.splitd = Some(child);
        self.until("splitd answers", |w| w.ask(Verb::List).is_ok())
    }

    /// SIGKILL for splitd; its workers go on.
    pub fn kill_splitd(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.splitd.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks splitd.
    pub fn ask(&self, verb: Verb) -> io::Result<Value> {
        ctl::ask(&self.run_dir().join("splitd.sock"), verb).map_err(io::Error::other)
    }

    /// The command.
    #[must_use]
    pub fn splitctl_program(&self) -> &Path {
        &self.programs.splitctl
    }

    /// Runs splitctl to its end.
    pub fn run_splitctl(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut command = Command::new(&self.programs.splitctl);
        command.arg("--run-dir").arg(self.run_dir()).args(arguments).stdin(Stdio::null()).output()
    }

    /// What splitctl says.
    pub fn splitctl(&self, arguments: &[&str]) -> io::Result<String> {
        let output = self.run_splitctl(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(io::Error::other(format!("{output:?}"))) }
    }

    /// What splitd says of a device.
    pub fn show(&self, device: &str) -> io::Result<Row> {
        let answer = self.ask(Verb::Show { device: device.to_owned() })?;
        serde_json::from_value(answer.get("device").cloned().unwrap_or_default()).map_err(io::Error::other)
    }

    /// Waits for a condition, with all patience.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) -> io::Result<()> {
        let start = Instant::now();
        while !condition(self) {
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("never: {what}\n{}", self.log())));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// SIGKILL for the worker of a device; its process number, or `None` if it has none now.
    pub fn kill_worker(&self, device: &str) -> io::Result<Option<u32>> {
        let Some(pid) = self.show(device)?.pid else { return Ok(None) };
        kill(pid)?;
        Ok(Some(pid))
    }

    /// A new guest.
    pub fn guest(&self, domain: u16) -> io::Result<SimDomain> {
        let uuid = format!("0b1d5a8e-6c1f-4a53-9d5e-{domain:012}");
        self.host.domain(DomId(domain), &format!("guest-{domain}"), &uuid, 1 << 18)
    }

    /// A new sparse image.
    pub fn image(&self, name: &str, sectors: u64) -> io::Result<PathBuf> {
        let path = self.images.path().join(name);
        File::create_new(&path)?.set_len(sectors * 512)?;
        Ok(path)
    }

    /// A disk by its index, as `script=block-splitd` configures it.
    #[must_use]
    pub fn disk(&self, index: u8, target: &Path) -> DiskConfig {
        let splitctl = self.programs.splitctl.clone();
        DiskConfig::new(index, target, Hotplug::Splitctl { splitctl, run_dir: self.run_dir() })
    }

    /// Attaches, and says what splitd logged if that fails.
    pub fn attach(&mut self, guest: &SimDomain, disk: &DiskConfig) -> Result<Paths, ToolError> {
        self.tools.attach(guest.id(), disk)
    }

    /// Attaches a network interface.
    pub fn attach_vif(&mut self, guest: &SimDomain, vif: &VifConfig) -> Result<Paths, ToolError> {
        self.tools.attach_vif(guest.id(), vif)
    }
}

/// SIGKILL.
pub fn kill(pid: u32) -> io::Result<()> {
    let status = Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).stderr(Stdio::null()).status()?;
    // It may have ended by itself in between.
    if status.code().is_none() { Err(io::Error::other("sh was killed")) } else { Ok(()) }
}

/// Memory that a process has now, KiB.
pub fn resident_kib(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib = line.split_whitespace().next().and_then(|word| word.parse().ok());
    kib.ok_or_else(|| io::Error::other(format!("process {pid}: VmRSS:{line}")))
}

/// Processes started with this argument.
fn processes_with(argument: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|a| a == argument.as_bytes())
    };
    numbers.filter(has).collect()
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.kill_splitd();
        // Workers outlive splitd by design, not the test. Looked for rather than asked for: one may just have been started.
        for pid in processes_with(&format!("sim:{}", self.dir.path().display())) {
            let _ = kill(pid);
        }
    }
}
