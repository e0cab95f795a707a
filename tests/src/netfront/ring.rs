//! One ring of one page in guest memory with its grant: raw slots in, answers out. Also what hostile frontends use. Knows nothing of
//! event channels, of ids or of what an answer means.

use std::io;

use xen_ring::FrontRing;
use xenbus::hv::Access;
use xenbus::sim::{GuestPages, GuestWindow, SimDomain};
use xenbus::{DomId, GrantRef};

use crate::blkfront::RingError;

/// A ring whose slots have `N` bytes.
#[derive(Debug)]
pub struct Ring<const N: usize> {
    guest: SimDomain,
    front: FrontRing<GuestWindow>,
    pages: GuestPages,
    gref: GrantRef,
}

impl<const N: usize> Ring<N> {
    /// A fresh ring, granted to dom0.
    pub fn new(guest: &SimDomain) -> io::Result<Self> {
        let pages = guest.allocate(1)?;
        let window = pages.window().ok_or(io::ErrorKind::InvalidInput)?;
        let front = FrontRing::new(window, N)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("{e:?}")))?;
        let gref = guest.grant(pages.frame(0), DomId::DOM0, Access::ReadWrite)?;
        Ok(Self { guest: guest.clone(), front, pages, gref })
    }

    /// The grant of its page.
    #[must_use]
    pub fn gref(&self) -> GrantRef {
        self.gref
    }

    /// Its memory, for those who write where a frontend must not.
    #[must_use]
    pub fn pages(&self) -> &GuestPages {
        &self.pages
    }

    /// Slots that are free.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.front.free()
    }

    /// Writes a request and says its index; nobody sees it yet.
    pub fn push(&mut self, slot: &[u8]) -> u32 {
        self.front.push_request(slot)
    }

    /// Shows what was pushed; true if the backend wants to be told.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        self.front.publish()
    }

    /// Answers that wait.
    pub fn unconsumed(&self) -> Result<u32, RingError> {
        Ok(self.front.unconsumed()?)
    }

    /// The next answer and its index, if there is one.
    pub fn answer(&mut self) -> Result<Option<(u32, [u8; N])>, RingError> {
        if self.front.unconsumed()? == 0 {
            return Ok(None);
        }
        let mut slot = [0; N];
        let index = self.front.consume(&mut slot);
        Ok(Some((index, slot)))
    }

    /// Asks to be told of the next answer; true if it is there already.
    pub fn final_check(&mut self) -> Result<bool, RingError> {
        Ok(self.front.final_check()?)
    }

    /// Ends the ring's grant; false if it is still mapped.
    #[must_use]
    pub fn release(self) -> bool {
        self.guest.end_access(self.gref)
    }
}
