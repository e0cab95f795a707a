//! What a guest's interfaces may carry, from the policy file and xenstore to the frames. What is asserted of time is that no more was
//! carried than the clock that was read allows; a slow machine is no failure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use splitd_tests::netfront::{Frontend, Options, Outgoing};
use splitd_tests::netif::NR_SLOTS;
use splitd_tests::packet::{self, Checksum, UDP4, VnetHeader};
use splitd_tests::toolstack::VifConfig;
use splitd_tests::wire::{End, Frame};
use splitd_tests::world::{World, resident_kib};

use super::{ALL, Bed, SOON};

const QUEUES: u32 = 4;
/// Of both interfaces: each may be a frame ahead.
const ALL_QUEUES: u64 = 5;

fn bed(policy: &str, vif: &VifConfig) -> Bed {
    let world = World::start(ALL).unwrap();
    reload(&world, policy);
    Bed::on(world, vif, Options { queues: QUEUES, ..Options::default() })
}

fn reload(world: &World, policy: &str) -> String {
    world.write_policy(&format!("version = 1\n{policy}")).unwrap();
    world.splitctl(&["policy", "reload"]).unwrap_or_else(|e| panic!("{e}"))
}

fn of_guest(limits: &str) -> String {
    format!("[[domain]]\nmatch.name = \"guest-5\"\n{limits}\n")
}

/// The guest's second interface, with one queue.
fn second(b: &mut Bed) -> (Frontend, End) {
    b.world.attach_vif(&b.guest, &VifConfig::new(1)).unwrap();
    let front = Frontend::connect(&b.guest, 1, Options::default()).unwrap();
    let end = b.world.wire.end("vif5.1");
    end.wait_queues(1).unwrap();
    (front, end)
}

fn serves_again(b: &mut Bed, device: &str, dead: Option<u32>) {
    let is_back = |w: &mut World| w.show(device).is_ok_and(|r| r.worker == "serving" && r.pid != dead);
    b.world.until(&format!("{device} is served again"), is_back).unwrap();
}

/// Asserts that `n` frames, `at_once` of which may come at any time, took as long as `per_s` each second take.
fn assert_took(begun: Instant, n: u64, at_once: u64, per_s: u64, b: &Bed) {
    let (took, least) = (begun.elapsed(), Duration::from_millis((n - at_once) * 1000 / per_s));
    assert!(took >= least, "{n} frames in {took:?}, not {least:?}\n{}", b.world.log());
}

/// 100 packets a second from a domain are 100, over the queues of two interfaces together, beside a second of burst, once: workers and a
/// splitd that are killed bring no other.
#[test]
fn what_is_sent_is_capped_over_queues_interfaces_and_deaths() {
    let mut b = bed(&of_guest("net.tx_pps_max = 100\nnet.burst = \"1s\""), &VifConfig::new(0));
    let (mut other, far) = second(&mut b);
    let begun = Instant::now();
    let mut number = 0;
    for queue in b.front.queues.iter_mut().chain(&mut other.queues) {
        for _ in 0..60 {
            queue.send(&Outgoing::new(packet::whole(UDP4, number, 100))).unwrap();
            number += 1;
        }
        queue.publish().unwrap();
    }
    let (mut seen, mut deaths) = (BTreeSet::new(), 0);
    while seen.len() < number as usize {
        assert!(begun.elapsed() < SOON, "{} of {number}\n{}", seen.len(), b.world.log());
        for end in [&b.wire, &far] {
            while let Some(frame) = end.receive(Duration::from_millis(5)) {
                seen.insert(packet::check(&frame.bytes, Checksum::Right).unwrap().number);
            }
        }
        match (deaths, seen.len()) {
            (0, 120..) => {
                let dead = b.world.kill_worker("vif/5/0").unwrap();
                serves_again(&mut b, "vif/5/0", dead);
            }
            (1, 140..) => {
                b.world.kill_splitd().unwrap();
                b.world.start_splitd().unwrap();
                serves_again(&mut b, "vif/5/1", None);
                let dead = b.world.kill_worker("vif/5/1").unwrap();
                serves_again(&mut b, "vif/5/1", dead);
            }
            _ => continue,
        }
        deaths += 1;
    }
    assert_eq!(deaths, 2);
    assert_took(begun, number.into(), 100 + ALL_QUEUES, 100, &b);
}

/// Frames for every queue of a vif, for as long as this is there.
struct Flood {
    stop: Arc<AtomicBool>,
    /// Whether they were taken or dropped.
    offered: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(end: &End, queues: u16, payload_len: usize) -> Self {
        let (stop, offered, end) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), end.clone());
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&offered));
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !told.load(Ordering::Relaxed) {
                for queue in 0..queues {
                    let bytes = packet::whole(UDP4, number, payload_len);
                    // Where the queue is full this waits a moment, and drops the frame as a tap does.
                    let _ = end.send(&Frame { queue, header: VnetHeader::default(), bytes });
                    number += 1;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, offered, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Takes frames off all queues until there were `n`; each is right, and comes after those before it.
fn receive(fronts: &mut [&mut Frontend], n: u64, b_log: &dyn Fn() -> String) {
    let (mut got, begun) = (0, Instant::now());
    let mut last = vec![[None; QUEUES as usize]; fronts.len()];
    while got < n {
        assert!(begun.elapsed() < SOON, "{got} of {n}\n{}", b_log());
        for (front, last) in fronts.iter_mut().zip(&mut last) {
            for (queue, last) in front.queues.iter_mut().zip(last) {
                while let Some(frame) = queue.receive().unwrap() {
                    let number = packet::check(&frame.bytes, Checksum::Right).unwrap().number;
                    assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
                    (*last, got) = (Some(number), got + 1);
                }
                queue.post(NR_SLOTS).unwrap();
                queue.wait(Duration::from_millis(1)).unwrap();
            }
        }
    }
}

/// 8 Mbit/s to an interface are 8 Mbit/s over its queues together.
#[test]
fn what_is_received_is_capped_over_queues() {
    let mut b = bed(&of_guest("net.0 = { rx_max = \"8Mb/s\", burst = \"100ms\" }"), &VifConfig::new(0));
    let payload_len = 1250 - UDP4.header_len();
    let begun = Instant::now();
    let _flood = Flood::start(&b.wire, 4, payload_len);
    let log = b.world.run_dir();
    let log = || std::fs::read_to_string(log.with_file_name("splitd.log")).unwrap_or_default();
    receive(&mut [&mut b.front], 800, &log);
    // A frame is 10,000 bits.
    assert_took(begun, 800, 80 + 4, 800, &b);
    let waits = || b.world.splitctl(&["stats", "--json", "vif/5/0"]).unwrap();
    assert!(!waits().contains("\"rx_cap_waits\":0"), "{}", waits());
    // And what waits on the wire without an end is made shorter (RFC 8289).
    while waits().contains("\"rx_backlog_frames\":0") {
        assert!(begun.elapsed() < SOON, "{}", waits());
        receive(&mut [&mut b.front], 100, &log);
    }
}

/// What is too much waits on the wire, where it is dropped in the end, and costs the worker nothing: far more than its memory for
/// frames, 256 KiB each way of a queue, is offered to one that may pass next to nothing on.
#[test]
fn what_waits_under_a_cap_costs_no_memory() {
    let b = bed(&of_guest("net.0.rx_max = \"8Kb/s\""), &VifConfig::new(0));
    let pid = b.world.show("vif/5/0").unwrap().pid.unwrap();
    let before = resident_kib(pid).unwrap();
    let flood = Flood::start(&b.wire, 4, 60_000);
    let begun = Instant::now();
    while flood.offered.load(Ordering::Relaxed) < 2000 {
        assert!(begun.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(5));
    }
    let grown = resident_kib(pid).unwrap().saturating_sub(before);
    assert!(grown < 4 * 2 * 256 + 512, "{grown} KiB more");
}

/// 50 packets a second to a domain are 50 over two interfaces; a worker that is killed brings no more; and a policy without limits
/// counts at once.
#[test]
fn what_a_domain_receives_is_capped_until_it_is_not() {
    let mut b = bed(&of_guest("net.rx_pps_max = 50\nnet.burst = \"1s\""), &VifConfig::new(0));
    let (mut other, far) = second(&mut b);
    let log = b.world.run_dir();
    let log = || std::fs::read_to_string(log.with_file_name("splitd.log")).unwrap_or_default();
    let begun = Instant::now();
    let _floods = [Flood::start(&b.wire, 4, 100), Flood::start(&far, 1, 100)];
    receive(&mut [&mut b.front, &mut other], 80, &log);
    let dead = b.world.kill_worker("vif/5/0").unwrap();
    serves_again(&mut b, "vif/5/0", dead);
    receive(&mut [&mut b.front, &mut other], 80, &log);
    assert_took(begun, 160, 50 + ALL_QUEUES, 50, &b);

    let told = reload(&b.world, "");
    assert!(told.contains("vif/5/1: caps.domain.rx_pps_max.rate 50 -> none"), "{told}");
    // More than a minute under the cap.
    receive(&mut [&mut b.front, &mut other], 4_000, &log);
}

/// B2.3, B10, N23: xenstore's rate is one for all queues, and what was sent of it outlives the worker. Of it and the policy the lower one
/// holds, which is told.
#[test]
fn a_rate_is_one_for_all_queues_and_workers() {
    // One byte in a second: behind the burst of two of the longest frames nothing more would pass in anybody's lifetime.
    let vif = VifConfig { rate: Some("1,1000000".into()), ..VifConfig::new(0) };
    let mut b = bed(&of_guest("net.0.tx_max = \"1Gb/s\""), &vif);
    for (number, queue) in (0u32..).zip(&mut b.front.queues) {
        for _ in 0..50 {
            queue.send(&Outgoing::new(packet::whole(UDP4, number, 2000))).unwrap();
        }
        queue.publish().unwrap();
    }
    let mut passed = 0;
    let mut count = |b: &Bed| {
        let long = Duration::from_millis(100);
        while b.wire.receive(if passed < 60 { SOON } else { long }).is_some() {
            passed += 1;
        }
        passed
    };
    let before = count(&b);
    assert!((60..70).contains(&before), "{before} of 131,072 / 2042");
    let told = b.world.splitctl(&["policy", "explain", "5"]).unwrap();
    assert!(told.contains("tx_max of the vif 8 (rate in xenstore)"), "{told}");
    let dead = b.world.kill_worker("vif/5/0").unwrap();
    serves_again(&mut b, "vif/5/0", dead);
    b.wire.wait_queues(4).unwrap();
    assert_eq!(count(&b), before);

    let rate = format!("{}/rate", b.paths.backend);
    b.world.tools.store().write(&rate, "1000000000,1000").unwrap();
    while passed < 200 {
        b.wire.receive(SOON).unwrap_or_else(|| panic!("{passed}\n{}", b.world.log()));
        passed += 1;
    }
    let told = b.world.splitctl(&["qos", "-d", "guest-5"]).unwrap();
    assert!(told.contains("vif.tx_max=1000000000"), "{told}");
}
