//! From the bytes of a slot to a request that may be carried out, or to the answer that refuses it. Pure and total: any bytes
//! give one or the other. Works on owned copies. Knows nothing of rings, grants, buffers or files.

use worker::message::Abi;
use xenbus::GrantRef;

use crate::wire::{self, Segment, Slot, Status};

/// What this connection's requests are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the disk now, in units of 512 bytes.
    pub capacity_sectors: u64,
    /// Sectors that a request has to be a multiple of and aligned to; a power of two, 1 as a rule.
    pub alignment_sectors: u64,
    /// No writes, no discards.
    pub read_only: bool,
    /// Most segments of an indirect request; 0 if none was offered.
    pub max_indirect_segments: u16,
    /// Discard was offered.
    pub discard: bool,
    /// Secure discard was offered.
    pub discard_secure: bool,
    /// Barriers were offered.
    pub barrier: bool,
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk to the guest.
    Read,
    /// From the guest to the disk.
    Write,
}

/// What a request waits for beside its own data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    Free,
    /// Everything completed so far becomes durable first, then its own data does.
    Flush,
    /// Everything before is complete first, its own data is durable, then everything later.
    Barrier,
}

/// A request that may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Move sectors.
    Transfer {
        /// Which way.
        direction: Direction,
        /// Among what.
        order: Order,
        /// First sector.
        sector: u64,
        /// How many segments the caller's table holds now.
        nr_segments: u16,
    },
    /// Move sectors by a table that still has to be copied out of the guest; see [`Limits::check_segments`].
    Indirect {
        /// Which way.
        direction: Direction,
        /// First sector.
        sector: u64,
        /// How many segments.
        nr_segments: u16,
        /// Where they stand, [`wire::SEGMENTS_PER_PAGE`] in each page.
        grefs: [GrantRef; wire::MAX_INDIRECT_PAGES],
    },
    /// Make durable; no data.
    Flush {
        /// `Barrier` for a barrier without data, `Free` for a plain flush.
        order: Order,
    },
    /// Forget sectors.
    Discard {
        /// First sector.
        sector: u64,
        /// How many; never 0.
        nr_sectors: u64,
        /// So that they cannot be brought back.
        secure: bool,
    },
}

/// A request with what its answer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Echoed.
    pub id: u64,
    /// Echoed.
    pub operation: u8,
    /// What to do.
    pub action: Action,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The operation is none of ours, or was not offered.
    Operation,
    /// Too few or too many segments.
    SegmentCount(u16),
    /// A segment is not inside its page.
    Segment(Segment),
    /// The range wraps or ends beyond the disk.
    Range,
    /// Start or length is not a multiple of the disk's block.
    Alignment,
    /// The disk is read-only.
    ReadOnly,
    /// The operation inside an indirect request is neither read nor write.
    IndirectOperation(u8),
}

/// A request answered at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Echoed.
    pub id: u64,
    /// Echoed.
    pub operation: u8,
    /// The answer.
    pub status: Status,
    /// For the log.
    pub why: Why,
}

/// Parses a slot; direct segments go into `segments`, which holds at least eleven.
pub fn parse(abi: Abi, slot: &Slot, limits: &Limits, segments: &mut [Segment]) -> Result<Request, Reject> {
    let header = wire::header(abi, slot);
    let operation = wire::echoed_operation(header);
    let action = match header.operation {
        wire::OP_READ => direct(abi, slot, header, limits, segments, Direction::Read, Order::Free),
        wire::OP_WRITE => direct(abi, slot, header, limits, segments, Direction::Write, Order::Free),
        wire::OP_WRITE_BARRIER if limits.barrier => match header.second {
            0 => Ok(Action::Flush { order: Order::Barrier }),
            _ => direct(abi, slot, header, limits, segments, Direction::Write, Order::Barrier),
        },
        wire::OP_FLUSH_DISKCACHE => match header.second {
            0 => Ok(Action::Flush { order: Order::Free }),
            _ => direct(abi, slot, header, limits, segments, Direction::Write, Order::Flush),
        },
        wire::OP_DISCARD if limits.discard => discard(abi, slot, header, limits),
        wire::OP_INDIRECT if limits.max_indirect_segments > 0 => indirect(abi, slot, header, limits),
        _ => Err((Status::NotSupported, Why::Operation)),
    };
    match action {
        Ok(action) => Ok(Request { id: header.id, operation, action }),
        Err((status, why)) => Err(Reject { id: header.id, operation, status, why }),
    }
}

type Outcome = Result<Action, (Status, Why)>;

fn direct(
    abi: Abi,
    slot: &Slot,
    header: wire::Header,
    limits: &Limits,
    segments: &mut [Segment],
    direction: Direction,
    order: Order,
) -> Outcome {
    let count = u16::from(header.second);
    if header.second == 0 || header.second > wire::MAX_DIRECT_SEGMENTS || usize::from(count) > segments.len()
    {
        return Err((Status::Error, Why::SegmentCount(count)));
    }
    for (i, out) in (0..header.second).zip(segments.iter_mut()) {
        if let Some(segment) = wire::segment(abi, slot, i) {
            *out = segment;
        }
    }
    let table = segments.get(..usize::from(count)).unwrap_or_default();
    limits.check_segments(direction, header.sector, table).map_err(|why| (Status::Error, why))?;
    Ok(Action::Transfer { direction, order, sector: header.sector, nr_segments: count })
}

fn indirect(abi: Abi, slot: &Slot, header: wire::Header, limits: &Limits) -> Outcome {
    let direction = match header.second {
        wire::OP_READ => Direction::Read,
        wire::OP_WRITE => Direction::Write,
        other => return Err((Status::Error, Why::IndirectOperation(other))),
    };
    let nr_segments = header.third;
    let pages = usize::from(nr_segments).div_ceil(wire::SEGMENTS_PER_PAGE);
    if nr_segments == 0 || nr_segments > limits.max_indirect_segments || pages > wire::MAX_INDIRECT_PAGES {
        return Err((Status::Error, Why::SegmentCount(nr_segments)));
    }
    if direction == Direction::Write && limits.read_only {
        return Err((Status::Error, Why::ReadOnly));
    }
    let grefs = wire::indirect_grefs(abi, slot);
    Ok(Action::Indirect { direction, sector: header.sector, nr_segments, grefs })
}

fn discard(abi: Abi, slot: &Slot, header: wire::Header, limits: &Limits) -> Outcome {
    let nr_sectors = wire::discard_nr_sectors(abi, slot);
    let secure = header.second & wire::DISCARD_SECURE != 0;
    let refuse = |why| Err((Status::Error, why));
    if limits.read_only {
        return refuse(Why::ReadOnly);
    }
    // ERROR, not EOPNOTSUPP: the latter makes blkfront give up plain discard as well.
    if secure && !limits.discard_secure {
        return refuse(Why::Operation);
    }
    if nr_sectors == 0 {
        return refuse(Why::Range);
    }
    limits.check_range(header.sector, nr_sectors).map_err(|why| (Status::Error, why))?;
    Ok(Action::Discard { sector: header.sector, nr_sectors, secure })
}

impl Limits {
    /// Holds a whole table to the limits: direct ones within [`parse`], indirect ones once they were copied out.
    pub fn check_segments(&self, direction: Direction, sector: u64, segments: &[Segment]) -> Result<(), Why> {
        if direction == Direction::Write && self.read_only {
            return Err(Why::ReadOnly);
        }
        let mut nr_sectors = 0u64;
        for segment in segments {
            if !segment.is_valid() {
                return Err(Why::Segment(*segment));
            }
            nr_sectors = nr_sectors.saturating_add(u64::from(segment.len_sectors()));
        }
        self.check_range(sector, nr_sectors)?;
        let mask = self.alignment_sectors.saturating_sub(1);
        if (sector | nr_sectors) & mask != 0 {
            return Err(Why::Alignment);
        }
        Ok(())
    }

    fn check_range(&self, sector: u64, nr_sectors: u64) -> Result<(), Why> {
        match sector.checked_add(nr_sectors) {
            Some(end) if end <= self.capacity_sectors => Ok(()),
            _ => Err(Why::Range),
        }
    }
}

#[cfg(test)]
mod tests;
