//! Frames in many slots and of all sizes, on one queue and on several.

use splitd_tests::netfront::{Options, Outgoing};
use splitd_tests::netif::NR_SLOTS_MIN;
use splitd_tests::packet::{self, TCP4, TCP6, UDP4, UDP6, VnetHeader};
use splitd_tests::prng::Prng;
use splitd_tests::toolstack::VifConfig;

use super::{Bed, assert_right};

/// B2.5: up to `XEN_NETIF_NR_SLOTS_MIN` slots and one more pass, however they lie in their pages; 65,535 bytes is the longest frame.
#[test]
fn frames_of_many_slots_leave_whole() {
    let mut b = Bed::new(Options::default());
    let mut prng = Prng::new(1);
    let headers = TCP4.header_len();
    for (number, slots) in (1..).zip(1..=NR_SLOTS_MIN + 1) {
        for len in [headers.max(slots * 60), 1600.max(slots * 60), (slots * 4096).min(65_535)] {
            let bytes = packet::whole(TCP4, number, len - headers);
            let offset = u16::try_from(prng.below(4096)).unwrap();
            let frame = b.out(0, &Outgoing::new(bytes).in_slots(slots).at(offset));
            assert_right(&frame.bytes, TCP4, number, len - headers);
            assert_eq!(frame.header, VnetHeader::default());
        }
    }
}

/// B2.5, B2.9: pieces of any lengths, a few bytes or none (XSA-448) among them, headers in several slots.
#[test]
fn uneven_pieces_leave_whole() {
    let mut b = Bed::new(Options::default());
    let mut prng = Prng::new(2);
    for number in 1..200 {
        let mut lens = vec![14 + usize::try_from(prng.below(4000)).unwrap()];
        for _ in 0..prng.below(19) {
            let most = [1, 3, 100, 3000][usize::try_from(prng.below(4)).unwrap()];
            lens.push(usize::try_from(prng.below(most)).unwrap());
        }
        let total: usize = lens.iter().sum();
        let payload_len = total.max(UDP6.header_len()) - UDP6.header_len();
        let mut frame = Outgoing::new(packet::whole(UDP6, number, payload_len));
        lens[0] += frame.bytes.len() - total;
        frame.slot_lens = lens;
        let frame = b.out(0, &frame);
        assert_right(&frame.bytes, UDP6, number, payload_len);
    }
}

/// B3: full pages but for the last; a frame of all lengths up to the longest.
#[test]
fn frames_of_all_sizes_arrive_whole() {
    let mut b = Bed::new(Options::default());
    let headers = UDP4.header_len();
    for (number, len) in
        (1..).zip([60, 1514, 4095, 4096, 4097, 8191, 8192, 8193, 9014, 32_768, 61_440, 65_534, 65_535])
    {
        b.give(0, VnetHeader::default(), packet::whole(UDP4, number, len - headers));
        let frame = b.next(0);
        assert_right(&frame.bytes, UDP4, number, len - headers);
        assert_eq!(frame.nr_slots, len.div_ceil(4096));
    }
}

/// B5: a guest without `feature-sg` is given frames of one slot, and nothing of longer ones.
#[test]
fn a_guest_of_one_slot_is_given_one() {
    let mut b = Bed::new(Options::plain());
    b.give(0, VnetHeader::default(), packet::whole(UDP4, 1, 5000));
    b.give(0, VnetHeader::default(), packet::whole(UDP4, 2, 4000));
    let frame = b.next(0);
    assert_right(&frame.bytes, UDP4, 2, 4000);
}

/// Four queues, each with its own rings and event channels: what is sent on one leaves on that one, and so the other way.
#[test]
fn four_queues_are_four_queues() {
    for is_split in [false, true] {
        let mut b = Bed::new(Options { queues: 4, is_split, ..Options::default() });
        assert_eq!(b.front.queues.len(), 4);
        for number in 0..40u16 {
            let queue = number % 4;
            let frame = b.out(queue.into(), &Outgoing::new(packet::whole(TCP6, number.into(), 2000)));
            assert_right(&frame.bytes, TCP6, number.into(), 2000);
            assert_eq!(frame.queue, queue);

            b.give(queue, VnetHeader::default(), packet::whole(TCP6, number.into(), 5000));
            let frame = b.next(queue.into());
            assert_right(&frame.bytes, TCP6, number.into(), 5000);
        }
        b.detach();
    }
}

/// MTU 9000: the toolstack and its script say so to the guest, and frames of it pass both ways.
#[test]
fn jumbo_frames_pass() {
    let vif = VifConfig { mtu: 9000, ..VifConfig::new(0) };
    let mut b = Bed::with(&vif, Options::default());
    let mtu = format!("{}/mtu", b.front.home());
    assert_eq!(b.front.store().read(&mtu).unwrap().as_deref(), Some("9000"));
    let len = 9014 - UDP4.header_len();
    let frame = b.out(0, &Outgoing::new(packet::whole(UDP4, 1, len)));
    assert_right(&frame.bytes, UDP4, 1, len);
    b.give(0, VnetHeader::default(), packet::whole(UDP4, 2, len));
    let frame = b.next(0);
    assert_right(&frame.bytes, UDP4, 2, len);
}

/// B3: a frontend that posts few slots is given frames as slots come, each frame whole; without `feature-rx-notify` the worker looks
/// by itself.
#[test]
fn frames_wait_for_slots() {
    for rx_notify in [true, false] {
        let mut b = Bed::new(Options { rx_slots: 1, rx_notify, ..Options::default() });
        for number in 1..=20 {
            b.give(0, VnetHeader::default(), packet::whole(UDP4, number, 1000));
        }
        for number in 1..=20 {
            let frame = b.next(0);
            assert_right(&frame.bytes, UDP4, number, 1000);
        }
        // Three slots are lacking: they come one by one, and nothing is published before the last.
        b.give(0, VnetHeader::default(), packet::whole(UDP4, 99, 9000));
        for posted in 1..=3 {
            assert_eq!(b.front.queues[0].receive().unwrap(), None);
            b.front.queues[0].post(posted).unwrap();
        }
        let frame = b.next(0);
        assert_right(&frame.bytes, UDP4, 99, 9000);
    }
}
