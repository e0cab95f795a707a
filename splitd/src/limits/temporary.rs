//! What an operator set above the policy file, for a while or until taken back. It outlives splitd, as the limits do that come of it;
//! a host that boots begins with the file. Knows nothing of devices.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use qos::policy::effective::Override;
use qos::policy::{self, Cap, NetCap};
use serde::{Deserialize, Serialize};
use tracing::error;

/// Below the run directory.
pub(super) const FILE: &str = "temporary.json";
/// Longest time that an operator may set something for.
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What an operator changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Change {
    /// Share.
    pub weight: Option<u32>,
    /// `total_iops_max=1000`
    #[serde(default)]
    pub caps: Vec<String>,
    /// `10m`; until it is taken back if left out.
    pub ttl: Option<String>,
    /// Take back all that was set.
    #[serde(default)]
    pub reset: bool,
}

/// What holds of a domain: the last word on each thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Temporary {
    weight: Option<u32>,
    /// By name, as they were said.
    caps: BTreeMap<String, String>,
    /// By the clock that starts when the host does.
    until_ns: Option<u64>,
    /// What all that comes to.
    #[serde(skip)]
    rules: Override,
}

impl Temporary {
    pub(super) fn rules(&self) -> &Override {
        &self.rules
    }

    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        self.until_ns.is_some_and(|until_ns| until_ns <= now_ns)
    }

    /// With a change more.
    pub(super) fn with(mut self, change: &Change, now_ns: u64) -> Result<Self, String> {
        self.weight = change.weight.or(self.weight);
        for text in &change.caps {
            let (name, value) = text.split_once('=').ok_or_else(|| no_cap(text))?;
            self.caps.insert(name.to_owned(), value.to_owned());
        }
        let ttl_ns = change.ttl.as_deref().map(ttl_ns).transpose()?;
        self.until_ns = ttl_ns.map(|ttl_ns| now_ns.saturating_add(ttl_ns));
        self.understood()
    }

    fn understood(mut self) -> Result<Self, String> {
        self.rules = Override::default();
        if let Some(weight) = self.weight {
            if !(1..=65_535).contains(&weight) {
                return Err(format!("weight is {weight}: allowed are 1 to 65535"));
            }
            self.rules.weight = Some(weight);
        }
        for (name, value) in &self.caps {
            set_cap(name, value, &mut self.rules)?;
        }
        Ok(self)
    }
}

/// What an earlier splitd kept. What cannot be understood is said loudly and left out: devices are to be served all the same.
pub(super) fn load(path: &Path, now_ns: u64) -> BTreeMap<String, Temporary> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(trouble) if trouble.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(trouble) => {
            error!("ALARM: {}: {trouble}; what splitctl set before is not in force", path.display());
            return BTreeMap::new();
        }
    };
    let kept: BTreeMap<String, Temporary> = match serde_json::from_str(&text) {
        Ok(kept) => kept,
        Err(trouble) => {
            error!("ALARM: {}: {trouble}; what splitctl set before is not in force", path.display());
            return BTreeMap::new();
        }
    };
    let understood = |(name, temporary): (String, Temporary)| match temporary.understood() {
        Ok(temporary) => Some((name, temporary)),
        Err(trouble) => {
            error!("ALARM: {}: {name}: {trouble}; the policy file holds", path.display());
            None
        }
    };
    kept.into_iter().filter(|(_, temporary)| !temporary.is_over(now_ns)).filter_map(understood).collect()
}

/// For the next splitd.
pub(super) fn keep(path: &Path, all: &BTreeMap<String, Temporary>) -> anyhow::Result<()> {
    super::keep(path, &serde_json::to_string(all)?)
}

fn ttl_ns(text: &str) -> Result<u64, String> {
    let ns = policy::time_ns(text).map_err(|rule| format!("ttl is {text:?}: {rule}"))?;
    let ttl = Duration::from_nanos(ns);
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(format!("ttl is {text:?}: allowed are times above 0 and up to a year"));
    }
    Ok(ns)
}

fn no_cap(text: &str) -> String {
    let names = Cap::ALL.map(Cap::name).into_iter().chain(NetCap::ALL.map(NetCap::name));
    let names = names.collect::<Vec<_>>().join(", ");
    format!("cap is {text:?}: allowed is NAME=VALUE, where NAME is one of {names}")
}

fn set_cap(name: &str, value: &str, over: &mut Override) -> Result<(), String> {
    let text = format!("{name}={value}");
    let told = |rule: policy::Rule| format!("cap is {text:?}: {rule}");
    if let Some(cap) = Cap::ALL.into_iter().find(|cap| cap.name() == name) {
        over.caps[cap as usize] = Some(policy::cap_value(cap, value).map_err(told)?);
    } else {
        let cap = NetCap::ALL.into_iter().find(|cap| cap.name() == name).ok_or_else(|| no_cap(&text))?;
        over.net_caps[cap as usize] = Some(policy::net_cap_value(cap, value).map_err(told)?);
    }
    Ok(())
}
