//! Shares on the simulated device: the planner and the gate as splitd and its workers run them. Each lesson that a prototype was
//! taught has its test here; figures over more tenants and beside other rules are the benchmark's.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use qos::simulate::ours::{Change, Ours};
use qos::simulate::{Device, Got, Tenant, run};

const SECOND: u64 = 1_000_000_000;
const DEVICE: Device = Device { parallel: 32, jitter: 0.5, slow_ns: None, factor: 1, iops_max: None };

/// A hundred requests a second: each takes its time, or a bucket lets so many through.
const HARD_DISK: Device = Device { parallel: 1, jitter: 0.3, slow_ns: None, factor: 31, iops_max: None };
const BUCKET: Device = Device { parallel: 8, jitter: 0.3, slow_ns: None, factor: 1, iops_max: Some(100) };

fn serve(tenants: &[Tenant], from_s: u64, until_s: u64) -> Vec<Got> {
    run(tenants, DEVICE, Ours::new(tenants), 1, from_s * SECOND, until_s * SECOND).0
}

fn mixed(weight: u32, depth: u32) -> Tenant {
    Tenant { sizes: vec![4096, 16_384, 65_536], writes_pct: 30, ..Tenant::reading(weight, depth) }
}

fn utilisation(got: &[Got], seconds: u64) -> f64 {
    got.iter().map(Got::work_ns).sum::<u64>() as f64 / (seconds * SECOND) as f64
}

/// The largest relative error of a share.
fn share_error(tenants: &[Tenant], got: &[Got]) -> f64 {
    let work: u64 = got.iter().map(Got::work_ns).sum();
    let weights: u32 = tenants.iter().map(|t| t.weight).sum();
    let error = |(t, g): (&Tenant, &Got)| {
        let wanted = work as f64 * f64::from(t.weight) / f64::from(weights);
        (g.work_ns() as f64 / wanted - 1.0).abs()
    };
    tenants.iter().zip(got).map(error).fold(0.0, f64::max)
}

/// The demonstration's policy: 512 and 256.
#[test]
fn two_to_one() {
    let tenants = [mixed(512, 64), mixed(256, 64)];
    let got = serve(&tenants, 2, 12);
    assert!(share_error(&tenants, &got) < 0.005, "{}", share_error(&tenants, &got));
    assert!(utilisation(&got, 10) > 0.99, "{}", utilisation(&got, 10));
}

/// Lesson 2: a reservation that is taken away leaves nobody starving for what was served under it. Here the tenant with weight 1 of
/// 2 goes on at half at once.
#[test]
fn a_lost_reservation_starves_nobody() {
    let mut tenants = [mixed(1, 64), mixed(1, 64)];
    tenants[0].reserve_iops = 30_000;
    let mut rule = Ours::new(&tenants);
    rule.change(5 * SECOND, 0, Change::Share { weight: 1, reserve_iops: 0 });
    let (got, _) = run(&tenants, DEVICE, rule, 1, 0, 8 * SECOND);
    let within = |got: &Got, from: u64, to: u64| -> u64 {
        got.done.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, cost)| cost).sum()
    };
    let (from, to) = (5 * SECOND + SECOND / 10, 5 * SECOND + SECOND / 5);
    let share =
        within(&got[0], from, to) as f64 / (within(&got[0], from, to) + within(&got[1], from, to)) as f64;
    assert!((0.48..0.52).contains(&share), "{share}");
}

/// Lesson 3: with more room at the device than anybody uses there is no control. Two with 128 outstanding each find a window far
/// below 256, and their shares.
#[test]
fn the_window_is_below_what_is_outstanding() {
    let tenants = [Tenant::reading(900, 128), Tenant::reading(100, 128)];
    let (got, rule) = run(&tenants, DEVICE, Ours::new(&tenants), 1, 2 * SECOND, 12 * SECOND);
    assert!((32.0..80.0).contains(&rule.window().ops), "{:?}", rule.window());
    assert!(share_error(&tenants, &got) < 0.005, "{}", share_error(&tenants, &got));
}

/// Lesson 4: no mix of sizes costs throughput.
#[test]
fn six_mixes_keep_the_device_busy() {
    for (sizes, writes_pct) in [
        (vec![4096], 0),
        (vec![4096], 100),
        (vec![4096, 65_536], 50),
        (vec![65_536], 30),
        (vec![4096, 1 << 20], 30),
        (vec![1 << 20], 100),
    ] {
        let tenant = |weight| Tenant { sizes: sizes.clone(), writes_pct, ..Tenant::reading(weight, 64) };
        let tenants = [tenant(100), tenant(200), tenant(300), tenant(400)];
        let got = serve(&tenants, 2, 7);
        assert!(utilisation(&got, 5) > 0.985, "{sizes:?} {writes_pct}: {}", utilisation(&got, 5));
        assert!(share_error(&tenants, &got) < 0.005, "{sizes:?}: {}", share_error(&tenants, &got));
    }
}

/// Lesson 5: from cold the right window is found soon, and not by climbing hills for ever.
#[test]
fn a_cold_start_is_short() {
    let tenants = [mixed(512, 64), mixed(256, 64), mixed(128, 64)];
    let (got, _) = run(&tenants, DEVICE, Ours::new(&tenants), 1, SECOND / 5, SECOND + SECOND / 5);
    assert!(utilisation(&got, 1) > 0.97, "{}", utilisation(&got, 1));
    assert!(share_error(&tenants, &got) < 0.05, "{}", share_error(&tenants, &got));
}

/// A promise of a fifth of the device, with weight 1 among 99 of 1000: kept in every tenth of a second.
#[test]
fn a_reservation_holds_in_every_window() {
    let mut tenants = vec![Tenant { reserve_iops: 20_000, ..Tenant::reading(1, 64) }];
    tenants.extend((0..99).map(|_| Tenant::reading(1000, 8)));
    let got = serve(&tenants, 2, 7);
    let mut windows = [0_u32; 50];
    for (at, _) in &got[0].done {
        windows[usize::try_from((at - 2 * SECOND) / (SECOND / 10)).unwrap()] += 1;
    }
    assert!(windows.iter().min() >= Some(&1960), "{windows:?}");
}

/// Beside seven that write megabytes as fast as they can, one that reads a block at a time waits at most three times as long. They come to
/// a device that was idle, at which splitd looks ten times a second: four thousand pieces are under way when it first does, and the queue of
/// those was once taken for what the device needs.
#[test]
fn a_quiet_tenant_keeps_its_latency() {
    let quiet = Tenant { reserve_iops: 3_000, ..Tenant::reading(1000, 1) };
    let alone = serve(std::slice::from_ref(&quiet), 1, 4)[0].latency_ns(990);
    let mut tenants = vec![quiet];
    tenants.extend((0..7).map(|_| Tenant {
        sizes: vec![1 << 20],
        writes_pct: 100,
        ..Tenant::reading(256, 64)
    }));
    let got = serve(&tenants, 2, 12);
    assert!(got[0].latency_ns(990) <= 3 * alone, "{} {alone}", got[0].latency_ns(990));
    assert!(utilisation(&got, 10) > 0.985, "{}", utilisation(&got, 10));
}

/// What some do not use others get: nine that are idle half of the time, one that never is.
#[test]
fn nothing_is_left_unused() {
    let mut tenants: Vec<_> =
        (0..9).map(|_| Tenant { half_period_ns: SECOND / 2, ..mixed(256, 16) }).collect();
    tenants.push(mixed(256, 128));
    let got = serve(&tenants, 2, 12);
    assert!(utilisation(&got, 10) > 0.92, "{}", utilisation(&got, 10));
}

/// While splitd is stopped everybody keeps what was last granted: shares stay, nothing opens, nothing closes.
#[test]
fn a_stopped_splitd_freezes_the_shares() {
    let tenants = [mixed(512, 64), mixed(256, 64)];
    let mut rule = Ours::new(&tenants);
    rule.stopped_ns = [(3 * SECOND, 13 * SECOND)].into();
    let (got, _) = run(&tenants, DEVICE, rule, 1, 3 * SECOND + SECOND / 10, 13 * SECOND);
    assert!(share_error(&tenants, &got) < 0.005, "{}", share_error(&tenants, &got));
    assert!(utilisation(&got, 10) > 0.9, "{}", utilisation(&got, 10));
}

/// The same at whatever moment it is stopped, on a device of a hundred requests a second: what steers its fill at that moment, up to
/// 1.3 times what it does or half of it, is not what stands. Seen on real Xen: 4:1 stood as 1.9:1 and as 7:1. Nor does who has not asked
/// for a moment, as a worker that wakes late, leave its rest to the others for as long: 4:1 stood as 4.4:1.
#[test]
fn a_slow_device_is_shared_whenever_splitd_stops() {
    for (late_ns, most) in [(15_000_000, 0.01), (70_000_000, 0.05)] {
        for device in [HARD_DISK, BUCKET] {
            for stop_ns in (0..100).map(|n| 5 * SECOND + n * 97_000_000) {
                let tenants = [Tenant::reading(1024, 32), Tenant::reading(256, 32)];
                let mut rule = Ours::new(&tenants);
                rule.stopped_ns = [(stop_ns, u64::MAX)].into();
                rule.late_ns = late_ns;
                let (got, _) = run(&tenants, device, rule, 1, stop_ns, stop_ns + 20 * SECOND);
                let done: u64 = got.iter().map(|got| got.requests).sum();
                let error = share_error(&tenants, &got);
                assert!(
                    error < most && done > 1500,
                    "stopped at {stop_ns}, {late_ns} late: {error}, {done} requests"
                );
            }
        }
    }
}

/// Workers that wake late, on a machine whose processors are busy, keep their shares, although the heavier one, whose requests are due more
/// often, is late more often. Where only a tenth of a second was made up for, a quarter made 2.15:1 of 2:1 and 4.5:1 of 4:1.
#[test]
fn late_workers_keep_their_shares() {
    for late_ns in [30_000_000, 250_000_000] {
        for device in [HARD_DISK, BUCKET] {
            for weight in [256, 512, 1024] {
                let tenants = [Tenant::reading(weight, 32), Tenant::reading(256, 32)];
                let mut rule = Ours::new(&tenants);
                rule.late_ns = late_ns;
                let (got, _) = run(&tenants, device, rule, 1, 5 * SECOND, 25 * SECOND);
                let done: u64 = got.iter().map(|got| got.requests).sum();
                let error = share_error(&tenants, &got);
                assert!(error < 0.02 && done > 1850, "{weight}, {late_ns} late: {error}, {done} requests");
            }
        }
    }
}

/// A device that gets three times slower is shared as before.
#[test]
fn a_slower_device_is_shared_alike() {
    let tenants = [mixed(300, 64), mixed(200, 64), mixed(100, 64)];
    let device = Device { slow_ns: Some((3 * SECOND, 8 * SECOND)), ..DEVICE };
    let (got, _) = run(&tenants, device, Ours::new(&tenants), 1, 4 * SECOND, 8 * SECOND);
    assert!(share_error(&tenants, &got) < 0.02, "{}", share_error(&tenants, &got));
}

/// A fifth of the device is promised to one of a hundred; it gets three times slower, so that the fifth is three of its fifths then. From a
/// tenth of a second on the promise is kept in every tenth: what the device does now was learnt by halves before, and a probe, which gives
/// out half, cut the promise as well (worst tenth 81 %).
#[test]
fn a_promise_outlives_a_device_that_gets_slower() {
    for seed in 1..4 {
        let mut tenants = vec![Tenant { reserve_iops: 20_000, ..Tenant::reading(1, 64) }];
        tenants.extend((0..99).map(|_| Tenant::reading(1000, 8)));
        let device = Device { slow_ns: Some((5 * SECOND, 7 * SECOND)), ..DEVICE };
        let (got, _) = run(&tenants, device, Ours::new(&tenants), seed, 5 * SECOND, 7 * SECOND);
        let mut tenths = [0; 20];
        for (at, _) in &got[0].done {
            tenths[usize::try_from((at - 5 * SECOND) / (SECOND / 10)).unwrap()] += 1;
        }
        assert!(tenths[1..].iter().all(|done| *done >= 1_900), "seed {seed}: {tenths:?}");
    }
}

/// A disk of a hundred requests a second, as a hard disk is, does one in two plans. Seen on real Xen: one in 5 ms was taken for a rate
/// of two hundred, the window grew beyond what anybody had outstanding, and 4:1 became 2:1.
#[test]
fn a_slow_device_is_shared_too() {
    for parallel in [1, 4] {
        let device = Device { parallel, jitter: 0.3, slow_ns: None, factor: 30, iops_max: None };
        for weight in [512, 1024, 4096] {
            let tenants = [Tenant::reading(weight, 32), Tenant::reading(256, 32)];
            let (got, _) = run(&tenants, device, Ours::new(&tenants), 1, 5 * SECOND, 25 * SECOND);
            let done: u64 = got.iter().map(|got| got.requests).sum();
            assert!(share_error(&tenants, &got) < 0.02, "{weight}: {}", share_error(&tenants, &got));
            assert!(done > 1980 * u64::from(parallel), "{weight}: {done}");
        }
    }
}

/// The same where splitd comes to a device that has long been left to whoever came: what was under way then takes longer to end than a
/// probe used to.
#[test]
fn a_slow_device_is_shared_after_a_while_without() {
    let device = Device { parallel: 1, jitter: 0.3, slow_ns: None, factor: 30, iops_max: None };
    let tenants = [Tenant::reading(1024, 128), Tenant::reading(256, 128)];
    let mut rule = Ours::new(&tenants);
    rule.stopped_ns = [(0, 10 * SECOND)].into();
    let (got, rule) = run(&tenants, device, rule, 1, 20 * SECOND, 40 * SECOND);
    assert!(rule.window().ops < 6.0, "{:?}", rule.window());
    assert!(share_error(&tenants, &got) < 0.02, "{}", share_error(&tenants, &got));
}

/// A hundred with weights from 1 to 65535, as many small ones as large ones: the benchmark's row, within its goal.
#[test]
fn a_hundred_share() {
    let mut random = qos::simulate::Random(7);
    let mut weight = || (random.unit() * 65_535_f64.ln()).exp() as u32;
    let tenants: Vec<_> = (0..100).map(|_| mixed(weight().clamp(1, 65_535), 64)).collect();
    let got = serve(&tenants, 3, 13);
    let total: u64 = got.iter().map(Got::work_ns).sum();
    let weights: f64 = tenants.iter().map(|t| f64::from(t.weight)).sum();
    for (tenant, got) in tenants.iter().zip(&got).filter(|(_, got)| got.done.len() >= 500) {
        let wanted = total as f64 * f64::from(tenant.weight) / weights;
        let error = (got.work_ns() as f64 / wanted - 1.0).abs();
        assert!(error < 0.005, "weight {}: {error}", tenant.weight);
    }
    assert!(utilisation(&got, 10) > 0.99, "{}", utilisation(&got, 10));
}

/// Two disks far below what their device can do, held back by caps alone: finding out what the device can do takes nothing from them.
/// Seen on real Xen: 100 operations a second of two disks came out as 97.6, by probes that held back what was no queue.
#[test]
fn an_idle_device_is_not_probed() {
    let capped = Tenant::reading(256, 16).capped(50);
    let tenants = [capped.clone(), capped];
    let got = serve(&tenants, 5, 25);
    let done: u64 = got.iter().map(|got| got.requests).sum();
    assert!((1998..=2004).contains(&done), "{done}");
}

/// One that weighs more than all others together and has few requests under way takes what those need; the others get the rest. Its share
/// was once kept for it whenever the device was too full for a moment, which left the device idle two thirds of the time.
#[test]
fn a_heavy_tenant_with_a_small_load_leaves_the_rest() {
    for depth in [1, 2, 4, 8] {
        let mut tenants: Vec<_> = (0..9).map(|_| mixed(256, 64)).collect();
        tenants.push(Tenant::reading(65_535, depth));
        let got = serve(&tenants, 3, 13);
        assert!(utilisation(&got, 10) > 0.98, "{depth}: {}", utilisation(&got, 10));
    }
}
