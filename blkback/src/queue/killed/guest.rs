//! An honest frontend that knows what every sector holds: whatever it reads, and how often it is answered, is checked. Knows nothing of
//! workers.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use qos::simulate::Random;
use worker::message::QueueRing;
use xen_ring::{FrontRing, PAGE_LEN};
use xenbus::hv::Access;
use xenbus::sim::{GuestPages, GuestPort, GuestWindow, SimDomain};
use xenbus::{DomId, GrantRef};

use super::Mode;
use crate::wire::{
    OP_DISCARD, OP_FLUSH_DISKCACHE, OP_INDIRECT, OP_READ, OP_WRITE, OP_WRITE_BARRIER, SECTOR_LEN, Segment,
};

#[allow(clippy::cast_possible_truncation)]
const SECTOR: usize = SECTOR_LEN as usize;
pub(super) const NR_SECTORS: usize = 2048;
/// Of a native 64-bit request.
pub(super) const SLOT_LEN: usize = 112;
/// Most pages of a request.
const MOST_PAGES: usize = 16;
const MOST_DIRECT: u64 = 11;

/// What goes wrong, in numbers that have to be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Answers with an error.
    pub(super) errors: u64,
    /// Sectors with other bytes than were written.
    pub(super) other_bytes: u64,
    /// Answers to nothing that is open.
    pub(super) twice: u64,
    /// Requests without an answer.
    pub(super) unanswered: u64,
}

#[derive(Debug)]
struct Open {
    queue: usize,
    slot: usize,
    operation: u8,
    start: usize,
    len: usize,
    generation: u64,
    /// Page, first and last sector in it.
    segments: Vec<(usize, u8, u8)>,
}

#[derive(Debug)]
struct GuestQueue {
    ring: FrontRing<GuestWindow>,
    port: GuestPort,
    refs: Vec<u32>,
    /// For each slot its pages, the last for a table.
    slots: Vec<(GuestPages, Vec<GrantRef>)>,
    free: Vec<usize>,
    /// Looks at the ring without being told.
    awake: bool,
    pages: Rc<GuestPages>,
}

#[derive(Debug)]
pub(super) struct Guest {
    mode: Mode,
    queues: Vec<GuestQueue>,
    /// Generation of each sector as answered; 0 is zeroes.
    holds: Vec<u64>,
    busy: Vec<bool>,
    open: HashMap<u64, Open>,
    next: u64,
    pub(super) answered: u64,
    pub(super) wrong: Wrong,
}

/// What a generation of a sector looks like.
fn stamp(sector: usize, generation: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if generation > 0 {
        let mut words = Random(generation << 20 | sector as u64);
        for word in bytes.as_chunks_mut::<8>().0 {
            *word = words.word().to_le_bytes();
        }
    }
    bytes
}

impl GuestQueue {
    fn new(domain: &SimDomain) -> Self {
        let grant = |pages: &GuestPages, i| {
            domain.grant(pages.frame(i), DomId::DOM0, Access::ReadWrite).expect("a grant")
        };
        let pages = domain.allocate(1).expect("a ring");
        let refs = vec![grant(&pages, 0).0];
        let ring = FrontRing::new(pages.window().expect("a ring"), SLOT_LEN).expect("a ring");
        let port = domain.allocate_port(DomId::DOM0).expect("a port");
        let count = usize::try_from(ring.nr_slots()).unwrap_or(0);
        let slot = |_| {
            let pages = domain.allocate(u32::try_from(MOST_PAGES + 1).unwrap_or(1)).expect("pages");
            let refs = (0..pages.pages()).map(|i| grant(&pages, i)).collect();
            (pages, refs)
        };
        let slots = (0..count).map(slot).collect();
        Self { ring, port, refs, slots, free: (0..count).collect(), awake: true, pages: Rc::new(pages) }
    }
}

impl Guest {
    pub(super) fn new(domain: &SimDomain, mode: Mode) -> Self {
        Self {
            mode,
            queues: (0..mode.queues).map(|_| GuestQueue::new(domain)).collect(),
            holds: vec![0; NR_SECTORS],
            busy: vec![false; NR_SECTORS],
            open: HashMap::new(),
            next: 1,
            answered: 0,
            wrong: Wrong::default(),
        }
    }

    pub(super) fn ring(&self, queue: usize) -> QueueRing {
        QueueRing { ring_refs: self.queues[queue].refs.clone(), port: self.queues[queue].port.port().0 }
    }

    pub(super) fn pages(&self, queue: usize) -> Rc<GuestPages> {
        Rc::clone(&self.queues[queue].pages)
    }

    pub(super) fn nr_slots(&self) -> u32 {
        self.queues[0].ring.nr_slots()
    }

    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Sends up to so many requests on some queue.
    pub(super) fn send(&mut self, random: &mut Random, most: u64) {
        let queue = usize::try_from(random.below(self.queues.len() as u64)).unwrap_or(0);
        for _ in 0..=random.below(most) {
            self.send_one(random, queue);
        }
        let queue = &mut self.queues[queue];
        if queue.ring.publish() {
            queue.port.notify().expect("an event");
        }
    }

    fn operation(&self, random: &mut Random) -> u8 {
        match random.below(16) {
            0 => OP_FLUSH_DISKCACHE,
            1 if self.mode.discards => OP_DISCARD,
            2 if self.mode.barriers => OP_WRITE_BARRIER,
            n if n < 9 => OP_WRITE,
            _ => OP_READ,
        }
    }

    fn send_one(&mut self, random: &mut Random, queue: usize) {
        let operation = self.operation(random);
        let is_indirect = self.mode.indirect && operation != OP_WRITE_BARRIER && random.below(2) == 0;
        let most = if is_indirect { MOST_PAGES as u64 } else { MOST_DIRECT };
        let mut segments = Vec::new();
        let nr_pages = usize::try_from(1 + random.below(most)).unwrap_or(1);
        for page in 0..nr_pages {
            // Whole pages, but for the ends of a request where parts of blocks are wanted.
            let part = |random: &mut Random, at_end: bool| {
                if self.mode.parts && at_end { u8::try_from(random.below(8)).unwrap_or(0) } else { 0 }
            };
            let first = part(random, page == 0);
            let last = 7 - part(random, page == nr_pages - 1).min(7 - first);
            segments.push((page, first, last));
        }
        let mut len: usize = segments.iter().map(|(_, first, last)| usize::from(last - first) + 1).sum();
        let align = if self.mode.parts { 1 } else { 8 };
        let start = usize::try_from(random.below((NR_SECTORS / align) as u64)).unwrap_or(0) * align;
        if operation == OP_FLUSH_DISKCACHE {
            (len, segments) = (0, Vec::new());
        }
        let Some(busy) = self.busy.get_mut(start..start + len) else { return };
        // Two that overlap may be done in any order: nobody could say what is right.
        if busy.contains(&true) {
            return;
        }
        let Some(slot) = self.queues[queue].free.pop() else { return };
        busy.fill(true);
        let id = self.next;
        self.next += 1;
        let open = Open { queue, slot, operation, start, len, generation: id, segments };
        self.prepare(&open);
        let bytes = self.request(&open, id, is_indirect && len > 0 && operation != OP_DISCARD);
        self.queues[queue].ring.push_request(&bytes);
        self.open.insert(id, open);
    }

    /// Fills a request's pages: with what is to be written, or with what must not be read.
    fn prepare(&self, open: &Open) {
        let (pages, _) = &self.queues[open.queue].slots[open.slot];
        let mut sector = open.start;
        for &(page, first, last) in &open.segments {
            for at in first..=last {
                let bytes =
                    if open.operation == OP_READ { [0xa5; SECTOR] } else { stamp(sector, open.generation) };
                assert!(pages.write(page * PAGE_LEN + usize::from(at) * SECTOR, &bytes));
                sector += 1;
            }
        }
    }

    fn request(&self, open: &Open, id: u64, is_indirect: bool) -> [u8; SLOT_LEN] {
        let mut bytes = [0; SLOT_LEN];
        let (pages, refs) = &self.queues[open.queue].slots[open.slot];
        let segment =
            |&(page, first, last): &(usize, u8, u8)| Segment { gref: refs[page], first, last }.encode();
        let nr = u8::try_from(open.segments.len()).unwrap_or(0);
        bytes[8..16].copy_from_slice(&id.to_le_bytes());
        bytes[16..24].copy_from_slice(&(open.start as u64).to_le_bytes());
        if open.operation == OP_DISCARD {
            bytes[0] = OP_DISCARD;
            bytes[24..32].copy_from_slice(&(open.len as u64).to_le_bytes());
        } else if is_indirect {
            (bytes[0], bytes[1], bytes[2]) = (OP_INDIRECT, open.operation, nr);
            for (i, one) in open.segments.iter().enumerate() {
                assert!(pages.write(MOST_PAGES * PAGE_LEN + i * 8, &segment(one)));
            }
            bytes[28..32].copy_from_slice(&refs[MOST_PAGES].0.to_le_bytes());
        } else {
            (bytes[0], bytes[1]) = (open.operation, nr);
            for (i, one) in open.segments.iter().enumerate() {
                bytes[24 + i * 8..32 + i * 8].copy_from_slice(&segment(one));
            }
        }
        bytes
    }

    /// Takes the answers of which it was told; asks to be told of the next.
    pub(super) fn receive(&mut self) {
        for number in 0..self.queues.len() {
            let queue = &mut self.queues[number];
            let told = queue.port.wait(Duration::ZERO).expect("an event channel");
            if !told && !queue.awake {
                continue;
            }
            let mut answers = Vec::new();
            for _ in 0..queue.ring.unconsumed().expect("an honest backend") {
                let mut bytes = [0; SLOT_LEN];
                queue.ring.consume(&mut bytes);
                let id = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
                answers.push((id, i16::from_le_bytes([bytes[10], bytes[11]])));
            }
            queue.awake = queue.ring.final_check().expect("an honest backend");
            for (id, status) in answers {
                self.take(number, id, status);
            }
        }
    }

    fn take(&mut self, queue: usize, id: u64, status: i16) {
        let Some(open) = self.open.remove(&id).filter(|open| open.queue == queue) else {
            self.wrong.twice += 1;
            return;
        };
        self.answered += 1;
        self.busy[open.start..open.start + open.len].fill(false);
        if status != 0 {
            self.wrong.errors += 1;
        } else if open.operation == OP_READ {
            self.compare(&open);
        } else {
            let generation = if open.operation == OP_DISCARD { 0 } else { open.generation };
            self.holds[open.start..open.start + open.len].fill(generation);
        }
        self.queues[queue].free.push(open.slot);
    }

    fn compare(&mut self, open: &Open) {
        let (pages, _) = &self.queues[open.queue].slots[open.slot];
        let mut sector = open.start;
        for &(page, first, last) in &open.segments {
            for at in first..=last {
                let mut bytes = [0; SECTOR];
                assert!(pages.read(page * PAGE_LEN + usize::from(at) * SECTOR, &mut bytes));
                if bytes != stamp(sector, self.holds[sector]) {
                    self.wrong.other_bytes += 1;
                }
                sector += 1;
            }
        }
    }

    /// Nothing more will come.
    pub(super) fn end(&mut self) {
        self.wrong.unanswered = self.open.len() as u64;
    }
}
