//! The main job without Xen: the real splitd and its real workers on the simulated host, two guests that write and verify, a
//! worker killed midway, a verdict. Knows nothing of how the programs work; what it shows comes from splitd's own socket.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use splitd::protocol::Verb;
use splitd_tests::blkfront::{Frontend, Load, Options, Report, Running};
use splitd_tests::toolstack::{DiskConfig, Paths};
use splitd_tests::world::{Programs, World};
use splitd_tests::{exchange, netns};
use xenbus::sim::SimDomain;

/// How long the guests work.
const RUNNING: Duration = Duration::from_secs(8);
/// When the first guest's worker is killed.
const KILL_AFTER: Duration = Duration::from_secs(4);
/// 64 MiB each.
const SECTORS: u64 = 131_072;
/// Shares of the guests, which write to the same device.
const WEIGHTS: [u32; 2] = [512, 256];
/// When shares have settled.
const SETTLED: Duration = Duration::from_secs(2);

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let wants_json = std::env::args().skip(1).any(|a| a == "--json");
    if let Some(other) = std::env::args().skip(1).find(|a| a != "--json") {
        eprintln!("demo: {other}: only --json is allowed");
        return ExitCode::from(2);
    }
    // The machine's own limits, before a namespace makes us root in it.
    let ready = check_machine();
    let rerun = if ready.is_ok() { in_namespace(wants_json) } else { Ok(None) };
    if let Ok(Some(status)) = rerun {
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    println!("simulated host, no Xen");
    match ready.and_then(|()| demo()) {
        Ok(outcome) => finish(&outcome, wants_json),
        Err(trouble) => {
            eprintln!("demo: {trouble}");
            ExitCode::FAILURE
        }
    }
}

/// Where the user may have taps and a bridge of their own, the demo runs there; `None` where this is it, or there is none.
fn in_namespace(wants_json: bool) -> io::Result<Option<std::process::ExitStatus>> {
    if netns::is_inside() {
        return Ok(None);
    }
    if let Some(missing) = netns::missing() {
        println!("note: guests are connected by a simulated wire; a real bridge needs {missing}");
        return Ok(None);
    }
    netns::rerun(if wants_json { &["--json"] } else { &[] })
}

/// What a machine may lack, each with its fix.
fn check_machine() -> Result<(), Failed> {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    if disabled.trim() == "2" {
        return Err("io_uring is switched off; switch it on: sysctl kernel.io_uring_disabled=0".into());
    }
    check_locked_memory()?;
    check_direct(std::env::current_exe()?.parent().unwrap_or(Path::new(".")))
}

/// A user's io_urings and registered buffers are locked memory; root has as much as it likes.
fn check_locked_memory() -> Result<(), Failed> {
    const RINGS_LEN_BYTES: u64 = 1 << 20;
    const BUFFERS_LEN_BYTES: u64 = 8 << 20;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max locked memory")).unwrap_or_default();
    let soft = line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    let fix = format!("ulimit -l {}", BUFFERS_LEN_BYTES >> 10);
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?) == 0;
    match soft.filter(|_| !is_root) {
        Some(soft) if soft < RINGS_LEN_BYTES => Err(format!(
            "the limit on locked memory is {soft} bytes, the demo's io_urings need {RINGS_LEN_BYTES}; raise it: {fix}"
        )
        .into()),
        Some(soft) if soft < BUFFERS_LEN_BYTES => {
            println!(
                "note: the limit on locked memory is {soft} bytes, buffers are registered from {BUFFERS_LEN_BYTES}; \
                 this runs, but slower (fix: {fix})"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_direct(dir: &Path) -> Result<(), Failed> {
    let path = dir.join(format!(".direct-{}", std::process::id()));
    let opened =
        std::fs::File::options().create(true).write(true).truncate(true).custom_flags(0o40000).open(&path);
    let _ = std::fs::remove_file(&path);
    match opened {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Err(format!(
            "{}: the file system does not do O_DIRECT; set CARGO_TARGET_DIR to a directory on ext4 or XFS",
            dir.display()
        )
        .into()),
        Err(e) => Err(format!("{}: {e}", path.display()).into()),
        Ok(_) => Ok(()),
    }
}

/// One guest with one disk.
struct Guest {
    domain: SimDomain,
    disk: DiskConfig,
    paths: Paths,
    frontend: Frontend,
    running: Option<Running>,
}

impl Guest {
    fn start(world: &mut World, number: u16) -> Result<Self, Failed> {
        let domain = world.guest(number)?;
        let image = world.image(&format!("guest-{number}.img"), SECTORS)?;
        let disk = world.disk(0, &image);
        let paths = world.attach(&domain, &disk)?;
        let options = Options { queues: 2, segments: 64, ..Options::default() };
        let frontend = Frontend::connect(&domain, disk.devid, options)?;
        Ok(Self { domain, disk, paths, frontend, running: None })
    }

    fn work(&mut self) -> Result<(), Failed> {
        let load = Load {
            seed: u64::from(self.domain.id().0),
            operations: None,
            duration: Some(RUNNING),
            depth: 16,
            sectors: 1..129,
            flush_percent: 1,
            discard_percent: 1,
            ..Load::default()
        };
        self.running = Some(self.frontend.start(&load)?);
        Ok(())
    }

    /// Ends the load, compares the whole image with what was written, and detaches the disk as xl does.
    fn finish(mut self, world: &mut World) -> Result<Report, Failed> {
        let Some(running) = self.running.take() else { return Err("the guest did not start".into()) };
        let mut report = running.finish(&mut self.frontend)?;
        if let Err(wrong) = self.frontend.oracle().check_file(&self.disk.target)? {
            report.verify_errors += 1;
            report.first_error.get_or_insert(format!("{wrong:?}"));
        }
        world.tools.begin_detach(&self.paths, false)?;
        self.frontend.finish_close()?;
        world.tools.finish_detach(&self.disk, &self.paths)?;
        Ok(report)
    }
}

/// What there is to tell in the end.
struct Outcome {
    disks: Report,
    net: exchange::Outcome,
    /// Part of the bytes that the first guest had, once shares had settled.
    share: f64,
    /// Workers that were killed and replaced.
    restarts: u64,
    /// Longest time for which the guest of a killed worker waited for any answer.
    outage: Duration,
}

fn demo() -> Result<Outcome, Failed> {
    let dir = std::env::current_exe()?.parent().map(Path::to_owned).ok_or("the demo has no directory")?;
    let program = |name: &str| dir.join(name);
    let (splitd, splitctl) = (program("splitd"), program("splitctl"));
    let (blkback, netback) = (program("blkback"), program("netback"));
    let programs = Programs { splitd, splitctl, blkback, netback, dir };
    let config = "serve_vifs = \"all\"";
    let mut world = if netns::is_inside() {
        World::start_on_taps(config, programs)?
    } else {
        World::start_with(config, programs, &[])?
    };
    let [one, other] = WEIGHTS;
    let domain = |name: &str, weight| format!("[[domain]]\nmatch.name = \"{name}\"\nweight = {weight}\n");
    let policy = format!("version = 1\n{}{}", domain("guest-1", one), domain("guest-2", other));
    world.write_policy(&policy)?;
    world.ask(Verb::PolicyReload)?;
    let mut guests = [Guest::start(&mut world, 1)?, Guest::start(&mut world, 2)?];
    let [one, other] = &guests;
    let exchange = exchange::start(&mut world, [&one.domain, &other.domain], RUNNING)?;
    for guest in &mut guests {
        guest.work()?;
    }
    let share = watch(&world)?;
    let net = exchange.finish(&mut world)?;
    let restarts = world.show("vbd/1/xvda")?.restarts;
    let outage = guests[0].running.as_ref().map_or(Duration::ZERO, Running::take_silence);
    let mut disks = Report::default();
    for guest in guests {
        disks.add(&guest.finish(&mut world)?);
    }
    Ok(Outcome { disks, net, share, restarts, outage })
}

/// The live table, from the counters that the workers keep; kills one worker on the way. Gives back the first guest's share.
fn watch(world: &World) -> Result<f64, Failed> {
    println!(
        "{:>6}  {:<14} {:>7} {:>9} {:>9} {:>9}",
        "s", "device", "worker", "in MiB", "out MiB", "in flight"
    );
    let began = Instant::now();
    let mut killed = false;
    let (mut settled, mut latest) = (None, [0; 2]);
    while began.elapsed() < RUNNING {
        std::thread::sleep(Duration::from_secs(1));
        if !killed && began.elapsed() >= KILL_AFTER {
            killed = true;
            if let Some(pid) = world.kill_worker("vbd/1/xvda")? {
                println!("{:>6.1}  kill -9 {pid}, the worker of vbd/1/xvda", began.elapsed().as_secs_f64());
            }
        }
        let stats = world.ask(Verb::Stats { device: None })?;
        for device in stats.get("devices").and_then(Value::as_array).into_iter().flatten() {
            print_row(world, began.elapsed(), device);
        }
        latest = ["vbd/1/xvda", "vbd/2/xvda"].map(|name| bytes_of(&stats, name));
        if began.elapsed() >= SETTLED {
            settled.get_or_insert(latest);
        }
    }
    let [one, other] = std::array::from_fn(|i| latest[i].saturating_sub(settled.unwrap_or_default()[i]));
    Ok(one as f64 / (one + other).max(1) as f64)
}

fn bytes_of(stats: &Value, name: &str) -> u64 {
    let devices = stats.get("devices").and_then(Value::as_array);
    let device = devices.into_iter().flatten().find(|device| device.get("device") == Some(&json!(name)));
    let figure = |key| device.and_then(|device| device.get(key)).and_then(Value::as_u64).unwrap_or(0);
    figure("read_bytes") + figure("write_bytes")
}

fn print_row(world: &World, at: Duration, device: &Value) {
    let name = device.get("device").and_then(Value::as_str).unwrap_or("?");
    let figure = |name: &str| device.get(name).and_then(Value::as_u64).unwrap_or(0);
    let [one, other] =
        if name.starts_with("vif") { ["rx_bytes", "tx_bytes"] } else { ["read_bytes", "write_bytes"] };
    let pid = world.show(name).ok().and_then(|row| row.pid).map_or("-".to_owned(), |pid| pid.to_string());
    println!(
        "{:>6.1}  {name:<14} {pid:>7} {:>9} {:>9} {:>9}",
        at.as_secs_f64(),
        figure(one) >> 20,
        figure(other) >> 20,
        figure("in_flight"),
    );
}

fn finish(outcome: &Outcome, wants_json: bool) -> ExitCode {
    let Outcome { disks: report, net, share, restarts, outage } = outcome;
    let is_clean = report.is_clean() && net.is_clean();
    let outage_ms = outage.as_secs_f64() * 1000.0;
    println!(
        "{} requests, {} MiB, {} I/O errors, {} verify errors, {} unanswered",
        report.done,
        report.bytes >> 20,
        report.io_errors + report.unsupported,
        report.verify_errors,
        report.unanswered
    );
    println!(
        "{} MiB of frames between the guests, {} lost, {} corrupt",
        net.bytes >> 20,
        net.lost,
        net.corrupt
    );
    let [one, other] = WEIGHTS;
    println!("weights {one} and {other}: the first guest had {:.1} % of the disk's bytes", share * 100.0);
    println!("{restarts} worker replaced; its guest waited {outage_ms:.0} ms at most for an answer");
    if let Some(error) = &report.first_error {
        println!("first error: {error}");
    }
    let verdict = if is_clean { "ok" } else { "failed" };
    if wants_json {
        let disk = json!({
            "bytes": report.bytes,
            "io_errors": report.io_errors + report.unsupported + report.unanswered,
            "verify_errors": report.verify_errors,
        });
        let net = json!({ "bytes": net.bytes, "lost": net.lost, "corrupt": net.corrupt });
        let qos = json!({ "weights": WEIGHTS, "measured_share": (share * 1e4).round() / 1e4 });
        let outage_ms = (outage_ms * 10.0).round() / 10.0;
        println!(
            "{}",
            json!({ "version": 1, "disk": disk, "net": net, "qos": qos, "restarts": restarts, "outage_ms": outage_ms, "verdict": verdict })
        );
    } else {
        println!("verdict: {verdict}");
    }
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
