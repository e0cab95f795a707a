//! What the product makes of a load or a device that changes: the device gets slower, tenants pause, a load begins, one does nothing but
//! flush. Knows nothing of how it does that.

use qos::cost::Op;
use qos::simulate::ours::Ours;
use qos::simulate::{Device, Got, Tenant, run};

use super::fairness::{promised, tenths};
use super::rows::{OURS, Rows};
use super::{DEVICE, SECOND, mixed, share_run, work, work_within};

pub(super) fn measure(rows: &mut Rows) {
    drops(rows);
    conservation(rows);
    cold_start(rows);
    attacks(rows);
}

/// The device is three times slower for two seconds.
fn drops(rows: &mut Rows) {
    let device = Device { slow_ns: Some((5 * SECOND, 7 * SECOND)), ..DEVICE };
    let tenants = promised();
    let got = run(&tenants, device, Ours::new(&tenants), 1, 5 * SECOND, 7 * SECOND).0;
    let kept = tenths(&got[0], 5 * SECOND, 20);
    let pct = |done: u64, tenths: usize| done as f64 / (2_000 * tenths) as f64 * 100.0;
    rows.ours("drop-feasible", "drop_kept_pct", pct(kept.iter().sum(), kept.len()));
    rows.ours("drop-feasible", "drop_first_tenth_pct", pct(kept[0], 1));
    rows.ours("drop-feasible", "drop_settled_pct", pct(kept[1..].iter().min().copied().unwrap_or(0), 1));

    // Eighty thousand promised of a hundred thousand: of the third that is left, four fifths can be.
    let reserves = [40_000, 24_000, 16_000];
    let mut tenants =
        reserves.map(|reserve_iops| Tenant { reserve_iops, ..Tenant::reading(1, 128) }).to_vec();
    tenants.extend((0..10).map(|_| Tenant::reading(1000, 32)));
    let got = run(&tenants, device, Ours::new(&tenants), 1, 5 * SECOND, 7 * SECOND).0;
    let parts = reserves.iter().zip(&got).map(|(reserve, got)| got.done.len() as f64 / *reserve as f64);
    let parts: Vec<f64> = parts.collect();
    let mean = parts.iter().sum::<f64>() / parts.len() as f64;
    let unequal = parts.iter().map(|part| (part / mean - 1.0).abs()).fold(0.0, f64::max);
    rows.ours("drop-infeasible", "drop_unequal_pct", unequal * 100.0);
}

/// Nine of ten pause half of the time; or one has a single request under way, and weighs more than the nine others.
fn conservation(rows: &mut Rows) {
    let pausing = || Tenant { half_period_ns: SECOND / 2, ..mixed(256, 16) };
    let mut nine: Vec<_> = (0..9).map(|_| pausing()).collect();
    nine.push(mixed(256, 128));
    let mut single: Vec<_> = (0..9).map(|_| mixed(256, 64)).collect();
    single.push(Tenant::reading(65_535, 1));
    for (case, tenants) in [("nine-pause", nine), ("one-qd1", single)] {
        let all = work(&share_run("fifo", &tenants, 1, 3, 13));
        let ours = work(&share_run(OURS, &tenants, 1, 3, 13));
        rows.ours(case, "conserved_pct", ours / all * 100.0);
        let tags = work(&share_run("dmclock", &tenants, 1, 3, 13));
        rows.add(case, "dmclock", "conserved_pct", tags / all * 100.0);
    }
}

/// From the first request until half a second from then on has 97 % of what the device does.
fn cold_start(rows: &mut Rows) {
    let tenants = [mixed(512, 64), mixed(256, 64), mixed(128, 64)];
    let per_s = work(&share_run("fifo", &tenants, 1, 1, 3)) / 2.0;
    let got = share_run(OURS, &tenants, 1, 0, 3);
    let half = |from_ns| got.iter().map(|got| work_within(got, from_ns, from_ns + SECOND / 2)).sum::<f64>();
    let reached = (0..240).find(|step| half(step * 10_000_000) >= per_s * 0.485);
    rows.ours("cold-start", "cold_start_ms", reached.map_or(f64::INFINITY, |step| step as f64 * 10.0));
}

/// One of eight that does nothing but flush, or discard; the device takes as long for those as is charged, or ten times as long.
fn attacks(rows: &mut Rows) {
    let others = || (0..7).map(|_| mixed(256, 16)).collect::<Vec<_>>();
    let p99 = |got: &[Got]| got[..7].iter().map(|got| got.latency_ns(990)).max().unwrap_or(0) as f64;
    let without = share_run(OURS, &others(), 1, 3, 13);
    let (fair, before) = (work(&without) * 7.0 / 8.0, p99(&without));
    for (name, op, depth, size) in
        [("flush", Op::Flush, 32, 0), ("flush-qd1", Op::Flush, 1, 0), ("discard", Op::Discard, 1, 256 << 20)]
    {
        for dearer in [1, 10] {
            let attack = Tenant { only: Some(op), sizes: vec![size], dearer, ..Tenant::reading(256, depth) };
            let mut tenants = others();
            tenants.push(attack);
            for who in [OURS, "fifo"] {
                let got = share_run(who, &tenants, 1, 3, 13);
                let case = format!("{name}-x{dearer}");
                rows.add(&case, who, "attack_kept_pct", work(&got[..7]) / fair * 100.0);
                rows.add(&case, who, "attack_p99_ratio", p99(&got) / before);
            }
        }
    }
}
