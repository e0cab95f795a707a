//! Limits from end to end without Xen: the policy file, the real splitd, splitctl and workers, frontends that push as hard as they can.
//! What is asserted of time is only that a cap is never exceeded; a slow machine is no failure.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use qos::cost::{Cursor, Op};
use qos::page::Usage;
use qos::share::Grant;
use splitd_tests::blkfront::{Frontend, Load, Options, Report};
use splitd_tests::world::World;
use xenbus::sim::SimDomain;

const SECTORS: u64 = 1 << 16;
/// Requests that may pass beside a cap: what a thread that wakes late may catch up, and one for each queue.
const SLACK: u64 = 16;

fn world(policy: &str) -> World {
    let mut w = World::start("").unwrap();
    w.write_policy(policy).unwrap();
    w.kill_splitd().unwrap();
    w.start_splitd().unwrap();
    w
}

fn capped(iops: u64) -> String {
    format!("version = 1\n[[domain]]\nmatch.glob = \"guest-*\"\ndisk.total_iops_max = {iops}\n")
}

fn connect(w: &mut World, guest: &SimDomain, index: u8, queues: u16) -> Frontend {
    let image = w.image(&format!("{index}.img"), SECTORS).unwrap();
    let disk = w.disk(index, &image);
    w.attach(guest, &disk).unwrap_or_else(|e| panic!("{e}\n{}", w.log()));
    let options = Options { queues: queues.into(), ..Options::default() };
    Frontend::connect(guest, disk.devid, options).unwrap_or_else(|e| panic!("{e}\n{}", w.log()))
}

/// Small requests without flushes: those are not under a cap on operations.
fn load(operations: u64) -> Load {
    Load { operations: Some(operations), sectors: 8..9, flush_percent: 0, ..Load::default() }
}

fn assert_clean(report: &Report, world: &World) {
    assert!(report.is_clean(), "{report:?}\n{}", world.log());
}

/// 100 IOPS for a domain are 100, over one queue or four and over two disks together; killing a worker, killing splitd or stopping it
/// makes no more of them.
#[test]
fn a_cap_holds_over_queues_disks_and_deaths() {
    let mut w = world(&capped(100));
    let guest = w.guest(5).unwrap();
    let mut a = connect(&mut w, &guest, 0, 1);
    let mut b = connect(&mut w, &guest, 1, 4);
    let begun = Instant::now();
    let first = a.start(&load(120)).unwrap();
    let second = b.start(&load(30)).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    w.kill_worker("vbd/5/xvda").unwrap();
    w.kill_splitd().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    w.start_splitd().unwrap();
    w.until("splitd knows the disk again", |w| w.show("vbd/5/xvdb").is_ok_and(|row| row.pid.is_some()))
        .unwrap();
    w.kill_worker("vbd/5/xvdb").unwrap();
    let (first, second) = (first.finish(&mut a).unwrap(), second.finish(&mut b).unwrap());
    let took = begun.elapsed();
    assert_clean(&first, &w);
    assert_clean(&second, &w);
    assert_eq!(first.done + second.done, 240);
    // What dead workers had taken is done, and paid for, again.
    let least = Duration::from_millis((240 - SLACK) * 10);
    assert!(took >= least, "240 requests in {took:?}");
}

/// A read is not behind a capped write, nor a flush; and a detach is not behind either.
#[test]
fn a_capped_write_holds_up_nobody_else() {
    let mut w = world("version = 1\n[[domain]]\nmatch.name = \"guest-5\"\ndisk.write_iops_max = 10\n");
    let guest = w.guest(5).unwrap();
    let mut front = connect(&mut w, &guest, 0, 2);
    // At most 20 writes pass by themselves before the load's end; the others keep their slots to the end.
    let load =
        Load { read_percent: 90, flush_percent: 5, operations: Some(300), sectors: 8..9, ..Load::default() };
    let report = front.run(&load).unwrap();
    assert_clean(&report, &w);
    assert_eq!(report.done, 600);
}

/// A reload counts for the workers that are there, and is refused as a whole where there is an error; `explain` says why.
#[test]
fn a_reload_reaches_running_workers() {
    let mut w = world(&capped(50));
    let guest = w.guest(5).unwrap();
    let mut front = connect(&mut w, &guest, 0, 1);
    let begun = Instant::now();
    assert_clean(&front.run(&load(60)).unwrap(), &w);
    assert!(begun.elapsed() >= Duration::from_millis((60 - SLACK) * 20), "{:?}", begun.elapsed());

    w.write_policy(&capped(0)).unwrap();
    assert!(
        w.splitctl(&["policy", "reload"])
            .unwrap_err()
            .to_string()
            .contains("4:6: domain.disk.total_iops_max = 0")
    );
    assert!(
        w.splitctl(&["policy", "explain", "guest-5"]).unwrap().contains("total_iops_max of the domain 50")
    );

    w.write_policy("version = 1\n").unwrap();
    let told = w.splitctl(&["policy", "reload"]).unwrap();
    assert!(told.contains("caps.domain.total_iops_max.rate 50 -> none"), "{told}");
    // Thirteen minutes under the cap.
    assert_clean(&front.run(&load(40_000)).unwrap(), &w);

    let begun = Instant::now();
    let set = w.splitctl(&["qos", "-d", "5", "-w", "512", "-c", "read_iops_max=20", "--ttl", "1h"]).unwrap();
    assert!(set.contains("512") && set.contains("read_iops_max=20"), "{set}");
    let reads = Load { read_percent: 100, is_verified: false, ..load(40) };
    assert_clean(&front.run(&reads).unwrap(), &w);
    assert!(begun.elapsed() >= Duration::from_millis((40 - SLACK) * 50), "{:?}", begun.elapsed());
    w.splitctl(&["qos", "-d", "guest-5", "--reset"]).unwrap();
    assert_clean(&front.run(&reads).unwrap(), &w);
}

/// A file of a disk's limits, as words.
fn words(w: &World, name: &str, domid: u16) -> Vec<u64> {
    let bytes = std::fs::read(w.run_dir().join(format!("vbd-{domid}-51712/{name}"))).unwrap();
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

fn grant(w: &World, domid: u16) -> Grant {
    let page = words(w, "limits", domid);
    let (_, grant) = qos::page::read(qos::page::GRANT, |at| page[at / 8]).unwrap();
    Grant::of_words(grant)
}

/// The share that stands on a disk's page; `None` where there is no limit.
fn granted(w: &World, domid: u16) -> Option<u64> {
    let grant = grant(w, domid);
    (!grant.is_open()).then_some(grant.rate)
}

/// A guest that does nothing but flush, or discard, uses the device as others do, and waits for its share as others do. Those that ask for
/// a flush while the kernel has one share the next: thirty-two at a time cost the device no more than one after the other.
#[test]
fn flushes_and_discards_wait_for_the_share() {
    let mut w = world("version = 1\n");
    let guest = w.guest(5).unwrap();
    let mut front = connect(&mut w, &guest, 0, 1);
    w.kill_splitd().unwrap();
    let page = words(&w, "limits", 5);
    let (_, rules) = qos::page::read(qos::page::RULES, |at| page[at / 8]).unwrap();
    let prices = qos::page::Rules::of_words(&rules).prices;
    let usage = |w: &World, of: Usage| words(w, "usage", 5)[qos::page::USAGE_AT / 8 + of as usize];
    for (op, len_bytes) in [(Op::Flush, 0), (Op::Discard, 4096)] {
        // One in 20 ms.
        let cost_ns = Cursor::default().cost_ns(&prices, op, 0, len_bytes);
        let rate = Grant::rate_of(cost_ns as f64 * 50.0);
        let now_ns = worker::clock::monotonic_ns();
        set_grant(&w, 5, Grant { since_ns: now_ns, base: usage(&w, Usage::Spent), rate, lasting_rate: rate });
        let before = usage(&w, Usage::IssuedOps);
        let begun = Instant::now();
        let percent = |is: bool| if is { 100 } else { 0 };
        let (flush_percent, discard_percent) = (percent(op == Op::Flush), percent(op == Op::Discard));
        let operations = Some(if op == Op::Flush { 640 } else { 64 });
        let load = Load { flush_percent, discard_percent, operations, sectors: 8..9, ..Load::default() };
        let running = front.start(&load).unwrap();
        w.until("its queue waits for the share", |w| usage(w, Usage::Waiting) == 1).unwrap();
        assert_clean(&running.finish(&mut front).unwrap(), &w);
        let took = begun.elapsed();
        assert_eq!(usage(&w, Usage::Waiting), 0);
        let issued = usage(&w, Usage::IssuedOps) - before;
        assert_eq!(usage(&w, Usage::DoneOps), usage(&w, Usage::IssuedOps));
        match op {
            Op::Flush => assert!((20..=60).contains(&issued), "{issued} for 640"),
            _ => assert_eq!(issued, 64),
        }
        assert!(took >= Duration::from_millis(20 * (issued - SLACK)), "{issued} in {took:?}");
    }
}

fn set_grant(w: &World, domid: u16, grant: Grant) {
    let of = qos::page::GRANT;
    let number = words(w, "limits", domid)[of.number_at / 8] + 1;
    let path = w.run_dir().join(format!("vbd-{domid}-51712/limits"));
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let bytes: Vec<u8> = grant.words().iter().flat_map(|word| word.to_le_bytes()).collect();
    file.write_all_at(&bytes, of.copies_at[usize::from(number & 1 == 1)] as u64).unwrap();
    file.write_all_at(&number.to_le_bytes(), of.number_at as u64).unwrap();
}

/// Two guests that push on one device both have a share on their pages, which stand still while splitd is dead; one alone has no
/// limit. Whose share is how large is the arbiter's own test and the lab's: here the processor may be what is short, not the disk.
#[test]
fn two_guests_share_a_device() {
    let mut w = world(
        "version = 1\n[[domain]]\nmatch.name = \"guest-5\"\nweight = 512\n[[domain]]\nmatch.name = \"guest-6\"\nweight = 256\n",
    );
    let (five, six) = (w.guest(5).unwrap(), w.guest(6).unwrap());
    let (mut a, mut b) = (connect(&mut w, &five, 0, 1), {
        let image = w.image("six.img", SECTORS).unwrap();
        let disk = w.disk(0, &image);
        w.attach(&six, &disk).unwrap();
        Frontend::connect(&six, disk.devid, Options::default()).unwrap()
    });
    assert_eq!((granted(&w, 5), granted(&w, 6)), (None, None));
    let long = Load { operations: None, duration: Some(Duration::from_secs(600)), ..load(0) };
    let (first, second) = (a.start(&long).unwrap(), b.start(&long).unwrap());
    let both = |w: &World| granted(w, 5).is_some() && granted(w, 6).is_some();
    w.until("both have a share", |w| both(w)).unwrap();
    let told = w.splitctl(&["policy", "explain", "guest-5"]).unwrap();
    assert!(
        told.contains("  on device ")
            && told.contains("weight of the domain 512 (domain \"guest-5\", line 4)"),
        "{told}"
    );

    w.kill_splitd().unwrap();
    let frozen = (granted(&w, 5), granted(&w, 6));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((granted(&w, 5), granted(&w, 6)), frozen);
    assert!(frozen.0.is_some());
    w.start_splitd().unwrap();
    w.until("splitd knows both again", |w| {
        ["vbd/5/xvda", "vbd/6/xvda"].iter().all(|d| w.show(d).is_ok_and(|row| row.worker == "serving"))
    })
    .unwrap();
    w.until("both have a share again", |w| both(w)).unwrap();
    first.stop();
    assert_clean(&first.finish(&mut a).unwrap(), &w);
    w.until("one alone has no limit", |w| granted(w, 6).is_none()).unwrap();
    second.stop();
    assert_clean(&second.finish(&mut b).unwrap(), &w);
}
