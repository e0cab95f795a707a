//! The file behind the journal: what one worker stores the next one finds, and only under the same terms.

use proptest::prelude::*;

use super::*;

const SHAPE: Shape = Shape { nr_entries: 4, slot_len: 12, extra_len: 16 };

fn path() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal-0");
    (dir, path)
}

/// A successor of the same connection gets requests, what was kept beside them, and the owed answers.
#[test]
fn successor_finds_everything() {
    let (_dir, path) = path();
    let mut first = Journal::open(&path, SHAPE).unwrap();
    assert_eq!(first.begin(7, SHAPE, &[1, 2], 0).unwrap(), Begun::Fresh);
    first.take(2, 0, b"request zero");
    first.take(0, 1, b"request one ");
    first.keep_extra(0, b"segments");
    first.stage(2, 0, -1);
    drop(first);

    let mut second = Journal::open(&path, SHAPE).unwrap();
    let Begun::Resumed(plan) = second.begin(7, SHAPE, &[1, 2], 0).unwrap() else { panic!("resumes") };
    let (mut slot, mut extra) = ([0; 12], [0; 16]);
    second.slot(0, &mut slot);
    let extra_len = second.extra(0, &mut extra);

    assert_eq!((plan.req_cons, plan.rsp_prod), (2, 0));
    assert_eq!((plan.replay, plan.answer), (vec![0], vec![(2, -1)]));
    assert_eq!((&slot, &extra[..extra_len]), (b"request one ", b"segments".as_slice()));
}

/// Another connection, or one that was ended, starts anew; another's terms are refused rather than misread.
#[test]
fn only_its_own_connection_resumes() {
    let (_dir, path) = path();
    let mut journal = Journal::open(&path, SHAPE).unwrap();
    journal.begin(7, SHAPE, &[1, 2], 0).unwrap();
    journal.take(0, 0, b"request zero");

    assert!(matches!(journal.begin(7, SHAPE, &[1, 3], 0), Err(BeginError::Terms(_))));
    let fewer = Shape { nr_entries: 2, ..SHAPE };
    assert!(matches!(journal.begin(7, fewer, &[1, 2], 0), Err(BeginError::Terms(_))));
    assert_eq!(journal.begin(8, SHAPE, &[1, 2], 0).unwrap(), Begun::Fresh);
    journal.take(0, 0, b"request zero");
    journal.end();
    assert_eq!(journal.begin(8, SHAPE, &[1, 2], 0).unwrap(), Begun::Fresh);
}

/// Who dies doing one entry alone leaves word of it; another entry, and one that was answered, is not blamed.
#[test]
fn deaths_are_counted_for_the_entry_that_was_done_alone() {
    let (_dir, path) = path();
    let begin = || {
        let mut journal = Journal::open(&path, SHAPE).unwrap();
        if let Begun::Resumed(plan) = journal.begin(7, SHAPE, &[], 0).unwrap() {
            journal.note_crash(&plan);
        }
        journal
    };
    let mut first = begin();
    first.take(0, 0, b"request zero");
    first.take(1, 1, b"request one ");
    assert_eq!((first.attempts(), first.deaths(0)), (0, 0));
    assert_eq!(begin().attempts(), 1);
    let third = begin();
    assert_eq!((third.attempts(), third.deaths(0), third.deaths(1)), (2, 0, 0));
    third.suspect(1);
    let fourth = begin();
    assert_eq!((fourth.attempts(), fourth.deaths(0), fourth.deaths(1)), (3, 0, 1));
    fourth.caught_up();
    let mut fifth = begin();
    assert_eq!((fifth.attempts(), fifth.deaths(1)), (1, 1));
    fifth.stage(1, 0, 0);
    fifth.intend(1);
    fifth.published(1);
    fifth.free(1);
    fifth.take(1, 2, b"request two ");
    assert_eq!(fifth.deaths(1), 0, "another request in its place");
}

/// The order of a publish: killed between the ring's index and the entries, nothing is answered twice.
#[test]
fn published_answers_are_not_repeated() {
    let (_dir, path) = path();
    let mut journal = Journal::open(&path, SHAPE).unwrap();
    journal.begin(7, SHAPE, &[], 0).unwrap();
    journal.take(0, 0, b"request zero");
    journal.stage(0, 0, 0);
    journal.intend(1);

    let Begun::Resumed(plan) = journal.begin(7, SHAPE, &[], 1).unwrap() else { panic!("resumes") };

    assert_eq!((plan.rsp_prod, plan.answer, plan.replay), (1, vec![], vec![]));
}

proptest! {
    /// Whatever a worker that a guest took over left behind its header: taken over in bounds, or refused.
    #[test]
    fn any_entries_are_read_in_bounds(
        positions in proptest::array::uniform3(0u32..6),
        words in proptest::collection::vec(prop_oneof![0u32..6, any::<u32>()], 4 * 5),
        shared in 0u32..6,
    ) {
        let (_dir, path) = path();
        let mut journal = Journal::open(&path, SHAPE).unwrap();
        journal.begin(7, SHAPE, &[], 0).unwrap();
        for (at, value) in [AT_REQ_CONS, AT_RSP_PROD, AT_RSP_INTENT].into_iter().zip(positions) {
            journal.file.u32_at(at).store(value, Relaxed);
        }
        for (i, value) in words.into_iter().enumerate() {
            journal.file.u32_at(journal.at(i / 5) + i % 5 * 4).store(value, Relaxed);
        }

        if let Ok(Begun::Resumed(plan)) = journal.begin(7, SHAPE, &[], shared) {
            prop_assert!(plan.replay.len() + plan.answer.len() <= SHAPE.nr_entries);
            for entry in plan.replay {
                prop_assert!(journal.extra(entry, &mut [0; 100]) <= SHAPE.extra_len);
                journal.slot(entry, &mut [0; 100]);
            }
        }
    }
}
