//! What may change while an interface is served: its rate, the multicast that it wants, room before frames.

use splitd_tests::netfront::{Options, Outgoing, state};
use splitd_tests::netif::{self, Extra, extra};
use splitd_tests::packet::{self, TCP4, UDP4, VnetHeader};
use splitd_tests::toolstack::VifConfig;
use splitd_tests::world::resident_kib;

use super::{Bed, SOON, assert_right};

/// B2.3, B10, N23: under a rate frames wait and none is lost; a new rate counts at once; what cannot be read is no limit.
#[test]
fn a_rate_holds_frames_back_and_loses_none() {
    // One byte in a second: behind the burst of two of the longest frames nothing more would pass in anybody's lifetime.
    let vif = VifConfig { rate: Some("1,1000000".into()), ..VifConfig::new(0) };
    let mut b = Bed::with(&vif, Options::default());
    let queue = &mut b.front.queues[0];
    for number in 0..100 {
        queue.send(&Outgoing::new(packet::whole(UDP4, number, 2000))).unwrap();
        queue.publish().unwrap();
    }
    let mut passed = 0;
    while let Some(frame) =
        b.wire.receive(if passed < 60 { SOON } else { std::time::Duration::from_millis(50) })
    {
        assert_right(&frame.bytes, UDP4, passed, 2000);
        passed += 1;
    }
    assert!((60..70).contains(&passed), "{passed} of 131,072 / 2042");

    let rate = format!("{}/rate", b.paths.backend);
    b.world.tools.store().write(&rate, "10,none").unwrap();

    for number in passed..100 {
        let frame = b.wire.receive(SOON).unwrap_or_else(|| panic!("{number}\n{}", b.world.log()));
        assert_right(&frame.bytes, UDP4, number, 2000);
    }
    let queue = &mut b.front.queues[0];
    while queue.unanswered() > 0 {
        assert!(queue.wait(SOON).unwrap());
        assert!(queue.reap().unwrap().iter().all(|a| a.status == netif::OKAY));
    }
    b.detach();
}

/// A frontend that keeps its ring full under a rate costs the worker no memory beyond the ring's.
#[test]
fn a_full_ring_under_a_rate_is_bounded() {
    let vif = VifConfig { rate: Some("4000,1000".into()), ..VifConfig::new(0) };
    let mut b = Bed::with(&vif, Options::default());
    let pid = b.world.show("vif/5/0").unwrap().pid.unwrap();
    let frame = Outgoing::new(packet::whole(UDP4, 1, 1000)).in_slots(16);
    let (mut sent, mut before) = (0u64, 0);
    let wire = b.wire.clone();
    let reader =
        std::thread::spawn(move || while wire.receive(std::time::Duration::from_secs(2)).is_some() {});
    while sent < 90_000 {
        let queue = &mut b.front.queues[0];
        while queue.send(&frame).is_some() {
            sent += 16;
        }
        queue.publish().unwrap();
        queue.wait(SOON).unwrap();
        queue.reap().unwrap();
        if sent < 30_000 {
            before = resident_kib(pid).unwrap();
        }
    }
    let grown = resident_kib(pid).unwrap().saturating_sub(before);
    assert!(grown < 128, "{grown} KiB more after {sent} slots");
    reader.join().unwrap();
}

/// The multicast order of a guest: an extra info behind an empty request.
fn order(kind: u8, last: u8) -> Outgoing {
    let extra = Extra { kind, flags: 0, body: [1, 0, 0x5e, 0, 0, last] };
    Outgoing { slot_lens: vec![0], ..Outgoing::new(Vec::new()).with(extra) }
}

/// B2.4, N18: multicast is given to a guest that asks for the address; 64 addresses and no more; an order is answered and no frame.
#[test]
fn multicast_is_filtered_when_asked() {
    let more = vec![("request-multicast-control".to_owned(), "1".to_owned())];
    let mut b = Bed::new(Options { more, ..Options::default() });
    let to = |last: u8, number| {
        let mut bytes = packet::whole(UDP4, number, 100);
        bytes[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, last]);
        bytes
    };
    b.give(0, VnetHeader::default(), to(1, 1));
    b.give(0, VnetHeader::default(), packet::whole(UDP4, 2, 100));
    let frame = b.next(0);
    assert_right(&frame.bytes, UDP4, 2, 100);
    assert_eq!(b.send(0, &order(extra::MCAST_ADD, 1))[0].status, netif::OKAY);
    b.give(0, VnetHeader::default(), to(2, 2));
    b.give(0, VnetHeader::default(), to(1, 3));
    let frame = b.next(0);
    assert_right(&frame.bytes, UDP4, 3, 100);

    for last in 2..=64 {
        assert_eq!(b.send(0, &order(extra::MCAST_ADD, last))[0].status, netif::OKAY, "{last}");
    }
    assert_eq!(b.send(0, &order(extra::MCAST_ADD, 65))[0].status, netif::ERROR);
    assert_eq!(b.send(0, &order(extra::MCAST_DEL, 64))[0].status, netif::OKAY);
    assert_eq!(b.send(0, &order(extra::MCAST_ADD, 65))[0].status, netif::OKAY);
    b.give(0, VnetHeader::default(), to(64, 4));
    b.give(0, VnetHeader::default(), to(65, 5));
    let frame = b.next(0);
    assert_right(&frame.bytes, UDP4, 5, 100);
}

/// B6: an XDP program comes and goes: 7, 8, 4, 4; then the first slot's data has room before it, told in an extra info, and no frame
/// has a second slot.
#[test]
fn room_for_xdp_comes_and_goes() {
    let mut b = Bed::new(Options::default());
    for headroom in [256u16, 0, 256] {
        let (home, state_path) = (b.front.home().to_owned(), format!("{}/state", b.front.home()));
        b.front.store().write(&format!("{home}/xdp-headroom"), &headroom.to_string()).unwrap();
        b.front.store().write(&state_path, "7").unwrap();
        b.front.wait_backend(&[8]).unwrap();
        b.front.store().write(&state_path, "4").unwrap();
        b.front.wait_backend(&[state::CONNECTED]).unwrap();

        let [low, high] = headroom.to_le_bytes();
        let told = Extra { kind: extra::XDP, flags: 0, body: [low, high, 0, 0, 0, 0] };
        let expected = if headroom > 0 { vec![told] } else { vec![] };
        // The worker may hear of it after the guest has.
        loop {
            b.give(0, VnetHeader::default(), packet::whole(UDP4, 1, 3000));
            let frame = b.next(0);
            assert_right(&frame.bytes, UDP4, 1, 3000);
            if frame.extras == expected {
                break;
            }
        }
        b.give(0, VnetHeader::default(), packet::whole(UDP4, 2, 5000));
        b.give(0, VnetHeader::default(), packet::whole(UDP4, 3, 3000));
        if headroom == 0 {
            let frame = b.next(0);
            assert_right(&frame.bytes, UDP4, 2, 5000);
        }
        let frame = b.next(0);
        assert_right(&frame.bytes, UDP4, 3, 3000);
        assert_eq!(frame.extras, expected);
    }
    b.give(0, VnetHeader::of_open(TCP4, 1448), packet::open(TCP4, 4, 2896));
    assert_eq!(b.next(0).bytes.len(), b.next(0).bytes.len(), "cut");
}
