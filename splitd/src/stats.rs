//! Counters of devices as JSON, read from the files that their workers write: sums over all queues, quantiles of each
//! distribution, and the queues one by one. Knows nothing of what is counted.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use worker::clock::monotonic_ns;
use worker::counters::{self, Snapshot};

use crate::id::{self, DeviceId};
use crate::report::Row;

/// Of all devices, or of one. `at_ns` is when its counters were read, ns since the host's start (`CLOCK_MONOTONIC`): a rate
/// is what lies between two answers over what lies between their times, however long each took to ask for. A device that was
/// never connected has no counters.
#[must_use]
pub fn all(run_dir: &Path, rows: &[Row], only: Option<DeviceId>) -> Value {
    let chosen = rows.iter().filter(|row| only.is_none() || row.id() == only);
    let devices: Vec<_> = chosen.filter_map(|row| Some(device(run_dir, row.id()?, row))).collect();
    json!({ "devices": devices })
}

/// Requests that a device has answered so far; what a worker repeats after its predecessor's death is none.
pub(crate) fn requests_done(dir: &Path) -> u64 {
    let Ok(snapshot) = counters::read(&dir.join("counters")) else { return 0 };
    let counters = snapshot.queues.iter().flat_map(|queue| &queue.counters);
    let is_request = |name: &str| {
        name.ends_with("_requests") && !name.starts_with("replayed")
            || matches!(name, "tx_frames" | "rx_frames")
    };
    let requests = counters.filter(|(name, _)| is_request(name));
    requests.fold(0, |sum, (_, n)| sum.wrapping_add(*n))
}

fn device(run_dir: &Path, id: DeviceId, row: &Row) -> Value {
    let path = run_dir.join(id::dir_name(&id)).join("counters");
    let mut figures = Map::new();
    figures.insert("device".to_owned(), json!(row.device));
    figures.insert("domain".to_owned(), json!(row.domain));
    let snapshot = counters::read(&path);
    figures.insert("at_ns".to_owned(), json!(monotonic_ns()));
    match snapshot {
        Ok(snapshot) => {
            add_sums(&mut figures, &snapshot);
            let queues: Vec<_> = snapshot.queues.iter().map(|queue| json!(queue.counters)).collect();
            figures.insert("queues".to_owned(), json!(queues));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            figures.insert("error".to_owned(), json!(error.to_string()));
        }
    }
    Value::Object(figures)
}

/// All queues of a device taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sums and gauges by name.
    pub counters: BTreeMap<String, u64>,
    /// By name; see [`counters::QueueSnapshot`].
    pub histograms: BTreeMap<String, Vec<u64>>,
}

impl Totals {
    /// Of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut totals = Self::default();
        for queue in &snapshot.queues {
            for (name, n) in &queue.counters {
                let sum = totals.counters.entry(name.clone()).or_default();
                *sum = sum.wrapping_add(*n);
            }
            for (name, counted) in &queue.histograms {
                let buckets = totals.histograms.entry(name.clone());
                let buckets = buckets.or_insert_with(|| vec![0; counters::BUCKETS]);
                buckets.iter_mut().zip(counted).for_each(|(sum, n)| *sum = sum.wrapping_add(*n));
            }
        }
        totals
    }

    /// What stands in a device's counters file; `None` if it has none.
    pub fn read(run_dir: &Path, id: DeviceId) -> std::io::Result<Option<Self>> {
        match counters::read(&run_dir.join(id::dir_name(&id)).join("counters")) {
            Ok(snapshot) => Ok(Some(Self::of(&snapshot))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn add_sums(figures: &mut Map<String, Value>, snapshot: &Snapshot) {
    let totals = Totals::of(snapshot);
    for (name, buckets) in &totals.histograms {
        for (quantile, percent) in [("p50", 50), ("p99", 99)] {
            if let Some(at_most) = quantile_at_most(buckets, percent) {
                figures.insert(format!("{name}_{quantile}"), json!(at_most));
            }
        }
    }
    figures.extend(totals.counters.into_iter().map(|(name, n)| (name, json!(n))));
    let without_zeros = |buckets: &[u64]| {
        let used = buckets.iter().rposition(|n| *n > 0).map_or(0, |at| at + 1);
        json!(buckets.get(..used))
    };
    let histograms: Map<_, _> =
        totals.histograms.iter().map(|(name, buckets)| (name.clone(), without_zeros(buckets))).collect();
    figures.insert("histograms".to_owned(), json!(histograms));
}

/// The last value of the bucket in which the quantile lies; `None` if nothing was counted.
pub(crate) fn quantile_at_most(buckets: &[u64], percent: u128) -> Option<u64> {
    let total: u128 = buckets.iter().map(|n| u128::from(*n)).sum();
    let mut seen = 0;
    let bucket = buckets.iter().position(|n| {
        seen += u128::from(*n);
        seen > 0 && seen * 100 >= total * percent
    })?;
    let next = u32::try_from(bucket).ok()? + 1;
    Some(1_u64.checked_shl(next).map_or(u64::MAX, |end| end - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A quantile is told by the end of its bucket: never better than it was.
    #[test]
    fn quantiles() {
        let mut buckets = [0; counters::BUCKETS];
        assert_eq!(quantile_at_most(&buckets, 50), None);
        buckets[10] = 98;
        buckets[20] = 2;
        assert_eq!(quantile_at_most(&buckets, 50), Some(2047));
        assert_eq!(quantile_at_most(&buckets, 98), Some(2047));
        assert_eq!(quantile_at_most(&buckets, 99), Some((1 << 21) - 1));
        buckets = [0; counters::BUCKETS];
        buckets[63] = u64::MAX;
        assert_eq!(quantile_at_most(&buckets, 50), Some(u64::MAX));
    }
}
