//! Policies that change under load: how soon another weight or cap holds, and what a thousand changes a minute give away. Knows nothing
//! of how a change reaches who keeps it.

use qos::simulate::ours::{Change, Ours};
use qos::simulate::{Tenant, run};

use super::rows::Rows;
use super::{DEVICE, SECOND, mixed, share_error_pct, work_within};

const STEP_NS: u64 = 1_000_000;
/// A thousand a minute.
const EVERY_NS: u64 = 60_000_000;

pub(super) fn measure(rows: &mut Rows) {
    rows.ours("reload-weight", "reload_ms", weight_ms());
    rows.ours("reload-cap", "reload_ms", cap_ms());
    rows.ours("reloads-weight", "reloads_drift_pct", weights_drift_pct());
    caps_drift(rows);
}

/// From a weight that is changed tenfold until what is done in 5 ms follows it within 5 %: the end of those.
fn weight_ms() -> f64 {
    let tenants = [Tenant::reading(256, 64), Tenant::reading(256, 64)];
    let mut rule = Ours::new(&tenants);
    rule.change(5 * SECOND, 0, Change::Share { weight: 2560, reserve_iops: 0 });
    let (got, _) = run(&tenants, DEVICE, rule, 1, 5 * SECOND, 6 * SECOND);
    let settled = (0..900).find(|step| {
        let from = 5 * SECOND + step * STEP_NS;
        let within = |i: usize| work_within(&got[i], from, from + 5 * STEP_NS);
        within(0) / (within(0) + within(1)) > 10.0 / 11.0 * 0.95
    });
    settled.map_or(f64::INFINITY, |step| step as f64 + 5.0)
}

/// From a cap that is halved until what is done in 5 ms follows it within 5 %.
fn cap_ms() -> f64 {
    let tenants = [Tenant::reading(256, 64).capped(40_000), Tenant::reading(256, 64)];
    let mut rule = Ours::new(&tenants);
    rule.change(5 * SECOND, 0, Change::Cap(20_000));
    let (got, _) = run(&tenants, DEVICE, rule, 1, 5 * SECOND, 6 * SECOND);
    let settled = (0..900).find(|step| {
        let from = 5 * SECOND + step * STEP_NS;
        let done = got[0].done.iter().filter(|(at, _)| (from..from + 5 * STEP_NS).contains(at)).count();
        (done as f64 / 100.0 - 1.0).abs() < 0.05
    });
    settled.map_or(f64::INFINITY, |step| step as f64 + 5.0)
}

/// Two change places a thousand times a minute: what either did in that minute is half.
fn weights_drift_pct() -> f64 {
    let tenants = [mixed(256, 64), mixed(512, 64)];
    let mut rule = Ours::new(&tenants);
    for n in 0..1000 {
        let weights = if n % 2 == 0 { [512, 256] } else { [256, 512] };
        for (i, weight) in weights.into_iter().enumerate() {
            rule.change(3 * SECOND + n * EVERY_NS, i, Change::Share { weight, reserve_iops: 0 });
        }
    }
    let (got, _) = run(&tenants, DEVICE, rule, 1, 3 * SECOND, 63 * SECOND);
    share_error_pct(&[1.0, 1.0], &[got[0].work_ns() as f64, got[1].work_ns() as f64])
}

/// A cap is doubled and halved a thousand times a minute: what passed beyond what the caps of those times add up to. From one change to
/// the next may pass what a cap without a burst lets pass at once, but not each time anew.
fn caps_drift(rows: &mut Rows) {
    let tenants = [Tenant::reading(256, 32).capped(1_000)];
    let mut rule = Ours::new(&tenants);
    for n in 0..1000 {
        rule.change(3 * SECOND + n * EVERY_NS, 0, Change::Cap(if n % 2 == 0 { 2_000 } else { 1_000 }));
    }
    let (got, _) = run(&tenants, DEVICE, rule, 1, 3 * SECOND, 63 * SECOND);
    let (passed, allowed) = (got[0].requests as f64, 90_000.0);
    rows.ours("reloads-cap", "reloads_drift_pct", (passed / allowed - 1.0).abs() * 100.0);
    // Ten milliseconds at the higher rate, one request, and what was under way at the start.
    let at_once = 20.0 + 1.0 + 32.0;
    rows.ours("reloads-cap", "reloads_free_burst_ops", (passed - allowed - at_once).max(0.0));
}
