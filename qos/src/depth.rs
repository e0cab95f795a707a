//! How much a device is to have at a time: enough to keep it busy, little enough that nobody waits behind a queue. Measured, not
//! configured: the highest rate it has shown times the shortest time it took. Knows nothing of who is served.

use std::collections::VecDeque;

/// How long a measurement counts, ns.
const MEMORY_NS: u64 = 10_000_000_000;
/// Measurements kept.
const EPOCHS_MAX: usize = 2048;
/// More than the device needs, so that it never runs dry: as many times as its fill was off of late.
const GAIN_NOISE: f64 = 2.5;
const NOISE_BLEND: f64 = 0.01;
/// How often half of the depth is tried, which shows the device's own time again, ns.
const PROBE_NS: u64 = 5_000_000_000;
/// A slow device's takes several of its long epochs: so many pass between two. That is still within [`MEMORY_NS`].
const PROBE_EPOCHS_APART: u64 = 45;
/// The same after a probe that brought something.
const PROBE_AGAIN_NS: u64 = 200_000_000;
const LEAST_OPS: f64 = 2.0;
const MOST_OPS: f64 = 1024.0;
const FIRST_OPS: f64 = 4.0;
/// An epoch with fewer completions says nothing.
const LEAST_COMPLETIONS: u64 = 32;
/// Less full than that, a device has no queue to look behind: what it takes is its own time.
const QUEUELESS: f64 = 0.7;
/// More than any disk does between two looks.
const GROWTH_MAX: u64 = 1 << 50;
/// Longest probe.
const PROBE_EPOCHS: u32 = 100;
/// A device that is slower than that is measured as it is.
const LONGEST_EPOCH_NS: u64 = 200_000_000;

/// Sums over all disks of a device; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests begun.
    pub issued_ops: u64,
    /// Their cost, ns.
    pub issued_ns: u64,
    /// Requests ended.
    pub done_ops: u64,
    /// Their cost, ns.
    pub done_ns: u64,
    /// Time that they took, ns.
    pub latency_ns: u64,
}

impl Totals {
    /// Begun and not ended. Sums that are read one after the other may have more that ended.
    #[must_use]
    pub fn in_flight_ops(&self) -> f64 {
        let ops = self.issued_ops.wrapping_sub(self.done_ops);
        if ops > u64::MAX / 2 { 0.0 } else { to_f64(ops) }
    }

    /// What was added since. Sums that went backwards, or by more than can be, are not those of an honest worker: nothing.
    pub(crate) fn since(&self, last: &Self) -> Self {
        let grown = |now: u64, last: u64| now.wrapping_sub(last);
        let grown = Self {
            issued_ops: grown(self.issued_ops, last.issued_ops),
            issued_ns: grown(self.issued_ns, last.issued_ns),
            done_ops: grown(self.done_ops, last.done_ops),
            done_ns: grown(self.done_ns, last.done_ns),
            latency_ns: grown(self.latency_ns, last.latency_ns),
        };
        let all = [grown.issued_ops, grown.issued_ns, grown.done_ops, grown.done_ns, grown.latency_ns];
        if all.iter().any(|n| *n > GROWTH_MAX) { Self::default() } else { grown }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.issued_ops = self.issued_ops.wrapping_add(other.issued_ops);
        self.issued_ns = self.issued_ns.wrapping_add(other.issued_ns);
        self.done_ops = self.done_ops.wrapping_add(other.done_ops);
        self.done_ns = self.done_ns.wrapping_add(other.done_ns);
        self.latency_ns = self.latency_ns.wrapping_add(other.latency_ns);
    }
}

/// One measurement. Time is taken for each ns of work, or a change in what is asked would look like one of the device: a large
/// request takes longer than a small one.
#[derive(Clone, Copy, Debug)]
struct Measured {
    at_ns: u64,
    len_ns: u64,
    /// Work done in a second, s.
    work_per_s: f64,
    /// Time taken for each second of work: how many requests the device does at a time, and how long they queue.
    stretch: f64,
}

/// What the device is to have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Requests.
    pub ops: f64,
    /// Work, ns.
    pub work_ns: f64,
}

/// The control.
#[derive(Clone, Debug)]
pub struct Depth {
    window: Window,
    epochs: VecDeque<Measured>,
    last: Totals,
    last_ns: u64,
    probe_at_ns: u64,
    probing: bool,
    /// So many had been begun before this probe: until they have ended, what ends says nothing of it.
    drain_to_ops: u64,
    /// Epochs of this probe, after that; the last one's stretch, and what was under way at its end.
    probed: u32,
    probe_stretch: f64,
    probe_in_flight: f64,
    probe_gain: bool,
    /// How far its fill is off as a rule.
    noise: f64,
}

impl Default for Depth {
    fn default() -> Self {
        Self {
            window: Window { ops: FIRST_OPS, work_ns: 0.0 },
            epochs: VecDeque::new(),
            last: Totals::default(),
            last_ns: 0,
            probe_at_ns: 0,
            probing: false,
            drain_to_ops: 0,
            probed: 0,
            probe_stretch: f64::MAX,
            probe_in_flight: f64::MAX,
            probe_gain: false,
            noise: 0.2,
        }
    }
}

impl Depth {
    /// What the device is to have now.
    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    fn gain(&self) -> f64 {
        1.0 + GAIN_NOISE * self.noise
    }

    /// The most work a second that it did lately.
    #[must_use]
    pub fn most_per_s(&self) -> f64 {
        self.epochs.iter().map(|e| e.work_per_s).fold(0.0, f64::max) * 1e9
    }

    /// How full it is.
    #[must_use]
    pub fn level(&self, in_flight_ops: f64) -> f64 {
        in_flight_ops / self.window().ops
    }

    /// Half of what the device does, for a moment: without a queue it shows its own time. To be asked for where it was left to
    /// whoever came; it is done now and then by itself.
    pub fn probe(&mut self, totals: Totals) {
        (self.probing, self.drain_to_ops) = (true, totals.issued_ops);
        (self.probed, self.probe_gain) = (0, false);
        (self.probe_stretch, self.probe_in_flight) = (f64::MAX, f64::MAX);
    }

    /// A probe is under way.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.probing
    }

    /// Takes new sums; true at the end of an epoch.
    pub fn observe(&mut self, now_ns: u64, totals: Totals) -> bool {
        let done = totals.done_ops.wrapping_sub(self.last.done_ops);
        let time_ns = now_ns.saturating_sub(self.last_ns);
        if !self.probing {
            let off = (self.level(totals.in_flight_ops()) - 1.0).abs();
            self.noise += (off.min(0.6) - self.noise) * NOISE_BLEND;
        }
        if time_ns == 0 || done < LEAST_COMPLETIONS && time_ns < LONGEST_EPOCH_NS {
            return false;
        }
        let before = std::mem::replace(&mut self.last, totals);
        let started = std::mem::replace(&mut self.last_ns, now_ns) != 0;
        // Nothing done says nothing: a device that hangs is not one that got slow, or fast.
        if done == 0 || !started {
            return false;
        }
        let seconds = to_f64(time_ns) / 1e9;
        let work = to_f64(totals.done_ns.wrapping_sub(before.done_ns)).max(1.0);
        let took = to_f64(totals.latency_ns.wrapping_sub(before.latency_ns));
        let epoch = Measured {
            at_ns: now_ns,
            len_ns: time_ns,
            work_per_s: work / 1e9 / seconds,
            stretch: took / work,
        };
        self.window.work_ns = self.window.ops * work / to_f64(done);
        self.learn(now_ns, epoch, totals, to_f64(done));
        true
    }

    fn learn(&mut self, now_ns: u64, epoch: Measured, totals: Totals, done: f64) {
        let least = |epochs: &VecDeque<Measured>| epochs.iter().map(|e| e.stretch).fold(f64::MAX, f64::min);
        let before = least(&self.epochs);
        self.epochs.push_back(epoch);
        let old = |e: &Measured| now_ns.saturating_sub(e.at_ns) > MEMORY_NS;
        while self.epochs.front().is_some_and(old) || self.epochs.len() > EPOCHS_MAX {
            self.epochs.pop_front();
        }
        let most = self.most_per_s() / 1e9;
        let is_draining = self.drain_to_ops.wrapping_sub(totals.done_ops).cast_signed() > 0;
        if self.probing && is_draining {
            // A slow device with much under way takes many epochs to come to the end of it.
        } else if self.probing {
            // What ends first was begun when there was more. As long as it gets shorter, there still was.
            // What is as short as the shortest that is known is the device's own time again.
            let is_known = (epoch.stretch / before - 1.0).abs() < 0.1 && self.probed > 0;
            let in_flight = totals.in_flight_ops();
            // With half given out it falls by half of what is done: of a thousand in a queue that is little.
            let drains = self.probe_in_flight - in_flight > done * 0.25;
            let falls = epoch.stretch < self.probe_stretch * 0.95 || in_flight < self.probe_in_flight * 0.95;
            let falls = drains || falls && !is_known;
            (self.probe_stretch, self.probe_in_flight) = (epoch.stretch, in_flight);
            self.probed += 1;
            self.probing = falls && self.probed < PROBE_EPOCHS;
            // It showed something new: there may be more of that.
            self.probe_gain |= epoch.stretch < before * 0.9;
            let apart_ns = PROBE_NS.max(epoch.len_ns * PROBE_EPOCHS_APART);
            self.probe_at_ns = now_ns + if self.probe_gain { PROBE_AGAIN_NS } else { apart_ns };
        } else if now_ns >= self.probe_at_ns {
            // By Little's law, what it had at a time.
            let fill = epoch.stretch * epoch.work_per_s / self.window.ops;
            if fill >= QUEUELESS {
                self.probe(totals);
            } else {
                self.probe_at_ns = now_ns + PROBE_NS;
            }
        }
        self.window.ops = (self.gain() * most * least(&self.epochs)).clamp(LEAST_OPS, MOST_OPS);
    }
}

#[allow(clippy::cast_precision_loss)] // rates, not accounts
pub(crate) fn to_f64(n: u64) -> f64 {
    n as f64
}
