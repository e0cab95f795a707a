//! The in-flight table: what is known of every request that was taken and not answered, and of every piece of one that the
//! kernel has. One entry per ring slot, allocated at connect. Knows nothing of how work is done.

use crate::figures::Stages;
use crate::pool::Run;
use crate::request::{Direction, Order};
use crate::wire::Status;

/// Place in the in-flight table; the journal's entry of the same number holds its bytes.
pub(crate) type SlotId = u16;
/// Place in the table of chunks.
pub(crate) type ChunkId = u16;

/// What a request still has to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Not begun.
    Begin,
    /// A flush that precedes the data is under way.
    FlushBefore,
    /// Data is moved, chunk by chunk.
    Data,
    /// A flush after which there is nothing left is under way.
    FlushAfter,
    /// A discard is under way.
    Discard,
}

/// What kind of work a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// None: it is only answered.
    Nothing,
    /// Sectors to or from the guest.
    Data(Direction),
    /// Nothing but durability.
    Flush,
    /// Forgetting sectors.
    Discard {
        /// So that they cannot be brought back.
        secure: bool,
    },
}

/// A taken request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) id: u64,
    pub(crate) operation: u8,
    pub(crate) work: Work,
    pub(crate) order: Order,
    pub(crate) step: Step,
    pub(crate) status: Status,
    /// Next sector on the disk that no chunk has.
    pub(crate) sector: u64,
    /// Sectors of a discard that are left.
    pub(crate) nr_sectors: u64,
    pub(crate) nr_segments: u16,
    /// Next segment that no chunk has.
    pub(crate) next_segment: u16,
    pub(crate) chunks_in_flight: u16,
    pub(crate) len_bytes: u32,
    pub(crate) stages: Stages,
    /// What a discard takes of the device's time.
    pub(crate) cost_ns: u64,
    /// A dead predecessor took it.
    pub(crate) replayed: bool,
}

impl Slot {
    /// What the table is filled with.
    pub(crate) const EMPTY: Self = Self {
        id: 0,
        operation: 0,
        work: Work::Nothing,
        order: Order::Free,
        step: Step::Begin,
        status: Status::Okay,
        sector: 0,
        nr_sectors: 0,
        nr_segments: 0,
        next_segment: 0,
        chunks_in_flight: 0,
        len_bytes: 0,
        stages: Stages::NONE,
        cost_ns: 0,
        replayed: false,
    };

    /// Everything was given to the kernel, or the rest is not worth it any more.
    pub(crate) fn all_issued(&self) -> bool {
        self.next_segment >= self.nr_segments || self.status != Status::Okay
    }
}

/// A piece of a request: some of its segments, one contiguous range of the disk, one disk operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) slot: SlotId,
    pub(crate) direction: Direction,
    pub(crate) first_segment: u16,
    pub(crate) nr_segments: u16,
    /// Its buffer.
    pub(crate) run: Run,
    /// Where on the disk, in whole blocks of it.
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u32,
    pub(crate) done_bytes: u32,
    /// Bytes before the guest's data, on a disk with larger blocks than a sector.
    pub(crate) head_bytes: u32,
    /// Blocks that are owned because the guest's data covers them in part.
    pub(crate) edges: [Option<u64>; 2],
    /// Edges that are still being read.
    pub(crate) edges_left: u8,
    /// The kernel could not read one now.
    pub(crate) edges_short: bool,
    pub(crate) failed: bool,
    /// What it takes of the device's time.
    pub(crate) cost_ns: u64,
    pub(crate) begun_ns: u64,
}

impl Chunk {
    /// What the table is filled with.
    pub(crate) const EMPTY: Self = Self {
        slot: 0,
        direction: Direction::Read,
        first_segment: 0,
        nr_segments: 0,
        run: Run::NONE,
        offset_bytes: 0,
        len_bytes: 0,
        done_bytes: 0,
        head_bytes: 0,
        edges: [None; 2],
        edges_left: 0,
        edges_short: false,
        failed: false,
        cost_ns: 0,
        begun_ns: 0,
    };
}

/// What a completion belongs to, packed into the tag of an io_uring operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The event channel became readable.
    Event,
    /// The bell was rung.
    Bell,
    /// A chunk's disk operation.
    Chunk(ChunkId),
    /// A block at the edge of a chunk that is read before the chunk is written.
    Edge(ChunkId),
    /// The queue's flush.
    Flush,
    /// A piece of a request's discard.
    Discard(SlotId),
}

impl Tag {
    pub(crate) fn pack(self) -> u64 {
        match self {
            Self::Event => 0,
            Self::Bell => 1 << 16,
            Self::Chunk(i) => 2 << 16 | u64::from(i),
            Self::Flush => 3 << 16,
            Self::Discard(i) => 4 << 16 | u64::from(i),
            Self::Edge(i) => 5 << 16 | u64::from(i),
        }
    }

    /// Tags are only ever what `pack` made.
    pub(crate) fn unpack(tag: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // the low half is what is wanted
        let i = tag as u16;
        match tag >> 16 {
            0 => Self::Event,
            1 => Self::Bell,
            2 => Self::Chunk(i),
            3 => Self::Flush,
            4 => Self::Discard(i),
            _ => Self::Edge(i),
        }
    }
}
