//! The policy in force: read at the start, replaced as a whole or not at all, written out for every disk's worker and told to every
//! interface's. Knows nothing of devices' states, nor how limits are kept.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use qos::account::{self, Counting};
use qos::cost::Prices;
use qos::page::Rules;
use qos::planner::Standing;
use qos::policy::effective::{DiskRules, Who};
use qos::policy::{self, Fault, Model, Policy};
use serde_json::{Value, json};
use tracing::{error, info, warn};
use worker::clock::monotonic_ns;
use worker::message::QosFiles;

use crate::arbiter::{Arbiter, Member};
use crate::id::DeviceId;
use crate::place::Place;

mod accounts;
mod explain;
pub(crate) mod pages;
mod parties;
mod temporary;
mod vifs;

pub(crate) use explain::rows;
pub use temporary::Change;
use temporary::Temporary;
pub use vifs::Vif;

/// Longest policy file.
const FILE_LEN_MAX: u64 = 4 << 20;
/// Below the run directory.
const ACCOUNTS: &str = "accounts";
/// A disk that is limited, or may be after the next reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its guest's name.
    pub name: Option<String>,
    /// Its guest's UUID.
    pub uuid: String,
    /// `xvda`
    pub vdev: String,
    /// Its run directory.
    pub dir: PathBuf,
    /// What it shares, once its target is open.
    pub place: Option<Place>,
}

#[derive(Debug)]
struct State {
    policy: Policy,
    generation: u64,
    disks: BTreeMap<DeviceId, Disk>,
    vifs: BTreeMap<DeviceId, Vif>,
    /// Domains that have gone and may owe.
    retired: BTreeSet<String>,
    /// By a domain's name.
    temporary: BTreeMap<String, Temporary>,
}

/// All of it.
#[derive(Debug)]
pub struct Limits {
    file: PathBuf,
    run_dir: PathBuf,
    state: RefCell<State>,
    arbiter: Arbiter,
}

/// All faults of a file, each on a line with its place.
#[must_use]
pub fn told(path: &Path, faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{}:{fault}", path.display())).collect::<Vec<_>>().join("\n")
}

/// Reads a policy; a missing file is one without limits.
pub fn read(path: &Path) -> anyhow::Result<Option<(Policy, String)>> {
    match fs::metadata(path) {
        Err(trouble) if trouble.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(trouble) => return Err(trouble).with_context(|| path.display().to_string()),
        Ok(found) if found.len() > FILE_LEN_MAX => {
            bail!("{}: {} bytes; at most {FILE_LEN_MAX} are allowed", path.display(), found.len())
        }
        Ok(_) => {}
    }
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    match policy::parse(&text) {
        Ok(policy) => Ok(Some((policy, text))),
        Err(faults) => bail!("{}", told(path, &faults)),
    }
}

impl Disk {
    fn who(&self) -> Who<'_> {
        Who { uuid: Some(&self.uuid), name: self.name.as_deref() }
    }
}

impl State {
    fn rules(&self, id: DeviceId, disk: &Disk) -> DiskRules {
        let temporary = disk.name.as_ref().and_then(|name| self.temporary.get(name));
        self.policy.disk(disk.who(), &disk.vdev, id.devid, temporary.map(Temporary::rules))
    }

    /// How a disk's device counts, and how much of it may be reserved.
    fn device(&self, disk: &Disk) -> (Model, u32) {
        let name = disk.place.as_ref().map(|place| place.device.as_str());
        // A name below /dev/disk leads to the device's own.
        let is_it = |device: &&policy::Device| {
            let real = fs::canonicalize(&device.key).ok();
            name.is_some() && real.as_deref().and_then(Path::file_name).and_then(|n| n.to_str()) == name
        };
        let devices = &self.policy.devices;
        let found = devices.iter().find(is_it).or_else(|| devices.iter().find(|device| device.key == "auto"));
        found.map_or((Model::Auto, policy::DEFAULT_MAX_RESERVED_PPM), |d| (d.model, d.max_reserved_ppm))
    }
}

fn page_of(rules: &DiskRules, model: Model, disk: &Disk) -> Rules {
    Rules {
        accounts: [&rules.disk_caps, &rules.domain_caps, &rules.customer_caps].map(account::limits),
        counting: Counting {
            iops_size_bytes: rules.accounting.iops_size_bytes.unwrap_or(0),
            flush_is_op: rules.accounting.flush_is_op,
        },
        prices: Prices::of(model, disk.place.as_ref().is_some_and(|place| place.rotational)),
    }
}

/// Who a disk belongs to, in numbers.
fn standing(disk: &Disk, rules: &DiskRules) -> Standing {
    let number = |text: &str| {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    };
    let domain = number(&disk.uuid);
    let [of_customer, of_domain, of_disk] = [0, 1, 2].map(|level: usize| rules.weights[level].value);
    // A domain without a customer stands among customers by its own weight.
    let (customer, top) = match &rules.customer {
        Some(name) => (number(&format!("customer {name}")), of_customer),
        None => (domain, of_domain),
    };
    Standing {
        customer,
        domain,
        weights: [top, of_domain, of_disk],
        reserve_iops: rules.reserve_iops.as_ref().map_or(0, |told| told.value),
    }
}

impl Limits {
    /// Reads the file. One that is broken never opens a limit: the policy that was last in force holds until it is mended, and
    /// where there was none splitd does not start.
    pub fn load(file: PathBuf, run_dir: &Path) -> anyhow::Result<Self> {
        pages::make_dir(&run_dir.join(ACCOUNTS)).context("accounts of domains")?;
        let accepted = run_dir.join("policy.toml");
        let policy = match read(&file) {
            Ok(Some((policy, text))) => {
                keep(&accepted, &text)?;
                policy
            }
            Ok(None) => {
                keep(&accepted, "version = 1\n")?;
                Policy::default()
            }
            Err(trouble) => match read(&accepted) {
                Ok(Some((policy, _))) => {
                    error!("ALARM: {trouble:#}\nthe policy that was last in force goes on");
                    policy
                }
                Ok(None) | Err(_) => return Err(trouble),
            },
        };
        let state = State {
            policy,
            generation: 1,
            disks: BTreeMap::new(),
            vifs: BTreeMap::new(),
            retired: BTreeSet::new(),
            temporary: temporary::load(&run_dir.join(temporary::FILE), monotonic_ns()),
        };
        let arbiter = Arbiter::start().context("the arbiter's thread")?;
        Ok(Self { file, run_dir: run_dir.to_owned(), state: RefCell::new(state), arbiter })
    }

    /// Where a disk's limits stand; they do from now on.
    pub fn enter(&self, id: DeviceId, disk: Disk) -> Result<QosFiles, String> {
        let mut state = self.state.borrow_mut();
        let rules = state.rules(id, &disk);
        let told = |trouble: io::Error| format!("{}: limits: {trouble}", disk.dir.display());
        let files = QosFiles {
            page: disk.dir.join("limits"),
            usage: disk.dir.join("usage"),
            domain: self.domain_account(&disk.uuid),
            customer: rules
                .customer
                .as_ref()
                .map(|name| self.run_dir.join(ACCOUNTS).join(format!("customer-{}", file_name(name)))),
        };
        let (model, _) = state.device(&disk);
        pages::write_rules(&files.page, &page_of(&rules, model, &disk)).map_err(told)?;
        state.disks.insert(id, disk);
        Ok(files)
    }

    fn domain_account(&self, uuid: &str) -> PathBuf {
        self.run_dir.join(ACCOUNTS).join(format!("domain-{}", file_name(uuid)))
    }

    /// A disk's target is open: from now on it has its share of the device beneath.
    pub fn place(&self, id: DeviceId, place: Place) -> Result<(), String> {
        let mut state = self.state.borrow_mut();
        let Some(disk) = state.disks.get_mut(&id) else { return Ok(()) };
        disk.place = Some(place);
        let disk = disk.clone();
        let rules = state.rules(id, &disk);
        let (model, max_reserved_ppm) = state.device(&disk);
        let page = disk.dir.join("limits");
        pages::write_rules(&page, &page_of(&rules, model, &disk))
            .map_err(|trouble| format!("{}: {trouble}", page.display()))?;
        self.arbiter.join(Member {
            id,
            device: disk.place.as_ref().map(|place| place.device.clone()).unwrap_or_default(),
            max_reserved_ppm,
            standing: standing(&disk, &rules),
            page,
            usage: disk.dir.join("usage"),
        });
        Ok(())
    }

    /// The device is gone.
    pub fn leave(&self, id: DeviceId) {
        self.arbiter.leave(id);
        let state = &mut *self.state.borrow_mut();
        state.retired.extend(state.disks.remove(&id).map(|disk| disk.uuid));
        state.retired.extend(state.vifs.remove(&id).map(|vif| vif.uuid));
        let (disks, vifs, now_ns) = (&state.disks, &state.vifs, monotonic_ns());
        state.retired.retain(|uuid| {
            let mut present = disks.values().map(|disk| &disk.uuid).chain(vifs.values().map(|vif| &vif.uuid));
            let is_back = present.any(|other| other == uuid);
            let settled = |path: PathBuf| accounts::remove_settled(&path, now_ns);
            // Each of them, whatever becomes of the other.
            !is_back && !(settled(self.domain_account(uuid)) & settled(self.net_account(uuid)))
        });
    }

    /// Takes the file anew: all of it, or none.
    pub fn reload(&self) -> Result<Value, String> {
        let outcome = read(&self.file).map_err(|trouble| format!("{trouble:#}"));
        let (policy, text) = match outcome {
            Ok(Some(found)) => found,
            Ok(None) => (Policy::default(), "version = 1\n".to_owned()),
            Err(text) => {
                warn!("policy refused, the one in force stays:\n{text}");
                return Err(text);
            }
        };
        keep(&self.run_dir.join("policy.toml"), &text).map_err(|trouble| format!("{trouble:#}"))?;
        let before = self.explain_all();
        {
            let mut state = self.state.borrow_mut();
            state.policy = policy;
            state.generation += 1;
        }
        let failed = self.write_pages();
        let changes = explain::changes(&before, &self.explain_all());
        let generation = self.state.borrow().generation;
        for change in &changes {
            info!("policy {generation}: {change}");
        }
        if changes.is_empty() {
            info!("policy {generation}: nothing changes for the devices that are there");
        }
        if !failed.is_empty() {
            return Err(failed.join("\n"));
        }
        Ok(json!({ "generation": generation, "changes": changes }))
    }

    /// Writes the pages of all disks whose rules are others now; what could not be written.
    fn write_pages(&self) -> Vec<String> {
        let state = self.state.borrow();
        let write = |(id, disk): (&DeviceId, &Disk)| {
            let page = disk.dir.join("limits");
            let outcome =
                pages::write_rules(&page, &page_of(&state.rules(*id, disk), state.device(disk).0, disk));
            self.arbiter.set_standing(*id, standing(disk, &state.rules(*id, disk)));
            outcome.err().map(|trouble| format!("{id}: {}: {trouble}", page.display()))
        };
        state.disks.iter().filter_map(write).collect()
    }

    /// Sets something for a while, above the file; nothing at all takes it back.
    pub fn set(&self, domain: &str, change: &Change) -> Result<(), String> {
        let name = self.domain_name(domain)?;
        {
            let mut state = self.state.borrow_mut();
            if change.reset {
                state.temporary.remove(&name);
            } else {
                let before = state.temporary.get(&name).cloned().unwrap_or_default();
                let after = before.with(change, monotonic_ns())?;
                info!(domain = name, set = ?after, "set by splitctl");
                state.temporary.insert(name, after);
            }
        }
        self.keep_temporary();
        let failed = self.write_pages();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
    }

    /// What was set for a while and is over; whether there was something.
    pub fn expire(&self) -> bool {
        let now_ns = monotonic_ns();
        let over = |t: &Temporary| t.is_over(now_ns);
        let ended: Vec<String> = {
            let mut state = self.state.borrow_mut();
            let ended =
                state.temporary.iter().filter(|(_, t)| over(t)).map(|(name, _)| name.clone()).collect();
            state.temporary.retain(|_, t| !over(t));
            ended
        };
        if ended.is_empty() {
            return false;
        }
        info!("over, the policy file holds again: {}", ended.join(", "));
        self.keep_temporary();
        for trouble in self.write_pages() {
            error!("ALARM: {trouble}");
        }
        true
    }

    /// For a splitd that comes after this one.
    fn keep_temporary(&self) {
        if let Err(trouble) =
            temporary::keep(&self.run_dir.join(temporary::FILE), &self.state.borrow().temporary)
        {
            error!("ALARM: what splitctl set will not outlive this splitd: {trouble:#}");
        }
    }

    /// The name of a domain that has devices here, by name or number.
    fn domain_name(&self, domain: &str) -> Result<String, String> {
        let state = self.state.borrow();
        let number = domain.parse::<u16>().ok();
        let disks = state.disks.iter().map(|(id, disk)| (id, &disk.name));
        let mut devices = disks.chain(state.vifs.iter().map(|(id, vif)| (id, &vif.name)));
        let is_it = |(id, name): &(&DeviceId, &Option<String>)| {
            name.as_deref() == Some(domain) || number == Some(id.frontend.0)
        };
        let (_, name) = devices.find(is_it).ok_or_else(|| {
            format!("domain is {domain:?}: it has nothing that splitd serves; splitctl list shows all")
        })?;
        name.clone().ok_or_else(|| format!("domain {domain} has no name"))
    }
}

/// What was accepted, for the next start.
fn keep(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).with_context(|| path.display().to_string())
}

/// Text from outside as part of a file's name: nothing that could lead elsewhere.
fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(80).collect()
}

#[cfg(test)]
mod tests;
