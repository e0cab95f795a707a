//! The daemon as a whole: finds devices, gives each its task, passes on what changed and what is asked. Knows nothing of what a
//! device does about it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tracing::{info, warn};
use worker::message::Opened;
use xenbus::DomId;
use xenbus::store::{Address, Changed, Error, Paths, Store};

use crate::config::{Config, WhichVifs};
use crate::control::{self, Answers};
use crate::device::{Answer, Command, Device, Host, Mailbox};
use crate::id::{self, DeviceId, Kind};
use crate::kernel::Sys;
use crate::limits::Limits;
use crate::nodes;
use crate::protocol::Verb;
use crate::report::Row;
use crate::select;
use crate::tap::Links;
use crate::web;

/// Between attempts to reach a store that is not up yet.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// A script's device may be news to us for a moment after splitd started.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(5);

/// A script is answered before libxl kills it at 40 s, whatever happens.
const SCRIPT_TIME: Duration = Duration::from_secs(30);

/// When to look at the kernel's bus after something changed.
const BUS_WAITS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];

/// How often it is looked whether something set for a while is over.
const EXPIRY: Duration = Duration::from_secs(1);

/// A worker hands over within 5 s or is killed; the rest is its successor's fence. Less than `splitctl` waits.
const RESTART_TIME: Duration = Duration::from_secs(30);

/// Other commands.
const COMMAND_TIME: Duration = Duration::from_secs(10);

/// How splitd is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// `xen` or `sim:DIR`
    pub host: String,
    /// `splitd.toml`
    pub config: PathBuf,
    /// `/run/splitd`
    pub run_dir: PathBuf,
    /// `/var/lib/splitd`
    pub state_dir: PathBuf,
    /// The program that serves disks.
    pub blkback: PathBuf,
    /// The program that serves network interfaces.
    pub netback: PathBuf,
    /// `/sys`
    pub sys_dir: PathBuf,
    /// `/dev/shm`
    pub shm_dir: PathBuf,
}

struct Daemon {
    host: Rc<Host>,
    devices: RefCell<BTreeMap<DeviceId, Mailbox>>,
    /// A device came or went.
    population: Notify,
    /// Devices may have come to the kernel's bus.
    bus_changed: Notify,
}

/// Runs until told to end. Workers go on.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let config = Config::load(&options.config)?;
    make_run_dir(&options.run_dir)?;
    let lock_path = options.run_dir.join("splitd.lock");
    let lock = std::fs::File::create(&lock_path).with_context(|| lock_path.display().to_string())?;
    if lock.try_lock().is_err() {
        bail!("{}: another splitd runs", lock_path.display());
    }
    let limits = Limits::load(options.config.with_file_name("policy.toml"), &options.run_dir)?;
    let store = connect(&options.host).await?;
    let host = Rc::new(Host {
        backend: own_domain(&store).await,
        store,
        config,
        links: Links::of_host(&options.host),
        host: options.host,
        blkback: options.blkback,
        netback: options.netback,
        run_dir: options.run_dir.clone(),
        sys: Sys::new(&options.sys_dir),
        limits,
        sharing: RefCell::default(),
        reports: RefCell::default(),
    });
    let daemon = Rc::new(Daemon {
        host,
        devices: RefCell::default(),
        population: Notify::new(),
        bus_changed: Notify::new(),
    });
    daemon.watch().await?;
    daemon.adopt_all();
    daemon.scan().await;
    let listener = control::listen(&options.run_dir.join("splitd.sock"))?;
    tokio::task::spawn_local(control::serve(listener, Rc::clone(&daemon)));
    tokio::task::spawn_local(crate::xenstat::publish(Rc::clone(&daemon.host), options.shm_dir));
    tokio::task::spawn_local(crate::ledger::keep(Rc::clone(&daemon.host), options.state_dir));
    if let Some(listen) = daemon.host.config.metrics.clone() {
        tokio::task::spawn_local(web::serve(listen, Rc::clone(&daemon)));
    }
    let bus = Rc::clone(&daemon);
    tokio::task::spawn_local(async move { bus.share_bus().await });
    daemon.bus_changed.notify_one();
    let devices = daemon.devices.borrow().len();
    info!("ready: {devices} devices");
    ready(devices);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut expiry = tokio::time::interval(EXPIRY);
    loop {
        tokio::select! {
            changes = daemon.host.store.changed() => daemon.pass_on(changes).await,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // The outcome is in the log.
            _ = hangup.recv() => drop(daemon.reload()),
            _ = expiry.tick() => {
                if daemon.host.limits.expire() {
                    daemon.tell_interfaces();
                }
            }
        }
    }
    info!("ending; workers go on");
    Ok(())
}

fn make_run_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .with_context(|| dir.display().to_string())
}

/// Tells systemd; a host without it is not told.
fn ready(devices: usize) {
    use sd_notify::NotifyState;
    let status = format!("{devices} devices");
    if let Err(trouble) = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]) {
        warn!("systemd: {trouble}");
    }
}

/// Where the store of a host is.
pub fn store_address(host: &str) -> anyhow::Result<Address> {
    match host.split_once(':') {
        None if host == "xen" => Address::discover()
            .context("no xenstore: neither its socket nor /dev/xen/xenbus is there; is this a Xen host?"),
        Some(("sim", dir)) if !dir.is_empty() => Ok(Address::Socket(Path::new(dir).join("xenstored.sock"))),
        _ => bail!("--host is {host:?}: allowed are xen and sim:DIR"),
    }
}

async fn connect(host: &str) -> anyhow::Result<Store> {
    let mut told = false;
    loop {
        let trouble = match store_address(host) {
            Ok(address) => match Store::connect(&address).await {
                Ok(store) => return Ok(store),
                Err(trouble @ Error::Connect { .. }) => trouble.to_string(),
                Err(trouble) => return Err(trouble.into()),
            },
            Err(trouble) if host == "xen" => trouble.to_string(),
            Err(trouble) => return Err(trouble),
        };
        if !std::mem::replace(&mut told, true) {
            warn!("{trouble}; waiting for it");
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
}

/// The domain we run in: `domid` of our own home, to which relative paths lead.
async fn own_domain(store: &Store) -> DomId {
    let value = store.read("domid").await.ok();
    let domid = value.as_deref().and_then(nodes::number).and_then(|n| u16::try_from(n).ok());
    domid.map_or(DomId::DOM0, DomId)
}

impl Daemon {
    fn base(&self, kind: Kind) -> String {
        DeviceId::kind_dir(self.host.backend, kind)
    }

    async fn watch(&self) -> anyhow::Result<()> {
        // All kinds: where no driver takes devices by itself, somebody has to give the others theirs.
        let all = format!("/local/domain/{}/backend", self.host.backend);
        Ok(self.host.store.watch(&all, "backend").await?)
    }

    /// A device that is only on record has a worker to end, or a directory to remove.
    fn adopt_all(self: &Rc<Self>) {
        let Ok(entries) = std::fs::read_dir(&self.host.run_dir) else { return };
        for entry in entries.flatten() {
            let backend = self.host.backend;
            if let Some(id) = entry.file_name().to_str().and_then(|name| id::from_dir_name(name, backend)) {
                self.touch(id);
            }
        }
    }

    async fn scan(self: &Rc<Self>) {
        for kind in Kind::ALL {
            if let Err(trouble) = self.scan_kind(kind).await {
                warn!("{trouble}");
            }
        }
        let known: Vec<_> = self.devices.borrow().keys().copied().collect();
        known.into_iter().for_each(|id| self.touch(id));
    }

    async fn scan_kind(self: &Rc<Self>, kind: Kind) -> Result<(), Error> {
        let base = self.base(kind);
        for domain in self.names(&base).await? {
            for device in self.names(&format!("{base}/{domain}")).await? {
                if let Some(id) = id::of_backend_path(&format!("{base}/{domain}/{device}")) {
                    self.touch(id);
                }
            }
        }
        Ok(())
    }

    async fn names(&self, path: &str) -> Result<Vec<String>, Error> {
        match self.host.store.directory(path).await {
            Err(error) if error.is_no_entry() => Ok(Vec::new()),
            other => other,
        }
    }

    /// Has a device look again; makes its task if it is new.
    fn touch(self: &Rc<Self>, id: DeviceId) {
        if let Some(mailbox) = self.devices.borrow().get(&id) {
            mailbox.dirty.notify_one();
            return;
        }
        let (mailbox, task) = Device::start(Rc::clone(&self.host), id);
        self.devices.borrow_mut().insert(id, mailbox);
        self.population.notify_waiters();
        let daemon = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let ended = task.await;
            daemon.devices.borrow_mut().remove(&id);
            if let Err(trouble) = ended {
                warn!(device = %id, "its task failed: {trouble}");
            }
            // The directory may have been made anew while the old device was being forgotten.
            let path = format!("{}/state", id.backend_dir());
            if daemon.host.store.read(&path).await.is_ok() {
                daemon.touch(id);
            }
        });
    }

    async fn pass_on(self: &Rc<Self>, changes: Vec<Changed>) {
        let mut devices = BTreeSet::new();
        let mut scan = false;
        for change in changes {
            let frontend = change.token.strip_prefix("frontend:");
            if let Some(id) = frontend.and_then(|name| id::from_dir_name(name, self.host.backend)) {
                devices.insert(id);
                continue;
            }
            match change.paths {
                Paths::AllBelow => scan = true,
                Paths::These(paths) => {
                    for path in paths {
                        match id::of_backend_path(&path) {
                            Some(id) => {
                                devices.insert(id);
                            }
                            // Somebody else's kind needs no scan; a level above the devices does.
                            None => scan |= DeviceId::split_backend_path(&path).is_none(),
                        }
                    }
                }
            }
        }
        if scan {
            self.scan().await;
        }
        devices.into_iter().for_each(|id| self.touch(id));
        self.bus_changed.notify_one();
    }

    /// After `splitctl takeover` beside a kernel backend no driver takes a device by itself: what splitd does not serve is
    /// given to the kernel's driver here. The kernel learns of devices as we do, a moment sooner or later.
    async fn share_bus(&self) {
        loop {
            self.bus_changed.notified().await;
            for wait in BUS_WAITS {
                tokio::time::sleep(wait).await;
                if self.host.sys.autoprobe() != Some(false) {
                    break;
                }
                for (name, driver) in self.host.sys.devices() {
                    if driver.is_none() && self.is_the_kernels(&name) {
                        self.give_to_kernel(&name);
                    }
                }
            }
        }
    }

    fn is_the_kernels(&self, name: &str) -> bool {
        let kind = name.split('-').next().unwrap_or_default();
        if Kind::ALL.iter().all(|known| known.backend_name() != kind) {
            return true;
        }
        if kind == Kind::Vif.backend_name() && self.host.config.serve_vifs == WhichVifs::None {
            return true;
        }
        let reports = self.host.reports.borrow();
        id::from_dir_name(name, self.host.backend)
            .and_then(|id| reports.get(&id))
            .is_some_and(|report| report.not_ours.is_some())
    }

    fn give_to_kernel(&self, name: &str) {
        match self.host.sys.bind(name) {
            Ok(true) => info!("{name}: given to the kernel's driver"),
            Ok(false) => {}
            Err(trouble) => warn!("{name}: {trouble}"),
        }
    }

    fn rows(&self) -> Vec<Row> {
        self.host.reports.borrow().values().map(|report| report.row()).collect()
    }

    fn reload(self: &Rc<Self>) -> Result<Value, String> {
        let outcome = self.host.limits.reload();
        self.tell_interfaces();
        outcome
    }

    /// Workers of interfaces are told of other limits by their tasks.
    fn tell_interfaces(self: &Rc<Self>) {
        let known: Vec<_> = self.devices.borrow().keys().copied().collect();
        known.into_iter().filter(|id| id.kind == Kind::Vif).for_each(|id| self.touch(id));
    }

    /// The device that an operator names.
    fn find(&self, text: &str) -> Result<(DeviceId, Mailbox), String> {
        let id = select::device(text, &self.rows())?;
        let mailbox = self.devices.borrow().get(&id).cloned();
        mailbox.map(|mailbox| (id, mailbox)).ok_or_else(|| format!("{id}: gone"))
    }

    async fn ask<T>(
        &self,
        mailbox: &Mailbox,
        time: Duration,
        command: impl FnOnce(Answer<T>) -> Command,
    ) -> Result<T, String> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            mailbox.commands.send(command(answer)).await.map_err(|_| "the device is gone".to_owned())?;
            answered.await.unwrap_or_else(|_| Err("the device is gone".to_owned()))
        };
        match tokio::time::timeout(time, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s; is xenstore there?", time.as_secs())),
        }
    }

    /// Something that ends when a worker has ended or another serves.
    async fn have_done(
        &self,
        device: &str,
        command: impl FnOnce(Answer<String>) -> Command,
    ) -> Result<Value, String> {
        let (_, mailbox) = self.find(device)?;
        let done = self.ask(&mailbox, RESTART_TIME, command).await?;
        Ok(json!({ "done": done }))
    }

    /// The mailbox of a script's device, which may be a moment older than our knowledge of it.
    async fn script_device(self: &Rc<Self>, path: &str) -> Result<Mailbox, String> {
        let id = DeviceId::split_xenbus_path(path, self.host.backend)
            .map(|(id, _)| id)
            .filter(id::is_disk)
            .ok_or_else(|| {
            format!("XENBUS_PATH is {path:?}: allowed are backend/vbd/DOMID/DEVID and backend/vbd3/…")
        })?;
        let known = async {
            loop {
                let grown = self.population.notified();
                if let Some(mailbox) = self.devices.borrow().get(&id).cloned() {
                    return mailbox;
                }
                grown.await;
            }
        };
        tokio::time::timeout(SCRIPT_PATIENCE, known)
            .await
            .map_err(|_| format!("{id}: no such device in xenstore"))
    }
}

fn about() -> Value {
    json!({ "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION") })
}

impl web::Shows for Rc<Daemon> {
    fn metrics(&self) -> impl FnOnce() -> String + Send + 'static {
        let (run_dir, rows) = (self.host.run_dir.clone(), self.rows());
        move || crate::series::page(&run_dir, &rows)
    }

    fn status(&self) -> impl FnOnce() -> String + Send + 'static {
        let (run_dir, rows) = (self.host.run_dir.clone(), self.rows());
        move || {
            let figures = crate::stats::all(&run_dir, &rows, None);
            json!({ "version": 1, "splitd": about(), "devices": rows, "figures": figures["devices"] })
                .to_string()
        }
    }
}

impl Answers for Rc<Daemon> {
    async fn answer(&self, verb: Verb) -> Result<Value, String> {
        match verb {
            Verb::List => Ok(json!({ "splitd": about(), "devices": self.rows() })),
            Verb::Show { device } => {
                let id = select::device(&device, &self.rows())?;
                let reports = self.host.reports.borrow();
                let report = reports.get(&id).ok_or_else(|| format!("{id}: gone"))?;
                Ok(json!({ "device": report.row() }))
            }
            Verb::Stats { device } => {
                let rows = self.rows();
                let only = device.map(|text| select::device(&text, &rows)).transpose()?;
                Ok(crate::stats::all(&self.host.run_dir, &rows, only))
            }
            Verb::Resize { device } => {
                let (_, mailbox) = self.find(&device)?;
                let done = self.ask(&mailbox, COMMAND_TIME, Command::Resize).await?;
                Ok(json!({ "done": done }))
            }
            Verb::Restart { device } => self.have_done(&device, Command::Restart).await,
            Verb::Pause { device } => self.have_done(&device, Command::Pause).await,
            Verb::Resume { device } => self.have_done(&device, Command::Resume).await,
            Verb::RetargetBegin { device, to } => {
                let (_, mailbox) = self.find(&device)?;
                let command = |answer| Command::BeginRetarget(to, answer);
                let source = self.ask(&mailbox, COMMAND_TIME, command).await?;
                Ok(json!({ "source": source }))
            }
            Verb::RetargetHold { device } => self.have_done(&device, Command::HoldForCopy).await,
            Verb::RetargetFinish { device, to } => {
                self.have_done(&device, |answer| Command::Retarget(to, answer)).await
            }
            Verb::PolicyReload => self.reload(),
            Verb::PolicyExplain { domain } => self.host.limits.explain(domain.as_deref()),
            Verb::Qos { domain, change } => {
                self.host.limits.set(&domain, &change)?;
                self.tell_interfaces();
                self.host.limits.explain(Some(&domain))
            }
            Verb::HotplugAdd { path } => {
                let mailbox = self.script_device(&path).await?;
                let opened: Opened = self.ask(&mailbox, SCRIPT_TIME, Command::HotplugAdd).await?;
                Ok(json!({ "opened": opened }))
            }
            // The device ends when its directory does; there is nothing that a script could take from it before.
            Verb::HotplugRemove { .. } => Ok(json!({})),
        }
    }
}
