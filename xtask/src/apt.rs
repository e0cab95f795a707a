//! Debian packages this machine needs: which are missing, and installing them after saying so. Knows nothing about why
//! they are needed beyond the text it is given.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::command::{output, run};

/// What the whole of the tests needs, the lab first of all, as (program that shows it is there, package).
const LAB: [(&str, &str); 8] = [
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/cpio", "cpio"),
    ("/sbin/mke2fs", "e2fsprogs"),
    ("/usr/bin/lintian", "lintian"),
    ("/usr/bin/chromium", "chromium"),
    ("/usr/bin/mandoc", "mandoc"),
    ("/usr/bin/systemd-analyze", "systemd"),
];

/// Those of the lab's packages that this machine lacks.
pub(crate) fn missing_for_lab() -> Vec<&'static str> {
    LAB.iter().filter(|(program, _)| fs::metadata(program).is_err()).map(|(_, package)| *package).collect()
}

/// Whether to go ahead: `--yes`, `CI=true`, or an answer from a person.
pub(crate) fn agreed(yes: bool, question: &str) -> Result<bool> {
    if yes || env::var_os("CI").is_some_and(|value| value == "true") {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        bail!("{question} Nobody to ask on this terminal: say --yes, or set CI=true");
    }
    print!("{question} [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Installs `packages` with apt; the caller has said so and been told to go ahead.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    run(&mut apt_get(&["update", "-qq"]))?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    run(&mut apt_get(&arguments)).with_context(|| format!("packages needed: {}", packages.join(" ")))
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = if running_as_root() { Command::new("apt-get") } else { Command::new("sudo") };
    if !running_as_root() {
        command.arg("apt-get");
    }
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
    command
}

fn running_as_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// The machine's own apt sources as one-line entries for `suite`, which may be another release than the machine's.
pub(crate) fn sources_for(suite: &str) -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let own = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).context(
        "/etc/os-release has no VERSION_CODENAME: the lab's images are made from Debian's packages",
    )?;
    let mut texts = Vec::new();
    if let Ok(text) = fs::read_to_string("/etc/apt/sources.list") {
        texts.push(text);
    }
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten() {
        texts.push(fs::read_to_string(entry?.path()).unwrap_or_default());
    }
    let lines: Vec<String> = texts
        .iter()
        .flat_map(|text| archives(text))
        .filter(|(_, archive_suite)| archive_suite == own || archive_suite.starts_with(&format!("{own}-")))
        .map(|(uri, archive_suite)| {
            let pocket = archive_suite.strip_prefix(own).unwrap_or_default();
            format!(
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {suite}{pocket} main\n"
            )
        })
        .collect();
    if lines.is_empty() {
        bail!("no archive of {own} in /etc/apt/sources.list or /etc/apt/sources.list.d");
    }
    Ok(lines.concat())
}

/// (uri, suite) of every binary archive in one sources file, one-line or deb822.
fn archives(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with('['));
        if words.next() == Some("deb") {
            let mut rest =
                words.skip_while(|word| word.contains('[') || word.contains(']') || word.contains('='));
            if let (Some(uri), Some(suite)) = (rest.next(), rest.next()) {
                found.push((uri.to_owned(), suite.to_owned()));
            }
        }
    }
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default()
        };
        if !field("Types:").split_whitespace().any(|kind| kind == "deb") {
            continue;
        }
        for uri in field("URIs:").split_whitespace() {
            found.extend(field("Suites:").split_whitespace().map(|suite| (uri.to_owned(), suite.to_owned())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::archives;

    /// Both forms that apt reads must be understood, or a machine with the other one could build no image.
    #[test]
    fn archives_are_found_in_both_forms_of_sources() {
        let one_line = "# comment\ndeb [signed-by=/a.gpg arch=amd64] file:/mirror bookworm main\ndeb-src file:/mirror bookworm main\n";
        let deb822 = "Types: deb\nURIs: file:/mirror\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb-src\nURIs: file:/x\nSuites: y\n";

        let from_one_line = archives(one_line);
        let from_deb822 = archives(deb822);

        assert_eq!(from_one_line, [("file:/mirror".to_owned(), "bookworm".to_owned())]);
        assert_eq!(
            from_deb822,
            [
                ("file:/mirror".to_owned(), "bookworm".to_owned()),
                ("file:/mirror".to_owned(), "bookworm-updates".to_owned())
            ]
        );
    }
}
