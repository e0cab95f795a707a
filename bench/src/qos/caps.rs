//! Caps: over ten seconds and in the worst tenth of one, whoever merges requests and however many rings and disks ask. Knows nothing of
//! how any rule works.

use qos::policy::effective::CapRule;
use qos::simulate::ours::Ours;
use qos::simulate::{Device, Got, Piece, Rule, Tenant, run};

use super::others::{Limiter, Slices};
use super::rows::{OURS, Rows};
use super::{DEVICE, SECOND};

/// Fast enough for a million requests a second and more.
const FAST: Device = Device { parallel: 1024, ..DEVICE };
/// What a cap without a burst lets pass at once beside its rate: ten milliseconds of it, and one request.
const SLACK_S: f64 = 0.01;
const WINDOW_NS: u64 = SECOND / 10;

pub(super) fn measure(rows: &mut Rows) {
    rates(rows);
    merging(rows);
    queues(rows);
    burst(rows);
}

/// A rule, and when it let requests pass.
#[derive(Debug)]
struct Watched<R> {
    rule: R,
    passed_ns: Vec<u64>,
}

impl<R: Rule> Rule for Watched<R> {
    fn arrive(&mut self, now_ns: u64, piece: Piece) {
        self.rule.arrive(now_ns, piece);
    }

    fn done(&mut self, now_ns: u64, piece: Piece, took_ns: u64) {
        self.rule.done(now_ns, piece, took_ns);
    }

    fn pump(&mut self, now_ns: u64, out: &mut Vec<Piece>) -> Option<u64> {
        let before = out.len();
        let again = self.rule.pump(now_ns, out);
        let begun = out[before..].iter().filter(|piece| piece.begins_bytes.is_some());
        self.passed_ns.extend(begun.map(|_| now_ns));
        again
    }
}

/// The most that passed within a tenth of a second.
fn most_in_a_window(passed_ns: &[u64]) -> usize {
    let (mut begins, mut most) = (0, 0);
    for (i, at) in passed_ns.iter().enumerate() {
        while passed_ns[begins] + WINDOW_NS <= *at {
            begins += 1;
        }
        most = most.max(i + 1 - begins);
    }
    most
}

/// Ten seconds under a cap, by each rule.
fn rates(rows: &mut Rows) {
    for iops in [10, 100, 1_000, 10_000, 100_000, 1_000_000] {
        let is_fast = iops > 10_000;
        let (device, depth) = if is_fast { (FAST, 1024) } else { (DEVICE, 32) };
        let tenants = [Tenant::reading(256, depth).capped(iops)];
        let case = format!("cap-{iops}");
        let error = |got: &[Got]| (got[0].requests as f64 / (iops as f64 * 10.0) - 1.0).abs() * 100.0;
        let rule = Watched { rule: Ours::new(&tenants), passed_ns: Vec::new() };
        let (got, watched) = run(&tenants, device, rule, 1, SECOND, 11 * SECOND);
        rows.ours(&case, "cap_error_pct", error(&got));
        let most = iops as f64 * (0.1 + SLACK_S) + 1.0;
        rows.ours(&case, "cap_window_pct", most_in_a_window(&watched.passed_ns) as f64 / most * 100.0);
        let expected_ns = f64::from(depth) / iops as f64 * 1e9;
        rows.ours(&case, "capped_p99_ratio", got[0].latency_ns(990) as f64 / expected_ns);
        let qemu = run(&tenants, device, Limiter::qemu(iops), 1, SECOND, 11 * SECOND).0;
        rows.add(&case, "qemu", "cap_error_pct", error(&qemu));
        let buckets = Limiter::refilled(iops, 100_000_000);
        let buckets = run(&tenants, device, buckets, 1, SECOND, 11 * SECOND).0;
        rows.add(&case, "100ms-buckets", "cap_error_pct", error(&buckets));
        let slices = run(&tenants, device, Slices::new(iops), 1, SECOND, 11 * SECOND).0;
        rows.add(&case, "1ms-slices", "cap_error_pct", error(&slices));
    }
}

/// Bytes that pass a cap on requests, by a guest that merges its requests and by one that does not. A request counts for each unit of a
/// certain size, but never less than one.
fn merging(rows: &mut Rows) {
    let bytes = |unit_bytes: u64, size: u64| {
        let tenants = [Tenant { sizes: vec![size], ..Tenant::reading(256, 32) }.capped(20_000)];
        let mut rule = Ours::new(&tenants);
        rule.counting.iops_size_bytes = unit_bytes;
        run(&tenants, FAST, rule, 1, SECOND, 11 * SECOND).0[0].bytes as f64
    };
    let difference = |unit: u64, small: u64| (bytes(unit, 1 << 20) / bytes(unit, small) - 1.0).abs() * 100.0;
    rows.ours("merged-4k-1m", "merged_difference_pct", difference(4096, 4096));
    rows.ours("merged-64k-1m", "merged_difference_pct", difference(65_536, 65_536));
    // With a unit of 256 KiB, the usual one, a request of 4 KiB is still a whole one.
    let ratio = bytes(256 << 10, 1 << 20) / bytes(256 << 10, 4096);
    rows.ours("merged-unit-256k", "merged_bytes_ratio", ratio);
}

/// The same domain with more rings, and with more disks.
fn queues(rows: &mut Rows) {
    let total = |rings: usize, disks: usize| {
        let disk = Tenant { rings, domain: Some(7), ..Tenant::reading(256, 32) }.capped(5_000);
        let tenants = vec![disk; disks];
        let got = run(&tenants, DEVICE, Ours::new(&tenants), 1, SECOND, 11 * SECOND).0;
        got.iter().map(|got| got.requests).sum::<u64>() as f64
    };
    let one = total(1, 1);
    for (rings, disks) in [(4, 1), (8, 1), (1, 8), (8, 8)] {
        let case = format!("rings-{rings}x{disks}");
        rows.ours(&case, "queues_difference_pct", (total(rings, disks) / one - 1.0).abs() * 100.0);
    }
    // A domain with eight disks beside one with one, of the same weight: half of the device each.
    let disk = |domain| Tenant { domain: Some(domain), ..Tenant::reading(256, 64) };
    let mut tenants = vec![disk(1); 8];
    tenants.push(disk(2));
    let got = super::share_run(OURS, &tenants, 1, 3, 13);
    let (eight, one) = (super::work(&got[..8]), super::work(&got[8..]));
    rows.ours("disks-8-beside-1", "queues_difference_pct", (eight / one - 1.0).abs() * 100.0);
}

/// 100 requests a second with bursts of 2000 for 60 seconds: how long 2000 last, of 60 and those that 100 a second are worth meanwhile.
fn burst(rows: &mut Rows) {
    let cap = CapRule { rate: 100, burst_rate: Some(2_000), burst_len_ns: 60 * SECOND };
    let tenants = [Tenant { cap: Some(cap), ..Tenant::reading(256, 32) }];
    let rule = Watched { rule: Ours::new(&tenants), passed_ns: Vec::new() };
    let passed_ns = run(&tenants, DEVICE, rule, 1, 0, 90 * SECOND).1.passed_ns;
    // The first gap of nearly a hundredth of a second is its end.
    let end =
        passed_ns.windows(2).find(|pair| pair[1] - pair[0] > 9_000_000).map_or(u64::MAX, |pair| pair[0]);
    let seconds = (end - passed_ns[0]) as f64 / 1e9;
    rows.ours("burst-100-2000", "burst_length_s", seconds);
    rows.ours("burst-100-2000", "burst_length_error_pct", (seconds / 63.158 - 1.0).abs() * 100.0);
}
