//! The `netback` process: reads its command line, takes over the listening socket, names the host once, and serves.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use netback::vif::Vif;
use worker::message::TAP_FD;
use worker::{sandbox, start};
use xenbus::sim::Sim;
use xenbus::xen::Xen;

/// Serves one network interface of one guest. Started by splitd, which speaks with it on a socket; of no use without.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// `xen`, or `sim:DIR` for the simulated host in that directory.
    #[arg(long, value_name = "HOST")]
    host: String,
    /// Number of the open file that is the listening control socket.
    #[arg(long, value_name = "N")]
    listen_fd: i32,
    /// So many open files behind that one are queues of the tap.
    #[arg(long, value_name = "N")]
    tap_fds: u16,
    /// What to log, as in `info` or `netback=debug`.
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
    let last_tap = i32::from(arguments.tap_fds) + TAP_FD - 1;
    sandbox::close_all_but(arguments.listen_fd..=last_tap.max(arguments.listen_fd))?;
    let listener = start::adopt_listener(arguments.listen_fd)?;
    match (arguments.host.as_str(), arguments.host.strip_prefix("sim:")) {
        ("xen", _) => Ok(Vif::new(Xen::default(), listener, arguments.tap_fds)?.run()?),
        (_, Some(dir)) => Ok(Vif::new(Sim::open(Path::new(dir)), listener, arguments.tap_fds)?.run()?),
        _ => anyhow::bail!("--host {}: xen or sim:DIR is allowed", arguments.host),
    }
}
