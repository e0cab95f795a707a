//! The resident daemon: watches xenstore, decides, starts and supervises one worker per disk, and answers `splitctl`. Knows
//! nothing of rings or requests, never touches a guest's memory and never opens or stats a target.

pub mod nodes;
pub mod state;
pub mod step;
