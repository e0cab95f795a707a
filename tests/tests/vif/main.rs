//! A guest's network from end to end without Xen: the real splitd and workers, a toolstack that does what libxl does, a frontend that
//! checks every answer, frames that prove every byte, and a wire in place of the tap. Letters and numbers are those of the protocol's
//! rules.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

mod caps;
mod control;
mod guarded;
mod lifecycle;
mod offloads;
mod settings;
mod slots;
mod static_grants;

use std::time::Duration;

use splitd_tests::netfront::{Answer, Frontend, Incoming, Options, Outgoing};
use splitd_tests::netif;
use splitd_tests::packet::{self, Checksum, Seen, Shape, VnetHeader};
use splitd_tests::toolstack::{Paths, VifConfig};
use splitd_tests::wire::{End, Frame};
use splitd_tests::world::World;
use xenbus::sim::{Held, SimDomain};

const ALL: &str = "serve_vifs = \"all\"";
const SOON: Duration = Duration::from_secs(60);
const VIF: &str = "vif5.0";

/// One guest with one interface.
struct Bed {
    world: World,
    guest: SimDomain,
    paths: Paths,
    front: Frontend,
    wire: End,
}

impl Bed {
    fn new(options: Options) -> Self {
        Self::with(&VifConfig::new(0), options)
    }

    fn with(vif: &VifConfig, options: Options) -> Self {
        Self::on(World::start(ALL).unwrap(), vif, options)
    }

    fn on(mut world: World, vif: &VifConfig, options: Options) -> Self {
        let guest = world.guest(5).unwrap();
        let paths = world.attach_vif(&guest, vif).unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
        let front =
            Frontend::connect(&guest, vif.devid, options).unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
        let wire = world.wire.end(VIF);
        wire.wait_queues(front.queues.len()).unwrap();
        Self { world, guest, paths, front, wire }
    }

    /// Sends a frame on a queue, and says how it was answered.
    fn send(&mut self, queue: usize, frame: &Outgoing) -> Vec<Answer> {
        let nr_slots = frame.slot_lens.len();
        let queue = &mut self.front.queues[queue];
        queue.send(frame).unwrap();
        queue.publish().unwrap();
        let mut answers = Vec::new();
        while answers.len() < nr_slots || queue.unanswered() > 0 {
            assert!(queue.wait(SOON).unwrap(), "no answer\n{}", self.world.log());
            answers.extend(queue.reap().unwrap_or_else(|e| panic!("{e}\n{}", self.world.log())));
        }
        answers
    }

    /// Sends a frame and gives what came out at the wire's far side.
    fn out(&mut self, queue: usize, frame: &Outgoing) -> Frame {
        let answers = self.send(queue, frame);
        assert!(answers.iter().all(|a| a.status == netif::OKAY), "{answers:?}\n{}", self.world.log());
        self.wire.receive(SOON).unwrap_or_else(|| panic!("no frame\n{}", self.world.log()))
    }

    /// Gives a frame to the vif.
    fn give(&mut self, queue: u16, header: VnetHeader, bytes: Vec<u8>) {
        assert!(self.wire.send(&Frame { queue, header, bytes }), "{}", self.world.log());
    }

    /// The next frame that the guest is given.
    fn next(&mut self, queue: usize) -> Incoming {
        loop {
            let front = &mut self.front.queues[queue];
            let frame = front.receive().unwrap_or_else(|e| panic!("{e}\n{}", self.world.log()));
            self.front.post().unwrap();
            match frame {
                Some(frame) => return frame,
                None => {
                    let is_awake = self.front.queues[queue].wait(SOON).unwrap();
                    assert!(is_awake, "no frame\n{}", self.world.log());
                }
            }
        }
    }

    fn detach(&mut self) {
        self.world.tools.begin_detach(&self.paths, false).unwrap();
        self.front.wait_backend(&[5, 6]).unwrap();
        self.front.finish_close().unwrap();
        self.world
            .tools
            .finish_vif_detach(&self.paths)
            .unwrap_or_else(|e| panic!("{e}\n{}", self.world.log()));
        assert_eq!(self.guest.held(), Held::default());
        self.world.until("splitd has forgotten it", |w| w.show("vif/5/0").is_err()).unwrap();
        let left = self.world.tools.store().list("/local/domain/0/backend/vif").unwrap();
        assert_eq!(left, Vec::<String>::new());
    }
}

/// Every byte of it is there, and its checksum is right.
fn assert_right(bytes: &[u8], shape: Shape, number: u32, len: usize) {
    assert_eq!(packet::check(bytes, Checksum::Right), Ok(Seen { shape, number, at: 0, len }));
}
