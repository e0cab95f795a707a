//! `bench qos`: shares, caps and isolation on the simulated device, by the product's rule and by others in the same run; and what a
//! decision costs on this machine. Knows nothing of how any rule works.

use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use qos::planner::{Planner, Sample, Standing};
use qos::share::{self, Grant};
use qos::simulate::ours::Ours;
use qos::simulate::{Device, Got, Random, Rule, Tenant, run};
use serde::Serialize;

mod others;

use others::{Fifo, Limiter, Slices, Tags};

const SECOND: u64 = 1_000_000_000;
const DEVICE: Device = Device { parallel: 32, jitter: 0.5, slow_ns: None, factor: 1, iops_max: None };
/// Shares are judged of tenants with so many requests at least: of fewer, one more or less is half a percent.
const LEAST_REQUESTS: usize = 500;

/// One case by one rule.
#[derive(Clone, Debug, Serialize)]
pub struct QosRow {
    /// `share-100`
    pub case: String,
    /// `splitd`, `fifo`, …
    pub who: String,
    /// What is measured.
    pub metric: String,
    /// Its value.
    pub value: f64,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct QosReport {
    version: u32,
    kind: &'static str,
    machine: String,
    metrics: serde_json::Map<String, serde_json::Value>,
    rows: Vec<QosRow>,
}

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

/// The largest relative error of a share, in percent.
fn share_error_pct(tenants: &[Tenant], got: &[Got]) -> f64 {
    let (all, weights) = (work(got), tenants.iter().map(|t| f64::from(t.weight)).sum::<f64>());
    let judged = tenants.iter().zip(got).filter(|(_, got)| got.done.len() >= LEAST_REQUESTS);
    let error =
        |(t, g): (&Tenant, &Got)| (g.work_ns() as f64 / (all * f64::from(t.weight) / weights) - 1.0).abs();
    judged.map(error).fold(0.0, f64::max) * 100.0
}

/// Weights from 1 to 65535, as many small ones as large ones.
fn tenants(n: usize, seed: u64) -> Vec<Tenant> {
    let mut random = Random(seed);
    let tenant = |_| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within 1..=65535
        let weight = (random.unit() * 65_535_f64.ln()).exp() as u32;
        let depth = if n >= 1000 { 8 } else { 64 };
        let sizes = vec![4096, 16_384, 65_536];
        Tenant { sizes, writes_pct: 30, ..Tenant::reading(weight.clamp(1, 65_535), depth) }
    };
    (0..n).map(tenant).collect()
}

struct Rows(Vec<QosRow>);

impl Rows {
    fn add(&mut self, case: &str, who: &str, metric: &str, value: f64) {
        self.0.push(QosRow { case: case.into(), who: who.into(), metric: metric.into(), value });
    }

    /// The worst of the product's values of a metric.
    fn worst(&self, metric: &str, worse: fn(f64, f64) -> f64) -> f64 {
        let ours = self.0.iter().filter(|row| row.who == "splitd" && row.metric == metric);
        ours.map(|row| row.value).reduce(worse).unwrap_or(f64::NAN)
    }
}

/// Runs everything.
#[must_use]
pub fn measure(machine: String) -> QosReport {
    let mut rows = Rows(Vec::new());
    shares(&mut rows);
    isolation(&mut rows);
    reservation(&mut rows);
    caps(&mut rows);
    rows.add("reload", "splitd", "reload_ms", reload_ms());
    for n in [1, 1000] {
        rows.add(&format!("decision-{n}"), "splitd", &format!("decision_ns_{n}"), decision_ns(n));
    }
    let mut metrics = serde_json::Map::new();
    for (metric, worse) in [
        ("share_error_pct", f64::max as fn(f64, f64) -> f64),
        ("cap_error_pct", f64::max),
        ("throughput_pct", f64::min),
        ("isolation_p99_ratio", f64::max),
        ("reservation_worst_pct", f64::min),
        ("reload_ms", f64::max),
        ("decision_ns_1", f64::max),
        ("decision_ns_1000", f64::max),
    ] {
        metrics.insert(metric.to_owned(), rows.worst(metric, worse).into());
    }
    QosReport { version: 1, kind: "qos", machine, metrics, rows: rows.0 }
}

fn shares(rows: &mut Rows) {
    for n in [2, 10, 100, 1000] {
        let tenants = tenants(n, 7);
        let case = format!("share-{n}");
        let unscheduled = work(&share_run("fifo", &tenants, 1, 3, 13));
        // Others look at all tenants for every request: of a thousand that takes minutes, and shows nothing new.
        for who in SHARERS.into_iter().filter(|who| n < 1000 || *who == "splitd") {
            let got = share_run(who, &tenants, 1, 3, 13);
            rows.add(&case, who, "share_error_pct", share_error_pct(&tenants, &got));
            rows.add(&case, who, "throughput_pct", work(&got) / unscheduled * 100.0);
            eprintln!("{case} {who}");
        }
    }
}

/// One that reads a block at a time beside seven that write megabytes as fast as they can.
fn isolation(rows: &mut Rows) {
    let quiet = Tenant { reserve_iops: 3_000, ..Tenant::reading(1000, 1) };
    let alone = share_run("fifo", std::slice::from_ref(&quiet), 1, 1, 6)[0].latency_ns(990);
    let noisy = Tenant { sizes: vec![1 << 20], writes_pct: 100, ..Tenant::reading(256, 64) };
    let mut tenants = vec![quiet];
    tenants.extend((0..7).map(|_| noisy.clone()));
    for who in SHARERS {
        let got = share_run(who, &tenants, 1, 3, 23);
        rows.add("isolation", who, "isolation_p99_ratio", got[0].latency_ns(990) as f64 / alone as f64);
        eprintln!("isolation {who}");
    }
}

/// A fifth of the device promised to one of weight 1 among 99 of 1000: its worst tenth of a second.
fn reservation(rows: &mut Rows) {
    let mut tenants = vec![Tenant { reserve_iops: 20_000, ..Tenant::reading(1, 64) }];
    tenants.extend((0..99).map(|_| Tenant::reading(1000, 8)));
    let got = share_run("splitd", &tenants, 1, 3, 13);
    let mut windows = [0_u64; 100];
    for (at, _) in &got[0].done {
        if let Some(n) =
            usize::try_from((at - 3 * SECOND) / (SECOND / 10)).ok().and_then(|i| windows.get_mut(i))
        {
            *n += 1;
        }
    }
    let worst = windows.iter().min().copied().unwrap_or(0);
    rows.add("reservation", "splitd", "reservation_worst_pct", worst as f64 / 2_000.0 * 100.0);
}

/// Ten seconds under a cap, by each rule.
fn caps(rows: &mut Rows) {
    for iops in [10, 100, 1_000, 10_000] {
        let tenants = [Tenant { iops_max: Some(iops), ..Tenant::reading(256, 32) }];
        let error = |got: &[Got]| (got[0].requests as f64 / (iops as f64 * 10.0) - 1.0).abs() * 100.0;
        let case = format!("cap-{iops}");
        let ours = run(&tenants, DEVICE, Ours::new(&tenants), 1, SECOND, 11 * SECOND).0;
        rows.add(&case, "splitd", "cap_error_pct", error(&ours));
        let qemu = run(&tenants, DEVICE, Limiter::qemu(iops), 1, SECOND, 11 * SECOND).0;
        rows.add(&case, "qemu", "cap_error_pct", error(&qemu));
        let buckets = run(&tenants, DEVICE, Limiter::refilled(iops, 100_000_000), 1, SECOND, 11 * SECOND).0;
        rows.add(&case, "100ms-buckets", "cap_error_pct", error(&buckets));
        let slices = run(&tenants, DEVICE, Slices::new(iops), 1, SECOND, 11 * SECOND).0;
        rows.add(&case, "1ms-slices", "cap_error_pct", error(&slices));
    }
}

/// From a weight that is changed tenfold until what is done in 5 ms follows it within 5 %: the end of those.
fn reload_ms() -> f64 {
    let tenants = [Tenant::reading(256, 64), Tenant::reading(256, 64)];
    let mut rule = Ours::new(&tenants);
    rule.reweigh = Some((5 * SECOND, 0, 2560));
    let (got, _) = run(&tenants, DEVICE, rule, 1, 5 * SECOND, 6 * SECOND);
    const STEP_NS: u64 = 1_000_000;
    let within = |got: &Got, from: u64| -> f64 {
        let window = from..from + 5 * STEP_NS;
        got.done.iter().filter(|(at, _)| window.contains(at)).map(|(_, cost)| *cost as f64).sum()
    };
    let settled = (0..900).find(|step| {
        let from = 5 * SECOND + step * STEP_NS;
        let (a, b) = (within(&got[0], from), within(&got[1], from));
        a / (a + b) > 10.0 / 11.0 * 0.95
    });
    settled.map_or(f64::INFINITY, |step| step as f64 + 5.0)
}

/// What one decision costs with so many disks: the worker's, and its part of the plans that are made for them at a hundred thousand
/// requests a second.
fn decision_ns(n: usize) -> f64 {
    const REQUESTS: u64 = 2_000_000;
    let grant = Grant { since_ns: 0, base: 0, rate: Grant::rate_of(1e9), lasting_rate: 0 };
    let spent: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
    let mut random = Random(1);
    let begun = Instant::now();
    for i in 0..REQUESTS {
        let which = usize::try_from(random.below(n as u64)).unwrap_or(0);
        black_box(share::admit(&grant, &spent[which], 1_000, i * 10_000, i * 10_000)).ok();
    }
    let gate_ns = begun.elapsed().as_nanos() as f64 / REQUESTS as f64;
    let mut planner = Planner::new(800_000);
    for i in 0..n as u64 {
        let standing = Standing { customer: i, domain: i, weights: [256, 256, 256], reserve_iops: 0 };
        planner.join(standing, Sample::default(), Grant::OPEN);
    }
    const PLANS: u64 = 200;
    let begun = Instant::now();
    for plan in 1..=PLANS {
        let mut sample = Sample { refused: plan, ..Sample::default() };
        sample.totals.issued_ops = plan * 10 + 4;
        sample.totals.issued_ns = plan * 100_000;
        (sample.totals.done_ops, sample.totals.done_ns) = (plan * 10, plan * 100_000 - 40_000);
        sample.totals.latency_ns = plan * 4_000_000;
        black_box(planner.plan(plan * 10_000_000, &mut |_| sample, &mut |_, grant| _ = black_box(grant)));
    }
    let plan_ns = begun.elapsed().as_nanos() as f64 / PLANS as f64;
    // A hundred plans a second.
    gate_ns + plan_ns * 100.0 / 100_000.0
}

impl QosReport {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("{}\n{:14} {:14} {:24} {:>12}\n", self.machine, "case", "by", "", "");
        for row in &self.rows {
            let _ = writeln!(text, "{:14} {:14} {:24} {:12.3}", row.case, row.who, row.metric, row.value);
        }
        text
    }
}
