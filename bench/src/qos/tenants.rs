//! Tenants that come, weigh something else and go under load: what each costs the arbiter with the plan that follows, on this machine, and
//! what those who stay notice. Knows nothing of how the arbiter keeps them.

use qos::simulate::ours::{Change, Ours, Work};
use qos::simulate::{Tenant, run};
use worker::clock::monotonic_ns;

use super::others::Fifo;
use super::rows::Rows;
use super::{DEVICE, SECOND, mixed, share_error_pct, work};

/// Those that come and go.
const PASSING: u64 = 100;
const EVERY_NS: u64 = 20_000_000;
const STAYS_NS: u64 = 200_000_000;
const FROM_NS: u64 = 2 * SECOND;
const UNTIL_NS: u64 = FROM_NS + PASSING * EVERY_NS + 2 * STAYS_NS;

pub(super) fn measure(rows: &mut Rows) {
    for n in [1, 10, 100, 1000, 4096] {
        let case = format!("tenants-{n}");
        let tenants = tenants(n);
        let mut rule = Ours::new(&tenants);
        rule.clock = Some(monotonic_ns);
        for i in 0..PASSING {
            let weight = if i % 2 == 0 { 300 } else { 256 };
            let which = usize::try_from(i).unwrap_or(0) % n;
            let at_ns = FROM_NS + i * EVERY_NS + EVERY_NS / 2;
            rule.change(at_ns, which, Change::Share { weight, reserve_iops: 0 });
        }
        let (_, rule) = run(&tenants, DEVICE, rule, 1, FROM_NS, UNTIL_NS);
        costs(rows, &case, if n > 1000 { "stretch_" } else { "" }, &rule.took_ns);
    }
    noticed(rows);
}

/// `n` that stay, and those that come and go.
fn tenants(n: usize) -> Vec<Tenant> {
    let depth = if n >= 1000 { 4 } else { 16 };
    let mut tenants = vec![mixed(256, depth); n];
    tenants.extend((0..PASSING).map(|i| {
        let from_ns = FROM_NS + i * EVERY_NS;
        Tenant { from_ns, until_ns: from_ns + STAYS_NS, ..mixed(256, depth) }
    }));
    tenants
}

fn costs(rows: &mut Rows, case: &str, prefix: &str, took_ns: &[(Work, u64)]) {
    let mut ratio = 0.0_f64;
    // Those that were there from the start came to nobody's load, and plans count once the load is there.
    let loaded = took_ns.iter().position(|(work, _)| *work == Work::Share).unwrap_or(0);
    let took_ns = &took_ns[loaded.saturating_sub(2)..];
    for (work, name) in
        [(Work::Join, "join"), (Work::Share, "reweigh"), (Work::Leave, "leave"), (Work::Plan, "plan")]
    {
        let alone: Vec<u64> = took_ns.iter().filter(|(its, _)| *its == work).map(|(_, ns)| *ns).collect();
        rows.ours(case, &format!("{name}_median_ns"), middle(&alone));
        rows.ours(case, &format!("{name}_worst_ns"), most(&alone));
        if work == Work::Plan {
            rows.ours(case, "plan_worst_of_median", most(&alone) / middle(&alone));
            continue;
        }
        // With the plan that follows it.
        let followed = |i: usize, ns: u64| {
            let plan = took_ns[i..].iter().find(|(its, _)| *its == Work::Plan);
            ns + plan.map_or(0, |(_, ns)| *ns)
        };
        let places = took_ns.iter().enumerate().filter(|(_, (its, _))| *its == work);
        let whole: Vec<u64> = places.map(|(i, (_, ns))| followed(i, *ns)).collect();
        ratio = ratio.max(most(&whole) / middle(&whole));
        if work == Work::Join {
            rows.ours(case, &format!("{prefix}attach_worst_ms"), most(&whole) / 1e6);
        }
    }
    rows.ours(case, &format!("{prefix}operation_worst_of_median"), ratio);
}

fn middle(all: &[u64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default() as f64
}

fn most(all: &[u64]) -> f64 {
    all.iter().max().copied().unwrap_or_default() as f64
}

/// Ten who stay, while a hundred come and go: their shares among each other, and what the device does.
fn noticed(rows: &mut Rows) {
    let mut tenants = tenants(10);
    for (i, tenant) in tenants.iter_mut().enumerate().take(10) {
        (tenant.weight, tenant.depth) = (256 << (i % 3), 64);
    }
    let got = run(&tenants, DEVICE, Ours::new(&tenants), 1, FROM_NS, UNTIL_NS).0;
    let weights: Vec<f64> = tenants[..10].iter().map(|t| f64::from(t.weight)).collect();
    let done: Vec<f64> = got[..10].iter().map(|got| got.work_ns() as f64).collect();
    rows.ours("tenants-churn", "churn_share_error_pct", share_error_pct(&weights, &done));
    let all = run(&tenants, DEVICE, Fifo::default(), 1, FROM_NS, UNTIL_NS).0;
    rows.ours("tenants-churn", "churn_throughput_pct", work(&got) / work(&all) * 100.0);
}
