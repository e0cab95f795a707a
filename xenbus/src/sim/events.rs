//! The backend's end of an event channel: an eventfd for polling, pending and mask words in a shared page, a connection
//! whose end gives the port up. Notifying and acknowledging do not involve the host. Knows nothing of rings.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::link::Link;
use super::memfd::Memfd;
use super::message::Request;
use super::socket::EventFd;
use super::table::{CHANNELS, ChannelWords};
use crate::hv::{EventChannel, Pending};
use crate::{DomId, Port};

/// An event channel device, restricted to one simulated guest.
#[derive(Debug)]
pub struct SimEvents {
    link: Link,
    words: ChannelWords,
    event: EventFd,
    bound: Option<Bound>,
}

#[derive(Debug)]
struct Bound {
    slot: usize,
    guest: EventFd,
}

impl SimEvents {
    pub(super) fn open(host: &Path, frontend: DomId) -> io::Result<Self> {
        let link = Link::connect(host)?;
        let event = EventFd::new()?;
        let (_, fds) = link.call(&Request::OpenEvents(frontend), &[event.as_fd()])?;
        let page = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { link, words: ChannelWords(Memfd::open(page)?), event, bound: None })
    }
}

impl AsFd for SimEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl EventChannel for SimEvents {
    fn bind(&mut self, remote: Port) -> io::Result<()> {
        let (words, fds) = self.link.call(&Request::Bind(remote), &[])?;
        let slot = words.first().map(|w| *w as usize).filter(|slot| *slot < CHANNELS);
        let (Some(slot), Some(guest)) = (slot, fds.into_iter().next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        self.bound = Some(Bound { slot, guest: EventFd::from_fd(guest) });
        Ok(())
    }

    fn notify(&self) -> io::Result<()> {
        self.bound.as_ref().ok_or(io::ErrorKind::NotConnected)?.guest.signal()
    }

    fn pending(&mut self) -> io::Result<Pending> {
        Ok(if self.event.take()? { Pending::Event } else { Pending::None })
    }

    fn ack(&mut self) -> io::Result<()> {
        let bound = self.bound.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        self.words.unmask(bound.slot, &self.event)
    }

    fn unbind(&mut self) -> io::Result<()> {
        if self.bound.take().is_none() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.link.call(&Request::Unbind, &[])?;
        self.event.take()?;
        Ok(())
    }
}
