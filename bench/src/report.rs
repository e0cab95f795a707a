//! The result of a benchmark: rows, ratios, a table for people and a versioned JSON object for programs. Knows nothing of
//! how a row was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::stats::{Ratio, geometric_mean, median, ratio_of_pairs};

/// One measurement of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which job: `randread-4k-qd32`.
    pub case: String,
    /// What served it: `splitd`, `kernel`, `qdisk`, `direct`.
    pub who: String,
    /// Operations a second.
    pub iops: f64,
    /// Mebibytes a second.
    pub mib_s: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 99th percentile of latency.
    pub p99_us: f64,
    /// CPU time per operation, of the backend (or, for `direct`, of the program that did the I/O).
    pub cpu_us_per_io: f64,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of this format.
    pub version: u32,
    /// `block`.
    pub kind: &'static str,
    /// `sim` or `lab`.
    #[serde(rename = "where")]
    pub place: String,
    /// Processor, cores, kernel.
    pub machine: String,
    /// Every measurement, in the order taken.
    pub rows: Vec<Row>,
    /// Per case, `splitd/OTHER` by operations a second.
    pub ratios: BTreeMap<String, BTreeMap<String, Ratio>>,
    /// Per case, `splitd/OTHER` by CPU time per operation (below 1 is cheaper).
    pub cpu_ratios: BTreeMap<String, BTreeMap<String, Ratio>>,
}

impl Report {
    /// Ratios of `splitd` to everybody else, for all cases that have enough pairs.
    #[must_use]
    pub fn new(place: &str, machine: String, rows: Vec<Row>) -> Self {
        let ratios = compare(&rows, |r| r.iops);
        let cpu_ratios = compare(&rows, |r| r.cpu_us_per_io);
        Self { version: 1, kind: "block", place: place.to_owned(), machine, rows, ratios, cpu_ratios }
    }

    /// Geometric mean over the cases of `splitd/OTHER`, by operations a second.
    #[must_use]
    pub fn mean_against(&self, other: &str) -> Option<f64> {
        let name = format!("splitd/{other}");
        let medians: Vec<f64> = self.ratios.values().filter_map(|c| c.get(&name)).map(|r| r.median).collect();
        geometric_mean(&medians)
    }

    /// The table for people: medians per case and who, then the ratios with their intervals.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "{}\n{:<18} {:<7} {:>9} {:>8} {:>8} {:>8} {:>9}\n",
            self.machine, "case", "who", "IOPS", "MiB/s", "p50 us", "p99 us", "cpu us/IO"
        );
        for ((case, who), rows) in group(&self.rows) {
            let m = |f: fn(&Row) -> f64| {
                median(&rows.iter().map(|r| f(r)).collect::<Vec<_>>()).unwrap_or(f64::NAN)
            };
            let _ = writeln!(
                out,
                "{case:<18} {who:<7} {:>9.0} {:>8.1} {:>8.0} {:>8.0} {:>9.1}",
                m(|r| r.iops),
                m(|r| r.mib_s),
                m(|r| r.p50_us),
                m(|r| r.p99_us),
                m(|r| r.cpu_us_per_io)
            );
        }
        for (case, against) in &self.ratios {
            for (name, r) in against {
                let cpu = self.cpu_ratios.get(case).and_then(|c| c.get(name));
                let cpu = cpu.map_or(String::new(), |c| format!(", CPU per I/O {:.2}", c.median));
                let _ = writeln!(
                    out,
                    "{case:<18} {name:<15} {:.2} × ({:.2} to {:.2}, {} pairs){cpu}",
                    r.median, r.low, r.high, r.pairs
                );
            }
        }
        out
    }
}

fn group(rows: &[Row]) -> BTreeMap<(String, String), Vec<&Row>> {
    let mut groups: BTreeMap<(String, String), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        groups.entry((row.case.clone(), row.who.clone())).or_default().push(row);
    }
    groups
}

fn compare(rows: &[Row], figure: fn(&Row) -> f64) -> BTreeMap<String, BTreeMap<String, Ratio>> {
    let groups = group(rows);
    let mut out: BTreeMap<String, BTreeMap<String, Ratio>> = BTreeMap::new();
    for ((case, who), theirs) in &groups {
        let Some(ours) = groups.get(&(case.clone(), "splitd".to_owned())) else { continue };
        if who == "splitd" {
            continue;
        }
        let values = |rows: &[&Row]| rows.iter().map(|r| figure(r)).collect::<Vec<_>>();
        // Cases with too few pairs have rows but no ratio: nothing is claimed of them.
        if let Ok(ratio) = ratio_of_pairs(&values(ours), &values(theirs)) {
            out.entry(case.clone()).or_default().insert(format!("splitd/{who}"), ratio);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(who: &str, iops: f64) -> Row {
        let (case, who) = ("randread-4k-qd32".to_owned(), who.to_owned());
        Row { case, who, iops, mib_s: iops / 256.0, p50_us: 10.0, p99_us: 20.0, cpu_us_per_io: 2.0 }
    }

    /// The JSON form is an interface: version, kind, where, rows and ratios by the names that scripts read.
    #[test]
    fn json_has_the_documented_shape() {
        let rows = (0..8).flat_map(|_| [row("splitd", 1200.0), row("kernel", 1000.0)]).collect();
        let report = Report::new("lab", "machine".to_owned(), rows);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (json["version"].as_u64(), json["kind"].as_str(), json["where"].as_str()),
            (Some(1), Some("block"), Some("lab"))
        );
        assert!(
            (json["ratios"]["randread-4k-qd32"]["splitd/kernel"]["median"].as_f64().unwrap() - 1.2).abs()
                < 1e-9
        );
        assert_eq!(json["rows"][0]["cpu_us_per_io"].as_f64(), Some(2.0));
        assert!((report.mean_against("kernel").unwrap() - 1.2).abs() < 1e-9);
        assert_eq!(report.mean_against("qdisk"), None);
    }

    /// Three pairs are shown, never judged.
    #[test]
    fn too_few_pairs_give_rows_without_a_ratio() {
        let rows = (0..3).flat_map(|_| [row("splitd", 1.0), row("kernel", 1.0)]).collect();
        let report = Report::new("lab", String::new(), rows);
        assert!(report.ratios.is_empty() && report.table().contains("randread-4k-qd32"));
    }
}
