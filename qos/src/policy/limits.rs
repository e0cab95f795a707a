//! Reading the limits of disks and of network interfaces. Knows nothing of whose limits they are.

use super::fault::Rule;
use super::read::{Item, Reader};
use super::units::{self, Unit};
use super::{Cap, DiskLimits, DiskRule, Domain, NetCap, NetLimits};

const DISK_KEYS: [&str; 8] = [
    "read_iops_max",
    "write_iops_max",
    "total_iops_max",
    "read_bytes_max",
    "write_bytes_max",
    "total_bytes_max",
    "burst",
    "reserve",
];
const NET_KEYS: [&str; 5] = ["tx_max", "rx_max", "tx_pps_max", "rx_pps_max", "burst"];

/// The guest's kernel reports a hung task after 120 s; far below that, a full ring has to get through.
const LEAST_IOPS: u64 = 10;
const LEAST_BYTES: u64 = 64 << 10;
const LEAST_BITS: u64 = 8_000;
const LEAST_PACKETS: u64 = 10;

const fn unit_of(cap: Cap) -> Unit {
    if cap.is_iops() { Unit::Operations } else { Unit::DiskBytes }
}

fn floor(cap: Cap, value: Option<u64>) -> Result<Option<u64>, Rule> {
    let (least, text) = if cap.is_iops() { (LEAST_IOPS, "10") } else { (LEAST_BYTES, "64KiB/s") };
    if value.is_some_and(|value| value < least) { Err(Rule::Floor(text)) } else { Ok(value) }
}

/// A cap's value as an operator writes it; `none` is `None`.
pub fn cap_value(cap: Cap, text: &str) -> Result<Option<u64>, Rule> {
    floor(cap, units::amount(text, unit_of(cap))?)
}

const fn net_unit_of(cap: NetCap) -> Unit {
    if cap.is_packets() { Unit::Operations } else { Unit::NetBits }
}

fn net_floor(cap: NetCap, value: Option<u64>) -> Result<Option<u64>, Rule> {
    let (least, text) = if cap.is_packets() { (LEAST_PACKETS, "10") } else { (LEAST_BITS, "8Kb/s") };
    if value.is_some_and(|value| value < least) { Err(Rule::Floor(text)) } else { Ok(value) }
}

/// An interface's, likewise.
pub fn net_cap_value(cap: NetCap, text: &str) -> Result<Option<u64>, Rule> {
    net_floor(cap, units::amount(text, net_unit_of(cap))?)
}

impl<'a> Reader<'a> {
    pub(super) fn disk_limits(&mut self, item: &Item<'a>, limits: &mut DiskLimits) {
        let Some(table) = self.table(item) else { return };
        for (key, item) in self.items(&table) {
            if !self.disk_limit(&key, &item, limits) {
                self.unknown(&item, &DISK_KEYS);
            }
        }
    }

    /// False if the key is no limit of a disk.
    fn disk_limit(&mut self, key: &str, item: &Item<'a>, limits: &mut DiskLimits) -> bool {
        if let Some(cap) = Cap::ALL.into_iter().find(|cap| cap.name() == key) {
            let set = self.amount(item, unit_of(cap));
            if let Some(Err(rule)) = set.map(|set| floor(cap, set.value)) {
                self.fault(item, rule);
            }
            limits.caps[cap as usize] = set;
            return true;
        }
        match key {
            "burst" => self.disk_burst(item, limits),
            "reserve" => self.reserve(item, limits),
            "latency" | "discard_bytes_max" => self.fault(item, Rule::NotEnforced),
            _ => return false,
        }
        true
    }

    fn disk_burst(&mut self, item: &Item<'a>, limits: &mut DiskLimits) {
        let Some(table) = self.table(item) else { return };
        for (key, item) in self.items(&table) {
            let cap = Cap::ALL.into_iter().find(|cap| cap.name().strip_suffix("_max") == Some(key.as_str()));
            match (cap, key.as_str()) {
                (Some(cap), _) => {
                    let set = self.amount(&item, unit_of(cap));
                    let set = set.and_then(|set| Some(super::Set { value: set.value?, at: set.at }));
                    limits.bursts[cap as usize] = set;
                }
                (None, "length") => {
                    limits.burst_len_ns = self.time(&item);
                    let len_ns = limits.burst_len_ns.map_or(1_000_000, |set| set.value);
                    if !(1_000_000..=86_400_000_000_000).contains(&len_ns) {
                        self.fault(&item, Rule::BurstLength);
                    }
                }
                (None, _) => self.unknown(
                    &item,
                    &[
                        "length",
                        "read_iops",
                        "write_iops",
                        "total_iops",
                        "read_bytes",
                        "write_bytes",
                        "total_bytes",
                    ],
                ),
            }
        }
        // A value that broke a rule of its own is there all the same.
        let has_len = table.entries.keys().any(|key| key.get_ref() == "length");
        if !has_len || table.entries.len() < 2 {
            self.fault(item, Rule::BurstIncomplete);
        }
    }

    fn reserve(&mut self, item: &Item<'a>, limits: &mut DiskLimits) {
        let Some(table) = self.table(item) else { return };
        for (key, item) in self.items(&table) {
            match key.as_str() {
                "iops" => limits.reserve_iops = self.amount(&item, Unit::Operations),
                "bytes" => self.fault(&item, Rule::NotEnforced),
                _ => self.unknown(&item, &["iops"]),
            }
        }
    }

    pub(super) fn net_limits(&mut self, item: &Item<'a>, limits: &mut NetLimits) {
        let Some(table) = self.table(item) else { return };
        for (key, item) in self.items(&table) {
            if !self.net_limit(&key, &item, limits) {
                self.unknown(&item, &NET_KEYS);
            }
        }
    }

    /// False if the key is no limit of an interface.
    fn net_limit(&mut self, key: &str, item: &Item<'a>, limits: &mut NetLimits) -> bool {
        if let Some(cap) = NetCap::ALL.into_iter().find(|cap| cap.name() == key) {
            let set = self.amount(item, net_unit_of(cap));
            if let Some(Err(rule)) = set.map(|set| net_floor(cap, set.value)) {
                self.fault(item, rule);
            }
            limits.caps[cap as usize] = set;
            return true;
        }
        match key {
            "burst" => {
                limits.burst_ns = self.time(item);
                let len_ns = limits.burst_ns.map_or(1_000_000, |set| set.value);
                if !(1_000_000..=86_400_000_000_000).contains(&len_ns) {
                    self.fault(item, Rule::BurstLength);
                }
            }
            _ => return false,
        }
        true
    }

    /// `disk` of a `[[domain]]`: limits of all disks together, and tables of single ones.
    pub(super) fn domain_disks(&mut self, item: &Item<'a>, domain: &mut Domain) {
        let Some(table) = self.table(item) else { return };
        for (key, item) in self.items(&table) {
            if is_disk_pattern(&key) {
                let rule = self.disk_rule(&item);
                domain.disks.push((key, rule));
            } else if !self.disk_limit(&key, &item, &mut domain.disk) {
                self.fault(&item, Rule::Disk(DISK_KEYS.join(", ")));
            }
        }
    }

    fn disk_rule(&mut self, item: &Item<'a>) -> DiskRule {
        let mut rule = DiskRule::default();
        let Some(table) = self.table(item) else { return rule };
        for (key, item) in self.items(&table) {
            match key.as_str() {
                "weight" => rule.weight = self.weight(&item),
                // A reservation is the domain's: what its disks do with it is theirs.
                "reserve" => self.fault(&item, Rule::NotEnforced),
                _ if self.disk_limit(&key, &item, &mut rule.limits) => {}
                _ => self.unknown(&item, &DISK_KEYS),
            }
        }
        rule
    }

    /// `net` of a `[[domain]]`, likewise: of all interfaces together, and of single ones.
    pub(super) fn domain_nets(&mut self, item: &Item<'a>, domain: &mut Domain) {
        let Some(table) = self.table(item) else { return };
        for (key, item) in self.items(&table) {
            if let Ok(number) = key.parse::<u32>() {
                let mut limits = NetLimits::default();
                self.net_limits(&item, &mut limits);
                domain.nets.insert(number, limits);
            } else if !self.net_limit(&key, &item, &mut domain.net) {
                self.fault(&item, Rule::Vif(NET_KEYS.join(", ")));
            }
        }
    }
}

fn is_disk_pattern(key: &str) -> bool {
    ["xvd", "sd", "hd", "*", "?"].iter().any(|start| key.starts_with(start)) || key.parse::<u32>().is_ok()
}
