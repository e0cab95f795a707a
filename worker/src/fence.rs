//! The fence between a worker and whatever of a dead predecessor's I/O the kernel still holds: a lock on a byte of the target far
//! beyond any disk's end, owned by the open file. An operation in flight keeps its file open, so the lock is granted only when the
//! last one has ended. Then all files of the predecessor's io_uring are closed, its event channel among them, which nobody else can
//! bind before. Knows nothing of requests.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

// `struct flock` has them as i16; all are 0 to 2 on Linux.
#[allow(clippy::cast_possible_truncation)]
const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const READ_LOCK: libc::c_short = libc::F_RDLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const UNLOCKED: libc::c_short = libc::F_UNLCK as libc::c_short;
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

/// How the target is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading and writing.
    ReadWrite,
    /// For reading: its lock is one that others may have too, so it is asked first whether anybody does.
    ReadOnly,
}

/// Takes the lock if nobody holds it; true if it is ours now. `file` is never shared with another process.
pub fn try_lock(file: BorrowedFd<'_>, open: Open, key: FenceKey) -> io::Result<bool> {
    if open == Open::ReadWrite {
        return Ok(ask(file, libc::F_OFD_SETLK, WRITE_LOCK, key)?.is_some());
    }
    // Whether a writer might lock it may be asked by any reader.
    if ask(file, libc::F_OFD_GETLK, WRITE_LOCK, key)? != Some(UNLOCKED) {
        return Ok(false);
    }
    Ok(ask(file, libc::F_OFD_SETLK, READ_LOCK, key)?.is_some())
}

/// What the kernel says of a lock on that byte: the lock there is now, or `None` if somebody else has one.
fn ask(
    file: BorrowedFd<'_>,
    how: libc::c_int,
    kind: libc::c_short,
    key: FenceKey,
) -> io::Result<Option<libc::c_short>> {
    // SAFETY: `flock` is plain data, for which zeroes are a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence) = (kind, FROM_START);
    lock.l_start = key.0;
    lock.l_len = 1;
    // SAFETY: the pointer is valid for the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), how, &raw mut lock) } == 0 {
        return Ok(Some(lock.l_type));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::fd::AsFd;

    use super::*;

    fn excludes(how: Open) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || OpenOptions::new().read(true).write(how == Open::ReadWrite).open(file.path()).unwrap();
        let (first, second) = (open(), open());
        let key = FenceKey::new("5d0a…", 51712);

        assert!(try_lock(first.as_fd(), how, key).unwrap());
        assert!(!try_lock(second.as_fd(), how, key).unwrap());
        assert!(try_lock(second.as_fd(), how, FenceKey::new("5d0a…", 51728)).unwrap());
        drop(first);
        assert!(try_lock(second.as_fd(), how, key).unwrap());
    }

    /// Two opens of one target by the same device exclude each other until the last close; another device does not wait.
    #[test]
    fn excludes_the_same_device_only() {
        excludes(Open::ReadWrite);
    }

    /// The same where the target is read-only: a dead worker's reads keep its event channel, which its successor has to bind.
    #[test]
    fn excludes_readers_too() {
        excludes(Open::ReadOnly);
    }
}
