//! `cargo xtask lab`: which scenarios, on which Xen, store and backend; one boot for each combination. Knows neither how
//! an image is made nor how QEMU is started.

mod boot;
mod image;
mod packages;
mod scenario;
mod share;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::{apt, command, dist};
use scenario::Scenario;

#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Version of Xen: 4.17 comes with Linux 6.1, 4.20 with Linux 6.12
    #[arg(long, global = true, value_enum)]
    xen: Option<Xen>,
    /// Store daemon of dom0: xenstored (C) or oxenstored (OCaml)
    #[arg(long, global = true, value_enum)]
    store: Option<Store>,
    /// Who serves the disks
    #[arg(long, global = true, value_enum, default_value_t = Backend::Splitd)]
    backend: Backend,
    /// How guests boot, where a scenario leaves it open
    #[arg(long, global = true, value_enum, default_value_t = Guest::Pv)]
    guest: Guest,
    /// Install what is missing without asking
    #[arg(long, global = true)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Every scenario and every acceptance number: which run, and why any does not
    List,
    /// Run scenarios by name
    Run {
        names: Vec<String>,
        /// Every scenario, on both Xens and both store daemons
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Only those that `cargo xtask test` runs
        #[arg(long, conflicts_with_all = ["names", "all"])]
        core: bool,
    },
    /// Boot dom0 with the backend ready and open a shell in it on this terminal
    Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Xen {
    #[value(name = "4.17")]
    V4_17,
    #[value(name = "4.20")]
    V4_20,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    C,
    Ocaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Splitd,
    Kernel,
    Qdisk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Guest {
    Pv,
    /// With one virtual processor always: several stand still for minutes under this emulator.
    Pvh,
}

impl Guest {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Guest::Pv => "pv",
            Guest::Pvh => "pvh",
        }
    }
}

impl Xen {
    pub(crate) const ALL: [Xen; 2] = [Xen::V4_17, Xen::V4_20];

    pub(crate) fn version(self) -> &'static str {
        match self {
            Xen::V4_17 => "4.17",
            Xen::V4_20 => "4.20",
        }
    }

    /// The Debian release that ships this Xen.
    pub(crate) fn suite(self) -> &'static str {
        match self {
            Xen::V4_17 => "bookworm",
            Xen::V4_20 => "trixie",
        }
    }
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Store::C => "c",
            Store::Ocaml => "ocaml",
        }
    }
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Splitd => "splitd",
            Backend::Kernel => "kernel",
            Backend::Qdisk => "qdisk",
        }
    }
}

/// What one boot of dom0 is for.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) xen: Xen,
    pub(crate) store: Store,
    pub(crate) backend: Backend,
    pub(crate) guest: Guest,
    pub(crate) systemd: bool,
    pub(crate) scenarios: Vec<Scenario>,
}

impl Plan {
    /// Names the boot in directories and messages.
    pub(crate) fn name(&self) -> String {
        let init = if self.systemd { "-systemd" } else { "" };
        let guest = if self.guest == Guest::Pvh { "-pvh" } else { "" };
        format!("xen{}-{}-{}{guest}{init}", self.xen.version(), self.store.name(), self.backend.name())
    }
}

/// Scenarios that passed and failed on one Xen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let known = scenario::load()?;
    let (chosen, all) = match &args.action {
        Action::List => return scenario::list(&known),
        Action::Shell => (Vec::new(), false),
        Action::Run { all: true, .. } => (known.into_iter().filter(|one| !one.bench).collect(), true),
        Action::Run { core: true, .. } => {
            let xen = args.xen.unwrap_or(Xen::V4_17);
            (known.into_iter().filter(|one| one.core.contains(&xen)).collect(), false)
        }
        Action::Run { names, .. } => (scenario::pick(known, names)?, false),
    };
    install_missing(args.yes)?;
    let shell = matches!(args.action, Action::Shell);
    let plans = plans(&args, &chosen, all);
    let deb = if args.backend == Backend::Splitd { Some(dist::build()?) } else { None };
    let mut total = Tally::default();
    for plan in &plans {
        if shell {
            return shell_in(plan, deb.as_deref());
        }
        let tally = run_plan(plan, deb.as_deref())?;
        total.passed += tally.passed;
        total.failed += tally.failed;
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        bail!("{} scenarios failed; see target/lab/NAME/", total.failed);
    }
    Ok(())
}

/// Installs what this machine lacks for a boot, once agreed to.
fn install_missing(yes: bool) -> Result<()> {
    let missing = apt::missing_for_lab();
    if missing.is_empty() {
        return Ok(());
    }
    let question = format!("The lab needs {} from apt. Install?", missing.join(" "));
    if !apt::agreed(yes, &question)? {
        bail!("not installed: {}", missing.join(" "));
    }
    apt::install(&missing)
}

/// The boots that `args` ask for: everything not said is the default, or with `--all` every combination.
fn plans(args: &Args, chosen: &[Scenario], all: bool) -> Vec<Plan> {
    let mut combinations = vec![(args.xen.unwrap_or(Xen::V4_17), args.store.unwrap_or(Store::C))];
    if all {
        combinations = vec![(Xen::V4_17, Store::C), (Xen::V4_17, Store::Ocaml), (Xen::V4_20, Store::C)];
        combinations.retain(|(xen, store)| {
            args.xen.is_none_or(|wanted| wanted == *xen) && args.store.is_none_or(|wanted| wanted == *store)
        });
    }
    combinations
        .into_iter()
        .flat_map(|(xen, store)| plans_for(xen, store, args.backend, chosen, all || !chosen.is_empty()))
        .map(|plan| Plan { guest: args.guest, ..plan })
        .collect()
}

/// One boot for the scenarios under a plain init and one for those that need systemd, where there are any.
pub(crate) fn plans_for(
    xen: Xen,
    store: Store,
    backend: Backend,
    chosen: &[Scenario],
    skip_empty: bool,
) -> Vec<Plan> {
    [false, true]
        .into_iter()
        .map(|systemd| {
            let scenarios: Vec<Scenario> = chosen
                .iter()
                .filter(|one| one.systemd == systemd && one.runs_on(xen, store, backend))
                .cloned()
                .collect();
            Plan { xen, store, backend, guest: Guest::Pv, systemd, scenarios }
        })
        .filter(|plan| !plan.scenarios.is_empty() || (!skip_empty && !plan.systemd))
        .collect()
}

/// Where images are kept.
pub(crate) fn cache() -> Result<PathBuf> {
    image::cache()
}

/// Whether the images of every Xen are there already.
pub(crate) fn images_built() -> Result<bool> {
    Xen::ALL.into_iter().try_fold(true, |built, xen| Ok(built && image::is_built(xen)?))
}

/// Makes the images of every Xen that are not there yet.
pub(crate) fn build_images() -> Result<()> {
    Xen::ALL.into_iter().try_for_each(|xen| image::ready(xen).map(drop))
}

/// Runs a benchmark's scenario on `xen`, which finds `env` in its shell, and gives back its rows, one JSON object a line.
pub(crate) fn bench(xen: Xen, scenario: &str, env: &str, yes: bool) -> Result<String> {
    install_missing(yes)?;
    let chosen = scenario::pick(scenario::load()?, &[scenario.to_owned()])?;
    let deb = dist::build()?;
    let (store, backend, guest) = (Store::C, Backend::Splitd, Guest::Pv);
    let plan = Plan { xen, store, backend, guest, systemd: false, scenarios: chosen };
    fs::create_dir_all(command::target().join("lab"))?;
    fs::write(command::target().join("lab/bench.env"), env)?;
    let tally = run_plan(&plan, Some(&deb))?;
    // Kept whatever the end was: half an hour of measuring is in it, and the next boot removes the directory.
    let rows = fs::read_to_string(share::path(&plan).join("rows.jsonl")).unwrap_or_default();
    let kept = command::target().join("lab").join(format!("{scenario}.jsonl"));
    fs::write(&kept, &rows)?;
    if tally.failed > 0 {
        bail!(
            "the benchmark did not come to its end; see target/lab/{scenario}/, and {} for its rows",
            kept.display()
        );
    }
    Ok(rows)
}

/// The core scenarios in one boot.
pub(crate) fn core(xen: Xen, store: Store, backend: Backend, deb: &Path) -> Result<Tally> {
    let chosen: Vec<Scenario> =
        scenario::load()?.into_iter().filter(|one| one.core.contains(&xen) && !one.systemd).collect();
    let mut tally = Tally::default();
    for plan in plans_for(xen, store, backend, &chosen, true) {
        let result = run_plan(&plan, Some(deb))?;
        tally.passed += result.passed;
        tally.failed += result.failed;
    }
    Ok(tally)
}

/// Boots once and runs the plan's scenarios; failures are counted and left under target/lab/NAME/.
pub(crate) fn run_plan(plan: &Plan, deb: Option<&Path>) -> Result<Tally> {
    let images = image::ready(plan.xen)?;
    let guests = guest_images(plan)?;
    let _one_lab_at_a_time = lock()?;
    let mut tally = Tally::default();
    println!("lab {}: {} scenarios in one boot", plan.name(), plan.scenarios.len());
    let began = Instant::now();
    for attempt in 1..=2 {
        let share = share::lay_out(plan, &images, &guests, deb, "plan")?;
        match boot::run(plan, &images, &share)? {
            boot::Outcome::DiedBeforeUp if attempt == 1 => {
                println!(
                    "lab {}: dom0 did not come up; trying once more (console kept in {})",
                    plan.name(),
                    share.display()
                );
            }
            boot::Outcome::DiedBeforeUp => {
                bail!("dom0 did not come up twice; console in {}", share.display())
            }
            boot::Outcome::Ended(results) => {
                tally.passed = results.iter().filter(|result| result.ok).count();
                tally.failed = plan.scenarios.len() - tally.passed;
                keep_evidence(plan, &share)?;
                break;
            }
        }
    }
    println!(
        "lab {}: {} passed, {} failed, {} s",
        plan.name(),
        tally.passed,
        tally.failed,
        began.elapsed().as_secs()
    );
    Ok(tally)
}

fn shell_in(plan: &Plan, deb: Option<&Path>) -> Result<()> {
    let images = image::ready(plan.xen)?;
    let guests = guest_images(plan)?;
    let _one_lab_at_a_time = lock()?;
    let share = share::lay_out(plan, &images, &guests, deb, "shell")?;
    boot::interactive(&images, &share)
}

/// Guest kernels: dom0's own, and the other release's where its images are built already or a scenario asks for it.
fn guest_images(plan: &Plan) -> Result<Vec<image::Images>> {
    let wanted = |xen: Xen| plan.scenarios.iter().any(|one| one.guest_kernel_of == Some(xen));
    Xen::ALL.into_iter().filter(|xen| *xen == plan.xen || wanted(*xen)).map(image::ready).collect()
}

/// Held while QEMU runs: two labs at once on a small machine only slow each other into their limits.
fn lock() -> Result<File> {
    let path = image::cache()?.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        println!("lab: another lab runs on this machine; waiting for it");
        file.lock().context("cannot lock the lab")?;
    }
    Ok(file)
}

/// Removes what earlier failures of these scenarios left, then moves what failed scenarios left in the shared directory to target/lab/NAME/, where the messages point.
fn keep_evidence(plan: &Plan, share: &Path) -> Result<()> {
    for scenario in &plan.scenarios {
        let _ = fs::remove_dir_all(command::target().join("lab").join(&scenario.name));
    }
    for entry in fs::read_dir(share.join("evidence"))? {
        let entry = entry?;
        let to: PathBuf = command::target().join("lab").join(entry.file_name());
        if to.exists() {
            fs::remove_dir_all(&to).or_else(|_| fs::remove_file(&to))?;
        }
        fs::rename(entry.path(), &to)?;
        if to.is_dir() {
            fs::copy(share.join("console.log"), to.join("console.log"))?;
            fs::write(to.join("boot"), plan.name())?;
        }
    }
    Ok(())
}
