//! The fence between a worker and whatever of a dead predecessor's I/O the kernel still holds: an exclusive lock on a byte of
//! the target far beyond any disk's end, owned by the open file. An operation in flight keeps its file open, so the lock is
//! granted only when the last one has ended. Knows nothing of requests.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

// `struct flock` has them as i16; both are 0 or 1 on Linux.
#[allow(clippy::cast_possible_truncation)]
const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

/// Which device of which virtual machine: the byte that is locked. Other devices on the same target lock other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceKey(i64);

impl FenceKey {
    /// For a device of a virtual machine, wherever and under whatever domain number it runs.
    #[must_use]
    pub fn new(vm_uuid: &str, devid: u32) -> Self {
        // FNV-1a: the same value in every build, now and later.
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in vm_uuid.bytes().chain([b'/']).chain(devid.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Self((1i64 << 62) + (hash >> 3).cast_signed())
    }
}

/// Takes the lock if nobody holds it; true if it is ours now. `file` is open for writing and never shared with another process.
pub fn try_lock(file: BorrowedFd<'_>, key: FenceKey) -> io::Result<bool> {
    // SAFETY: `flock` is plain data, for which zeroes are a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence) = (WRITE_LOCK, FROM_START);
    lock.l_start = key.0;
    lock.l_len = 1;
    // SAFETY: the pointer is valid for the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES | libc::EINTR) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::fd::AsFd;

    use super::*;

    /// Two opens of one target by the same device exclude each other until the last close; another device does not wait.
    #[test]
    fn excludes_the_same_device_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
        let (first, second) = (open(), open());
        let key = FenceKey::new("5d0a…", 51712);

        assert!(try_lock(first.as_fd(), key).unwrap());
        assert!(!try_lock(second.as_fd(), key).unwrap());
        assert!(try_lock(second.as_fd(), FenceKey::new("5d0a…", 51728)).unwrap());
        drop(first);
        assert!(try_lock(second.as_fd(), key).unwrap());
    }
}
