//! One queue of the tap, or of the simulated wire: a frame a call, with its virtio header, never blocking. Knows nothing of what is in
//! a frame.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use worker::message::{Link, TAP_FD};
use worker::wake;

use crate::vnet::VNET_LEN;

/// `TUNSETOFFLOAD`
pub const SET_OFFLOAD: u32 = 0x4004_54d0;
/// `TUNSETQUEUE`
pub const SET_QUEUE: u32 = 0x4004_54d9;
/// `TUNSETCARRIER`
pub const SET_CARRIER: u32 = 0x4004_54e2;

const OFFLOAD_CSUM: libc::c_ulong = 1;
const OFFLOAD_TSO4: libc::c_ulong = 2;
const OFFLOAD_TSO6: libc::c_ulong = 4;
const DETACH_QUEUE: libc::c_short = 0x400;

/// What a call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// A frame of that many bytes, without its header.
    Frame(usize),
    /// Nothing: no frame waits, or there is no room for one. Wait until the file is ready.
    Blocked,
    /// The kernel has no use for this frame (its header makes no sense to it, or the tap is down): it is gone.
    Refused(i32),
}

/// A queue.
#[derive(Debug)]
pub struct TapQueue {
    file: OwnedFd,
    link: Link,
}

impl TapQueue {
    /// Takes over the queues that the parent left open from [`TAP_FD`] on.
    pub fn adopt(count: u16, link: Link) -> io::Result<Vec<Self>> {
        (0..RawFd::from(count)).map(|i| Self::adopt_one(TAP_FD + i, link)).collect()
    }

    /// A queue that is open already, and does not block.
    #[must_use]
    pub fn new(file: OwnedFd, link: Link) -> Self {
        Self { file, link }
    }

    fn adopt_one(fd: RawFd, link: Link) -> io::Result<Self> {
        // SAFETY: plain numbers; an error is the answer to a number that is not open.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        if flags < 0 {
            let why = io::Error::last_os_error();
            return Err(io::Error::new(why.kind(), format!("tap queue, open file {fd}: {why}")));
        }
        // SAFETY: open (checked), and named to this process as its own.
        unsafe {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK);
            Ok(Self::new(OwnedFd::from_raw_fd(fd), link))
        }
    }

    /// Reads a frame into `out`, its header into `header`. What does not fit is cut off, so `out` is longer than any frame.
    pub fn read(&self, header: &mut [u8; VNET_LEN], out: &mut [u8]) -> io::Result<Passed> {
        let mut parts = [
            libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() },
            libc::iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() },
        ];
        // SAFETY: both parts are exclusively borrowed for the call.
        let done = unsafe { libc::readv(self.file.as_raw_fd(), parts.as_mut_ptr(), 2) };
        match usize::try_from(done) {
            Ok(len) if len > VNET_LEN => Ok(Passed::Frame(len - VNET_LEN)),
            Ok(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end of the wire is gone")),
            Err(_) => Self::failed(),
        }
    }

    /// Whether a frame waits.
    pub fn has_frame(&self) -> io::Result<bool> {
        let [waits] = wake::readable([Some(self.as_fd())], Duration::ZERO)?;
        Ok(waits)
    }

    /// Writes a frame that begins with its header.
    pub fn write(&self, bytes: &[u8]) -> io::Result<Passed> {
        // SAFETY: the bytes are borrowed for the call. MSG_NOSIGNAL is not needed: SIGPIPE is ignored by Rust's start-up.
        let done = unsafe { libc::write(self.file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(done) {
            Ok(len) => Ok(Passed::Frame(len.saturating_sub(VNET_LEN))),
            Err(_) => Self::failed(),
        }
    }

    fn failed() -> io::Result<Passed> {
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => Ok(Passed::Blocked),
            Some(
                code @ (libc::EINVAL
                | libc::EIO
                | libc::EMSGSIZE
                | libc::EPIPE
                | libc::ECONNRESET
                | libc::ENOTCONN),
            ) => Ok(Passed::Refused(code)),
            _ => Err(error),
        }
    }

    /// What the tap may leave open: checksums, and TCP uncut.
    pub fn set_offload(&self, csum: bool, tso: bool) -> io::Result<()> {
        let flags = match (csum, tso) {
            (false, _) => 0,
            (true, false) => OFFLOAD_CSUM,
            (true, true) => OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6,
        };
        self.if_tap(|fd| {
            // SAFETY: this request takes its flags by value.
            unsafe { libc::ioctl(fd, libc::c_ulong::from(SET_OFFLOAD), flags) }
        })
    }

    /// The link is up, or not.
    pub fn set_carrier(&self, on: bool) -> io::Result<()> {
        let value = libc::c_int::from(on);
        self.if_tap(|fd| {
            // SAFETY: this request reads an int.
            unsafe { libc::ioctl(fd, libc::c_ulong::from(SET_CARRIER), &raw const value) }
        })
    }

    /// Takes the queue out of the tap's: frames go to the others.
    pub fn detach(&self) -> io::Result<()> {
        // SAFETY: `ifreq` is plain data, for which zeroes are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = DETACH_QUEUE;
        self.if_tap(|fd| {
            // SAFETY: this request reads an ifreq.
            unsafe { libc::ioctl(fd, libc::c_ulong::from(SET_QUEUE), &raw const request) }
        })
    }

    fn if_tap(&self, ask: impl Fn(RawFd) -> libc::c_int) -> io::Result<()> {
        if self.link == Link::Tap && ask(self.file.as_raw_fd()) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N22: what the kernel calls invalid is that frame's loss; what is no word on a frame is our trouble. An event counter has the word
    /// for a write of all ones, and is no tap.
    #[test]
    fn a_refused_frame_is_told_apart() {
        let counter = worker::wake::Bell::new().unwrap();
        let queue = TapQueue::new(counter.as_fd().try_clone_to_owned().unwrap(), Link::Wire);
        assert_eq!(queue.write(&[0xff; VNET_LEN + 60]).unwrap(), Passed::Refused(libc::EINVAL));
        let nothing = std::fs::File::open("/dev/null").unwrap();
        let queue = TapQueue::new(nothing.into(), Link::Wire);
        assert_eq!(queue.write(&[0; VNET_LEN + 60]).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
