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
}

/// `XEN_NETIF_CTRL_STATUS_*`
pub mod status {
    /// Done.
    pub const SUCCESS: u32 = 0;
    /// Not here.
    pub const NOT_SUPPORTED: u32 = 1;
    /// A value that is not allowed.
    pub const INVALID_PARAMETER: u32 = 2;
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

/// The ring and a page for keys and mappings.
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
            gref: guest.grant(page.frame(0), DomId::DOM0, Access::ReadOnly)?,
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
