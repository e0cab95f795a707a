//! A guest's network on real taps and a real bridge, in a network namespace of the test's own: frames to and from an independent peer (a
//! plain tap of the tun-tap crate), and Linux' own TCP from a guest's kernel to another namespace. On the simulated host, by the real
//! splitd and workers.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

mod flood;
mod peer;
mod tcp;

use std::time::Duration;

use splitd_tests::netfront::{Frontend, Options};
use splitd_tests::netns;
use splitd_tests::toolstack::{Paths, VifConfig};
use splitd_tests::world::{Programs, World};
use xenbus::sim::SimDomain;

const SOON: Duration = Duration::from_secs(60);

/// True where the test's body is to run: in a namespace of its own, into which this sends the test again.
fn is_inside(test: &str) -> bool {
    // Built out here, where there is a network if anything has to be fetched.
    Programs::build().unwrap();
    if let Some(missing) = netns::missing() {
        eprintln!("SKIPPED: {missing}");
        return false;
    }
    match netns::rerun(&["--exact", test, "--nocapture"]).unwrap() {
        None => true,
        Some(status) => {
            assert!(status.success(), "{test} in its namespace: {status}");
            false
        }
    }
}

/// A host with a bridge and one guest whose interface is in it, as a stock script would have it.
struct Bed {
    world: World,
    guest: SimDomain,
    paths: Paths,
    front: Frontend,
}

impl Bed {
    fn new(options: Options) -> Self {
        Self::with_second(options).0
    }

    /// And another guest, which it is given.
    fn with_second(options: Options) -> (Self, SimDomain) {
        netns::ip("link add br0 type bridge").unwrap();
        netns::ip("link set br0 up").unwrap();
        // Workers die for a living here.
        let config = "serve_vifs = \"all\"\ncrash_loop = { deaths = 1000000, within_s = 1 }";
        let mut world = World::start_on_taps(config, Programs::build().unwrap()).unwrap();
        let (guest, second) = (world.guest(5).unwrap(), world.guest(6).unwrap());
        let paths =
            world.attach_vif(&guest, &VifConfig::new(0)).unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
        netns::ip("link set vif5.0 master br0 up").unwrap();
        let front = Frontend::connect(&guest, 0, options).unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
        (Self { world, guest, paths, front }, second)
    }

    /// Detaches, and sees that the tap is gone.
    fn detach(mut self) {
        self.world.tools.begin_detach(&self.paths, false).unwrap();
        self.front.wait_backend(&[5, 6]).unwrap();
        self.front.finish_close().unwrap();
        self.world.tools.finish_vif_detach(&self.paths).unwrap();
        self.world.until("the tap is gone", |_| netns::ip("link show vif5.0").is_err()).unwrap();
        assert_eq!(self.guest.held(), xenbus::sim::Held::default());
    }
}
