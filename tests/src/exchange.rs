//! Two guests that send each other numbered frames which prove themselves, a bounded number at a time, so that whatever does not arrive
//! was lost on the way and not in a full queue. Over a real bridge where vifs are taps, over the simulated wire else. Knows nothing of
//! what else runs.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use xenbus::sim::SimDomain;

use crate::netfront::{FrontError, Frontend, Incoming, Options, Outgoing, Queue};
use crate::netif::{Extra, NR_SLOTS, extra};
use crate::netns;
use crate::packet::{self, Checksum, TCP4, TCP6, UDP4, UDP6};
use crate::toolstack::{Paths, VifConfig};
use crate::world::World;

/// Frames that are on their way at once, each way.
const IN_FLIGHT: u32 = 16;
/// After so long nothing of them comes any more.
const LOST: Duration = Duration::from_secs(2);
const SEGMENT_LEN: u16 = 1448;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Payload that arrived, every byte looked at.
    pub bytes: u64,
    /// Frames that did not arrive.
    pub lost: u64,
    /// Frames that arrived otherwise than they were sent, or not in their order.
    pub corrupt: u64,
}

impl Outcome {
    /// Something arrived, and nothing else than what was sent.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.bytes > 0 && self.lost == 0 && self.corrupt == 0
    }
}

/// An exchange that runs.
#[derive(Debug)]
pub struct Exchange {
    fronts: [Frontend; 2],
    paths: [Paths; 2],
    thread: JoinHandle<Result<Outcome, FrontError>>,
}

type Failed = Box<dyn std::error::Error>;

/// Gives both guests an interface, connects them, and has them send for so long.
pub fn start(world: &mut World, guests: [&SimDomain; 2], time: Duration) -> Result<Exchange, Failed> {
    let names = guests.map(|guest| format!("vif{}.0", guest.id()));
    let [one, other] = guests.map(|guest| world.attach_vif(guest, &VifConfig::new(0)));
    let paths = [one?, other?];
    if world.has_taps {
        netns::ip("link add br0 type bridge")?;
        netns::ip("link set br0 up")?;
        names.iter().try_for_each(|name| netns::ip(&format!("link set {name} master br0 up")))?;
    } else {
        world.wire.bridge(&[&names[0], &names[1]]);
    }
    let [one, other] = guests.map(|guest| Frontend::connect(guest, 0, Options::default()));
    let mut fronts = [one?, other?];
    let queues: Vec<Queue> = fronts.iter_mut().flat_map(|front| front.queues.drain(..)).collect();
    let queues: [Queue; 2] =
        queues.try_into().map_err(|_| io::Error::other("an interface of one queue has one queue"))?;
    let thread = std::thread::Builder::new().name("exchange".into()).spawn(move || run(queues, time))?;
    Ok(Exchange { fronts, paths, thread })
}

impl Exchange {
    /// Waits for its end and detaches both interfaces as xl does.
    pub fn finish(self, world: &mut World) -> Result<Outcome, Failed> {
        let outcome = self.thread.join().map_err(|_| "the exchange's thread panicked")??;
        for (mut front, paths) in self.fronts.into_iter().zip(self.paths) {
            world.tools.begin_detach(&paths, false)?;
            front.finish_close()?;
            world.tools.finish_vif_detach(&paths)?;
        }
        Ok(outcome)
    }
}

/// One way.
#[derive(Default)]
struct Way {
    sent: u32,
    arrived: u32,
}

fn run(mut queues: [Queue; 2], time: Duration) -> Result<Outcome, FrontError> {
    let mut outcome = Outcome::default();
    let mut ways = [Way::default(), Way::default()];
    let (began, mut moved) = (Instant::now(), Instant::now());
    loop {
        let is_over = began.elapsed() >= time;
        let mut has_moved = false;
        for (number, way) in ways.iter_mut().enumerate() {
            let [from, to] = pair(&mut queues, number);
            while !is_over && way.sent - way.arrived < IN_FLIGHT && from.send(&frame(way.sent)).is_some() {
                way.sent += 1;
            }
            from.publish()?;
            outcome.corrupt += from.reap()?.iter().filter(|answer| answer.status != 0).count() as u64;
            while let Some(frame) = to.receive()? {
                has_moved |= way.judge(&frame, &mut outcome);
            }
            to.post(NR_SLOTS)?;
        }
        if has_moved {
            moved = Instant::now();
        }
        let in_flight: u32 = ways.iter().map(|way| way.sent - way.arrived).sum();
        let unanswered: usize = queues.iter().map(Queue::unanswered).sum();
        if moved.elapsed() > LOST {
            outcome.lost += u64::from(in_flight);
            ways.iter_mut().for_each(|way| way.arrived = way.sent);
            if is_over {
                outcome.lost += unanswered as u64;
                return Ok(outcome);
            }
        }
        if is_over && in_flight == 0 && unanswered == 0 {
            return Ok(outcome);
        }
        if !has_moved {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn pair([one, other]: &mut [Queue; 2], way: usize) -> [&mut Queue; 2] {
    if way == 0 { [one, other] } else { [other, one] }
}

/// Complete frames and open ones, short ones and uncut TCP of both kinds.
fn frame(number: u32) -> Outgoing {
    let shape = [TCP4, UDP4, TCP6, UDP6][number as usize % 4];
    let len = usize::try_from(number % 1400).unwrap_or(0);
    match number % 16 {
        0 | 2 => {
            let kind = if shape.is_v6 { extra::TCPV6 } else { extra::TCPV4 };
            let uncut = Outgoing::new(packet::open(shape, number, 30_000 + len)).open();
            uncut.with(Extra::gso(kind, SEGMENT_LEN))
        }
        1..8 => Outgoing::new(packet::open(shape, number, len)).open(),
        _ => Outgoing::new(packet::whole(shape, number, len)),
    }
}

impl Way {
    /// False for a frame of the kernel's own, as bridges have them.
    fn judge(&mut self, frame: &Incoming, outcome: &mut Outcome) -> bool {
        if !frame.bytes.starts_with(&[2, 0, 0, 0, 0, 1]) {
            return false;
        }
        let checksum = if frame.is_open() { Checksum::Open } else { Checksum::Right };
        match packet::check(&frame.bytes, checksum) {
            Ok(seen) if seen.at == 0 && seen.number >= self.arrived && seen.number < self.sent => {
                outcome.bytes += seen.len as u64;
                outcome.lost += u64::from(seen.number - self.arrived);
                self.arrived = seen.number + 1;
            }
            _ => outcome.corrupt += 1,
        }
        true
    }
}
