//! The product's own rule on the simulated device: shares kept where the requests are, a plan every few milliseconds. The same code
//! that splitd and its workers run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Piece, Random, Rule, Tenant};
use crate::account::{self, Ask, Counting, Limits, NR_WORDS, Place};
use crate::cost::Op;
use crate::planner::{MemberId, Planner, Sample, Standing};
use crate::policy::Cap;
use crate::policy::effective::{CapRule, Caps, Told};
use crate::share::{self, Grant};

pub use crate::planner::PLAN_NS;
/// A disk that waits for its share looks at its page at least so often, ns.
pub const LOOK_NS: u64 = 20_000_000;
/// How much of a late wake-up a cap makes up for, ns.
const LATE_NS_MAX: u64 = 100_000_000;
/// A worker ends that long after its guest's last request, ns.
const DETACH_NS: u64 = 100_000_000;
const MAX_RESERVED_PPM: u32 = 800_000;

#[derive(Debug)]
struct Disk {
    /// Where it is attached.
    id: Option<MemberId>,
    standing: Standing,
    grant: Grant,
    spent: AtomicU64,
    limits: Limits,
    account: usize,
    sample: Sample,
    first_queue: usize,
    nr_queues: usize,
}

/// Of one ring.
#[derive(Debug, Default)]
struct Queue {
    /// Since when, too.
    waiting: VecDeque<(u64, Piece)>,
    /// Its turn before a cap.
    place: Place,
    /// Flushes: one goes to the device at a time, for all that came until then.
    joined: Vec<(u64, Piece)>,
    flushing: Option<Vec<Piece>>,
    /// The first has passed its caps, and waits for the share alone.
    has_passed: bool,
    /// It waits for its disk's share.
    is_refused: bool,
    /// Its own timer.
    wake_ns: u64,
}

impl Queue {
    fn waits(&self) -> bool {
        !self.waiting.is_empty() || !self.joined.is_empty()
    }
}

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another weight and reservation.
    Share {
        /// Its weight.
        weight: u32,
        /// Promised requests a second.
        reserve_iops: u64,
    },
    /// Another cap, requests a second.
    Cap(u64),
    /// It is attached.
    Join,
    /// It is detached.
    Leave,
}

/// What the arbiter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// A disk comes.
    Join,
    /// It weighs something else.
    Share,
    /// It goes.
    Leave,
    /// A plan.
    Plan,
}

/// Each is done so often to see what it costs: what a machine does meanwhile is not counted.
const TIMES: usize = 5;

/// All of a device.
#[derive(Debug)]
pub struct Ours {
    planner: Planner,
    disks: Vec<Disk>,
    queues: Vec<Queue>,
    accounts: Vec<[AtomicU64; NR_WORDS]>,
    attached: BTreeMap<MemberId, usize>,
    /// Queues that may have become able to go on.
    ready: Vec<usize>,
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    plan_at_ns: u64,
    was_stopped: bool,
    /// Those that ended with the device's last flush.
    flushed: Vec<Piece>,
    changes: VecDeque<(u64, usize, Change)>,
    /// splitd is stopped between these.
    pub stopped_ns: Vec<(u64, u64)>,
    /// It was killed: its successor knows what stands in files, and nothing else.
    pub forgets: bool,
    /// How caps count requests.
    pub counting: Counting,
    /// Workers wake up to that much late, ns.
    pub late_ns: u64,
    /// Real time, ns: with it, what the arbiter does is timed.
    pub clock: Option<fn() -> u64>,
    /// What it did, in order, and how long each took, ns.
    pub took_ns: Vec<(Work, u64)>,
    random: Random,
}

/// The least time that something takes of several: what a machine does meanwhile only adds to it.
fn time(clock: fn() -> u64, mut what: impl FnMut(usize) -> u64) -> u64 {
    let once = |n| {
        let from = clock();
        what(n).saturating_sub(from)
    };
    (0..TIMES).map(once).min().unwrap_or_default()
}

fn limits(cap: Option<CapRule>) -> Limits {
    let mut caps = Caps::default();
    caps[Cap::TotalIops as usize] = cap.map(|value| Told { value, origin: String::new() });
    account::limits(&caps)
}

fn standing(i: usize, tenant: &Tenant) -> Standing {
    let alone = u64::MAX - i as u64;
    let domain = tenant.domain.unwrap_or(alone);
    let weights = [tenant.weight, 256, 256];
    Standing { customer: domain, domain, weights, reserve_iops: tenant.reserve_iops }
}

impl Ours {
    /// For these tenants.
    #[must_use]
    pub fn new(tenants: &[Tenant]) -> Self {
        let (mut queues, mut of_domain) = (Vec::new(), BTreeMap::new());
        let mut changes = Vec::new();
        let disk = |(i, tenant): (usize, &Tenant)| {
            let standing = standing(i, tenant);
            let first_queue = queues.len();
            let queue = |_| Queue::default();
            queues.extend((0..tenant.rings).map(queue));
            changes.push((tenant.from_ns, i, Change::Join));
            if tenant.until_ns < u64::MAX {
                changes.push((tenant.until_ns + DETACH_NS, i, Change::Leave));
            }
            let next_account = of_domain.len();
            Disk {
                id: None,
                account: *of_domain.entry(standing.domain).or_insert(next_account),
                standing,
                grant: Grant::OPEN,
                spent: AtomicU64::new(0),
                limits: limits(tenant.cap.clone()),
                sample: Sample::default(),
                first_queue,
                nr_queues: tenant.rings,
            }
        };
        let disks = tenants.iter().enumerate().map(disk).collect();
        changes.sort_by_key(|(at, _, _)| *at);
        Self {
            planner: Planner::new(MAX_RESERVED_PPM),
            disks,
            queues,
            accounts: (0..of_domain.len()).map(|_| Default::default()).collect(),
            attached: BTreeMap::new(),
            ready: Vec::new(),
            timers: BinaryHeap::new(),
            plan_at_ns: PLAN_NS,
            was_stopped: false,
            flushed: Vec::new(),
            changes: changes.into(),
            stopped_ns: Vec::new(),
            forgets: false,
            counting: Counting { iops_size_bytes: 256 << 10, flush_is_op: false },
            late_ns: 0,
            clock: None,
            took_ns: Vec::new(),
            random: Random(1),
        }
    }

    /// At that time an operator does that to that tenant.
    pub fn change(&mut self, at_ns: u64, tenant: usize, change: Change) {
        let place = self.changes.partition_point(|(at, _, _)| *at <= at_ns);
        self.changes.insert(place, (at_ns, tenant, change));
    }

    /// What the device is to have at a time.
    #[must_use]
    pub fn window(&self) -> crate::depth::Window {
        self.planner.window()
    }

    fn is_stopped(&self, now_ns: u64) -> bool {
        self.stopped_ns.iter().any(|(from, to)| (*from..*to).contains(&now_ns))
    }

    fn take_changes(&mut self, now_ns: u64) {
        while let Some((_, i, change)) = self.changes.pop_front_if(|(at, _, _)| *at <= now_ns) {
            self.time_change(i, change);
            let (planner, disk) = (&mut self.planner, &mut self.disks[i]);
            match (change, disk.id) {
                (Change::Join, None) => {
                    let sample = Sample { spent: disk.spent.load(Relaxed), ..disk.sample };
                    let id = planner.join(disk.standing.clone(), sample, disk.grant);
                    disk.id = Some(id);
                    self.attached.insert(id, i);
                    self.plan_at_ns = self.plan_at_ns.min(now_ns + 1);
                }
                (Change::Leave, Some(id)) => {
                    planner.leave(id);
                    disk.id = None;
                    self.attached.remove(&id);
                }
                (Change::Share { weight, reserve_iops }, id) => {
                    disk.standing.weights[0] = weight;
                    disk.standing.reserve_iops = reserve_iops;
                    id.into_iter().for_each(|id| planner.set_standing(id, disk.standing.clone()));
                }
                (Change::Cap(rate), _) => {
                    disk.limits = limits(Some(CapRule { rate, burst_rate: None, burst_len_ns: 0 }));
                    let its = disk.first_queue..disk.first_queue + disk.nr_queues;
                    self.queues[its].iter_mut().for_each(|queue| queue.place = Place::default());
                    self.ready.extend(disk.first_queue..disk.first_queue + disk.nr_queues);
                }
                (Change::Join, Some(_)) | (Change::Leave, None) => {}
            }
        }
    }

    /// Does it a few times and undoes it, to see what it costs.
    fn time_change(&mut self, i: usize, change: Change) {
        let Some(clock) = self.clock else { return };
        let (planner, disk) = (&mut self.planner, &self.disks[i]);
        let sample = Sample { spent: disk.spent.load(Relaxed), ..disk.sample };
        let mut standing = disk.standing.clone();
        let (work, ns) = match (change, disk.id) {
            (Change::Join, None) => {
                let join = |_| {
                    let standing = standing.clone();
                    let id = planner.join(standing, sample, disk.grant);
                    let ended = clock();
                    planner.leave(id);
                    ended
                };
                (Work::Join, time(clock, join))
            }
            (Change::Leave, Some(_)) => {
                let mut clones: [Planner; TIMES] = std::array::from_fn(|_| planner.clone());
                let leave = |n: usize| {
                    disk.id.into_iter().for_each(|id| clones[n].leave(id));
                    clock()
                };
                (Work::Leave, time(clock, leave))
            }
            (Change::Share { weight, .. }, Some(id)) => {
                let reweigh = |_| {
                    standing.weights[0] = weight;
                    planner.set_standing(id, standing.clone());
                    clock()
                };
                (Work::Share, time(clock, reweigh))
            }
            _ => return,
        };
        self.took_ns.push((work, ns));
    }

    /// A successor of splitd finds the disks that are attached, what they used and what they were granted.
    fn start_again(&mut self) {
        self.planner = Planner::new(MAX_RESERVED_PPM);
        self.attached.clear();
        for (i, disk) in self.disks.iter_mut().enumerate().filter(|(_, disk)| disk.id.is_some()) {
            let sample = Sample { spent: disk.spent.load(Relaxed), ..disk.sample };
            let id = self.planner.join(disk.standing.clone(), sample, disk.grant);
            disk.id = Some(id);
            self.attached.insert(id, i);
        }
    }

    fn plan(&mut self, now_ns: u64) {
        let (planner, disks, queues) = (&mut self.planner, &mut self.disks, &self.queues);
        let (ready, attached) = (&mut self.ready, &self.attached);
        let sample = |disk: &Disk| {
            let its = &queues[disk.first_queue..disk.first_queue + disk.nr_queues];
            let is_waiting = its.iter().any(|queue| queue.is_refused);
            Sample { spent: disk.spent.load(Relaxed), is_waiting, ..disk.sample }
        };
        let samples: BTreeMap<MemberId, Sample> =
            attached.iter().map(|(id, i)| (*id, sample(&disks[*i]))).collect();
        if let Some(clock) = self.clock {
            let mut clones: [Planner; TIMES] = std::array::from_fn(|_| planner.clone());
            let plan = |n: usize| {
                clones[n]
                    .plan(now_ns, &mut |id| samples[&id], &mut |_, grant| _ = std::hint::black_box(grant));
                clock()
            };
            self.took_ns.push((Work::Plan, time(clock, plan)));
        }
        planner.plan(now_ns, &mut |id| samples[&id], &mut |id, grant| {
            let disk = &mut disks[attached[&id]];
            disk.grant = grant;
            if grant.is_open() {
                let its = disk.first_queue..disk.first_queue + disk.nr_queues;
                ready.extend(its.filter(|queue| queues[*queue].waits()));
            }
        });
        self.plan_at_ns = now_ns + self.planner.until_next_ns();
    }

    /// Whether a request's caps let its piece pass now; else when to ask again.
    fn cap(&mut self, i: usize, piece: &Piece, since_ns: u64, now_ns: u64) -> Result<(), u64> {
        let Some(len_bytes) = piece.begins_bytes else { return Ok(()) };
        let (disk, queue) = (&self.disks[piece.tenant], &mut self.queues[i]);
        let clock = |c: usize| &self.accounts[disk.account][c];
        let at_ns = account::ready_at_ns(&disk.limits, piece.op, self.counting, clock);
        if at_ns > now_ns {
            let ask = Ask { op: piece.op, len_bytes, taken_ns: since_ns };
            let times = (at_ns, now_ns);
            return Err(queue.place.ask_again_ns(&disk.limits, ask, self.counting, times, clock));
        }
        let paid_ns = since_ns.clamp(now_ns.saturating_sub(LATE_NS_MAX), now_ns);
        account::charge(&disk.limits, piece.op, len_bytes, self.counting, paid_ns, clock);
        Ok(())
    }

    /// Gives a piece to the device if its disk's share has room; else asks again later.
    fn issue(&mut self, i: usize, since_ns: u64, piece: Piece, now_ns: u64, out: &mut Vec<Piece>) -> bool {
        let disk = &mut self.disks[piece.tenant];
        match share::admit(&disk.grant, &disk.spent, piece.cost_ns, since_ns, now_ns) {
            Ok(()) => {
                disk.sample.totals.issued_ops += 1;
                disk.sample.totals.issued_ns += piece.cost_ns;
                out.push(piece);
                true
            }
            Err(at) => {
                disk.sample.refused += 1;
                self.queues[i].is_refused = true;
                self.wake(i, at.min(now_ns + LOOK_NS), now_ns);
                false
            }
        }
    }

    fn wake(&mut self, i: usize, at_ns: u64, now_ns: u64) {
        let at_ns = at_ns + self.random.below(self.late_ns);
        let queue = &mut self.queues[i];
        if queue.wake_ns <= now_ns || at_ns < queue.wake_ns {
            queue.wake_ns = at_ns;
            self.timers.push(Reverse((at_ns, i)));
        }
    }

    fn go_on(&mut self, i: usize, now_ns: u64, out: &mut Vec<Piece>) {
        self.queues[i].is_refused = false;
        while let Some((since_ns, piece)) = self.queues[i].waiting.front().copied() {
            if !self.queues[i].has_passed
                && let Err(at_ns) = self.cap(i, &piece, since_ns, now_ns)
            {
                self.wake(i, at_ns, now_ns);
                break;
            }
            self.queues[i].has_passed = true;
            if piece.op == Op::Flush {
                self.queues[i].joined.push((since_ns, piece));
            } else if !self.issue(i, since_ns, piece, now_ns, out) {
                break;
            }
            self.queues[i].has_passed = false;
            self.queues[i].waiting.pop_front();
        }
        let queue = &self.queues[i];
        if let (Some((since_ns, first)), None) = (queue.joined.first().copied(), &queue.flushing)
            && self.issue(i, since_ns, first, now_ns, out)
        {
            let queue = &mut self.queues[i];
            queue.flushing = Some(queue.joined.drain(..).skip(1).map(|(_, piece)| piece).collect());
        }
    }
}

impl Rule for Ours {
    fn arrive(&mut self, now_ns: u64, piece: Piece) {
        let disk = &self.disks[piece.tenant];
        let queue = disk.first_queue + piece.request % disk.nr_queues;
        self.queues[queue].waiting.push_back((now_ns, piece));
        self.ready.push(queue);
    }

    fn done(&mut self, _: u64, piece: Piece, took_ns: u64) {
        let disk = &mut self.disks[piece.tenant];
        disk.sample.totals.done_ops += 1;
        disk.sample.totals.done_ns += piece.cost_ns;
        disk.sample.totals.latency_ns += took_ns;
        if piece.op == Op::Flush {
            let queue = disk.first_queue + piece.request % disk.nr_queues;
            self.flushed.extend(self.queues[queue].flushing.take().unwrap_or_default());
            self.ready.push(queue);
        }
    }

    fn done_with_it(&mut self) -> Option<Piece> {
        self.flushed.pop()
    }

    fn pump(&mut self, now_ns: u64, out: &mut Vec<Piece>) -> Option<u64> {
        if self.is_stopped(now_ns) {
            self.was_stopped = true;
            self.plan_at_ns = self.plan_at_ns.max(now_ns + PLAN_NS);
        } else {
            if std::mem::take(&mut self.was_stopped) && self.forgets {
                self.start_again();
            }
            self.take_changes(now_ns);
            if now_ns >= self.plan_at_ns {
                self.plan(now_ns);
            }
        }
        while let Some(Reverse((at, i))) =
            self.timers.peek().copied().filter(|Reverse((at, _))| *at <= now_ns)
        {
            self.timers.pop();
            if self.queues[i].wake_ns == at {
                self.ready.push(i);
            }
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.sort_unstable();
        ready.dedup();
        for i in ready.drain(..) {
            self.go_on(i, now_ns, out);
        }
        self.ready = ready;
        let timer = self.timers.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        let change = self.changes.front().filter(|_| !self.was_stopped);
        let change = change.map_or(u64::MAX, |(at, _, _)| *at);
        Some(timer.min(self.plan_at_ns).min(change))
    }
}
