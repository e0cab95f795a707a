//! Everything that talks to Xen: the seam [`Hypervisor`](hv::Hypervisor) with a real host (`/dev/xen/*`) and a
//! simulated one, the xenstore client, device paths and states. Knows nothing of blocks, packets or policies.

pub mod hv;
pub mod ids;
#[allow(unsafe_code)]
pub mod memory;
pub mod path;
pub mod sim;
pub mod state;
pub mod store;
pub mod vdev;
pub mod xen;

pub use ids::{DomId, GrantRef, Port};
pub use path::{Device, DeviceKind};
pub use state::XenbusState;
pub use vdev::Vdev;
