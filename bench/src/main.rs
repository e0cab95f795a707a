//! The benchmarks' command line: measures, prints a table, writes JSON. Knows nothing of how a side works.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bench::fio::{self, JOBS, Job};
use bench::report::Report;
use bench::rows::{BlockRow, NetRow, Row};
use bench::{net, recovery, scale, sim};
use clap::{Parser, Subcommand, ValueEnum};
use splitd_tests::netns;
use splitd_tests::world::Programs;
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
        /// The worker's `busy_poll_us`
        #[arg(long, default_value_t = 0)]
        busy_poll_us: u32,
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
    /// A guest's network through netback on the simulated host beside a copier from tap to tap
    Net {
        /// Where splitd and the workers are
        #[arg(long)]
        programs: PathBuf,
        /// Alternating pairs of each case; an interval needs 5
        #[arg(long, default_value_t = 8)]
        pairs: u32,
        /// Length of each measurement
        #[arg(long, default_value_t = 1000)]
        milliseconds: u64,
        /// Only cases whose name contains this
        #[arg(long, default_value = "")]
        only: String,
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Many disks on one simulated host: memory, idle CPU, attach, restart, scrape, cost of a request
    Scale {
        /// Populations, growing
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
        devices: Vec<u32>,
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Workers killed under load: how soon another serves, how long the guest waited, and whether it noticed anything else
    Recovery {
        /// Where splitd and the workers are
        #[arg(long)]
        programs: PathBuf,
        /// How many workers are killed in all
        #[arg(long, default_value_t = 5000)]
        kills: u32,
        /// Of the pauses between them
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// A system call for each frame of a tap's beside an io_uring for a batch of them
    Tap {
        /// Alternating pairs; an interval needs 5
        #[arg(long, default_value_t = 8)]
        pairs: u32,
    },
    /// An end of a connection, for `net`
    #[command(hide = true)]
    NetEnd {
        /// As `splitd_tests::net_end` has them
        arguments: Vec<String>,
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
        What::Block { blkback, dir, pairs, only, mode, busy_poll_us, json } => {
            let mode = match mode {
                Mode::Copy => TransferMode::Copy,
                Mode::Persistent => TransferMode::Persistent,
            };
            let how = sim::How { mode, busy_poll_us };
            let rows = block(&blkback, &dir, pairs, &only, how)?;
            finish(&Report::new("sim", machine(), rows), json.as_deref())
        }
        What::Qos { json } => {
            let report = bench::qos::measure(machine());
            print!("{}", report.table());
            json.map_or(Ok(()), |path| write_json(&report, &path))
        }
        What::Net { programs, pairs, milliseconds, only, json } => {
            if let Some(rows) = net(&programs, pairs, milliseconds, &only)? {
                finish(&Report::new("sim", machine(), rows), json.as_deref())?;
            }
            Ok(())
        }
        What::Recovery { programs, kills, seed, json } => {
            let rows = recovery::run(&programs_in(&programs), kills, seed)?;
            print!("{}", recovery::table(&machine(), &rows));
            let report = serde_json::json!({
                "version": 1, "kind": "recovery", "machine": machine(), "seed": seed, "rows": rows
            });
            json.map_or(Ok(()), |path| write_json(&report, &path))?;
            recovery::check(&rows)
        }
        What::Tap { pairs } => {
            if is_inside_namespace()? {
                print!("{}\n{}", machine(), bench::tap::run(pairs)?);
            }
            Ok(())
        }
        What::NetEnd { arguments } => Ok(splitd_tests::net_end::main(&arguments)?),
        What::Scale { devices, json } => {
            let rows = scale::run(&devices)?;
            print!("{}", scale::table(&machine(), &rows));
            json.map_or(Ok(()), |path| {
                write_json(&serde_json::json!({ "machine": machine(), "rows": rows }), &path)
            })
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

fn block(blkback: &Path, dir: &Path, pairs: u32, only: &str, how: sim::How) -> Result<Vec<BlockRow>> {
    let scratch = tempfile::Builder::new().prefix("splitd-bench").tempdir_in(dir)?;
    let target = sim::make_target(scratch.path(), 256 << 20)?;
    let mut rows = Vec::new();
    for job in JOBS.into_iter().filter(|j| j.name.contains(only)) {
        let operations = operations(job);
        for pair in 0..pairs {
            let mut bed = sim::Bed::start(blkback, &target, job, how)?;
            rows.push(bed.run(job, operations)?);
            bed.finish()?;
            rows.push(fio::run_direct(job, &target, operations)?);
            eprintln!("{} pair {} of {pairs}", job.name, pair + 1);
        }
    }
    Ok(rows)
}

/// False if another process did everything, in a network namespace of its own.
fn is_inside_namespace() -> Result<bool> {
    if let Some(missing) = netns::missing() {
        bail!("this benchmark needs {missing}");
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(status) = netns::rerun(&arguments)? else { return Ok(true) };
    ensure!(status.success(), "in its network namespace: {status}");
    Ok(false)
}

fn programs_in(dir: &Path) -> Programs {
    let program = |name: &str| dir.join(name);
    Programs {
        splitd: program("splitd"),
        splitctl: program("splitctl"),
        blkback: program("blkback"),
        netback: program("netback"),
        dir: dir.to_owned(),
    }
}

/// `None` if another process did it.
fn net(programs: &Path, pairs: u32, milliseconds: u64, only: &str) -> Result<Option<Vec<NetRow>>> {
    if !is_inside_namespace()? {
        return Ok(None);
    }
    let programs = programs_in(programs);
    let mut rows = Vec::new();
    for queues in [1, 2, 4] {
        let cases: Vec<_> =
            net::CASES.into_iter().filter(|c| c.queues == queues && c.name.contains(only)).collect();
        if cases.is_empty() {
            continue;
        }
        let bed = net::Bed::start(programs.clone(), queues)?;
        for case in cases {
            for pair in 0..pairs {
                for who in ["splitd", "direct"] {
                    rows.push(bed.run(case, who, milliseconds)?);
                }
                eprintln!("{} pair {} of {pairs}", case.name, pair + 1);
            }
        }
        bed.finish()?;
    }
    Ok(Some(rows))
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
    json.map_or(Ok(()), |path| write_json(report, path))
}

fn write_json(report: &impl serde::Serialize, path: &Path) -> Result<()> {
    std::fs::write(path, serde_json::to_vec_pretty(report)?).with_context(|| path.display().to_string())
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
