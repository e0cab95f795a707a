//! A blkback whose host has faults: the real worker on [`Faulty`], with a plan from the environment. Started by splitd in
//! blkback's place. Knows nothing of what a worker does about a fault.
//!
//! `SPLITD_FAULTS` is a list of NAME=N: `map-every=3` every third map fails for shortage, `map-first=3` the first three;
//! `bind-first=5` the first five binds are refused; `copy-call-every=7` every seventh copy call fails as a whole;
//! `copy-every=7` every seventh copy has a status that is not okay, each time another one.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use blkback::vbd::Vbd;
use xenbus::GrantRef;
use xenbus::hv::{GrantCopy, GrantStatus, MapError};
use xenbus::sim::{Faulty, Plan, Sim};

/// All that a copy can end with (grant_table.h, `GNTST_*`), GNTST_eagain among them, and some that it cannot.
const STATUSES: [i16; 16] = [-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12, -13, 1, i16::MAX, i16::MIN];

#[derive(Debug, Default)]
struct Faults {
    map_every: u64,
    map_first: u64,
    bind_first: u64,
    copy_call_every: u64,
    copy_every: u64,
}

impl Faults {
    fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (name, number) = part.split_once('=').ok_or_else(|| format!("{part}: NAME=N is allowed"))?;
            let number = number.parse().map_err(|e| format!("{part}: {e}"))?;
            match name {
                "map-every" => faults.map_every = number,
                "map-first" => faults.map_first = number,
                "bind-first" => faults.bind_first = number,
                "copy-call-every" => faults.copy_call_every = number,
                "copy-every" => faults.copy_every = number,
                _ => return Err(format!("{name}: no such fault")),
            }
        }
        Ok(faults)
    }
}

/// True for every `every`-th, the first of them being number `every - 1`.
fn is_nth(n: u64, every: u64) -> bool {
    every > 0 && n % every == every - 1
}

impl Plan for Faults {
    fn map(&self, n: u64, _refs: &[GrantRef]) -> Option<MapError> {
        let fails = n < self.map_first || is_nth(n, self.map_every);
        fails.then(|| MapError::Shortage(io::ErrorKind::OutOfMemory.into()))
    }

    fn copy(&self, n: u64, _op: &GrantCopy) -> Option<GrantStatus> {
        let which = usize::try_from(n / self.copy_every.max(1)).unwrap_or(0);
        is_nth(n, self.copy_every).then(|| GrantStatus(STATUSES[which % STATUSES.len()]))
    }

    fn copy_call(&self, n: u64) -> Option<io::Error> {
        is_nth(n, self.copy_call_every).then(|| io::ErrorKind::OutOfMemory.into())
    }

    fn bind(&self, n: u64) -> Option<io::Error> {
        (n < self.bind_first).then(|| io::ErrorKind::InvalidInput.into())
    }
}

/// `--listen-fd N --host sim:DIR`, as splitd has it.
fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name).ok_or_else(|| format!("{name} is missing"))?;
        arguments.get(at + 1).ok_or_else(|| format!("{name} is without value"))
    };
    let dir = value("--host")?.strip_prefix("sim:").ok_or("--host: sim:DIR is allowed")?;
    let listen_fd = value("--listen-fd")?.parse().map_err(|e| format!("--listen-fd: {e}"))?;
    let listener = worker::start::adopt_listener(listen_fd).map_err(|e| e.to_string())?;
    let faults = Faults::parse(&std::env::var("SPLITD_FAULTS").unwrap_or_default())?;
    let host = Faulty::new(Sim::open(Path::new(dir)), Arc::new(faults));
    Vbd::new(host, listener).and_then(Vbd::run).map_err(|e| e.to_string())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
