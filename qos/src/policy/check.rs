//! Rules between values: a burst and its cap, a reservation and its caps, names that lead somewhere, matches that decide. Knows
//! nothing of TOML.

use super::fault::{Fault, Rule};
use super::{Cap, DiskLimits, Match, NetLimits, Place, Policy, glob};

pub(super) fn check(policy: &Policy, faults: &mut Vec<Fault>) {
    let mut note = |at: Place, key: &str, value: &str, rule: Rule| {
        faults.push(Fault { at, key: key.to_owned(), value: value.to_owned(), rule });
    };
    let classes = || policy.classes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    if let Some(class) = policy.default_class.as_ref().filter(|c| !policy.classes.contains_key(&c.value)) {
        note(class.at, "defaults.class", &class.value, Rule::UnknownClass(classes()));
    }
    for (name, class) in &policy.classes {
        check_limits(&class.disk, &format!("class.{name}.disk"), &mut note);
        if let Some(sla) =
            class.sla.as_ref().filter(|_| class.disk.reserve_iops.is_none_or(|set| set.value.is_none()))
        {
            note(sla.at, &format!("class.{name}.sla"), "", Rule::SlaWithoutReserve);
        }
        check_net_limits(&[&class.net], &format!("class.{name}.net"), &mut note);
    }
    for (name, customer) in &policy.customers {
        check_limits(&customer.disk, &format!("customer.{name}.disk"), &mut note);
    }
    for domain in &policy.domains {
        if let Some(class) = domain.class.as_ref().filter(|class| !policy.classes.contains_key(*class)) {
            note(domain.at, "domain.class", class, Rule::UnknownClass(classes()));
        }
        // Its burst may belong to a cap of its class, its reservation be above one; without a class of its own it has the default one.
        let class = domain.class.as_ref().or(policy.default_class.as_ref().map(|class| &class.value));
        let class = class.and_then(|class| policy.classes.get(class));
        check_limits(&domain.disk.over(class.map(|class| &class.disk)), "domain.disk", &mut note);
        for (disk, rule) in &domain.disks {
            check_limits(&rule.limits, &format!("domain.disk.{disk}"), &mut note);
        }
        let of_class = class.map(|class| &class.net);
        let together: Vec<_> = [&domain.net].into_iter().chain(of_class).collect();
        check_net_limits(&together, "domain.net", &mut note);
        for (number, limits) in &domain.nets {
            check_net_limits(&[limits], &format!("domain.net.{number}"), &mut note);
        }
    }
    check_matches(policy, &mut note);
    check_customers(policy, &mut note);
}

fn check_limits(limits: &DiskLimits, key: &str, note: &mut impl FnMut(Place, &str, &str, Rule)) {
    let cap_of = |cap: Cap| limits.caps[cap as usize].and_then(|set| set.value);
    for cap in Cap::ALL {
        let Some(burst) = limits.bursts[cap as usize] else { continue };
        match cap_of(cap) {
            None => note(burst.at, &format!("{key}.burst"), "", Rule::BurstWithoutCap(cap.name())),
            Some(cap) if burst.value < cap => {
                note(
                    burst.at,
                    &format!("{key}.burst"),
                    &burst.value.to_string(),
                    Rule::BurstBelowCap { cap },
                );
            }
            Some(_) => {}
        }
    }
    let Some((value, at)) = limits.reserve_iops.and_then(|set| Some((set.value?, set.at))) else { return };
    for cap in Cap::ALL.into_iter().filter(|cap| cap.is_iops()) {
        if let Some(limit) = cap_of(cap).filter(|limit| *limit < value) {
            let rule = Rule::ReserveAboveCap { name: cap.name(), cap: limit };
            note(at, &format!("{key}.reserve"), &value.to_string(), rule);
        }
    }
}

/// The first table's window is one of caps that stand in any of them.
fn check_net_limits(tables: &[&NetLimits], key: &str, note: &mut impl FnMut(Place, &str, &str, Rule)) {
    let has_cap = tables.iter().any(|limits| limits.caps.iter().any(Option::is_some));
    if let Some(burst) = tables.first().and_then(|limits| limits.burst_ns).filter(|_| !has_cap) {
        let rule = Rule::BurstWithoutCap("tx_max, rx_max, tx_pps_max or rx_pps_max");
        note(burst.at, &format!("{key}.burst"), "", rule);
    }
}

fn check_matches(policy: &Policy, note: &mut impl FnMut(Place, &str, &str, Rule)) {
    for (i, later) in policy.domains.iter().enumerate() {
        for earlier in policy.domains.iter().take(i) {
            match (&earlier.who, &later.who) {
                (a, b) if a == b => {
                    note(later.at, "domain.match", b.text(), Rule::DuplicateMatch(earlier.at.line));
                }
                (Match::Glob(a), Match::Glob(b))
                    if glob::exactness(a) == glob::exactness(b) && glob::overlap(a, b) =>
                {
                    note(later.at, "domain.match", b, Rule::AmbiguousGlob(earlier.at.line));
                }
                _ => {}
            }
        }
    }
    for domain in &policy.domains {
        for (i, (later, rule)) in domain.disks.iter().enumerate() {
            let at = rule.weight.map_or(domain.at, |weight| weight.at);
            for (earlier, _) in domain.disks.iter().take(i) {
                if glob::exactness(earlier) == glob::exactness(later) && glob::overlap(earlier, later) {
                    note(at, &format!("domain.disk.{later}"), earlier, Rule::AmbiguousGlob(domain.at.line));
                }
            }
        }
    }
}

/// Money is owed to one customer, not to whoever stands first.
fn check_customers(policy: &Policy, note: &mut impl FnMut(Place, &str, &str, Rule)) {
    let globs = policy.customers.iter().flat_map(|(name, c)| c.domains.iter().map(move |glob| (name, glob)));
    let globs: Vec<_> = globs.collect();
    for (i, (name, later)) in globs.iter().enumerate() {
        for (other, earlier) in globs.iter().take(i) {
            if name != other && glob::overlap(&earlier.value, &later.value) {
                let key = format!("customer.{name}.domains");
                note(later.at, &key, &later.value, Rule::TwoCustomers(format!("customer.{other}")));
            }
        }
    }
}

impl Match {
    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Uuid(text) | Self::Name(text) | Self::Glob(text) => text,
        }
    }
}
