//! `cargo xtask test`: format, lints, every test without Xen, then the core scenarios of the lab, one boot per Xen. Knows the
//! order and how results are counted; each step is a program of its own.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::lab::{self, Backend, Store, Tally, Xen};
use crate::{apt, command, dist};

pub(crate) fn run(no_lab: bool, yes: bool) -> Result<()> {
    let missing = if no_lab { Vec::new() } else { apt::missing_for_lab() };
    announce(no_lab, &missing)?;
    if !no_lab && (!missing.is_empty() || !lab::images_built()?) {
        if !apt::agreed(yes, "Go ahead?")? {
            bail!("stopped; `cargo xtask test --no-lab` needs neither root nor network");
        }
        apt::install(&missing)?;
    }
    let began = Instant::now();
    let step = |what: &str| println!("== {what} ({} s)", began.elapsed().as_secs());
    step("format");
    command::run(command::cargo().args(["fmt", "--all", "--check"]))?;
    // Images are mostly downloads and one process after another: they are made beside what the compilers leave idle.
    std::thread::scope(|scope| {
        let images = scope.spawn(|| if no_lab { Ok(()) } else { lab::build_images() });
        step("lints");
        let lints = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
        command::run(command::cargo().args(lints))?;
        step("build");
        command::run(command::cargo().args(["test", "--quiet", "--workspace", "--no-run"]))?;
        images.join().map_err(|_| anyhow!("building the lab's images panicked"))?
    })?;
    step("tests without Xen");
    let mut without = counted(command::cargo().args(["test", "--workspace", "--no-fail-fast"]))?;
    step("a worker killed at each crash point, disks that fail on command");
    let crashes = counted(
        command::cargo()
            .args(["test", "--no-fail-fast", "-p", "blkback", "--features", "crash-points"])
            .args(["--test", "restart", "--test", "disk_faults"]),
    )?;
    step("interleavings of the ring (loom)");
    let loom = counted(
        command::cargo()
            .args(["test", "--release", "-p", "xen-ring", "--test", "loom"])
            .env("RUSTFLAGS", "--cfg loom")
            .env("CARGO_TARGET_DIR", command::target().join("loom")),
    )?;
    for more in [crashes, loom] {
        without.passed += more.passed;
        without.failed += more.failed;
    }
    let mut on_xen = Vec::new();
    if !no_lab {
        step("package");
        let deb = dist::build()?;
        lintian(&deb)?;
        step("core scenarios on real Xen");
        for xen in Xen::ALL {
            on_xen.push((xen, lab::core(xen, Store::C, Backend::Splitd, &deb)?));
        }
    }
    step("done");
    finish(without, &on_xen)
}

fn announce(no_lab: bool, missing: &[&str]) -> Result<()> {
    println!(
        "This checks the format, runs the lints and all tests that need no Xen (some minutes once built)."
    );
    println!(
        "The xenstore client meets Debian's own xenstored and oxenstored, the metrics its Prometheus: 22 MB downloaded once \
         with apt-get, installed nowhere. The status page is looked at in chromium, manual pages by mandoc, if they are there. \
         What cannot be is told as SKIPPED; with CI=true it fails."
    );
    if no_lab {
        println!("The lab is left out.");
        return Ok(());
    }
    if missing.is_empty() {
        println!("Nothing has to be installed.");
    } else {
        println!("It installs with apt: {} (up to 300 MB to download).", missing.join(" "));
    }
    if lab::images_built()? {
        println!("The lab's images are in {}.", lab::cache()?.display());
    } else {
        println!(
            "It makes images of Debian with Xen in {} (downloads about 400 MB, takes 1.5 GB, some minutes, once).",
            lab::cache()?.display()
        );
    }
    println!(
        "Then it boots Xen 4.17 and Xen 4.20 in QEMU, once each, for the core scenarios (about twenty minutes)."
    );
    Ok(())
}

/// Runs cargo's test command, passing its output on, and adds up its "test result" lines.
fn counted(command: &mut Command) -> Result<Tally> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut tally = Tally::default();
    for line in BufReader::new(child.stdout.take().context("no pipe from cargo")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(rest) = line.strip_prefix("test result: ") {
            tally.passed += number_before(rest, " passed");
            tally.failed += number_before(rest, " failed");
        }
    }
    if !child.wait()?.success() && tally.failed == 0 {
        bail!("cargo test did not come to a result");
    }
    Ok(tally)
}

fn number_before(text: &str, word: &str) -> usize {
    text.split(word)
        .next()
        .and_then(|head| head.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn lintian(deb: &std::path::Path) -> Result<()> {
    command::run(
        Command::new("lintian")
            .args(["--allow-root", "--fail-on", "error", "--display-level", "error"])
            .arg(deb),
    )
}

fn finish(without: Tally, on_xen: &[(Xen, Tally)]) -> Result<()> {
    let mut total = without;
    let mut line = format!("{} without Xen", without.passed);
    for (xen, tally) in on_xen {
        total.passed += tally.passed;
        total.failed += tally.failed;
        line.push_str(&format!(", {} on Xen {}", tally.passed, xen.version()));
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    println!("{line}");
    if total.failed > 0 {
        bail!("{} tests failed", total.failed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::number_before;

    /// The counts in the last line are read from cargo's own result lines.
    #[test]
    fn numbers_are_read_from_a_result_line() {
        let line = "ok. 12 passed; 3 failed; 0 ignored; 0 measured";

        assert_eq!((number_before(line, " passed"), number_before(line, " failed")), (12, 3));
    }
}
