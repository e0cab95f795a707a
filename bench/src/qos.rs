//! `bench qos`: shares, caps and isolation on the simulated device, by the product's rule and by others in the same run; and what a
//! decision costs on this machine. Knows nothing of how any rule works.

use qos::simulate::ours::Ours;
use qos::simulate::{Device, Got, Rule, Tenant, run};

mod caps;
mod crash;
mod decision;
mod fairness;
mod goals;
mod golden;
mod load_changes;
mod others;
mod processes;
mod reload;
mod rows;
mod tenants;

pub use goals::Found;
use others::{Fifo, Tags};
use rows::Rows;
pub use rows::{QosReport, QosRow};

const SECOND: u64 = 1_000_000_000;
const DEVICE: Device = Device { parallel: 32, jitter: 0.5, slow_ns: None, factor: 1, iops_max: None };

/// Rules for shares, each made anew for a run.
const SHARERS: [&str; 4] = ["splitd", "dmclock", "4-shards", "fifo"];

fn share_run(who: &str, tenants: &[Tenant], seed: u64, from_s: u64, until_s: u64) -> Vec<Got> {
    fn go<R: Rule>(rule: R, tenants: &[Tenant], seed: u64, from_s: u64, until_s: u64) -> Vec<Got> {
        run(tenants, DEVICE, rule, seed, from_s * SECOND, until_s * SECOND).0
    }
    match who {
        "splitd" => go(Ours::new(tenants), tenants, seed, from_s, until_s),
        "dmclock" => go(Tags::new(tenants, 1, 40), tenants, seed, from_s, until_s),
        "4-shards" => go(Tags::new(tenants, 4, 40), tenants, seed, from_s, until_s),
        _ => go(Fifo::default(), tenants, seed, from_s, until_s),
    }
}

fn work(got: &[Got]) -> f64 {
    got.iter().map(Got::work_ns).sum::<u64>() as f64
}

/// Work done from then until then.
fn work_within(got: &Got, from_ns: u64, until_ns: u64) -> f64 {
    let place = |at_ns: u64| got.done.partition_point(|(at, _)| *at < at_ns);
    got.done[place(from_ns)..place(until_ns)].iter().map(|(_, cost)| *cost as f64).sum()
}

fn mixed(weight: u32, depth: u32) -> Tenant {
    Tenant { sizes: vec![4096, 16_384, 65_536], writes_pct: 30, ..Tenant::reading(weight, depth) }
}

/// The largest relative error of a share, in percent, of so much work done.
fn share_error_pct(weights: &[f64], done: &[f64]) -> f64 {
    let (all, weight) = (done.iter().sum::<f64>(), weights.iter().sum::<f64>());
    let error = |(w, done): (&f64, &f64)| (done / (all * w / weight) - 1.0).abs();
    weights.iter().zip(done).map(error).fold(0.0, f64::max) * 100.0
}

/// Some of the rows.
type Part = fn(&mut Rows);

/// Runs everything.
#[must_use]
pub fn measure(machine: String) -> QosReport {
    let mut rows = Rows::default();
    let parts: [(&str, Part); 9] = [
        ("shares", fairness::measure),
        ("changes of the load and of the device", load_changes::measure),
        ("caps", caps::measure),
        ("reloads", reload::measure),
        ("decisions", decision::measure),
        ("tenants", tenants::measure),
        ("crashes", crash::measure),
        ("golden vectors", golden::measure),
        ("threads in real time", processes::measure),
    ];
    for (what, part) in parts {
        let begun = std::time::Instant::now();
        part(&mut rows);
        eprintln!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
    }
    elsewhere(&mut rows);
    rows.report(machine)
}

/// What takes more than this machine, and where it is to be had.
fn elsewhere(rows: &mut Rows) {
    let disk = "needs a real SSD that nothing else uses: what a file on a machine like this does varies by more than the goal; `bench \
                block` measures real disks, without caps or shares";
    rows.absent("real-disk", "cap_real_disk_error_pct", disk);
    rows.absent("real-disk", "isolation_real_disk_p99_ratio", disk);
    let net =
        "needs real Xen: the lab's scenario net_caps measures it, and netback's tests on simulated time";
    rows.absent("net", "net_cap_error_pct", net);
    rows.absent(
        "net",
        "net_added_p50_us",
        "needs a machine with quiet cores; `bench net` has latencies without caps",
    );
    let file =
        "takes splitd with its policy file: the lab's scenarios of policies reload it, and do not time it";
    rows.absent("reload", "reload_file_ms", file);
}
