//! What a host pays for many disks: memory, idle CPU, attach, splitd's restart, a scrape, and whether a request costs more with
//! many neighbours. Real splitd and workers on the simulated host; every guest has one disk. Knows nothing of the data path.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use splitd::protocol::Verb;
use splitd_tests::blkfront::{Frontend, Load, Options};
use splitd_tests::world::World;
use xenbus::sim::SimDomain;

/// Each disk's image: enough for the load, sparse.
const SECTORS: u64 = 1 << 15;
/// How long idle devices are watched.
const IDLE: Duration = Duration::from_secs(20);
/// What attaching them left to be done is over by then.
const SETTLE: Duration = Duration::from_secs(3);
/// Requests of one disk whose neighbours are idle.
const REQUESTS: u64 = 20_000;
/// How many of the last devices' attach times are told.
const ATTACHES: usize = 20;
/// A device is not started where less memory than this is left for each that is still to come.
const ROOM_EACH_KIB: u64 = 8 << 10;

/// One population.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Disks, all connected.
    pub devices: u32,
    /// Private memory of a worker, its buffers among it.
    pub worker_private_kib: u64,
    /// Of that, pinned for the disk: transfer buffers and rings.
    pub worker_pinned_kib: u64,
    /// splitd's own.
    pub splitd_private_kib: u64,
    /// CPU time of splitd and all workers while nothing happens, in percent of one core.
    pub idle_cpu_percent: f64,
    /// `xl block-attach` and the guest's connecting, the last ones; median.
    pub attach_ms: f64,
    /// splitd killed; until its successor says that it serves all of them.
    pub restart_ms: f64,
    /// One scrape of /metrics.
    pub scrape_ms: f64,
    /// Its length.
    pub scrape_kib: u64,
    /// CPU time of a worker for one request of 4 KiB at depth 32, all neighbours idle.
    pub request_cpu_us: f64,
    /// The same disk's requests a second.
    pub request_iops: f64,
}

struct Guest {
    front: Frontend,
    device: String,
    _domain: SimDomain,
}

/// Measures each population in turn, growing one host.
pub fn run(populations: &[u32]) -> Result<Vec<Row>> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut world = World::start(&format!("metrics = \"127.0.0.1:{port}\""))?;
    let mut guests = Vec::new();
    let mut attaches = Vec::new();
    let mut rows = Vec::new();
    for &population in populations {
        let missing = u64::from(population).saturating_sub(guests.len() as u64);
        let (needed, free) = (missing * ROOM_EACH_KIB, available_kib()?);
        if needed > free {
            eprintln!(
                "{population} devices left out: {} MiB of memory needed, {} free",
                needed >> 10,
                free >> 10
            );
            break;
        }
        while guests.len() < population as usize {
            let start = Instant::now();
            guests.push(attach(&mut world, guests.len())?);
            attaches.push(start.elapsed());
        }
        eprintln!("{population} devices are connected");
        rows.push(measure(&mut world, &mut guests, &attaches, port)?);
    }
    Ok(rows)
}

fn attach(world: &mut World, at: usize) -> Result<Guest> {
    let domid = u16::try_from(at + 1)?;
    let domain = world.guest(domid)?;
    let image = world.image(&format!("{domid}.img"), SECTORS)?;
    let disk = world.disk(0, &image);
    world.attach(&domain, &disk).with_context(|| world.log())?;
    let front = Frontend::connect(&domain, disk.devid, Options::default()).with_context(|| world.log())?;
    Ok(Guest { front, device: format!("vbd/{domid}/xvda"), _domain: domain })
}

fn measure(world: &mut World, guests: &mut [Guest], attaches: &[Duration], port: u16) -> Result<Row> {
    let splitd = world.splitd_pid().context("no splitd")?;
    let mut pids = vec![splitd];
    for guest in guests.iter() {
        pids.push(world.show(&guest.device)?.pid.with_context(|| format!("{}: no worker", guest.device))?);
    }
    let workers = pids.get(1..).unwrap_or_default();
    let mean = |of: fn(u32) -> Result<u64>| -> Result<u64> {
        let all = workers.iter().map(|pid| of(*pid)).collect::<Result<Vec<_>>>()?;
        Ok(all.iter().sum::<u64>() / all.len().max(1) as u64)
    };
    let (worker_private_kib, worker_pinned_kib) = (mean(private_kib)?, mean(pinned_kib)?);
    let splitd_private_kib = private_kib(splitd)?;

    std::thread::sleep(SETTLE);
    let before = cpu_of(&pids)?;
    let start = Instant::now();
    std::thread::sleep(IDLE);
    let idle_cpu_percent = (cpu_of(&pids)? - before).as_secs_f64() * 100.0 / start.elapsed().as_secs_f64();

    let start = Instant::now();
    let scrape = scrape(port)?;
    let scrape_ms = milliseconds(start.elapsed());

    let (request_cpu_us, request_iops) = load(guests, workers)?;

    world.kill_splitd()?;
    let start = Instant::now();
    world.start_splitd()?;
    let nr = guests.len();
    world.until("all are served by the next splitd", |w| serving(w) == nr)?;
    let restart_ms = milliseconds(start.elapsed());

    let last = attaches.get(attaches.len().saturating_sub(ATTACHES)..).unwrap_or_default();
    let mut last: Vec<_> = last.iter().map(|took| milliseconds(*took)).collect();
    last.sort_by(f64::total_cmp);
    Ok(Row {
        devices: u32::try_from(nr)?,
        worker_private_kib,
        worker_pinned_kib,
        splitd_private_kib,
        idle_cpu_percent,
        attach_ms: last.get(last.len() / 2).copied().unwrap_or_default(),
        restart_ms,
        scrape_ms,
        scrape_kib: scrape.len() as u64 >> 10,
        request_cpu_us,
        request_iops,
    })
}

fn load(guests: &mut [Guest], workers: &[u32]) -> Result<(f64, f64)> {
    let (guest, worker) = (guests.first_mut().context("no guest")?, *workers.first().context("no worker")?);
    let load = Load {
        operations: Some(REQUESTS),
        sectors: 8..9,
        read_percent: 100,
        flush_percent: 0,
        is_verified: false,
        ..Load::default()
    };
    let (before, start) = (cpu_of(&[worker])?, Instant::now());
    let report = guest.front.run(&load)?;
    ensure!(report.done == REQUESTS && report.io_errors == 0, "the load failed: {report:?}");
    let cpu = cpu_of(&[worker])? - before;
    let requests = REQUESTS as f64;
    Ok((cpu.as_secs_f64() * 1e6 / requests, requests / start.elapsed().as_secs_f64()))
}

fn serving(world: &World) -> usize {
    let Ok(answer) = world.ask(Verb::List) else { return 0 };
    let rows = answer.get("devices").and_then(|d| d.as_array()).cloned().unwrap_or_default();
    rows.iter().filter(|row| row.get("worker").is_some_and(|worker| worker == "serving")).count()
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if !text.starts_with("HTTP/1.1 200") {
        bail!("/metrics: {}", text.lines().next().unwrap_or_default());
    }
    Ok(text)
}

/// The value of a line `NAME: N kB`, summed over its occurrences.
fn kib(path: &Path, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum())
}

fn available_kib() -> Result<u64> {
    kib(Path::new("/proc/meminfo"), "MemAvailable")
}

fn private_kib(pid: u32) -> Result<u64> {
    kib(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Private_Dirty")
}

fn pinned_kib(pid: u32) -> Result<u64> {
    kib(Path::new(&format!("/proc/{pid}/status")), "VmPin")
}

/// CPU time of these processes so far, all threads.
fn cpu_of(pids: &[u32]) -> Result<Duration> {
    let mut ran_ns = 0;
    for pid in pids {
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).context(tasks)? {
            // Not `stat`, whose ticks are a sample: an idle process is hardly ever seen by it, or far too often.
            let path = task?.path().join("schedstat");
            let times = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let ran = times.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
            ran_ns += ran.with_context(|| format!("{}: {times}", path.display()))?;
        }
    }
    Ok(Duration::from_nanos(ran_ns))
}

/// As a table.
#[must_use]
pub fn table(machine: &str, rows: &[Row]) -> String {
    let mut text = format!(
        "{machine}\n{:>7} {:>14} {:>13} {:>14} {:>9} {:>9} {:>10} {:>9} {:>10} {:>11} {:>8}\n",
        "disks",
        "worker MiB",
        "pinned MiB",
        "splitd MiB",
        "idle CPU",
        "attach",
        "restart",
        "scrape",
        "page KiB",
        "us CPU/req",
        "IOPS"
    );
    #[allow(clippy::cast_precision_loss)] // KiB of one process
    let mib = |kib: u64| kib as f64 / 1024.0;
    for row in rows {
        text.push_str(&format!(
            "{:>7} {:>14.2} {:>13.2} {:>14.2} {:>8.2}% {:>6.0} ms {:>7.0} ms {:>6.1} ms {:>10} {:>11.2} {:>8.0}\n",
            row.devices,
            mib(row.worker_private_kib),
            mib(row.worker_pinned_kib),
            mib(row.splitd_private_kib),
            row.idle_cpu_percent,
            row.attach_ms,
            row.restart_ms,
            row.scrape_ms,
            row.scrape_kib,
            row.request_cpu_us,
            row.request_iops
        ));
    }
    text
}
