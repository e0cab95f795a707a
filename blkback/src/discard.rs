//! Discards on block devices: an ioctl that may take long and that io_uring does not have on every kernel, so one thread of the
//! device does them in turn, off every queue's path. Files need none of this: io_uring punches their holes.
//! Knows nothing of requests; a job is known by its slot.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use worker::sandbox;
use worker::wake::Bell;

use crate::slot::SlotId;
use crate::target::{DiscardKind, Target};

/// One piece to discard.
#[derive(Debug)]
struct Job {
    slot: SlotId,
    kind: DiscardKind,
    sector: u64,
    nr_sectors: u64,
    done: Sender<(SlotId, i32)>,
    bell: Bell,
}

/// The way to the device's thread.
#[derive(Clone, Debug)]
pub(crate) struct Discards(Sender<Job>);

impl Discards {
    /// Starts the thread.
    pub(crate) fn start(target: Arc<Target>) -> io::Result<Self> {
        // Bounded by the slots of all queues: each has one piece here at most.
        let (sender, jobs) = crossbeam_channel::unbounded();
        let stack_len = 64 << 10;
        std::thread::Builder::new()
            .name("discard".into())
            .stack_size(stack_len)
            .spawn(move || work(&jobs, &target))?;
        Ok(Self(sender))
    }

    /// A queue's own end; `bell` is rung when a piece is done.
    pub(crate) fn line(&self, bell: Bell) -> DiscardLine {
        let (sender, done) = crossbeam_channel::unbounded();
        DiscardLine { jobs: self.0.clone(), sender, done, bell, in_flight: 0 }
    }
}

fn work(jobs: &Receiver<Job>, target: &Target) {
    // What makes it fail here makes it fail in the control thread, which says so and opens nothing.
    let _ = sandbox::forget_paths();
    while let Ok(job) = jobs.recv() {
        let result = match target.discard(job.kind, job.sector, job.nr_sectors) {
            Ok(()) => 0,
            Err(e) => -e.raw_os_error().unwrap_or(libc::EIO),
        };
        // A queue that has gone needs no answer.
        let _ = job.done.send((job.slot, result));
        job.bell.ring();
    }
}

/// A queue's end.
#[derive(Debug)]
pub(crate) struct DiscardLine {
    jobs: Sender<Job>,
    sender: Sender<(SlotId, i32)>,
    done: Receiver<(SlotId, i32)>,
    bell: Bell,
    in_flight: u32,
}

impl DiscardLine {
    /// Has a piece discarded.
    pub(crate) fn send(
        &mut self,
        slot: SlotId,
        secure: bool,
        sector: u64,
        nr_sectors: u64,
    ) -> io::Result<()> {
        let kind = if secure { DiscardKind::DeviceSecure } else { DiscardKind::Device };
        let (done, bell) = (self.sender.clone(), self.bell.clone());
        let job = Job { slot, kind, sector, nr_sectors, done, bell };
        self.jobs.send(job).map_err(|_| io::Error::other("the discard thread is gone"))?;
        self.in_flight += 1;
        Ok(())
    }

    /// The next piece that ended, with 0 or an errno negated.
    pub(crate) fn next_done(&mut self) -> Option<(SlotId, i32)> {
        let done = self.done.try_recv().ok()?;
        self.in_flight -= 1;
        Some(done)
    }

    /// Pieces that have not ended.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }
}
