//! The operator's command line. Exit codes: 0 done, 1 failed, 2 usage.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::{Value, json};
use splitd::ctl::takeover::Machine;
use splitd::ctl::top::{Look, Sort, View};
use splitd::ctl::{self, doctor, journal, policy, print, retarget, screen, sla, table, top, trace};
use splitd::kernel::Backend;
use splitd::protocol::Verb;
use splitd::select;

/// Looks after the disks and network interfaces that splitd serves. DEV is vbd/DOMAIN/VDEV, as in vbd/5/xvda or vbd/web1/51712,
/// or vif/DOMAIN/NUMBER, as in vif/5/0.
#[derive(Debug, Parser)]
#[command(name = "splitctl", version)]
struct Arguments {
    /// splitd's run directory
    #[arg(long, default_value = "/run/splitd", global = true)]
    run_dir: PathBuf,
    /// The host's files
    #[arg(long, default_value = "/", global = true, hide = true)]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Output {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Dry {
    /// Only say what would be done
    #[arg(short = 'N', long)]
    dry_run: bool,
}

impl Dry {
    /// Lines as they are, or marked as what would be done.
    fn mark(&self, text: String) -> String {
        let mark = |line: &str| format!("dry run, not done: {line}\n");
        if self.dry_run { text.lines().map(mark).collect() } else { text }
    }
}

/// As xentop has them.
#[derive(Debug, Args)]
struct Top {
    /// Seconds between looks
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=screen::DELAY_MAX_S))]
    delay: u64,
    /// How many looks; without end if left out
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
    /// Print one screen after the other, without keys
    #[arg(short, long)]
    batch: bool,
    /// Network interfaces only
    #[arg(short, long, conflicts_with = "vbds")]
    networks: bool,
    /// Disks only
    #[arg(short = 'x', long)]
    vbds: bool,
    /// Each look as one JSON object, in a line of its own
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All disks and interfaces; the first columns are those of `xl block-list` and `xl network-list`
    List {
        /// Only those of these guests, by name or number
        domain: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Everything about one device
    Show {
        /// Which
        #[arg(value_parser = select::named)]
        dev: String,
        #[command(flatten)]
        output: Output,
    },
    /// Counters
    Stats {
        /// Which; all if left out
        #[arg(value_parser = select::named)]
        dev: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// What each device does now: rates, latency, queue depth. Keys are xentop's: D(elay) N(etworks) B(lock devices) S(ort) Q(uit)
    Top(Top),
    /// Where a disk's requests spend their time: waiting for their turn, copying, the disk itself
    Trace {
        /// Which
        #[arg(value_parser = select::named)]
        dev: String,
        /// Watch it so many seconds
        #[arg(long = "for", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=screen::DELAY_MAX_S))]
        seconds: u64,
        #[command(flatten)]
        output: Output,
    },
    /// What splitd logged of a device, from the system's journal
    Log {
        /// Which
        #[arg(value_parser = select::named)]
        dev: String,
        /// Go on with what is logged from now on
        #[arg(short, long)]
        follow: bool,
        /// The last N lines only
        #[arg(short = 'n', long)]
        lines: Option<u32>,
    },
    /// Has a disk's worker look at its target's size now
    Resize {
        /// Which
        #[arg(value_parser = select::named)]
        dev: String,
        #[command(flatten)]
        dry: Dry,
    },
    /// Replaces a worker under the running guest, once it has finished what it took; also tries again where splitd has given up
    #[command(group = clap::ArgGroup::new("which").required(true).args(["dev", "all"]))]
    Restart {
        /// Which
        #[arg(value_parser = select::named)]
        dev: Option<String>,
        /// All of them, one after the other; ends at the first that fails
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        dry: Dry,
    },
    /// Has a disk's guest wait, and lets go of its target: for a consistent snapshot or copy of it
    ///
    /// What the guest was told is done is on the target when this returns; what it sends meanwhile waits for `resume`.
    Pause {
        /// Which
        #[arg(value_parser = select::named)]
        dev: String,
        #[command(flatten)]
        dry: Dry,
    },
    /// Goes on with a disk that was paused
    Resume {
        /// Which
        #[arg(value_parser = select::named)]
        dev: String,
        #[command(flatten)]
        dry: Dry,
    },
    /// Moves a disk to a new file or a block device while its guest runs; until the end, and if it is ended, the old one is served
    Retarget {
        /// Which
        #[arg(value_parser = select::named)]
        dev: String,
        /// A file that is not there yet, or a block device, whose contents are lost
        target: PathBuf,
        #[command(flatten)]
        dry: Dry,
    },
    /// The policy file: check one, take the installed one anew, say what holds
    Policy {
        /// What to do
        #[command(subcommand)]
        what: policy::Policy,
    },
    /// Shares and caps of all domains, or of one; with -w, --cap or --reset sets them above the policy file
    Qos(policy::Qos),
    /// The ledger of what was promised, asked for and delivered
    Sla {
        /// What to do
        #[command(subcommand)]
        what: sla::Sla,
    },
    /// Keeps the kernel's backends away from new devices; touches none that is in use
    ///
    /// Without an option only its disk backend. Running it again with the other option adds to what was done before.
    Takeover {
        /// xen-blkback
        #[arg(long)]
        disks: bool,
        /// xen-netback; `serve_vifs` in splitd.toml must name somebody, or new interfaces would have no backend at all
        #[arg(long)]
        vifs: bool,
        #[command(flatten)]
        dry: Dry,
    },
    /// Undoes every takeover: the kernel's backends take new devices again; those that splitd serves stay with it until they
    /// are detached
    Handback(Dry),
    /// What this host lacks, each with its fix
    Doctor(Output),
    /// The script that completes this command in a shell
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// What hotplug scripts call
    #[command(hide = true)]
    Hotplug {
        /// `add` or `remove`
        #[command(subcommand)]
        event: Hotplug,
    },
}

#[derive(Debug, Subcommand)]
enum Hotplug {
    /// Starts the worker; prints what the script is to write
    Add {
        /// XENBUS_PATH
        path: String,
    },
    /// Nothing is left to do
    Remove {
        /// XENBUS_PATH
        path: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = run(&arguments).and_then(|text| Ok(write_out(&text)?));
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("{trouble:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let socket = arguments.run_dir.join("splitd.sock");
    let ask = |verb| ctl::ask(&socket, verb);
    match &arguments.command {
        Command::List { domain, output } => {
            Ok(print::list(print::of_domains(ask(Verb::List)?, domain)?, output.json))
        }
        Command::Show { dev, output } => {
            Ok(print::show(ask(Verb::Show { device: dev.clone() })?, output.json))
        }
        Command::Stats { dev, output } => {
            Ok(print::stats(ask(Verb::Stats { device: dev.clone() })?, output.json))
        }
        Command::Top(options) => {
            watch(options, &|| Ok((ask(Verb::List)?, ask(Verb::Stats { device: None })?)))
        }
        Command::Trace { dev, seconds, output } => {
            let look = || ask(Verb::Stats { device: Some(dev.clone()) });
            let before = look()?;
            let start = Instant::now();
            std::thread::sleep(Duration::from_secs(*seconds));
            let now = look()?;
            let trace = trace::between(&before, &now, start.elapsed().as_secs_f64())?;
            Ok(if output.json { format!("{}\n", serde_json::to_string(&trace)?) } else { trace.text() })
        }
        Command::Log { dev, follow, lines } => {
            let answer = ask(Verb::Show { device: dev.clone() })?;
            let device = answer.get("device").cloned().unwrap_or_default();
            journal::show(&device, *follow, *lines).map(|()| String::new())
        }
        Command::Resize { dev, dry: Dry { dry_run: true } } => {
            let row = shown(ask(Verb::Show { device: dev.clone() })?);
            Ok(would(&row, "its worker looks at the size of", "target"))
        }
        Command::Resize { dev, dry: _ } => {
            let result = ask(Verb::Resize { device: dev.clone() })?;
            Ok(format!("{}\n", table::word(result.get("done"))))
        }
        Command::Restart { dev, all: _, dry: Dry { dry_run: true } } => {
            let rows = match dev {
                Some(dev) => vec![shown(ask(Verb::Show { device: dev.clone() })?)],
                None => print::take_rows(&ask(Verb::List)?),
            };
            let served = rows.iter().filter(|row| dev.is_some() || row.get("pid").is_some_and(Value::is_u64));
            Ok(served.map(|row| would(row, "replace worker", "pid")).collect())
        }
        Command::Restart { dev: Some(dev), all: _, dry: _ } => {
            done(dev, ask(Verb::Restart { device: dev.clone() })?)
        }
        Command::Restart { dev: None, all: _, dry: _ } => ctl::restart_all(ask),
        Command::Pause { dev, dry: Dry { dry_run: true } } => {
            let row = shown(ask(Verb::Show { device: dev.clone() })?);
            Ok(would(&row, "its requests wait, and it is closed:", "target"))
        }
        Command::Pause { dev, dry: _ } => done(dev, ask(Verb::Pause { device: dev.clone() })?),
        Command::Resume { dev, dry: Dry { dry_run: true } } => {
            let row = shown(ask(Verb::Show { device: dev.clone() })?);
            Ok(would(&row, "a new worker opens", "target"))
        }
        Command::Resume { dev, dry: _ } => done(dev, ask(Verb::Resume { device: dev.clone() })?),
        Command::Retarget { dev, target, dry: dry @ Dry { dry_run: true } } => {
            Ok(dry.mark(retarget::would(&ask, dev, target)?))
        }
        Command::Retarget { dev, target, dry: _ } => {
            let moved = retarget::run(&ask, dev, target)?;
            Ok(format!(
                "{dev} is served from {}: {} MiB copied in {} rounds, its guest waited {} ms; {}\nxl.cfg is yours to change\n",
                target.display(),
                moved.copied_bytes >> 20,
                moved.rounds,
                moved.held.as_millis(),
                moved.said
            ))
        }
        Command::Takeover { disks, vifs, dry } => {
            let mut which = Vec::new();
            which.extend((*disks || !vifs).then_some(Backend::Blkback));
            which.extend(vifs.then_some(Backend::Netback));
            Ok(dry.mark(as_lines(&machine(arguments, dry).take_over(&which)?)))
        }
        Command::Handback(dry) => {
            let served = served(&ask(Verb::List), &arguments.run_dir);
            Ok(dry.mark(as_lines(&machine(arguments, dry).hand_back(&served, Machine::load)?)))
        }
        Command::Policy { what } => what.run(&ask),
        Command::Qos(qos) => qos.run(&ask),
        Command::Sla { what } => what.run(),
        Command::Doctor(output) => doctor(arguments, ask(Verb::List), output),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "splitctl", &mut text);
            Ok(String::from_utf8(text)?)
        }
        Command::Hotplug { event: Hotplug::Add { path } } => {
            let result = ask(Verb::HotplugAdd { path: path.clone() })?;
            let identity = table::word(result.pointer("/opened/identity"));
            Ok(ctl::physical_device(&identity).map_or(String::new(), |numbers| format!("{numbers}\n")))
        }
        Command::Hotplug { event: Hotplug::Remove { path } } => {
            ask(Verb::HotplugRemove { path: path.clone() })?;
            Ok(String::new())
        }
    }
}

fn done(device: &str, answer: Value) -> anyhow::Result<String> {
    Ok(format!("{device}: {}\n", table::word(answer.get("done"))))
}

fn machine(arguments: &Arguments, dry: &Dry) -> Machine {
    let machine = Machine::new(&arguments.root);
    if dry.dry_run { machine.dry() } else { machine }
}

fn shown(answer: Value) -> Value {
    answer.get("device").cloned().unwrap_or_default()
}

/// A line of what would be done to a device.
fn would(row: &Value, what: &str, with: &str) -> String {
    let [device, with] = ["device", with].map(|key| table::word(row.get(key)));
    Dry { dry_run: true }.mark(format!("{device}: {what} {with}"))
}

/// `top`, until its end.
fn watch(options: &Top, ask: &dyn Fn() -> anyhow::Result<(Value, Value)>) -> anyhow::Result<String> {
    let start = Instant::now();
    let look = || ask().map(|(list, stats)| Look::new(start.elapsed().as_secs_f64(), &list, &stats));
    let view = View { disks: !options.networks, interfaces: !options.vbds, sort: Sort::Device, skip: 0 };
    let mut before = look()?;
    if !options.batch && !options.json && std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        let mut rates = top::rates(&before, &before);
        screen::run(view, options.delay, options.iterations, |view, anew| {
            if anew {
                let now = look()?;
                rates = top::rates(&before, &now);
                before = now;
            }
            rates.sort(view.sort);
            Ok(rates.text(view))
        })?;
        return Ok(String::new());
    }
    let mut left = options.iterations;
    while left != Some(0) {
        std::thread::sleep(Duration::from_secs(options.delay));
        let now = look()?;
        let rates = top::rates(&before, &now);
        before = now;
        let text =
            if options.json { format!("{}\n", serde_json::to_string(&rates)?) } else { rates.text(view) };
        if !write_out(&text)? {
            break;
        }
        left = left.map(|n| n - 1);
    }
    Ok(String::new())
}

/// False once the reader has seen enough.
fn write_out(text: &str) -> std::io::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(trouble) if trouble.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

fn as_lines(done: &[String]) -> String {
    done.iter().map(|line| format!("{line}\n")).collect()
}

/// Devices that a driver of the kernel's could take from splitd. One that does not answer may still have workers.
fn served(list: &anyhow::Result<Value>, run_dir: &Path) -> Vec<(Backend, String)> {
    let with_backend = |kind: &str, name: String| {
        let backend = Backend::ALL.into_iter().find(|backend| backend.driver() == kind)?;
        Some((backend, name))
    };
    match list {
        Ok(result) => print::take_rows(result)
            .iter()
            .filter(|row| row.get("not_served").is_none_or(Value::is_null))
            .filter_map(|row| with_backend(row.get("kind")?.as_str()?, table::word(row.get("device"))))
            .collect(),
        Err(_) => {
            let entries = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            names.filter_map(|name| with_backend(name.split_once('-')?.0, name.clone())).collect()
        }
    }
}

fn doctor(arguments: &Arguments, list: anyhow::Result<Value>, output: &Output) -> anyhow::Result<String> {
    let list = list.map_err(|trouble| format!("{trouble:#}"));
    let findings = doctor::examine(&Machine::new(&arguments.root), &list);
    let sound = findings.iter().all(|finding| finding.ok);
    let text =
        if output.json { print::as_json(json!({ "findings": findings })) } else { doctor::lines(&findings) };
    if sound {
        return Ok(text);
    }
    print!("{text}");
    let faults = findings.iter().filter(|finding| !finding.ok).count();
    anyhow::bail!("{faults} of {} checks found a fault", findings.len())
}
