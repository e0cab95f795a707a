//! What a hostile network frontend may write into its directory, before it connects and after.

use splitd_tests::hostile::Verdict;
use splitd_tests::netfront::Queue;
use xenbus::sim::Held;

use super::{Bed, SOON};

/// N29, X3, X4, X5, X7, X8: nodes that are none close the device with a reason that names the node.
#[test]
fn nodes_that_make_no_sense_close() {
    let mut b = Bed::new();
    let two = |b: &Bed| [Queue::new(&b.hostile, true).unwrap(), Queue::new(&b.hostile, true).unwrap()];
    let refuse = |b: &mut Bed, name: &str, change: &dyn Fn(&mut splitd_tests::hostile::Nodes)| {
        let queues = two(b);
        let mut nodes = Bed::honest(&queues);
        change(&mut nodes);
        b.attacker.offer(&nodes).unwrap();
        assert_eq!(b.attacker.verdict(SOON).unwrap(), Verdict::Closed, "{name}\n{}", b.world.log());
        b.closed(name);
        b.start_over(name);
    };
    for (from, to) in [
        ("queue-0/event-channel-tx", "queue-1/event-channel-tx"),
        ("queue-0/event-channel-tx", "queue-0/event-channel-rx"),
        ("queue-0/tx-ring-ref", "queue-0/rx-ring-ref"),
        ("queue-1/rx-ring-ref", "queue-0/rx-ring-ref"),
    ] {
        refuse(&mut b, &format!("N29 {from} {to}"), &|nodes| {
            let value = nodes.get(from).cloned().unwrap_or_default();
            nodes.insert(to.into(), value);
        });
    }
    for (node, values) in [
        ("multi-queue-num-queues", vec!["0", "5", "-1", "4294967296", "2x", ""]),
        ("queue-1/tx-ring-ref", vec!["", "0x1", "1e3", "-1", "4294967296"]),
        ("queue-0/event-channel-rx", vec!["0", "131072", "4294967295", "x"]),
        ("request-rx-copy", vec!["0", ""]),
        ("xdp-headroom", vec!["32768", "-1", "many"]),
    ] {
        for value in values {
            refuse(&mut b, &format!("{node}={value:?}"), &|nodes| {
                nodes.insert(node.into(), value.into());
            });
        }
    }
    for node in ["queue-1/tx-ring-ref", "queue-1/event-channel-rx", "queue-0/rx-ring-ref"] {
        refuse(&mut b, &format!("X8 no {node}"), &|nodes| {
            nodes.remove(node);
        });
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after all of it");
    b.neighbour_is_well();
}

/// N30, N31, X9, X15: what is not looked at, or not any more, changes nothing.
#[test]
fn nodes_changed_after_connecting_change_nothing() {
    let mut b = Bed::new();
    let mut queue = b.connect();
    let home = b.attacker.home.clone();
    for (node, values) in [
        ("feature-sg", ["0", "1", "junk"]),
        ("feature-gso-tcpv4", ["0", "1", "-1"]),
        ("feature-no-csum-offload", ["1", "0", ""]),
        ("feature-rx-notify", ["0", "1", ""]),
        ("multi-queue-num-queues", ["0", "4", "x"]),
        ("tx-ring-ref", ["0", "1", "4294967295"]),
        ("event-channel", ["0", "1", "4294967295"]),
        ("mtu", ["0", "65536", "-1"]),
        ("ctrl-ring-ref", ["0", "8", "x"]),
        ("event-channel-ctrl", ["0", "8", "x"]),
        ("backend-id", ["0", "6", "x"]),
        ("mac", ["", "ff:ff:ff:ff:ff:ff", "x"]),
    ] {
        for value in values {
            // The guest may not write all of them.
            let _ = b.attacker.store.write(&format!("{home}/{node}"), value);
            b.serves(&mut queue, &format!("N30 N31 {node}={value}"));
        }
    }
    b.neighbour_is_well();
}

/// X1, X2, X17: states that are none, in any order.
#[test]
fn states_of_all_kinds_hurt_nobody() {
    let mut b = Bed::new();
    for round in 0..5 {
        let _queue = b.connect();
        for state in ["4", "", "abc", "-1", "99", "4294967300", "4 ", "7", "4", "8", "3", "5", "4", "7", "2"]
        {
            b.attacker.say(state).unwrap();
        }
        b.start_over(&format!("X1 X2 {round}"));
    }
    let mut queue = b.connect();
    b.serves(&mut queue, "after X1 X2");
    b.neighbour_is_well();
}

/// N33, B31: connecting and going, over and over; nothing is left of any.
#[test]
fn connecting_without_end_leaves_nothing() {
    let mut b = Bed::new();
    for n in 0..12 {
        let mut queue = b.connect();
        if n % 2 == 0 {
            b.serves(&mut queue, "N33");
        }
        b.start_over("N33");
        assert_eq!(queue.release().len(), 0);
    }
    b.neighbour_is_well();
}

/// X12: the frontend's directory is removed under the worker.
#[test]
fn a_removed_frontend_is_let_go() {
    let mut b = Bed::new();
    let _queue = b.connect();
    let home = b.attacker.home.clone();
    b.world.tools.store().remove(&home).unwrap();
    let hostile = b.hostile.clone();
    b.world.until("let go", |_| hostile.held() == Held::default()).unwrap();
    b.neighbour_is_well();
}
