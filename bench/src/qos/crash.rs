//! splitd stopped or killed at random moments under load: what caps and shares are meanwhile, and how soon they are right again. Workers
//! that are killed are `bench recovery`'s. Knows nothing of how splitd comes back.

use qos::simulate::ours::Ours;
use qos::simulate::{Got, Random, Tenant, run};

use super::rows::Rows;
use super::{DEVICE, SECOND, mixed, share_error_pct, work_within};

/// How often, of each kind.
const STOPS: u64 = 100;
const APART_NS: u64 = 5 * SECOND / 2;
const FROM_NS: u64 = 4 * SECOND;
const CAP_IOPS: u64 = 500;
const WEIGHTS: [u32; 3] = [100, 200, 700];

pub(super) fn measure(rows: &mut Rows) {
    for (case, kills) in [("splitd-stopped", false), ("splitd-killed", true)] {
        stops(rows, case, kills);
    }
}

/// Each for half a second at most, the first half of a second after the last.
fn moments() -> Vec<(u64, u64)> {
    let mut random = Random(11);
    let moment = |n| {
        let from_ns = FROM_NS + n * APART_NS + random.below(SECOND / 2);
        (from_ns, from_ns + 1_000_000 + random.below(SECOND / 2))
    };
    (0..STOPS).map(moment).collect()
}

fn shared(got: &[Got], from_ns: u64, until_ns: u64) -> f64 {
    let done: Vec<f64> = got[..3].iter().map(|got| work_within(got, from_ns, until_ns)).collect();
    share_error_pct(&WEIGHTS.map(f64::from), &done)
}

fn stops(rows: &mut Rows, case: &str, kills: bool) {
    let mut tenants = WEIGHTS.map(|weight| mixed(weight, 64)).to_vec();
    tenants.push(Tenant::reading(1000, 4).capped(CAP_IOPS));
    let mut rule = Ours::new(&tenants);
    (rule.stopped_ns, rule.forgets) = (moments(), kills);
    let until_ns = FROM_NS + STOPS * APART_NS;
    let got = run(&tenants, DEVICE, rule, 1, FROM_NS, until_ns).0;
    let wanted = (CAP_IOPS * STOPS * APART_NS / SECOND) as f64;
    rows.ours(case, "crash_cap_error_pct", (got[3].requests as f64 / wanted - 1.0).abs() * 100.0);
    let longest = got.iter().flat_map(|got| &got.latencies_ns).max().copied().unwrap_or(0);
    rows.ours(case, "crash_longest_wait_ms", longest as f64 / 1e6);
    let (mut meanwhile, mut after, mut restored) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (from, to) in moments() {
        if to - from > SECOND / 10 {
            meanwhile = meanwhile.max(shared(&got, from, to));
        }
        let settled = (to + SECOND, to + 3 * SECOND / 2);
        after = after.max(shared(&got, settled.0, settled.1));
        let right = (0..100).find(|step| {
            let begins = to + step * 10_000_000;
            shared(&got, begins, begins + SECOND / 10) < 5.0
        });
        restored = restored.max(right.map_or(f64::INFINITY, |step| step as f64 * 10.0));
    }
    rows.ours(case, "crash_meanwhile_share_error_pct", meanwhile);
    rows.ours(case, "crash_share_error_pct", after);
    rows.ours(case, "crash_restored_ms", restored);
}
