//! `cargo xtask dist`: the Debian package, from release builds and the files under dist/. Knows where each file goes on a
//! host; what the files say is their own business.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// (built program, where it is installed).
const PROGRAMS: [(&str, &str); 4] = [
    ("splitd", "usr/sbin/splitd"),
    ("splitctl", "usr/bin/splitctl"),
    ("blkback", "usr/libexec/splitd/blkback"),
    ("netback", "usr/libexec/splitd/netback"),
];

/// (file in the tree, where it is installed, its mode).
const FILES: [(&str, &str, u32); 5] = [
    ("dist/splitd.toml", "etc/splitd/splitd.toml", 0o644),
    ("dist/block-splitd", "etc/xen/scripts/block-splitd", 0o755),
    ("dist/splitd.service", "usr/lib/systemd/system/splitd.service", 0o644),
    ("dist/prometheus/splitd.rules.yml", "usr/share/splitd/splitd.rules.yml", 0o644),
    ("dist/grafana/splitd.json", "usr/share/splitd/grafana-splitd.json", 0o644),
];

/// (shell, where it looks for completions).
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/splitctl"),
    ("zsh", "usr/share/zsh/vendor-completions/_splitctl"),
    ("fish", "usr/share/fish/vendor_completions.d/splitctl.fish"),
];

/// (manual page in the tree, its section); installed compressed.
const MANUALS: &str = "dist/man";

/// Builds target/dist/splitd_VERSION_amd64.deb and gives back its path.
pub(crate) fn build() -> Result<PathBuf> {
    command::run(command::cargo().args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "splitd",
        "-p",
        "blkback",
        "-p",
        "netback",
    ]))?;
    package(env!("CARGO_PKG_VERSION"))
}

/// The programs that `build` left, packaged under a later version, so that the lab can upgrade and downgrade.
pub(crate) fn next() -> Result<PathBuf> {
    package(concat!(env!("CARGO_PKG_VERSION"), "+next"))
}

fn package(version: &str) -> Result<PathBuf> {
    let root = command::root();
    let dist = command::target().join("dist");
    let tree = dist.join(format!("splitd_{version}"));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for (program, to) in PROGRAMS {
        let built = command::target().join("release").join(program);
        install(&built, &tree.join(to), 0o755)?;
        command::run(
            Command::new("strip")
                .args(["--strip-unneeded", "--remove-section=.comment", "--remove-section=.note"])
                .arg(tree.join(to)),
        )?;
    }
    for (from, to, mode) in FILES {
        install(&root.join(from), &tree.join(to), mode)?;
    }
    for (shell, to) in COMPLETIONS {
        let splitctl = command::target().join("release/splitctl");
        let script = command::output(Command::new(splitctl).args(["completions", shell]))?;
        let to = tree.join(to);
        fs::create_dir_all(to.parent().context("completions without a directory")?)?;
        fs::write(&to, script)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644))?;
    }
    directory_of(&root.join("bench/fio"), &tree.join("usr/share/splitd/fio"))?;
    documents(&root, &tree, version)?;
    control(&root, &tree, version)?;
    let deb = dist.join(format!("splitd_{version}_amd64.deb"));
    // Packages are unpacked by hosts as old as bookworm: xz is what every dpkg reads.
    command::run(
        Command::new("dpkg-deb")
            .args(["--build", "--root-owner-group", "-Zxz", "-z1"])
            .arg(&tree)
            .arg(&deb)
            .stdout(std::process::Stdio::null()),
    )?;
    Ok(deb)
}

/// Copyright, changelog and manual pages, compressed as Debian's policy wants them.
fn documents(root: &Path, tree: &Path, version: &str) -> Result<()> {
    let doc = tree.join("usr/share/doc/splitd");
    install(&root.join("dist/deb/copyright"), &doc.join("copyright"), 0o644)?;
    let changelog = format!(
        "splitd ({version}) unstable; urgency=medium\n\n  * Built from the source tree.\n\n -- The splitd developers <maintainers@splitd.invalid>  Thu, 01 Jan 2026 00:00:00 +0000\n"
    );
    fs::write(doc.join("changelog"), changelog)?;
    compress(&doc.join("changelog"))?;
    let manuals = root.join(MANUALS);
    for entry in fs::read_dir(&manuals).into_iter().flatten() {
        let from = entry?.path();
        let section = from.extension().unwrap_or_default().to_string_lossy().into_owned();
        let name = from.file_name().context("a manual page without a name")?.to_owned();
        let to = tree.join(format!("usr/share/man/man{section}")).join(name);
        install(&from, &to, 0o644)?;
        compress(&to)?;
    }
    Ok(())
}

fn control(root: &Path, tree: &Path, version: &str) -> Result<()> {
    let debian = tree.join("DEBIAN");
    fs::create_dir_all(&debian)?;
    let kib = directory_kib(&tree.join("usr"))? + directory_kib(&tree.join("etc"))?;
    let template = fs::read_to_string(root.join("dist/deb/control")).context("dist/deb/control")?;
    fs::write(
        debian.join("control"),
        template.replace("@VERSION@", version).replace("@KIB@", &kib.to_string()),
    )?;
    fs::write(debian.join("conffiles"), "/etc/splitd/splitd.toml\n/etc/xen/scripts/block-splitd\n")?;
    for script in ["postinst", "prerm", "postrm"] {
        install(&root.join("dist/deb").join(script), &debian.join(script), 0o755)?;
    }
    command::run(Command::new("bash").current_dir(tree).args([
        "-c",
        "find usr etc -type f -printf '%p\\0' | sort -z | xargs -0 md5sum > DEBIAN/md5sums && \
         find . -type d -exec chmod 0755 {} + && chmod 0644 DEBIAN/md5sums DEBIAN/conffiles DEBIAN/control",
    ]))
}

fn directory_of(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).into_iter().flatten() {
        let entry = entry?;
        install(&entry.path(), &to.join(entry.file_name()), 0o644)?;
    }
    Ok(())
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file to install without a directory")?)?;
    fs::copy(from, to).with_context(|| format!("{}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn compress(file: &Path) -> Result<()> {
    command::run(Command::new("gzip").args(["-9nf"]).arg(file))
}

fn directory_kib(dir: &Path) -> Result<u64> {
    let text = command::output(Command::new("du").arg("-sk").arg(dir))?;
    text.split_whitespace().next().unwrap_or_default().parse().context("du's answer")
}
