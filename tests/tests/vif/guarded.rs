//! What an operator may hold a guest to: its own addresses, and frames without offloads.

use splitd_tests::netfront::{Frontend, Options, Outgoing};
use splitd_tests::netif;
use splitd_tests::packet::{self, TCP4, TCP6, UDP4, UDP6, VnetHeader};
use splitd_tests::toolstack::VifConfig;
use splitd_tests::world::World;

use super::{ALL, Bed, assert_right};

/// The sender of [`packet`]'s frames.
const MAC: &str = "02:00:00:00:00:02";

fn guarded(domains: &str, vif: &VifConfig) -> Bed {
    let world = World::start(&format!("{ALL}\nguard_vifs = {domains}")).unwrap();
    Bed::on(world, vif, Options::default())
}

/// A guarded guest sends as itself and nobody else: Ethernet, IPv4, IPv6. What is dropped is answered and counted.
#[test]
fn a_guarded_guest_sends_as_itself_alone() {
    let vif = VifConfig { mac: MAC.into(), ip: Some("10.0.0.0/30 fd00::1".into()), ..VifConfig::new(0) };
    let mut b = guarded("\"all\"", &vif);
    for (number, (shape, at, value)) in
        (1..).zip([(UDP4, 11, 9), (TCP4, 29, 77), (UDP6, 37, 77), (TCP6, 22, 0xfe)])
    {
        let mut bytes = packet::whole(shape, number * 2, 300);
        bytes[at] = value;
        let answers = b.send(0, &Outgoing::new(bytes));
        assert!(answers.iter().all(|a| a.status == netif::OKAY), "{answers:?}");
        let frame = b.out(0, &Outgoing::new(packet::whole(shape, number * 2 + 1, 300)));
        assert_right(&frame.bytes, shape, number * 2 + 1, 300);
    }
    let stats = b.world.splitctl(&["stats", "--json"]).unwrap();
    assert!(stats.contains("\"tx_guarded_frames\":4"), "{stats}");
    b.detach();
}

/// The key names guests; the others send as they like, and a guest without `ip` is held to its MAC alone.
#[test]
fn only_named_guests_are_guarded() {
    let vif = VifConfig { mac: MAC.into(), ..VifConfig::new(0) };
    for (domains, is_guarded) in [("{ domains = [\"guest-?\"] }", true), ("{ domains = [\"web-*\"] }", false)]
    {
        let mut b = guarded(domains, &vif);
        let mut bytes = packet::whole(UDP4, 1, 300);
        bytes[11] = 9;
        b.send(0, &Outgoing::new(bytes));
        let mut bytes = packet::whole(UDP4, 2, 300);
        bytes[29] = 77;
        let frame = b.out(0, &Outgoing::new(bytes));
        assert_eq!(frame.bytes[11], if is_guarded { 2 } else { 9 });
        b.world.kill_worker("vif/5/0").unwrap();
        b.world
            .until("a successor", |w| {
                w.show("vif/5/0").is_ok_and(|r| r.restarts == 1 && r.worker == "serving")
            })
            .unwrap();
        while b.wire.receive(std::time::Duration::from_millis(50)).is_some() {}
        let mut bytes = packet::whole(UDP4, 3, 300);
        bytes[11] = 9;
        b.send(0, &Outgoing::new(bytes));
        let frame = b.out(0, &Outgoing::new(packet::whole(UDP4, 4, 300)));
        assert_eq!(frame.bytes[11], if is_guarded { 2 } else { 9 }, "after a kill");
    }
}

/// Addresses that cannot be read are the operator's to mend: no guest is served unguarded for them.
#[test]
fn a_guard_without_addresses_does_not_serve() {
    let mut world = World::start(&format!("{ALL}\nguard_vifs = \"all\"")).unwrap();
    let guest = world.guest(5).unwrap();
    let vif = VifConfig { ip: Some("10.0.0.1 gateway".into()), ..VifConfig::new(0) };
    world.attach_vif(&guest, &vif).unwrap();
    let options = Options { state_timeout: std::time::Duration::from_secs(1), ..Options::default() };
    assert!(Frontend::connect(&guest, 0, options).is_err());
    let alarm = world.show("vif/5/0").unwrap().alarm.unwrap_or_default();
    assert!(alarm.contains("guard_vifs") && alarm.contains("gateway"), "{alarm}");
}

/// Without offloads: none is offered, checksums are complete both ways whoever leaves them open, and TCP arrives cut.
#[test]
fn a_plain_interface_has_complete_checksums() {
    let world = World::start(&format!("{ALL}\nplain_vifs = \"all\"")).unwrap();
    let mut b = Bed::on(world, &VifConfig::new(0), Options::default());
    for node in ["feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload"] {
        assert_eq!(b.front.backend_number(node).unwrap(), Some(0), "{node}");
    }
    for (number, shape) in (1..).zip([TCP4, TCP6, UDP4, UDP6]) {
        let frame = b.out(0, &Outgoing::new(packet::open(shape, number, 1001)).open());
        assert_eq!(frame.header, VnetHeader::default());
        assert_right(&frame.bytes, shape, number, 1001);
        b.give(0, VnetHeader::of_open(shape, 0), packet::open(shape, number, 1001));
        let frame = b.next(0);
        assert!(!frame.is_open());
        assert_right(&frame.bytes, shape, number, 1001);
    }
    b.give(0, VnetHeader::of_open(TCP4, 1000), packet::open(TCP4, 9, 3000));
    for _ in 0..3 {
        let frame = b.next(0);
        assert_eq!((frame.gso(), frame.bytes.len()), (None, 1000 + TCP4.header_len()));
    }
    b.detach();
}
