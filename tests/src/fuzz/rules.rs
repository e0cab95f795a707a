//! Second opinions: what Linux' blkback and netback do with the same bytes, written down anew from their rules, in another way than the
//! workers' parsers work. The verdicts are compared, not the reasons.

use blkback::request::{self, Limits};
use blkback::wire::{self as blk_wire, Segment, Status};
use netback::tx::{self, Message};
use netback::wire as net_wire;
use worker::message::Abi;

use super::input::Input;
use super::{blk_slot, net_tx};
use crate::{blkif, netif};

/// Longest chain of slots that a frontend may need (`XEN_NETIF_NR_SLOTS_MIN`): one with more loses the frame.
const LEGACY_SLOTS: usize = 18;
/// One with more than that (`fatal_skb_slots`) is broken.
const FATAL_SLOTS: usize = 20;

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.flag() {
        let (abi, limits) = blk_slot::terms(&mut input);
        while !input.is_empty() {
            let slot = blk_slot::slot(&mut input, abi, limits.capacity_sectors);
            compare_disk(abi, &slot, &limits);
        }
    } else {
        compare_net(&net_tx::slots(&mut input));
    }
}

fn compare_disk(abi: Abi, slot: &blk_wire::Slot, limits: &Limits) {
    let mut segments = [Segment::EMPTY; 11];
    let ours = match request::parse(abi, slot, limits, &mut segments) {
        Ok(_) => Status::Okay,
        Err(reject) => reject.status,
    };
    assert_eq!(ours, disk(abi, slot, limits), "{slot:?} {limits:?}");
}

fn word(slot: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(slot[at..at + 8].try_into().unwrap())
}

/// What a request comes to, as far as its slot decides: `dispatch_rw_block_io`, `dispatch_discard_io`, `xen_vbd_translate`.
fn disk(abi: Abi, slot: &blk_wire::Slot, limits: &Limits) -> Status {
    let body = if abi == Abi::Native64 { 24 } else { 20 };
    let (operation, second) = (slot[0], slot[1]);
    let sector = i128::from(word(slot, body - 8));
    let capacity = i128::from(limits.capacity_sectors);
    let is_known = match operation {
        blkif::READ | blkif::WRITE | blkif::FLUSH => true,
        blkif::BARRIER => limits.barrier,
        blkif::DISCARD => limits.discard,
        blkif::INDIRECT => limits.max_indirect_segments > 0,
        _ => false,
    };
    if !is_known {
        return Status::NotSupported;
    }
    let okay = match operation {
        blkif::DISCARD => {
            let count = i128::from(word(slot, body));
            let is_secure = second & 1 != 0;
            !limits.read_only
                && (limits.discard_secure || !is_secure)
                && count > 0
                && sector + count <= capacity
        }
        blkif::INDIRECT => {
            let count = u16::from_le_bytes([slot[2], slot[3]]);
            let is_write = second == blkif::WRITE;
            (second == blkif::READ || is_write && !limits.read_only)
                && count > 0
                && count <= limits.max_indirect_segments.min(8 * 512)
        }
        // No data: only what flushes may come without.
        _ if second == 0 => matches!(operation, blkif::FLUSH | blkif::BARRIER),
        _ if second > 11 || operation != blkif::READ && limits.read_only => false,
        _ => {
            let piece = |i: usize| (i128::from(slot[body + i * 8 + 4]), i128::from(slot[body + i * 8 + 5]));
            let pieces: Vec<_> = (0..second.into()).map(piece).collect();
            let count: i128 = pieces.iter().map(|(first, last)| last - first + 1).sum();
            let block = i128::from(limits.alignment_sectors);
            pieces.iter().all(|&(first, last)| first <= last && last <= 7)
                && sector + count <= capacity
                && sector % block == 0
                && count % block == 0
        }
    };
    if okay { Status::Okay } else { Status::Error }
}

/// What the slots from the first on come to.
#[derive(Debug, PartialEq, Eq)]
enum Net {
    /// Sent on: how many slots, how many pieces, its length.
    Frame(usize, usize, u16),
    /// Answered with an error: how many slots.
    Dropped(usize),
    /// An order about multicast: how many slots.
    Order(usize),
    /// The connection is over.
    Fatal,
}

fn compare_net(slots: &[net_wire::TxSlot]) {
    let mut rest = slots;
    while !rest.is_empty() {
        let ours = match tx::parse(rest) {
            Err(_) => Net::Fatal,
            Ok(parsed) => match parsed.message {
                Message::Frame(frame) => Net::Frame(parsed.nr_slots, frame.fragments().len(), frame.len),
                Message::Multicast { .. } => Net::Order(parsed.nr_slots),
                Message::Refused(_) => Net::Dropped(parsed.nr_slots),
            },
        };
        assert_eq!(ours, net(rest), "{rest:?}");
        let (Net::Frame(taken, ..) | Net::Dropped(taken) | Net::Order(taken)) = ours else { return };
        rest = &rest[taken..];
    }
}

fn field(slot: &net_wire::TxSlot, at: usize) -> u16 {
    u16::from_le_bytes([slot[at], slot[at + 1]])
}

/// `xenvif_get_extras`, `xenvif_count_requests` and what `xenvif_tx_build_gops` looks at in between.
fn net(slots: &[net_wire::TxSlot]) -> Net {
    let (flags, size) = (field(&slots[0], 6), field(&slots[0], 10));
    let mut next = 1;
    let (mut segments, mut order) = (None, false);
    let mut more = flags & netif::tx::EXTRA_INFO != 0;
    while more {
        let Some(slot) = slots.get(next) else { return Net::Fatal };
        next += 1;
        match slot[0] {
            netif::extra::GSO => segments = Some((field(slot, 2), slot[4])),
            netif::extra::MCAST_ADD | netif::extra::MCAST_DEL => order = true,
            netif::extra::HASH | netif::extra::XDP => {}
            _ => return Net::Fatal,
        }
        more = slot[1] & netif::extra::MORE != 0;
    }
    if order {
        return Net::Order(next);
    }
    let (mut behind, mut left, mut is_dropped) = (0, i64::from(size), false);
    let mut more = flags & netif::tx::MORE_DATA != 0;
    while more {
        let Some(slot) = slots.get(next).filter(|_| behind < FATAL_SLOTS) else { return Net::Fatal };
        (next, behind) = (next + 1, behind + 1);
        is_dropped |= behind > LEGACY_SLOTS || left < i64::from(field(slot, 10));
        if !is_dropped {
            left -= i64::from(field(slot, 10));
        }
        if u32::from(field(slot, 4)) + u32::from(field(slot, 10)) > 4096 {
            return Net::Fatal;
        }
        more = field(slot, 6) & netif::tx::MORE_DATA != 0;
    }
    if is_dropped || left < 14 {
        return Net::Dropped(next);
    }
    if i64::from(field(&slots[0], 4)) + left > 4096 {
        return Net::Fatal;
    }
    match segments {
        Some((0, _)) => Net::Fatal,
        Some((_, kind)) if kind != netif::extra::TCPV4 && kind != netif::extra::TCPV6 => Net::Fatal,
        _ => Net::Frame(next, behind + 1, size),
    }
}
