//! Frames between a guest and a peer on the other side of the bridge, which knows nothing of ours.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use splitd_tests::netfront::control::{kind, status};
use splitd_tests::netfront::{Frontend, Options, Outgoing};
use splitd_tests::netns;
use splitd_tests::packet::{self, Checksum, Seen, Shape, TCP4, TCP6, UDP4, UDP6};
use splitd_tests::prng::Prng;
use tun_tap::{Iface, Mode};

use super::{Bed, SOON, is_inside};

/// A plain tap in the bridge.
pub(crate) struct Peer {
    tap: Arc<Iface>,
    frames: Receiver<Vec<u8>>,
}

impl Peer {
    pub(crate) fn new() -> Self {
        let tap = Arc::new(Iface::without_packet_info("peer0", Mode::Tap).unwrap());
        netns::ip("link set peer0 master br0 up").unwrap();
        let (sender, frames) = channel();
        std::thread::spawn({
            let tap = Arc::clone(&tap);
            let mut buffer = vec![0; 70_000];
            move || {
                while let Ok(len) = tap.recv(&mut buffer) {
                    let frame = buffer.get(..len).unwrap_or_default();
                    // The kernel's own chatter is passed over.
                    if frame.starts_with(&[2, 0, 0, 0, 0]) && sender.send(frame.to_vec()).is_err() {
                        return;
                    }
                }
            }
        });
        Self { tap, frames }
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        assert_eq!(self.tap.send(bytes).unwrap(), bytes.len());
    }

    /// What the next frame of ours is, or that none came.
    fn receive(&self, timeout: Duration) -> Result<Seen, String> {
        let frame = self.frames.recv_timeout(timeout).map_err(|e| e.to_string())?;
        packet::check(&frame, Checksum::Right)
    }
}

/// A frame of the guest's.
pub(crate) fn send(front: &mut Frontend, queue: usize, frame: &Outgoing) {
    let queue = &mut front.queues[queue];
    queue.send(frame).unwrap();
    queue.publish().unwrap();
    while queue.unanswered() > 0 {
        assert!(queue.wait(SOON).unwrap());
        queue.reap().unwrap();
    }
}

/// The next of our frames that the guest is given, on any queue.
pub(crate) fn receive(front: &mut Frontend) -> (usize, Vec<u8>) {
    let began = Instant::now();
    while began.elapsed() < SOON {
        for (number, queue) in front.queues.iter_mut().enumerate() {
            while let Some(frame) = queue.receive().unwrap() {
                if frame.bytes.starts_with(&[2, 0, 0, 0, 0]) {
                    front.post().unwrap();
                    return (number, frame.bytes);
                }
            }
        }
        front.post().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no frame");
}

/// Frames of all shapes to the peer, which has no offloads: what the guest left open is complete there, what was uncut is cut. And back.
#[test]
fn frames_reach_a_peer_and_come_back() {
    if !is_inside("peer::frames_reach_a_peer_and_come_back") {
        return;
    }
    let mut b = Bed::new(Options::default());
    let peer = Peer::new();
    let shapes = [TCP4, TCP6, UDP4, UDP6, Shape { tags: 1, ..TCP4 }];
    for (number, shape) in (1..).zip(shapes) {
        let len = 1400;
        for frame in [
            Outgoing::new(packet::whole(shape, number, len)),
            Outgoing::new(packet::open(shape, number, len)).open(),
        ] {
            send(&mut b.front, 0, &frame);
            assert_eq!(peer.receive(SOON), Ok(Seen { shape, number, at: 0, len }), "{}", b.world.log());
        }
        peer.send(&packet::whole(shape, number + 100, len));
        let (_, bytes) = receive(&mut b.front);
        let seen = Seen { shape, number: number + 100, at: 0, len };
        assert_eq!(packet::check(&bytes, Checksum::Right), Ok(seen));
    }
    for (kind, shape) in [(1, TCP4), (2, TCP6)] {
        let uncut = Outgoing::new(packet::open(shape, 9, 14_480)).open();
        send(&mut b.front, 0, &uncut.with(splitd_tests::netif::Extra::gso(kind, 1448)));
        for at in (0..14_480).step_by(1448) {
            assert_eq!(peer.receive(SOON), Ok(Seen { shape, number: 9, at, len: 1448 }));
        }
    }
    b.detach();
}

/// The test above would fail if the peer's frames were dropped: here they are, and its very checks say so.
#[test]
fn dropped_frames_are_noticed() {
    if !is_inside("peer::dropped_frames_are_noticed") {
        return;
    }
    let mut b = Bed::new(Options::default());
    let peer = Peer::new();
    let frame = Outgoing::new(packet::whole(UDP4, 1, 100));
    send(&mut b.front, 0, &frame);
    let seen = Seen { shape: UDP4, number: 1, at: 0, len: 100 };
    assert_eq!(peer.receive(SOON), Ok(seen));
    netns::ip("link set peer0 nomaster").unwrap();
    send(&mut b.front, 0, &frame);
    assert!(peer.receive(Duration::from_millis(300)).is_err());
    netns::ip("link set peer0 master br0").unwrap();
    send(&mut b.front, 0, &frame);
    assert_eq!(peer.receive(SOON), Ok(seen));
    b.detach();
}

/// N22: what the tap refuses (it is down; a header that makes no sense to it) is dropped, answered and counted, and the next frame passes.
#[test]
fn refused_frames_are_dropped() {
    if !is_inside("peer::refused_frames_are_dropped") {
        return;
    }
    let mut b = Bed::new(Options::default());
    let peer = Peer::new();
    netns::ip("link set vif5.0 down").unwrap();
    for number in 0..3 {
        send(&mut b.front, 0, &Outgoing::new(packet::whole(UDP4, number, 100)));
    }
    let stats = b.world.splitctl(&["stats", "--json"]).unwrap();
    assert!(stats.contains("\"tx_tap_refused_frames\":3"), "{stats}");
    netns::ip("link set vif5.0 up").unwrap();
    let mut prng = Prng::new(22);
    for number in 0..300 {
        let mut bytes = packet::open(TCP4, number, 1400);
        for _ in 0..3 {
            let at = 12 + usize::try_from(prng.below(42)).unwrap();
            bytes[at] = prng.next_u64().to_le_bytes()[0];
        }
        let size = u16::try_from(1 + prng.below(65_535)).unwrap();
        let frame = Outgoing::new(bytes).open();
        let gso = splitd_tests::netif::Extra::gso(1, size);
        send(&mut b.front, 0, &if number % 2 == 0 { frame.with(gso) } else { frame });
    }
    send(&mut b.front, 0, &Outgoing::new(packet::whole(UDP4, 999, 77)));
    let last = Seen { shape: UDP4, number: 999, at: 0, len: 77 };
    while peer.receive(SOON) != Ok(last) {}
    assert_eq!(b.world.show("vif/5/0").unwrap().restarts, 0);
    b.detach();
}

/// B7: the tap gives a frame to the queue that the guest's own hash and mapping name, before and after the worker is killed, and goes
/// back to its own rule when the guest is done with it.
#[test]
fn frames_come_by_the_queue_of_their_hash() {
    if !is_inside("peer::frames_come_by_the_queue_of_their_hash") {
        return;
    }
    let mut b = Bed::new(Options { queues: 4, control: true, ..Options::default() });
    let peer = Peer::new();
    let control = b.front.control.as_mut().unwrap();
    if control.ask(kind::SET_ALGORITHM, [1, 0, 0]).unwrap().0 == status::NOT_SUPPORTED {
        // As in a user namespace.
        eprintln!("SKIPPED: loading a steering program needs CAP_BPF and CAP_PERFMON");
        return;
    }
    let key = control.with_page(&[0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d]).0;
    assert_eq!(control.ask(kind::SET_FLAGS, [0xf, 0, 0]).unwrap().0, status::SUCCESS);
    assert_eq!(control.ask(kind::SET_KEY, [key, 12, 0]).unwrap().0, status::SUCCESS);
    assert_eq!(control.ask(kind::SET_SIZE, [1, 0, 0]).unwrap().0, status::SUCCESS);
    let frame = packet::whole(TCP4, 1, 100);
    for round in 0..2 {
        for queue in [2u32, 0, 3, 1] {
            let control = b.front.control.as_mut().unwrap();
            let mapping = control.with_page(&queue.to_le_bytes()).0;
            assert_eq!(control.ask(kind::SET_MAPPING, [mapping, 1, 0]).unwrap().0, status::SUCCESS);
            for _ in 0..3 {
                peer.send(&frame);
                let (found, bytes) = receive(&mut b.front);
                assert_eq!((found, bytes.len()), (queue as usize, frame.len()), "{round}\n{}", b.world.log());
            }
        }
        b.world.kill_worker("vif/5/0").unwrap();
        b.world
            .until("a successor", |w| {
                w.show("vif/5/0").is_ok_and(|r| r.restarts == round + 1 && r.worker == "serving")
            })
            .unwrap();
    }
    let control = b.front.control.as_mut().unwrap();
    assert_eq!(control.ask(kind::SET_ALGORITHM, [0, 0, 0]).unwrap().0, status::SUCCESS);
    peer.send(&frame);
    assert_eq!(receive(&mut b.front).1.len(), frame.len());
    b.detach();
}
