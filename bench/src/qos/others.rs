//! Other ways to share a device or to cap it, in few lines each, to be measured beside the product's: as their documentation and papers
//! describe them. Knows nothing of the product.

use std::collections::VecDeque;

use qos::simulate::{Piece, Rule, Tenant};

/// No rule: first come, first served.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    waiting: Vec<Piece>,
}

impl Rule for Fifo {
    fn arrive(&mut self, _: u64, piece: Piece) {
        self.waiting.push(piece);
    }

    fn done(&mut self, _: u64, _: Piece, _: u64) {}

    fn pump(&mut self, _: u64, out: &mut Vec<Piece>) -> Option<u64> {
        out.append(&mut self.waiting);
        None
    }
}

/// Start tags with a window: what dmclock does with weights alone. With several shards, each has tags and a part of the window of
/// its own, and a tenant's requests go to one after the other if it has several queues.
#[derive(Debug)]
pub(super) struct Tags {
    shards: Vec<Shard>,
    depths: Vec<u32>,
    turn: Vec<usize>,
    window: u32,
}

#[derive(Debug)]
struct Shard {
    queues: Vec<VecDeque<Piece>>,
    tags: Vec<f64>,
    weights: Vec<f64>,
    virtual_time: f64,
    under_way: u32,
    ours: std::collections::HashMap<usize, u32>,
}

impl Tags {
    pub(super) fn new(tenants: &[Tenant], shards: usize, window: u32) -> Self {
        let shard = |_| Shard {
            queues: tenants.iter().map(|_| VecDeque::new()).collect(),
            tags: vec![0.0; tenants.len()],
            weights: tenants.iter().map(|t| f64::from(t.weight)).collect(),
            virtual_time: 0.0,
            under_way: 0,
            ours: std::collections::HashMap::new(),
        };
        let depths = tenants.iter().map(|t| t.depth).collect();
        let per_shard = window / u32::try_from(shards).unwrap_or(1);
        Self {
            shards: (0..shards).map(shard).collect(),
            depths,
            turn: vec![0; tenants.len()],
            window: per_shard,
        }
    }
}

impl Rule for Tags {
    fn arrive(&mut self, _: u64, piece: Piece) {
        // One queue for every tenth tenant, as many as shards for the others.
        let spread = !piece.tenant.is_multiple_of(10) && self.depths[piece.tenant] > 1;
        let turn = &mut self.turn[piece.tenant];
        *turn += usize::from(spread);
        let nr_shards = self.shards.len();
        self.shards[*turn % nr_shards].queues[piece.tenant].push_back(piece);
    }

    fn done(&mut self, _: u64, piece: Piece, _: u64) {
        for shard in &mut self.shards {
            if let Some(n) = shard.ours.get_mut(&piece.request).filter(|n| **n > 0) {
                *n -= 1;
                shard.under_way -= 1;
                return;
            }
        }
    }

    fn pump(&mut self, _: u64, out: &mut Vec<Piece>) -> Option<u64> {
        for shard in &mut self.shards {
            while shard.under_way < self.window {
                let start = |i: usize| shard.tags[i].max(shard.virtual_time);
                let waiting = (0..shard.queues.len()).filter(|i| !shard.queues[*i].is_empty());
                let Some(next) = waiting.min_by(|a, b| start(*a).total_cmp(&start(*b))) else { break };
                let begin = start(next);
                let Some(piece) = shard.queues[next].pop_front() else { break };
                shard.virtual_time = shard.virtual_time.max(begin);
                shard.tags[next] = begin + piece.cost_ns as f64 / shard.weights[next];
                shard.under_way += 1;
                *shard.ours.entry(piece.request).or_default() += 1;
                out.push(piece);
            }
        }
        None
    }
}

/// A cap on requests as a leaking bucket (QEMU's), or as one that is filled up every so often.
#[derive(Debug)]
pub(super) struct Limiter {
    waiting: VecDeque<Piece>,
    per_s: f64,
    level: f64,
    most: f64,
    seen_ns: u64,
    refill_ns: Option<u64>,
}

impl Limiter {
    pub(super) fn qemu(iops: u64) -> Self {
        let per_s = iops as f64;
        Self { waiting: VecDeque::new(), per_s, level: 0.0, most: per_s / 10.0, seen_ns: 0, refill_ns: None }
    }

    /// Tokens for that time are put in at its end, if the bucket ran dry; what is asked meanwhile waits for that.
    pub(super) fn refilled(iops: u64, every_ns: u64) -> Self {
        let per_s = iops as f64;
        let most = per_s * every_ns as f64 / 1e9;
        Self { waiting: VecDeque::new(), per_s, level: 0.0, most, seen_ns: 0, refill_ns: Some(every_ns) }
    }
}

impl Rule for Limiter {
    fn arrive(&mut self, _: u64, piece: Piece) {
        self.waiting.push_back(piece);
    }

    fn done(&mut self, _: u64, _: Piece, _: u64) {}

    fn pump(&mut self, now_ns: u64, out: &mut Vec<Piece>) -> Option<u64> {
        let elapsed_ns = (now_ns - self.seen_ns) as f64;
        match self.refill_ns {
            None => {
                self.level = (self.level - elapsed_ns * self.per_s / 1e9).max(0.0);
                self.seen_ns = now_ns;
            }
            Some(every_ns) if now_ns - self.seen_ns >= every_ns => {
                self.level = (self.level - elapsed_ns * self.per_s / 1e9).max(0.0);
                self.seen_ns = now_ns;
            }
            Some(_) => {}
        }
        loop {
            let room = match self.refill_ns {
                None => self.level <= self.most,
                Some(_) => self.level + 1.0 <= self.most.max(1.0),
            };
            if !room {
                break;
            }
            let piece = self.waiting.pop_front()?;
            self.level += 1.0;
            out.push(piece);
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small and positive
        let wait_ns = ((self.level - self.most).max(0.0) / self.per_s * 1e9) as u64 + 1;
        Some(self.refill_ns.map_or(now_ns + wait_ns, |every_ns| self.seen_ns + every_ns))
    }
}

/// A cap by slices of a millisecond, each with its own allowance, and a floor of one request in each: SPDK's rule.
#[derive(Debug)]
pub(super) struct Slices {
    waiting: VecDeque<Piece>,
    per_slice: f64,
    left: f64,
    slice: u64,
}

const SLICE_NS: u64 = 1_000_000;

impl Slices {
    pub(super) fn new(iops: u64) -> Self {
        let per_slice = (iops as f64 / 1000.0).max(1.0);
        Self { waiting: VecDeque::new(), per_slice, left: per_slice, slice: 0 }
    }
}

impl Rule for Slices {
    fn arrive(&mut self, _: u64, piece: Piece) {
        self.waiting.push_back(piece);
    }

    fn done(&mut self, _: u64, _: Piece, _: u64) {}

    fn pump(&mut self, now_ns: u64, out: &mut Vec<Piece>) -> Option<u64> {
        let slice = now_ns / SLICE_NS;
        if slice != self.slice {
            self.slice = slice;
            // What was taken too much is missing now; what was left over is gone.
            self.left = self.left.min(0.0) + self.per_slice;
        }
        while self.left > 0.0 {
            let piece = self.waiting.pop_front()?;
            self.left -= 1.0;
            out.push(piece);
        }
        Some((slice + 1) * SLICE_NS)
    }
}
