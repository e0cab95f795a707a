//! The resident daemon: watches xenstore, decides, starts and supervises one worker per disk or
//! network interface, and answers `splitctl`. Knows
//! nothing of rings or requests, never touches a guest's memory and never opens or stats a target.

pub mod allowance;
pub mod arbiter;
pub mod config;
pub mod control;
pub mod crashes;
pub mod ctl;
pub mod daemon;
pub mod device;
pub mod exposition;
pub mod id;
pub mod journald;
pub mod kernel;
pub mod ledger;
pub mod limits;
pub mod nodes;
pub mod observe;
pub mod offer;
pub mod place;
#[allow(unsafe_code)]
pub mod process;
pub mod protocol;
pub mod record;
pub mod report;
pub mod runtime;
pub mod select;
pub mod series;
pub mod sharing;
pub mod stats;
pub mod step;
#[allow(unsafe_code)]
pub mod tap;
pub mod together;
pub mod web;
pub mod worker_link;
pub mod xenstat;
