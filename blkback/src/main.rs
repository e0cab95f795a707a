//! The `blkback` process: reads its command line, takes over the listening socket, names the host once, and serves.

use std::path::Path;
use std::process::ExitCode;

use blkback::vbd::Vbd;
use clap::Parser;
use worker::{sandbox, start};
use xenbus::sim::Sim;
use xenbus::xen::Xen;

/// Serves one virtual disk of one guest. Started by splitd, which speaks with it on a socket; of no use without.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// `xen`, or `sim:DIR` for the simulated host in that directory.
    #[arg(long, value_name = "HOST")]
    host: String,
    /// Number of the open file that is the listening control socket.
    #[arg(long, value_name = "N")]
    listen_fd: i32,
    /// What to log, as in `info` or `blkback=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::new(&arguments.log);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    start::share_one_heap();
    sandbox::close_all_but(arguments.listen_fd..=arguments.listen_fd)?;
    let listener = start::adopt_listener(arguments.listen_fd)?;
    match (arguments.host.as_str(), arguments.host.strip_prefix("sim:")) {
        ("xen", _) => Ok(Vbd::new(Xen::default(), listener)?.run()?),
        (_, Some(dir)) => Ok(Vbd::new(Sim::open(Path::new(dir)), listener)?.run()?),
        _ => anyhow::bail!("--host {}: xen or sim:DIR is allowed", arguments.host),
    }
}
