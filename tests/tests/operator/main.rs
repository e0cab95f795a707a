//! What an operator holds in hand, on a simulated host with a disk and a network interface under way: every verb of splitctl, its
//! forms of output, wrong usage; metrics as Prometheus and a browser read them; what the documentation says to type.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

mod documents;
mod metrics;
mod pause;
mod retarget;
mod sla;
mod verbs;
mod xenstat;

use std::net::TcpListener;

use splitd_tests::blkfront::{Frontend, Load, Options};
use splitd_tests::netfront;
use splitd_tests::toolstack::VifConfig;
use splitd_tests::world::World;
use xenbus::sim::SimDomain;

/// Guest 5 with the disk xvda, which has done this many requests, and the interface 0.
struct Bed {
    world: World,
    disk: Frontend,
    _guest: SimDomain,
    _vif: netfront::Frontend,
}

const REQUESTS: u64 = 500;

impl Bed {
    fn new(config: &str) -> Self {
        let mut world = World::start(&format!("serve_vifs = \"all\"\n{config}")).unwrap();
        let guest = world.guest(5).unwrap();
        let image = world.image("a.img", 1 << 16).unwrap();
        let disk = world.disk(0, &image);
        world.attach(&guest, &disk).unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
        let devid = disk.devid;
        let mut disk = Frontend::connect(&guest, devid, Options::default())
            .unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
        world.attach_vif(&guest, &VifConfig::new(0)).unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
        let vif = netfront::Frontend::connect(&guest, 0, netfront::Options::default())
            .unwrap_or_else(|e| panic!("{e}\n{}", world.log()));
        let report = disk.run(&Load { operations: Some(REQUESTS), ..Load::default() }).unwrap();
        assert!(report.is_clean(), "{report:?}");
        Self { world, disk, _guest: guest, _vif: vif }
    }

    /// One whose metrics are at the port that is given back.
    fn with_metrics() -> (Self, u16) {
        // Taken for a moment: the next who asks for a free one gets another.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        (Self::new(&format!("metrics = \"127.0.0.1:{port}\"")), port)
    }
}
