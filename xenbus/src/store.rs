//! xenstore: its wire format, for both ends. Knows nothing of what a device's nodes mean.

pub mod wire;
