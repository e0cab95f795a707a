//! The model of queue, journal, guest and late I/O over crashes: every state it can reach, with the right worker and with wrong ones.
#![allow(clippy::panic)] // a test's helpers may fail the test

use splitd_tests::restart_model::Variant;
use splitd_tests::restart_model::search::{Found, all_states};

/// §5 of the design, exhaustively for two slots, three requests and two crashes: each request is answered exactly once, none while an
/// operation of it is with the kernel, no request is read where an answer stands, nobody sleeps while there is something for him.
#[test]
fn every_reachable_state_keeps_the_promises() {
    match all_states(3, 2, Variant::Right) {
        Found::Sound(states) => {
            println!("{states} states");
            assert!(states > 10_000, "{states} states: the model has become too small to say anything");
        }
        broken @ Found::Broken(..) => panic!("{broken:#?}"),
    }
}

/// A model that finds nothing wrong with wrong workers would find nothing wrong with ours.
#[test]
fn every_wrong_worker_is_found_out() {
    for (variant, word) in [
        (Variant::NoFence, "under way"),
        (Variant::NoLastLook, "all sleep"),
        (Variant::NoNotifyAfterTakeover, "all sleep"),
        (Variant::PublishBeforeIntent, "rsp_prod"),
        (Variant::FreeBeforePublish, "unanswered requests"),
        (Variant::OwnBeforeKeep, "unanswered requests"),
    ] {
        match all_states(2, 1, variant) {
            Found::Broken(why, way) => {
                println!("{variant:?}: {why}, after {} steps", way.len());
                assert!(why.contains(word), "{variant:?}: {why} after {way:#?}");
            }
            Found::Sound(states) => panic!("{variant:?}: nothing wrong in {states} states"),
        }
    }
}
