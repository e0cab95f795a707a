//! One boot: QEMU with Xen, dom0 and the shared directory, watched through the results file until it ends. Knows nothing
//! of scenarios beyond their names in that file.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::image::Images;
use super::{Plan, share};

/// Far beyond the half minute that a boot takes on an idle machine.
const UP_LIMIT: Duration = Duration::from_secs(300);
/// Preparing the backend and powering off, beside the scenarios' own limits.
const EXTRA_LIMIT: Duration = Duration::from_secs(300);

/// What one scenario came to.
#[derive(Debug)]
pub(crate) struct ScenarioResult {
    pub(crate) ok: bool,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    /// QEMU ended or time ran out before dom0 was up: worth one more try, since no scenario has begun.
    DiedBeforeUp,
    Ended(Vec<ScenarioResult>),
}

/// Boots and waits for the plan's end, printing each scenario as it ends.
pub(crate) fn run(plan: &Plan, images: &Images, share: &Path) -> Result<Outcome> {
    let console = format!("file:{}", share.join("console.log").display());
    let began = Instant::now();
    let mut qemu = Running(qemu(plan.systemd, images, share, &console)?.stdin(Stdio::null()).spawn()?);
    let limit = plan
        .scenarios
        .iter()
        .fold(UP_LIMIT + EXTRA_LIMIT, |limit, one| limit + Duration::from_secs(one.limit_seconds + 60));
    let mut seen = 0;
    let mut up = false;
    let mut results = Vec::new();
    loop {
        let over = qemu.0.try_wait()?.is_some();
        let text = fs::read_to_string(share.join("results")).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| text.get(..=end).unwrap_or_default());
        for line in complete.lines().skip(seen) {
            seen += 1;
            up = true;
            if let Some(result) = read_line(line) {
                results.push(result);
            }
            if line == "END" {
                return Ok(Outcome::Ended(results));
            }
        }
        if !up && (over || began.elapsed() > UP_LIMIT) {
            return Ok(Outcome::DiedBeforeUp);
        }
        if over || began.elapsed() > limit {
            let why = if over { "dom0 ended before its plan did" } else { "time is up" };
            println!("  {why} after {} s; console in {}", began.elapsed().as_secs(), share.display());
            return Ok(Outcome::Ended(results));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Prints what a person wants to see of one results line, and takes the result in it.
fn read_line(line: &str) -> Option<ScenarioResult> {
    let mut words = line.split_whitespace();
    match words.next() {
        Some("UP") => println!("  dom0 up after {} s", words.next().unwrap_or("?")),
        Some("FAILED") => println!("  {}", line.trim_start_matches("FAILED ")),
        Some("NOTE") => println!("    {}", line.trim_start_matches("NOTE ")),
        Some("SCENARIO") => {
            let name = words.next().unwrap_or("?");
            let ok = words.next() == Some("ok");
            let seconds = words.next().unwrap_or("?");
            let reason = words.collect::<Vec<_>>().join(" ");
            let verdict = if ok { "ok  " } else { "FAIL" };
            println!("  {verdict} {name} ({seconds} s) {reason}");
            return Some(ScenarioResult { ok });
        }
        _ => {}
    }
    None
}

/// Boots with the console on this terminal.
pub(crate) fn interactive(images: &Images, share: &Path) -> Result<()> {
    crate::command::run(&mut qemu(false, images, share, "mon:stdio")?)
}

/// A QEMU that does not outlive us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn qemu(systemd: bool, images: &Images, share: &Path, serial: &str) -> Result<Command> {
    // Where Xen switches floating-point registers between a guest's virtual processors lazily, programs crash under this emulator in guests
    // that have several, whatever serves their disks (on tmpfs beside the kernel's blkback, too); switched eagerly none was seen to.
    let xen = "console=com1 com1=115200,8n1 dom0_mem=1536M dom0_max_vcpus=1 dom0_vcpus_pin loglvl=warning \
               guest_loglvl=warning noreboot spec-ctrl=eager-fpu";
    let init = if systemd { "lab.init=systemd" } else { "lab.init=plain" };
    let linux =
        format!("{} console=hvc0 quiet panic=-1 mitigations=off {init}", images.file("vmlinuz").display());
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi"])
        // With SMAP dom0's kernel dies in its first instructions under this emulator; with RDTSCP PVH guests are killed. With ERMS and FSRM
        // every copy is byte by byte, which takes twice as long here and no real processor any longer.
        .args(["-cpu", "max,-smap,-pku,-rdtscp,-erms,-fsrm", "-smp", "2", "-m", "4096"])
        .args(["-display", "none", "-no-reboot", "-nic", "none", "-serial", serial])
        .arg("-kernel")
        .arg(images.file("xen"))
        .args(["-append", xen])
        .arg("-initrd")
        .arg(format!("{linux},{}", share.join("dom0.initrd").display()))
        .arg("-virtfs")
        .arg(format!("local,path={},mount_tag=host,security_model=none,multidevs=remap", share.display()));
    if serial != "mon:stdio" {
        command.args(["-monitor", "none"]);
    }
    drive(&mut command, &images.file("dom0.img"), "snapshot=on");
    for (name, mib) in [("volumes", 4096), ("xfs", 3072), ("ext4", 3072)] {
        drive(&mut command, &share::empty_disk(share, name, mib)?, "discard=unmap");
    }
    // One that is slow on purpose, for who shares it.
    drive(&mut command, &share::empty_disk(share, "slow", 256)?, "throttling.iops-total=30");
    // dom0's own system once more, for a driver domain.
    drive(&mut command, &images.file("dom0.img"), "snapshot=on");
    command.env("TMPDIR", share);
    Ok(command)
}

fn drive(command: &mut Command, file: &Path, option: &str) {
    command.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=unsafe,{option}", file.display()));
}
