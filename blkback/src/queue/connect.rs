//! How a queue comes to serve: map the ring, bind the event channel, take a dead predecessor's journal over or begin afresh.
//! Happens after the fence was passed. Knows nothing of how the terms were agreed on.

use std::collections::VecDeque;
use std::sync::Arc;

use worker::attach::{self, AttachError};
use worker::clock::monotonic_ns;
use worker::crash_point;
use worker::journal::recover::Unusable;
use worker::journal::{BeginError, Begun, Journal, Shape};
use worker::log_limit::LogLimit;
use worker::message::{Abi, QueueRing, TransferMode};
use worker::uring::{Disk, Uring};
use worker::wake::Bell;
use xen_ring::{BackRing, Indices};
use xenbus::hv::{EventChannel, GrantTable};
use xenbus::memory::LocalMemory;

use super::replay::{Left, Replay};
use super::throttle::Throttle;
use super::{Copies, Device, Queue, Stop};
use crate::discard::DiscardLine;
use crate::figures::Figures;
use crate::flushes::FlushLine;
use crate::linger::Linger;
use crate::persistent::Cache;
use crate::pool::Pool;
use crate::request::Limits;
use crate::shortage::Shortage;
use crate::slot::{Chunk, ChunkId, Slot, SlotId, Tag};
use crate::wire::{self, MAX_DIRECT_SEGMENTS, SEGMENT_LEN, Segment};

/// A chunk is 256 KiB at most: large enough for the disk, small enough to find room.
const MAX_PAGES_PER_CHUNK: u32 = 64;

/// What a queue's thread has from the worker's start on.
#[derive(Debug)]
pub(crate) struct Parts<G, E, D = Uring> {
    pub(crate) device: Arc<Device>,
    pub(crate) grants: G,
    pub(crate) events: E,
    pub(crate) disk: D,
    pub(crate) bell: Bell,
    pub(crate) journal: Journal,
    pub(crate) figures: Figures,
    pub(crate) discards: Option<DiscardLine>,
}

/// What a connection brings.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) frontend: u16,
    pub(crate) connection: u64,
    pub(crate) predecessor_crashed: bool,
    pub(crate) busy_poll_ns: u64,
    pub(crate) ring: QueueRing,
    pub(crate) abi: Abi,
    pub(crate) mode: TransferMode,
    pub(crate) limits: Limits,
    /// The disk's block in bytes.
    pub(crate) block_len: u32,
    pub(crate) memory: LocalMemory,
}

/// Why a queue cannot be connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// What the frontend gave us is not usable.
    #[error("{0}")]
    Frontend(String),
    /// Ours.
    #[error("{0}")]
    Host(String),
}

impl From<Stop> for ConnectError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Violation(why) => Self::Frontend(why),
            Stop::Host(why) => Self::Host(why),
        }
    }
}

impl From<AttachError> for ConnectError {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Frontend(why) => Self::Frontend(why),
            AttachError::Host(why) => Self::Host(why),
        }
    }
}

/// What the frontend was promised, as words that a successor has to find equal.
fn promised(terms: &Terms) -> Vec<u32> {
    let mut words = vec![
        u32::from(terms.frontend),
        terms.ring.port,
        terms.abi as u32,
        terms.mode as u32,
        u32::from(terms.limits.barrier),
        u32::from(terms.limits.max_indirect_segments),
        u32::from(terms.limits.read_only),
    ];
    words.extend(&terms.ring.ring_refs);
    words
}

/// Sizes of a queue's journal.
pub(crate) fn journal_shape(nr_slots: u32, max_indirect_segments: u16) -> Shape {
    Shape {
        nr_entries: nr_slots as usize,
        slot_len: wire::MAX_SLOT_LEN,
        extra_len: usize::from(max_indirect_segments) * SEGMENT_LEN,
    }
}

impl<G: GrantTable, E: EventChannel, D: Disk> Queue<G, E, D> {
    /// Connects and replays; says what a dead predecessor left.
    pub(crate) fn connect(parts: Parts<G, E, D>, terms: Terms) -> Result<(Self, Left), ConnectError> {
        let Parts { device, mut grants, mut events, mut disk, bell, mut journal, figures, discards } = parts;
        let mapping = attach::map_ring(&mut grants, "ring-ref", &terms.ring.ring_refs)?;
        crash_point!("after_map");
        attach::bind(&mut events, "event-channel", terms.ring.port)?;
        crash_point!("after_bind");
        let slot_len = wire::slot_len(terms.abi);
        let shape_error =
            |e| ConnectError::Frontend(format!("ring of {} pages: {e:?}", terms.ring.ring_refs.len()));
        let ring = BackRing::attach(mapping, slot_len, Indices::default()).map_err(shape_error)?;
        let (nr_slots, shared_rsp_prod) = (ring.nr_slots(), ring.shared_rsp_prod());
        let shape = journal_shape(nr_slots, terms.limits.max_indirect_segments);
        let begun = begin(&mut journal, &terms, shape, shared_rsp_prod)?;
        let (at, plan) = match begun {
            Begun::Fresh => (Indices::default(), None),
            Begun::Resumed(plan) => {
                (Indices { req_cons: plan.req_cons, rsp_prod: plan.rsp_prod }, Some(plan))
            }
        };
        let ring = BackRing::attach(ring.into_memory(), slot_len, at).map_err(shape_error)?;

        let max_indirect = usize::from(terms.limits.max_indirect_segments);
        let segments_per_slot = max_indirect.max(usize::from(MAX_DIRECT_SEGMENTS));
        let table_len = (max_indirect * SEGMENT_LEN).next_multiple_of(8);
        let tables = LocalMemory::new(nr_slots as usize * table_len).map_err(Stop::from)?;
        let pool = Pool::new(terms.memory.len());
        // One page more than a chunk may be needed around it, on a disk with larger blocks than a sector.
        let most_pages_per_chunk = MAX_PAGES_PER_CHUNK.min(pool.pages().saturating_sub(2)).max(1);
        let cache = (terms.mode == TransferMode::Persistent).then(Cache::new);
        disk.give_memory(terms.memory);
        let nr_slots = nr_slots as usize;
        let flushes = FlushLine::new(Arc::clone(&device.flushes), nr_slots);
        let now_ns = monotonic_ns();
        let mut queue = Self {
            device,
            abi: terms.abi,
            limits: terms.limits,
            ring,
            grants,
            events,
            disk,
            bell,
            journal,
            figures,
            log: LogLimit::default(),
            slots: vec![Slot::EMPTY; nr_slots],
            segments: vec![Segment::EMPTY; nr_slots * segments_per_slot],
            segments_per_slot,
            free_slots: free_list(nr_slots),
            chunks: vec![Chunk::EMPTY; nr_slots * 2],
            free_chunks: free_list(nr_slots * 2),
            cache,
            most_pages_per_chunk,
            block_len: terms.block_len,
            edge_wait: false,
            pool,
            tables,
            table_len,
            fetching: Vec::with_capacity(nr_slots),
            fetch_ops: Vec::with_capacity(nr_slots),
            waiting: VecDeque::with_capacity(nr_slots),
            throttle: Throttle::with_room(nr_slots),
            finished: Vec::with_capacity(nr_slots),
            copy_in: Copies::with_room(nr_slots * 16),
            copy_out: Copies::with_room(nr_slots * 16),
            completions: Vec::with_capacity(256),
            discards,
            flushes,
            barriers: 0,
            barrier: None,
            active: 0,
            replay: Replay::default(),
            failure: None,
            event: false,
            event_held: false,
            event_held_ns: 0,
            empty_wakeups: 0,
            shortage: false,
            put_off: Vec::with_capacity(nr_slots * 2),
            put_off_ns: 0,
            lack: Shortage::default(),
            linger_for_frontend: Linger::new(terms.busy_poll_ns),
            linger_for_disk: Linger::new(terms.busy_poll_ns),
            closing: false,
            mappings_seen_ns: now_ns,
            now_ns,
        };
        queue.arm(Tag::Event)?;
        queue.arm(Tag::Bell)?;
        let left = plan.map_or(Ok(Left::default()), |plan| queue.replay(&plan, terms.predecessor_crashed))?;
        // A predecessor may have died between publishing and notifying.
        queue.notify()?;
        Ok((queue, left))
    }
}

/// Lowest number on top.
fn free_list(len: usize) -> Vec<u16> {
    (0..u16::try_from(len).unwrap_or(u16::MAX)).rev().collect::<Vec<SlotId>>()
}

const _: () = assert!(size_of::<SlotId>() == size_of::<ChunkId>());

fn begin(
    journal: &mut Journal,
    terms: &Terms,
    shape: Shape,
    shared_rsp_prod: u32,
) -> Result<Begun, ConnectError> {
    // A frontend starts its ring at zero; anything else without a journal is somebody else's unfinished work.
    if !journal.is_of(terms.connection) && shared_rsp_prod != 0 {
        return Err(ConnectError::Host(format!(
            "the ring was in use before (rsp_prod {shared_rsp_prod}) and there is no journal of this connection"
        )));
    }
    journal.begin(terms.connection, shape, &promised(terms), shared_rsp_prod).map_err(|e| match e {
        BeginError::Unusable(Unusable::Tampered { .. }) => ConnectError::Frontend(e.to_string()),
        BeginError::Unusable(_) | BeginError::Terms(_) => ConnectError::Host(e.to_string()),
    })
}
