//! Sixteen workers in real time, each with a mapping of its own of the files that a worker has, through the product's gate; splitd's own
//! arbiter writes their pages. The device is emulated: a few places, each busy for a while. What a busy machine adds is in the figures.
//! Knows nothing of requests beyond their cost.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use qos::account::{Ask, Place};
use qos::cost::Op;
use qos::planner::Standing;
use qos::simulate::{Got, Random};
use splitd::arbiter::{Arbiter, Member};
use splitd::id::{DeviceId, Kind};
use worker::clock::monotonic_ns;
use worker::message::QosFiles;
use worker::qos::{Gate, Seen};
use xenbus::DomId;

use super::decision::files;
use super::fairness::lag_ops;
use super::rows::Rows;
use super::{SECOND, share_error_pct, work};

const WORKERS: usize = 16;
const WEIGHTS: [u32; 4] = [64, 128, 256, 512];
const DEPTH: usize = 16;
/// Two thousand requests a second: slow enough for a machine with two cores not to be what is short.
const PLACES: u64 = 8;
const ALONE_NS: u64 = 4_000_000;
const COST_NS: u64 = ALONE_NS / PLACES;
/// While it waits for its share, a worker looks at its page so often.
const LOOK_NS: u64 = 20_000_000;

/// Until when each place is busy.
struct Emulated(Mutex<(BinaryHeap<Reverse<u64>>, Random)>);

impl Emulated {
    fn new() -> Self {
        Self(Mutex::new(((0..PLACES).map(|_| Reverse(0)).collect(), Random(3))))
    }

    /// When a request that begins now will have ended.
    fn serve(&self, now_ns: u64) -> u64 {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (places, random) = &mut *inner;
        let takes_ns = ALONE_NS / 2 + random.below(ALONE_NS);
        let free_ns = places.pop().map_or(0, |Reverse(at)| at);
        let ends_ns = free_ns.max(now_ns) + takes_ns;
        places.push(Reverse(ends_ns));
        ends_ns
    }
}

/// A worker with always so many requests, until it is told to stop.
fn serve(device: &Emulated, gate: Option<&Gate>, stop: &AtomicBool) -> Got {
    let (mut seen, mut place, mut got) = (Seen::default(), Place::default(), Got::default());
    let mut in_flight: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut waiting: VecDeque<u64> = (0..DEPTH).map(|_| monotonic_ns()).collect();
    while !stop.load(Relaxed) {
        let now_ns = monotonic_ns();
        while let Some(Reverse((ends_ns, begun_ns))) = in_flight.peek().copied().filter(|r| r.0.0 <= now_ns) {
            in_flight.pop();
            got.done.push((ends_ns, COST_NS));
            waiting.push_back(now_ns);
            gate.inspect(|gate| gate.ended(COST_NS, now_ns.saturating_sub(begun_ns)));
        }
        if let Some(gate) = gate
            && gate.look(&mut seen)
        {
            place = Place::default();
        }
        let mut wake_ns = now_ns + LOOK_NS;
        while let Some(taken_ns) = waiting.front().copied() {
            if let Some(gate) = gate {
                let ask = Ask { op: Op::Read, len_bytes: 4096, taken_ns };
                // No worker here has both a cap and a share.
                let capped = gate.cap(&seen, ask, &mut place, now_ns);
                if let Err(at_ns) = capped.and_then(|()| gate.share(&seen, COST_NS, taken_ns, now_ns)) {
                    wake_ns = wake_ns.min(at_ns);
                    break;
                }
                gate.begun(COST_NS, 4096);
            }
            waiting.pop_front();
            in_flight.push(Reverse((device.serve(now_ns), now_ns)));
        }
        let next_ns = in_flight.peek().map_or(u64::MAX, |Reverse((ends_ns, _))| *ends_ns).min(wake_ns);
        std::thread::sleep(Duration::from_nanos(next_ns.saturating_sub(monotonic_ns())));
    }
    got
}

/// All of them for so long; what each did in the last part of it.
fn serve_all(gates: &[Option<Gate>], warm: Duration, measured: Duration) -> (Vec<Got>, f64) {
    let (device, stop) = (Emulated::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            gates.iter().map(|gate| scope.spawn(|| serve(&device, gate.as_ref(), &stop))).collect();
        std::thread::sleep(warm);
        let from_ns = monotonic_ns();
        std::thread::sleep(measured);
        let until_ns = monotonic_ns();
        stop.store(true, Relaxed);
        let got = threads.into_iter().filter_map(|thread| thread.join().ok());
        let part = |mut got: Got| {
            got.done.retain(|(at, _)| (from_ns..until_ns).contains(at));
            got
        };
        (got.map(part).collect(), (until_ns - from_ns) as f64 / SECOND as f64)
    })
}

fn member(i: usize, files: &QosFiles) -> Member {
    let number = u16::try_from(i + 1).unwrap_or(1);
    let (customer, weight) = (u64::from(number), WEIGHTS[i % WEIGHTS.len()]);
    Member {
        id: DeviceId { backend: DomId(0), frontend: DomId(number), devid: 51712, kind: Kind::Vbd },
        device: "emulated".to_owned(),
        max_reserved_ppm: 800_000,
        standing: Standing { customer, domain: customer, weights: [weight, 256, 256], reserve_iops: 0 },
        page: files.page.clone(),
        usage: files.usage.clone(),
    }
}

fn shared(dir: &Path, rows: &mut Rows) -> io::Result<()> {
    let measured = Duration::from_secs(8);
    let (without, seconds) = serve_all(&[const { None }; WORKERS], Duration::from_secs(1), measured);
    let unscheduled = work(&without) / seconds;
    let arbiter = Arbiter::start()?;
    let mut gates = Vec::new();
    for i in 0..WORKERS {
        let files = files(dir, &format!("worker-{i}"), None)?;
        gates.push(Some(Gate::open(&files)?));
        arbiter.join(member(i, &files));
    }
    let (got, seconds) = serve_all(&gates, Duration::from_secs(4), measured);
    let weights: Vec<f64> = (0..WORKERS).map(|i| f64::from(WEIGHTS[i % WEIGHTS.len()])).collect();
    let done: Vec<f64> = got.iter().map(|got| got.work_ns() as f64).collect();
    let case = "16-workers";
    rows.ours(case, "multi_process_throughput_pct", work(&got) / seconds / unscheduled * 100.0);
    rows.ours(case, "multi_process_share_error_pct", share_error_pct(&weights, &done));
    rows.ours(case, "multi_process_lag_ops", lag_ops(&weights, &got));
    Ok(())
}

/// A cap, kept by a thread that wakes when the machine lets it.
fn capped(dir: &Path, rows: &mut Rows) -> io::Result<()> {
    const IOPS: u64 = 500;
    let gate = Gate::open(&files(dir, "capped", Some(IOPS))?)?;
    let (got, seconds) = serve_all(&[Some(gate)], Duration::from_secs(1), Duration::from_secs(10));
    let passed = got.iter().map(|got| got.done.len()).sum::<usize>() as f64;
    let error = (passed / (IOPS as f64 * seconds) - 1.0).abs() * 100.0;
    rows.ours("cap-500-thread", "cap_real_time_error_pct", error);
    Ok(())
}

pub(super) fn measure(rows: &mut Rows) {
    let outcome = tempfile::tempdir().and_then(|dir| {
        capped(dir.path(), rows)?;
        shared(dir.path(), rows)
    });
    if let Err(trouble) = outcome {
        let reason = format!("the workers' files cannot be made: {trouble}");
        rows.absent("16-workers", "multi_process_throughput_pct", &reason);
    }
}
