//! The ioctls of gntdev and evtchn as Linux publishes them (xen/gntdev.h, xen/evtchn.h): numbers, layouts, and the calls themselves. Knows
//! nothing of what they are used for.

use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;

/// `_IOC(_IOC_NONE, kind, number, len)`.
const fn request(kind: u8, number: u8, len: usize) -> u32 {
    assert!(len < 1 << 14);
    #[allow(clippy::cast_possible_truncation)] // checked above
    let len = len as u32;
    len << 16 | (kind as u32) << 8 | number as u32
}

const MAP_GRANT_REF: u32 = request(b'G', 0, 24);
const UNMAP_GRANT_REF: u32 = request(b'G', 1, size_of::<UnmapGrantRef>());
const GRANT_COPY: u32 = request(b'G', 8, size_of::<CopyCall>());
const BIND_INTERDOMAIN: u32 = request(b'E', 1, size_of::<BindInterdomain>());
const UNBIND: u32 = request(b'E', 3, size_of::<u32>());
const NOTIFY: u32 = request(b'E', 4, size_of::<u32>());
const RESET: u32 = request(b'E', 5, 0);
const RESTRICT_DOMID: u32 = request(b'E', 6, size_of::<u16>());

/// Words before the references in a `MAP_GRANT_REF`: count and padding, then the index that comes back.
pub(super) const MAP_HEADER_WORDS: usize = 2;

#[repr(C)]
struct UnmapGrantRef {
    index: u64,
    count: u32,
    pad: u32,
}

#[repr(C)]
struct BindInterdomain {
    remote_domain: u32,
    remote_port: u32,
}

#[repr(C)]
struct CopyCall {
    count: u32,
    segments: *mut CopySegment,
}

/// One end of a copy: an address, or a place in a granted page. Kept as the eight bytes that the kernel reads.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CopyEnd(pub(super) u64);

impl CopyEnd {
    pub(super) fn local(address: *mut u8) -> Self {
        Self(address as u64)
    }

    pub(super) fn foreign(gref: u32, offset: u16, domain: u16) -> Self {
        let [a, b, c, d] = gref.to_ne_bytes();
        let ([e, f], [g, h]) = (offset.to_ne_bytes(), domain.to_ne_bytes());
        Self(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// `GNTCOPY_source_gref`.
pub(super) const SOURCE_IS_FOREIGN: u16 = 1;
/// `GNTCOPY_dest_gref`.
pub(super) const DEST_IS_FOREIGN: u16 = 2;

/// `struct gntdev_grant_copy_segment`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct CopySegment {
    pub(super) source: CopyEnd,
    pub(super) dest: CopyEnd,
    pub(super) len: u16,
    pub(super) flags: u16,
    pub(super) status: i16,
}

const _: () = {
    assert!(size_of::<UnmapGrantRef>() == 16 && offset_of!(UnmapGrantRef, count) == 8);
    assert!(size_of::<BindInterdomain>() == 8 && offset_of!(BindInterdomain, remote_port) == 4);
    assert!(size_of::<CopyCall>() == 16 && offset_of!(CopyCall, segments) == 8);
    assert!(size_of::<CopySegment>() == 24 && offset_of!(CopySegment, dest) == 8);
    assert!(offset_of!(CopySegment, len) == 16 && offset_of!(CopySegment, flags) == 18);
    assert!(offset_of!(CopySegment, status) == 20);
    assert!(MAP_GRANT_REF == 0x0018_4700 && UNMAP_GRANT_REF == 0x0010_4701 && GRANT_COPY == 0x0010_4708);
    assert!(BIND_INTERDOMAIN == 0x0008_4501 && UNBIND == 0x0004_4503 && NOTIFY == 0x0004_4504);
    assert!(RESET == 0x4505 && RESTRICT_DOMID == 0x0002_4506);
};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Lays out a `MAP_GRANT_REF` of pages of `domain`.
pub(super) fn fill_map_call(call: &mut Vec<u64>, domain: u16, refs: impl ExactSizeIterator<Item = u32>) {
    let join = |low: u32, high: u32| {
        let ([a, b, c, d], [e, f, g, h]) = (low.to_ne_bytes(), high.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    };
    call.clear();
    // The kernel refuses more than 65,536 references; a count that does not fit is more than that.
    call.extend([join(u32::try_from(refs.len()).unwrap_or(u32::MAX), 0), 0]);
    call.extend(refs.map(|gref| join(u32::from(domain), gref)));
}

/// Reserves room for the pages in a call that [`fill_map_call`] laid out; returns its index, the offset for `mmap`.
pub(super) fn map_grant_refs(gntdev: &File, call: &mut [u64], count: u32) -> io::Result<u64> {
    let [head, _, refs @ ..] = call else { return Err(io::ErrorKind::InvalidInput.into()) };
    let [a, b, c, d, ..] = head.to_ne_bytes();
    if u32::from_ne_bytes([a, b, c, d]) != count || u32::try_from(refs.len()) != Ok(count) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the kernel reads the header (16 bytes) and 8 bytes for each of `count` references, and writes the index into
    // the second word; the slice is that long (checked), aligned to 8, and borrowed exclusively.
    check(unsafe { libc::ioctl(gntdev.as_raw_fd(), libc::Ioctl::from(MAP_GRANT_REF), call.as_mut_ptr()) })?;
    call.get(1).copied().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Gives back what [`map_grant_refs`] reserved. Nothing of it may be mapped any more.
pub(super) fn unmap_grant_refs(gntdev: &File, index: u64, count: u32) -> io::Result<()> {
    let mut call = UnmapGrantRef { index, count, pad: 0 };
    // SAFETY: the kernel reads 16 bytes from `call`, which lives until the call ends.
    check(unsafe { libc::ioctl(gntdev.as_raw_fd(), libc::Ioctl::from(UNMAP_GRANT_REF), &raw mut call) })?;
    Ok(())
}

/// Does all copies and sets a status for each; after an `Err` no status means anything.
///
/// # Safety
/// Every local end is valid for `len` bytes, for reads if it is the source and for writes if it is the destination, and no
/// Rust reference to these bytes exists.
pub(super) unsafe fn grant_copy(gntdev: &File, segments: &mut [CopySegment]) -> io::Result<()> {
    let count = u32::try_from(segments.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut call = CopyCall { count, segments: segments.as_mut_ptr() };
    // SAFETY: the kernel reads 16 bytes from `call` and reads and writes `count` segments, which are borrowed exclusively; for
    // the memory that these name the caller vouches.
    check(unsafe { libc::ioctl(gntdev.as_raw_fd(), libc::Ioctl::from(GRANT_COPY), &raw mut call) })?;
    Ok(())
}

/// Binds a new local port to a port of another domain, and returns it.
pub(super) fn bind_interdomain(evtchn: &File, remote_domain: u32, remote_port: u32) -> io::Result<u32> {
    let mut call = BindInterdomain { remote_domain, remote_port };
    // SAFETY: the kernel reads 8 bytes from `call`, which lives until the call ends.
    let port = check(unsafe {
        libc::ioctl(evtchn.as_raw_fd(), libc::Ioctl::from(BIND_INTERDOMAIN), &raw mut call)
    })?;
    u32::try_from(port).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Closes a local port.
pub(super) fn unbind(evtchn: &File, mut port: u32) -> io::Result<()> {
    // SAFETY: the kernel reads 4 bytes from `port`, which lives until the call ends.
    check(unsafe { libc::ioctl(evtchn.as_raw_fd(), libc::Ioctl::from(UNBIND), &raw mut port) })?;
    Ok(())
}

/// Sends an event through a local port.
pub(super) fn notify(evtchn: &File, mut port: u32) -> io::Result<()> {
    // SAFETY: as in `unbind`.
    check(unsafe { libc::ioctl(evtchn.as_raw_fd(), libc::Ioctl::from(NOTIFY), &raw mut port) })?;
    Ok(())
}

/// Empties the buffer of events and clears its overflow.
pub(super) fn reset(evtchn: &File) -> io::Result<()> {
    // SAFETY: this request has no argument.
    check(unsafe { libc::ioctl(evtchn.as_raw_fd(), libc::Ioctl::from(RESET), 0) })?;
    Ok(())
}

/// Lets the open file bind to ports of one domain only, for good.
pub(super) fn restrict(evtchn: &File, mut domain: u16) -> io::Result<()> {
    // SAFETY: the kernel reads 2 bytes from `domain`, which lives until the call ends.
    check(unsafe { libc::ioctl(evtchn.as_raw_fd(), libc::Ioctl::from(RESTRICT_DOMID), &raw mut domain) })?;
    Ok(())
}
