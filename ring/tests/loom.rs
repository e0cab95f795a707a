//! Model checks of the race that loses wake-ups: one end publishes while the other decides to sleep. Every interleaving and
//! every allowed reordering is tried.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p xen-ring --test loom --release`. Each test fails when the `SeqCst` fence
//! it names is removed from either of the two functions.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use xen_ring::{BackRing, FrontRing, Indices, ModelMemory};

const SLOT_LEN: usize = xen_ring::MAX_SLOT_LEN; // few slots keep the model small

fn ends() -> (FrontRing<ModelMemory>, BackRing<ModelMemory>) {
    let memory = ModelMemory::new(SLOT_LEN);
    let front = FrontRing::new(memory.clone(), SLOT_LEN).unwrap();
    let back = BackRing::attach(memory, SLOT_LEN, Indices::default()).unwrap();
    (front, back)
}

fn slot() -> [u8; SLOT_LEN] {
    [0; SLOT_LEN]
}

/// `FrontRing::publish` against `BackRing::final_check`: a request is seen by the last look or is notified (loom: L1).
#[test]
fn a_request_is_seen_or_notified() {
    loom::model(|| {
        let (mut front, mut back) = ends();
        // The backend has consumed one request already, so that its req_event is not the initial one.
        front.push_request(&1u32.to_ne_bytes());
        let _ = front.publish();
        back.consume(&mut slot());
        let notified = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&notified);

        let frontend = thread::spawn(move || {
            front.push_request(&2u32.to_ne_bytes());
            if front.publish() {
                tell.store(true, Ordering::SeqCst);
            }
        });
        let seen = back.final_check().unwrap();
        if seen {
            let mut out = slot();
            back.consume(&mut out);
            assert_eq!(out[..4], 2u32.to_ne_bytes(), "an index was seen before its slot");
        }
        frontend.join().unwrap();
        assert!(seen || notified.load(Ordering::SeqCst), "lost wake-up");
    });
}

/// `BackRing::publish` against `FrontRing::final_check`, the same for responses.
#[test]
fn a_response_is_seen_or_notified() {
    loom::model(|| {
        let (mut front, mut back) = ends();
        for id in 1..=2u32 {
            front.push_request(&id.to_ne_bytes());
        }
        let _ = front.publish();
        back.consume(&mut slot());
        back.consume(&mut slot());
        back.push_response(&10u32.to_ne_bytes());
        let _ = back.publish();
        front.consume(&mut slot());
        let notified = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&notified);

        let backend = thread::spawn(move || {
            back.push_response(&20u32.to_ne_bytes());
            if back.publish() {
                tell.store(true, Ordering::SeqCst);
            }
        });
        let seen = front.final_check().unwrap();
        if seen {
            let mut out = slot();
            front.consume(&mut out);
            assert_eq!(out[..4], 20u32.to_ne_bytes(), "an index was seen before its slot");
        }
        backend.join().unwrap();
        assert!(seen || notified.load(Ordering::SeqCst), "lost wake-up");
    });
}
