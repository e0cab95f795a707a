//! The control ring of an interface: one order at a time, as Windows' driver does it, each answer checked. Knows nothing of what an order
//! does.

use std::time::Duration;

use xenbus::hv::Access;
use xenbus::sim::{GuestPages, GuestPort, SimDomain};
use xenbus::{DomId, GrantRef};

use super::FrontError;
use super::ring::Ring;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// `XEN_NETIF_CTRL_TYPE_*`
pub mod kind {
    /// `GET_HASH_FLAGS`
    pub const GET_FLAGS: u16 = 1;
    /// `SET_HASH_FLAGS`
    pub const SET_FLAGS: u16 = 2;
    /// `SET_HASH_KEY`
    pub const SET_KEY: u16 = 3;
    /// `GET_HASH_MAPPING_SIZE`
    pub const GET_SIZE: u16 = 4;
    /// `SET_HASH_MAPPING_SIZE`
    pub const SET_SIZE: u16 = 5;
    /// `SET_HASH_MAPPING`
    pub const SET_MAPPING: u16 = 6;
    /// `SET_HASH_ALGORITHM`
    pub const SET_ALGORITHM: u16 = 7;
    /// `GET_GREF_MAPPING_SIZE`
    pub const GET_PAGES: u16 = 8;
    /// `ADD_GREF_MAPPING`
    pub const ADD_PAGES: u16 = 9;
    /// `DEL_GREF_MAPPING`
    pub const REMOVE_PAGES: u16 = 10;
}

/// `XEN_NETIF_CTRLF_GREF_readonly`
pub const READ_ONLY: u16 = 1;

/// `XEN_NETIF_CTRL_STATUS_*`
pub mod status {
    /// Done.
    pub const SUCCESS: u32 = 0;
    /// Not here.
    pub const NOT_SUPPORTED: u32 = 1;
    /// A value that is not allowed.
    pub const INVALID_PARAMETER: u32 = 2;
}

fn count(pages: &[(GrantRef, u16)]) -> u32 {
    u32::try_from(pages.len()).unwrap_or(u32::MAX)
}

/// An order in its slot.
#[must_use]
pub fn order(id: u16, kind: u16, data: [u32; 3]) -> [u8; 16] {
    let mut slot = [0; 16];
    slot[..2].copy_from_slice(&id.to_le_bytes());
    slot[2..4].copy_from_slice(&kind.to_le_bytes());
    for (place, word) in slot[4..].chunks_exact_mut(4).zip(data) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    slot
}

/// A list of pages, each with its flags; the statuses hold what nobody has to look at.
#[must_use]
pub fn list(pages: &[(GrantRef, u16)]) -> Vec<u8> {
    let entry = |&(gref, flags): &(GrantRef, u16)| {
        let ([a, b, c, d], [e, f]) = (gref.0.to_le_bytes(), flags.to_le_bytes());
        [a, b, c, d, e, f, 0xaa, 0xaa]
    };
    pages.iter().flat_map(entry).collect()
}

/// The ring and a page for keys, mappings and lists.
#[derive(Debug)]
pub struct Control {
    guest: SimDomain,
    /// The ring.
    pub ring: Ring<16>,
    /// Its event channel.
    pub port: GuestPort,
    page: GuestPages,
    gref: GrantRef,
    next_id: u16,
}

impl Control {
    /// A fresh one.
    pub fn new(guest: &SimDomain) -> std::io::Result<Self> {
        let page = guest.allocate(1)?;
        Ok(Self {
            guest: guest.clone(),
            ring: Ring::new(guest)?,
            port: guest.allocate_port(DomId::DOM0)?,
            gref: guest.grant(page.frame(0), DomId::DOM0, Access::ReadWrite)?,
            page,
            next_id: 0xfffe,
        })
    }

    /// The nodes that show it.
    #[must_use]
    pub fn nodes(&self) -> [(String, String); 2] {
        [
            ("ctrl-ring-ref".to_owned(), self.ring.gref().to_string()),
            ("event-channel-ctrl".to_owned(), self.port.port().to_string()),
        ]
    }

    /// The page's grant, once it holds these bytes.
    #[must_use]
    pub fn with_page(&self, bytes: &[u8]) -> GrantRef {
        assert!(self.page.write(0, bytes));
        self.gref
    }

    /// Has a queue's pages mapped; the answer's status.
    pub fn add_pages(&mut self, queue: u32, pages: &[(GrantRef, u16)]) -> Result<u32, FrontError> {
        let gref = self.with_page(&list(pages)).0;
        let (status, data) = self.ask(kind::ADD_PAGES, [queue, gref, count(pages)])?;
        if data != 0 {
            return Err(FrontError::Backend(format!("pages added, and {data} in the answer")));
        }
        Ok(status)
    }

    /// Has them unmapped; the answer's status and number, and each one's status, if they are not what they were before.
    pub fn remove_pages(
        &mut self,
        queue: u32,
        pages: &[(GrantRef, u16)],
    ) -> Result<(u32, u32, Vec<u16>), FrontError> {
        let sent = list(pages);
        let gref = self.with_page(&sent).0;
        let (status, data) = self.ask(kind::REMOVE_PAGES, [queue, gref, count(pages)])?;
        let mut bytes = vec![0; sent.len()];
        assert!(self.page.read(0, &mut bytes));
        let mut statuses = Vec::new();
        for (found, sent) in bytes.as_chunks::<8>().0.iter().zip(sent.as_chunks::<8>().0) {
            let [rest @ .., low, high] = found;
            if rest != &sent[..6] {
                return Err(FrontError::Backend(format!("entry {sent:?} came back as {found:?}")));
            }
            statuses.push(u16::from_le_bytes([*low, *high]));
        }
        Ok((status, data, statuses))
    }

    /// Gives an order and waits for its answer: status and data.
    pub fn ask(&mut self, kind: u16, data: [u32; 3]) -> Result<(u32, u32), FrontError> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.ring.push(&order(id, kind, data));
        if self.ring.publish() {
            self.port.notify()?;
        }
        let slot = loop {
            let broken = |why: crate::blkfront::RingError| FrontError::Backend(why.to_string());
            if let Some((_, slot)) = self.ring.answer().map_err(broken)? {
                break slot;
            }
            if !self.ring.final_check().map_err(broken)? && !self.port.wait(PATIENCE)? {
                return Err(FrontError::Backend(format!("order {kind} {data:?} has no answer")));
            }
        };
        let [i0, i1, k0, k1, s0, s1, s2, s3, d0, d1, d2, d3, rest @ ..] = slot;
        if [i0, i1] != id.to_le_bytes() || [k0, k1] != kind.to_le_bytes() || rest != [0; 4] {
            return Err(FrontError::Backend(format!("order {id} of type {kind} is answered {slot:?}")));
        }
        Ok((u32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes([d0, d1, d2, d3])))
    }

    /// Ends its grants; how many are still mapped.
    #[must_use]
    pub fn release(self) -> usize {
        usize::from(!self.ring.release()) + usize::from(!self.guest.end_access(self.gref))
    }
}
