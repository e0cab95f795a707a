//! A row for each case, rule and figure, or for what is not measured here with the reason; and the report of them all. Knows nothing
//! of how any is measured.

use std::fmt::Write;

use serde::Serialize;

use super::goals::{Found, GOALS};

/// The product, among the rules.
pub(super) const OURS: &str = "splitd";

/// One case by one rule.
#[derive(Clone, Debug, Serialize)]
pub struct QosRow {
    /// `share-100`
    pub case: String,
    /// `splitd`, `fifo`, …
    pub who: String,
    /// What is measured.
    pub metric: String,
    /// Its value.
    pub value: Option<f64>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct QosReport {
    version: u32,
    kind: &'static str,
    machine: String,
    metrics: serde_json::Map<String, serde_json::Value>,
    goals: Vec<Found>,
    rows: Vec<QosRow>,
}

#[derive(Debug, Default)]
pub(super) struct Rows(Vec<QosRow>);

impl Rows {
    pub(super) fn add(&mut self, case: &str, who: &str, metric: &str, value: f64) {
        let known = value.is_finite();
        self.0.push(QosRow {
            case: case.into(),
            who: who.into(),
            metric: metric.into(),
            value: known.then_some(value),
            reason: (!known).then(|| "did not happen within the run".to_owned()),
        });
    }

    /// The product's.
    pub(super) fn ours(&mut self, case: &str, metric: &str, value: f64) {
        self.add(case, OURS, metric, value);
    }

    pub(super) fn absent(&mut self, case: &str, metric: &str, reason: &str) {
        let (case, who, metric) = (case.into(), OURS.into(), metric.into());
        self.0.push(QosRow { case, who, metric, value: None, reason: Some(reason.to_owned()) });
    }

    fn found(&self) -> Vec<Found> {
        let found = |&(metric, bound): &(&'static str, super::goals::Bound)| {
            let ours = || self.0.iter().filter(|row| row.who == OURS && row.metric == metric);
            let reason = ours().find_map(|row| row.reason.clone());
            let worst = ours().filter_map(|row| row.value).reduce(|a, b| bound.worse(a, b));
            // One case without a figure is none for all.
            let value = worst.filter(|_| reason.is_none());
            Found::of(metric, bound, value, reason)
        };
        GOALS.iter().map(found).collect()
    }

    pub(super) fn report(self, machine: String) -> QosReport {
        let goals = self.found();
        let metrics = goals.iter().map(|found| (found.metric.to_owned(), found.value.into())).collect();
        QosReport { version: 2, kind: "qos", machine, metrics, goals, rows: self.0 }
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.3}"))
}

impl QosReport {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}\n{:16} {:14} {:30} {:>12}\n", self.machine, "case", "by", "", "");
        for row in &self.rows {
            let (value, reason) = (number(row.value), row.reason.as_deref().unwrap_or_default());
            let line = format!("{:16} {:14} {:30} {value:>12}  {reason}", row.case, row.who, row.metric);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let _ = writeln!(text, "\n{:32} {:>12} {:>10}", "splitd's worst", "", "goal");
        for found in &self.goals {
            let met = match (found.met, found.value) {
                (Some(true), _) => "met",
                (Some(false), _) => "MISSED",
                (None, Some(_)) => "",
                (None, None) => found.reason.as_deref().unwrap_or("not measured"),
            };
            let goal = found.goal.as_deref().unwrap_or("-");
            let line = format!("{:32} {:>12} {goal:>10}  {met}", found.metric, number(found.value));
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of several cases the worst is held against the goal, others' rules do not count, and what was not measured is neither met nor
    /// missed, but says why.
    #[test]
    fn the_worst_counts() {
        let mut rows = Rows::default();
        rows.ours("share-2", "share_error_pct", 0.1);
        rows.ours("share-10", "share_error_pct", 0.7);
        rows.add("share-2", "fifo", "share_error_pct", 3000.0);
        rows.ours("share-2", "throughput_pct", 99.5);
        rows.absent("net", "net_cap_error_pct", "needs a card");
        rows.ours("cold", "cold_start_ms", f64::INFINITY);
        let report = rows.report(String::new());
        let found = |metric| report.goals.iter().find(|found| found.metric == metric).unwrap();
        assert_eq!((found("share_error_pct").value, found("share_error_pct").met), (Some(0.7), Some(false)));
        assert_eq!(found("throughput_pct").met, Some(true));
        for metric in ["net_cap_error_pct", "cold_start_ms"] {
            assert!(found(metric).met.is_none() && found(metric).reason.is_some());
            assert!(report.metrics[metric].is_null());
        }
        assert!(report.table().contains("needs a card"));
    }
}
