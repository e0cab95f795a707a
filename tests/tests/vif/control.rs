//! The control ring: the guest's own hash, its answers, and what outlives a worker. B7 of the protocol's rules.

use splitd_tests::netfront::control::{kind, status};
use splitd_tests::netfront::{Control, Options};
use splitd_tests::netif::{Extra, extra};
use splitd_tests::packet::{self, TCP4, TCP6, UDP4, VnetHeader};

use super::{Bed, assert_right};

/// Of the published test vectors for receive side scaling.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];
const QUEUES: u32 = 4;

fn bed() -> Bed {
    Bed::new(Options { queues: QUEUES, control: true, ..Options::default() })
}

fn control(b: &mut Bed) -> &mut Control {
    b.front.control.as_mut().unwrap()
}

/// What Windows does whenever its interface comes up; every order is answered with success.
fn enable(b: &mut Bed) {
    let ring = control(b);
    let key = ring.with_page(&KEY).0;
    for (kind, data, expected) in [
        (kind::SET_ALGORITHM, [1, 0, 0], 0),
        (kind::GET_FLAGS, [0; 3], 0xf),
        (kind::SET_FLAGS, [0xf, 0, 0], 0),
        (kind::SET_KEY, [key, 40, 0], 0),
        (kind::GET_SIZE, [0; 3], 128),
        (kind::SET_SIZE, [128, 0, 0], 0),
    ] {
        assert_eq!(ring.ask(kind, data).unwrap(), (status::SUCCESS, expected), "{kind}");
    }
    let mapping: Vec<u8> = (0..128u32).flat_map(|i| (i % QUEUES).to_le_bytes()).collect();
    let page = ring.with_page(&mapping).0;
    assert_eq!(ring.ask(kind::SET_MAPPING, [page, 128, 0]).unwrap(), (status::SUCCESS, 0));
}

/// TCP from 66.9.149.187:2794 to 161.142.100.80:1766, whose hash is published, and its extra info.
fn published() -> (Vec<u8>, Extra) {
    let mut bytes = packet::whole(TCP4, 1, 500);
    bytes[26..34].copy_from_slice(&[66, 9, 149, 187, 161, 142, 100, 80]);
    bytes[34..36].copy_from_slice(&2794u16.to_be_bytes());
    bytes[36..38].copy_from_slice(&1766u16.to_be_bytes());
    (bytes, Extra { kind: extra::HASH, flags: 0, body: [1, 1, 0x78, 0xc1, 0xcc, 0x51] })
}

/// B7: once asked for, each frame comes with its hash, between GSO and the room for XDP; segments have that of their frame. Nothing is
/// told before, nor after it was switched off.
#[test]
fn frames_come_with_their_hash() {
    let mut b = bed();
    let (bytes, hash) = published();
    b.give(2, VnetHeader::default(), bytes.clone());
    assert_eq!(b.next(2).extras, []);
    enable(&mut b);
    for queue in 0..4u16 {
        b.give(queue, VnetHeader::default(), bytes.clone());
        let frame = b.next(queue.into());
        assert_eq!((frame.extras.as_slice(), frame.bytes.len()), (&[hash][..], bytes.len()));
    }
    b.give(0, VnetHeader::of_open(TCP6, 1448), packet::open(TCP6, 5, 20_000));
    let frame = b.next(0);
    let kinds: Vec<u8> = frame.extras.iter().map(|extra| extra.kind).collect();
    assert_eq!((kinds, frame.gso()), (vec![extra::GSO, extra::HASH], Some((extra::TCPV6, 1448))));
    assert_eq!(frame.extras[1].body[..2], [3, 1]);
    b.give(0, VnetHeader::default(), packet::whole(UDP4, 6, 100));
    assert_eq!(b.next(0).extras[0].body[..2], [0, 1], "UDP goes by its addresses");
    b.give(0, VnetHeader::default(), vec![0xff; 60]);
    assert_eq!(b.next(0).extras, [], "no IP");

    assert_eq!(control(&mut b).ask(kind::SET_ALGORITHM, [0; 3]).unwrap().0, status::SUCCESS);
    b.give(1, VnetHeader::default(), bytes);
    assert_eq!(b.next(1).extras, []);
    b.detach();
}

/// What was set outlives the worker; orders are answered by its successor.
#[test]
fn a_hash_outlives_a_worker() {
    let mut b = bed();
    enable(&mut b);
    let (bytes, hash) = published();
    for restarts in 1..=3 {
        b.world.kill_worker("vif/5/0").unwrap();
        let served = |row: &splitd::report::Row| row.restarts == restarts && row.worker == "serving";
        b.world.until("a successor", |w| w.show("vif/5/0").is_ok_and(|row| served(&row))).unwrap();
        b.wire.wait_queues(4).unwrap();
        b.give(3, VnetHeader::default(), bytes.clone());
        let frame = b.next(3);
        assert_eq!((frame.extras.as_slice(), frame.bytes.len()), (&[hash][..], bytes.len()));
        assert_eq!(control(&mut b).ask(kind::GET_FLAGS, [0; 3]).unwrap(), (status::SUCCESS, 0xf));
    }
    b.detach();
}

/// Another connection begins without a hash; a frontend without a control ring is served as before.
#[test]
fn another_connection_begins_anew() {
    let mut b = bed();
    enable(&mut b);
    let (bytes, _) = published();
    for with_control in [false, true] {
        b.front.reconnect(Options { control: with_control, ..Options::default() }).unwrap();
        b.wire.wait_queues(1).unwrap();
        b.give(0, VnetHeader::default(), bytes.clone());
        assert_eq!(b.next(0).extras, []);
        if with_control {
            let answer = control(&mut b).ask(kind::GET_FLAGS, [0; 3]).unwrap();
            assert_eq!(answer.0, status::NOT_SUPPORTED);
        }
    }
    b.give(0, VnetHeader::default(), packet::whole(UDP4, 2, 100));
    let frame = b.next(0);
    assert_right(&frame.bytes, UDP4, 2, 100);
    b.detach();
}
