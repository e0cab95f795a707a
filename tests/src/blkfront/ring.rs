//! One ring in guest memory with its grants and its event channel: raw slots in, answers out. Also what hostile frontends use.
//! Knows nothing of data pages, of ids or of what an answer means.

use std::io;
use std::time::Duration;

use xen_ring::{FrontRing, MAX_SLOT_LEN};
use xenbus::hv::Access;
use xenbus::sim::{GuestPages, GuestPort, GuestWindow, SimDomain};
use xenbus::{DomId, GrantRef, Port};

use super::grant_all;
use crate::blkif::{Abi, Response};

/// The backend broke the ring's rules, or the host failed.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `rsp_prod` claims too much.
    #[error("rsp_prod {rsp_prod} answers more than the {req_prod} asked")]
    Overrun {
        /// What the backend wrote.
        rsp_prod: u32,
        /// What we published.
        req_prod: u32,
    },
    /// The event channel.
    #[error("event channel: {0}")]
    Event(#[from] io::Error),
}

impl From<xen_ring::BadResponses> for RingError {
    fn from(e: xen_ring::BadResponses) -> Self {
        Self::Overrun { rsp_prod: e.rsp_prod, req_prod: e.req_prod }
    }
}

/// A ring.
#[derive(Debug)]
pub struct Ring {
    guest: SimDomain,
    abi: Abi,
    front: FrontRing<GuestWindow>,
    pages: GuestPages,
    refs: Vec<GrantRef>,
    port: GuestPort,
}

impl Ring {
    /// A fresh ring of `pages` pages, granted to dom0, with a port for it.
    pub fn new(guest: &SimDomain, abi: Abi, pages: u32) -> io::Result<Self> {
        let pages = guest.allocate(pages)?;
        let window = pages.window().ok_or(io::ErrorKind::InvalidInput)?;
        let front = FrontRing::new(window, abi.slot_len())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("{e:?}")))?;
        let refs = grant_all(guest, &pages, Access::ReadWrite)?;
        let port = guest.allocate_port(DomId::DOM0)?;
        Ok(Self { guest: guest.clone(), abi, front, pages, refs, port })
    }

    /// Slot layout.
    #[must_use]
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// Grants of its pages.
    #[must_use]
    pub fn refs(&self) -> &[GrantRef] {
        &self.refs
    }

    /// Its event channel.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port.port()
    }

    /// The guest's end of the event channel.
    #[must_use]
    pub fn events(&self) -> &GuestPort {
        &self.port
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

    /// Slots in all.
    #[must_use]
    pub fn nr_slots(&self) -> u32 {
        self.front.nr_slots()
    }

    /// Writes a request; nobody sees it yet.
    pub fn push(&mut self, slot: &[u8]) {
        self.front.push_request(slot);
    }

    /// Shows what was pushed, and tells the backend if it wants to be told.
    pub fn publish(&mut self) -> Result<(), RingError> {
        if self.front.publish() {
            self.port.notify()?;
        }
        Ok(())
    }

    /// The next answer, if there is one.
    pub fn answer(&mut self) -> Result<Option<Response>, RingError> {
        if self.front.unconsumed()? == 0 {
            return Ok(None);
        }
        let mut slot = [0; MAX_SLOT_LEN];
        let slot = slot.get_mut(..self.abi.slot_len()).unwrap_or_default();
        self.front.consume(slot);
        Ok(Some(Response::parse(self.abi, slot)))
    }

    /// Sleeps until the backend says that there is an answer; how that ended.
    pub fn sleep(&mut self, timeout: Duration) -> Result<Woken, RingError> {
        if self.front.final_check()? {
            return Ok(Woken::Awake);
        }
        if self.port.wait(timeout)? {
            return Ok(Woken::Event);
        }
        // An answer without an event, though one was asked for.
        Ok(if self.front.unconsumed()? > 0 { Woken::Forgotten } else { Woken::TimedOut })
    }

    /// The next answer, waiting for it at most `timeout`.
    pub fn wait_answer(&mut self, timeout: Duration) -> Result<Option<Response>, RingError> {
        let start = std::time::Instant::now();
        loop {
            if let Some(response) = self.answer()? {
                return Ok(Some(response));
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.sleep(left)?;
        }
    }

    /// Ends the ring's grants; those that are still mapped are returned.
    #[must_use]
    pub fn release(self) -> Vec<GrantRef> {
        self.refs.iter().copied().filter(|r| !self.guest.end_access(*r)).collect()
    }
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There was an answer already.
    Awake,
    /// By an event.
    Event,
    /// Nothing came, and nothing is there.
    TimedOut,
    /// Nothing came, though there is an answer that we asked to be told of.
    Forgotten,
}
