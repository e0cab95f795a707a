//! What a worker that a guest took over may leave behind: any words in its journal, any `rsp_prod` in the ring. It is refused, or taken
//! over; then each entry that is owed is answered once and no other, wherever the successors are killed, and nothing outside of the
//! file is read. The same for what a vif's worker keeps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use netback::kept::{Kept, Side};
use worker::journal::recover::Plan;
use worker::journal::{Begun, Journal, Shape};
use worker::mapped_file::MappedFile;

use super::input::Input;

const CONNECTION: u64 = 7;
const TERMS: [u32; 2] = [1, 2];
const EXTRA_LEN: usize = 16;
/// Where the header's words end and entries begin.
const ENTRIES_AT: usize = 4096;
/// Most workers that die over one journal.
const MOST_LIVES: usize = 6;

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let dir = dir();
    if input.flag() {
        return vif(&mut input, &dir.join("kept-0"));
    }
    let nr_entries = input.one_of(&[4, 32]);
    let shape = Shape { nr_entries, slot_len: 12, extra_len: EXTRA_LEN };
    let path = dir.join(format!("journal-{nr_entries}"));
    // What an earlier input left goes first: the connection is another, so it is begun anew.
    let mut journal = Journal::open(&path, shape).unwrap();
    journal.begin(CONNECTION + 1, shape, &TERMS, 0).unwrap();
    journal.end();
    assert_eq!(journal.begin(CONNECTION, shape, &TERMS, 0).unwrap(), Begun::Fresh);
    drop(journal);
    let near = scribble(&mut input, &path, nr_entries);
    let shared_rsp_prod = near.wrapping_add(input.edgy_u32(0));
    recover(&mut input, &path, shape, shared_rsp_prod);
}

fn dir() -> PathBuf {
    use std::sync::LazyLock;
    static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    // Threads of one process each have their own.
    let dir = DIR.path().join(format!("{:?}", std::thread::current().id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Writes words where they matter, or anywhere; returns a number near the indices that were written.
fn scribble(input: &mut Input<'_>, path: &Path, nr_entries: usize) -> u32 {
    let len = usize::try_from(std::fs::metadata(path).unwrap().len()).unwrap();
    let file = MappedFile::open(path, len).unwrap();
    let near = input.edgy_u32(0);
    let entry_len = (32 + 16 + EXTRA_LEN).next_multiple_of(64);
    let set = |at: usize, value: u32| file.u32_at(at).store(value, Relaxed);
    // req_cons, rsp_prod, rsp_intent.
    for at in [64, 68, 72] {
        set(at, near.wrapping_add(u32::from(input.byte() % 8)));
    }
    let entries = usize::from(input.byte()) % (nr_entries + 1);
    for entry in 0..entries {
        let [kind, index, rsp_index, status] = input.array();
        let at = ENTRIES_AT + entry * entry_len;
        for (word, value) in [
            (0, u32::from(kind % 4)),
            (4, near.wrapping_add(u32::from(index % 16)).wrapping_sub(4)),
            (8, near.wrapping_add(u32::from(rsp_index % 16)).wrapping_sub(4)),
            (12, u32::from(status)),
        ] {
            set(at + word, value);
        }
    }
    for _ in 0..input.byte() % 8 {
        let at = usize::from(input.u16()) * 4 % len;
        set(at, input.edgy_u32(near));
    }
    near
}

fn recover(input: &mut Input<'_>, path: &Path, shape: Shape, mut shared_rsp_prod: u32) {
    // Entries that are owed, of which each is answered exactly once.
    let mut owed: Option<BTreeSet<usize>> = None;
    for life in 0..MOST_LIVES {
        let mut journal = Journal::open(path, shape).unwrap();
        let plan = match journal.begin(CONNECTION, shape, &TERMS, shared_rsp_prod) {
            Ok(Begun::Resumed(plan)) => plan,
            // Refused, or not this connection's any more: only at first.
            Ok(Begun::Fresh) | Err(_) => return assert!(owed.is_none(), "a journal of our own is refused"),
        };
        let found = sound(&journal, shape, &plan, shared_rsp_prod);
        let owed = owed.get_or_insert_with(|| found.clone());
        assert_eq!(*owed, found, "what is owed");
        if input.flag() {
            journal.note_crash(&plan);
        }
        if let Some(&first) = plan.replay.first().filter(|_| input.flag()) {
            journal.suspect(first);
        }
        let stores = if life + 1 == MOST_LIVES { u32::MAX } else { input.byte().into() };
        if answer(&journal, &plan, &mut shared_rsp_prod, owed, stores) {
            return assert!(owed.is_empty(), "{owed:?} are never answered");
        }
    }
}

/// A plan that can be followed; what it says is owed.
fn sound(journal: &Journal, shape: Shape, plan: &Plan, shared_rsp_prod: u32) -> BTreeSet<usize> {
    assert_eq!(plan.rsp_prod, shared_rsp_prod);
    let entries = || plan.answer.iter().map(|&(entry, _)| entry).chain(plan.replay.iter().copied());
    let owed: BTreeSet<usize> = entries().collect();
    assert_eq!(owed.len(), entries().count(), "an entry is owed twice");
    assert_eq!(owed.len(), plan.req_cons.wrapping_sub(plan.rsp_prod) as usize);
    for &entry in &owed {
        assert!(entry < shape.nr_entries);
        let mut extra = [0; 4 * EXTRA_LEN];
        assert!(journal.extra(entry, &mut extra) <= shape.extra_len);
        journal.slot(entry, &mut [0; 64]);
        let _ = journal.deaths(entry);
    }
    owed
}

/// Answers all, as a worker does, until the stores are used up; true if it came to the end.
fn answer(
    journal: &Journal,
    plan: &Plan,
    shared_rsp_prod: &mut u32,
    owed: &mut BTreeSet<usize>,
    mut stores: u32,
) -> bool {
    let mut alive = || {
        let alive = stores > 0;
        stores = stores.saturating_sub(1);
        alive
    };
    let staged: Vec<(usize, i32)> = plan.answer.clone();
    let again = plan.replay.iter().map(|&entry| (entry, 0));
    // What was staged goes first, in one batch, as its indices are taken.
    for batch in [staged, again.collect()] {
        let first = *shared_rsp_prod;
        let mut next = first;
        for &(entry, status) in &batch {
            if !alive() {
                return false;
            }
            journal.stage(entry, next, status);
            next = next.wrapping_add(1);
        }
        if !alive() {
            return false;
        }
        journal.intend(next);
        if !alive() {
            return false;
        }
        *shared_rsp_prod = next;
        batch.iter().for_each(|(entry, _)| assert!(owed.remove(entry), "{entry} is answered twice"));
        if !alive() {
            return false;
        }
        journal.published(next);
        for &(entry, _) in &batch {
            if !alive() {
                return false;
            }
            journal.free(entry);
        }
    }
    true
}

const VIF_TERMS: [u32; 4] = [8, 9, 3, 3];

fn vif(input: &mut Input<'_>, path: &Path) {
    let mut kept = Kept::open(path).unwrap();
    kept.begin(CONNECTION + 1, VIF_TERMS, [0, 0]).ok();
    kept.end();
    kept.begin(CONNECTION, VIF_TERMS, [0, 0]).unwrap();
    drop(kept);
    let file = MappedFile::open(path, 3 * 4096).unwrap();
    let near = input.edgy_u32(0);
    let mut published = [near; 2];
    for (at, published) in [64, 128].into_iter().zip(&mut published) {
        let answered = near.wrapping_add(input.byte().into());
        file.u32_at(at).store(answered, Relaxed);
        file.u32_at(at + 4).store(answered.wrapping_add(input.edgy_u32(256)), Relaxed);
        *published = answered.wrapping_add(input.edgy_u32(256));
    }
    for _ in 0..input.byte() % 4 {
        file.u32_at(usize::from(input.u16()) * 4 % (3 * 4096)).store(input.u32(), Relaxed);
    }
    drop(file);
    let mut kept = Kept::open(path).unwrap();
    let Ok(places) = kept.begin(CONNECTION, VIF_TERMS, published) else { return };
    let is_ours = kept.begin(CONNECTION, VIF_TERMS, published).is_ok_and(|again| again == places);
    assert!(is_ours, "taken over once, not again");
    for ((side, place), published) in [Side::Tx, Side::Rx].into_iter().zip(places).zip(published) {
        assert_eq!(place.answered, published, "answers go on where the ring stands");
        let owed = place.taken.wrapping_sub(place.answered);
        assert!(owed <= 256, "{owed} slots of a ring of 256");
        for index in 0..owed {
            kept.slot(side, place.answered.wrapping_add(index), &mut [0; 12]);
        }
    }
}
