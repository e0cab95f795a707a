//! A device and its tenants on a clock of their own: events in order, random numbers from a seed, so that every run is the same.
//! For tests and benchmarks. Knows nothing of the rule by which the device is shared: that is a [`Rule`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

pub mod ours;

use crate::cost::Op;
use crate::policy::effective::CapRule;

/// A tenant's load: always that many requests outstanding, unless it pauses.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Share.
    pub weight: u32,
    /// Promised requests a second.
    pub reserve_iops: u64,
    /// Cap on the requests of its domain.
    pub cap: Option<CapRule>,
    /// The domain that the disk is of, where it is not alone in one: its disks share a cap and a share.
    pub domain: Option<u64>,
    /// Its rings: requests go to one after the other.
    pub rings: usize,
    /// Requests outstanding.
    pub depth: u32,
    /// Sizes, chosen from alike, bytes.
    pub sizes: Vec<u64>,
    /// Writes among a hundred.
    pub writes_pct: u64,
    /// Nothing but that, flushes or discards, in place of data.
    pub only: Option<Op>,
    /// The device takes so many times as long for it as it is charged.
    pub dearer: u64,
    /// Busy so long, then idle as long, ns; 0 for always busy.
    pub half_period_ns: u64,
    /// It comes then, ns.
    pub from_ns: u64,
    /// It goes then, ns.
    pub until_ns: u64,
}

impl Tenant {
    /// One that reads 4 KiB at that depth.
    #[must_use]
    pub fn reading(weight: u32, depth: u32) -> Self {
        Self {
            weight,
            reserve_iops: 0,
            cap: None,
            domain: None,
            rings: 1,
            depth,
            sizes: vec![4096],
            writes_pct: 0,
            only: None,
            dearer: 1,
            half_period_ns: 0,
            from_ns: 0,
            until_ns: u64::MAX,
        }
    }

    /// The same, capped at so many requests a second.
    #[must_use]
    pub fn capped(self, rate: u64) -> Self {
        Self { cap: Some(CapRule { rate, burst_rate: None, burst_len_ns: 0 }), ..self }
    }
}

/// A piece of a request, as the device gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Whose.
    pub tenant: usize,
    /// What it costs, ns of the whole device.
    pub cost_ns: u64,
    /// Bytes.
    pub len_bytes: u64,
    /// What it is.
    pub op: Op,
    /// The request.
    pub request: usize,
    /// Bytes of all of the request, on its first piece alone.
    pub begins_bytes: Option<u64>,
}

/// How a device is shared.
pub trait Rule {
    /// Something to do.
    fn arrive(&mut self, now_ns: u64, piece: Piece);
    /// Something was done, after `took_ns`.
    fn done(&mut self, now_ns: u64, piece: Piece, took_ns: u64);
    /// What was done with it at no cost, and never went to the device by itself; asked until there is nothing more.
    fn done_with_it(&mut self) -> Option<Piece> {
        None
    }
    /// What goes to the device now, into `out`; and when to ask again at the latest.
    fn pump(&mut self, now_ns: u64, out: &mut Vec<Piece>) -> Option<u64>;
}

/// The device: `parallel` requests at a time.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// At a time.
    pub parallel: u32,
    /// Spread of the times, as a part of them.
    pub jitter: f64,
    /// Three times slower between these.
    pub slow_ns: Option<(u64, u64)>,
    /// As many times slower than its costs say, always.
    pub factor: u32,
    /// Requests a second that a bucket of a tenth of them lets through, as QEMU's `throttling.iops-total` and many a cloud's volumes:
    /// below that there is no wait at all.
    pub iops_max: Option<u64>,
}

/// What a tenant got.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// Each piece that was done after the warm-up: when, and its cost.
    pub done: Vec<(u64, u64)>,
    /// How long requests took, ns, unsorted.
    pub latencies_ns: Vec<u64>,
    /// Requests done after the warm-up.
    pub requests: u64,
    /// Bytes done after the warm-up.
    pub bytes: u64,
}

impl Got {
    /// Work done, ns of the whole device.
    #[must_use]
    pub fn work_ns(&self) -> u64 {
        self.done.iter().map(|(_, cost)| cost).sum()
    }

    /// The latency that so many parts of a thousand do not exceed.
    #[must_use]
    pub fn latency_ns(&self, permille: usize) -> u64 {
        let mut sorted = self.latencies_ns.clone();
        sorted.sort_unstable();
        sorted
            .get((sorted.len() * permille / 1000).min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    #[allow(clippy::cast_precision_loss)] // 53 bits
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.word() % n.max(1)
    }
}

/// Larger requests are cut to that.
pub const CHUNK_BYTES: u64 = 128 << 10;

/// What a request costs, ns of the whole device: a read waits for the medium, a write is taken by a cache and costs more for each
/// page.
#[must_use]
pub fn cost_ns(parallel: u32, is_write: bool, len_bytes: u64) -> u64 {
    let pages = len_bytes.div_ceil(4096);
    let alone_ns = if is_write { 60_000 + 57_000 * pages } else { 290_000 + 28_000 * pages };
    alone_ns / u64::from(parallel)
}

/// The same of a flush or a discard, by the product's prices: a page written, for a discard one for each 8 MiB.
fn other_cost_ns(parallel: u32, len_bytes: u64) -> u64 {
    cost_ns(parallel, true, 4096 * len_bytes.div_ceil(8 << 20).max(1))
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Done { begun_ns: u64, piece: usize },
    Begin { tenant: usize },
    Pump,
}

#[derive(Clone, Copy)]
struct Request {
    begun_ns: u64,
    left: u32,
    len_bytes: u64,
}

/// A run.
pub struct Run<'a, R> {
    tenants: &'a [Tenant],
    device: Device,
    rule: R,
    random: Random,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    /// When each of the device's places is free.
    places: BinaryHeap<Reverse<u64>>,
    /// What the bucket has let through, ns.
    bucket_ns: u64,
    pieces: Vec<Piece>,
    free_pieces: VecDeque<usize>,
    requests: Vec<Request>,
    free_requests: Vec<usize>,
    got: Vec<Got>,
    warm_ns: u64,
    next_pump_ns: u64,
}

/// Runs a load until `until_ns` and says what each tenant got after `warm_ns`.
pub fn run<R: Rule>(
    tenants: &[Tenant],
    device: Device,
    rule: R,
    seed: u64,
    warm_ns: u64,
    until_ns: u64,
) -> (Vec<Got>, R) {
    let mut run = Run {
        tenants,
        device,
        rule,
        random: Random(seed),
        events: BinaryHeap::new(),
        order: 0,
        places: (0..device.parallel).map(|_| Reverse(0)).collect(),
        bucket_ns: 0,
        pieces: Vec::new(),
        free_pieces: VecDeque::new(),
        requests: Vec::new(),
        free_requests: Vec::new(),
        got: tenants.iter().map(|_| Got::default()).collect(),
        warm_ns,
        next_pump_ns: u64::MAX,
    };
    for (i, tenant) in tenants.iter().enumerate() {
        for _ in 0..tenant.depth {
            let at = tenant.from_ns + run.random.below(1_000_000);
            run.at(at, Event::Begin { tenant: i });
        }
    }
    run.go(until_ns);
    (run.got, run.rule)
}

impl<R: Rule> Run<'_, R> {
    fn at(&mut self, at_ns: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at_ns, self.order, event)));
    }

    fn go(&mut self, until_ns: u64) {
        let mut out = Vec::new();
        self.at(0, Event::Pump);
        while let Some(Reverse((now_ns, _, event))) = self.events.pop() {
            if now_ns >= until_ns {
                return;
            }
            match event {
                Event::Begin { tenant } => self.begin(now_ns, tenant),
                Event::Done { begun_ns, piece } => self.ended(now_ns, begun_ns, piece),
                Event::Pump => self.next_pump_ns = u64::MAX,
            }
            // What happens in the same instant is done together.
            if self.events.peek().is_some_and(|Reverse((at, _, _))| *at == now_ns) {
                continue;
            }
            let again = self.rule.pump(now_ns, &mut out);
            for piece in out.drain(..) {
                self.serve(now_ns, piece);
            }
            if let Some(at) = again.map(|at| at.max(now_ns + 1)).filter(|at| *at < self.next_pump_ns) {
                self.next_pump_ns = at;
                self.at(at, Event::Pump);
            }
        }
    }

    fn begin(&mut self, now_ns: u64, tenant: usize) {
        let load = &self.tenants[tenant];
        if now_ns >= load.until_ns {
            return;
        }
        if load.half_period_ns > 0 && (now_ns / load.half_period_ns) % 2 == 1 {
            let at = (now_ns / load.half_period_ns + 1) * load.half_period_ns;
            return self.at(at, Event::Begin { tenant });
        }
        let which = self.random.below(load.sizes.len() as u64);
        let len_bytes = load.sizes[usize::try_from(which).unwrap_or(0)];
        let is_write = self.random.below(100) < load.writes_pct;
        let op = load.only.unwrap_or(if is_write { Op::Write } else { Op::Read });
        let nr_pieces = if load.only.is_some() { 1 } else { len_bytes.div_ceil(CHUNK_BYTES) };
        let begun = Request { begun_ns: now_ns, left: u32::try_from(nr_pieces).unwrap_or(1), len_bytes };
        let request = self.free_requests.pop().unwrap_or(self.requests.len());
        if request == self.requests.len() {
            self.requests.push(begun);
        } else {
            self.requests[request] = begun;
        }
        let mut begins_bytes = Some(len_bytes);
        for i in 0..nr_pieces {
            let (len_bytes, cost_ns) = if load.only.is_some() {
                (len_bytes, other_cost_ns(self.device.parallel, len_bytes))
            } else {
                let len_bytes = (len_bytes - i * CHUNK_BYTES).min(CHUNK_BYTES);
                (len_bytes, cost_ns(self.device.parallel, is_write, len_bytes))
            };
            let piece = Piece { tenant, cost_ns, len_bytes, op, request, begins_bytes: begins_bytes.take() };
            self.rule.arrive(now_ns, piece);
        }
    }

    fn serve(&mut self, now_ns: u64, piece: Piece) {
        let Some(Reverse(free_ns)) = self.places.pop() else { return };
        let spread = 1.0 + self.device.jitter * (self.random.unit() + self.random.unit() - 1.0);
        let slow = self.device.slow_ns.is_some_and(|(from, to)| (from..to).contains(&now_ns));
        let factor = u64::from(self.device.factor) * if slow { 3 } else { 1 };
        let dearer = self.tenants[piece.tenant].dearer;
        let alone_ns = piece.cost_ns * u64::from(self.device.parallel) * factor * dearer;
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let takes_ns = (alone_ns as f64 * spread) as u64;
        let ends_ns = free_ns.max(self.let_through(now_ns)) + takes_ns;
        self.places.push(Reverse(ends_ns));
        let at = self.free_pieces.pop_front().unwrap_or(self.pieces.len());
        if at == self.pieces.len() {
            self.pieces.push(piece);
        } else {
            self.pieces[at] = piece;
        }
        self.at(ends_ns, Event::Done { begun_ns: now_ns, piece: at });
    }

    /// When the bucket lets the next one through.
    fn let_through(&mut self, now_ns: u64) -> u64 {
        let Some(rate) = self.device.iops_max else { return now_ns };
        let begins_ns = now_ns.max(self.bucket_ns.saturating_sub(100_000_000));
        self.bucket_ns = self.bucket_ns.max(now_ns) + 1_000_000_000 / rate.max(1);
        begins_ns
    }

    fn ended(&mut self, now_ns: u64, begun_ns: u64, at: usize) {
        let piece = self.pieces[at];
        self.free_pieces.push_back(at);
        self.rule.done(now_ns, piece, now_ns - begun_ns);
        self.count(now_ns, piece);
        while let Some(piece) = self.rule.done_with_it() {
            self.count(now_ns, Piece { cost_ns: 0, ..piece });
        }
    }

    fn count(&mut self, now_ns: u64, piece: Piece) {
        let got = &mut self.got[piece.tenant];
        if now_ns >= self.warm_ns {
            got.done.push((now_ns, piece.cost_ns));
            got.bytes += piece.len_bytes;
        }
        let request = &mut self.requests[piece.request];
        request.left -= 1;
        if request.left == 0 {
            if now_ns >= self.warm_ns && request.len_bytes > 0 {
                got.latencies_ns.push(now_ns - request.begun_ns);
                got.requests += 1;
            }
            self.free_requests.push(piece.request);
            // A guest takes a moment between an answer and the next request.
            let pause_ns = 1_000 + self.random.below(2_000);
            self.at(now_ns + pause_ns, Event::Begin { tenant: piece.tenant });
        }
    }
}

impl<R: std::fmt::Debug> std::fmt::Debug for Run<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("rule", &self.rule).finish_non_exhaustive()
    }
}
