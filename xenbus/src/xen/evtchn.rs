//! Event channels to one guest by `/dev/xen/evtchn`. A port that was read is masked until it is written back. Knows nothing of what an
//! event means.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use super::abi;
use crate::hv::{EventChannel, Pending};
use crate::{DomId, Port};

/// Ports read in one call: one is bound, so more than one at a time are left over from before.
const PORTS_READ: usize = 8;
const PORT_LEN: usize = size_of::<u32>();

/// An open event channel device.
#[derive(Debug)]
pub struct Events {
    evtchn: File,
    frontend: DomId,
    /// Our end.
    pub(super) bound: Option<u32>,
}

impl Events {
    /// Restricts the open device to `frontend`; dom0 cannot be named in that.
    pub(super) fn new(evtchn: File, frontend: DomId) -> io::Result<Self> {
        if frontend != DomId::DOM0 {
            abi::restrict(&evtchn, frontend.0)?;
        }
        Ok(Self::unrestricted(evtchn, frontend))
    }

    pub(super) fn unrestricted(evtchn: File, frontend: DomId) -> Self {
        Self { evtchn, frontend, bound: None }
    }

    fn port(&self) -> io::Result<u32> {
        self.bound.ok_or_else(|| io::Error::new(ErrorKind::NotConnected, "no event channel is bound"))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.evtchn.as_fd()
    }
}

impl EventChannel for Events {
    fn bind(&mut self, remote: Port) -> io::Result<()> {
        if self.bound.is_some() {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "an event channel is bound already"));
        }
        self.bound = Some(abi::bind_interdomain(&self.evtchn, u32::from(self.frontend.0), remote.0)?);
        Ok(())
    }

    fn notify(&self) -> io::Result<()> {
        abi::notify(&self.evtchn, self.port()?)
    }

    fn pending(&mut self) -> io::Result<Pending> {
        let mut ports = [0; PORTS_READ * PORT_LEN];
        let len = match (&self.evtchn).read(&mut ports) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Pending::None);
            }
            Err(error) if error.raw_os_error() == Some(libc::EFBIG) => {
                abi::reset(&self.evtchn)?;
                return Ok(Pending::Overflow);
            }
            Err(error) => return Err(error),
        };
        let read = ports.get(..len).unwrap_or_default();
        let is_ours = |port: &[u8; PORT_LEN]| self.bound == Some(u32::from_ne_bytes(*port));
        Ok(if read.as_chunks().0.iter().any(is_ours) { Pending::Event } else { Pending::None })
    }

    fn ack(&mut self) -> io::Result<()> {
        let port = self.port()?.to_ne_bytes();
        match (&self.evtchn).write(&port)? {
            PORT_LEN => Ok(()),
            _ => Err(ErrorKind::WriteZero.into()),
        }
    }

    fn unbind(&mut self) -> io::Result<()> {
        let port = self.port()?;
        self.bound = None;
        abi::unbind(&self.evtchn, port)
    }
}
