//! All of the model: guest, ring, events, journal, kernel, worker, in steps of one store each. Two slots, so that answers overwrite requests
//! and overtake each other. Knows nothing of how states are searched.

use super::kept::Kept;

mod worker;

const SLOTS: usize = 2;
const SLOTS_U32: u32 = 2;

/// What a worker leaves out, to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    Right,
    /// A successor does not wait for what the kernel still has.
    NoFence,
    /// It sleeps without a last look at the ring.
    NoLastLook,
    /// A successor does not notify.
    NoNotifyAfterTakeover,
    /// The ring's index is stored before the intent is.
    PublishBeforeIntent,
    /// Entries are freed before they are published.
    FreeBeforePublish,
    /// A request is owed before it is kept.
    OwnBeforeKeep,
}

/// What stands in a slot of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cell {
    Request(u32),
    Answer(u32),
}

/// What a worker knows of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Work {
    None,
    /// To be given to the disk.
    Waits(u32),
    WithDisk(u32),
    Done(u32),
}

/// Where a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// A successor frees what is not owed, entry by entry, then corrects the words.
    Resumes(u8),
    ResumesNote,
    ResumesIntent,
    Turn,
    /// A request was copied out of the ring.
    Copied(u8, u32),
    Kept(u8, u32),
    /// Answers of the batch are staged so far.
    Stages(u8),
    Intends,
    Writes,
    Publishes,
    /// `rsp_event` is to be looked at.
    Checks(u32),
    Notes,
    Frees(u8),
    Notifies,
    /// It has seen that there is nothing to do.
    Asks,
    /// `req_event` is stored.
    LooksAgain,
    Sleeps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Worker {
    at: At,
    req_cons: u32,
    rsp_prod: u32,
    work: [Work; SLOTS],
    /// Entries that are answered together, in that order.
    batch: [Option<u8>; SLOTS],
    notify: bool,
    /// Of a takeover.
    notify_anyway: bool,
}

/// The guest's end of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Guest {
    Awake,
    /// It has seen that there is nothing to take.
    Asks,
    /// `rsp_event` is stored.
    LooksAgain,
    Sleeps,
}

/// A state of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    cells: [Option<Cell>; SLOTS],
    req_prod: u32,
    req_event: u32,
    rsp_event: u32,
    kept: Kept<SLOTS>,
    rsp_cons: u32,
    /// Requests that are not answered, a bit each.
    owed: u8,
    guest: Guest,
    /// The guest published and has not looked at `req_event` yet: the index before.
    posting: Option<u32>,
    to_worker: bool,
    to_guest: bool,
    /// Operations of the worker that lives, and of dead ones; a bit for each request.
    under_way: u8,
    orphans: u8,
    worker: Option<Worker>,
    crashes_left: u8,
}

/// States that may come next, or what was broken.
pub(super) type Next = Result<Vec<(&'static str, State)>, String>;

impl State {
    /// A worker that has just connected.
    #[must_use]
    pub fn first(crashes: u8) -> Self {
        Self {
            cells: [None; SLOTS],
            req_prod: 0,
            req_event: 1,
            rsp_event: 1,
            kept: Kept::default(),
            rsp_cons: 0,
            owed: 0,
            guest: Guest::Awake,
            posting: None,
            to_worker: true,
            to_guest: false,
            under_way: 0,
            orphans: 0,
            worker: Some(Worker {
                at: At::Turn,
                req_cons: 0,
                rsp_prod: 0,
                work: [Work::None; SLOTS],
                batch: [None; SLOTS],
                notify: false,
                notify_anyway: false,
            }),
            crashes_left: crashes,
        }
    }

    /// Every step that somebody can make; a crash comes last.
    pub(super) fn next(&self, requests: u32, variant: Variant) -> Next {
        let mut next = Vec::with_capacity(8);
        self.guest_steps(requests, &mut next)?;
        self.kernel_steps(&mut next);
        match self.worker {
            Some(worker) => self.worker_steps(worker, variant, &mut next)?,
            None if self.orphans == 0 || variant == Variant::NoFence => {
                next.push(("a successor comes", self.taken_over(variant)?));
            }
            None => {}
        }
        let is_over = next.is_empty() && (self.owed != 0 || self.req_prod < requests);
        if is_over {
            return Err("all sleep, and not everything is answered".into());
        }
        if self.worker.is_some() && self.crashes_left > 0 {
            let orphans = self.orphans | self.under_way;
            let crashes_left = self.crashes_left - 1;
            // With the port goes what was sent to it.
            let dead = Self { worker: None, under_way: 0, orphans, crashes_left, to_worker: false, ..*self };
            next.push(("the worker dies", dead));
        }
        Ok(next)
    }

    fn guest_steps(&self, requests: u32, next: &mut Vec<(&'static str, Self)>) -> Result<(), String> {
        let mut s = *self;
        if let Some(old) = self.posting {
            s.posting = None;
            let is_wanted = self.req_prod.wrapping_sub(self.req_event) < self.req_prod.wrapping_sub(old);
            // Nobody hears it while the port is closed.
            s.to_worker |= is_wanted && self.worker.is_some();
            next.push(("the guest notifies if it is to", s));
        } else if self.req_prod < requests && self.req_prod - self.rsp_cons < SLOTS_U32 {
            s.cells[self.req_prod as usize % SLOTS] = Some(Cell::Request(self.req_prod));
            s.owed |= 1 << self.req_prod;
            s.posting = Some(self.req_prod);
            s.req_prod += 1;
            next.push(("the guest asks", s));
        }
        let mut s = *self;
        match self.guest {
            Guest::Awake if self.rsp_cons != self.kept.published => {
                let cell = self.cells[self.rsp_cons as usize % SLOTS];
                let Some(Cell::Answer(id)) = cell else {
                    return Err(format!("no answer at {}: {cell:?}", self.rsp_cons));
                };
                if self.owed >> id & 1 == 0 {
                    return Err(format!("request {id} is answered twice"));
                }
                s.owed &= !(1 << id);
                s.rsp_cons += 1;
                next.push(("the guest takes an answer", s));
            }
            Guest::Awake => {
                s.guest = Guest::Asks;
                next.push(("the guest has nothing to do", s));
            }
            Guest::Asks => {
                s.rsp_event = self.rsp_cons + 1;
                s.guest = Guest::LooksAgain;
                next.push(("the guest asks for an event", s));
            }
            Guest::LooksAgain => {
                let is_more = self.rsp_cons != self.kept.published;
                s.guest = if is_more { Guest::Awake } else { Guest::Sleeps };
                next.push(("the guest looks again", s));
            }
            Guest::Sleeps if self.to_guest => {
                s.to_guest = false;
                s.guest = Guest::Awake;
                next.push(("the guest wakes", s));
            }
            Guest::Sleeps => {}
        }
        Ok(())
    }

    fn kernel_steps(&self, next: &mut Vec<(&'static str, Self)>) {
        for id in 0..8 {
            let bit = 1 << id;
            if self.orphans & bit != 0 {
                next.push(("a dead worker's operation ends", Self { orphans: self.orphans & !bit, ..*self }));
            }
            if let Some(mut worker) = self.worker.filter(|_| self.under_way & bit != 0) {
                for work in worker.work.iter_mut().filter(|work| **work == Work::WithDisk(id)) {
                    *work = Work::Done(id);
                }
                let under_way = self.under_way & !bit;
                next.push(("an operation ends", Self { under_way, worker: Some(worker), ..*self }));
            }
        }
    }
}
