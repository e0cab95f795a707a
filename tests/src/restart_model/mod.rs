//! A small model of a disk's queue, its journal, its guest and the kernel's late operations, over crashes at any step: what may happen, in
//! steps of one store each. `kept` is the part that outlives a worker, the same for a ring of any size, against which the real
//! worker's steps are held too; `state` is all of it, `search` walks through every state that can be reached. What a successor does is
//! decided by the worker's own `recover::plan`. Knows nothing of memory ordering: that is loom's.

pub mod kept;
pub mod search;
mod state;

pub use state::{State, Variant};
