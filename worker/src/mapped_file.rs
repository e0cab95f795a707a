//! A small file that this process alone maps and others only `pread`: what is stored here is in the file at once, and outlives
//! the process. Knows nothing of what stands in it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A whole file, mapped for reading: only loads are to be had of it.
#[derive(Debug)]
pub struct ReadOnlyFile(MappedFile);

impl ReadOnlyFile {
    /// The double word at `offset`, a multiple of 8 inside the file.
    #[must_use]
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.0.u64_at(offset).load(Ordering::Acquire)
    }
}

/// A whole file, mapped shared.
#[derive(Debug)]
pub struct MappedFile {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: words are reached as atomics, everything else by raw copies through `&mut self`.
unsafe impl Send for MappedFile {}
// SAFETY: `&self` gives atomics and copies out of ranges that only `&mut self` writes.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// Opens or creates `path`, readable by its owner alone, `len` bytes at least; what it held stays.
    pub fn open(path: &Path, len: usize) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(path)?;
        let wanted = u64::try_from(len).map_err(io::Error::other)?;
        if file.metadata()?.len() < wanted {
            file.set_len(wanted)?;
        }
        Self::map(&file, len, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Opens a file of somebody else's, `len` bytes at least, to read its words.
    pub fn open_read_only(path: &Path, len: usize) -> io::Result<ReadOnlyFile> {
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW).open(path)?;
        if file.metadata()?.len() < u64::try_from(len).map_err(io::Error::other)? {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "too short"));
        }
        Self::map(&file, len, libc::PROT_READ).map(ReadOnlyFile)
    }

    fn map(file: &File, len: usize, protection: libc::c_int) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping of a file that is at least `len` bytes long; it aliases no Rust object.
        let p =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(p.cast()).ok_or_else(|| io::Error::other("mmap at address 0"))?;
        Ok(Self { base, len })
    }

    /// Bytes mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a file without bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The word at `offset`, a multiple of 4 inside the file.
    #[must_use]
    pub fn u32_at(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len, "word inside the file");
        // SAFETY: in range (checked), aligned as the mapping is page-aligned, only ever accessed atomically or through
        // `&mut self`.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// The double word at `offset`, a multiple of 8 inside the file.
    #[must_use]
    pub fn u64_at(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "double word inside the file");
        // SAFETY: as in `u32_at`.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// Copies bytes out; the range is inside the file.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(offset.checked_add(out.len()).is_some_and(|end| end <= self.len), "range inside the file");
        // SAFETY: in range (checked); `out` is another object.
        unsafe { ptr::copy_nonoverlapping(self.base.add(offset).as_ptr(), out.as_mut_ptr(), out.len()) };
    }

    /// Copies bytes in; the range is inside the file.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len), "range inside the file");
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset).as_ptr(), bytes.len()) };
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The point of the file: a store is there for whoever opens it next, without any flush.
    #[test]
    fn outlives_its_mapping() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = MappedFile::open(&path, 4096).unwrap();
        file.u32_at(8).store(7, Ordering::Release);
        file.write(100, b"abc");
        drop(file);

        let again = MappedFile::open(&path, 8192).unwrap();
        let mut out = [0; 3];
        again.read(100, &mut out);

        assert_eq!((again.u32_at(8).load(Ordering::Acquire), &out, again.len()), (7, b"abc", 8192));
    }
}
