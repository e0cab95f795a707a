//! Real workers killed under a real load, again and again: how long until another serves, how long the guest waited for any answer, and
//! whether it noticed anything else. Knows nothing of how a worker is replaced.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use splitd_tests::blkfront::{Frontend, Load, Options, Running};
use splitd_tests::prng::Prng;
use splitd_tests::world::{self, Programs, World};

const DEVICE: &str = "vbd/5/xvda";
/// 32 MiB.
const SECTORS: u64 = 1 << 16;
/// splitd gives a worker up that dies too often; here it dies for a living.
const PATIENT: &str = "crash_loop = { deaths = 1000000, within_s = 1 }";
/// Longest pause between a worker that serves and its death, us.
const PAUSE_MAX_US: u64 = 40_000;
/// Nobody is killed for so long, to see what a queue waits anyway.
const CALM: Duration = Duration::from_secs(2);

/// A way to serve, and who is killed.
struct Case {
    name: &'static str,
    config: &'static str,
    options: Options,
    load: Load,
    with_splitd: bool,
    /// Of all kills, percent.
    part: u32,
}

/// What came of a case.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Which.
    pub case: &'static str,
    /// SIGKILLs of a worker.
    pub kills: u32,
    /// From SIGKILL until splitd says that another serves.
    pub recovery_p50_ms: f64,
    /// The same.
    pub recovery_p99_ms: f64,
    /// The same.
    pub recovery_max_ms: f64,
    /// Longest time around a kill in which a queue of the guest had no answer.
    pub outage_p50_ms: f64,
    /// The same.
    pub outage_p99_ms: f64,
    /// The same.
    pub outage_max_ms: f64,
    /// The same where nobody was killed.
    pub calm_ms: f64,
    /// Requests that the guest saw done.
    pub requests: u64,
    /// Requests that it saw fail, or not at all.
    pub io_errors: u64,
    /// Reads that were not what was written.
    pub verify_errors: u64,
    /// Second answers.
    pub double_answers: u64,
    /// The first thing that was wrong.
    pub first_error: Option<String>,
}

fn cases() -> [Case; 4] {
    let load = || Load {
        operations: None,
        sectors: 1..89,
        flush_percent: 2,
        stall: Duration::from_secs(60),
        ..Load::default()
    };
    let four = || Options { queues: 4, ..Options::default() };
    let indirect = Options { ring_order: 2, segments: 64, depth: 64, ..Options::default() };
    let large = Load { sectors: 1..512, align_sectors: 1, discard_percent: 2, depth: 64, ..load() };
    let case = |name, config, options, load, with_splitd, part| Case {
        name,
        config,
        options,
        load,
        with_splitd,
        part,
    };
    [
        case("copy-4q", "persistent = false", four(), load(), false, 40),
        case(
            "persistent-4q",
            "persistent = true",
            Options { is_persistent: true, ..four() },
            load(),
            false,
            30,
        ),
        case("indirect", "persistent = false", indirect, large, false, 20),
        case("splitd-too", "persistent = false", four(), load(), true, 10),
    ]
}

/// Kills `kills` workers in all.
pub fn run(programs: &Programs, kills: u32, seed: u64) -> Result<Vec<Row>> {
    cases().into_iter().map(|case| one(programs, &case, (kills * case.part / 100).max(1), seed)).collect()
}

fn one(programs: &Programs, case: &Case, kills: u32, seed: u64) -> Result<Row> {
    let mut w = World::start_with(&format!("{}\n{PATIENT}", case.config), programs.clone(), &[])?;
    let guest = w.guest(5)?;
    let image = w.image("a.img", SECTORS)?;
    let disk = w.disk(0, &image);
    w.attach(&guest, &disk)?;
    let mut front = Frontend::connect(&guest, disk.devid, case.options.clone())?;
    let running = front.start(&case.load)?;
    std::thread::sleep(CALM);
    let calm = running.take_silence();
    let mut prng = Prng::new(seed);
    let mut recovery = times()?;
    let mut outage = times()?;
    for n in 0..kills {
        let took = kill(&mut w, case.with_splitd).with_context(|| format!("{}, kill {n}", case.name))?;
        recovery.record(micros(took))?;
        std::thread::sleep(Duration::from_micros(prng.below(PAUSE_MAX_US)));
        outage.record(micros(running.take_silence()))?;
        ensure!(
            !running.is_finished(),
            "{}: the load ended at kill {n}: {}",
            case.name,
            end(running, &mut front)
        );
        if n % 250 == 249 {
            eprintln!("{} {} of {kills}", case.name, n + 1);
        }
    }
    running.stop();
    let report = running.finish(&mut front)?;
    front.close()?;
    let wrong = front.oracle().check_file(&image)?.err();
    Ok(Row {
        case: case.name,
        kills,
        recovery_p50_ms: ms(&recovery, 0.5),
        recovery_p99_ms: ms(&recovery, 0.99),
        recovery_max_ms: ms(&recovery, 1.0),
        outage_p50_ms: ms(&outage, 0.5),
        outage_p99_ms: ms(&outage, 0.99),
        outage_max_ms: ms(&outage, 1.0),
        calm_ms: calm.as_secs_f64() * 1000.0,
        requests: report.done,
        io_errors: report.io_errors + report.unsupported + report.unanswered,
        verify_errors: report.verify_errors + u64::from(wrong.is_some()),
        double_answers: report.faults.double_answers,
        first_error: report.first_error.or_else(|| wrong.map(|wrong| format!("{wrong:?}"))),
    })
}

/// SIGKILL, until another worker serves.
fn kill(w: &mut World, with_splitd: bool) -> Result<Duration> {
    let old = w.show(DEVICE)?.pid.context("no worker")?;
    let began = Instant::now();
    if with_splitd {
        w.kill_splitd()?;
    }
    world::kill(old)?;
    if with_splitd {
        w.start_splitd()?;
    }
    w.until("another worker serves", |w| {
        w.show(DEVICE).is_ok_and(|row| row.worker == "serving" && row.pid.is_some_and(|pid| pid != old))
    })?;
    Ok(began.elapsed())
}

/// Why a load ended before its time.
fn end(running: Running, front: &mut Frontend) -> String {
    running.finish(front).map_or_else(|e| e.to_string(), |report| format!("{report:?}"))
}

fn times() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn ms(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1000.0
}

/// Nothing but a pause was to be noticed.
pub fn check(rows: &[Row]) -> Result<()> {
    for row in rows {
        let wrong = row.io_errors + row.verify_errors + row.double_answers;
        ensure!(wrong == 0 && row.first_error.is_none(), "{}: the guest noticed: {row:?}", row.case);
    }
    Ok(())
}

/// For people.
#[must_use]
pub fn table(machine: &str, rows: &[Row]) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "{machine}\n{:<14} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>10} {:>7}\n",
        "case",
        "kills",
        "back p50",
        "p99",
        "max ms",
        "wait p50",
        "p99",
        "max ms",
        "calm ms",
        "requests",
        "wrong"
    );
    for row in rows {
        let wrong = row.io_errors + row.verify_errors + row.double_answers;
        let _ = writeln!(
            text,
            "{:<14} {:>6} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>8.1} {:>10} {:>7}",
            row.case,
            row.kills,
            row.recovery_p50_ms,
            row.recovery_p99_ms,
            row.recovery_max_ms,
            row.outage_p50_ms,
            row.outage_p99_ms,
            row.outage_max_ms,
            row.calm_ms,
            row.requests,
            wrong
        );
    }
    text
}
