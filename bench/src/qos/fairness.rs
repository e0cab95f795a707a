//! Whether each gets its share: over seconds, in any short window, beside flooders, under a reservation, and what that costs the
//! device. Knows nothing of how any rule works.

use qos::simulate::{Got, Random, Tenant};

use super::rows::{OURS, Rows};
use super::{SECOND, SHARERS, mixed, share_run, work};

/// Shares are judged of tenants with so many requests at least: of fewer, one more or less is half a percent.
const LEAST_REQUESTS: usize = 500;
/// Lag is looked for in windows of that length and all longer ones.
const LAG_WINDOW_NS: u64 = 10_000_000;

pub(super) fn measure(rows: &mut Rows) {
    shares(rows);
    mixes(rows);
    isolation(rows);
    reservation(rows);
}

/// Weights from 1 to 65535, as many small ones as large ones.
fn tenants(n: usize, seed: u64) -> Vec<Tenant> {
    let mut random = Random(seed);
    let tenant = |_| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within 1..=65535
        let weight = (random.unit() * 65_535_f64.ln()).exp() as u32;
        mixed(weight.clamp(1, 65_535), if n >= 1000 { 8 } else { 64 })
    };
    (0..n).map(tenant).collect()
}

/// The largest relative error of a share, in percent.
fn share_error_pct(tenants: &[Tenant], got: &[Got]) -> f64 {
    let (all, weights) = (work(got), tenants.iter().map(|t| f64::from(t.weight)).sum::<f64>());
    let judged = tenants.iter().zip(got).filter(|(_, got)| got.done.len() >= LEAST_REQUESTS);
    let error =
        |(t, g): (&Tenant, &Got)| (g.work_ns() as f64 / (all * f64::from(t.weight) / weights) - 1.0).abs();
    judged.map(error).fold(0.0, f64::max) * 100.0
}

/// By how much a tenant that always wants more got more or less than its share in any window of ten milliseconds or longer, at most;
/// in units of the largest piece.
pub(super) fn lag_ops(weights: &[f64], got: &[Got]) -> f64 {
    let mut all: Vec<(u64, u64)> = got.iter().flat_map(|got| got.done.iter().copied()).collect();
    all.sort_unstable();
    let largest = all.iter().map(|(_, cost)| *cost).max().unwrap_or(1) as f64;
    let mut sum = 0.0;
    let sums: Vec<(u64, f64)> = all
        .iter()
        .map(|(at, cost)| {
            sum += *cost as f64;
            (*at, sum)
        })
        .collect();
    let until = |place: usize| if place == 0 { 0.0 } else { sums[place - 1].1 };
    let total: f64 = weights.iter().sum();
    let lag = |(weight, got): (&f64, &Got)| {
        // How far it is ahead, right before each of its pieces and right after: between those it only falls behind.
        let (mut own, mut ahead) = (0.0, Vec::with_capacity(got.done.len() * 2));
        for (at, cost) in &got.done {
            let before = until(sums.partition_point(|(then, _)| then < at));
            ahead.push((*at, own - before * weight / total));
            own += *cost as f64;
            let after = until(sums.partition_point(|(then, _)| then <= at));
            ahead.push((*at, own - after * weight / total));
        }
        if let Some((last, sum)) = sums.last() {
            ahead.push((*last, own - sum * weight / total));
        }
        let (mut low, mut high, mut begins, mut worst) = (f64::MAX, f64::MIN, 0, 0.0_f64);
        for (at, now) in &ahead {
            while ahead[begins].0 + LAG_WINDOW_NS <= *at {
                (low, high) = (low.min(ahead[begins].1), high.max(ahead[begins].1));
                begins += 1;
            }
            if begins > 0 {
                worst = worst.max(now - low).max(high - now);
            }
        }
        worst
    };
    weights.iter().zip(got).map(lag).fold(0.0, f64::max) / largest
}

fn shares(rows: &mut Rows) {
    for n in [2, 10, 100, 1000] {
        let tenants = tenants(n, 7);
        let weights: Vec<_> = tenants.iter().map(|t| f64::from(t.weight)).collect();
        let case = format!("share-{n}");
        let unscheduled = work(&share_run("fifo", &tenants, 1, 3, 13));
        // Others look at all tenants for every request: of a thousand that takes minutes, and shows nothing new.
        for who in SHARERS.into_iter().filter(|who| n < 1000 || *who == OURS) {
            let got = share_run(who, &tenants, 1, 3, 13);
            rows.add(&case, who, "share_error_pct", share_error_pct(&tenants, &got));
            rows.add(&case, who, "throughput_pct", work(&got) / unscheduled * 100.0);
            rows.add(&case, who, "lag_ops", lag_ops(&weights, &got));
        }
    }
}

/// Small and large, read and written: none may cost throughput.
fn mixes(rows: &mut Rows) {
    for (name, sizes, writes_pct) in [
        ("4k-read", vec![4096], 0),
        ("4k-write", vec![4096], 100),
        ("4k-64k", vec![4096, 65_536], 50),
        ("64k", vec![65_536], 30),
        ("4k-1m", vec![4096, 1 << 20], 30),
        ("1m-write", vec![1 << 20], 100),
    ] {
        let tenant = |weight| Tenant { sizes: sizes.clone(), writes_pct, ..Tenant::reading(weight, 64) };
        let tenants = [100, 200, 300, 400].map(tenant);
        let unscheduled = work(&share_run("fifo", &tenants, 1, 2, 12));
        let ours = work(&share_run(OURS, &tenants, 1, 2, 12));
        rows.ours(&format!("mix-{name}"), "mix_throughput_pct", ours / unscheduled * 100.0);
    }
}

/// One that reads a block at a time beside seven that write megabytes as fast as they can.
fn isolation(rows: &mut Rows) {
    let quiet = Tenant { reserve_iops: 3_000, ..Tenant::reading(1000, 1) };
    let alone = share_run("fifo", std::slice::from_ref(&quiet), 1, 3, 23);
    let noisy = Tenant { sizes: vec![1 << 20], writes_pct: 100, ..Tenant::reading(256, 64) };
    let mut tenants = vec![quiet];
    tenants.extend((0..7).map(|_| noisy.clone()));
    for who in SHARERS {
        let got = share_run(who, &tenants, 1, 3, 23);
        for (metric, permille) in [("isolation_p99_ratio", 990), ("isolation_p999_ratio", 999)] {
            let ratio = got[0].latency_ns(permille) as f64 / alone[0].latency_ns(permille) as f64;
            rows.add("isolation", who, metric, ratio);
        }
    }
}

/// What a tenant did in each tenth of a second from then on.
pub(super) fn tenths(got: &Got, from_ns: u64, nr: usize) -> Vec<u64> {
    let mut windows = vec![0_u64; nr];
    for (at, _) in got.done.iter().filter(|(at, _)| *at >= from_ns) {
        let place = usize::try_from((at - from_ns) / (SECOND / 10)).ok();
        if let Some(n) = place.and_then(|place| windows.get_mut(place)) {
            *n += 1;
        }
    }
    windows
}

/// A fifth of the device promised to one of weight 1 among 99 of 1000.
pub(super) fn promised() -> Vec<Tenant> {
    let mut tenants = vec![Tenant { reserve_iops: 20_000, ..Tenant::reading(1, 64) }];
    tenants.extend((0..99).map(|_| Tenant::reading(1000, 8)));
    tenants
}

/// Its worst tenth of a second.
fn reservation(rows: &mut Rows) {
    let tenants = promised();
    let got = share_run(OURS, &tenants, 1, 3, 13);
    let worst = tenths(&got[0], 3 * SECOND, 100).into_iter().min().unwrap_or(0);
    rows.ours("reservation", "reservation_worst_pct", worst as f64 / 2_000.0 * 100.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two that take turns are never more than one piece off; one that gets nothing for twenty of the other's is ten behind, as the
    /// other is ten ahead.
    #[test]
    fn lag_is_what_is_missing() {
        let got = |at: &[u64]| Got { done: at.iter().map(|at| (*at, 5)).collect(), ..Got::default() };
        let times = |from: u64, step: usize| -> Vec<u64> {
            (from..100).step_by(step).map(|ms| ms * 1_000_000).collect()
        };
        let fair = lag_ops(&[1.0, 1.0], &[got(&times(0, 2)), got(&times(1, 2))]);
        assert!((0.5..=1.0).contains(&fair), "{fair}");
        let first: Vec<u64> = (0..20).map(|ms| ms * 1_000_000).collect();
        let then: Vec<u64> = (20..40).map(|ms| ms * 1_000_000).collect();
        let unfair = lag_ops(&[1.0, 1.0], &[got(&first), got(&then)]);
        assert!((10.0..=10.5).contains(&unfair), "{unfair}");
    }
}
