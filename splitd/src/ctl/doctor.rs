//! What a host lacks for its disks and network interfaces to be served, each with its fix. Looks only; changes nothing. Knows nothing of devices.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::takeover::Machine;
use crate::config::{Config, Serve, WhichVifs};
use crate::kernel::{Backend, Driver};
use crate::web::Listen;

const CONNECT_TIME: Duration = Duration::from_secs(2);

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
    let mut findings = vec![xen(machine), linux(machine)];
    findings.extend(["gntdev", "evtchn"].map(|name| device(machine, name)));
    findings.push(store(machine));
    findings.push(io_uring(machine));
    findings.push(memlock(machine, daemon));
    findings.push(kernel_backend(machine, Backend::Blkback));
    findings.push(script(machine));
    findings.push(program(machine, "usr/libexec/splitd/blkback"));
    let config = machine.config();
    findings.push(serves(&config));
    findings.extend(config.iter().flat_map(|config| network(machine, config)));
    findings.extend(config.iter().filter_map(|config| config.metrics.as_ref()).map(metrics));
    findings.push(running(daemon));
    findings.extend(daemon.iter().map(|answer| programs_of_workers(machine, answer)));
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

/// The oldest kernel that has all that workers call.
const LINUX: (u32, u32) = (5, 11);

fn linux(machine: &Machine) -> Finding {
    let release = read(machine, "proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= LINUX => good("linux", release),
        (Some(_), Some(_)) => bad(
            "linux",
            format!("Linux {release} is too old"),
            format!("boot Linux {}.{} or later", LINUX.0, LINUX.1),
        ),
        _ => bad("linux", "no /proc/sys/kernel/osrelease", "mount -t proc proc /proc"),
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

fn kernel_backend(machine: &Machine, backend: Backend) -> Finding {
    let (check, device, fix) = match backend {
        Backend::Blkback => ("kernel blkback", "disk", "splitctl takeover"),
        Backend::Netback => ("kernel netback", "interface", "splitctl takeover --vifs"),
    };
    let sys = machine.sys();
    let held = sys.held(backend);
    let holds =
        if held.is_empty() { format!("holds no {device}") } else { format!("holds {}", held.join(" ")) };
    match (sys.driver(backend), sys.autoprobe(), machine.kept_out_by(backend)) {
        (Driver::Absent, _, Some(file)) => good(check, format!("kept out by {file}")),
        (Driver::Absent, _, None) => bad(
            check,
            format!("not loaded, but udev loads it at the first {device}, which it then takes"),
            fix,
        ),
        (_, Some(false), _) => good(check, format!("loaded, takes nothing by itself, {holds}")),
        _ => bad(check, format!("loaded, takes every new {device}, {holds}"), fix),
    }
}

/// What network interfaces need, where splitd.toml has splitd serve some.
fn network(machine: &Machine, config: &Config) -> Vec<Finding> {
    if config.serve_vifs != WhichVifs::None {
        let program = program(machine, "usr/libexec/splitd/netback");
        return vec![kernel_backend(machine, Backend::Netback), program, tap(machine)];
    }
    let nobody = |file| {
        let found = format!("kept out by {file}, but serve_vifs is \"none\": new interfaces have no backend");
        let fix = "set serve_vifs in /etc/splitd/splitd.toml and restart splitd, or splitctl handback";
        bad("kernel netback", found, fix)
    };
    machine.kept_out_by(Backend::Netback).map(nobody).into_iter().collect()
}

/// The kernel makes the node with its module, or loads the module when the node is opened.
fn tap(machine: &Machine) -> Finding {
    let path = "dev/net/tun";
    match fs::metadata(machine.path(path)) {
        Ok(metadata) if metadata.file_type().is_char_device() => good("taps", format!("/{path}")),
        Ok(_) => bad("taps", format!("/{path} is no device"), format!("rm /{path}; modprobe tun")),
        Err(_) => bad("taps", format!("/{path} is missing"), "modprobe tun (CONFIG_TUN in the kernel)"),
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

fn program(machine: &Machine, path: &str) -> Finding {
    if is_executable(&machine.path(path)) {
        good("worker", format!("/{path}"))
    } else {
        bad("worker", format!("/{path} is missing or not executable"), "install the package splitd again")
    }
}

fn serves(config: &anyhow::Result<Config>) -> Finding {
    match config {
        Ok(config) => {
            let disks = match &config.serve {
                Serve::Script => "disks with script=block-splitd".to_owned(),
                Serve::All => "all disks".to_owned(),
                Serve::Domains(names) => format!("disks of {}", names.join(" ")),
            };
            let interfaces = match &config.serve_vifs {
                WhichVifs::None => "no interfaces".to_owned(),
                WhichVifs::All => "all interfaces".to_owned(),
                WhichVifs::Domains(names) => format!("interfaces of {}", names.join(" ")),
            };
            good("configuration", format!("serves {disks}, {interfaces}"))
        }
        Err(error) => bad("configuration", format!("{error:#}").replace('\n', " "), "correct the file"),
    }
}

fn running(daemon: &Result<Value, String>) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    match daemon {
        Ok(answer) => {
            let word =
                |pointer| answer.pointer(pointer).map_or("?".to_owned(), |v| super::table::word(Some(v)));
            let (version, pid) = (word("/splitd/version"), word("/splitd/pid"));
            if version == own {
                return good("splitd", format!("version {version}, process {pid}"));
            }
            let found = format!("process {pid} is of version {version}, splitctl of {own}");
            bad("splitd", found, "systemctl restart splitd, which stops no guest's I/O")
        }
        Err(reason) => {
            bad("splitd", reason.clone(), "systemctl start splitd; journalctl -u splitd says more")
        }
    }
}

/// After an upgrade workers go on with the old program until they are replaced.
fn programs_of_workers(machine: &Machine, answer: &Value) -> Finding {
    let rows = answer.get("devices").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let pids = rows.iter().filter_map(|row| row.get("pid")?.as_u64()).collect::<Vec<_>>();
    let is_replaced = |pid: &&u64| {
        let program = fs::read_link(machine.path(&format!("proc/{pid}/exe"))).unwrap_or_default();
        program.to_string_lossy().ends_with(" (deleted)")
    };
    match pids.iter().filter(is_replaced).count() {
        0 => good("workers", format!("{} run", pids.len())),
        n => bad(
            "workers",
            format!("{n} of {} run a program that has been replaced since", pids.len()),
            "splitctl restart --all; guests do not notice",
        ),
    }
}

/// Whether somebody answers where splitd.toml says.
fn metrics(listen: &Listen) -> Finding {
    let (at, outcome) = match listen {
        Listen::Tcp(address) => {
            (address.to_string(), TcpStream::connect_timeout(address, CONNECT_TIME).map(drop))
        }
        Listen::Unix(path) => (path.display().to_string(), UnixStream::connect(path).map(drop)),
    };
    match outcome {
        Ok(()) => good("metrics", at),
        Err(trouble) => bad(
            "metrics",
            format!("{at}: {trouble}"),
            "restart splitd if the setting is new; journalctl -u splitd says why it does not listen",
        ),
    }
}

fn alarms(daemon: &Result<Value, String>) -> Vec<Finding> {
    let Ok(answer) = daemon else { return Vec::new() };
    let rows = answer.get("devices").and_then(Value::as_array).cloned().unwrap_or_default();
    let trouble = |row: &Value| {
        let device = row.get("device")?.as_str()?;
        if let Some(alarm) = row.get("alarm")?.as_str() {
            return Some(bad("device", format!("{device}: {alarm}"), format!("splitctl restart {device}")));
        }
        let is_paused = row.get("worker").and_then(Value::as_str) == Some("paused");
        let found = format!("{device}: paused, its guest waits");
        is_paused.then(|| bad("device", found, format!("splitctl resume {device}")))
    };
    rows.iter().filter_map(trouble).collect()
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
            ("proc/sys/kernel/osrelease", "6.1.0-40-amd64\n"),
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
        let answer = json!({"splitd": {"pid": 9, "version": env!("CARGO_PKG_VERSION")},
            "devices": [{"device": "vbd/5/xvda", "alarm": "frozen: fsync"}, {"device": "vbd/6/xvda", "alarm": null}]});
        let findings = examine(&Machine::new(dir.path()), &Ok(answer));
        // Character devices cannot be made in a test without root.
        let bad: Vec<_> = findings.iter().filter(|f| !f.ok && !f.found.contains("/dev/xen/")).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(bad[0].found.contains("vbd/5/xvda: frozen"));
        assert_eq!(findings[0].found, "Xen 4.17.7");
        assert!(!findings.iter().any(|f| f.found.contains("netback")), "{findings:?}");
    }

    /// After an upgrade: the daemon of before, workers of before, an address where nobody listens.
    #[test]
    fn what_an_upgrade_leaves() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "etc/splitd/splitd.toml", "metrics = \"unix:/nonexistent/socket\"\n");
        write(dir.path(), "proc/sys/kernel/osrelease", "4.19.0\n");
        fs::create_dir_all(dir.path().join("proc/7")).unwrap();
        std::os::unix::fs::symlink("/usr/libexec/splitd/blkback (deleted)", dir.path().join("proc/7/exe"))
            .unwrap();
        let answer = json!({"splitd": {"pid": 9, "version": "0.0.1"},
            "devices": [{"device": "vbd/5/xvda", "pid": 7, "alarm": null, "worker": "paused"}]});
        let text = lines(&examine(&Machine::new(dir.path()), &Ok(answer)));
        for part in [
            "BAD  splitd          process 9 is of version 0.0.1",
            "1 of 1 run a program that has been replaced since",
            "BAD  linux           Linux 4.19.0 is too old",
            "/nonexistent/socket",
            "vbd/5/xvda: paused, its guest waits",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    fn of_network(machine: &Machine) -> Vec<Finding> {
        network(machine, &machine.config().unwrap())
    }

    /// Interfaces are looked after only where some are served, and then each fault has its fix.
    #[test]
    fn interfaces_that_are_served_need_more() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new(dir.path());
        assert_eq!(of_network(&machine), []);
        write(dir.path(), "etc/splitd/splitd.toml", "serve_vifs = { domains = [\"web-*\"] }\n");
        let findings = of_network(&machine);
        let text = lines(&findings);
        assert!(findings.iter().all(|finding| !finding.ok && finding.fix.is_some()), "{text}");
        for part in
            ["splitctl takeover --vifs", "libexec/splitd/netback is missing", "/dev/net/tun is missing"]
        {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(serves(&machine.config()).found.ends_with("interfaces of web-*"));
    }

    /// The kernel's netback as takeover and handback leave it, beside what splitd.toml says.
    #[test]
    fn the_kernels_netback_against_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new(dir.path());
        write(dir.path(), "etc/splitd/splitd.toml", "serve_vifs = \"all\"\n");
        write(dir.path(), "sys/bus/xen-backend/drivers_autoprobe", "1\n");
        machine.take_over(&[Backend::Netback]).unwrap();
        assert_eq!(of_network(&machine)[0].found, "kept out by /etc/modprobe.d/splitd-vifs.conf");

        write(dir.path(), "etc/splitd/splitd.toml", "");
        let [nobody] = &of_network(&machine)[..] else { panic!("one finding") };
        assert!(!nobody.ok && nobody.fix.as_ref().unwrap().contains("splitctl handback"), "{nobody:?}");

        write(dir.path(), "etc/splitd/splitd.toml", "serve_vifs = \"all\"\n");
        write(dir.path(), "sys/bus/xen-backend/drivers/vif/bind", "");
        assert!(!of_network(&machine)[0].ok, "it takes every new interface");
        machine.take_over(&[Backend::Netback]).unwrap();
        assert_eq!(of_network(&machine)[0].found, "loaded, takes nothing by itself, holds no interface");
    }
}
