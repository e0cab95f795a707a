//! The worker that serves one network interface of one guest. A frame's walk from the guest: `queue` wakes → `xen_ring` copies slots
//! out → `kept` keeps them → `tx` makes a frame of them → the grant table copies it in → `offload` makes it fit → the tap. And
//! to the guest: the tap → `offload`, `segment` → `rx` plans its slots → the grant table copies it out → answers. `control` serves
//! the guest's orders about its `hash`, by which `steering` has the tap choose queues, and about its `static_grants`, through which
//! pieces are copied without the grant table. Knows nothing of xenstore or of the toolstack.

mod backlog;
mod caps;
pub mod checksum;
pub mod control;
pub mod figures;
pub mod hash;
pub mod headers;
pub mod kept;
pub mod offload;
mod queue;
pub mod rx;
pub mod segment;
mod shared;
mod static_grants;
#[allow(unsafe_code)]
mod steering;
#[allow(unsafe_code)]
pub mod tap;
mod thread;
pub mod tx;
pub mod vif;
pub mod vnet;
pub mod wire;
