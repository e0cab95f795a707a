//! Numbers that others' documentation states, by the product's own code: how many come out exactly. And that whatever the parameters are
//! everything passes in a time that can be computed. Knows nothing of devices.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use qos::depth::Totals;
use qos::fill::{self, Vessel};
use qos::gcra::{Clocks, Limit, UNITS_PER_OP};
use qos::planner::{PLAN_NS, Planner, Sample, Standing};
use qos::policy::effective::CapRule;
use qos::share::{self, Grant};
use qos::simulate::Random;
use worker::vif_caps::VifRate;

use super::SECOND;
use super::rows::Rows;

pub(super) fn measure(rows: &mut Rows) {
    let vectors = [
        ("iocost-tree", tree()),
        ("vsphere-3", vsphere()),
        ("qemu-burst", burst()),
        ("vif-credit", credit()),
    ];
    for (case, holds) in vectors {
        rows.ours(case, "golden_vectors_pct", if holds { 100.0 } else { 0.0 });
    }
    rows.ours("random-rules", "liveness_pct", liveness_pct());
}

/// io.cost's source: weights 300 and 100, the latter's two children alike, are 75, 12.5 and 12.5 %.
fn tree() -> bool {
    let mut planner = Planner::new(800_000);
    let mut join = |customer, domain, weights| {
        let standing = Standing { customer, domain, weights, reserve_iops: 0 };
        planner.join(standing, Sample::default(), Grant::OPEN)
    };
    let ids = [(1, 1, [300, 100, 256]), (2, 2, [100, 100, 256]), (2, 3, [100, 100, 256])]
        .map(|(customer, domain, weights)| join(customer, domain, weights));
    let mut rates = BTreeMap::new();
    for n in 1..200_u64 {
        let totals = Totals {
            issued_ops: n * 100 + 8,
            issued_ns: (n * 100 + 8) * 10_000,
            done_ops: n * 100,
            done_ns: n * 1_000_000,
            latency_ns: n * 8_000_000,
        };
        let sample = Sample { spent: 0, totals, refused: n, is_waiting: false };
        planner.plan(n * PLAN_NS, &mut |_| sample, &mut |id, grant| _ = rates.insert(id, grant.rate));
    }
    let rates: Vec<f64> = ids.iter().filter_map(|id| rates.get(id)).map(|rate| *rate as f64).collect();
    let all: f64 = rates.iter().sum();
    rates.len() == 3
        && rates.iter().zip([0.75, 0.125, 0.125]).all(|(rate, part)| (rate / all - part).abs() < 1e-6)
}

/// VMware's third scenario for 8000 IOPS.
fn vsphere() -> bool {
    let vessel = |weight| Vessel { weight, least: 0.0, most: f64::MAX };
    let mut vessels = [
        vessel(1000.0),
        vessel(2500.0),
        Vessel { most: 10.0, ..vessel(1000.0) },
        Vessel { least: 2000.0, ..vessel(500.0) },
    ];
    let got: Vec<_> = fill::divide(8000.0, &mut vessels).iter().map(|x| x.round()).collect();
    got == [1711.0, 4279.0, 10.0, 2000.0]
}

/// QEMU's documentation: 100 with bursts of 2000 for 60 seconds holds 120,000 above its rate, "60 + 3" seconds of them.
fn burst() -> bool {
    let rule = CapRule { rate: 100, burst_rate: Some(2_000), burst_len_ns: 60 * SECOND };
    let (limit, clocks) = (Limit::of(&rule, true), [AtomicU64::new(0), AtomicU64::new(0)]);
    let clocks = Clocks { sustained: &clocks[0], burst: &clocks[1] };
    let (mut now_ns, mut passed) = (0, 0_u64);
    while now_ns < 63 * SECOND {
        limit.charge(clocks, UNITS_PER_OP, now_ns);
        passed += 1;
        now_ns = now_ns.max(limit.ready_at_ns(clocks));
    }
    // At 2000 all that time, and what a tenth of a second lets pass at once.
    (126_000..=126_201).contains(&passed)
}

/// xl's `1MB/s@20ms` is `20000,20000` in xenstore: 20,000 bytes in a window.
fn credit() -> bool {
    let cap = VifRate { window_len_bytes: 20_000, window_us: 20_000 }.cap();
    cap.rate / 8 * 20_000 / 1_000_000 == 20_000
}

/// Random rules and requests: each passes by the time that its size and its rate come to.
fn liveness_pct() -> f64 {
    const RULES: u64 = 200_000;
    let mut random = Random(5);
    let mut live = 0_u64;
    for _ in 0..RULES {
        // As many small as large ones, of both.
        let rate = (random.word() >> random.below(64)).max(1);
        let cost = (random.word() >> (24 + random.below(40))).max(1);
        let now_ns = random.word() >> 8;
        let rule = CapRule { rate, burst_rate: None, burst_len_ns: 0 };
        let (limit, words) = (Limit::of(&rule, random.below(2) == 0), [AtomicU64::new(0), AtomicU64::new(0)]);
        let clocks = Clocks { sustained: &words[0], burst: &words[1] };
        limit.charge(clocks, cost, now_ns);
        let most_ns = u128::from(cost) * u128::from(SECOND) / u128::from(rate) + 2;
        let cap_passes = u128::from(limit.ready_at_ns(clocks)) <= u128::from(now_ns) + most_ns;

        let spent = AtomicU64::new(0);
        let grant = Grant { since_ns: now_ns, base: 0, rate: rate.min(u64::MAX / 2), lasting_rate: 0 };
        let first = share::admit(&grant, &spent, cost, now_ns, now_ns);
        let share_passes = match share::admit(&grant, &spent, cost, now_ns, now_ns) {
            Ok(()) => true,
            Err(at) => at == u64::MAX || share::admit(&grant, &spent, cost, at, at).is_ok(),
        };
        live += u64::from(cap_passes && first.is_ok() && share_passes);
    }
    live as f64 / RULES as f64 * 100.0
}
