//! Numbered frames of all kinds, both ways through a vif at once, and the proof that none arrived that was not sent: a thread for
//! each queue of the guest, two for the wire's far end. Workers may die meanwhile. Knows nothing of who carries the frames.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::netfront::{FrontError, Frontend, Incoming, Outgoing, Queue};
use crate::netif::{self, Extra, NR_SLOTS, NR_SLOTS_MIN};
use crate::packet::{self, Checksum, Seen, Shape, TCP4, TCP6, UDP4, UDP6, VnetHeader};
use crate::prng::Prng;
use crate::wire::{End, Frame};

/// Numbers of one queue's frames are so far apart.
const STEP: u32 = 64;
/// Longest wait for an answer.
const STALL: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// What a frame is sent as.
#[derive(Clone, Copy, Debug)]
struct Kind {
    shape: Shape,
    len: usize,
    is_open: bool,
    gso_size: u16,
}

fn kind(prng: &mut Prng) -> Kind {
    let shapes = [TCP4, TCP6, UDP4, UDP6];
    let any = shapes.get(usize::try_from(prng.below(4)).unwrap_or(0)).copied().unwrap_or(TCP4);
    let below = |prng: &mut Prng, n| usize::try_from(prng.below(n)).unwrap_or(0);
    match prng.below(20) {
        0 => Kind {
            shape: Shape { is_tcp: true, ..any },
            len: 1 + below(prng, 60_000),
            is_open: true,
            gso_size: 1448,
        },
        1 => Kind { shape: any, len: 1 + below(prng, 60_000), is_open: false, gso_size: 0 },
        n => Kind { shape: any, len: below(prng, 1400), is_open: n < 11, gso_size: 0 },
    }
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames that the guest sent.
    pub sent: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Frames that came out at the wire's far end.
    pub arrived: u64,
    /// Frames that the far end gave to the vif.
    pub given: u64,
    /// Frames that the guest received.
    pub received: u64,
    /// What must not happen.
    pub wrong: Vec<String>,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.refused += other.refused;
        self.arrived += other.arrived;
        self.given += other.given;
        self.received += other.received;
        self.wrong.extend(other.wrong);
    }

    fn note(&mut self, what: String) {
        // The first few tell it all.
        if self.wrong.len() < 5 {
            self.wrong.push(what);
        }
    }
}

/// Traffic that runs.
#[derive(Debug)]
pub struct Traffic {
    guest: Vec<JoinHandle<(Queue, Report)>>,
    wire: Vec<JoinHandle<Report>>,
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
}

impl Traffic {
    /// Starts it; the frontend's queues are away until [`finish`](Self::finish). Without an `end` only the guest sends and receives,
    /// for two guests on a bridge.
    pub fn start(front: &mut Frontend, end: Option<&End>, seed: u64) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let thread = |name: String| std::thread::Builder::new().name(name);
        let queues = u16::try_from(front.queues.len()).map_err(io::Error::other)?;
        let mut guest = Vec::new();
        for (number, mut queue) in (0..).zip(front.queues.drain(..)) {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            let prng = Prng::new(seed + u64::from(number));
            guest.push(thread(format!("netfront-{number}")).spawn(move || {
                let report = Guest { number, prng, next: 0, last: None, received, report: Report::default() };
                let report = report.run(&mut queue, &stop);
                (queue, report)
            })?);
        }
        let mut wire = Vec::new();
        if let Some(end) = end {
            let (reads, writes) = ((end.clone(), Arc::clone(&stop)), (end.clone(), Arc::clone(&stop)));
            wire.push(thread("wire-in".into()).spawn(move || take(&reads.0, &reads.1))?);
            let prng = Prng::new(seed + 1000);
            wire.push(thread("wire-out".into()).spawn(move || give(&writes.0, queues, prng, &writes.1))?);
        }
        Ok(Self { guest, wire, stop, received })
    }

    /// True once a queue has ended by itself, which it does only if something is wrong.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.guest.iter().any(JoinHandle::is_finished)
    }

    /// Frames that the guest has received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Sends no more, waits for all answers, gives the queues back.
    pub fn finish(self, front: &mut Frontend) -> Result<Report, FrontError> {
        self.stop.store(true, Ordering::Release);
        let panicked = || FrontError::Backend("a thread of the traffic panicked".into());
        let mut total = Report::default();
        for thread in self.guest {
            let (queue, report) = thread.join().map_err(|_| panicked())?;
            front.queues.push(queue);
            total.add(report);
        }
        for thread in self.wire {
            total.add(thread.join().map_err(|_| panicked())?);
        }
        Ok(total)
    }
}

/// A guest's side of one queue.
struct Guest {
    number: u32,
    prng: Prng,
    next: u32,
    /// The last frame or segment received.
    last: Option<(u32, usize)>,
    received: Arc<AtomicU64>,
    report: Report,
}

impl Guest {
    fn run(mut self, queue: &mut Queue, stop: &AtomicBool) -> Report {
        let mut moved = Instant::now();
        let mut waiting = None;
        loop {
            let stopping = stop.load(Ordering::Acquire);
            if stopping && queue.unanswered() == 0 {
                return self.report;
            }
            match self.turn(queue, stopping, &mut waiting) {
                Ok(true) => moved = Instant::now(),
                Ok(false) if moved.elapsed() > STALL && queue.unanswered() > 0 => {
                    self.report.note(format!("{} slots have no answer", queue.unanswered()));
                    return self.report;
                }
                Ok(false) => {}
                Err(error) => {
                    self.report.note(error.to_string());
                    return self.report;
                }
            }
        }
    }

    fn turn(
        &mut self,
        queue: &mut Queue,
        stopping: bool,
        waiting: &mut Option<Outgoing>,
    ) -> Result<bool, FrontError> {
        let mut has_room = !stopping;
        while has_room {
            let frame = waiting.take().unwrap_or_else(|| self.frame());
            has_room = queue.send(&frame).is_some();
            if has_room {
                self.report.sent += 1;
            } else {
                *waiting = Some(frame);
            }
        }
        queue.publish()?;
        let answers = queue.reap()?;
        self.report.refused += answers.iter().filter(|a| a.status != netif::OKAY).count() as u64;
        let mut moved = !answers.is_empty();
        while let Some(frame) = queue.receive()? {
            moved = true;
            self.judge(&frame);
        }
        queue.post(NR_SLOTS)?;
        if !moved {
            queue.wait(LOOK)?;
        }
        Ok(moved)
    }

    fn frame(&mut self) -> Outgoing {
        let Kind { shape, len, is_open, gso_size } = kind(&mut self.prng);
        let number = self.next * STEP + self.number;
        self.next += 1;
        if !is_open {
            let frame = Outgoing::new(packet::whole(shape, number, len));
            let slots = if len > 20_000 { NR_SLOTS_MIN } else { frame.slot_lens.len() };
            return frame.in_slots(slots).at(u16::try_from(number % 64).unwrap_or(0));
        }
        let frame = Outgoing::new(packet::open(shape, number, len)).open();
        if gso_size == 0 {
            return frame;
        }
        let kind = if shape.is_v6 { netif::extra::TCPV6 } else { netif::extra::TCPV4 };
        frame.with(Extra::gso(kind, gso_size))
    }

    fn judge(&mut self, frame: &Incoming) {
        self.report.received += 1;
        self.received.fetch_add(1, Ordering::Relaxed);
        let checksum = if frame.is_open() { Checksum::Open } else { Checksum::Right };
        match packet::check(&frame.bytes, checksum) {
            Ok(seen) => {
                if seen.number % STEP != self.number {
                    self.report.note(format!("queue {} received {seen:?}", self.number));
                }
                if self.last.is_some_and(|last| last >= (seen.number, seen.at)) {
                    self.report.note(format!("{seen:?} came after {:?}", self.last));
                }
                self.last = Some((seen.number, seen.at));
            }
            Err(why) => self.report.note(format!("the guest received: {why}")),
        }
    }
}

/// Looks at what comes out of the wire. Frames that a dying worker had not answered are sent again by its successor.
fn take(end: &End, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let mut last = [0u32; STEP as usize];
    while let Some(frame) =
        end.receive(LOOK).map(Some).or_else(|| (!stop.load(Ordering::Acquire)).then_some(None))
    {
        let Some(frame) = frame else { continue };
        report.arrived += 1;
        let checksum = if frame.header.flags & 1 == 0 { Checksum::Right } else { Checksum::Open };
        match packet::check(&frame.bytes, checksum) {
            Ok(seen) => {
                if let Err(why) = judge(&frame, seen, checksum, &mut last) {
                    report.note(why);
                }
            }
            Err(why) => report.note(format!("the wire carried: {why}")),
        }
    }
    report
}

fn judge(
    frame: &Frame,
    seen: Seen,
    checksum: Checksum,
    last: &mut [u32; STEP as usize],
) -> Result<(), String> {
    let queue = seen.number % STEP;
    if queue != u32::from(frame.queue) {
        return Err(format!("queue {} carried {seen:?}", frame.queue));
    }
    let expected = match checksum {
        Checksum::Right => VnetHeader::default(),
        Checksum::Open => VnetHeader::of_open(seen.shape, frame.header.gso_size),
    };
    if frame.header != expected {
        return Err(format!("{:?} stands before {seen:?}", frame.header));
    }
    let (place, number) = (&mut last[queue as usize], seen.number / STEP);
    if number + NR_SLOTS < *place {
        return Err(format!("{seen:?} came after number {}", *place * STEP + queue));
    }
    *place = number;
    Ok(())
}

/// Gives frames to the vif, as fast as it takes them.
fn give(end: &End, queues: u16, mut prng: Prng, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let mut next = 0;
    while !stop.load(Ordering::Acquire) {
        let Kind { shape, len, is_open, gso_size } = kind(&mut prng);
        let queue = u16::try_from(next % u32::from(queues.max(1))).unwrap_or(0);
        let number = next * STEP + u32::from(queue);
        next += 1;
        let (header, bytes) = match is_open {
            true => (VnetHeader::of_open(shape, gso_size), packet::open(shape, number, len)),
            false => (VnetHeader::default(), packet::whole(shape, number, len)),
        };
        if end.send(&Frame { queue, header, bytes }) {
            report.given += 1;
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    report
}
