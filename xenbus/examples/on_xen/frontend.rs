//! The other side, played by dom0 itself: pages granted through `/dev/xen/gntalloc`, ports opened through `/dev/xen/evtchn`. Knows
//! nothing of what is checked.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::{self, NonNull};

use xen_ring::PAGE_LEN;
use xenbus::{GrantRef, Port};

const ALLOC_GREF: u64 = 0x18_4705;
const DEALLOC_GREF: u64 = 0x10_4706;
const BIND_UNBOUND_PORT: u64 = 0x4_4502;
const NOTIFY: u64 = 0x4_4504;
const RESTRICT_DOMID: u64 = 0x2_4506;

fn open(path: &str) -> File {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    file.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Pages that dom0 grants to itself.
pub(crate) struct Granted {
    gntalloc: File,
    index: u64,
    base: NonNull<u8>,
    refs: Vec<GrantRef>,
}

impl Granted {
    pub(crate) fn new(pages: u32, writable: bool) -> Self {
        let gntalloc = open("/dev/xen/gntalloc");
        // domid and flags, count, index, references
        let mut call = vec![u32::from(writable) << 16, pages, 0, 0];
        call.resize(4 + pages as usize, 0);
        // SAFETY: the kernel reads 8 bytes and writes the index and `pages` references of 4 bytes, which fit.
        let done = unsafe { libc::ioctl(gntalloc.as_raw_fd(), ALLOC_GREF, call.as_mut_ptr()) };
        assert_eq!(done, 0, "gntalloc: {}", io::Error::last_os_error());
        let index = u64::from(call[3]) << 32 | u64::from(call[2]);
        let refs = call[4..].iter().copied().map(GrantRef).collect();
        let len = pages as usize * PAGE_LEN;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = gntalloc.as_raw_fd();
        // SAFETY: a new mapping aliases nothing.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, index.cast_signed())
        };
        assert_ne!(base, libc::MAP_FAILED, "gntalloc: {}", io::Error::last_os_error());
        Self { gntalloc, index, base: NonNull::new(base.cast()).unwrap(), refs }
    }

    pub(crate) fn refs(&self) -> &[GrantRef] {
        &self.refs
    }

    pub(crate) fn load(&self, at: usize) -> u8 {
        assert!(at < self.refs.len() * PAGE_LEN);
        load(self.base, at)
    }

    pub(crate) fn store(&self, at: usize, value: u8) {
        assert!(at < self.refs.len() * PAGE_LEN);
        store(self.base, at, value);
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let mut call = [self.index, self.refs.len() as u64];
        // SAFETY: the mapping made in `new`, unmapped once; the kernel reads 16 bytes.
        let done = unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.refs.len() * PAGE_LEN);
            libc::ioctl(self.gntalloc.as_raw_fd(), DEALLOC_GREF, call.as_mut_ptr())
        };
        assert_eq!(done, 0, "gntalloc: {}", io::Error::last_os_error());
    }
}

/// A byte of a shared mapping, which the caller knows to be inside of it.
pub(crate) fn load(base: NonNull<u8>, at: usize) -> u8 {
    // SAFETY: see above; volatile, as others write there.
    unsafe { base.add(at).read_volatile() }
}

pub(crate) fn store(base: NonNull<u8>, at: usize, value: u8) {
    // SAFETY: as in `load`.
    unsafe { base.add(at).write_volatile(value) };
}

/// A frontend's end of an event channel.
pub(crate) struct Peer {
    evtchn: File,
    port: u32,
}

impl Peer {
    pub(crate) fn new() -> Self {
        let evtchn = open("/dev/xen/evtchn");
        let mut remote_domain = 0_u32;
        // SAFETY: the kernel reads 4 bytes.
        let port = unsafe { libc::ioctl(evtchn.as_raw_fd(), BIND_UNBOUND_PORT, &raw mut remote_domain) };
        assert!(port > 0, "evtchn: {}", io::Error::last_os_error());
        Self { evtchn, port: port.cast_unsigned() }
    }

    pub(crate) fn port(&self) -> Port {
        Port(self.port)
    }

    pub(crate) fn notify(&self) {
        let mut port = self.port;
        // SAFETY: the kernel reads 4 bytes.
        let done = unsafe { libc::ioctl(self.evtchn.as_raw_fd(), NOTIFY, &raw mut port) };
        assert_eq!(done, 0, "evtchn: {}", io::Error::last_os_error());
    }

    /// Takes an event if there is one.
    pub(crate) fn drain(&mut self) -> bool {
        let mut port = [0; 4];
        self.evtchn.read_exact(&mut port).is_ok() && self.evtchn.write_all(&port).is_ok()
    }
}

pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}

pub(crate) fn restrict(fd: BorrowedFd<'_>, mut domain: u16) -> io::Result<()> {
    // SAFETY: the kernel reads 2 bytes.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), RESTRICT_DOMID, &raw mut domain) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
