//! The world that tests, the demo and benchmarks run in: guests with a reference blkfront that verifies every byte, hostile
//! frontends, a toolstack that writes libxl's nodes. All against the simulated host. Knows nothing of how splitd or its
//! workers do their part: it holds the protocol in code of its own.

pub mod blkfront;
pub mod blkif;
pub mod hostile;
pub mod oracle;
pub mod prng;
pub mod store;
pub mod toolstack;
pub mod world;
