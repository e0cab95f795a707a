//! `splitctl top`: what each device did between two looks, with xentop's options and keys. Rates are made of the same JSON that
//! `list` and `stats` give. Knows nothing of how it is asked for; the terminal is `screen`'s.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::table;
use crate::stats::quantile_at_most;

/// One look: `list`'s devices and `stats`' figures, and when, in seconds.
#[derive(Clone, Debug)]
pub struct Look {
    at_s: f64,
    rows: Vec<Value>,
    figures: Vec<Value>,
}

/// What a disk did in between.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiskRate {
    /// `vbd/5/xvda`
    pub device: String,
    /// Its guest.
    pub domain: String,
    /// State and worker, or what is wrong.
    pub status: String,
    /// Reads a second.
    pub read_iops: f64,
    /// Writes, flushes and discards a second.
    pub write_iops: f64,
    /// Read.
    pub read_mib_s: f64,
    /// Written.
    pub write_mib_s: f64,
    /// Of reads and writes; `None` if there were none.
    pub latency_p50_ns: Option<u64>,
    /// Likewise.
    pub latency_p99_ns: Option<u64>,
    /// Requests taken and not answered yet.
    pub queue_depth: u64,
    /// Since the beginning: of the target, and of the guest's making.
    pub errors: u64,
}

/// What an interface did; tx is from the guest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VifRate {
    /// `vif/5/0`
    pub device: String,
    /// Its guest.
    pub domain: String,
    /// State and worker, or what is wrong.
    pub status: String,
    /// Frames a second.
    pub tx_frames_s: f64,
    /// Likewise.
    pub rx_frames_s: f64,
    /// Million bits a second.
    pub tx_mbit_s: f64,
    /// Likewise.
    pub rx_mbit_s: f64,
    /// Frames a second that went nowhere.
    pub dropped_s: f64,
}

/// All devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Of the output's form.
    pub version: u32,
    /// How long between the looks.
    pub seconds: f64,
    /// Disks.
    pub disks: Vec<DiskRate>,
    /// Network interfaces.
    pub interfaces: Vec<VifRate>,
}

/// What is shown, and how; xentop's options and keys set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Key B, option -x alone.
    pub disks: bool,
    /// Key N, option -n alone.
    pub interfaces: bool,
    /// Key S.
    pub sort: Sort,
    /// Rows scrolled past.
    pub skip: usize,
}

/// Order of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// As `list` has them.
    Device,
    /// Busiest first.
    Rate,
    /// Slowest first.
    Latency,
}

impl Sort {
    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Device => Self::Rate,
            Self::Rate => Self::Latency,
            Self::Latency => Self::Device,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Rate => "rate",
            Self::Latency => "latency",
        }
    }
}

impl Look {
    /// From what splitd answered.
    #[must_use]
    pub fn new(at_s: f64, list: &Value, stats: &Value) -> Self {
        Self { at_s, rows: devices(list), figures: devices(stats) }
    }

    fn figures(&self, device: &str) -> Option<&Value> {
        self.figures.iter().find(|figures| figures.get("device").and_then(Value::as_str) == Some(device))
    }
}

fn devices(answer: &Value) -> Vec<Value> {
    answer.get("devices").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn count(figures: &Value, name: &str) -> u64 {
    figures.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// One device at both looks.
pub(super) struct Pair<'a> {
    pub(super) before: &'a Value,
    pub(super) now: &'a Value,
    pub(super) seconds: f64,
}

impl Pair<'_> {
    /// Grown a second; a counter that a new connection started over has not.
    #[allow(clippy::cast_precision_loss)] // rates need no more than 53 bits
    pub(super) fn rate(&self, names: &[&str]) -> f64 {
        let grown = |name: &&str| count(self.now, name).saturating_sub(count(self.before, name)) as f64;
        names.iter().map(grown).sum::<f64>() / self.seconds
    }

    pub(super) fn quantile(&self, names: &[&str], percent: u128) -> Option<u64> {
        quantile_at_most(&self.buckets(names), percent)
    }

    /// What was counted in between.
    pub(super) fn buckets(&self, names: &[&str]) -> [u64; worker::counters::BUCKETS] {
        let mut buckets = [0_u64; worker::counters::BUCKETS];
        let bucket = |figures: &Value, name: &str, at: usize| {
            figures.pointer(&format!("/histograms/{name}/{at}")).and_then(Value::as_u64).unwrap_or_default()
        };
        for name in names {
            for (at, sum) in buckets.iter_mut().enumerate() {
                *sum += bucket(self.now, name, at).saturating_sub(bucket(self.before, name, at));
            }
        }
        buckets
    }
}

const MIB: f64 = 1_048_576.0;
const TIMES: [&str; 2] = ["read_ns", "write_ns"];
const DROPS: [&str; 7] = [
    "tx_refused_frames",
    "tx_unfit_frames",
    "tx_guarded_frames",
    "tx_tap_refused_frames",
    "rx_unfit_frames",
    "rx_late_frames",
    "rx_backlog_frames",
];

/// What happened between two looks. A device that was not there at the first has done nothing yet.
#[must_use]
pub fn rates(before: &Look, now: &Look) -> Rates {
    let seconds = (now.at_s - before.at_s).max(0.001);
    let mut rates = Rates { version: 1, seconds, disks: Vec::new(), interfaces: Vec::new() };
    for row in &now.rows {
        let device = table::word(row.get("device"));
        let figures = now.figures(&device).unwrap_or(&Value::Null);
        let pair = Pair { before: before.figures(&device).unwrap_or(figures), now: figures, seconds };
        let domain = row.get("domain").filter(|name| !name.is_null()).or(row.get("domid"));
        let (domain, status) = (table::word(domain), status(row));
        if row.get("kind").and_then(Value::as_str) == Some("vif") {
            rates.interfaces.push(VifRate {
                device,
                domain,
                status,
                tx_frames_s: pair.rate(&["tx_frames"]),
                rx_frames_s: pair.rate(&["rx_frames"]),
                tx_mbit_s: pair.rate(&["tx_bytes"]) * 8.0 / 1e6,
                rx_mbit_s: pair.rate(&["rx_bytes"]) * 8.0 / 1e6,
                dropped_s: pair.rate(&DROPS),
            });
        } else {
            rates.disks.push(DiskRate {
                device,
                domain,
                status,
                read_iops: pair.rate(&["read_requests"]),
                write_iops: pair.rate(&["write_requests", "flush_requests", "discard_requests"]),
                read_mib_s: pair.rate(&["read_bytes"]) / MIB,
                write_mib_s: pair.rate(&["write_bytes"]) / MIB,
                latency_p50_ns: pair.quantile(&TIMES, 50),
                latency_p99_ns: pair.quantile(&TIMES, 99),
                queue_depth: count(figures, "in_flight_now"),
                errors: count(figures, "io_errors") + count(figures, "rejected_requests"),
            });
        }
    }
    rates
}

fn status(row: &Value) -> String {
    if row.get("alarm").is_some_and(|alarm| !alarm.is_null()) {
        return "ALARM".to_owned();
    }
    if row.get("not_served").is_some_and(|reason| !reason.is_null()) {
        return "not served".to_owned();
    }
    format!("{} {}", table::word(row.get("state")), table::word(row.get("worker")))
}

impl Rates {
    /// In another order.
    pub fn sort(&mut self, by: Sort) {
        let disk_rate = |disk: &DiskRate| disk.read_iops + disk.write_iops;
        let vif_rate = |vif: &VifRate| vif.tx_frames_s + vif.rx_frames_s;
        match by {
            Sort::Device => {}
            Sort::Rate => self.disks.sort_by(|a, b| disk_rate(b).total_cmp(&disk_rate(a))),
            Sort::Latency => self.disks.sort_by_key(|disk| std::cmp::Reverse(disk.latency_p99_ns)),
        }
        if by != Sort::Device {
            self.interfaces.sort_by(|a, b| vif_rate(b).total_cmp(&vif_rate(a)));
        }
    }

    /// As text: a line about all, then a table for each kind.
    #[must_use]
    pub fn text(&self, view: View) -> String {
        let mut text = String::new();
        let iops = sum(self.disks.iter().map(|disk| disk.read_iops + disk.write_iops));
        let mib = sum(self.disks.iter().map(|disk| disk.read_mib_s + disk.write_mib_s));
        let mbit = sum(self.interfaces.iter().map(|vif| vif.tx_mbit_s + vif.rx_mbit_s));
        let _ = writeln!(
            text,
            "splitctl top  {} disks {iops:.0} IOPS {mib:.1} MiB/s  {} interfaces {mbit:.1} Mbit/s  {:.1} s  by {}",
            self.disks.len(),
            self.interfaces.len(),
            self.seconds,
            view.sort.word()
        );
        if view.disks && !self.disks.is_empty() {
            text.push_str(&columns(DISK_HEADS, self.disks.iter().skip(view.skip).map(DiskRate::cells)));
        }
        if view.interfaces && !self.interfaces.is_empty() {
            text.push_str(&columns(VIF_HEADS, self.interfaces.iter().skip(view.skip).map(VifRate::cells)));
        }
        text
    }
}

const DISK_HEADS: [&str; 11] =
    ["DEVICE", "DOMAIN", "STATE", "RD/s", "WR/s", "RDMiB/s", "WRMiB/s", "p50", "p99", "QD", "ERR"];
const VIF_HEADS: [&str; 8] =
    ["DEVICE", "DOMAIN", "STATE", "TXfr/s", "RXfr/s", "TXMbit/s", "RXMbit/s", "DROP/s"];

impl DiskRate {
    fn cells(&self) -> [String; 11] {
        let time = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), duration);
        [
            self.device.clone(),
            self.domain.clone(),
            self.status.clone(),
            format!("{:.0}", self.read_iops),
            format!("{:.0}", self.write_iops),
            format!("{:.1}", self.read_mib_s),
            format!("{:.1}", self.write_mib_s),
            time(self.latency_p50_ns),
            time(self.latency_p99_ns),
            self.queue_depth.to_string(),
            self.errors.to_string(),
        ]
    }
}

impl VifRate {
    fn cells(&self) -> [String; 8] {
        [
            self.device.clone(),
            self.domain.clone(),
            self.status.clone(),
            format!("{:.0}", self.tx_frames_s),
            format!("{:.0}", self.rx_frames_s),
            format!("{:.1}", self.tx_mbit_s),
            format!("{:.1}", self.rx_mbit_s),
            format!("{:.0}", self.dropped_s),
        ]
    }
}

/// Of nothing it is 0, not the standard library's -0.
fn sum(figures: impl Iterator<Item = f64>) -> f64 {
    figures.fold(0.0, |sum, figure| sum + figure)
}

/// Words to the left, figures to the right.
fn columns<const N: usize>(heads: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    const WORDS: usize = 3;
    let mut lines = vec![heads.map(str::to_owned)];
    lines.extend(rows);
    let mut text = String::new();
    let mut widths = [0; N];
    for line in &lines {
        widths.iter_mut().zip(line).for_each(|(width, cell)| *width = cell.chars().count().max(*width));
    }
    for line in &lines {
        let mut out = String::new();
        for (at, (cell, width)) in line.iter().zip(widths).enumerate() {
            let _ = if at < WORDS { write!(out, "{cell:width$} ") } else { write!(out, "{cell:>width$} ") };
        }
        let _ = writeln!(text, "{}", out.trim_end());
    }
    text
}

/// Two or three digits and a unit.
#[must_use]
pub fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}us", ns / 1_000),
        1_000_000..10_000_000 => format!("{}.{}ms", ns / 1_000_000, ns / 100_000 % 10),
        10_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        _ => format!("{}.{}s", ns / 1_000_000_000, ns / 100_000_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn look(at_s: f64, reads: u64, slow: u64) -> Look {
        let rows = json!({"devices": [
            {"device": "vbd/5/xvda", "kind": "vbd", "domid": 5, "domain": "web1", "state": 4, "worker": "serving"},
            {"device": "vif/5/0", "kind": "vif", "domid": 5, "domain": null, "state": 4, "worker": "serving"}]});
        let figures = json!({"devices": [
            {"device": "vbd/5/xvda", "read_requests": reads, "read_bytes": reads << 20, "in_flight_now": 3,
             "histograms": {"read_ns": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, reads, slow]}},
            {"device": "vif/5/0", "tx_bytes": reads * 125_000, "rx_late_frames": reads}]});
        Look::new(at_s, &rows, &figures)
    }

    /// Rates are of what was done in between, quantiles too: yesterday's slow requests are not today's.
    #[test]
    fn rates_are_differences() {
        let rates = rates(&look(10.0, 100, 50), &look(12.0, 300, 50));
        let disk = &rates.disks[0];
        assert_eq!((disk.read_iops, disk.read_mib_s, disk.queue_depth), (100.0, 100.0, 3));
        assert_eq!((disk.latency_p50_ns, disk.latency_p99_ns), (Some(2047), Some(2047)));
        assert_eq!((rates.interfaces[0].tx_mbit_s, rates.interfaces[0].dropped_s), (100.0, 100.0));
        assert_eq!(rates.interfaces[0].domain, "5");
    }

    /// A worker that counts other things starts over: that is no rate of minus a million.
    #[test]
    fn counters_that_start_over() {
        let disk = &rates(&look(10.0, 300, 0), &look(12.0, 100, 0)).disks[0];
        assert_eq!((disk.read_iops, disk.latency_p50_ns), (0.0, None));
    }

    /// A batch's lines are for awk as well as for eyes.
    #[test]
    fn text() {
        let view = View { disks: true, interfaces: true, sort: Sort::Device, skip: 0 };
        let text = rates(&look(10.0, 100, 0), &look(12.0, 300, 9)).text(view);
        let disk: Vec<_> = text.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(
            disk,
            ["vbd/5/xvda", "web1", "4", "serving", "100", "0", "100.0", "0.0", "2us", "4us", "3", "0"]
        );
        assert!(text.contains("TXMbit/s"), "{text}");
        let only_disks = View { interfaces: false, ..view };
        assert!(!rates(&look(1.0, 0, 0), &look(2.0, 0, 0)).text(only_disks).contains("vif"));
    }
}
