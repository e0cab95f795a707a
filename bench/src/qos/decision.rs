//! What a decision costs on this machine: a worker's with caps and a share, its part of the plans, and what a disk without any pays.
//! Knows nothing of devices.

use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use qos::account::{self, Ask, Counting, NR_CLOCKS, Place};
use qos::cost::{Op, Prices};
use qos::page::{self, Rules, Twice};
use qos::planner::{Planner, Sample, Standing};
use qos::policy::effective::{CapRule, Caps, Told};
use qos::policy::{Cap, Model};
use qos::share::{self, Grant};
use qos::simulate::Random;
use worker::message::QosFiles;
use worker::qos::{Gate, Seen};

use super::rows::Rows;

const TIMES: usize = 5;

pub(super) fn measure(rows: &mut Rows) {
    for n in [1, 10, 100, 1000, 4096] {
        let case = format!("decision-{n}");
        let metric = format!("decision_ns_{n}");
        rows.ours(&case, &metric, middle(|| gate_ns(n)) + middle(|| plan_ns(n)));
    }
    match bypass_ns() {
        Ok(ns) => rows.ours("bypass", "bypass_ns", ns),
        Err(trouble) => rows.absent("bypass", "bypass_ns", &format!("no files for a gate: {trouble}")),
    }
}

/// The one in the middle of several.
fn middle(what: impl Fn() -> f64) -> f64 {
    let mut all: [f64; TIMES] = std::array::from_fn(|_| what());
    all.sort_by(f64::total_cmp);
    all[TIMES / 2]
}

pub(super) fn iops_cap(rate: u64) -> Caps {
    let mut caps = Caps::default();
    let value = CapRule { rate, burst_rate: None, burst_len_ns: 0 };
    caps[Cap::TotalIops as usize] = Some(Told { value, origin: String::new() });
    caps
}

/// A request of one of so many disks passes a cap and a share.
fn gate_ns(n: usize) -> f64 {
    const REQUESTS: u64 = 1_000_000;
    let grant = Grant { since_ns: 0, base: 0, rate: Grant::rate_of(1e9), lasting_rate: 0 };
    let limits = account::limits(&iops_cap(10_000_000));
    let counting = Counting { iops_size_bytes: 256 << 10, flush_is_op: false };
    let disk = || (AtomicU64::new(0), <[AtomicU64; NR_CLOCKS]>::default());
    let disks: Vec<_> = (0..n).map(|_| disk()).collect();
    let mut random = Random(1);
    let begun = Instant::now();
    for i in 0..REQUESTS {
        let (spent, clocks) = &disks[usize::try_from(random.below(n as u64)).unwrap_or(0)];
        let now_ns = i * 10_000;
        black_box(account::ready_at_ns(&limits, Op::Read, counting, |c| &clocks[c]));
        account::charge(&limits, Op::Read, 4096, counting, now_ns, |c| &clocks[c]);
        black_box(share::admit(&grant, spent, 1_000, now_ns, now_ns)).ok();
    }
    begun.elapsed().as_nanos() as f64 / REQUESTS as f64
}

/// A request's part of the plans, at a hundred thousand of them a second.
fn plan_ns(n: usize) -> f64 {
    const PLANS: u64 = 100;
    let mut planner = Planner::new(800_000);
    for i in 0..n as u64 {
        let standing = Standing { customer: i, domain: i, weights: [256, 256, 256], reserve_iops: 10 };
        planner.join(standing, Sample::default(), Grant::OPEN);
    }
    let begun = Instant::now();
    for plan in 1..=PLANS {
        let mut sample = Sample { refused: plan, ..Sample::default() };
        sample.totals.issued_ops = plan * 10 + 4;
        sample.totals.issued_ns = plan * 100_000;
        (sample.totals.done_ops, sample.totals.done_ns) = (plan * 10, plan * 100_000 - 40_000);
        sample.totals.latency_ns = plan * 4_000_000;
        black_box(planner.plan(plan * 10_000_000, &mut |_| sample, &mut |_, grant| _ = black_box(grant)));
    }
    let each_ns = begun.elapsed().as_nanos() as f64 / PLANS as f64;
    // One alone has no plans.
    let plans_per_s = if n == 1 { 0.0 } else { 1e9 / planner.until_next_ns() as f64 };
    each_ns * plans_per_s / 100_000.0
}

fn write<const N: usize>(file: &std::fs::File, of: Twice, words: [u64; N]) -> io::Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.write_all_at(&bytes, of.copies_at[0] as u64)
}

/// A disk's files as splitd makes them, with a cap on its domain or none.
pub(super) fn files(dir: &Path, name: &str, iops: Option<u64>) -> io::Result<QosFiles> {
    let path = |part: &str| dir.join(format!("{name}-{part}"));
    let files = QosFiles { page: path("page"), usage: path("usage"), domain: path("domain"), customer: None };
    let mut rules = Rules::unlimited(Prices::of(Model::Auto, false));
    rules.counting = Counting { iops_size_bytes: 256 << 10, flush_is_op: false };
    if let Some(iops) = iops {
        rules.accounts[1] = account::limits(&iops_cap(iops));
    }
    let page = std::fs::File::create(&files.page)?;
    page.set_len(page::LEN as u64)?;
    write(&page, page::RULES, rules.words())?;
    write(&page, page::GRANT, Grant::OPEN.words())?;
    page.write_all_at(&page::MAGIC.to_le_bytes(), 0)?;
    Ok(files)
}

/// What a request of a disk without caps on a device of its own pays: the worker's own gate, from the look at its page to the end.
fn bypass_ns() -> io::Result<f64> {
    const REQUESTS: u64 = 1_000_000;
    let dir = tempfile::tempdir()?;
    let gate = Gate::open(&files(dir.path(), "a", None)?)?;
    let mut seen = Seen::default();
    let each = || {
        let ask = Ask { op: Op::Read, len_bytes: 4096, taken_ns: 0 };
        let (begun, mut place) = (Instant::now(), Place::default());
        for now_ns in 0..REQUESTS {
            black_box(gate.cap(&seen, Ask { taken_ns: now_ns, ..ask }, &mut place, now_ns)).ok();
            black_box(gate.share(&seen, 1_000, now_ns, now_ns)).ok();
            gate.begun(1_000, 4096);
            gate.ended(1_000, 50_000);
        }
        begun.elapsed().as_nanos() as f64 / REQUESTS as f64
    };
    let request_ns = middle(each);
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        gate.look(black_box(&mut seen));
    }
    // Once a turn, for all requests of it: here for one.
    Ok(request_ns + begun.elapsed().as_nanos() as f64 / REQUESTS as f64)
}
