//! From the slots that a guest posted to one frame, one multicast order, or the reason why there is none (net rules as the kernel's
//! netback has them: what it drops we drop, what ends a connection there ends it here). Pure and total over copies of the slots.
//! Knows nothing of memory, taps or answers.

use crate::wire::{self, Extra, Gso, TxRequest, TxSlot};

/// Most slots with data in a frame that is sent on: the first, and `XEN_NETIF_NR_SLOTS_MIN` more.
pub const MAX_FRAGMENTS: usize = 19;
/// So many slots after the first, and the frontend is broken rather than old.
const FATAL_FRAGMENTS: usize = 20;
/// An Ethernet header.
const MIN_FRAME_LEN: u16 = 14;
const PAGE_LEN: u32 = 4096;

/// A piece of a frame, inside of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// The page.
    pub gref: u32,
    /// First byte in it.
    pub offset: u16,
    /// Bytes; `offset + len <= 4096`.
    pub len: u16,
}

/// A frame to be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    fragments: [Fragment; MAX_FRAGMENTS],
    nr_fragments: usize,
    /// Sum of the fragments, bytes.
    pub len: u16,
    /// The TCP or UDP checksum is open.
    pub csum_blank: bool,
    /// To be cut into segments.
    pub gso: Option<Gso>,
}

impl Frame {
    /// Its pieces in order; some may be empty (XSA-448).
    #[must_use]
    pub fn fragments(&self) -> &[Fragment] {
        self.fragments.get(..self.nr_fragments).unwrap_or_default()
    }

    /// Packets that it is on the wire.
    #[must_use]
    pub fn nr_packets(&self) -> u64 {
        self.gso.map_or(1, |gso| gso.nr_packets(self.len.into()))
    }
}

/// What the slots from the first on are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A frame.
    Frame(Frame),
    /// An order to pass on multicast for an address, or no more.
    Multicast {
        /// Pass on, else no more.
        add: bool,
        /// The address.
        address: [u8; 6],
    },
    /// Not to be sent on, answered with an error; the ring stays in step.
    Refused(Refusal),
}

/// Why a frame is not sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More slots than a frame may have.
    TooManySlots,
    /// The pieces are longer than the whole (frontends that wrap a length of 64 KiB).
    TooLong,
    /// Shorter than an Ethernet header, or its first piece is.
    TooShort,
}

/// A message and how many slots it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What it is.
    pub message: Message,
    /// Slots with extra infos, which stand right behind the first.
    pub nr_extras: usize,
    /// All slots.
    pub nr_slots: usize,
}

/// A frontend that broke the protocol beyond repair (the kernel's `xenvif_fatal_tx_err`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// `NETTXF_extra_info`, but the ring ends.
    #[error("extra info is missing behind the last slot")]
    ExtraMissing,
    /// Not a type that there is.
    #[error("extra info of type {0}; 1 to 5 are allowed")]
    ExtraType(u8),
    /// `NETTXF_more_data`, but the ring ends.
    #[error("more data is announced behind the last slot")]
    DataMissing,
    /// More slots than any frontend has.
    #[error("a frame of more than {FATAL_FRAGMENTS} slots")]
    Endless,
    /// A piece that leaves its page.
    #[error("a piece at {offset} of {len} bytes leaves its page")]
    CrossesPage {
        /// Its first byte.
        offset: u16,
        /// Its length, bytes.
        len: u16,
    },
    /// A size of 0, or a type other than TCPV4 and TCPV6.
    #[error("GSO of size 0 or of an unknown type")]
    Gso,
}

/// Extra infos of one frame.
#[derive(Default)]
struct Extras {
    gso: Option<Extra>,
    multicast: Option<(bool, [u8; 6])>,
}

/// Reads the message that begins with the first slot. `slots` are all that the guest has published; not empty.
pub fn parse(slots: &[TxSlot]) -> Result<Parsed, Fatal> {
    let mut rest = slots.iter();
    let first = rest.next().map(TxRequest::read).unwrap_or_default();
    let (extras, nr_extras) = extras(first, &mut rest)?;
    if let Some((add, address)) = extras.multicast {
        // Anything that would follow belongs to the next message.
        let message = Message::Multicast { add, address };
        return Ok(Parsed { message, nr_extras, nr_slots: 1 + nr_extras });
    }
    let (fragments, refusal) = fragments(first, &mut rest)?;
    let nr_slots = nr_extras + fragments.nr_slots;
    let refused = |why| Ok(Parsed { message: Message::Refused(why), nr_extras, nr_slots });
    if let Some(why) = refusal {
        return refused(why);
    }
    let head = fragments.list[0];
    if head.len < MIN_FRAME_LEN {
        return refused(Refusal::TooShort);
    }
    within_page(head.offset, head.len)?;
    let gso = extras.gso.map(|extra| Gso::read(extra).ok_or(Fatal::Gso)).transpose()?;
    let frame = Frame {
        fragments: fragments.list,
        nr_fragments: fragments.nr_slots,
        len: first.size,
        csum_blank: first.flags & wire::TX_CSUM_BLANK != 0,
        gso,
    };
    Ok(Parsed { message: Message::Frame(frame), nr_extras, nr_slots })
}

fn extras<'a>(
    first: TxRequest,
    rest: &mut impl Iterator<Item = &'a TxSlot>,
) -> Result<(Extras, usize), Fatal> {
    let mut found = Extras::default();
    let mut nr = 0;
    let mut more = first.flags & wire::TX_EXTRA_INFO != 0;
    while more {
        let extra = rest.next().map(Extra::read).ok_or(Fatal::ExtraMissing)?;
        nr += 1;
        more = extra.more;
        match extra.kind {
            wire::EXTRA_GSO => found.gso = Some(extra),
            wire::EXTRA_MCAST_ADD => found.multicast = Some((true, extra.body)),
            wire::EXTRA_MCAST_DEL => found.multicast = Some((false, extra.body)),
            wire::EXTRA_HASH | wire::EXTRA_XDP => {}
            other => return Err(Fatal::ExtraType(other)),
        }
    }
    Ok((found, nr))
}

struct Fragments {
    list: [Fragment; MAX_FRAGMENTS],
    nr_slots: usize,
}

/// The frame's pieces. The first slot names the whole length: what the others do not take of it is its own.
fn fragments<'a>(
    first: TxRequest,
    rest: &mut impl Iterator<Item = &'a TxSlot>,
) -> Result<(Fragments, Option<Refusal>), Fatal> {
    let mut found = Fragments { list: [Fragment::default(); MAX_FRAGMENTS], nr_slots: 1 };
    let (mut left, mut refusal) = (first.size, None);
    let mut more = first.flags & wire::TX_MORE_DATA != 0;
    while more {
        let slot = rest.next().map(TxRequest::read).ok_or(Fatal::DataMissing)?;
        let behind_first = found.nr_slots;
        if behind_first > FATAL_FRAGMENTS {
            return Err(Fatal::Endless);
        }
        within_page(slot.offset, slot.size)?;
        more = slot.flags & wire::TX_MORE_DATA != 0;
        let fragment = Fragment { gref: slot.gref, offset: slot.offset, len: slot.size };
        match (found.list.get_mut(behind_first), left.checked_sub(slot.size)) {
            (None, _) => refusal = refusal.or(Some(Refusal::TooManySlots)),
            (_, None) => refusal = refusal.or(Some(Refusal::TooLong)),
            (Some(place), Some(remaining)) => (*place, left) = (fragment, remaining),
        }
        found.nr_slots += 1;
    }
    found.list[0] = Fragment { gref: first.gref, offset: first.offset, len: left };
    Ok((found, refusal))
}

fn within_page(offset: u16, len: u16) -> Result<(), Fatal> {
    if u32::from(offset) + u32::from(len) > PAGE_LEN {
        return Err(Fatal::CrossesPage { offset, len });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
