//! The system calls of [`super::Target`] that std has no name for: block device sizes, alignment of O_DIRECT, discards.
//! Knows nothing of policy.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

// linux/fs.h; `_IO(0x12, n)` has the same number on every architecture.
const BLKROGET: libc::c_ulong = 0x125e;
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKPBSZGET: libc::c_ulong = 0x127b;
const BLKSECDISCARD: libc::c_ulong = 0x127d;

/// How a range is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardKind {
    /// A hole in a file.
    PunchHole,
    /// `BLKDISCARD`
    Device,
    /// `BLKSECDISCARD`
    DeviceSecure,
}

pub(super) struct BlockSizes {
    pub(super) logical: u32,
    pub(super) physical: u32,
    pub(super) read_only: bool,
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn read_int(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<u32> {
    let mut value: libc::c_uint = 0;
    // SAFETY: each of these requests writes one int to the pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw mut value) })?;
    Ok(value)
}

pub(super) fn block_sizes(fd: BorrowedFd<'_>) -> io::Result<BlockSizes> {
    Ok(BlockSizes {
        logical: read_int(fd, BLKSSZGET)?,
        physical: read_int(fd, BLKPBSZGET)?,
        read_only: read_int(fd, BLKROGET)? != 0,
    })
}

/// The smallest unit of O_DIRECT on a file: the file system's word, or else what a read of the first bytes accepts.
pub(super) fn direct_alignment(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut out = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH names the open file; `out` is a whole statx.
    let done = unsafe {
        libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, out.as_mut_ptr())
    };
    if done == 0 {
        // SAFETY: zeroed at first and filled by the kernel; every bit pattern is a statx.
        let out = unsafe { out.assume_init() };
        if out.stx_mask & libc::STATX_DIOALIGN != 0 && out.stx_dio_offset_align != 0 {
            return Ok(out.stx_dio_offset_align.max(512));
        }
    }
    probe_alignment(fd)
}

fn probe_alignment(fd: BorrowedFd<'_>) -> io::Result<u32> {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let mut page = Page([0; 4096]);
    for len in [512u32, 1024, 2048, 4096] {
        // SAFETY: len <= 4096, the size of the buffer.
        let got = unsafe { libc::pread(fd.as_raw_fd(), page.0.as_mut_ptr().cast(), len as usize, 0) };
        if got >= 0 {
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    Err(io::ErrorKind::InvalidInput.into())
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

pub(super) fn punch_hole(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain numbers.
    check(unsafe { libc::fallocate64(fd.as_raw_fd(), mode, signed(offset)?, signed(len)?) })
}

pub(super) fn discard(fd: BorrowedFd<'_>, kind: DiscardKind, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    let request = match kind {
        DiscardKind::PunchHole => return punch_hole(fd, offset, len),
        DiscardKind::Device => BLKDISCARD,
        DiscardKind::DeviceSecure => BLKSECDISCARD,
    };
    // SAFETY: both requests read two u64 from the pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, range.as_ptr()) })
}

/// The kernel refuses a device that cannot (EOPNOTSUPP) before it looks at the range, so a range that is never valid asks
/// without erasing anything.
pub(super) fn secure_discard_works(fd: BorrowedFd<'_>) -> bool {
    let never_valid = [1u64, 1];
    // SAFETY: as in `discard`; an offset of 1 is not a multiple of 512 and cannot be carried out.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), BLKSECDISCARD as _, never_valid.as_ptr()) };
    done < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}
