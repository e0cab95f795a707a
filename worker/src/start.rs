//! How a worker comes by what splitd left open for it. Knows nothing of what follows.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

/// Makes all threads allocate from one heap. A heap for each would make the C library open files of /sys whenever a thread
/// allocates for the first time, which the sandbox forbids; nothing allocates often enough to miss them.
pub fn share_one_heap() {
    // SAFETY: plain numbers.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Takes the listening socket over; an error names what the number really is.
pub fn adopt_listener(fd: RawFd) -> io::Result<UnixListener> {
    let refuse = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("--listen-fd {fd}: {why}"));
    if fd <= 2 {
        return Err(refuse("3 or more is allowed"));
    }
    let mut listening: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: an int and its length.
    let done = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, (&raw mut listening).cast(), &raw mut len)
    };
    if done < 0 || listening == 0 {
        return Err(refuse("not a listening socket"));
    }
    // SAFETY: open (checked), and named to this process as its own.
    unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        Ok(UnixListener::from(OwnedFd::from_raw_fd(fd)))
    }
}
