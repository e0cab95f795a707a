//! The vbd worker. One request's walk: `queue` wakes → `xen_ring` copies a slot out → `journal` keeps it → `request` parses it →
//! `pool` gives it buffers → the grant table copies a write's data in → io_uring does the I/O → the grant table copies a read's data
//! out → the answer is staged, published, and forgotten. Knows nothing of xenstore and nothing of other devices.

mod discard;
pub mod figures;
mod flushes;
mod linger;
pub mod lone;
mod persistent;
mod pool;
mod queue;
pub mod request;
mod rmw;
mod shortage;
mod slot;
pub mod target;
mod thread;
pub mod vbd;
pub mod wire;
