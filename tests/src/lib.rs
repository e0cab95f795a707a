//! The world that tests, the demo and benchmarks run in: guests with a reference blkfront and netfront that verify every byte,
//! hostile frontends, the far side of network interfaces, a toolstack that writes libxl's nodes. All against the simulated host. Knows
//! nothing of how splitd or its workers do their part: it holds the protocol in code of its own.

pub mod blkfront;
pub mod blkif;
pub mod exchange;
pub mod fuzz;
pub mod guest_kernel;
pub mod hostile;
pub mod net_end;
pub mod netfront;
pub mod netif;
pub mod netns;
pub mod oracle;
pub mod packages;
pub mod packet;
pub mod prng;
pub mod restart_model;
pub mod store;
pub mod toolstack;
pub mod traffic;
pub mod wire;
pub mod world;
