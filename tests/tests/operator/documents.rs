//! What README, docs/ and the manual pages tell people: every splitctl command there is run, every splitd.toml parsed, every link
//! followed; the manual knows every verb, option and key.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Bed;

const NAMES: [&str; 3] = ["splitctl retarget", "splitctl restart", "splitctl resume"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// README and docs/, as (path, text).
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<_> = fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()).collect();
    paths.push(root().join("README.md"));
    paths.push(root().join("CONTRIBUTING.md"));
    paths.retain(|path| path.extension().is_some_and(|e| e == "md"));
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// Fenced blocks of a page, as (word after the fence, lines).
fn blocks(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        if let Some(info) = line.strip_prefix("```") {
            if !is_inside {
                found.push((info.to_owned(), Vec::new()));
            }
            is_inside = !is_inside;
        } else if let Some((_, lines)) = found.last_mut().filter(|_| is_inside) {
            lines.push(line);
        }
    }
    assert!(!is_inside, "a fence is not closed:\n{text}");
    found
}

/// Commands that begin with `word`: lines of shell blocks, indented lines with a prompt, and code in a sentence or a table.
fn commands(text: &str, word: &str) -> Vec<String> {
    let prefix = format!("{word} ");
    let in_blocks =
        blocks(text).into_iter().filter(|(info, _)| info.starts_with("sh")).flat_map(|(_, lines)| lines);
    let prompted = text.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(['#', '$']));
    let prompted = prompted.filter(|(before, _)| before.is_empty()).map(|(_, line)| line.trim_start());
    let whole = in_blocks.chain(prompted).filter(|line| line.starts_with(&prefix)).map(str::to_owned);
    let codes =
        text.split('`').skip(1).step_by(2).filter(|code| code.starts_with(&prefix)).map(str::to_owned);
    // A verb that needs a device, without one, is only named.
    let codes = codes.filter(|code| !NAMES.contains(&code.as_str()));
    whole.chain(codes).map(|line| line.replace('"', "").replace(" || true", "")).collect()
}

/// As it can be run here: our guest, a host's files in a directory, an end for what has none.
fn arguments(command: &str, host: &Path) -> Vec<String> {
    let line = command.split("  #").next().unwrap().replace("web1", "guest-5").replace("/xvdb", "/xvda");
    let mut words: Vec<_> = line.split_whitespace().skip(1).map(str::to_owned).collect();
    match words.first().map(String::as_str) {
        Some("sla") => words.extend(["--ledger".to_owned(), host.display().to_string()]),
        Some("retarget") => words.push("-N".to_owned()),
        Some("takeover" | "doctor") => words.extend(["--root".to_owned(), host.display().to_string()]),
        // With devices in use it would load the kernel's drivers, which are this machine's.
        Some("handback") => {
            words.extend(["--root".to_owned(), host.display().to_string()]);
            words.extend((!line.contains(" -N")).then(|| "-N".to_owned()));
        }
        // One short look of it is enough.
        Some("trace") => {
            words.truncate(2);
            words.push("--for=1".to_owned());
        }
        Some("top") => {
            words.retain(|word| word.starts_with('-') || word == "top");
            words.retain(|word| word != "-d" && word != "-i");
            words.extend(["-d1", "-i1"].map(str::to_owned));
        }
        _ => {}
    }
    words
}

/// A command in the documentation that is wrong usage, or fails where it should not, is a fault of the documentation.
#[test]
fn documented_commands_run() {
    let bed = Bed::new("");
    let host = tempfile::tempdir().unwrap();
    fs::create_dir_all(host.path().join("etc/splitd")).unwrap();
    fs::write(host.path().join("etc/splitd/splitd.toml"), "serve_vifs = \"all\"\n").unwrap();
    fs::write(host.path().join(splitd::ledger::file_name(&splitd::ledger::this_month())), "").unwrap();
    let mut nr_run = 0;
    for (path, text) in pages() {
        for command in commands(&text, "splitctl") {
            let arguments = arguments(&command, host.path());
            let words: Vec<_> = arguments.iter().map(String::as_str).collect();
            if words.first() == Some(&"resume") {
                bed.world.splitctl(&["pause", "vbd/5/xvda"]).unwrap();
            }
            let output = bed.world.run_splitctl(&words).unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // A host that is an empty directory has faults, and a machine may have no journal.
            let may_fail = matches!(words.first(), Some(&"doctor" | &"log"));
            let code = output.status.code();
            assert!(code == Some(0) || code == Some(1) && may_fail, "{}: {command}: {said}", path.display());
            nr_run += 1;
            // A page may say the one without the other.
            if words.first() == Some(&"pause") && !words.contains(&"-N") {
                bed.world.splitctl(&["resume", "vbd/5/xvda"]).unwrap();
            }
        }
    }
    assert!(nr_run > 40, "{nr_run}");
}

/// Examples of splitd.toml, and of policies, which say their version, are read as splitd reads them.
#[test]
fn documented_settings_are_settings() {
    let mut nr_parsed = 0;
    for (path, text) in pages() {
        for (info, lines) in blocks(&text) {
            if info == "toml" {
                let text = lines.join("\n");
                if text.starts_with("version") {
                    let parsed = qos::policy::parse(&text);
                    assert!(parsed.is_ok(), "{}: {lines:?}: {parsed:?}", path.display());
                } else {
                    let parsed = splitd::config::Config::parse(&text);
                    assert!(parsed.is_ok(), "{}: {lines:?}: {parsed:?}", path.display());
                }
                nr_parsed += 1;
            }
        }
    }
    assert!(nr_parsed >= 4, "{nr_parsed}");
}

/// Shell blocks are at least shell.
#[test]
fn documented_shell_is_shell() {
    for (path, text) in pages() {
        for (info, lines) in blocks(&text) {
            if info == "sh" || info.starts_with("sh ") {
                let script = lines.join("\n");
                let output = Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
                assert!(output.status.success(), "{}: {script}: {output:?}", path.display());
            }
        }
    }
}

/// Links to files of the tree lead somewhere.
#[test]
fn links_lead_somewhere() {
    for (path, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            let target = path.parent().unwrap().join(file);
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(target).unwrap();
                let heads = text.lines().filter(|line| line.starts_with('#'));
                let slug = |head: &str| head.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                assert!(heads.map(slug).any(|head| head == anchor), "{}: {link}", path.display());
            }
        }
    }
}

/// `cargo xtask` in the documentation is what `cargo xtask` has.
#[test]
fn documented_xtasks_are_there() {
    let main = fs::read_to_string(root().join("xtask/src/main.rs")).unwrap().to_lowercase();
    for (path, text) in pages() {
        for command in commands(&text, "cargo xtask") {
            let verb = command.split_whitespace().nth(2).unwrap().to_owned();
            assert!(main.contains(&verb), "{}: {command}", path.display());
        }
    }
}

fn manual(name: &str) -> String {
    fs::read_to_string(root().join("dist/man").join(name)).unwrap().replace('\\', "")
}

/// The manual knows every verb and long option that the command knows, and every key of splitd.toml.
#[test]
fn manuals_are_complete() {
    let bed = Bed::new("");
    let page = manual("splitctl.1");
    let help = bed.world.splitctl(&["help"]).unwrap();
    let verbs = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let verbs: Vec<_> =
        verbs.take_while(|line| !line.is_empty()).filter_map(|l| l.split_whitespace().next()).collect();
    assert!(verbs.len() > 8, "{help}");
    for verb in verbs.iter().filter(|verb| **verb != "help") {
        assert!(page.contains(verb), "splitctl.1 does not know {verb}");
        let help = bed.world.splitctl(&[verb, "--help"]).unwrap();
        let words = help
            .split(|c: char| !c.is_ascii_lowercase() && c != '-')
            .filter(|w| w.starts_with("--") && w.len() > 2);
        for option in words.filter(|option| *option != "--help") {
            assert!(page.contains(option), "splitctl.1 does not know {option} of {verb}");
        }
    }
    let page = manual("splitd.toml.5");
    let shipped = fs::read_to_string(root().join("dist/splitd.toml")).unwrap();
    for key in shipped.lines().filter_map(|line| line.strip_prefix("#: ")?.split(" =").next()) {
        assert!(page.contains(key), "splitd.toml.5 does not know {key}");
    }
}

/// Whether a program is there; told as SKIPPED if not, and a failure where CI runs this.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: {program} is not installed");
        assert!(env::var_os("CI").is_none(), "CI runs this test or fails");
    }
    there
}

/// A manual page with faults is shown with faults.
#[test]
fn manuals_pass_mandoc() {
    if !has("/usr/bin/mandoc") {
        return;
    }
    for entry in fs::read_dir(root().join("dist/man")).unwrap() {
        let path = entry.unwrap().path();
        let output =
            Command::new("/usr/bin/mandoc").args(["-Tlint", "-Wwarning"]).arg(&path).output().unwrap();
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// systemd understands every line of the unit.
#[test]
fn the_unit_passes_systemd() {
    if !has("/usr/bin/systemd-analyze") {
        return;
    }
    let unit = fs::read_to_string(root().join("dist/splitd.service")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("splitd.service");
    // The program is not installed here.
    fs::write(&path, unit.replace("/usr/sbin/splitd", "/bin/true")).unwrap();
    let mut verify = Command::new("/usr/bin/systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let about_it: Vec<_> = said.lines().filter(|line| line.contains("splitd.service")).collect();
    assert!(output.status.success() && about_it.is_empty(), "{said}");
}
