//! What every worker process is, whatever device it serves: its start order (open → fence → bind → serve), sandbox,
//! the messages it exchanges with splitd, its journal and counters files, its io_uring loop. Knows nothing of blkif or netif.

pub mod attach;
#[allow(unsafe_code)]
pub mod clock;
pub mod control;
pub mod counters;
pub mod crash;
#[allow(unsafe_code)]
pub mod fence;
pub mod ip_range;
pub mod journal;
pub mod log_limit;
#[allow(unsafe_code)]
pub mod mapped_file;
pub mod message;
pub mod qos;
#[allow(unsafe_code)]
pub mod sandbox;
#[allow(unsafe_code)]
pub mod start;
#[allow(unsafe_code)]
pub mod uring;
pub mod vif_caps;
#[allow(unsafe_code)]
pub mod wake;
pub mod written;
