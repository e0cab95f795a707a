//! Workers that are killed again and again, in one process, on one thread, by numbers from a seed: the real queue, ring and journal, beside a
//! simulated host, a disk whose operations outlive workers, and a guest that knows what every sector holds. Tells whether the guest
//! could have noticed. Knows nothing of splitd.
//!
//! `SPLITD_KILLS` says how many workers are killed in all, `SPLITD_SEED` where the numbers begin.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // a test

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use qos::simulate::Random;
use worker::counters;
use worker::journal::Journal;
use worker::message::{Abi, TransferMode};
use worker::wake::{self, Bell};
use xenbus::DomId;
use xenbus::hv::Hypervisor;
use xenbus::memory::LocalMemory;
use xenbus::sim::{Sim, SimDomain, SimHost};

use super::{Device, Next, Parts, Queue, Terms, journal_shape};
use crate::figures::{self, Figures};
use crate::request::Limits;
use disk::{Kernel, LateDisk};
use fuse::{Events, Grants, Killed};
use guest::{Guest, NR_SECTORS, Wrong};
use trace::Trace;

mod disk;
mod fuse;
mod guest;
#[allow(dead_code, unreachable_pub)] // of the whole model, more is wanted
#[path = "../../../../tests/src/restart_model/kept.rs"]
mod kept;
mod trace;

/// Named places that a queue passes. `after_fence` is in the control thread, `flush_failed` on a way that ends in freezing.
const POINTS: [&str; 18] = [
    "after_bind",
    "after_copy",
    "after_copy_in",
    "after_copy_out",
    "after_edges",
    "after_flush",
    "after_map",
    "after_owed_answers",
    "after_publish",
    "after_read",
    "after_segments",
    "after_staged",
    "after_taken",
    "after_write",
    "before_disk",
    "before_notify",
    "before_publish",
    "in_journal",
];
const ELSEWHERE: [&str; 2] = ["after_fence", "flush_failed"];

/// What a connection is like.
#[derive(Clone, Copy, Debug)]
struct Mode {
    name: &'static str,
    queues: usize,
    transfer: TransferMode,
    indirect: bool,
    discards: bool,
    barriers: bool,
    /// Requests begin and end anywhere, on a disk with blocks of 4 KiB.
    parts: bool,
}

impl Mode {
    fn block_len(self) -> u32 {
        if self.parts { 4096 } else { 512 }
    }
}

const PLAIN: Mode = Mode {
    name: "copy",
    queues: 1,
    transfer: TransferMode::Copy,
    indirect: false,
    discards: false,
    barriers: false,
    parts: false,
};

const MODES: [Mode; 6] = [
    PLAIN,
    Mode { name: "copy, 4 queues", queues: 4, ..PLAIN },
    Mode { name: "persistent, 2 queues", queues: 2, transfer: TransferMode::Persistent, ..PLAIN },
    Mode { name: "indirect, 2 queues, discards", queues: 2, indirect: true, discards: true, ..PLAIN },
    Mode { name: "barriers, discards", barriers: true, discards: true, ..PLAIN },
    Mode { name: "parts of large blocks, 2 queues", queues: 2, indirect: true, parts: true, ..PLAIN },
];

type Host = (Grants<<Sim as Hypervisor>::Grants>, Events<<Sim as Hypervisor>::Events>);

struct Serving {
    queue: Queue<Grants<<Sim as Hypervisor>::Grants>, Events<<Sim as Hypervisor>::Events>, LateDisk>,
    /// Goes on without being woken.
    awake: bool,
}

impl Serving {
    fn is_woken(&self) -> bool {
        use std::os::fd::AsFd;
        let files = [Some(self.queue.events.as_fd()), Some(self.queue.bell.as_fd())];
        let files = wake::readable(files, std::time::Duration::ZERO).expect("two files");
        self.awake || self.queue.disk.is_busy() || files.contains(&true)
    }

    fn turn(&mut self) {
        let next = self.queue.turn().unwrap_or_else(|stop| panic!("{stop:?}"));
        self.awake = match next {
            Next::Again => true,
            Next::Wait(limit) => {
                self.queue.wait(limit).expect("a disk");
                // What has ended, or whoever has rung, was seen by that wait.
                limit.is_some() || self.queue.disk.has_news()
            }
        };
    }
}

/// How many died where.
#[derive(Debug, Default)]
struct Tally {
    at: BTreeMap<&'static str, u64>,
    killed: u64,
    answered: u64,
    wrong: Wrong,
    /// That were held against the model.
    stores: u64,
}

/// Of each queue.
type Traces = Rc<RefCell<Vec<Trace>>>;

struct World {
    mode: Mode,
    is_fenced: bool,
    dir: tempfile::TempDir,
    sim: Sim,
    guest: Guest,
    kernel: Rc<RefCell<Kernel>>,
    random: Random,
    tally: Tally,
    traces: Traces,
    _host: SimHost,
    _domain: SimDomain,
}

const GUEST: DomId = DomId(5);
const INDIRECT: u16 = 16;

fn journal_path(dir: &tempfile::TempDir, queue: usize) -> std::path::PathBuf {
    dir.path().join(format!("journal-{queue}"))
}

impl World {
    fn new(mode: Mode, seed: u64, is_fenced: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let host = SimHost::start(dir.path()).expect("a host");
        let domain = host.domain(GUEST, "g", "0f3c", 4096).expect("a guest");
        let guest = Guest::new(&domain, mode);
        let trace = |queue| Trace::new(&journal_path(&dir, queue), guest.pages(queue), INDIRECT);
        Self {
            mode,
            is_fenced,
            sim: Sim::open(dir.path()),
            traces: Rc::new(RefCell::new((0..mode.queues).map(trace).collect())),
            guest,
            kernel: Kernel::new(NR_SECTORS * 512, mode.block_len() as usize, seed ^ 1),
            random: Random(seed),
            tally: Tally::default(),
            dir,
            _host: host,
            _domain: domain,
        }
    }

    fn host(&self) -> Host {
        (
            Grants(self.sim.open_grants(GUEST).expect("grants")),
            Events(self.sim.open_events(GUEST).expect("events")),
        )
    }

    /// A worker; it may die of connecting.
    fn start(&mut self) -> Option<Vec<Serving>> {
        if self.is_fenced {
            self.kernel.borrow_mut().end_all_of_the_dead();
        }
        let nr_queues = u32::try_from(self.mode.queues).expect("few");
        let counters = counters::open(&self.dir.path().join("counters"), &figures::NAMES, nr_queues);
        let bells: Vec<_> = (0..nr_queues).map(|_| Bell::new().expect("a bell")).collect();
        let device = Arc::new(Device::default());
        device.capacity_sectors.store(NR_SECTORS as u64, Ordering::Relaxed);
        let _ = device.bells.set(bells.clone());
        let memory = LocalMemory::new(self.mode.queues << 18).expect("memory");
        let each = counters.expect("counters").into_iter().zip(bells).zip(memory.split(self.mode.queues));
        let made: Vec<_> = each
            .enumerate()
            .map(|(number, ((counters, bell), memory))| {
                let (grants, events) = self.host();
                let disk = LateDisk::new(&self.kernel);
                let shape = journal_shape(self.guest.nr_slots(), INDIRECT);
                let journal = Journal::open(&journal_path(&self.dir, number), shape).expect("a journal");
                let (device, figures) = (Arc::clone(&device), Figures(counters));
                let parts = Parts { device, grants, events, disk, bell, journal, figures, discards: None };
                (parts, self.terms(number, memory))
            })
            .collect();
        let connected = catch_unwind(AssertUnwindSafe(|| {
            made.into_iter()
                .map(|(parts, terms)| {
                    let (queue, _) = Queue::connect(parts, terms).unwrap_or_else(|e| panic!("{e}"));
                    Serving { queue, awake: true }
                })
                .collect()
        }));
        survived(connected)
    }

    fn terms(&self, queue: usize, memory: LocalMemory) -> Terms {
        Terms {
            frontend: GUEST.0,
            connection: 1,
            predecessor_crashed: false,
            busy_poll_ns: 0,
            ring: self.guest.ring(queue),
            abi: Abi::Native64,
            mode: self.mode.transfer,
            limits: Limits {
                capacity_sectors: NR_SECTORS as u64,
                alignment_sectors: 1,
                read_only: false,
                max_indirect_segments: INDIRECT,
                discard: true,
                discard_secure: false,
                barrier: self.mode.barriers,
            },
            block_len: self.mode.block_len(),
            memory,
        }
    }

    /// One step of whoever is next: the guest, or a queue that is awake. False if nobody can do anything.
    fn step(&mut self, worker: &mut [Serving], sends: bool) -> bool {
        self.guest.receive();
        if sends && self.random.below(3) == 0 {
            self.guest.send(&mut self.random, 6);
        }
        let awake: Vec<usize> = (0..worker.len()).filter(|&i| worker[i].is_woken()).collect();
        let Some(&next) = awake.get(usize::try_from(self.random.below(awake.len() as u64)).unwrap_or(0))
        else {
            return sends;
        };
        worker[next].turn();
        true
    }

    /// A worker's whole life, with an end that is chosen before.
    fn live_and_die(&mut self) {
        let place = self.choose_end();
        let mut at = None;
        if let Some(mut worker) = self.start() {
            let lived = catch_unwind(AssertUnwindSafe(|| {
                for _ in 0..400 {
                    self.step(&mut worker, true);
                }
            }));
            if survived(lived).is_none() {
                at = Some(place);
            }
        } else {
            at = Some(place);
        }
        // One that never came where it was to die is killed now, between two steps.
        fuse::set(0);
        self.watch(|_| ());
        self.tally.killed += 1;
        *self.tally.at.entry(at.unwrap_or("between steps")).or_default() += 1;
    }

    /// At some call of the seam, or at the named place where the fewest have died.
    fn choose_end(&mut self) -> &'static str {
        if self.random.below(3) == 0 {
            fuse::set(1 + self.random.below(250));
            self.watch(|_| ());
            return "some call";
        }
        let possible = POINTS.iter().filter(|point| match **point {
            "after_segments" => self.mode.indirect,
            "after_edges" => self.mode.parts,
            _ => true,
        });
        // What few modes have is chosen the oftener in those.
        let weight = |point| if matches!(point, "after_segments" | "after_edges") { 1 } else { 4 };
        let deaths =
            |point: &&&'static str| self.tally.at.get(**point).copied().unwrap_or(0) * weight(**point);
        let point = *possible.min_by_key(deaths).expect("a place");
        let mut left = self.random.below(6);
        self.watch(move |passed| {
            if passed == point {
                match left.checked_sub(1) {
                    Some(rest) => left = rest,
                    None => std::panic::panic_any(Killed),
                }
            }
        });
        point
    }

    /// At every place that workers pass, what they have stored is held against the model; then `also` is told of it.
    fn watch(&self, mut also: impl FnMut(&str) + 'static) {
        let traces = Rc::clone(&self.traces);
        worker::crash::on_passed(Some(Box::new(move |passed| {
            traces.borrow_mut().iter_mut().for_each(Trace::look);
            also(passed);
        })));
    }

    /// A worker that lives answers all that is open, then all is read once more.
    fn settle(&mut self) {
        for _ in 0..2 {
            let mut worker = self.start().expect("nobody is killed");
            for _ in 0..40 {
                self.guest.send(&mut self.random, 8);
                self.step(&mut worker, false);
            }
            while self.guest.has_open() && self.step(&mut worker, false) {}
            self.guest.receive();
        }
        self.guest.end();
        worker::crash::on_passed(None);
        (self.tally.answered, self.tally.wrong) = (self.guest.answered, self.guest.wrong);
        self.tally.stores = self.traces.borrow().iter().map(|trace| trace.stores).sum();
    }

    fn run(mut self, kills: u64) -> Tally {
        for _ in 0..kills {
            self.live_and_die();
        }
        self.settle();
        self.tally
    }
}

/// `None` if it was killed; other panics go on.
fn survived<T>(outcome: std::thread::Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Killed>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A kill is no news.
fn quietly() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Killed>() {
            default(info);
        }
    }));
}

/// Killed anywhere, in every mode: no error, no other byte, no answer too many, none missing.
#[test]
fn a_guest_never_notices_a_killed_worker() {
    quietly();
    let seed = number("SPLITD_SEED", 1);
    let kills = number("SPLITD_KILLS", 1200).div_ceil(MODES.len() as u64);
    let mut at: BTreeMap<&str, u64> = BTreeMap::new();
    for (i, mode) in MODES.into_iter().enumerate() {
        let tally = World::new(mode, seed + i as u64, true).run(kills);
        let Tally { killed, answered, stores, .. } = tally;
        eprintln!("{}: {killed} kills, {answered} requests, {stores} stores, seed {seed}", mode.name);
        assert_eq!(tally.wrong, Wrong::default(), "{}, seed {seed}", mode.name);
        assert!(answered > kills && stores > 4 * answered, "{}: {answered} answers", mode.name);
        tally.at.iter().for_each(|(place, deaths)| *at.entry(place).or_default() += deaths);
    }
    eprintln!("{at:?}");
    for point in POINTS {
        assert!(at.get(point).is_some_and(|deaths| *deaths > 0), "nobody died at {point}: {at:?}");
    }
}

/// The world sees what goes wrong: with the fence left out, late writes land over newer ones.
#[test]
fn without_the_fence_a_guest_notices() {
    quietly();
    let noticed = (0..40).any(|seed| World::new(PLAIN, seed, false).run(60).wrong.other_bytes > 0);
    assert!(noticed);
}

/// A crash point that is added is one that workers are killed at.
#[test]
fn all_crash_points_are_known() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut dirs =
        [here, concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/src")].map(std::path::PathBuf::from).to_vec();
    let mut found = std::collections::BTreeSet::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let text = std::fs::read_to_string(&path).expect("a source");
                let names = text.split("crash_point!(\"").skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
    let known: std::collections::BTreeSet<_> =
        POINTS.iter().chain(&ELSEWHERE).map(|&p| p.to_owned()).collect();
    found.retain(|name| !name.is_empty());
    assert_eq!(found, known);
}
