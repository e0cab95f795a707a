//! Exactly one answer for every request, wherever the kill falls. A model of worker, ring and frontend whose every store is
//! one step; the run is cut after each step in turn, a successor recovers, and the frontend counts.

use proptest::prelude::*;

use super::*;

const NR: u32 = 4;

/// All memory that outlives a worker, and what the frontend saw.
#[derive(Clone, Debug)]
struct World {
    at: Positions,
    entries: Vec<EntryState>,
    slots: [u32; NR as usize],
    shared_rsp_prod: u32,
    req_prod: u32,
    seen: u32,
    answered: Vec<u32>,
    /// Stores left until the kill.
    left: u32,
}

/// The kill.
#[derive(Debug)]
struct Killed;

impl World {
    fn new(start: u32, left: u32) -> Self {
        Self {
            at: Positions { req_cons: start, rsp_prod: start, rsp_intent: start },
            entries: vec![EntryState::Free; NR as usize],
            slots: [u32::MAX; NR as usize],
            shared_rsp_prod: start,
            req_prod: start,
            seen: start,
            answered: Vec::new(),
            left,
        }
    }

    fn store(&mut self, act: impl FnOnce(&mut Self)) -> Result<(), Killed> {
        if self.left == 0 {
            return Err(Killed);
        }
        self.left -= 1;
        act(self);
        Ok(())
    }

    /// The frontend reads answers, then fills the ring; a slot holds the number of its request or of the one answered.
    fn frontend(&mut self, until: u32) {
        while self.seen != self.shared_rsp_prod {
            self.answered.push(self.slots[(self.seen % NR) as usize]);
            self.seen = self.seen.wrapping_add(1);
        }
        while self.req_prod != until && self.req_prod.wrapping_sub(self.seen) < NR {
            self.slots[(self.req_prod % NR) as usize] = self.req_prod;
            self.req_prod = self.req_prod.wrapping_add(1);
        }
    }
}

/// A worker's private memory: which request each entry holds, and whether its I/O is done.
#[derive(Default)]
struct Worker {
    requests: Vec<Option<u32>>,
    order: Vec<usize>,
}

impl Worker {
    /// As a successor (or the first worker) starts: the plan, or nothing owed.
    fn start(world: &mut World, kept: &[u32]) -> Result<Self, Killed> {
        let plan = plan(world.at, &world.entries, world.shared_rsp_prod).unwrap();
        let mut worker = Self { requests: vec![None; NR as usize], order: Vec::new() };
        let owed: Vec<usize> =
            plan.answer.iter().map(|&(i, _)| i).chain(plan.replay.iter().copied()).collect();
        for i in (0..NR as usize).filter(|i| !owed.contains(i)) {
            world.store(|w| w.entries[i] = EntryState::Free)?;
        }
        world.store(|w| w.at.rsp_prod = plan.rsp_prod)?;
        world.store(|w| w.at.rsp_intent = plan.rsp_prod)?;
        for i in owed {
            worker.requests[i] = Some(kept[i]);
            worker.order.push(i);
        }
        // What was staged goes out first, at the indices it has.
        worker.answer(world, &vec![0; plan.answer.len()])?;
        Ok(worker)
    }

    fn take(&mut self, world: &mut World, kept: &mut [u32], most: u32) -> Result<(), Killed> {
        for _ in 0..most {
            let Some(entry) = self.requests.iter().position(Option::is_none) else { break };
            let index = world.at.req_cons;
            if index == world.req_prod {
                break;
            }
            let request = world.slots[(index % NR) as usize];
            world.store(|_| kept[entry] = request)?;
            world.store(|w| w.entries[entry] = EntryState::Taken { index })?;
            world.store(|w| w.at.req_cons = index.wrapping_add(1))?;
            self.requests[entry] = Some(request);
            self.order.push(entry);
        }
        Ok(())
    }

    /// Answers some of what is held, in any order.
    fn answer(&mut self, world: &mut World, picks: &[usize]) -> Result<(), Killed> {
        let mut batch = Vec::new();
        let mut rsp = world.shared_rsp_prod;
        for &pick in picks {
            if self.order.is_empty() {
                break;
            }
            let entry = self.order.remove(pick % self.order.len());
            let Some(request) = self.requests[entry] else { continue };
            let index = match world.entries[entry] {
                EntryState::Taken { index } | EntryState::Staged { index, .. } => index,
                EntryState::Free => panic!("an answer without a request"),
            };
            world.store(|w| w.entries[entry] = EntryState::Staged { index, rsp_index: rsp, status: 0 })?;
            batch.push((entry, request, rsp));
            rsp = rsp.wrapping_add(1);
        }
        world.store(|w| w.at.rsp_intent = rsp)?;
        for &(_, request, at) in &batch {
            world.store(|w| w.slots[(at % NR) as usize] = request)?;
        }
        world.store(|w| w.shared_rsp_prod = rsp)?;
        world.store(|w| w.at.rsp_prod = rsp)?;
        for &(entry, _, _) in &batch {
            world.store(|w| w.entries[entry] = EntryState::Free)?;
            self.requests[entry] = None;
        }
        Ok(())
    }
}

/// One round of work: the frontend's, then takes, then answers.
#[derive(Clone, Debug)]
struct Round {
    take: u32,
    picks: Vec<usize>,
}

fn live(world: &mut World, kept: &mut [u32], rounds: &[Round], until: u32) -> Result<(), Killed> {
    let mut worker = Worker::start(world, kept)?;
    for round in rounds.iter().cycle() {
        world.frontend(until);
        if world.seen == until {
            return Ok(());
        }
        worker.take(world, kept, round.take)?;
        worker.answer(world, &round.picks)?;
    }
    Ok(())
}

/// Runs `total` requests with kills after the given numbers of stores, then to the end; returns the stores of the last life.
fn run(start: u32, total: u32, rounds: &[Round], kills: &[u32]) -> u32 {
    let until = start.wrapping_add(total);
    let mut world = World::new(start, 0);
    let mut kept = vec![0; NR as usize];
    for &left in kills {
        world.left = left;
        if live(&mut world, &mut kept, rounds, until).is_ok() {
            break;
        }
        world.frontend(until);
    }
    world.left = 1_000_000;
    live(&mut world, &mut kept, rounds, until).unwrap();
    let mut answered: Vec<u32> = world.answered.iter().map(|r| r.wrapping_sub(start)).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..total).collect::<Vec<_>>(), "each request exactly once");
    1_000_000 - world.left
}

/// Every single store of a run is tried as the last one, and then every store of the recovery after it; indices wrap midway.
#[test]
fn one_answer_wherever_the_kill_falls() {
    let rounds = [
        Round { take: 4, picks: vec![2, 0] },
        Round { take: 1, picks: vec![] },
        Round { take: 3, picks: vec![1, 1, 0] },
    ];
    let start = u32::MAX - 5;
    let stores = run(start, 12, &rounds, &[]);
    for first in 0..stores {
        for second in [0, 1, 2, 3, 4, 5, 7, 9, 12, 20] {
            run(start, 12, &rounds, &[first, second]);
        }
    }
}

/// A guest that writes `rsp_prod` itself is told apart from a kill between two stores (hostile case R6).
#[test]
fn foreign_rsp_prod_is_tampering() {
    let at = Positions { req_cons: 10, rsp_prod: 8, rsp_intent: 9 };
    let entries = [
        EntryState::Staged { index: 8, rsp_index: 8, status: 0 },
        EntryState::Taken { index: 9 },
        EntryState::Taken { index: 10 },
        EntryState::Free,
    ];

    assert_eq!(plan(at, &entries, 8).unwrap().answer, [(0, 0)]);
    assert_eq!(plan(at, &entries, 9).unwrap().replay, [1]);
    for found in [0, 7, 10, u32::MAX] {
        assert!(matches!(plan(at, &entries, found), Err(Unusable::Tampered { .. })));
    }
}

/// XSA-376's kind: two answers can never have the same place in the ring, whatever a worker that was taken over left.
#[test]
fn two_entries_of_one_answer_are_refused() {
    let at = Positions { req_cons: 10, rsp_prod: 8, rsp_intent: 10 };
    let staged = |index, rsp_index| EntryState::Staged { index, rsp_index, status: 0 };
    assert_eq!(plan(at, &[staged(8, 9), staged(9, 8)], 8).unwrap().answer, [(1, 0), (0, 0)]);
    assert!(matches!(plan(at, &[staged(8, 8), staged(9, 8)], 8), Err(Unusable::Entry(_))));
}

proptest! {
    /// Random work, random kills.
    #[test]
    fn one_answer_under_random_kills(
        start: u32,
        rounds in proptest::collection::vec(
            (1u32..5, proptest::collection::vec(0usize..4, 1..5)).prop_map(|(take, picks)| Round { take, picks }),
            1..6,
        ),
        kills in proptest::collection::vec(0u32..60, 0..8),
    ) {
        run(start, 20, &rounds, &kills);
    }

    /// Whatever a taken-over worker left in the journal: an answer or a refusal, and never more owed than the ring holds.
    #[test]
    fn any_journal_is_read_to_an_end(
        req_cons in 0u32..8, rsp_prod in 0u32..8, rsp_intent in 0u32..8, shared in 0u32..8,
        words in proptest::collection::vec((0u8..3, 0u32..8, 0u32..8, any::<i32>()), NR as usize),
    ) {
        let entries: Vec<_> = words.into_iter().map(|(kind, index, rsp_index, status)| match kind {
            0 => EntryState::Free,
            1 => EntryState::Taken { index },
            _ => EntryState::Staged { index, rsp_index, status },
        }).collect();

        if let Ok(plan) = plan(Positions { req_cons, rsp_prod, rsp_intent }, &entries, shared) {
            prop_assert_eq!(plan.replay.len() + plan.answer.len(), (plan.req_cons - plan.rsp_prod) as usize);
            prop_assert_eq!(plan.rsp_prod, shared);
        }
    }
}
