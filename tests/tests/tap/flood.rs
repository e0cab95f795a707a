//! A guest that stops taking frames under a flood.

use std::time::{Duration, Instant};

use splitd::protocol::Verb;
use splitd_tests::netfront::{Frontend, Options, Outgoing};
use splitd_tests::netns;
use splitd_tests::packet::{self, UDP4};
use splitd_tests::toolstack::VifConfig;
use splitd_tests::world::resident_kib;

use super::peer::{Peer, receive, send};
use super::{Bed, is_inside};

/// The kernel's and our own time until a guest without slots has its link taken down.
const STALL: Duration = Duration::from_secs(60);
const MINUTE_AND_A_HALF: Duration = Duration::from_secs(90);

/// A frame from the guest with this last byte of its address, or to it.
fn from(guest: u8, number: u32) -> Vec<u8> {
    let mut bytes = packet::whole(UDP4, number, 1400);
    bytes[11] = guest;
    bytes
}

fn to(guest: u8, number: u32) -> Vec<u8> {
    let mut bytes = packet::whole(UDP4, number, 1400);
    bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, guest]);
    bytes
}

/// The number of the next frame that is the guest's own; what a bridge sends to all is passed over.
fn next(front: &mut Frontend, guest: u8) -> u32 {
    loop {
        let (_, bytes) = receive(front);
        if bytes[5] == guest {
            return packet::check(&bytes, packet::Checksum::Right).unwrap().number;
        }
    }
}

fn has_carrier() -> bool {
    let said = std::process::Command::new("ip").args(["-o", "link", "show", "vif5.0"]).output().unwrap();
    !String::from_utf8_lossy(&said.stdout).contains("NO-CARRIER")
}

/// B10, N26, XSA-392: a guest posts one slot and stops, and is flooded for a minute: its worker holds no more than its arena of 256 KiB,
/// its neighbour is given every frame, then its link goes down; and it comes back, although nothing of the flood is left, once the
/// guest posts slots again.
#[test]
fn a_minute_of_flood_to_a_guest_that_stopped() {
    if !is_inside("flood::a_minute_of_flood_to_a_guest_that_stopped") {
        return;
    }
    let (mut b, second) = Bed::with_second(Options { rx_slots: 1, ..Options::default() });
    b.world.attach_vif(&second, &VifConfig::new(0)).unwrap();
    netns::ip("link set vif6.0 master br0 up").unwrap();
    netns::ip("link set vif5.0 txqueuelen 10").unwrap();
    let mut neighbour = Frontend::connect(&second, 0, Options::default()).unwrap();
    let peer = Peer::new();
    // The bridge learns who is where.
    send(&mut b.front, 0, &Outgoing::new(from(5, 1)));
    send(&mut neighbour, 0, &Outgoing::new(from(6, 1)));
    let pid = b.world.show("vif/5/0").unwrap().pid.unwrap();
    let (began, mut held_kib, mut number) = (Instant::now(), 0, 0);
    while has_carrier() {
        let running = began.elapsed();
        assert!(running < MINUTE_AND_A_HALF, "the link is still up\n{}", b.world.log());
        for _ in 0..200 {
            peer.send(&to(5, 7));
        }
        number += 1;
        peer.send(&to(6, number));
        assert_eq!(next(&mut neighbour, 6), number);
        if running > Duration::from_secs(2) && held_kib == 0 {
            held_kib = resident_kib(pid).unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() >= STALL, "after {:?}", began.elapsed());
    let grown = resident_kib(pid).unwrap().saturating_sub(held_kib);
    assert!(grown <= 256, "{grown} KiB more");

    // The rest of the flood, in the tap's queue as well, becomes too old meanwhile.
    let mut empty_since = None;
    b.world
        .until("nothing waits for long", |w| {
            let stats = w.ask(Verb::Stats { device: Some("vif/5/0".to_owned()) }).unwrap_or_default();
            // The whole device's, before those of each queue.
            let is_empty = stats.pointer("/devices/0/held_frames_now") == Some(&0.into());
            empty_since = is_empty.then(|| empty_since.unwrap_or_else(Instant::now));
            empty_since.is_some_and(|since| since.elapsed() > Duration::from_secs(3))
        })
        .unwrap();
    b.front.queues[0].post(100).unwrap();
    b.world.until("the link is up again", |_| has_carrier()).unwrap();
    b.front.queues[0].post(100).unwrap();
    peer.send(&to(5, 8));
    while next(&mut b.front, 5) != 8 {}
    b.detach();
}
