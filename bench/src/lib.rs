//! Side-by-side benchmarks: what is timed is always a ratio of alternating pairs in one run. Knows how to run fio and how
//! to drive a simulated frontend; knows nothing of Xen's lab, which calls fio inside its guests and hands the rows over.

pub mod fio;
pub mod report;
pub mod rows;
pub mod scale;
pub mod sim;
pub mod stats;
