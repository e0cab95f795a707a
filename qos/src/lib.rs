//! What every guest is promised and held to: the policy file, caps, shares of a device, and the record of what was kept. Time
//! comes in as a parameter, memory as atomics. Knows nothing of files, clocks, threads, rings or networks.

pub mod account;
pub mod cost;
pub mod depth;
pub mod fill;
pub mod gcra;
pub mod ledger;
pub mod page;
pub mod planner;
pub mod policy;
pub mod share;
pub mod simulate;
