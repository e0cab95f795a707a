//! What a worker cannot do: each act of `examples/sandbox_probe.rs` is seen to succeed outside of the sandbox and to be refused inside, in
//! one run. `docs/threat-model.md` lists them.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

/// Acts that have to be shown by the superuser; others may do fewer of them outside.
const SHOWN_BY_ROOT: usize = 60;

fn probe() -> Command {
    let own = std::env::current_exe().unwrap();
    let program: PathBuf = own.ancestors().nth(2).unwrap().join("examples/sandbox_probe");
    assert!(program.exists(), "{}: built with the tests", program.display());
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn acts() -> Vec<String> {
    let output = probe().arg("list").output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn attempt(number: usize, place: &str) -> ExitStatus {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("victim"), "victim").unwrap();
    probe().arg(number.to_string()).arg(place).arg(dir.path()).status().unwrap()
}

#[test]
fn what_succeeds_outside_is_refused_inside() {
    let mut shown = 0;
    let mut not_shown = Vec::new();
    let mut breaches = Vec::new();
    for (number, act) in acts().iter().enumerate() {
        if attempt(number, "outside").code() != Some(0) {
            not_shown.push(act.clone());
            continue;
        }
        shown += 1;
        let inside = attempt(number, "inside");
        if inside.signal() != Some(libc::SIGSYS) && inside.code() != Some(3) {
            breaches.push(format!("{act}: {inside}"));
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    if !not_shown.is_empty() {
        eprintln!("not possible outside either, on this machine: {}", not_shown.join(", "));
    }
    // Which only the superuser may read.
    let is_root = std::fs::File::open("/etc/shadow").is_ok();
    assert!(
        shown >= if is_root { SHOWN_BY_ROOT } else { SHOWN_BY_ROOT / 2 },
        "{shown} shown; not {not_shown:?}"
    );
}

/// The list for people is the list that is tried.
#[test]
fn the_threat_model_lists_every_act() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/threat-model.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, list) = text.split_once("<!-- acts -->\n").unwrap();
    let list: String =
        list.split("<!-- -->").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(list, format!("{}.", acts().join("; ")), "the list in {path}");
}
