//! What a plan divides, as vessels: disks in domains in customers. Knows nothing of what was used, nor when.

use super::PROMISED;
use crate::depth::to_f64;
use crate::fill::{self, Vessel};

/// What a plan goes by of a disk.
pub(super) struct Disk {
    pub(super) customer: u64,
    pub(super) domain: u64,
    pub(super) weights: [u32; 3],
    pub(super) reserve_iops: u64,
    pub(super) cost_ns: f64,
    /// What it is thought to want at most, work a second.
    pub(super) most: f64,
}

impl Disk {
    pub(super) fn vessel(&self) -> Vessel {
        Vessel { weight: self.weights[2].into(), least: 0.0, most: self.most }
    }
}

/// Each domain's disks, of disks in order.
pub(super) fn domains(disks: &[Disk]) -> impl Iterator<Item = &[Disk]> {
    disks.chunk_by(|a, b| (a.customer, a.domain) == (b.customer, b.domain))
}

/// The water's level, also where there is enough for all: then it stands as high as if the first wanted without an end.
pub(super) fn level_for(amount: f64, vessels: &[Vessel]) -> f64 {
    let mut wanting = vessels.to_vec();
    fill::level(amount, &mut wanting)
}

/// What one may use: its share, also if it used less so far.
pub(super) fn share_at(level: f64, vessel: &Vessel, amount: f64) -> f64 {
    (level * vessel.weight).max(vessel.least).min(amount)
}

pub(super) fn domain_vessel(disks: &[Disk], reserved: f64) -> Vessel {
    let Some(first) = disks.first() else { return Vessel { weight: 1.0, least: 0.0, most: 0.0 } };
    let most: f64 = disks.iter().map(|disk| disk.most).sum();
    let cost_ns = disks.iter().map(|disk| disk.cost_ns).fold(0.0, f64::max);
    let least = to_f64(first.reserve_iops) * PROMISED * cost_ns * reserved;
    Vessel { weight: first.weights[1].into(), least: least.min(most), most }
}

pub(super) fn customer_vessel(disks: &[Disk], reserved: f64) -> Vessel {
    let weight = disks.first().map_or(1, |disk| disk.weights[0]);
    let nothing = Vessel { weight: weight.into(), least: 0.0, most: 0.0 };
    domains(disks).fold(nothing, |sum, disks| {
        let one = domain_vessel(disks, reserved);
        Vessel { weight: sum.weight, least: sum.least + one.least, most: sum.most + one.most }
    })
}
