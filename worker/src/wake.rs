//! Waking a thread that waits in the kernel: an eventfd to ring, and a wait for any of several files. Knows nothing of why.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// A bell that any thread can ring and one thread listens to.
#[derive(Clone, Debug)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// A silent one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes it readable.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // A full counter (EAGAIN) is readable already.
        // SAFETY: eight bytes, as an eventfd wants.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it silent again.
    pub fn hush(&self) {
        let mut count = [0u8; 8];
        // SAFETY: room for the eight bytes of an eventfd.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `files` is readable or has hung up, at most for `limit`; says which, in order.
pub fn readable<const N: usize>(
    files: [Option<BorrowedFd<'_>>; N],
    limit: Duration,
) -> io::Result<[bool; N]> {
    ready(files.map(|f| f.map(|f| (f, Want::Read))), Some(limit))
}

/// What a file is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// Either.
    Both,
}

/// Waits until one of `files` is what it is wanted to be or has hung up, at most for `limit` (`None`: for ever; less than a
/// millisecond counts as one); says which, in order.
pub fn ready<const N: usize>(
    files: [Option<(BorrowedFd<'_>, Want)>; N],
    limit: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = files.map(|f| {
        let events = match f.map(|(_, want)| want) {
            Some(Want::Write) => libc::POLLOUT,
            Some(Want::Both) => libc::POLLIN | libc::POLLOUT,
            _ => libc::POLLIN,
        };
        libc::pollfd { fd: f.map_or(-1, |(f, _)| f.as_raw_fd()), events, revents: 0 }
    });
    let limit_ms = limit.map_or(-1, |limit| {
        libc::c_int::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX)
    });
    let nr = libc::nfds_t::try_from(N).map_err(io::Error::other)?;
    // SAFETY: `polled` has `nr` entries; negative descriptors are passed over.
    if unsafe { libc::poll(polled.as_mut_ptr(), nr, limit_ms) } < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok([false; N]) } else { Err(error) };
    }
    Ok(polled.map(|p| p.revents != 0))
}
