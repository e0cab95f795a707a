//! Cutting TCP into segments, for guests and frames that cannot take it whole. Pure, a segment at a time into the caller's memory.
//! Knows nothing of who needs it.

use crate::checksum;
use crate::headers::{self, Ip, TCP, Transport};

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// The cutting of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    ip: Ip,
    transport: Transport,
    /// Payload of each segment but the last.
    size: usize,
    frame_len: usize,
    /// Payload that is cut already.
    done: usize,
    number: u16,
}

impl Segments {
    /// For a frame of `frame_len` bytes with these headers; `size` is not 0.
    #[must_use]
    pub fn new(ip: Ip, transport: Transport, size: u16, frame_len: usize) -> Self {
        Self { ip, transport, size: usize::from(size.max(1)), frame_len, done: 0, number: 0 }
    }

    /// Bytes of the longest segment.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.frame_len.min(self.transport.end + self.size)
    }

    /// Writes the next segment of `frame` to the start of `out`, complete with checksums, and says how long it is. `None` when all
    /// are written, or if `out` is shorter than [`longest`](Self::longest).
    pub fn next(&mut self, frame: &[u8], out: &mut [u8]) -> Option<usize> {
        let header_len = self.transport.end;
        let payload = frame.get(header_len..self.frame_len)?;
        let rest = payload.get(self.done..)?;
        if rest.is_empty() {
            return None;
        }
        let payload_len = rest.len().min(self.size);
        let is_last = payload_len == rest.len();
        let out = out.get_mut(..header_len + payload_len)?;
        let (header, body) = out.split_at_mut(header_len);
        header.copy_from_slice(frame.get(..header_len)?);
        body.copy_from_slice(rest.get(..payload_len)?);
        self.mend(out, is_last)?;
        self.done += payload_len;
        self.number = self.number.wrapping_add(1);
        Some(out.len())
    }

    /// Lengths, identification, sequence number, flags, checksums.
    fn mend(&self, segment: &mut [u8], is_last: bool) -> Option<()> {
        let (ip, at) = (self.ip, self.transport.at);
        let end = segment.len();
        if ip.is_v6 {
            set16(segment, ip.at + 4, u16::try_from(end - ip.at - 40).ok()?)?;
        } else {
            set16(segment, ip.at + 2, u16::try_from(end - ip.at).ok()?)?;
            set16(segment, ip.at + 4, get16(segment, ip.at + 4)?.wrapping_add(self.number))?;
            set16(segment, ip.at + 10, 0)?;
            let sum = checksum::fold(checksum::add(0, segment.get(ip.at..ip.end)?));
            set16(segment, ip.at + 10, !sum)?;
        }
        let sequence: &mut [u8; 4] = segment.get_mut(at + 4..)?.first_chunk_mut()?;
        let done = u32::try_from(self.done).ok()?;
        *sequence = u32::from_be_bytes(*sequence).wrapping_add(done).to_be_bytes();
        let flags = segment.get_mut(at + 13)?;
        if !is_last {
            *flags &= !FIN_PSH;
        }
        if self.number > 0 {
            *flags &= !CWR;
        }
        set16(segment, at + 16, 0)?;
        let pseudo = checksum::pseudo_header(headers::addresses(segment, ip), TCP, end - at);
        let sum = checksum::fold(checksum::add(pseudo, segment.get(at..)?));
        set16(segment, at + 16, !sum)
    }
}

fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn set16(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}
