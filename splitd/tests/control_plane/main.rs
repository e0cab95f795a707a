//! splitd, splitctl and a worker as processes on a simulated host, against what libxl and guests write: the scenarios of a disk's
//! life that need no data path. Each names its acceptance scenario or its line of the hostile catalogue.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod host;
mod hostile;
mod life;
mod world;
