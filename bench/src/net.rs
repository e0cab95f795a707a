//! A guest's network beside the plainest thing that could stand in its backend's place, in a network namespace: the guest's side is
//! Linux' own stack behind a tap, the far side Linux' own behind a bridge and a veth. Between them are a netfront, its rings, a real
//! netback and its tap; or a copier from tap to tap with the same offloads. Knows nothing of how either works.
//!
//! ```text
//!  guest's kernel ─ tap ─ netfront ─ rings ─ netback ─ vif5.0 ─┐
//!                                                              ├ br0 ─ veth ─ the far end's kernel
//!  guest's kernel ─ tap ─ copier ──────────────────── vif7.0 ──┘
//! ```

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use splitd_tests::guest_kernel::{self, COPIER, Moving};
use splitd_tests::net_end::Outcome;
use splitd_tests::netfront::{Frontend, Options};
use splitd_tests::netns::{self, Namespace};
use splitd_tests::toolstack::VifConfig;
use splitd_tests::world::{Programs, World};

use crate::cpu;
use crate::rows::NetRow;

const FAR: &str = "10.9.0.1";
const PORT: u16 = 5201;

/// A case of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// As in rows.
    pub name: &'static str,
    kind: &'static str,
    datagram_len: usize,
    /// Connections at once.
    streams: usize,
    /// Queues of the interface.
    pub queues: u16,
}

const fn case(name: &'static str, kind: &'static str, datagram_len: usize) -> Case {
    Case { name, kind, datagram_len, streams: 1, queues: 1 }
}

/// All of them; `out` is from the guest.
pub const CASES: [Case; 11] = [
    case("tcp-out", "tcp-out", 0),
    case("tcp-in", "tcp-in", 0),
    case("udp-64-out", "udp-out", 64),
    case("udp-64-in", "udp-in", 64),
    case("udp-1472-out", "udp-out", 1472),
    case("udp-1472-in", "udp-in", 1472),
    case("request-response", "requests", 0),
    Case { streams: 4, queues: 2, ..case("tcp-out-2q", "tcp-out", 0) },
    Case { streams: 4, queues: 2, ..case("tcp-in-2q", "tcp-in", 0) },
    Case { streams: 4, queues: 4, ..case("tcp-out-4q", "tcp-out", 0) },
    Case { streams: 4, queues: 4, ..case("tcp-in-4q", "tcp-in", 0) },
];

/// Both sides, for interfaces of so many queues.
#[derive(Debug)]
pub struct Bed {
    world: World,
    // Threads and files that serve as long as this lives.
    _front: Frontend,
    _guest: Moving<(splitd_tests::netfront::Queue, netback::tap::TapQueue)>,
    _copier: Moving<()>,
    guests: [Namespace; 2],
    _far: Namespace,
    serving: Child,
    _dir: tempfile::TempDir,
}

impl Bed {
    /// Starts both, in the network namespace that this process has for itself.
    pub fn start(programs: Programs, queues: u16) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        netns::ip("link add br0 type bridge")?;
        netns::ip("link set br0 up")?;
        let guests = [Namespace::new()?, Namespace::new()?];
        let far = Namespace::new()?;
        netns::ip("link add far0 type veth peer name far1")?;
        netns::ip("link set far0 master br0 up")?;
        far.take("far1", &format!("{FAR}/24"))?;

        let mut world = World::start_on_taps("serve_vifs = \"all\"", programs)?;
        let guest = world.guest(5)?;
        world.attach_vif(&guest, &VifConfig::new(0))?;
        netns::ip("link set vif5.0 master br0 up")?;
        let options = Options { queues: queues.into(), ..Options::default() };
        let mut front = Frontend::connect(&guest, 0, options)?;
        let (name, taps) = guest_kernel::tap(6, queues, &dir.path().join("6"))?;
        guests[0].take(&name, "10.9.0.2/24")?;
        let guest = guest_kernel::run(&mut front, taps)?;

        let (name, ours) = guest_kernel::tap(7, queues, &dir.path().join("7"))?;
        netns::ip(&format!("link set {name} master br0 up"))?;
        let (name, taps) = guest_kernel::tap(8, queues, &dir.path().join("8"))?;
        guests[1].take(&name, "10.9.0.3/24")?;
        let copier = guest_kernel::copy(ours.into_iter().zip(taps))?;

        let mut serving = end(&far)?
            .args(["serve", &format!("{FAR}:{PORT}")])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the far end")?;
        let mut line = String::new();
        BufReader::new(serving.stdout.take().context("no pipe to the far end")?).read_line(&mut line)?;
        let bed = Self {
            world,
            _front: front,
            _guest: guest,
            _copier: copier,
            guests,
            _far: far,
            serving,
            _dir: dir,
        };
        ensure!(line == "serving\n", "the far end says {line:?}");
        Ok(bed)
    }

    /// Takes the namespace's interfaces away, for the next one.
    pub fn finish(self) -> Result<()> {
        drop(self);
        for interface in ["vif5.0", "vif7.0", "far0", "br0"] {
            // The far end's interface goes with its namespace.
            let _ = netns::ip(&format!("link del {interface}"));
        }
        Ok(())
    }

    /// Measures a case on one side.
    pub fn run(&self, case: Case, who: &str, milliseconds: u64) -> Result<NetRow> {
        let is_splitd = who == "splitd";
        let worker = self.world.show("vif/5/0")?.pid.context("no worker")?;
        let cpu_ns = || if is_splitd { cpu::of_process(worker) } else { cpu::of_threads(COPIER) };
        let guest = if is_splitd { &self.guests[0] } else { &self.guests[1] };
        let task = format!("{} {milliseconds} {}", case.kind, case.datagram_len);
        let before = cpu_ns()?;
        let asked: Vec<Child> = (0..case.streams)
            .map(|_| {
                Ok(end(guest)?
                    .args(["ask", &format!("{FAR}:{PORT}"), &task])
                    .stdout(Stdio::piped())
                    .spawn()?)
            })
            .collect::<Result<_>>()?;
        let mut total = Outcome::default();
        for child in asked {
            let output = child.wait_with_output()?;
            ensure!(output.status.success(), "{} of {who}: {}", case.name, output.status);
            let outcome: Outcome = serde_json::from_slice(&output.stdout)?;
            total.bytes += outcome.bytes;
            total.packets += outcome.packets;
            total.seconds = total.seconds.max(outcome.seconds);
        }
        let cpu_us = (cpu_ns()? - before) as f64 / 1000.0;
        ensure!(total.bytes > 0, "{} of {who}: nothing arrived\n{}", case.name, self.world.log());
        Ok(NetRow {
            case: case.name.to_owned(),
            who: who.to_owned(),
            gbit_s: total.bytes as f64 * 8e-9 / total.seconds,
            kpps: (total.packets > 0).then(|| total.packets as f64 / 1000.0 / total.seconds),
            cpu_us_per_mib: cpu_us / (total.bytes as f64 / 1_048_576.0),
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.serving.kill();
        let _ = self.serving.wait();
    }
}

/// This very program as an end of a connection in a namespace.
fn end(namespace: &Namespace) -> Result<Command> {
    let program = std::env::current_exe()?;
    let mut command = namespace.command(program.to_str().context("the program's path")?);
    command.arg("net-end");
    Ok(command)
}
