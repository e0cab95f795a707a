//! The operator's command line. Exit codes: 0 done, 1 failed, 2 usage.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use splitd::ctl::takeover::Machine;
use splitd::ctl::{self, doctor, policy, table};
use splitd::kernel::Backend;
use splitd::protocol::Verb;

/// Looks after the disks and network interfaces that splitd serves. DEV is vbd/DOMAIN/VDEV, as in vbd/5/xvda or vbd/web1/51712,
/// or vif/DOMAIN/NUMBER, as in vif/5/0.
#[derive(Debug, Parser)]
#[command(version)]
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

#[derive(Debug, Subcommand)]
enum Command {
    /// All disks and interfaces; the first columns are those of `xl block-list`
    List(Output),
    /// Everything about one device
    Show {
        /// Which
        dev: String,
        #[command(flatten)]
        output: Output,
    },
    /// Counters
    Stats {
        /// Which; all if left out
        dev: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Has a disk's worker look at its target's size now
    Resize {
        /// Which
        dev: String,
    },
    /// Replaces a worker under the running guest; also tries again where splitd has given up
    Restart {
        /// Which
        #[arg(required_unless_present = "all")]
        dev: Option<String>,
        /// All of them, one after the other
        #[arg(long, conflicts_with = "dev")]
        all: bool,
    },
    /// The policy file: check one, take the installed one anew, say what holds
    Policy {
        /// What to do
        #[command(subcommand)]
        what: policy::Policy,
    },
    /// Shares and caps of all domains, or of one; with -w, --cap or --reset sets them above the policy file
    Qos(policy::Qos),
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
    },
    /// Undoes every takeover: the kernel's backends take new devices again; those that splitd serves stay with it until they
    /// are detached
    Handback,
    /// What this host lacks, each with its fix
    Doctor(Output),
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
    let outcome = run(&arguments).and_then(|text| {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has seen enough.
            Err(trouble) if trouble.kind() != std::io::ErrorKind::BrokenPipe => Err(trouble.into()),
            _ => Ok(()),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
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
        Command::List(output) => Ok(list(ask(Verb::List)?, output)),
        Command::Show { dev, output } => Ok(show(ask(Verb::Show { device: dev.clone() })?, output)),
        Command::Stats { dev, output } => Ok(stats(ask(Verb::Stats { device: dev.clone() })?, output)),
        Command::Resize { dev } => {
            let result = ask(Verb::Resize { device: dev.clone() })?;
            Ok(format!("{}\n", table::word(result.get("done"))))
        }
        Command::Restart { dev, all: _ } => {
            let result = ask(Verb::Restart { device: dev.clone() })?;
            let rows = result.get("restarted").and_then(Value::as_array).cloned().unwrap_or_default();
            let line = |row: &Value| {
                format!("{}: {}\n", table::word(row.get("device")), table::word(row.get("done")))
            };
            Ok(rows.iter().map(line).collect())
        }
        Command::Takeover { disks, vifs } => {
            let mut which = Vec::new();
            which.extend((*disks || !vifs).then_some(Backend::Blkback));
            which.extend(vifs.then_some(Backend::Netback));
            Ok(as_lines(&Machine::new(&arguments.root).take_over(&which)?))
        }
        Command::Handback => {
            let served = served(&ask(Verb::List), &arguments.run_dir);
            Ok(as_lines(&Machine::new(&arguments.root).hand_back(&served, Machine::load)?))
        }
        Command::Policy { what } => what.run(&ask),
        Command::Qos(qos) => qos.run(&ask),
        Command::Doctor(output) => doctor(arguments, ask(Verb::List), output),
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
        Ok(result) => take_rows(result)
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
    let text = if output.json { as_json(json!({ "findings": findings })) } else { doctor::lines(&findings) };
    if sound {
        return Ok(text);
    }
    print!("{text}");
    let faults = findings.iter().filter(|finding| !finding.ok).count();
    anyhow::bail!("{faults} of {} checks found a fault", findings.len())
}

fn as_json(mut result: Value) -> String {
    if let Some(object) = result.as_object_mut() {
        object.insert("version".to_owned(), json!(1));
    }
    format!("{result}\n")
}

fn take_rows(result: &Value) -> Vec<Value> {
    result.get("devices").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn list(result: Value, output: &Output) -> String {
    if output.json {
        return as_json(result);
    }
    let mut rows = take_rows(&result);
    for row in &mut rows {
        let note = ["alarm", "not_served"].into_iter().find_map(|key| row.get(key).and_then(Value::as_str));
        let note = note.map(str::to_owned).or_else(|| (row.get("domid") == Some(&json!(0))).then(dom0_note));
        row["note"] = json!(note);
    }
    if std::io::stdout().is_terminal() {
        for row in &mut rows {
            let state = row.get("state").and_then(Value::as_u64);
            row["state"] = json!(format!("{} {}", table::word(row.get("state")), table::state_name(state)));
        }
        table::aligned(&table::LIST, &rows)
    } else {
        table::pairs(&rows)
    }
}

fn dom0_note() -> String {
    "dom0's own: its worker's event channels cannot be restricted".to_owned()
}

fn show(result: Value, output: &Output) -> String {
    if output.json { as_json(result) } else { result.get("device").map(table::sheet).unwrap_or_default() }
}

fn stats(result: Value, output: &Output) -> String {
    if output.json {
        return as_json(result);
    }
    let mut rows = take_rows(&result);
    for row in &mut rows {
        if let Some(figures) = row.as_object_mut() {
            figures.remove("queues");
        }
    }
    if std::io::stdout().is_terminal() {
        rows.iter().map(table::sheet).collect()
    } else {
        table::pairs(&rows)
    }
}
