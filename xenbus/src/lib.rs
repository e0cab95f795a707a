//! Everything that talks to Xen: the seam [`Hypervisor`](hv::Hypervisor) with a real host (`/dev/xen/*`) and a
//! simulated one, the xenstore client, device paths and states. Knows nothing of blocks, packets or policies.

pub mod hv;
pub mod ids;
#[allow(unsafe_code)]
pub mod memory;
pub mod sim;
pub mod store;

pub use ids::{DomId, GrantRef, Port};
