//! A whole queue of a disk, the worker's own, over a ring that is written by the input: with grants that fail, the disk resized, events
//! with and without reason, and kills between two turns or in the midst of one. Each request that was taken is answered once, with its
//! own id, a barrier's after all before it; only a guest that overran its ring is dropped; whoever waits for a notification gets it; a
//! storm of events is held back; nobody writes beyond the disk.
//! The disk is a file, of which the kernel ends reads and writes in order; answers leave it by what is refused, what fails, flushes
//! and barriers.

use std::fs::File;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use blkback::lone::{self, Ended, LoneQueue, Setup};
use blkback::request::Limits;
use blkback::wire;
use worker::mapped_file::MappedFile;
use worker::message::{Abi, QueueRing, TransferMode};
use xen_ring::Indices;

use super::blk_slot;
use super::guest::{Events, Grants, Guest, Killed, NR_PAGES, RING_REF};
use super::input::Input;
use crate::blkif::{self, Response};

/// Steps of one input.
const MOST: usize = 96;
/// Turns without an end are a hang.
const MOST_TURNS: usize = 4000;
const DISK_SECTORS: u64 = 512;
const STORM_EVENTS: u32 = 1000;
/// What may come through at once, with room for work that is still done.
const STORM_BURST: u128 = 2 * 64 + 4;
const STORM_PAUSE: Duration = Duration::from_millis(2);
const NR_SLOTS: u32 = 32;
const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;
const SLOTS_AT: usize = 64;

type Queue = LoneQueue<Grants, Events>;

/// A request that was taken: its id and the operation that its answer names.
type Owed = (u64, u8);

struct Bed {
    guest: Arc<Guest>,
    target: File,
    dir: tempfile::TempDir,
    abi: Abi,
    limits: Limits,
    mode: TransferMode,
    block_len: u32,
    /// Where the backend was when it was last looked at.
    at: Indices,
    /// Unless somebody wrote in the journal: then they are only counted.
    owed: Option<Vec<Owed>>,
    /// In the ring's order, what stood there when a turn began that had no end.
    unsettled: Vec<Owed>,
    /// Read when a worker was killed in a turn.
    answers: Vec<Response>,
    /// What the guest wrote over `rsp_prod`.
    scribbled: Option<u32>,
    req_prod: u32,
    crashed: bool,
    /// Nothing new is taken, so nothing is asked for.
    closing: bool,
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mut bed, first) = Bed::new(&mut input);
    let mut queue = Some(first);
    for _ in 0..MOST {
        if input.is_empty() || queue.is_none() {
            break;
        }
        queue = bed.step(&mut input, queue);
    }
    if let Some(queue) = queue {
        bed.finish(queue);
    }
    let len = bed.target.metadata().unwrap().len();
    assert_eq!(len, DISK_SECTORS * 512, "the disk grew");
}

impl Bed {
    fn new(input: &mut Input<'_>) -> (Self, Queue) {
        let (abi, limits) = blk_slot::terms(input);
        let bits = input.byte();
        let limits = Limits { alignment_sectors: 1, capacity_sectors: DISK_SECTORS, ..limits };
        let dir = tempfile::tempdir().unwrap();
        let target =
            File::options().read(true).write(true).create_new(true).open(dir.path().join("disk")).unwrap();
        target.set_len(DISK_SECTORS * 512).unwrap();
        let mode = if bits & 1 == 0 { TransferMode::Copy } else { TransferMode::Persistent };
        let block_len = if bits & 6 == 6 { 4096 } else { 512 };
        let mut bed = Self {
            guest: Guest::new(),
            target,
            dir,
            abi,
            limits,
            mode,
            block_len,
            at: Indices::default(),
            owed: Some(Vec::new()),
            unsettled: Vec::new(),
            answers: Vec::new(),
            scribbled: None,
            req_prod: 0,
            crashed: bits & 8 != 0,
            closing: false,
        };
        let queue = bed.connect().unwrap();
        (bed, queue)
    }

    fn connect(&mut self) -> Result<Queue, Ended> {
        LoneQueue::connect(Setup {
            grants: Grants(Arc::clone(&self.guest)),
            events: Events(Arc::clone(&self.guest)),
            target: self.target.as_fd(),
            run_dir: self.dir.path(),
            connection: 7,
            ring: QueueRing { ring_refs: vec![RING_REF], port: 3 },
            abi: self.abi,
            mode: self.mode,
            limits: self.limits,
            block_len: self.block_len,
            buffer_len_bytes: 32 * 4096,
            predecessor_crashed: self.crashed,
        })
    }

    fn step(&mut self, input: &mut Input<'_>, queue: Option<Queue>) -> Option<Queue> {
        let queue = queue?;
        let choice = input.byte();
        match choice % 25 {
            _ if choice == u8::MAX => return self.storm(input, queue),
            0..=7 => {
                let slot = blk_slot::slot(input, self.abi, self.limits.capacity_sectors);
                let at = self.slot_at(self.req_prod);
                assert!(self.guest.ring.write(at, &slot[..wire::slot_len(self.abi)]));
                self.req_prod = self.req_prod.wrapping_add(1);
            }
            8..=10 => self.guest.set_word(REQ_PROD, self.req_prod),
            11 => self.guest.set_word(REQ_PROD, input.edgy_u32(self.req_prod)),
            12 => {
                let page = u32::from(input.byte()) % NR_PAGES;
                for i in 0..input.below(40) {
                    let segment = blk_slot::segment(input).bytes();
                    let _ = self.guest.page(page).is_some_and(|page| page.write(i * 8, &segment));
                }
            }
            13 => self.guest.bad.store(input.u16().into(), Relaxed),
            14 => self.guest.failing_calls.store(u32::from(input.byte() % 3), Relaxed),
            15 => self.guest.set_word(RSP_EVENT, input.edgy_u32(self.at.rsp_prod.wrapping_add(1))),
            16 => self.guest.set_word(REQ_EVENT, input.u32()),
            17 => {
                // Where no backend can be, so that it is known for what it is.
                let far = self.at.rsp_prod.wrapping_sub(1 + u32::from(input.byte()));
                self.guest.set_word(RSP_PROD, far);
                self.scribbled = Some(far);
            }
            18 => {
                self.limits.capacity_sectors = u64::from(input.u16()) % (DISK_SECTORS + 1);
                queue.resize(self.limits.capacity_sectors);
            }
            19 => self.guest.send_event(),
            20 => {
                queue.die();
                return self.reconnect(input);
            }
            21 => self.guest.kill_in.store(1 + u32::from(input.byte() % 6), Relaxed),
            22 => self.guest.deaf.store(input.flag(), Relaxed),
            _ => return self.turns(input, queue),
        }
        Some(queue)
    }

    fn slot_at(&self, index: u32) -> usize {
        SLOTS_AT + (index % NR_SLOTS) as usize * wire::slot_len(self.abi)
    }

    /// Events without work, one after the other: beyond a burst one is let through in each pause, whatever the guest does.
    fn storm(&mut self, input: &mut Input<'_>, queue: Queue) -> Option<Queue> {
        let mut queue = self.turns(input, queue)?;
        let (begun, before) = (Instant::now(), self.guest.acknowledged.load(Relaxed));
        for _ in 0..STORM_EVENTS {
            self.guest.send_event();
            queue.wait(Duration::ZERO).unwrap();
            queue = self.turn(input, queue)?.0;
        }
        let let_through = self.guest.acknowledged.load(Relaxed) - before;
        let pauses = begun.elapsed().as_millis() / STORM_PAUSE.as_millis();
        assert!(u128::from(let_through) <= STORM_BURST + pauses, "{let_through} of {STORM_EVENTS} events");
        Some(queue)
    }

    /// Turns until it would sleep.
    fn turns(&mut self, input: &mut Input<'_>, mut queue: Queue) -> Option<Queue> {
        for _ in 0..MOST_TURNS {
            let (next, more) = self.turn(input, queue)?;
            queue = next;
            if !more && queue.is_quiet() {
                return Some(queue);
            }
            if !more {
                queue.wait(Duration::from_millis(20)).unwrap();
            }
        }
        panic!("it never comes to rest: {queue:?}");
    }

    /// One turn, with everything that is to hold behind it; `None` if the connection is over.
    fn turn(&mut self, input: &mut Input<'_>, mut queue: Queue) -> Option<(Queue, bool)> {
        let before = queue.indices();
        self.unsettled = self.visible(before);
        let notified = self.guest.notified.load(Relaxed);
        match catch_unwind(AssertUnwindSafe(|| queue.turn())) {
            Ok(Ok(more)) => {
                self.settle(queue.indices());
                self.notified(before, notified);
                let is_ready = self.guest.word(REQ_PROD) != self.at.req_cons;
                // A frontend that asks before it notifies must find that it is to.
                let asks = self.guest.word(REQ_EVENT) == self.at.req_cons.wrapping_add(1);
                let wakes = self.closing || asks || is_ready || !queue.is_quiet();
                assert!(more || wakes, "it sleeps and nobody wakes it");
                Some((queue, more))
            }
            Ok(Err(Ended::Violation(why))) => {
                let Indices { req_cons, rsp_prod } = queue.indices();
                let claimed = self.guest.word(REQ_PROD).wrapping_sub(rsp_prod);
                let taken = req_cons.wrapping_sub(rsp_prod);
                assert!(claimed > NR_SLOTS || claimed < taken, "no overrun: {why}");
                queue.die();
                None
            }
            Ok(Err(Ended::Host(why))) => panic!("{why}"),
            Err(unwound) if unwound.is::<Killed>() => {
                queue.die();
                self.read_last_answers();
                let queue = self.reconnect(input)?;
                Some((queue, true))
            }
            Err(panicked) => resume_unwind(panicked),
        }
    }

    /// What is in the ring to be taken, if the guest's index is one that there can be.
    fn visible(&self, at: Indices) -> Vec<Owed> {
        let claimed = self.guest.word(REQ_PROD).wrapping_sub(at.rsp_prod);
        let taken = at.req_cons.wrapping_sub(at.rsp_prod);
        if claimed > NR_SLOTS || claimed < taken {
            return Vec::new();
        }
        let id_at = if self.abi == Abi::Native64 { 8 } else { 4 };
        let read = |index: u32| {
            let mut slot = [0; 16];
            assert!(self.guest.ring.read(self.slot_at(index), &mut slot));
            let id = u64::from_le_bytes(slot[id_at..id_at + 8].try_into().unwrap());
            (id, if slot[0] == wire::OP_INDIRECT { slot[1] } else { slot[0] })
        };
        (0..claimed - taken).map(|i| read(at.req_cons.wrapping_add(i))).collect()
    }

    fn read_answers(&self, to: u32) -> Vec<Response> {
        let mut slot = [0; wire::MAX_SLOT_LEN];
        let slot = &mut slot[..wire::slot_len(self.abi)];
        let count = to.wrapping_sub(self.at.rsp_prod);
        assert!(count <= NR_SLOTS, "{count} answers in a ring of {NR_SLOTS}");
        (0..count)
            .map(|i| {
                assert!(self.guest.ring.read(self.slot_at(self.at.rsp_prod.wrapping_add(i)), slot));
                Response::parse(blk_slot::theirs(self.abi), slot)
            })
            .collect()
    }

    /// The guest sees what was published before the kill.
    fn read_last_answers(&mut self) {
        let published = self.guest.word(RSP_PROD);
        if Some(published) == self.scribbled {
            return;
        }
        self.scribbled = None;
        self.answers = self.read_answers(published);
        self.at.rsp_prod = published;
    }

    /// Books what was taken and what was answered since the last look.
    fn settle(&mut self, now: Indices) {
        let mut answers = std::mem::take(&mut self.answers);
        answers.extend(self.read_answers(now.rsp_prod));
        if now.rsp_prod != self.at.rsp_prod {
            self.scribbled = None;
            assert_eq!(self.guest.word(RSP_PROD), now.rsp_prod);
        }
        let taken = now.req_cons.wrapping_sub(self.at.req_cons) as usize;
        let unsettled = std::mem::take(&mut self.unsettled);
        self.at = now;
        let Some(owed) = &mut self.owed else { return };
        assert!(taken <= unsettled.len(), "{taken} taken of {}", unsettled.len());
        owed.extend(&unsettled[..taken]);
        for answer in answers {
            assert!(answer.is_clean && (-2..=0).contains(&answer.status), "{answer:?}");
            let place = owed.iter().position(|owed| *owed == (answer.id, answer.operation));
            let place = place.unwrap_or_else(|| panic!("{answer:?} answers nothing of {owed:?}"));
            // A barrier is behind all that was taken before it.
            let is_passed = answer.operation == blkif::BARRIER && answer.status == blkif::OKAY && place > 0;
            assert!(!is_passed, "{answer:?} before {:?}", &owed[..place]);
            owed.remove(place);
        }
        assert_eq!(owed.len(), now.req_cons.wrapping_sub(now.rsp_prod) as usize, "{owed:?}");
    }

    fn notified(&self, before: Indices, notified: u32) {
        let (old, new) = (before.rsp_prod, self.at.rsp_prod);
        let is_wanted = new.wrapping_sub(self.guest.word(RSP_EVENT)) < new.wrapping_sub(old);
        assert!(!is_wanted || self.guest.notified.load(Relaxed) != notified, "it waits for ever");
    }

    /// A successor comes; `None` if the connection is over.
    fn reconnect(&mut self, input: &mut Input<'_>) -> Option<Queue> {
        if input.byte() == 0xff {
            self.write_in_journal(input);
        }
        for _ in 0..3 {
            match catch_unwind(AssertUnwindSafe(|| self.connect())) {
                Ok(Ok(queue)) => {
                    assert!(self.scribbled.is_none() || self.owed.is_none());
                    self.settle(queue.indices());
                    return Some(queue);
                }
                Ok(Err(Ended::Violation(why))) => {
                    assert!(self.scribbled.is_some() || self.owed.is_none(), "{why}");
                    return None;
                }
                Ok(Err(Ended::Host(why))) => {
                    // A flush that ended two workers is never answered.
                    assert!(self.owed.is_none() || (self.crashed && why.contains("a flush")), "{why}");
                    return None;
                }
                Err(unwound) if unwound.is::<Killed>() => self.read_last_answers(),
                Err(panicked) => resume_unwind(panicked),
            }
        }
        panic!("a successor dies of what nobody does");
    }

    /// As a worker that a guest took over could.
    fn write_in_journal(&mut self, input: &mut Input<'_>) {
        let path = lone::journal_path(self.dir.path());
        let len = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        let file = MappedFile::open(&path, len).unwrap();
        for _ in 0..=input.below(6) {
            let place = usize::from(input.u16());
            // The header's words, or any.
            let at = if place & 1 == 0 { 64 + place / 2 % 8 * 4 } else { place * 4 % len };
            file.u32_at(at).store(input.edgy_u32(self.at.req_cons), Relaxed);
        }
        (self.owed, self.scribbled) = (None, None);
    }

    /// With nothing in its way any more, all is answered.
    fn finish(&mut self, mut queue: Queue) {
        self.guest.bad.store(0, Relaxed);
        self.guest.failing_calls.store(0, Relaxed);
        self.guest.kill_in.store(0, Relaxed);
        queue.close();
        self.closing = true;
        for _ in 0..MOST_TURNS {
            let Some((next, more)) = self.turn(&mut Input::new(&[]), queue) else { return };
            queue = next;
            if queue.is_idle() && queue.is_quiet() {
                assert!(self.owed.as_ref().is_none_or(Vec::is_empty));
                return queue.leave();
            }
            if !more {
                queue.wait(Duration::from_millis(20)).unwrap();
            }
        }
        panic!("{:?} are never answered: {queue:?}", self.owed);
    }
}
