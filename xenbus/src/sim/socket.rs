//! The system calls of the simulated host: packet sockets that carry descriptors, eventfds, epoll. Knows nothing of what
//! a message means.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Most descriptors beside one message.
const MAX_FDS: usize = 2;

fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn check_len(ret: isize) -> io::Result<usize> {
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: only called with a descriptor that the kernel has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all-zero bytes are a valid sockaddr_un.
    let mut addr: libc::sockaddr_un = unsafe { mem::zeroed() };
    addr.sun_family = u16::try_from(libc::AF_UNIX).map_err(|_| io::ErrorKind::Unsupported)?;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= addr.sun_path.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{}: a socket's path has at most {} bytes", path.display(), addr.sun_path.len() - 1),
        ));
    }
    for (to, from) in addr.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let len = u32::try_from(mem::size_of::<libc::sockaddr_un>()).map_err(|_| io::ErrorKind::Unsupported)?;
    Ok((addr, len))
}

fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    check(fd).map(owned)
}

/// A listening packet socket at `path`, which must not exist.
pub(super) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let fd = packet_socket()?;
    let (addr, len) = address(path)?;
    // SAFETY: `addr` is a valid sockaddr_un of `len` bytes and outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), len) })?;
    // SAFETY: plain system call.
    check(unsafe { libc::listen(fd.as_raw_fd(), 1024) })?;
    Ok(fd)
}

/// A connection to the listener at `path`.
pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let fd = packet_socket()?;
    let (addr, len) = address(path)?;
    // SAFETY: as in `listen`.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const addr).cast(), len) })
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    Ok(fd)
}

/// The next connection of a listener.
pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: null addresses are allowed.
    let fd = unsafe {
        libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    };
    check(fd).map(owned)
}

/// Room for the control message of [`MAX_FDS`] descriptors, aligned as the kernel wants it.
#[repr(align(8))]
struct Control([u8; 64]);

/// Sends one packet with up to two descriptors beside it.
pub(super) fn send(fd: BorrowedFd<'_>, words: &[u32], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(fds.len() <= MAX_FDS);
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; 64]);
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    if !fds.is_empty() {
        let len = u32::try_from(mem::size_of_val(fds)).map_err(|_| io::ErrorKind::InvalidInput)?;
        msg.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: pure arithmetic; two descriptors need 24 bytes of the 64.
        msg.msg_controllen = unsafe { libc::CMSG_SPACE(len) } as usize;
        // SAFETY: the buffer is aligned and has room for one header and `len` bytes of data.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const msg);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(len) as usize;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (i, fd) in fds.iter().enumerate() {
                data.add(i).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: all pointers in `msg` are valid for the call.
    check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const msg, libc::MSG_NOSIGNAL) })?;
    Ok(())
}

/// Receives one packet and the descriptors beside it; `None` when the other side is gone.
pub(super) fn receive(fd: BorrowedFd<'_>, max_words: usize) -> io::Result<Option<(Vec<u32>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0u8; max_words * 4];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = Control([0; 64]);
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.0.as_mut_ptr().cast();
    msg.msg_controllen = control.0.len();
    let len = loop {
        // SAFETY: all pointers in `msg` are valid for the call.
        match check_len(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut msg, libc::MSG_CMSG_CLOEXEC) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if len == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer; the macros stay inside msg_controllen, and each descriptor in an
    // SCM_RIGHTS message is new and ours.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const msg);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / mem::size_of::<RawFd>();
            fds.extend((0..count).map(|i| owned(data.add(i).read_unaligned())));
        }
    }
    if msg.msg_flags & libc::MSG_TRUNC != 0 || !len.is_multiple_of(4) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (words, _) = bytes.split_at(len);
    let words = words.chunks_exact(4).filter_map(|c| c.try_into().ok()).map(u32::from_ne_bytes).collect();
    Ok(Some((words, fds)))
}

/// A non-blocking eventfd.
#[derive(Debug)]
pub(super) struct EventFd(OwnedFd);

impl EventFd {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        check(fd).map(owned).map(Self)
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Makes it readable. A full counter is readable already.
    pub(super) fn signal(&self) -> io::Result<()> {
        let one = 1u64.to_ne_bytes();
        // SAFETY: 8 bytes, valid for the call.
        match check_len(unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) }) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            _ => Ok(()),
        }
    }

    /// Takes what was signalled; false if nothing was.
    pub(super) fn take(&self) -> io::Result<bool> {
        let mut count = [0u8; 8];
        // SAFETY: 8 bytes, valid for the call.
        match check_len(unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) }) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Waits until it is readable; false when the time is over.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, valid for the call.
        match check(unsafe { libc::poll(&raw mut poll, 1, timeout_ms) }) {
            Ok(n) => Ok(n > 0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An epoll set whose members are known by a number.
#[derive(Debug)]
pub(super) struct Epoll(OwnedFd);

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: plain system call.
        check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(owned).map(Self)
    }

    /// Reports `fd` as `number` while it is readable or hung up. Closing the descriptor removes it.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let events =
            u32::try_from(libc::EPOLLIN | libc::EPOLLRDHUP).map_err(|_| io::ErrorKind::Unsupported)?;
        let mut event = libc::epoll_event { events, u64: number };
        // SAFETY: `event` is valid for the call.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
        })?;
        Ok(())
    }

    /// Waits for ever; returns the numbers that are ready.
    pub(super) fn wait(&self) -> io::Result<Vec<u64>> {
        const BATCH: usize = 64;
        let mut events = [const { MaybeUninit::<libc::epoll_event>::uninit() }; BATCH];
        // SAFETY: room for BATCH events; the kernel initialises as many as it returns.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr().cast(), 64, -1) };
        match check(n) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(e) => Err(e),
            Ok(n) => {
                let n = usize::try_from(n).unwrap_or(0).min(BATCH);
                // SAFETY: the first n were initialised by the kernel.
                Ok(events.iter().take(n).map(|e| unsafe { e.assume_init() }.u64).collect())
            }
        }
    }
}
