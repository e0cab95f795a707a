//! What holds for one domain and one of its devices, and where each value comes from: defaults < class < customer < domain < disk or
//! interface < what an operator set for a while. Knows nothing of how it is enforced.

use serde::Serialize;

use super::{
    Accounting, Cap, Class, DEFAULT_WEIGHT, DiskLimits, Domain, Match, NR_CAPS, NR_NET_CAPS, NetCap,
    NetLimits, Policy, Set, Sla, glob,
};

/// The window of an interface's caps where none is set, as with `xl`.
pub const DEFAULT_NET_WINDOW_NS: u64 = 50_000_000;

/// A domain, as matches see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who<'a> {
    /// Its UUID, if known.
    pub uuid: Option<&'a str>,
    /// Its name, if known.
    pub name: Option<&'a str>,
}

/// A value with its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told<T> {
    /// The value.
    pub value: T,
    /// `class.gold, line 12`
    pub origin: String,
}

/// A cap with its burst.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CapRule {
    /// Each second.
    pub rate: u64,
    /// Each second during a burst.
    pub burst_rate: Option<u64>,
    /// How long a burst may last, ns.
    pub burst_len_ns: u64,
}

/// Caps of one account, by [`Cap`].
pub type Caps = [Option<Told<CapRule>>; NR_CAPS];

/// What holds for all disks of a domain, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRules {
    /// Whose it is.
    pub customer: Option<String>,
    /// Which kind of tenant.
    pub class: Option<String>,
    /// Shares: customer, domain, disk.
    pub weights: [Told<u32>; 3],
    /// Caps of the customer's domains together.
    pub customer_caps: Caps,
    /// Caps of the domain's disks together.
    pub domain_caps: Caps,
    /// Caps of this disk.
    pub disk_caps: Caps,
    /// Operations each second that are promised to the domain.
    pub reserve_iops: Option<Told<u64>>,
    /// What a contract says of that.
    pub sla: Option<Sla>,
    /// How things are counted.
    pub accounting: Accounting,
}

/// A cap of network interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NetCapRule {
    /// Each second.
    pub rate: u64,
    /// Time of a window in which that much may pass at once, ns.
    pub window_ns: u64,
}

/// Caps of one account, by [`NetCap`].
pub type NetCaps = [Option<Told<NetCapRule>>; NR_NET_CAPS];

/// What holds for a network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetRules {
    /// Which kind of tenant.
    pub class: Option<String>,
    /// Caps of the domain's interfaces together.
    pub domain_caps: NetCaps,
    /// Caps of this interface.
    pub vif_caps: NetCaps,
}

/// What an operator set for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// Of the domain.
    pub weight: Option<u32>,
    /// Of the domain's disks, by [`Cap`]; `Some(None)` lifts.
    pub caps: [Option<Option<u64>>; NR_CAPS],
    /// Of its interfaces, by [`NetCap`], likewise.
    pub net_caps: [Option<Option<u64>>; NR_NET_CAPS],
}

impl DiskLimits {
    /// These, and for what they do not say those.
    pub(super) fn over(&self, below: Option<&Self>) -> Self {
        let Some(below) = below else { return self.clone() };
        let own_burst = self.burst_len_ns.is_some();
        let mut merged = self.clone();
        for i in 0..NR_CAPS {
            merged.caps[i] = self.caps[i].or(below.caps[i]);
            // A cap of one's own leaves the burst of another behind.
            if !own_burst && self.caps[i].is_none() {
                merged.bursts[i] = below.bursts[i];
            }
        }
        merged.burst_len_ns = self.burst_len_ns.or(below.burst_len_ns);
        merged.reserve_iops = self.reserve_iops.or(below.reserve_iops);
        merged
    }
}

/// What is over a layer of the file, with its name.
struct Layer<'a, T> {
    limits: &'a T,
    name: String,
}

fn topmost<T: Copy, L>(
    layers: &[Layer<'_, L>],
    get: impl Fn(&L) -> Option<Set<Option<T>>>,
) -> Option<Told<T>> {
    let (layer, set) = layers.iter().rev().find_map(|layer| Some((layer, get(layer.limits)?)))?;
    let origin = format!("{}, line {}", layer.name, set.at.line);
    Some(Told { value: set.value?, origin })
}

fn caps_of(layers: &[Layer<'_, DiskLimits>], account: Option<&Override>) -> Caps {
    Cap::ALL.map(|cap| {
        let i = cap as usize;
        if let Some(over) = account.and_then(|over| over.caps[i]) {
            let rule = CapRule { rate: over?, burst_rate: None, burst_len_ns: 0 };
            return Some(Told { value: rule, origin: "splitctl qos".to_owned() });
        }
        let rate = topmost(layers, |limits| limits.caps[i])?;
        let merged =
            layers.iter().fold(DiskLimits::default(), |below, layer| layer.limits.over(Some(&below)));
        let burst = merged.bursts[i].map(|set| set.value);
        let burst_len_ns = burst.and(merged.burst_len_ns).map_or(0, |set| set.value);
        let value = CapRule { rate: rate.value, burst_rate: burst, burst_len_ns };
        Some(Told { value, origin: rate.origin })
    })
}

fn net_caps_of(layers: &[Layer<'_, NetLimits>], account: Option<&Override>) -> NetCaps {
    let window = layers.iter().rev().find_map(|layer| layer.limits.burst_ns);
    let window_ns = window.map_or(DEFAULT_NET_WINDOW_NS, |set| set.value);
    NetCap::ALL.map(|cap| {
        let told = match account.and_then(|over| over.net_caps[cap as usize]) {
            Some(rate) => Told { value: rate?, origin: "splitctl qos".to_owned() },
            None => topmost(layers, |limits| limits.caps[cap as usize])?,
        };
        Some(Told { value: NetCapRule { rate: told.value, window_ns }, origin: told.origin })
    })
}

fn weight_of(found: Option<(Set<u32>, String)>) -> Told<u32> {
    found.map_or_else(
        || Told { value: DEFAULT_WEIGHT, origin: "built in".to_owned() },
        |(set, name)| Told { value: set.value, origin: format!("{name}, line {}", set.at.line) },
    )
}

impl Policy {
    /// The most exact `[[domain]]` that is about this domain.
    #[must_use]
    pub fn domain(&self, who: Who<'_>) -> Option<&Domain> {
        let rank = |domain: &Domain| match &domain.who {
            Match::Uuid(uuid) => {
                who.uuid.is_some_and(|own| own.eq_ignore_ascii_case(uuid)).then_some(usize::MAX)
            }
            Match::Name(name) => (who.name == Some(name.as_str())).then_some(usize::MAX - 1),
            Match::Glob(pattern) => {
                who.name.is_some_and(|name| glob::matches(pattern, name)).then(|| glob::exactness(pattern))
            }
        };
        self.domains
            .iter()
            .filter_map(|domain| Some((rank(domain)?, domain)))
            .max_by_key(|(rank, _)| *rank)
            .map(|f| f.1)
    }

    /// Whose domain it is.
    #[must_use]
    pub fn customer(&self, who: Who<'_>) -> Option<&str> {
        let name = who.name?;
        let owns = |globs: &[Set<String>]| globs.iter().any(|glob| glob::matches(&glob.value, name));
        self.customers.iter().find(|(_, customer)| owns(&customer.domains)).map(|(name, _)| name.as_str())
    }

    fn class_name<'a>(&'a self, domain: Option<&'a Domain>) -> Option<&'a str> {
        domain
            .and_then(|domain| domain.class.as_deref())
            .or(self.default_class.as_ref().map(|class| class.value.as_str()))
    }

    fn class<'a>(&'a self, domain: Option<&'a Domain>) -> Option<(&'a String, &'a Class)> {
        self.class_name(domain).and_then(|name| self.classes.get_key_value(name))
    }

    /// What holds for the disk `vdev` (`xvda`, and its number) of a domain.
    #[must_use]
    pub fn disk(&self, who: Who<'_>, vdev: &str, number: u32, over: Option<&Override>) -> DiskRules {
        let domain = self.domain(who);
        let class_name = self.class_name(domain);
        let class = self.class(domain);
        let customer_name = self.customer(who);
        let customer = customer_name.and_then(|name| self.customers.get_key_value(name));
        let disk = domain.and_then(|domain| disk_rule(domain, vdev, number));
        let class_layer =
            class.map(|(name, class)| Layer { limits: &class.disk, name: format!("class.{name}") });
        let domain_layer = domain.map(|domain| Layer { limits: &domain.disk, name: domain_name(domain) });
        let layers: Vec<_> = class_layer.into_iter().chain(domain_layer).collect();
        let own = customer.map(|(name, c)| Layer { limits: &c.disk, name: format!("customer.{name}") });
        let of_disk = disk.as_ref().map(|(name, rule)| Layer { limits: &rule.limits, name: name.clone() });
        let domain_weight = domain
            .and_then(|domain| Some((domain.weight?, domain_name(domain))))
            .or_else(|| class.and_then(|(name, class)| Some((class.weight?, format!("class.{name}")))));
        let mut weights = [
            weight_of(customer.and_then(|(name, c)| Some((c.weight?, format!("customer.{name}"))))),
            weight_of(domain_weight),
            weight_of(disk.as_ref().and_then(|(name, rule)| Some((rule.weight?, name.clone())))),
        ];
        if let Some(weight) = over.and_then(|over| over.weight) {
            weights[1] = Told { value: weight, origin: "splitctl qos".to_owned() };
        }
        DiskRules {
            customer: customer_name.map(str::to_owned),
            class: class_name.map(str::to_owned),
            weights,
            customer_caps: caps_of(own.as_slice(), None),
            domain_caps: caps_of(&layers, over),
            disk_caps: caps_of(of_disk.as_slice(), None),
            reserve_iops: topmost(&layers, |limits| limits.reserve_iops),
            sla: class.and_then(|(_, class)| Some(class.sla.as_ref()?.value.clone())),
            accounting: self.accounting,
        }
    }

    /// What holds for the interface `number` of a domain.
    #[must_use]
    pub fn net(&self, who: Who<'_>, number: u32, over: Option<&Override>) -> NetRules {
        let domain = self.domain(who);
        let class = self.class(domain);
        let of_class = class.map(|(name, class)| Layer { limits: &class.net, name: format!("class.{name}") });
        let of_domain = domain.map(|domain| Layer { limits: &domain.net, name: domain_name(domain) });
        let own = domain.and_then(|domain| {
            let name = format!("{} net.{number}", domain_name(domain));
            Some(Layer { limits: domain.nets.get(&number)?, name })
        });
        let layers: Vec<_> = of_class.into_iter().chain(of_domain).collect();
        NetRules {
            class: self.class_name(domain).map(str::to_owned),
            domain_caps: net_caps_of(&layers, over),
            vif_caps: net_caps_of(own.as_slice(), None),
        }
    }
}

fn domain_name(domain: &Domain) -> String {
    format!("domain {:?}", domain.who.text())
}

/// The most exact of a domain's disk tables that is about this disk; its partition, too.
fn disk_rule<'a>(domain: &'a Domain, vdev: &str, number: u32) -> Option<(String, &'a super::DiskRule)> {
    let number = number.to_string();
    let about = |pattern: &str| glob::matches(pattern, vdev) || pattern == number;
    let found = domain.disks.iter().filter(|(pattern, _)| about(pattern));
    let (pattern, rule) = found.max_by_key(|(pattern, _)| glob::exactness(pattern))?;
    Some((format!("{} disk.{pattern}", domain_name(domain)), rule))
}
