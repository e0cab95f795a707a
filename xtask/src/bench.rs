//! `cargo xtask bench` and `cargo xtask demo`: builds the programs they need and starts them; in the lab, runs the
//! benchmark's scenario and hands its rows on. Knows nothing of how anything is measured.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::command;
use crate::lab::{self, Xen};

#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// Install what the lab lacks without asking
    #[arg(long, global = true)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// splitd beside fio's io_uring engine on the simulated host, or with --lab beside kernel blkback and qdisk on real Xen
    Block {
        /// On emulated Xen, in one boot
        #[arg(long)]
        lab: bool,
        /// Alternating pairs (rounds, in the lab)
        #[arg(long, default_value_t = 8)]
        pairs: u32,
        /// Operations of each job, in the lab
        #[arg(long, default_value_t = 3000)]
        operations: u32,
        /// A line of splitd.toml for splitd's turns, in the lab
        #[arg(long, default_value = "")]
        setting: String,
        /// Only cases whose name contains this
        #[arg(long, default_value = "")]
        only: String,
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Shares, caps and isolation on a simulated device, beside other rules
    Qos {
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Many disks on the simulated host: what each costs in memory, idle CPU, time to attach and to restart splitd
    Scale {
        /// Populations, growing
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
        devices: Vec<u32>,
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Workers killed under load on the simulated host: how soon another serves, and what the guest noticed
    Recovery {
        /// How many workers are killed in all
        #[arg(long, default_value_t = 5000)]
        kills: u32,
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// A guest's network beside a copier from tap to tap, or with --lab beside kernel netback on real Xen
    Net {
        /// On emulated Xen, in one boot
        #[arg(long)]
        lab: bool,
        /// Alternating pairs
        #[arg(long, default_value_t = 8)]
        pairs: u32,
        /// Length of each measurement; 1 if left out, 5 in the lab
        #[arg(long)]
        seconds: Option<u32>,
        /// Only cases whose name contains this
        #[arg(long, default_value = "")]
        only: String,
        /// Also write the report as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

pub(crate) fn run(args: Args) -> Result<()> {
    let programs = ["bench", "blkback", "netback", "splitd"].map(|name| ["-p", name]);
    command::run(command::cargo().args(["build", "--release", "--quiet"]).args(programs.as_flattened()))?;
    let release = command::target().join("release");
    let mut bench = Command::new(release.join("bench"));
    let (pairs, only, json) = match args.what {
        What::Block { lab: true, pairs, operations, setting, only, json } => {
            let env = format!(
                "LAB_ROUNDS={pairs} LAB_OPERATIONS={operations} LAB_ONLY='{only}' LAB_SETTING='{setting}'\n"
            );
            let rows = lab::bench(Xen::V4_17, "bench_block", &env, args.yes)?;
            return report(bench.args(["rows", "--place", "lab"]), &rows, json.as_deref());
        }
        What::Block { lab: false, pairs, only, json, .. } => (pairs, only, json),
        What::Qos { json } => {
            bench.arg("qos");
            bench.args(json.iter().flat_map(|path| [Path::new("--json"), path]));
            return command::run(&mut bench);
        }
        What::Scale { devices, json } => {
            let devices: Vec<_> = devices.iter().map(u32::to_string).collect();
            bench.args(["scale", "--devices", &devices.join(",")]);
            bench.args(json.iter().flat_map(|path| [Path::new("--json"), path]));
            return command::run(&mut bench);
        }
        What::Recovery { kills, json } => {
            bench.arg("recovery").arg("--programs").arg(&release).args(["--kills", &kills.to_string()]);
            bench.args(json.iter().flat_map(|path| [Path::new("--json"), path]));
            return command::run(&mut bench);
        }
        What::Net { lab: false, pairs, seconds, only, json } => {
            bench.arg("net").arg("--programs").arg(&release).args(["--pairs", &pairs.to_string()]);
            let milliseconds = seconds.unwrap_or(1) * 1000;
            bench.args(["--milliseconds", &milliseconds.to_string(), "--only", &only]);
            if let Some(json) = json {
                bench.arg("--json").arg(json);
            }
            return command::run(&mut bench);
        }
        What::Net { lab: true, pairs, seconds, only, json } => {
            let seconds = seconds.unwrap_or(5);
            let env = format!("LAB_ROUNDS={pairs} LAB_SECONDS={seconds} LAB_ONLY='{only}'\n");
            let rows = lab::bench(Xen::V4_17, "bench_net", &env, args.yes)?;
            return report(bench.args(["rows", "--kind", "net", "--place", "lab"]), &rows, json.as_deref());
        }
    };
    bench.arg("block").arg("--blkback").arg(release.join("blkback")).arg("--dir").arg(command::target());
    bench.args(["--pairs", &pairs.to_string(), "--only", &only]);
    if let Some(json) = json {
        bench.arg("--json").arg(json);
    }
    command::run(&mut bench)
}

/// Gives `rows` to the report's program.
fn report(bench: &mut Command, rows: &str, json: Option<&Path>) -> Result<()> {
    if let Some(json) = json {
        bench.arg("--json").arg(json);
    }
    let mut child = bench.stdin(Stdio::piped()).spawn().context("cannot start the benchmark's report")?;
    child.stdin.take().context("no pipe to the report")?.write_all(rows.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("the benchmark's report ended with {status}");
    }
    Ok(())
}

pub(crate) fn demo(json: bool) -> Result<()> {
    command::run(command::cargo().args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "splitd",
        "-p",
        "blkback",
        "-p",
        "netback",
        "-p",
        "splitd-tests",
        "--bins",
    ]))?;
    let mut demo = Command::new(command::target().join("release/demo"));
    if json {
        demo.arg("--json");
    }
    command::run(&mut demo)
}
