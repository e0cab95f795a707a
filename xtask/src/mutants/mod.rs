//! `cargo xtask mutants`: takes one check at a time out of a copy of the sources and runs the test that has to notice. Each mutant of
//! `tests/mutants/*.toml` names the cases that it stands for. Knows nothing of what the checks are for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::command;

mod copy;
mod list;

use list::{Mutant, Named};

/// A test that takes so long has noticed, too.
const LIMIT_S: u32 = 900;

#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Those of such a name, file, test (a part will do) or case; all, if none is given
    names: Vec<String>,
    /// Only say which there are
    #[arg(long)]
    list: bool,
    /// Do not first see that the tests pass without a mutant
    #[arg(long)]
    no_baseline: bool,
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Caught,
    CaughtByTime,
    Survived,
    DoesNotCompile,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let all = list::read(&command::root())?;
    let wanted: Vec<&Mutant> =
        all.iter().filter(|m| args.names.is_empty() || args.names.iter().any(|n| m.is_about(n))).collect();
    if wanted.is_empty() {
        bail!("no such mutant; `cargo xtask mutants --list` says which there are");
    }
    if args.list {
        wanted.iter().for_each(|m| println!("{:<40} {} [{}]", m.name, m.file, m.cases.join(" ")));
        return Ok(());
    }
    let tree = command::target().join("mutants/tree");
    copy::update(&command::root(), &tree)?;
    if !args.no_baseline {
        baseline(&tree, &wanted)?;
    }
    let mut wrong = Vec::new();
    for (number, mutant) in wanted.iter().enumerate() {
        let outcome = one(&tree, mutant).with_context(|| mutant.name.clone())?;
        println!("{}/{} {:<40} {outcome:?}", number + 1, wanted.len(), mutant.name);
        if matches!(outcome, Outcome::Survived | Outcome::DoesNotCompile) {
            wrong.push(mutant.name.as_str());
        }
    }
    println!("{} caught, {} not", wanted.len() - wrong.len(), wrong.len());
    if !wrong.is_empty() {
        bail!("not caught: {}", wrong.join(", "));
    }
    Ok(())
}

fn cargo_test(tree: &Path, named: &Named) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &LIMIT_S.to_string()]).arg(cargo);
    with_settings(&mut command, tree, named);
    command
}

/// Apart from the run: how long a build takes says nothing of a test.
fn built(tree: &Path, named: &Named) -> Result<bool> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    with_settings(&mut command, tree, named);
    let output = command.arg("--no-run").output()?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.status.success())
}

fn with_settings(command: &mut Command, tree: &Path, named: &Named) {
    command.args(["test", "--quiet"]).args(&named.cargo).current_dir(tree);
    // Other flags are other builds of everything.
    let build = if named.flags.is_empty() { "build" } else { "build-with-flags" };
    command.env("CARGO_TARGET_DIR", command::target().join("mutants").join(build));
    command.env("CARGO_PROFILE_DEV_DEBUG", "none");
    if !named.flags.is_empty() {
        command.env("RUSTFLAGS", &named.flags);
    }
    // What a test searches for by chance is searched for by the same chance each time.
    command.env("SPLITD_FUZZ_SEED", "1").env("PROPTEST_RNG_SEED", "1");
}

/// A test that fails anyway notices nothing.
fn baseline(tree: &Path, mutants: &[&Mutant]) -> Result<()> {
    let mut tests: BTreeMap<Named, Vec<String>> = BTreeMap::new();
    for mutant in mutants {
        let mut named = mutant.named()?;
        let test = std::mem::take(&mut named.test);
        let names = tests.entry(named).or_default();
        if !names.contains(&test) {
            names.push(test);
        }
    }
    for (named, names) in tests {
        println!("without a mutant: {} {}", named.cargo.join(" "), names.join(" "));
        if !built(tree, &named)? {
            bail!("the sources do not compile without a mutant");
        }
        let output = cargo_test(tree, &named).args(["--", "--exact"]).args(&names).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let passed: usize = text
            .lines()
            .filter_map(|line| {
                line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<usize>().ok()
            })
            .sum();
        if !output.status.success() || passed != names.len() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{passed} of {} tests pass without a mutant:\n{text}{errors}", names.len());
        }
    }
    Ok(())
}

fn one(tree: &Path, mutant: &Mutant) -> Result<Outcome> {
    let path = tree.join(&mutant.file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    fs::write(&path, mutant.applied(&text)?)?;
    let outcome = tried(tree, mutant);
    fs::write(&path, text)?;
    outcome
}

fn tried(tree: &Path, mutant: &Mutant) -> Result<Outcome> {
    let named = mutant.named()?;
    if !built(tree, &named)? {
        return Ok(Outcome::DoesNotCompile);
    }
    let status = cargo_test(tree, &named)
        .args(["--", "--exact", &named.test])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    Ok(match status.code() {
        Some(0) => Outcome::Survived,
        Some(124 | 137) => Outcome::CaughtByTime,
        _ => Outcome::Caught,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Where a package's sources and a target of it are.
    fn target_files(root: &Path, cargo: &[String]) -> Result<Vec<PathBuf>> {
        let value = |flag: &str| {
            let at = cargo.iter().position(|word| word == flag)?;
            cargo.get(at + 1).map(String::as_str)
        };
        let package = value("-p").context("a test names its package with -p")?;
        let dir = match package {
            "xen-ring" => "ring",
            "xen-qos" => "qos",
            "splitd-tests" => "tests",
            other => other,
        };
        let dir = root.join(dir);
        Ok(match value("--test") {
            Some(name) => vec![dir.join(format!("tests/{name}.rs")), dir.join("tests").join(name)],
            None => vec![dir.join("src")],
        })
    }

    fn words_of(path: &Path, out: &mut String) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| words_of(&entry.unwrap().path(), out));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push_str(&fs::read_to_string(path).unwrap());
        }
    }

    /// A mutant whose text is gone, or whose test is, would be skipped in silence.
    #[test]
    fn every_mutant_applies_and_its_test_is_there() {
        let root = command::root();
        let mutants = list::read(&root).unwrap();
        let mut wrong = Vec::new();
        for mutant in &mutants {
            let text = fs::read_to_string(root.join(&mutant.file)).unwrap_or_default();
            if let Err(why) = mutant.applied(&text) {
                wrong.push(format!("{}: {why}", mutant.name));
            }
            let Named { cargo, test, .. } = mutant.named().unwrap();
            let mut sources = String::new();
            for path in target_files(&root, &cargo).unwrap() {
                if path.exists() {
                    words_of(&path, &mut sources);
                }
            }
            let name = test.rsplit("::").next().unwrap_or_default().to_owned();
            let mut words = sources.split(|c: char| !c.is_alphanumeric() && c != '_');
            if !words.any(|word| word == name) {
                wrong.push(format!("{}: there is no test {test} in {}", mutant.name, cargo.join(" ")));
            }
        }
        let names: std::collections::BTreeSet<_> = mutants.iter().map(|m| &m.name).collect();
        assert_eq!(names.len(), mutants.len(), "two of one name");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
