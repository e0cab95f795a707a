//! The result of a benchmark: rows, ratios, a table for people and a versioned JSON object for programs. Knows nothing of
//! how a row was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::rows::Row;
use crate::stats::{Ratio, geometric_mean, median, ratio_of_pairs};

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report<R> {
    /// Of this format.
    pub version: u32,
    /// `block` or `net`.
    pub kind: &'static str,
    /// `sim` or `lab`.
    #[serde(rename = "where")]
    pub place: String,
    /// Processor, cores, kernel.
    pub machine: String,
    /// Every measurement, in the order taken.
    pub rows: Vec<R>,
    /// Per case, `splitd/OTHER` by what was done in a second.
    pub ratios: BTreeMap<String, BTreeMap<String, Ratio>>,
    /// Per case, `splitd/OTHER` by CPU time for the same work (below 1 is cheaper).
    pub cpu_ratios: BTreeMap<String, BTreeMap<String, Ratio>>,
}

impl<R: Row> Report<R> {
    /// Ratios of `splitd` to everybody else, for all cases that have enough pairs.
    #[must_use]
    pub fn new(place: &str, machine: String, rows: Vec<R>) -> Self {
        let ratios = compare(&rows, R::pace);
        let cpu_ratios = compare(&rows, R::cost);
        Self { version: 1, kind: R::KIND, place: place.to_owned(), machine, rows, ratios, cpu_ratios }
    }

    /// Geometric mean over the cases of `splitd/OTHER`, by what was done in a second.
    #[must_use]
    pub fn mean_against(&self, other: &str) -> Option<f64> {
        let name = format!("splitd/{other}");
        let medians: Vec<f64> = self.ratios.values().filter_map(|c| c.get(&name)).map(|r| r.median).collect();
        geometric_mean(&medians)
    }

    /// The table for people: medians per case and who, then the ratios with their intervals.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!("{}\n{:<18} {:<7}", self.machine, "case", "who");
        for column in R::COLUMNS {
            let _ = write!(out, " {:>width$}", column.name, width = column.width);
        }
        for ((case, who), rows) in group(&self.rows) {
            let _ = write!(out, "\n{case:<18} {who:<7}");
            for column in R::COLUMNS {
                let figures: Vec<f64> = rows.iter().filter_map(|r| (column.figure)(r)).collect();
                let figure = median(&figures)
                    .map_or("-".to_owned(), |f| format!("{f:.digits$}", digits = column.digits));
                let _ = write!(out, " {figure:>width$}", width = column.width);
            }
        }
        out.push('\n');
        for (case, against) in &self.ratios {
            for (name, r) in against {
                let cpu = self.cpu_ratios.get(case).and_then(|c| c.get(name));
                let cpu = cpu.map_or(String::new(), |c| format!(", CPU {} {:.2}", R::COST_PER, c.median));
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

fn group<R: Row>(rows: &[R]) -> BTreeMap<(String, String), Vec<&R>> {
    let mut groups: BTreeMap<(String, String), Vec<&R>> = BTreeMap::new();
    for row in rows {
        groups.entry((row.case().to_owned(), row.who().to_owned())).or_default().push(row);
    }
    groups
}

fn compare<R: Row>(rows: &[R], figure: fn(&R) -> f64) -> BTreeMap<String, BTreeMap<String, Ratio>> {
    let groups = group(rows);
    let mut out: BTreeMap<String, BTreeMap<String, Ratio>> = BTreeMap::new();
    for ((case, who), theirs) in &groups {
        let Some(ours) = groups.get(&(case.clone(), "splitd".to_owned())) else { continue };
        if who == "splitd" {
            continue;
        }
        let values = |rows: &[&R]| rows.iter().map(|r| figure(r)).collect::<Vec<_>>();
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
    use crate::rows::{BlockRow, NetRow};

    fn row(who: &str, iops: f64) -> BlockRow {
        let (case, who) = ("randread-4k-qd32".to_owned(), who.to_owned());
        BlockRow { case, who, iops, mib_s: iops / 256.0, p50_us: 10.0, p99_us: 20.0, cpu_us_per_io: 2.0 }
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

    /// Streams are compared by bits, small packets by their number, and a figure that was not taken is no zero.
    #[test]
    fn networks_are_compared_by_what_the_case_is_about() {
        let row = |case: &str, who: &str, gbit_s, kpps| NetRow {
            case: case.to_owned(),
            who: who.to_owned(),
            gbit_s,
            kpps,
            cpu_us_per_mib: 100.0,
        };
        let pair = |_| {
            [
                row("tcp-in", "splitd", 2.0, None),
                row("tcp-in", "kernel", 1.0, None),
                row("udp-64", "splitd", 0.1, Some(30.0)),
                row("udp-64", "kernel", 0.1, Some(10.0)),
            ]
        };
        let report = Report::new("lab", String::new(), (0..8).flat_map(pair).collect());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["kind"], "net");
        assert_eq!(json["rows"][0]["kpps"], serde_json::Value::Null);
        let median = |case: &str| report.ratios[case]["splitd/kernel"].median;
        assert!((median("tcp-in") - 2.0).abs() < 1e-9 && (median("udp-64") - 3.0).abs() < 1e-9);
        assert!(report.table().lines().any(|line| line.starts_with("tcp-in") && line.contains(" - ")));
    }
}
