//! The benchmarks' command line: measures, prints a table, writes JSON. Knows nothing of how a side works.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bench::fio::{self, JOBS, Job};
use bench::report::Report;
use bench::rows::{BlockRow, NetRow, Row};
use bench::sim;
use clap::{Parser, Subcommand, ValueEnum};
use worker::message::TransferMode;

#[derive(Debug, Parser)]
#[command(about = "Side-by-side benchmarks: ratios of alternating pairs")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A blkback worker on the simulated host beside fio's io_uring engine on the same file
    Block {
        /// The worker's program
        #[arg(long)]
        blkback: PathBuf,
        /// Where the file is made: a file system that does O_DIRECT
        #[arg(long)]
        dir: PathBuf,
        /// Alternating pairs of each case; an interval needs 5
        #[arg(long, default_value_t = 8)]
        pairs: u32,
        /// Only cases whose name contains this
        #[arg(long, default_value = "")]
        only: String,
        /// How the worker moves data
        #[arg(long, value_enum, default_value_t = Mode::Copy)]
        mode: Mode,
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Shares, caps and isolation on a simulated device, beside other rules; and what a decision costs
    Qos {
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// The table of rows measured elsewhere: one JSON row a line on standard input
    Rows {
        /// What was measured
        #[arg(long, value_enum, default_value_t = Kind::Block)]
        kind: Kind,
        /// Where they come from
        #[arg(long, default_value = "lab")]
        place: String,
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Block,
    Net,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Copy,
    Persistent,
}

fn main() -> Result<()> {
    match Args::parse().what {
        What::Block { blkback, dir, pairs, only, mode, json } => {
            let mode = match mode {
                Mode::Copy => TransferMode::Copy,
                Mode::Persistent => TransferMode::Persistent,
            };
            let rows = block(&blkback, &dir, pairs, &only, mode)?;
            finish(&Report::new("sim", machine(), rows), json.as_deref())
        }
        What::Qos { json } => {
            let report = bench::qos::measure(machine());
            print!("{}", report.table());
            write_json(&report, json.as_deref())
        }
        What::Rows { kind: Kind::Block, place, json } => {
            finish(&Report::<BlockRow>::new(&place, machine(), given()?), json.as_deref())
        }
        What::Rows { kind: Kind::Net, place, json } => {
            finish(&Report::<NetRow>::new(&place, machine(), given()?), json.as_deref())
        }
    }
}

/// Rows on standard input.
fn given<R: Row>() -> Result<Vec<R>> {
    let lines = std::io::stdin().lines();
    let rows = lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<Result<_>>();
    rows.context("rows on standard input")
}

fn block(blkback: &Path, dir: &Path, pairs: u32, only: &str, mode: TransferMode) -> Result<Vec<BlockRow>> {
    let scratch = tempfile::Builder::new().prefix("splitd-bench").tempdir_in(dir)?;
    let target = sim::make_target(scratch.path(), 256 << 20)?;
    let mut rows = Vec::new();
    for job in JOBS.into_iter().filter(|j| j.name.contains(only)) {
        let operations = operations(job);
        for pair in 0..pairs {
            let mut bed = sim::Bed::start(blkback, &target, job, mode)?;
            rows.push(bed.run(job, operations)?);
            bed.finish()?;
            rows.push(fio::run_direct(job, &target, operations)?);
            eprintln!("{} pair {} of {pairs}", job.name, pair + 1);
        }
    }
    Ok(rows)
}

/// Enough for a second or so on a fast disk, bounded on a slow one by the bytes moved.
fn operations(job: Job) -> u64 {
    let by_bytes = (512u64 << 20) / u64::from(job.block_len_bytes);
    by_bytes.min(if job.depth == 1 { 8_000 } else { 40_000 })
}

fn finish<R: Row>(report: &Report<R>, json: Option<&Path>) -> Result<()> {
    print!("{}", report.table());
    for other in ["direct", "kernel", "qdisk"] {
        if let Some(mean) = report.mean_against(other) {
            println!("geometric mean splitd/{other}: {mean:.2} ×");
        }
    }
    write_json(report, json)
}

fn write_json(report: &impl serde::Serialize, json: Option<&Path>) -> Result<()> {
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(report)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn machine() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("?", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} × {model}, Linux {}", kernel.trim())
}
