//! `splitctl trace`: where the time of a disk's requests went between two looks, stage by stage. What a request waits in the ring
//! before it is taken is the guest's to know. Knows nothing of how it is asked for.

use anyhow::bail;
use serde::Serialize;
use serde_json::Value;

use super::top::{Pair, duration};

/// (name, figures' prefix, what it is)
const STAGES: [(&str, &str, &str); 4] = [
    ("queued", "queued", "for a buffer, or behind a barrier"),
    ("copy in", "copy_in", "a write's data from the guest"),
    ("device", "device", "with the kernel and the disk"),
    ("copy out", "copy_out", "a read's data to the guest, and the answer"),
];

/// One stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// `queued`, `copy in`, `device`, `copy out`
    pub stage: &'static str,
    /// Of all stages' time.
    pub share_percent: f64,
    /// Of one request.
    pub mean_ns: u64,
    /// At most, by powers of two.
    pub p50_ns: Option<u64>,
    /// Likewise.
    pub p99_ns: Option<u64>,
}

/// A disk between two looks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trace {
    /// Of the output's form.
    pub version: u32,
    /// Which.
    pub device: String,
    /// How long it was watched.
    pub seconds: f64,
    /// Requests that went to the disk and were answered.
    pub requests: u64,
    /// In a request's order.
    pub stages: Vec<Stage>,
}

/// From two answers of `stats` for one disk.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // times of seconds at most
pub fn between(before: &Value, now: &Value, seconds: f64) -> anyhow::Result<Trace> {
    let figures = |answer: &Value| answer.pointer("/devices/0").cloned().unwrap_or_default();
    let (before, now) = (figures(before), figures(now));
    let device = super::table::word(now.get("device"));
    if now.get("device_time_ns").is_none() {
        bail!(
            "{device}: its worker does not book stages: only disks have them, and workers that were started after an upgrade"
        );
    }
    let pair = Pair { before: &before, now: &now, seconds };
    let requests: u64 = pair.buckets(&["device_ns"]).iter().sum();
    let time_ns = |prefix: &str| pair.rate(&[&format!("{prefix}_time_ns")]) * seconds;
    let total_ns: f64 = STAGES.iter().map(|(_, prefix, _)| time_ns(prefix)).sum();
    let stages = STAGES.map(|(stage, prefix, _)| {
        let histogram = format!("{prefix}_ns");
        Stage {
            stage,
            share_percent: if total_ns > 0.0 { time_ns(prefix) * 100.0 / total_ns } else { 0.0 },
            mean_ns: if requests > 0 { (time_ns(prefix) / requests as f64) as u64 } else { 0 },
            p50_ns: pair.quantile(&[&histogram], 50),
            p99_ns: pair.quantile(&[&histogram], 99),
        }
    });
    Ok(Trace { version: 1, device, seconds, requests, stages: stages.into() })
}

impl Trace {
    /// As a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}: {} requests in {:.1} s\n", self.device, self.requests, self.seconds);
        if self.requests == 0 {
            return text;
        }
        text.push_str("STAGE      SHARE   MEAN    p50    p99  WAITING\n");
        let time = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), duration);
        for (stage, (_, _, what)) in self.stages.iter().zip(STAGES) {
            text.push_str(&format!(
                "{:<9} {:>5.1}% {:>6} {:>6} {:>6}  {what}\n",
                stage.stage,
                stage.share_percent,
                duration(stage.mean_ns),
                time(stage.p50_ns),
                time(stage.p99_ns)
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stats(requests: u64, device_ns: u64) -> Value {
        let mut buckets = vec![0; 20];
        buckets[15] = requests;
        json!({"devices": [{"device": "vbd/5/xvda", "queued_time_ns": 0, "copy_in_time_ns": requests * 1_000,
            "device_time_ns": requests * device_ns, "copy_out_time_ns": requests * 1_000,
            "histograms": {"device_ns": buckets}}]})
    }

    /// Only what happened in between counts, and shares add up.
    #[test]
    fn stages_of_what_happened_in_between() {
        let trace = between(&stats(10, 38_000), &stats(110, 38_000), 2.0).unwrap();
        assert_eq!(trace.requests, 100);
        let device = &trace.stages[2];
        assert_eq!((device.mean_ns, device.share_percent, device.p99_ns), (38_000, 95.0, Some(65_535)));
        assert_eq!(trace.stages.iter().map(|s| s.share_percent).sum::<f64>(), 100.0);
        let text = trace.text();
        assert!(text.contains("device     95.0%   38us   65us   65us"), "{text}");
    }

    /// An idle disk, and a device that has no stages.
    #[test]
    fn nothing_to_tell() {
        let idle = between(&stats(10, 1), &stats(10, 1), 2.0).unwrap();
        assert_eq!(idle.text(), "vbd/5/xvda: 0 requests in 2.0 s\n");
        let vif = json!({"devices": [{"device": "vif/5/0", "tx_frames": 1}]});
        assert!(between(&vif, &vif, 1.0).unwrap_err().to_string().contains("only disks"));
    }
}
