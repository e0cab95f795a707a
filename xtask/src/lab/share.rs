//! The directory a boot shares with its dom0: the plan, the package, scripts, guest kernels; and where dom0 puts results
//! and evidence. Knows the layout that tests/lab/dom0 relies on, nothing of QEMU.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::image::Images;
use super::{Plan, packages};
use crate::{command, dist};

/// Where the directory of this plan's boot is.
pub(crate) fn path(plan: &Plan) -> PathBuf {
    command::target().join("lab").join(format!("boot-{}", plan.name()))
}

/// Lays the directory out anew and gives back its path. `mode` is what dom0 does once it is up: `plan` or `shell`.
pub(crate) fn lay_out(
    plan: &Plan,
    images: &Images,
    guests: &[Images],
    deb: Option<&Path>,
    mode: &str,
) -> Result<PathBuf> {
    let share = path(plan);
    if share.exists() {
        fs::remove_dir_all(&share)?;
    }
    fs::create_dir_all(share.join("evidence"))?;
    let lab = command::root().join("tests/lab");
    copy_dir(&lab.join("dom0"), &share.join("dom0"))?;
    copy_dir(&lab.join("scenarios"), &share.join("scenarios"))?;
    copy_dir(&command::root().join("bench/fio"), &share.join("fio"))?;
    fs::copy(command::root().join("docs/getting-started.md"), share.join("getting-started.md"))?;
    if let Some(deb) = deb {
        fs::copy(deb, share.join("splitd.deb")).with_context(|| format!("{}", deb.display()))?;
        fs::copy(dist::next()?, share.join("splitd-next.deb")).context("the package to upgrade to")?;
    }
    for (of, example) in [("xenbus", "on_xen"), ("worker", "sandbox_probe")] {
        command::run(command::cargo().args([
            "build",
            "--release",
            "--quiet",
            "-p",
            of,
            "--example",
            example,
        ]))?;
        fs::copy(command::target().join("release/examples").join(example), share.join(example))?;
    }
    if plan.scenarios.iter().any(|one| one.faulty_worker) {
        fs::copy(faulty_worker()?, share.join("blkback-faulty"))?;
    }
    for guest in guests {
        let dir = share.join("guest").join(guest.kernel()?);
        fs::create_dir_all(&dir)?;
        fs::copy(guest.file("vmlinuz"), dir.join("vmlinuz"))?;
        let scripts = [("init", lab.join("guest/init")), ("agent", lab.join("guest/agent"))];
        initrd(&guest.file("guest.initrd"), &scripts, &dir.join("initrd"))?;
    }
    initrd(
        &images.file("dom0.initrd"),
        &[("init", lab.join("dom0/initrd-init"))],
        &share.join("dom0.initrd"),
    )?;
    fs::write(
        share.join("plan.env"),
        format!(
            "LAB_XEN={} LAB_STORE={} LAB_BACKEND={} LAB_MODE={mode} LAB_GUEST_TYPE={} LAB_GUEST={}\n",
            images.xen.version(),
            plan.store.name(),
            plan.backend.name(),
            plan.guest.name(),
            images.kernel()?
        ),
    )?;
    let bench_env = command::target().join("lab/bench.env");
    if bench_env.exists() {
        fs::rename(bench_env, share.join("bench.env"))?;
    }
    let mut lines = String::new();
    for scenario in &plan.scenarios {
        writeln!(lines, "{} {}", scenario.name, scenario.limit_seconds)?;
    }
    fs::write(share.join("plan"), lines)?;
    for scenario in plan.scenarios.iter().filter(|one| !one.packages.is_empty()) {
        copy_dir(
            &packages::fetched(images, &scenario.packages)?,
            &share.join("packages").join(&scenario.name),
        )?;
    }
    fs::write(share.join("results"), "")?;
    Ok(share)
}

/// Built apart: what is released must not have its crash points.
fn faulty_worker() -> Result<PathBuf> {
    let target = command::target().join("faulty");
    command::run(
        command::cargo()
            .args(["build", "--quiet", "-p", "blkback", "--features", "crash-points", "--target-dir"])
            .arg(&target),
    )?;
    Ok(target.join("debug/blkback"))
}

/// `base` with `files` before it: an initrd may be several archives, one after the other.
fn initrd(base: &Path, files: &[(&str, PathBuf)], to: &Path) -> Result<()> {
    let dir = to.with_extension("files");
    fs::create_dir_all(&dir)?;
    for (name, from) in files {
        fs::copy(from, dir.join(name)).with_context(|| format!("{}", from.display()))?;
    }
    let archive = dir.with_extension("cpio");
    command::run(
        Command::new("bash")
            .args(["-c", "chmod 0755 * && find . -type f | cpio --quiet -o -H newc > \"$1\"", "bash"])
            .arg(&archive)
            .current_dir(&dir),
    )?;
    // The uncompressed archive goes first: libxl takes a file that begins with gzip for gzip to its end.
    let mut all = fs::read(&archive)?;
    all.resize(all.len().next_multiple_of(4), 0);
    all.extend(fs::read(base)?);
    fs::write(to, all)?;
    fs::remove_file(&archive)?;
    fs::remove_dir_all(&dir)?;
    Ok(())
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    if !from.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// A sparse disk of dom0 for this boot; it goes with the directory.
pub(crate) fn empty_disk(share: &Path, name: &str, mib: u64) -> Result<PathBuf> {
    let path = share.join(format!("{name}.disk"));
    let file = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.set_len(mib << 20)?;
    Ok(path)
}
