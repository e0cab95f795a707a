//! fio as a yardstick: the jobs that are compared, its command line, and a total parser of the JSON it prints. Knows nothing
//! of who serves the file or device it is pointed at.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::rows::BlockRow;

/// One access pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name in tables and in `bench/fio/NAME.fio`.
    pub name: &'static str,
    /// fio's `rw=`.
    pub rw: &'static str,
    /// Percent of reads, for a mixed pattern.
    pub read_percent: u8,
    /// Bytes an operation.
    pub block_len_bytes: u32,
    /// Operations in flight.
    pub depth: u32,
}

/// The jobs of every block benchmark.
pub const JOBS: [Job; 7] = [
    Job { name: "randread-4k-qd1", rw: "randread", read_percent: 100, block_len_bytes: 4096, depth: 1 },
    Job { name: "randwrite-4k-qd1", rw: "randwrite", read_percent: 0, block_len_bytes: 4096, depth: 1 },
    Job { name: "randread-4k-qd32", rw: "randread", read_percent: 100, block_len_bytes: 4096, depth: 32 },
    Job { name: "randwrite-4k-qd32", rw: "randwrite", read_percent: 0, block_len_bytes: 4096, depth: 32 },
    Job { name: "read-128k-qd8", rw: "read", read_percent: 100, block_len_bytes: 131_072, depth: 8 },
    Job { name: "write-128k-qd8", rw: "write", read_percent: 0, block_len_bytes: 131_072, depth: 8 },
    Job { name: "randrw-16k-qd16", rw: "randrw", read_percent: 70, block_len_bytes: 16_384, depth: 16 },
];

/// Runs `job` with fio's io_uring engine on `file`, `operations` of them, past the page cache.
pub fn run_direct(job: Job, file: &Path, operations: u64) -> Result<BlockRow> {
    let output = Command::new("fio")
        .args(["--output-format=json", "--ioengine=io_uring", "--direct=1", "--thread=1"])
        .arg(format!("--name={}", job.name))
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--rw={}", job.rw))
        .arg(format!("--rwmixread={}", job.read_percent))
        .arg(format!("--bs={}", job.block_len_bytes))
        .arg(format!("--iodepth={}", job.depth))
        .arg(format!("--io_size={}", operations * u64::from(job.block_len_bytes)))
        .args(["--norandommap=1", "--randrepeat=0", "--runtime=60"])
        .output()
        .context("cannot run fio; install it with `apt-get install fio`")?;
    if !output.status.success() {
        bail!(
            "fio {} on {}: {}: {}",
            job.name,
            file.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    parse(&String::from_utf8_lossy(&output.stdout), job.name, "direct")
}

/// Makes a row of fio's `--output-format=json`, reads and writes added up.
pub fn parse(text: &str, case: &str, who: &str) -> Result<BlockRow> {
    // fio prints warnings before the object.
    let start = text.find('{').context("fio printed no JSON object")?;
    let json: Value = serde_json::from_str(&text[start..]).context("fio's JSON")?;
    let job = &json["jobs"][0];
    if let Some(error) = job["error"].as_i64().filter(|e| *e != 0) {
        bail!("fio {case}: error {error}");
    }
    let side = |op: &str, key: &str| job[op][key].as_f64().unwrap_or(0.0);
    let (reads, writes) = (side("read", "total_ios"), side("write", "total_ios"));
    let total = reads + writes;
    if total <= 0.0 {
        bail!("fio {case}: no operation was done");
    }
    let runtime_ms = job["job_runtime"].as_f64().unwrap_or(0.0);
    let cpu_percent = job["usr_cpu"].as_f64().unwrap_or(0.0) + job["sys_cpu"].as_f64().unwrap_or(0.0);
    let busier = if reads >= writes { "read" } else { "write" };
    let percentile = |p: &str| job[busier]["clat_ns"]["percentile"][p].as_f64().unwrap_or(f64::NAN) / 1000.0;
    Ok(BlockRow {
        case: case.to_owned(),
        who: who.to_owned(),
        iops: side("read", "iops") + side("write", "iops"),
        mib_s: (side("read", "bw_bytes") + side("write", "bw_bytes")) / 1_048_576.0,
        p50_us: percentile("50.000000"),
        p99_us: percentile("99.000000"),
        cpu_us_per_io: cpu_percent / 100.0 * runtime_ms * 1000.0 / total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"note: something
{"jobs":[{"error":0,"job_runtime":2000,"usr_cpu":5.0,"sys_cpu":15.0,
 "read":{"total_ios":700,"iops":350.0,"bw_bytes":5734400,"clat_ns":{"percentile":{"50.000000":1000,"99.000000":9000}}},
 "write":{"total_ios":300,"iops":150.0,"bw_bytes":2457600,"clat_ns":{"percentile":{}}}}]}"#;

    /// Reads and writes of a mixed job add up; CPU is the job's own time divided by its operations.
    #[test]
    fn a_mixed_job_adds_up() {
        let row = parse(SAMPLE, "randrw-16k-qd16", "direct").unwrap();
        assert!((row.iops - 500.0).abs() < 1e-9 && (row.cpu_us_per_io - 400.0).abs() < 1e-9);
        assert!((row.p50_us - 1.0).abs() < 1e-9 && (row.p99_us - 9.0).abs() < 1e-9);
    }

    /// A failed or empty run must never become a figure.
    #[test]
    fn errors_and_empty_runs_are_refused() {
        assert!(parse("no json", "x", "direct").is_err());
        assert!(parse(r#"{"jobs":[{"error":5}]}"#, "x", "direct").is_err());
        assert!(parse(r#"{"jobs":[{"error":0,"read":{"total_ios":0}}]}"#, "x", "direct").is_err());
    }
}
