//! Side-by-side benchmarks: what is timed is always a ratio of alternating pairs in one run. Knows how to run fio and how
//! to drive simulated frontends; knows nothing of Xen's lab, which calls fio inside its guests and hands the rows over.

pub mod cpu;
pub mod fio;
pub mod net;
#[allow(clippy::cast_precision_loss)] // figures for people
pub mod qos;
#[allow(clippy::cast_precision_loss)] // figures for people
pub mod recovery;
pub mod report;
pub mod rows;
pub mod scale;
pub mod sim;
pub mod stats;
pub mod tap;
