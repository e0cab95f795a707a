//! What a host lacks for its disks to be served, each with its fix. Looks only; changes nothing. Knows nothing of devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::takeover::Machine;
use crate::config::{Config, Serve};
use crate::kernel::Driver;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub check: &'static str,
    /// As it must be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do about it, if it is not as it must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, ok: true, found: found.into(), fix: None }
}

fn bad(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check, ok: false, found: found.into(), fix: Some(fix.into()) }
}

/// Looks at everything. `daemon` is splitd's answer to `list`, or why there is none.
#[must_use]
pub fn examine(machine: &Machine, daemon: &Result<Value, String>) -> Vec<Finding> {
    let mut findings = vec![xen(machine)];
    findings.extend(["gntdev", "evtchn"].map(|name| device(machine, name)));
    findings.push(store(machine));
    findings.push(io_uring(machine));
    findings.push(memlock(machine, daemon));
    findings.push(kernel_backend(machine));
    findings.push(script(machine));
    findings.push(program(machine));
    findings.push(config(machine));
    findings.push(running(daemon));
    findings.extend(alarms(daemon));
    findings
}

fn read(machine: &Machine, path: &str) -> Option<String> {
    fs::read_to_string(machine.path(path)).ok().map(|text| text.trim().to_owned())
}

fn xen(machine: &Machine) -> Finding {
    match read(machine, "sys/hypervisor/type").as_deref() {
        Some("xen") => {
            let version = ["major", "minor", "extra"]
                .map(|part| read(machine, &format!("sys/hypervisor/version/{part}")).unwrap_or_default());
            let [major, minor, extra] = version;
            good("xen", format!("Xen {major}.{minor}{extra}"))
        }
        other => bad(
            "xen",
            format!("the hypervisor is {}", other.unwrap_or("none")),
            "boot this kernel under Xen, as dom0 or as a driver domain",
        ),
    }
}

fn device(machine: &Machine, name: &'static str) -> Finding {
    let path = machine.path(&format!("dev/xen/{name}"));
    let check = if name == "gntdev" { "grants" } else { "events" };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.file_type().is_char_device() => good(check, format!("/dev/xen/{name}")),
        Ok(_) => bad(
            check,
            format!("/dev/xen/{name} is no device"),
            format!("rm /dev/xen/{name}; modprobe xen-{name}"),
        ),
        Err(_) => bad(check, format!("/dev/xen/{name} is missing"), format!("modprobe xen-{name}")),
    }
}

fn store(machine: &Machine) -> Finding {
    let there = ["run/xenstored/socket", "dev/xen/xenbus", "proc/xen/xenbus"]
        .into_iter()
        .find(|path| machine.path(path).exists());
    match there {
        Some(path) => good("xenstore", format!("/{path}")),
        None => bad(
            "xenstore",
            "neither /run/xenstored/socket nor /dev/xen/xenbus is there",
            "start xenstored (on Debian: systemctl start xen)",
        ),
    }
}

fn io_uring(machine: &Machine) -> Finding {
    match read(machine, "proc/sys/kernel/io_uring_disabled").as_deref() {
        Some("1") => bad(
            "io_uring",
            "kernel.io_uring_disabled is 1: workers, which have no privilege, may not use it",
            "sysctl kernel.io_uring_disabled=0",
        ),
        Some("2") => bad("io_uring", "kernel.io_uring_disabled is 2", "sysctl kernel.io_uring_disabled=0"),
        _ => match tokio_uring::Runtime::new(&tokio_uring::builder()) {
            Ok(_) => good("io_uring", "works"),
            Err(error) => {
                bad("io_uring", error.to_string(), "a kernel of 5.15 or later with CONFIG_IO_URING")
            }
        },
    }
}

/// Workers register their buffers, which count as locked memory of their user.
fn memlock(machine: &Machine, daemon: &Result<Value, String>) -> Finding {
    let pid = daemon.as_ref().ok().and_then(|answer| answer.pointer("/splitd/pid")?.as_u64());
    let process = pid.map_or("self".to_owned(), |pid| pid.to_string());
    let limits = read(machine, &format!("proc/{process}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap_or_default();
    let whose = if pid.is_some() { "splitd's" } else { "this shell's" };
    match line.split_whitespace().next() {
        None => good("memlock", "no limit is known"),
        Some("unlimited") => good("memlock", format!("{whose} limit is unlimited")),
        Some(text) => match text.parse::<u64>() {
            Ok(bytes) if bytes >= 64 << 20 => good("memlock", format!("{whose} limit is {bytes} bytes")),
            _ => bad(
                "memlock",
                format!("{whose} limit is {text} bytes: a disk's buffers need 4 MiB and more"),
                "LimitMEMLOCK=infinity in splitd.service, or ulimit -l unlimited before splitd is started",
            ),
        },
    }
}

fn kernel_backend(machine: &Machine) -> Finding {
    let sys = machine.sys();
    let held = sys.kernel_disks();
    let holds =
        if held.is_empty() { "holds no disk".to_owned() } else { format!("holds {}", held.join(" ")) };
    let check = "kernel backend";
    match (sys.blkback(), sys.autoprobe()) {
        (Driver::Absent, _) if machine.module_is_kept_out() => {
            good(check, "kept out by /etc/modprobe.d/splitd.conf")
        }
        (Driver::Absent, _) => bad(
            check,
            "not loaded, but udev loads it at the first disk, which it then takes",
            "splitctl takeover",
        ),
        (_, Some(false)) => good(check, format!("loaded, takes nothing by itself, {holds}")),
        _ => bad(check, format!("loaded, takes every new disk, {holds}"), "splitctl takeover"),
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn script(machine: &Machine) -> Finding {
    let check = "hotplug script";
    let dir = "etc/xen/scripts";
    if !machine.path(&format!("{dir}/block-common.sh")).exists() {
        let found = format!("/{dir}/block-common.sh is missing");
        return bad(check, found, "install Xen's tools (on Debian: apt install xen-utils)");
    }
    if !is_executable(&machine.path(&format!("{dir}/block-splitd"))) {
        let found = format!("/{dir}/block-splitd is missing or not executable");
        return bad(check, found, "install the package splitd again");
    }
    good(check, format!("/{dir}/block-splitd"))
}

fn program(machine: &Machine) -> Finding {
    let path = "usr/libexec/splitd/blkback";
    if is_executable(&machine.path(path)) {
        good("worker", format!("/{path}"))
    } else {
        bad("worker", format!("/{path} is missing or not executable"), "install the package splitd again")
    }
}

fn config(machine: &Machine) -> Finding {
    match Config::load(&machine.path("etc/splitd/splitd.toml")) {
        Ok(config) => good(
            "configuration",
            match config.serve {
                Serve::Script => "serves disks with script=block-splitd".to_owned(),
                Serve::All => "serves all disks".to_owned(),
                Serve::Domains(names) => format!("serves disks of {}", names.join(" ")),
            },
        ),
        Err(error) => bad("configuration", format!("{error:#}").replace('\n', " "), "correct the file"),
    }
}

fn running(daemon: &Result<Value, String>) -> Finding {
    match daemon {
        Ok(answer) => {
            let word =
                |pointer| answer.pointer(pointer).map_or("?".to_owned(), |v| super::table::word(Some(v)));
            good("splitd", format!("version {}, process {}", word("/splitd/version"), word("/splitd/pid")))
        }
        Err(reason) => {
            bad("splitd", reason.clone(), "systemctl start splitd; journalctl -u splitd says more")
        }
    }
}

fn alarms(daemon: &Result<Value, String>) -> Vec<Finding> {
    let Ok(answer) = daemon else { return Vec::new() };
    let rows = answer.get("devices").and_then(Value::as_array).cloned().unwrap_or_default();
    let with_alarm =
        rows.iter().filter_map(|row| Some((row.get("device")?.as_str()?, row.get("alarm")?.as_str()?)));
    with_alarm
        .map(|(device, alarm)| {
            bad("disk", format!("{device}: {alarm}"), format!("splitctl restart {device}"))
        })
        .collect()
}

/// As lines for people.
#[must_use]
pub fn lines(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let mark = if finding.ok { "ok " } else { "BAD" };
        text.push_str(&format!("{mark}  {:width$}  {}\n", finding.check, finding.found));
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("     {:width$}  fix: {fix}\n", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// On a machine that is nothing of what it should be, each finding says what to do.
    #[test]
    fn every_fault_has_its_fix() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "etc/splitd/splitd.toml", "sevre = 1\n");
        write(dir.path(), "proc/sys/kernel/io_uring_disabled", "2\n");
        write(
            dir.path(),
            "proc/self/limits",
            "Max locked memory         65536                65536                bytes\n",
        );
        let findings = examine(&Machine::new(dir.path()), &Err("splitd does not answer".to_owned()));
        for finding in &findings {
            assert!(!finding.ok && finding.fix.is_some(), "{finding:?}");
        }
        let text = lines(&findings);
        for part in ["/dev/xen/gntdev", "sevre", "LimitMEMLOCK", "io_uring_disabled=0", "splitctl takeover"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    /// And on one that is: nothing to do, but the disk with an alarm.
    #[test]
    fn a_sound_host() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("sys/hypervisor/type", "xen\n"),
            ("sys/hypervisor/version/major", "4\n"),
            ("sys/hypervisor/version/minor", "17\n"),
            ("sys/hypervisor/version/extra", ".7\n"),
            ("run/xenstored/socket", ""),
            ("proc/9/limits", "Max locked memory         unlimited            unlimited            bytes\n"),
            ("etc/xen/scripts/block-common.sh", ""),
            ("etc/xen/scripts/block-splitd", ""),
            ("usr/libexec/splitd/blkback", ""),
            ("sys/bus/xen-backend/drivers_autoprobe", "0\n"),
            ("sys/bus/xen-backend/drivers/vbd/bind", ""),
        ] {
            write(dir.path(), path, text);
        }
        for path in ["etc/xen/scripts/block-splitd", "usr/libexec/splitd/blkback"] {
            fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let answer = json!({"splitd": {"pid": 9, "version": "0.1.0"},
            "devices": [{"device": "vbd/5/xvda", "alarm": "frozen: fsync"}, {"device": "vbd/6/xvda", "alarm": null}]});
        let findings = examine(&Machine::new(dir.path()), &Ok(answer));
        // Character devices cannot be made in a test without root.
        let bad: Vec<_> = findings.iter().filter(|f| !f.ok && !f.found.contains("/dev/xen/")).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(bad[0].found.contains("vbd/5/xvda: frozen"));
        assert_eq!(findings[0].found, "Xen 4.17.7");
    }
}
