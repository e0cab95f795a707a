//! The product's own rule on the simulated device: shares kept where the requests are, a plan every few milliseconds. The same code
//! that splitd and its workers run.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Piece, Random, Rule, Tenant};
use crate::gcra::{Clocks, Limit, UNITS_PER_OP};
use crate::planner::{MemberId, Planner, Sample, Standing};
use crate::policy::effective::CapRule;
use crate::share::{self, Grant};

pub use crate::planner::PLAN_NS;
/// A disk that waits for its share looks at its page at least so often, ns.
pub const LOOK_NS: u64 = 20_000_000;

#[derive(Debug)]
struct Disk {
    id: MemberId,
    /// Since when, too.
    waiting: VecDeque<(u64, Piece)>,
    grant: Grant,
    spent: AtomicU64,
    limit: Limit,
    clocks: [AtomicU64; 2],
    sample: Sample,
    /// Its own timer.
    wake_ns: u64,
    /// The last piece's request: a cap counts it once.
    capped: Option<usize>,
}

fn standing(i: usize, weight: u32, reserve_iops: u64) -> Standing {
    Standing { customer: i as u64, domain: i as u64, weights: [weight, 256, 256], reserve_iops }
}

/// All of a device.
#[derive(Debug)]
pub struct Ours {
    planner: Planner,
    disks: Vec<Disk>,
    /// Disks that may have become able to go on.
    ready: Vec<usize>,
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    plan_at_ns: u64,
    /// splitd is stopped between these.
    pub stopped_ns: Option<(u64, u64)>,
    /// Then no reservation holds any more.
    pub reserve_until_ns: Option<u64>,
    /// From then on that tenant has that weight.
    pub reweigh: Option<(u64, usize, u32)>,
    weights: Vec<u32>,
    /// Workers wake up to that much late, ns.
    pub late_ns: u64,
    random: Random,
}

impl Ours {
    /// For these tenants.
    #[must_use]
    pub fn new(tenants: &[Tenant]) -> Self {
        let mut planner = Planner::new(800_000);
        let disk = |(i, tenant): (usize, &Tenant)| {
            let standing = standing(i, tenant.weight, tenant.reserve_iops);
            let rule = |rate| CapRule { rate, burst_rate: None, burst_len_ns: 0 };
            Disk {
                id: planner.join(standing, Sample::default(), Grant::OPEN),
                waiting: VecDeque::new(),
                grant: Grant::OPEN,
                spent: AtomicU64::new(0),
                limit: tenant.iops_max.map_or(Limit::default(), |rate| Limit::of(&rule(rate), true)),
                clocks: Default::default(),
                sample: Sample::default(),
                wake_ns: 0,
                capped: None,
            }
        };
        let disks = tenants.iter().enumerate().map(disk).collect();
        let weights = tenants.iter().map(|tenant| tenant.weight).collect();
        Self {
            planner,
            disks,
            ready: Vec::new(),
            timers: BinaryHeap::new(),
            plan_at_ns: PLAN_NS,
            stopped_ns: None,
            reserve_until_ns: None,
            reweigh: None,
            weights,
            late_ns: 0,
            random: Random(1),
        }
    }

    /// What the device is to have at a time.
    #[must_use]
    pub fn window(&self) -> crate::depth::Window {
        self.planner.window()
    }

    fn plan(&mut self, now_ns: u64) {
        self.plan_at_ns = now_ns + PLAN_NS;
        if self.stopped_ns.is_some_and(|(from, to)| (from..to).contains(&now_ns)) {
            return;
        }
        if let Some((_, i, weight)) = self.reweigh.filter(|(at, _, _)| *at <= now_ns) {
            self.reweigh = None;
            self.planner.set_standing(self.disks[i].id, standing(i, weight, 0));
        }
        if self.reserve_until_ns.is_some_and(|until| until <= now_ns) {
            self.reserve_until_ns = None;
            for (i, disk) in self.disks.iter().enumerate() {
                self.planner.set_standing(disk.id, standing(i, self.weights[i], 0));
            }
        }
        let samples: Vec<(MemberId, Sample)> = self
            .disks
            .iter()
            .map(|disk| (disk.id, Sample { spent: disk.spent.load(Relaxed), ..disk.sample }))
            .collect();
        let find = |id: MemberId| samples.binary_search_by_key(&id, |(known, _)| *known).unwrap_or_default();
        let (planner, disks, ready) = (&mut self.planner, &mut self.disks, &mut self.ready);
        planner.plan(now_ns, &mut |id| samples[find(id)].1, &mut |id, grant| {
            let i = find(id);
            disks[i].grant = grant;
            if !disks[i].waiting.is_empty() && grant.is_open() {
                ready.push(i);
            }
        });
    }

    fn go_on(&mut self, i: usize, now_ns: u64, out: &mut Vec<Piece>) {
        let disk = &mut self.disks[i];
        while let Some((since_ns, piece)) = disk.waiting.front().copied() {
            let clocks = Clocks { sustained: &disk.clocks[0], burst: &disk.clocks[1] };
            let is_new = disk.capped != Some(piece.request);
            let cap_ns = if disk.limit.is_set() && is_new { disk.limit.ready_at_ns(clocks) } else { 0 };
            let outcome = if cap_ns > now_ns {
                Err((cap_ns, false))
            } else {
                share::admit(&disk.grant, &disk.spent, piece.cost_ns, since_ns, now_ns)
                    .map_err(|at| (at, true))
            };
            match outcome {
                Ok(()) => {
                    if disk.limit.is_set() && is_new {
                        let units = UNITS_PER_OP.max(piece.len_bytes * UNITS_PER_OP / (256 << 10));
                        disk.limit.charge(clocks, units, now_ns);
                        disk.capped = Some(piece.request);
                    }
                    disk.waiting.pop_front();
                    disk.sample.totals.issued_ops += 1;
                    disk.sample.totals.issued_ns += piece.cost_ns;
                    out.push(piece);
                }
                Err((at, by_share)) => {
                    disk.sample.refused += u64::from(by_share);
                    let at = if by_share { at.min(now_ns + LOOK_NS) } else { at };
                    let at = at + self.random.below(self.late_ns);
                    if disk.wake_ns <= now_ns || at < disk.wake_ns {
                        disk.wake_ns = at;
                        self.timers.push(Reverse((at, i)));
                    }
                    return;
                }
            }
        }
    }
}

impl Rule for Ours {
    fn arrive(&mut self, now_ns: u64, piece: Piece) {
        self.disks[piece.tenant].waiting.push_back((now_ns, piece));
        self.ready.push(piece.tenant);
    }

    fn done(&mut self, _: u64, piece: Piece, took_ns: u64) {
        let totals = &mut self.disks[piece.tenant].sample.totals;
        totals.done_ops += 1;
        totals.done_ns += piece.cost_ns;
        totals.latency_ns += took_ns;
    }

    fn pump(&mut self, now_ns: u64, out: &mut Vec<Piece>) -> Option<u64> {
        if now_ns >= self.plan_at_ns {
            self.plan(now_ns);
        }
        while let Some(&Reverse((at, i))) = self.timers.peek().filter(|Reverse((at, _))| *at <= now_ns) {
            self.timers.pop();
            if self.disks[i].wake_ns == at {
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
        Some(timer.min(self.plan_at_ns))
    }
}
