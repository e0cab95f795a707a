//! The project's commands: `cargo xtask demo | test | lab | bench | fuzz | mutants | dist`. This file only reads the command line; each command has a
//! module of its own. Nothing in xtask is part of the product.

mod apt;
mod bench;
mod command;
mod dist;
mod fuzz;
mod lab;
mod mutants;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's commands")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// The main job on a machine without Xen: a simulated host, the real daemon and workers, two guests, a verdict
    Demo {
        /// Print the verdict as one JSON object, last
        #[arg(long)]
        json: bool,
    },
    /// Everything that can be tested: format, lints, tests, then the core scenarios on real Xen in QEMU
    Test {
        /// Leave out the lab: needs no root and no network
        #[arg(long)]
        no_lab: bool,
        /// Install what is missing without asking
        #[arg(long)]
        yes: bool,
    },
    /// Real Xen in QEMU: list or run scenarios, or open a shell in dom0
    Lab(lab::Args),
    /// Side-by-side benchmarks
    Bench(bench::Args),
    /// Search for inputs that break what must hold: libFuzzer over the fuzz targets
    Fuzz(fuzz::Args),
    /// Take one check after the other out of a copy of the sources, and see the test that has to notice fail
    Mutants(mutants::Args),
    /// Build target/dist/splitd_VERSION_amd64.deb
    Dist,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Demo { json } => bench::demo(json),
        Task::Bench(args) => bench::run(args),
        Task::Test { no_lab, yes } => test::run(no_lab, yes),
        Task::Lab(args) => lab::run(args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Mutants(args) => mutants::run(&args),
        Task::Dist => dist::build().map(|path| println!("{}", path.display())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
