//! The daemon's command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use splitd::daemon::{self, Options};
use splitd::journald::{self, Journal};
use splitd::runtime;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Serves guests' disks and network interfaces from userspace.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// `xen`, or `sim:DIR` for a simulated host
    #[arg(long, default_value = "xen")]
    host: String,
    /// Configuration
    #[arg(long, default_value = "/etc/splitd/splitd.toml")]
    config: PathBuf,
    /// Sockets and state of running workers
    #[arg(long, default_value = "/run/splitd")]
    run_dir: PathBuf,
    /// The ledger of promises
    #[arg(long, default_value = "/var/lib/splitd")]
    state_dir: PathBuf,
    /// The program that serves disks
    #[arg(long, default_value = "/usr/libexec/splitd/blkback")]
    blkback: PathBuf,
    /// The program that serves network interfaces
    #[arg(long, default_value = "/usr/libexec/splitd/netback")]
    netback: PathBuf,
    /// The kernel's view of devices
    #[arg(long, default_value = "/sys", hide = true)]
    sys: PathBuf,
    /// Where xentop looks for figures
    #[arg(long, default_value = "/dev/shm", hide = true)]
    shm: PathBuf,
}

fn main() -> ExitCode {
    start_log();
    let arguments = Arguments::parse();
    let options = Options {
        host: arguments.host,
        config: arguments.config,
        run_dir: arguments.run_dir,
        state_dir: arguments.state_dir,
        blkback: arguments.blkback,
        netback: arguments.netback,
        sys_dir: arguments.sys,
        shm_dir: arguments.shm,
    };
    match runtime::block_on(daemon::run(options)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(trouble)) => {
            tracing::error!("{trouble:#}");
            ExitCode::FAILURE
        }
        Err(trouble) => {
            tracing::error!("{trouble}");
            ExitCode::FAILURE
        }
    }
}

/// To the system's journal with a device's fields where that is what standard error leads to; else to standard error as text.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = Journal::connect(Path::new(journald::SOCKET))
    {
        tracing_subscriber::registry().with(filter).with(journal).init();
        return;
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
}
