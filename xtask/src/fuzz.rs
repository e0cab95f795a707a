//! `cargo xtask fuzz`: builds the fuzz targets with libFuzzer, instrumented, beside everything else, and runs them one after the other;
//! what was found stays below `target/fuzz`, what is to be kept is copied on demand. Knows nothing of what the targets check.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::command;

/// What libFuzzer needs of the compiler: coverage by edge, comparisons, and the address sanitizer.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
];
const HOST: &str = "x86_64-unknown-linux-gnu";
/// A single input that takes so long is a hang.
const INPUT_LIMIT_S: u32 = 60;
const MEMORY_LIMIT_MIB: u32 = 1024;

#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// All, if none is named; `list` says which there are
    targets: Vec<String>,
    /// How long each is run
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Run these inputs once each instead
    #[arg(long)]
    input: Vec<PathBuf>,
    /// Afterwards make the kept inputs the smallest set that reaches all that was reached
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let all = targets()?;
    if args.targets == ["list"] {
        all.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    let named = if args.targets.is_empty() { &all } else { &args.targets };
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("{unknown}: no such target; allowed are {}", all.join(", "));
    }
    let binary = build()?;
    let mut failed = Vec::new();
    for name in named {
        println!("== {name}");
        if !one(&binary, name, args)? {
            failed.push(name.as_str());
        } else if args.keep {
            keep(&binary, name)?;
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}; the inputs are in {}", failed.join(", "), found("").display());
    }
    Ok(())
}

/// The names of what is kept are those of the targets; a test holds them to each other.
fn targets() -> Result<Vec<String>> {
    let dir = corpus("");
    let entries = fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn corpus(target: &str) -> PathBuf {
    command::root().join("tests/fuzz/corpus").join(target)
}

fn found(target: &str) -> PathBuf {
    command::target().join("fuzz/found").join(target)
}

fn build() -> Result<PathBuf> {
    if Command::new("c++").arg("--version").output().is_err() {
        bail!("no C++ compiler (c++): libFuzzer is built from source; Debian's package is g++");
    }
    let dir = command::target().join("fuzz");
    let built = command::cargo()
        .args(["build", "--release", "--target", HOST])
        .args(["--manifest-path", "tests/fuzz/Cargo.toml"])
        // The sanitizer is an unstable flag of a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS.join(" "))
        .env("CARGO_TARGET_DIR", &dir)
        .status()?;
    if !built.success() {
        bail!(
            "the fuzz targets do not build (they need rustc for {HOST} and, once, libfuzzer-sys from crates.io)"
        );
    }
    Ok(dir.join(HOST).join("release/splitd-fuzz"))
}

fn fuzzer(binary: &Path, target: &str) -> Command {
    let mut fuzzer = Command::new(binary);
    fuzzer.env("SPLITD_FUZZ_TARGET", target).current_dir(command::root());
    fuzzer
}

/// True if nothing was found.
fn one(binary: &Path, target: &str, args: &Args) -> Result<bool> {
    let mut fuzzer = fuzzer(binary, target);
    if !args.input.is_empty() {
        return Ok(fuzzer.args(&args.input).status()?.success());
    }
    let (search, crashes) = (found(target).join("corpus"), found(target).join("crashes"));
    for dir in [&search, &crashes] {
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    }
    fuzzer
        .arg(format!("-max_total_time={}", args.seconds))
        .arg(format!("-timeout={INPUT_LIMIT_S}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-print_final_stats=1", "-use_value_profile=1", "-max_len=4096"])
        .arg(search)
        .arg(corpus(target));
    Ok(fuzzer.status()?.success())
}

/// The smallest inputs that together reach every edge that any did.
fn keep(binary: &Path, target: &str) -> Result<()> {
    let kept = corpus(target);
    let merged = found(target).join("merged");
    let _ = fs::remove_dir_all(&merged);
    fs::create_dir_all(&merged)?;
    let mut fuzzer = fuzzer(binary, target);
    fuzzer.args(["-set_cover_merge=1", "-use_counters=0", "-max_len=4096"]);
    command::run(fuzzer.arg(&merged).arg(found(target).join("corpus")).arg(&kept))?;
    fs::remove_dir_all(&kept)?;
    fs::create_dir_all(&kept)?;
    for entry in fs::read_dir(&merged)? {
        let entry = entry?;
        fs::copy(entry.path(), kept.join(entry.file_name()))?;
    }
    Ok(())
}
