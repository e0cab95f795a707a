//! What was promised to a domain, what it asked for and what it got, window by window, and what a month of windows comes to. Knows
//! nothing of files, clocks or of where figures come from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::depth::to_f64;
use crate::policy::{Credit, Sla};

/// Buckets of latencies: bucket `i` counts those from 2^i ns to 2^(i+1) - 1.
pub const BUCKETS: usize = 64;
/// A whole, in parts of a million.
const WHOLE_PPM: u64 = 1_000_000;

/// Sums of a domain's disks; they only grow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests answered.
    pub ops: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their latencies, ns.
    pub latency_ns: u64,
    /// Of those, the waiting before the device was asked, ns.
    pub queued_ns: u64,
    /// How often one was put off by a cap of its own.
    pub cap_waits: u64,
    /// How often one was put off by the device's share.
    pub share_waits: u64,
    /// Requests that ended with an error.
    pub errors: u64,
    /// See [`BUCKETS`].
    pub latencies: Vec<u64>,
}

impl Default for Figures {
    fn default() -> Self {
        let latencies = vec![0; BUCKETS];
        let (ops, bytes, latency_ns, queued_ns, cap_waits, share_waits, errors) = (0, 0, 0, 0, 0, 0, 0);
        Self { ops, bytes, latency_ns, queued_ns, cap_waits, share_waits, errors, latencies }
    }
}

impl Figures {
    fn sums(&self) -> [u64; 7] {
        [self.ops, self.bytes, self.latency_ns, self.queued_ns, self.cap_waits, self.share_waits, self.errors]
    }

    /// What was added since. Sums that fell are those of a disk that began anew: all of it was added.
    #[must_use]
    pub fn since(&self, last: &Self) -> Self {
        if self.sums().iter().zip(last.sums()).any(|(now, last)| *now < last) {
            return self.clone();
        }
        let old = last.latencies.iter().chain(std::iter::repeat(&0));
        Self {
            ops: self.ops - last.ops,
            bytes: self.bytes - last.bytes,
            latency_ns: self.latency_ns - last.latency_ns,
            queued_ns: self.queued_ns - last.queued_ns,
            cap_waits: self.cap_waits - last.cap_waits,
            share_waits: self.share_waits - last.share_waits,
            errors: self.errors - last.errors,
            latencies: self.latencies.iter().zip(old).map(|(now, old)| now.saturating_sub(*old)).collect(),
        }
    }

    /// Another disk of the same domain.
    pub fn add(&mut self, other: &Self) {
        let sum = |to: &mut u64, n: u64| *to = to.saturating_add(n);
        sum(&mut self.ops, other.ops);
        sum(&mut self.bytes, other.bytes);
        sum(&mut self.latency_ns, other.latency_ns);
        sum(&mut self.queued_ns, other.queued_ns);
        sum(&mut self.cap_waits, other.cap_waits);
        sum(&mut self.share_waits, other.share_waits);
        sum(&mut self.errors, other.errors);
        self.latencies.iter_mut().zip(&other.latencies).for_each(|(to, n)| sum(to, *n));
    }

    /// At most so long did that part of the requests take, ns; none where there were none.
    fn quantile_ns(&self, ppm: u64) -> Option<u64> {
        let all: u128 = self.latencies.iter().map(|n| u128::from(*n)).sum();
        let rank = (all * u128::from(ppm)).div_ceil(u128::from(WHOLE_PPM));
        let mut seen = 0;
        for (bucket, n) in self.latencies.iter().enumerate() {
            seen += u128::from(*n);
            if all > 0 && seen >= rank {
                return Some(u64::MAX >> (63 - bucket.min(63)));
            }
        }
        None
    }
}

/// How a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It got what it was entitled to.
    Kept,
    /// It asked for nothing.
    NoDemand,
    /// A cap of its own held it back.
    Capped,
    /// Others had what it was entitled to.
    Violated,
    /// The device could not do what is reserved of it, or did nothing at all.
    DeviceFault,
}

/// What the window was like beside its figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Requests were under way when it ended.
    pub in_flight: bool,
    /// The device could not keep all that is reserved of it at some moment.
    pub short_of_reserves: bool,
}

/// Whose window it is, and what was promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The domain's name.
    pub domain: String,
    /// The domain's UUID.
    pub uuid: String,
    /// Whose it is.
    pub customer: Option<String>,
    /// Which kind of tenant.
    pub class: Option<String>,
    /// Requests each second that are reserved.
    pub reserve_iops: u64,
    /// The contract.
    pub sla: Sla,
}

/// A window of a domain: a line of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it began, in UTC.
    pub from: String,
    /// How long it was, s.
    pub len_s: f64,
    /// Whose it is, and what was promised.
    #[serde(flatten)]
    pub promise: Promise,
    /// Requests each second that it would have done, had none waited before the device.
    pub demanded_iops: f64,
    /// Requests each second that it did.
    pub delivered_iops: f64,
    /// Their bytes.
    pub bytes: u64,
    /// How often a request was put off by a cap of its own.
    pub cap_waits: u64,
    /// How often by the device's share.
    pub share_waits: u64,
    /// Requests that ended with an error.
    pub errors: u64,
    /// Half of the requests took at most that.
    pub p50_ns: Option<u64>,
    /// 99 % of them.
    pub p99_ns: Option<u64>,
    /// 99.9 % of them.
    pub p999_ns: Option<u64>,
    /// How it ended.
    pub verdict: Verdict,
}

/// A window with its verdict. `from` says when it began, `grown` what was added in its `len_s` seconds.
///
/// Demand is what the same requests would have come to without their waiting: a guest keeps so many under way and sends the next when
/// one is answered, so that its pace goes with their latency.
#[must_use]
pub fn judge(promise: &Promise, from: &str, len_s: f64, grown: &Figures, around: Circumstances) -> Entry {
    let delivered = to_f64(grown.ops) / len_s;
    let served_ns = grown.latency_ns.saturating_sub(grown.queued_ns).max(1);
    let demanded = delivered * (to_f64(grown.latency_ns.max(1)) / to_f64(served_ns)).max(1.0);
    let entitled = demanded.min(to_f64(promise.reserve_iops));
    let waited = grown.cap_waits > 0 || grown.share_waits > 0;
    let is_kept = delivered >= entitled * f64::from(promise.sla.tolerance_ppm) / 1e6;
    let verdict = match grown.ops {
        0 if !around.in_flight && !waited => Verdict::NoDemand,
        0 if grown.cap_waits > 0 => Verdict::Capped,
        0 => Verdict::DeviceFault,
        _ if is_kept => Verdict::Kept,
        _ if grown.cap_waits > 0 => Verdict::Capped,
        _ if around.short_of_reserves => Verdict::DeviceFault,
        _ => Verdict::Violated,
    };
    Entry {
        from: from.to_owned(),
        len_s,
        promise: promise.clone(),
        demanded_iops: demanded,
        delivered_iops: delivered,
        bytes: grown.bytes,
        cap_waits: grown.cap_waits,
        share_waits: grown.share_waits,
        errors: grown.errors,
        p50_ns: grown.quantile_ns(500_000),
        p99_ns: grown.quantile_ns(990_000),
        p999_ns: grown.quantile_ns(999_000),
        verdict,
    }
}

/// What the windows of a customer under one contract come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Whose; the domain where it has no customer.
    pub customer: String,
    /// Under which contract.
    pub class: Option<String>,
    /// How many domains.
    pub domains: usize,
    /// Windows by how they ended.
    pub windows: BTreeMap<Verdict, u64>,
    /// Windows kept, of those in which something was asked for and no cap of its own held the domain back; parts of a million,
    /// and none where there were none.
    pub compliance_ppm: Option<u32>,
    /// What was promised of that.
    pub target_ppm: u32,
    /// Of the month's price.
    pub credit_percent: u32,
}

/// Adds windows up, customer by customer.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    accounts: BTreeMap<(String, Option<String>), Running>,
}

#[derive(Clone, Debug)]
struct Running {
    domains: std::collections::BTreeSet<String>,
    windows: BTreeMap<Verdict, u64>,
    sla: Sla,
}

impl Sum {
    /// A window; where a contract changed within the month, its last form holds.
    pub fn add(&mut self, entry: Entry) {
        let Entry { promise, verdict, .. } = entry;
        let whose = promise.customer.unwrap_or(promise.domain);
        let fresh = || Running {
            domains: std::collections::BTreeSet::new(),
            windows: BTreeMap::new(),
            sla: promise.sla.clone(),
        };
        let account = self.accounts.entry((whose, promise.class)).or_insert_with(fresh);
        account.domains.insert(promise.uuid);
        *account.windows.entry(verdict).or_default() += 1;
        account.sla = promise.sla;
    }

    /// What it comes to.
    #[must_use]
    pub fn accounts(&self) -> Vec<Account> {
        let account = |((customer, class), running): (&(String, Option<String>), &Running)| {
            let count = |verdict| running.windows.get(&verdict).copied().unwrap_or_default();
            let kept = count(Verdict::Kept);
            let asked = kept + count(Verdict::Violated) + count(Verdict::DeviceFault);
            // Rounded down: nobody's compliance is better than it was.
            let ppm = (kept * WHOLE_PPM).checked_div(asked).and_then(|ppm| u32::try_from(ppm).ok());
            Account {
                customer: customer.clone(),
                class: class.clone(),
                domains: running.domains.len(),
                windows: running.windows.clone(),
                compliance_ppm: ppm,
                target_ppm: running.sla.target_ppm,
                credit_percent: ppm.map_or(0, |ppm| credit(&running.sla.credits, ppm)),
            }
        };
        self.accounts.iter().map(account).collect()
    }
}

/// The harshest step that applies.
fn credit(steps: &[Credit], ppm: u32) -> u32 {
    steps.iter().filter(|step| ppm < step.below_ppm).map(|step| step.percent).max().unwrap_or_default()
}

#[cfg(test)]
mod tests;
