//! What is fed anything at all: a function for each thing that reads what a guest, a dead worker, another process or an operator wrote.
//! Each asserts what must hold whatever the bytes are, in terms of its own where there is a second opinion to be had. The same
//! functions serve libFuzzer (`tests/fuzz`) and the replay of the kept inputs (`tests/tests/fuzz.rs`). Knows nothing of either.

#![allow(clippy::unwrap_used, clippy::panic)] // what does not hold ends the run

mod blk_device;
mod blk_slot;
mod control;
mod guest;
mod input;
mod journal;
pub mod mutate;
mod net_control;
mod net_rx;
mod net_tx;
mod policy;
mod rules;
mod xenstore_nodes;
mod xenstore_wire;

/// One function with its name.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of its directory of kept inputs, too.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Longer inputs bring nothing new.
    pub longest: usize,
    /// Returns if all that must hold held.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "blk_slot",
        about: "a disk request's slot, three layouts: parsed, held to the limits, encoded again",
        longest: 1024,
        run: blk_slot::run,
    },
    Target {
        name: "blk_device",
        about: "a whole queue of a disk over a hostile ring, bad grants and kills: one answer for each request",
        longest: 1024,
        run: blk_device::run,
    },
    Target {
        name: "net_tx",
        about: "slots from a guest to frames for the tap",
        longest: 1024,
        run: net_tx::run,
    },
    Target {
        name: "net_rx",
        about: "frames from the tap to a guest's slots, whole or cut",
        longest: 1024,
        run: net_rx::run,
    },
    Target {
        name: "net_control",
        about: "the control ring's orders, and the hash that they set",
        longest: 1024,
        run: net_control::run,
    },
    Target {
        name: "xenstore_nodes",
        about: "a frontend's nodes and both ends' states in any order",
        longest: 1024,
        run: xenstore_nodes::run,
    },
    Target {
        name: "xenstore_wire",
        about: "xenstore's messages, either way",
        longest: 2048,
        run: xenstore_wire::run,
    },
    Target {
        name: "journal",
        about: "whatever a worker left in its journal, with whatever stands in the ring: taken over once",
        longest: 1024,
        run: journal::run,
    },
    Target {
        name: "rules",
        about: "what Linux' backends accept, refuse and end a connection for, beside what ours do",
        longest: 1024,
        run: rules::run,
    },
    Target {
        name: "control",
        about: "lines on the sockets between splitd, workers and splitctl",
        longest: 1024,
        run: control::run,
    },
    Target { name: "policy", about: "the operator's policy file", longest: 4096, run: policy::run },
];

/// The target of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
