//! What is measured: one row per measurement, of disks and of networks, by the names that scripts read. Knows nothing of how it was
//! measured.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A column of the table for people.
#[derive(Clone, Copy, Debug)]
pub struct Column<R> {
    /// Its head.
    pub name: &'static str,
    /// Characters.
    pub width: usize,
    /// Behind the point.
    pub digits: usize,
    /// `None` where it was not measured.
    pub figure: fn(&R) -> Option<f64>,
}

/// One measurement of one case.
pub trait Row: Serialize + DeserializeOwned + 'static {
    /// `kind` of a report.
    const KIND: &'static str;
    /// What CPU time is given per.
    const COST_PER: &'static str;
    /// All figures.
    const COLUMNS: &'static [Column<Self>];
    /// Which job.
    fn case(&self) -> &str;
    /// What served it: `splitd`, `kernel`, `qdisk`, `direct`.
    fn who(&self) -> &str;
    /// What was done in a second, by what the case is about.
    fn pace(&self) -> f64;
    /// CPU time for the same work.
    fn cost(&self) -> f64;
}

/// A disk's.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub struct BlockRow {
    /// `randread-4k-qd32`
    pub case: String,
    /// `splitd`, `kernel`, `qdisk`, `direct`
    pub who: String,
    /// Operations a second.
    pub iops: f64,
    /// Mebibytes a second.
    pub mib_s: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 99th percentile of latency.
    pub p99_us: f64,
    /// CPU time per operation, of the backend (or, for `direct`, of the program that did the I/O; in the lab, of dom0).
    pub cpu_us_per_io: f64,
}

impl Row for BlockRow {
    const KIND: &'static str = "block";
    const COST_PER: &'static str = "per I/O";
    const COLUMNS: &'static [Column<Self>] = &[
        Column { name: "IOPS", width: 9, digits: 0, figure: |r| Some(r.iops) },
        Column { name: "MiB/s", width: 8, digits: 1, figure: |r| Some(r.mib_s) },
        Column { name: "p50 us", width: 8, digits: 0, figure: |r| Some(r.p50_us) },
        Column { name: "p99 us", width: 8, digits: 0, figure: |r| Some(r.p99_us) },
        Column { name: "cpu us/IO", width: 9, digits: 1, figure: |r| Some(r.cpu_us_per_io) },
    ];

    fn case(&self) -> &str {
        &self.case
    }

    fn who(&self) -> &str {
        &self.who
    }

    fn pace(&self) -> f64 {
        self.iops
    }

    fn cost(&self) -> f64 {
        self.cpu_us_per_io
    }
}

/// A network interface's.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub struct NetRow {
    /// `tcp-in`: to the guest
    pub case: String,
    /// `splitd`, `kernel`, `direct`
    pub who: String,
    /// Of payload.
    pub gbit_s: f64,
    /// Thousands of packets (or of requests with their answers) a second, where the case is about those.
    pub kpps: Option<f64>,
    /// CPU time per mebibyte of payload, of the backend (in the lab, of dom0).
    pub cpu_us_per_mib: f64,
}

impl Row for NetRow {
    const KIND: &'static str = "net";
    const COST_PER: &'static str = "per MiB";
    const COLUMNS: &'static [Column<Self>] = &[
        Column { name: "Gbit/s", width: 8, digits: 3, figure: |r| Some(r.gbit_s) },
        Column { name: "kpps", width: 8, digits: 2, figure: |r| r.kpps },
        Column { name: "cpu us/MiB", width: 11, digits: 0, figure: |r| Some(r.cpu_us_per_mib) },
    ];

    fn case(&self) -> &str {
        &self.case
    }

    fn who(&self) -> &str {
        &self.who
    }

    fn pace(&self) -> f64 {
        self.kpps.unwrap_or(self.gbit_s)
    }

    fn cost(&self) -> f64 {
        self.cpu_us_per_mib
    }
}
