//! Every verb: what it answers, in each form, and what wrong usage brings.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;

use crate::{Bed, REQUESTS};

fn text(output: &Output) -> (Option<i32>, String, String) {
    let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), string(&output.stdout), string(&output.stderr))
}

fn run(bed: &Bed, line: &str) -> (Option<i32>, String, String) {
    text(&bed.world.run_splitctl(&line.split_whitespace().collect::<Vec<_>>()).unwrap())
}

/// What each verb needs to say; the host's own files are those of an empty directory.
#[test]
fn every_verb_answers() {
    let bed = Bed::new("");
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("etc/splitd")).unwrap();
    std::fs::write(root.path().join("etc/splitd/splitd.toml"), "serve_vifs = \"all\"\n").unwrap();
    let root = root.path().display();
    let on = |verb: &str| format!("--root {root} {verb}");
    for (line, parts) in [
        ("list".to_owned(), &["device=vbd/5/xvda", "device=vif/5/0", "state=4"][..]),
        ("list guest-5".to_owned(), &["domain=guest-5"]),
        ("list 5".to_owned(), &["domid=5"]),
        ("show vbd/guest-5/51712".to_owned(), &["worker", "serving", "a.img"]),
        ("show vif/5/0".to_owned(), &["mac", "vif5.0"]),
        ("stats vbd/5/xvda".to_owned(), &["read_requests=", "read_ns_p99=", "in_flight_now=0"]),
        ("top -b -d 1 -i 1".to_owned(), &["splitctl top", "vbd/5/xvda", "vif/5/0", "p99", "QD"]),
        ("top -b -x -d 1 -i 1".to_owned(), &["vbd/5/xvda"]),
        ("trace vbd/5/xvda --for 1".to_owned(), &["vbd/5/xvda: 0 requests in 1."]),
        ("resize vbd/5/xvda -N".to_owned(), &["dry run, not done: vbd/5/xvda", "a.img"]),
        ("resize vbd/5/xvda".to_owned(), &["the worker looks at its target's size"]),
        ("restart vbd/5/xvda --dry-run".to_owned(), &["dry run, not done: vbd/5/xvda: replace worker"]),
        ("restart --all -N".to_owned(), &["vbd/5/xvda", "vif/5/0"]),
        ("restart vbd/5/xvda".to_owned(), &["serves"]),
        ("pause vbd/5/xvda -N".to_owned(), &["dry run, not done: vbd/5/xvda", "a.img"]),
        ("pause vbd/5/xvda".to_owned(), &["its requests wait"]),
        ("resume vbd/5/xvda -N".to_owned(), &["dry run, not done: vbd/5/xvda", "a.img"]),
        ("resume vbd/5/xvda".to_owned(), &["serves"]),
        (
            "retarget vbd/5/xvda /srv/new.img -N".to_owned(),
            &["dry run, not done: vbd/5/xvda: copied from", "a.img to /srv/new.img, 32 MiB"],
        ),
        (on("takeover -N --disks --vifs"), &["dry run, not done: wrote /etc/modprobe.d/splitd-vifs.conf"]),
        (on("takeover"), &["wrote /etc/modprobe.d/splitd.conf"]),
        (on("handback -N"), &["dry run, not done: removed /etc/modprobe.d/splitd.conf"]),
        ("completions bash".to_owned(), &["takeover", "complete -F"]),
        ("completions zsh".to_owned(), &["#compdef splitctl"]),
        ("completions fish".to_owned(), &["complete -c splitctl"]),
        ("--version".to_owned(), &["splitctl "]),
    ] {
        let (code, out, err) = run(&bed, &line);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{line}: {out}");
        for part in parts {
            assert!(out.contains(part), "{line}: {part} is not in\n{out}");
        }
        assert!(!out.contains('\u{1b}'), "{line}: a colour in a pipe");
    }
}

/// A dry run leaves everything as it was: files, and the process that serves.
#[test]
fn dry_runs_change_nothing() {
    let bed = Bed::new("");
    let root = tempfile::tempdir().unwrap();
    let pid = bed.world.show("vbd/5/xvda").unwrap().pid;
    run(&bed, &format!("--root {} takeover -N", root.path().display()));
    run(&bed, "restart --all -N");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    assert_eq!(bed.world.show("vbd/5/xvda").unwrap().pid, pid);
    std::fs::create_dir_all(root.path().join("etc/modprobe.d")).unwrap();
    let rule = root.path().join("etc/modprobe.d/splitd.conf");
    std::fs::write(&rule, "x").unwrap();
    run(&bed, &format!("--root {} handback -N", root.path().display()));
    assert!(rule.exists());
}

/// Usage is 2 with what is allowed; a thing that is not there is 1 with its name and where to look.
#[test]
fn wrong_usage_is_told() {
    let bed = Bed::new("");
    for (line, code, part) in [
        ("", 2, "Usage"),
        ("lits", 2, "list"),
        ("list --jsno", 2, "--json"),
        ("show", 2, "<DEV>"),
        ("show xvda", 2, "vbd/DOMAIN/VDEV"),
        ("show vdb/5/xvda", 2, "vbd, vbd3 or vif"),
        ("show vbd/5/zzz", 2, "zzz"),
        ("show vif/5/eth0", 2, "vif/5/0"),
        ("stats xvda", 2, "vbd/DOMAIN/VDEV"),
        ("top -d 0", 2, "1..=3600"),
        ("top -i 0", 2, "1.."),
        ("top -n -x", 2, "cannot be used with"),
        ("trace vbd/5/xvda --for 0", 2, "1..=3600"),
        ("trace vif/5/0 --for 1", 1, "only disks"),
        ("log", 2, "<DEV>"),
        ("resize", 2, "<DEV>"),
        ("restart", 2, "<DEV|--all>"),
        ("restart vbd/5/xvda --all", 2, "cannot be used with"),
        ("pause", 2, "<DEV>"),
        ("pause --all", 2, "unexpected argument"),
        ("resume xvda", 2, "vbd/DOMAIN/VDEV"),
        ("takeover --net", 2, "unexpected argument '--net'"),
        ("handback now", 2, "unexpected argument"),
        ("doctor --fix", 2, "unexpected argument"),
        ("retarget vbd/5/xvda", 2, "<TARGET>"),
        ("retarget xvda /a", 2, "vbd/DOMAIN/VDEV"),
        ("sla", 2, "report"),
        ("sla report --month 2026-13", 2, "as in 2026-11"),
        (
            "sla report --month 2026-01 --ledger /nowhere",
            1,
            "/nowhere/sla-2026-01.jsonl: the ledger in /nowhere has no month",
        ),
        ("completions csh", 2, "bash"),
        ("list web1", 1, "web1: no domain of that name or number"),
        ("show vbd/6/xvda", 1, "vbd/6/xvda: no such device; splitctl list"),
        ("resize vbd/5/xvdb", 1, "vbd/5/xvdb: no such device"),
        ("restart vif/5/1", 1, "vif/5/1: no such device"),
        ("stats vbd/6/xvda", 1, "vbd/6/xvda: no such device"),
        ("log vbd/6/xvda", 1, "vbd/6/xvda: no such device"),
    ] {
        let (got, out, err) = run(&bed, line);
        assert_eq!(got, Some(code), "{line}: {out}{err}");
        assert!(err.contains(part), "{line}: {part} is not in\n{err}");
        assert!(!err.contains("panicked"), "{line}: {err}");
    }
}

/// Without splitd nothing hangs: each verb that asks it says where it was looked for.
#[test]
fn without_splitd() {
    let mut bed = Bed::new("");
    bed.world.kill_splitd().unwrap();
    let ask = [
        "list",
        "show vbd/5/xvda",
        "stats",
        "top -b -i 1",
        "log vif/5/0",
        "resize vbd/5/xvda",
        "restart --all",
        "pause vbd/5/xvda",
    ];
    for line in ask {
        let (code, _, err) = run(&bed, line);
        assert!(code == Some(1) && err.contains("splitd.sock: is it running?"), "{line}: {err}");
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Scripts rest on these names; one that goes or changes its kind breaks them.
#[test]
fn json_keeps_its_form() {
    let bed = Bed::new("");
    let ask = |line: &str| -> Value {
        let (code, out, err) = run(&bed, line);
        assert_eq!((code, out.lines().count()), (Some(0), 1), "{line}: {err}");
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["version"], 1, "{line}");
        value
    };
    let list = ask("list --json");
    assert!(list["splitd"]["pid"].is_u64() && list["splitd"]["version"].is_string());
    let row_keys = "alarm backend backend_path device devid domain domid event_channel frontend_state identity kind mac mode \
         not_served online pid queues restarts ring_ref rx_ring_ref sectors state target transfer vdev worker";
    for row in list["devices"].as_array().unwrap() {
        assert_eq!(keys(row), row_keys.split_whitespace().collect(), "{row}");
        assert!(row["domid"].is_u64() && row["state"] == 4 && row["worker"] == "serving", "{row}");
    }
    assert_eq!(keys(&ask("show vbd/5/xvda --json")["device"]), row_keys.split_whitespace().collect());
    let stats = ask("stats --json vbd/5/xvda");
    let figures = &stats["devices"][0];
    let done: u64 = ["read_requests", "write_requests", "flush_requests"]
        .map(|name| figures[name].as_u64().unwrap())
        .iter()
        .sum();
    assert!(done >= REQUESTS, "{figures}");
    let counted: u64 =
        figures["histograms"]["read_ns"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(counted, figures["read_requests"].as_u64().unwrap());
    assert!(figures["read_time_ns"].as_u64().unwrap() > 0 && figures["queues"].is_array());
    // The clock that all of a host share: what lies between two answers over the time between them is a rate.
    let at_ns = figures["at_ns"].as_u64().unwrap();
    let again = ask("stats --json vbd/5/xvda")["devices"][0]["at_ns"].as_u64().unwrap();
    assert!(at_ns < again && again < worker::clock::monotonic_ns(), "{at_ns} {again}");
    let top = ask("top --json -d 1 -i 1");
    let disk_keys = "device domain errors latency_p50_ns latency_p99_ns queue_depth read_iops read_mib_s status write_iops \
         write_mib_s";
    assert_eq!(keys(&top["disks"][0]), disk_keys.split_whitespace().collect());
    let vif_keys = "device domain dropped_s rx_frames_s rx_mbit_s status tx_frames_s tx_mbit_s";
    assert_eq!(keys(&top["interfaces"][0]), vif_keys.split_whitespace().collect());
}

/// A faulty host is 1, its findings in the same form as a sound one's.
#[test]
fn doctor_finds() {
    let bed = Bed::new("");
    let root = tempfile::tempdir().unwrap();
    let (code, out, err) = run(&bed, &format!("--root {} doctor --json", root.path().display()));
    assert_eq!(code, Some(1), "{err}");
    let findings: Value = serde_json::from_str(&out).unwrap();
    for finding in findings["findings"].as_array().unwrap() {
        assert!(finding["check"].is_string() && finding["found"].is_string(), "{finding}");
        assert_eq!(finding["ok"] == false, finding["fix"].is_string(), "{finding}");
    }
    assert!(err.contains("checks found a fault"), "{err}");
}

/// `top` on a terminal: draws, hears Q, and leaves the terminal as it was. `script` makes the terminal.
#[test]
fn top_on_a_terminal() {
    let bed = Bed::new("");
    let program = bed.world.splitctl_program().display().to_string();
    let line = format!("{program} --run-dir {} top -d 1; stty -a", bed.world.run_dir().display());
    let fed = "(sleep 2; printf n; sleep 1; printf q; sleep 1)";
    let output = Command::new("sh")
        .args(["-c", &format!("{fed} | script -qec '{line}' /dev/null")])
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let (code, out, err) = text(&output);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("vbd/5/xvda") && out.contains("Quit"), "{out}");
    assert!(out.contains(" icanon") && out.contains(" echo "), "the terminal is not as it was: {out}");
}

/// The busy disk is seen while it is busy, with a depth and a latency.
#[test]
fn top_sees_a_load() {
    let mut bed = Bed::new("");
    let load = splitd_tests::blkfront::Load { operations: None, ..splitd_tests::blkfront::Load::default() };
    let running = bed.disk.start(&load).unwrap();
    let (_, out, err) = run(&bed, "top --json -d 1 -i 2");
    let (code, table, trouble) = run(&bed, "trace vbd/5/xvda --for 1");
    let (_, json, _) = run(&bed, "trace vbd/5/xvda --for 1 --json");
    running.stop();
    assert!(running.finish(&mut bed.disk).unwrap().is_clean());
    assert!(code == Some(0) && table.contains("WAITING") && table.contains("copy in"), "{table}{trouble}");
    let trace: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(keys(&trace), "device requests seconds stages version".split(' ').collect());
    let shares = trace["stages"].as_array().unwrap().iter().map(|s| s["share_percent"].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 100.0).abs() < 0.01 && trace["requests"].as_u64() > Some(1), "{trace}");
    let looks: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let busy = &looks.get(1).unwrap_or_else(|| panic!("{out}{err}"))["disks"][0];
    assert!(busy["read_iops"].as_f64().unwrap() > 1.0, "{busy}");
    assert!(busy["latency_p99_ns"].as_u64().unwrap() > 1_000, "{busy}");
}
