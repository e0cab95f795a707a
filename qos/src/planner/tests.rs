//! The planner alone: how a device's work is divided, whatever the device is like. Shares over time are `tests/shares.rs`'s.

use super::*;

/// The tree in io.cost's own source: weights 300 and 100, the latter's two children alike, are 75, 12.5 and 12.5 %; a disk of two of
/// a domain halves its own part and nobody else's; and what one leaves its sibling has first.
#[test]
fn the_tree_of_io_cost() {
    let mut planner = Planner::new(800_000);
    let mut join = |customer, domain, weights| {
        let standing = Standing { customer, domain, weights, reserve_iops: 0 };
        planner.join(standing, Sample::default(), Grant::OPEN)
    };
    let ids =
        [(1, 1, [300, 100, 256]), (2, 2, [100, 100, 256]), (2, 3, [100, 100, 64]), (2, 3, [100, 100, 64])];
    let ids = ids.map(|(customer, domain, weights)| join(customer, domain, weights));
    let hungry = |planner: &mut Planner, which: [bool; 4]| {
        for (id, hungry) in ids.iter().zip(which) {
            let seat = planner.seats[id];
            planner.members.get_mut(&seat).unwrap().hungry = hungry;
        }
        planner
            .rates(1e9, |member| member.hungry)
            .0
            .iter()
            .map(|rate| (rate / 1e4).round() / 1e3)
            .collect::<Vec<_>>()
    };
    assert_eq!(hungry(&mut planner, [true; 4]), [75.0, 12.5, 6.25, 6.25]);
    let alone = hungry(&mut planner, [true, true, false, false]);
    assert_eq!(alone[..2], [75.0, 25.0]);
}

/// A device that has too much under way for a while is given less, but never next to nothing: splitd may be stopped at that moment,
/// and then it stands. Seen on real Xen: 10 of 100 operations a second for as long as that.
#[test]
fn what_is_granted_is_never_next_to_nothing() {
    let mut planner = Planner::new(800_000);
    let join = |planner: &mut Planner, domain| {
        let standing = Standing { customer: domain, domain, weights: [256; 3], reserve_iops: 0 };
        planner.join(standing, Sample::default(), Grant::OPEN)
    };
    let ids = [join(&mut planner, 1), join(&mut planner, 2)];
    let mut rates = BTreeMap::new();
    for n in 1..600_u64 {
        // Each does 100 requests of 1 ms a second, and has 20 more under way than the device seems to need.
        let done_ops = n / 2;
        let totals = Totals {
            issued_ops: done_ops + 20,
            issued_ns: (done_ops + 20) * 1_000_000,
            done_ops,
            done_ns: done_ops * 1_000_000,
            latency_ns: done_ops * 1_000_000,
        };
        let sample = Sample { spent: 0, totals, refused: n, is_waiting: false };
        planner.plan(n * PLAN_NS, &mut |_| sample, &mut |id, grant| _ = rates.insert(id, grant.rate));
    }
    let granted: u64 = ids.iter().filter_map(|id| rates.get(id)).sum();
    assert!(granted >= Grant::rate_of(0.9e8), "{granted} of {}", Grant::rate_of(2e8));
}

/// Several that use a device which has room for all of them are looked at seldom; held back once, as often as it takes to divide it, until
/// a second after the last time.
#[test]
fn a_calm_device_is_looked_at_seldom() {
    let mut planner = Planner::new(800_000);
    for domain in [1, 2] {
        let standing = Standing { customer: domain, domain, weights: [256; 3], reserve_iops: 0 };
        planner.join(standing, Sample::default(), Grant::OPEN);
    }
    let (mut now_ns, mut ops, mut refused) = (0, 0, 0);
    let mut used = |planner: &mut Planner, seconds: u64, is_held_back: bool| {
        let until_ns = now_ns + seconds * 1_000_000_000;
        while now_ns < until_ns {
            now_ns += planner.until_next_ns();
            ops += 1;
            refused += u64::from(is_held_back);
            let [issued_ns, latency_ns] = [ops * 100_000; 2];
            let totals = Totals { issued_ops: ops, issued_ns, done_ops: ops, done_ns: issued_ns, latency_ns };
            let sample = Sample { spent: 0, totals, refused, is_waiting: false };
            planner.plan(now_ns, &mut |_| sample, &mut |_, _| {});
        }
        planner.until_next_ns()
    };
    assert_eq!(used(&mut planner, 3, false), CALM_LOOK_NS);
    assert_eq!(used(&mut planner, 1, true), PLAN_NS);
    assert_eq!(used(&mut planner, 3, false), CALM_LOOK_NS);
}
