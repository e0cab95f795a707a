//! A client's connection to the host: one question, one answer. The connection's life is what the host counts mappings
//! and bound ports by: it ends with the process, however that ends. Knows nothing of what is asked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::message::{MAX_WORDS, Reply, Request};
use super::socket;

#[derive(Debug)]
pub(super) struct Link(Mutex<OwnedFd>);

/// An answer: its words and the descriptors beside them.
pub(super) type Answer = (Vec<u32>, Vec<OwnedFd>);

impl Link {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        socket::connect(path).map(|fd| Self(Mutex::new(fd)))
    }

    /// Asks and waits for the answer.
    pub(super) fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<Answer> {
        let fd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        socket::send(fd.as_fd(), &request.encode(), fds)?;
        let (words, fds) = socket::receive(fd.as_fd(), MAX_WORDS)?.ok_or(io::ErrorKind::ConnectionReset)?;
        match Reply::decode(&words) {
            Some(Reply::Done(words)) => Ok((words, fds)),
            Some(Reply::Failed(errno)) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
