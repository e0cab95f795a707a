//! What moving frames through a tap costs in CPU time, a system call for each frame beside an io_uring for a batch of them: what netback's choice of
//! the former rests on. From a tap through a bridge into another one and out of it, in a network namespace. Knows nothing of guests.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netback::tap::{Passed, TapQueue};
use netback::vnet::VNET_LEN;
use splitd_tests::packet::{self, TCP4, UDP4, VnetHeader};
use splitd_tests::{guest_kernel, netns};
use worker::uring::{Completion, Disk, FileIndex, Rw, Uring};
use xenbus::memory::LocalMemory;

use crate::cpu;
use crate::stats::{median, ratio_of_pairs};

/// Frames that are written, then read.
const BATCH: usize = 32;
const SLOT_LEN: usize = 17 * 4096;
/// Of CPU time, for one figure.
const TIME_NS: u64 = 200_000_000;
/// Between two looks at it.
const BATCHES: usize = 50;
/// Far beyond what any frame takes.
const SILENCE: Duration = Duration::from_secs(10);

/// Two taps on a bridge.
struct Bed {
    from: TapQueue,
    to: TapQueue,
    buffer: Vec<u8>,
    ring: Uring,
    done: Vec<Completion>,
}

impl Bed {
    fn start(dir: &Path) -> Result<Self> {
        netns::ip("link add br0 type bridge")?;
        netns::ip("link set br0 up")?;
        let mut taps = Vec::new();
        for number in [20u16, 21] {
            let (name, mut queues) = guest_kernel::tap(number, 1, &dir.join(number.to_string()))?;
            // Nothing of the kernel's own between ours.
            netns::ip(&format!("link set {name} addrgenmode none"))?;
            netns::ip(&format!("link set {name} master br0 up"))?;
            taps.append(&mut queues);
        }
        let [from, to] = <[TapQueue; 2]>::try_from(taps).map_err(|_| anyhow::anyhow!("two taps"))?;
        let memory = LocalMemory::new(BATCH * SLOT_LEN)?;
        let mut ring = Uring::new(64, &[from.as_fd(), to.as_fd()], &memory)?;
        ring.enable()?;
        ring.give_memory(memory);
        Ok(Self { from, to, buffer: vec![0; SLOT_LEN], ring, done: Vec::with_capacity(BATCH) })
    }

    fn direct(&mut self, frame: &[u8]) -> Result<()> {
        for _ in 0..BATCH {
            ensure!(matches!(self.from.write(frame)?, Passed::Frame(_)), "the tap takes no frame");
        }
        let written = Instant::now();
        for _ in 0..BATCH {
            let mut header = [0; VNET_LEN];
            while self.to.read(&mut header, &mut self.buffer)? == Passed::Blocked {
                ensure!(written.elapsed() < SILENCE, "a frame is missing");
            }
        }
        Ok(())
    }

    fn uring(&mut self, frame: &[u8]) -> Result<()> {
        for slot in 0..BATCH {
            self.transfer(Rw::Write, 0, slot, frame.len())?;
        }
        self.finish()?;
        for slot in 0..BATCH {
            self.transfer(Rw::Read, 1, slot, SLOT_LEN)?;
        }
        self.finish()
    }

    fn transfer(&mut self, rw: Rw, file: u32, slot: usize, len: usize) -> Result<()> {
        // A tap has no places: -1.
        Ok(self.ring.transfer(rw, FileIndex(file), u64::MAX, slot * SLOT_LEN, u32::try_from(len)?, 0)?)
    }

    fn finish(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.ring.in_flight() > 0 {
            ensure!(began.elapsed() < SILENCE, "{} frames are missing", self.ring.in_flight());
            self.ring.wait(Some(SILENCE))?;
            self.done.clear();
            self.ring.completions(&mut self.done);
            for done in &self.done {
                ensure!(done.result > 0, "io_uring on a tap: {}", done.result);
                self.ring.ended();
            }
        }
        Ok(())
    }

    /// CPU time of ours for a frame written and read, ns.
    fn cost_ns(&mut self, frame: &[u8], by: fn(&mut Self, &[u8]) -> Result<()>) -> Result<f64> {
        let memory = self.ring.memory().context("the ring's memory")?;
        ensure!((0..BATCH).all(|slot| memory.write(slot * SLOT_LEN, frame)), "a frame fits its slot");
        let (before, mut frames) = (cpu::of_this_thread()?, 0.0);
        while cpu::of_this_thread()? - before < TIME_NS {
            for _ in 0..BATCHES {
                by(self, frame)?;
                frames += BATCH as f64;
            }
        }
        Ok((cpu::of_this_thread()? - before) as f64 / frames)
    }
}

/// The table, of so many alternating pairs.
pub fn run(pairs: u32) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let mut bed = Bed::start(dir.path())?;
    let behind = |header: VnetHeader, bytes: Vec<u8>| [header.bytes().to_vec(), bytes].concat();
    let plain = VnetHeader::default();
    let frames = [
        ("60 B", behind(plain, packet::whole(UDP4, 1, 60 - UDP4.header_len()))),
        ("1514 B", behind(plain, packet::whole(UDP4, 1, 1514 - UDP4.header_len()))),
        ("64 KiB uncut", behind(VnetHeader::of_open(TCP4, 1448), packet::open(TCP4, 1, 65_000))),
    ];
    let mut out = format!("{:<14} {:>10} {:>10}\n", "CPU ns a frame", "direct", "io_uring");
    for (name, frame) in frames {
        let (mut direct, mut uring) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            direct.push(bed.cost_ns(&frame, Bed::direct)?);
            uring.push(bed.cost_ns(&frame, Bed::uring)?);
        }
        let _ = write!(out, "{name:<14}");
        for side in [&direct, &uring] {
            let _ = write!(out, " {:>10.0}", median(side).unwrap_or(f64::NAN));
        }
        if let Ok(r) = ratio_of_pairs(&direct, &uring) {
            let _ = write!(out, "  direct/io_uring {:.2} × ({:.2} to {:.2})", r.median, r.low, r.high);
        }
        out.push('\n');
    }
    Ok(out)
}
