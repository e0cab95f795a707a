//! What one side leaves to the other: open checksums and uncut TCP, from the guest to the tap and back, and the software that does it
//! where the other side cannot. Pure. Knows nothing of rings, slots or taps.

use worker::message::VifFeatures;

use crate::checksum;
use crate::hash::Hash;
use crate::headers::{self, Headers, Ip, Transport};
use crate::segment::Segments;
use crate::vnet::{Partial, Vnet};
use crate::wire::Gso;

/// Why a frame goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// An open checksum or uncut TCP, but no TCP or UDP header to go with it (a fragment, another protocol).
    NoTransport,
    /// Uncut TCP of the other IP version than announced, or UDP.
    OtherKind,
    /// An open checksum beyond the frame's end.
    Range,
    /// Longer than the guest can take: it has no scatter-gather.
    TooLong,
}

/// Makes a frame of the guest's fit for the tap. An open checksum gets its pseudo header's sum anew: right for a good guest, and
/// what makes a bad one's harmless. GSO with a complete checksum is treated alike (the kernel's `rx_gso_checksum_fixup`).
pub fn to_tap(frame: &mut [u8], csum_blank: bool, gso: Option<Gso>) -> Result<Vnet, Unfit> {
    if !csum_blank && gso.is_none() {
        return Ok(Vnet::default());
    }
    let (ip, transport) = transport_of(headers::parse(frame))?;
    if gso.is_some_and(|gso| !transport.is_tcp || gso.ipv6 != ip.is_v6) {
        return Err(Unfit::OtherKind);
    }
    let len_bytes = if gso.is_some() { frame.len() - ip.end } else { transport_len(frame, ip) };
    let sum = checksum::fold(checksum::pseudo_header(headers::addresses(frame, ip), ip.protocol, len_bytes));
    put(frame, transport.checksum_at(), sum)?;
    let place = |at: usize| u16::try_from(at).map_err(|_| Unfit::Range);
    let offset = place(transport.checksum_at() - transport.at)?;
    let partial = Some(Partial { start: place(transport.at)?, offset });
    Ok(Vnet { partial, is_valid: false, header_len: place(transport.end)?, gso })
}

fn transport_of(found: Option<Headers>) -> Result<(Ip, Transport), Unfit> {
    let found = found.ok_or(Unfit::NoTransport)?;
    found.ip.zip(found.transport).ok_or(Unfit::NoTransport)
}

/// Bytes behind the network header as IP says; a short frame may be padded.
fn transport_len(frame: &[u8], ip: Ip) -> usize {
    let (at, header_len) = if ip.is_v6 { (ip.at + 4, 40) } else { (ip.at + 2, 0) };
    let said = frame.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b));
    let end = ip.at + header_len + usize::from(said);
    if said == 0 || end > frame.len() || end < ip.end { frame.len() - ip.end } else { end - ip.end }
}

fn put(frame: &mut [u8], at: usize, value: u16) -> Result<(), Unfit> {
    let place = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut()).ok_or(Unfit::Range)?;
    *place = value.to_be_bytes();
    Ok(())
}

/// How a frame goes to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// As it is.
    Whole(Marks),
    /// In pieces.
    Segments(Segments),
}

/// What the guest is told of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Its checksum is open.
    pub csum_blank: bool,
    /// Its checksums are right, or open.
    pub validated: bool,
    /// It is uncut TCP.
    pub gso: Option<Gso>,
    /// The hash that the guest asked for.
    pub hash: Option<Hash>,
}

/// Makes a frame from the tap fit for a guest that takes `features`; under `headroom` (XDP) nothing may need a second slot.
///
/// A tap hands us what no guest can take: open checksums in VLAN-tagged frames and inside tunnels, uncut TCP in tagged frames.
/// netfront finds the checksum's place by itself, in untagged frames only, so those are finished here.
pub fn to_guest(
    vnet: Vnet,
    frame: &mut [u8],
    features: &VifFeatures,
    slot_len_bytes: usize,
) -> Result<ToGuest, Unfit> {
    let fits = features.sg || frame.len() <= slot_len_bytes;
    let Some(partial) = vnet.partial else {
        if vnet.gso.is_some() {
            return Err(Unfit::NoTransport);
        }
        let marks = Marks { validated: vnet.is_valid, ..Marks::default() };
        return if fits { Ok(ToGuest::Whole(marks)) } else { Err(Unfit::TooLong) };
    };
    let found = headers::parse(frame);
    let is_tagged = found.is_none_or(|f| f.is_tagged);
    let guest_finds = found.and_then(|f| f.ip.zip(f.transport)).filter(|(_, t)| {
        let (start, offset) = (usize::from(partial.start), usize::from(partial.offset));
        t.at == start && t.checksum_at() == start + offset
    });
    if let Some(gso) = vnet.gso {
        let (ip, transport) = guest_finds.ok_or(Unfit::NoTransport)?;
        if !transport.is_tcp || ip.is_v6 != gso.ipv6 {
            return Err(Unfit::OtherKind);
        }
        let takes = if gso.ipv6 {
            features.gso_tcpv6 && features.csum_ipv6
        } else {
            features.gso_tcpv4 && features.csum_ipv4
        };
        if takes && fits && !is_tagged {
            return Ok(ToGuest::Whole(Marks {
                csum_blank: true,
                validated: true,
                gso: Some(gso),
                ..Marks::default()
            }));
        }
        let segments = Segments::new(ip, transport, gso.size, frame.len());
        return if features.sg || segments.longest() <= slot_len_bytes {
            Ok(ToGuest::Segments(segments))
        } else {
            Err(Unfit::TooLong)
        };
    }
    if !fits {
        return Err(Unfit::TooLong);
    }
    let takes = |ip: Ip| if ip.is_v6 { features.csum_ipv6 } else { features.csum_ipv4 };
    if guest_finds.is_some_and(|(ip, _)| takes(ip)) && !is_tagged {
        return Ok(ToGuest::Whole(Marks { csum_blank: true, validated: true, ..Marks::default() }));
    }
    finish(frame, partial)?;
    Ok(ToGuest::Whole(Marks::default()))
}

/// A frame for the tap without an open checksum: what was left open is filled in.
#[must_use]
pub fn finished(vnet: Vnet, frame: &mut [u8]) -> Vnet {
    match vnet.partial.map(|partial| finish(frame, partial)) {
        Some(Ok(())) => Vnet::default(),
        _ => vnet,
    }
}

/// Fills an open checksum in. The place holds the pseudo header's sum.
fn finish(frame: &mut [u8], partial: Partial) -> Result<(), Unfit> {
    let (start, offset) = (usize::from(partial.start), usize::from(partial.offset));
    let sum = checksum::fold(checksum::add(0, frame.get(start..).ok_or(Unfit::Range)?));
    // Zero would say that there is none (UDP, RFC 768), and means the same as its complement elsewhere.
    put(frame, start + offset, if sum == 0xffff { 0xffff } else { !sum })
}

#[cfg(test)]
mod tests;
