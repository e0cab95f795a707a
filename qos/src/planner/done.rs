//! What a device does: without the noise of a few milliseconds, and with a change of the device itself seen at once. Knows nothing of
//! what is given out.

use crate::depth::to_f64;

/// Weight of the latest look, and of one that is a quarter off: the device changed.
const BLEND: f64 = 0.03;
const CHANGED_BLEND: f64 = 0.8;
/// So many completions tell a rate, or as many as there are in that time, ns.
const LEAST_DONE: u64 = 8;
const LONGEST_LOOK_NS: u64 = 200_000_000;

/// What was done of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    /// Work a second.
    pub(super) per_s: f64,
    looks: u64,
    /// Since the last look: time, work and requests done.
    seen: [u64; 3],
}

impl Done {
    /// Something was learnt.
    pub(super) fn is_known(&self) -> bool {
        self.looks > 0
    }

    /// Few completions say little of a rate, and one between two plans far too much: a slow device is looked at for longer.
    pub(super) fn count(&mut self, [time_ns, done_ns, done_ops]: [u64; 3], is_probing: bool) {
        let seen = &mut self.seen;
        *seen = [seen[0] + time_ns, seen[1] + done_ns, seen[2] + done_ops];
        let [time_ns, done_ns, done_ops] = *seen;
        if done_ops >= LEAST_DONE || done_ops > 0 && time_ns >= LONGEST_LOOK_NS {
            *seen = [0; 3];
            // Half is given out: what is done says nothing of the device.
            if !is_probing || !self.is_known() {
                self.learn(to_f64(done_ns) * 1e9 / to_f64(time_ns));
            }
        }
    }

    fn learn(&mut self, latest: f64) {
        self.looks += 1;
        let off = (latest - self.per_s).abs() > self.per_s * 0.25;
        let blend = if off { CHANGED_BLEND } else { BLEND };
        self.per_s += (latest - self.per_s) * f64::max(blend, 1.0 / to_f64(self.looks));
    }
}
