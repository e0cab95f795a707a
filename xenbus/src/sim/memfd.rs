//! Memory that two processes of the simulated host see: a guest's pages, its grant table, its event channels' page. All
//! raw mappings of the simulation are here. Knows nothing of what the bytes mean.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use xen_ring::{PAGE_LEN, SharedMemory};

use super::grants::Pin;
use crate::memory::LocalMemory;

/// A memfd mapped as a whole, readable and writable.
#[derive(Debug)]
pub(super) struct Memfd {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned by this value; all access is atomic or a raw copy, never a Rust reference to plain bytes.
unsafe impl Send for Memfd {}
// SAFETY: as above; two threads that copy the same bytes get any mix of them, as two domains do.
unsafe impl Sync for Memfd {}

impl Memfd {
    /// New memory, all zero; takes no room before it is written.
    pub(super) fn new(name: &CStr, len: usize) -> io::Result<Self> {
        // SAFETY: `name` is a valid C string.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let size = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: plain system call on an owned descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), size) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Self::map(fd, len)
    }

    /// The same memory, from the descriptor that the host sent.
    pub(super) fn open(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: a zeroed stat is a valid out-parameter.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` outlives the call.
        if unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let len = usize::try_from(stat.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
        Self::map(fd, len)
    }

    fn map(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let base = map_at(ptr::null_mut(), len, 0, fd.as_fd(), 0, true)?;
        Ok(Self { fd, base, len })
    }

    /// Address of the byte at `offset`, of which `len` more are inside; `None` if they are not.
    pub(super) fn address(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: offset <= self.len, inside or one past the mapping.
        Some(unsafe { self.base.add(offset) })
    }

    /// The 32-bit word with this number, if there is one.
    pub(super) fn word32(&self, index: usize) -> Option<&AtomicU32> {
        let p = self.address(index.checked_mul(4)?, 4)?;
        // SAFETY: in range, aligned (base is a page), valid while `self` is borrowed; both processes use it atomically.
        Some(unsafe { p.cast().as_ref() })
    }

    /// The 64-bit word with this number, if there is one.
    pub(super) fn word64(&self, index: usize) -> Option<&AtomicU64> {
        let p = self.address(index.checked_mul(8)?, 8)?;
        // SAFETY: as in `word32`.
        Some(unsafe { p.cast().as_ref() })
    }

    /// Copies bytes out; false if the range is not inside.
    pub(super) fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        let Some(p) = self.address(offset, out.len()) else { return false };
        // SAFETY: the range was checked; `out` is private memory.
        unsafe { ptr::copy_nonoverlapping(p.as_ptr(), out.as_mut_ptr(), out.len()) };
        true
    }

    /// Copies bytes in; false if the range is not inside.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        let Some(p) = self.address(offset, bytes.len()) else { return false };
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), p.as_ptr(), bytes.len()) };
        true
    }

    /// Copies `len` bytes from here into local memory; false if either range is not inside.
    pub(super) fn copy_out(&self, offset: usize, local: &LocalMemory, at: usize, len: usize) -> bool {
        let (Some(from), Some(to)) = (self.address(offset, len), local.address(at, len)) else {
            return false;
        };
        // SAFETY: both ranges were checked; a private and a shared mapping never overlap.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), len) };
        true
    }

    /// Copies `len` bytes from local memory to here; false if either range is not inside.
    pub(super) fn copy_in(&self, offset: usize, local: &LocalMemory, at: usize, len: usize) -> bool {
        let (Some(to), Some(from)) = (self.address(offset, len), local.address(at, len)) else {
            return false;
        };
        // SAFETY: as in `copy_out`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), len) };
        true
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Memfd {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Pages of a guest, mapped side by side; unmapped, and then unpinned at the host, on drop.
#[derive(Debug)]
pub struct SimMapping {
    base: NonNull<u8>,
    len: usize,
    /// Dropped after the mapping is gone: the host may tell the guest that its pages are free.
    _pin: Pin,
}

// SAFETY: the mapping is owned by this value alone.
unsafe impl Send for SimMapping {}

impl SimMapping {
    /// Maps the given frames of `memory` in the order given.
    pub(super) fn map(memory: BorrowedFd<'_>, frames: &[u32], write: bool, pin: Pin) -> io::Result<Self> {
        let len = frames.len() * PAGE_LEN;
        let base = map_at(ptr::null_mut(), len, libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, memory, 0, write)?;
        let mapping = Self { base, len, _pin: pin };
        for (i, frame) in frames.iter().enumerate() {
            // SAFETY: i * PAGE_LEN < len, inside the reservation.
            let at = unsafe { base.add(i * PAGE_LEN) };
            // Replaces one page of our own reservation, which nothing uses yet.
            map_at(at.as_ptr().cast(), PAGE_LEN, libc::MAP_FIXED, memory, *frame as usize * PAGE_LEN, write)?;
        }
        Ok(mapping)
    }
}

// SAFETY: base is page-aligned; the mapping is valid for len bytes until drop, and neither changes. A read-only mapping
// is stored to by nobody who asked for `Access::ReadOnly`.
unsafe impl SharedMemory for SimMapping {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Drop for SimMapping {
    fn drop(&mut self) {
        // SAFETY: the whole reservation made in `map`, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Contiguous pages of a guest, as the guest itself sees them: for the front end of a ring.
#[derive(Clone, Debug)]
pub struct GuestWindow {
    _memory: Arc<Memfd>,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: points into a mapping that `memory` keeps alive and that is itself Send and Sync.
unsafe impl Send for GuestWindow {}
// SAFETY: as above.
unsafe impl Sync for GuestWindow {}

impl GuestWindow {
    /// `len` bytes from `offset`; `None` if they are not inside or not page-aligned.
    pub(super) fn new(memory: Arc<Memfd>, offset: usize, len: usize) -> Option<Self> {
        if !offset.is_multiple_of(PAGE_LEN) {
            return None;
        }
        let base = memory.address(offset, len)?;
        Some(Self { _memory: memory, base, len })
    }
}

// SAFETY: base is page-aligned, inside a mapping that lives as long as `memory`, and neither value changes.
unsafe impl SharedMemory for GuestWindow {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }
}

fn map_at(
    at: *mut libc::c_void,
    len: usize,
    flags: libc::c_int,
    fd: BorrowedFd<'_>,
    offset: usize,
    write: bool,
) -> io::Result<NonNull<u8>> {
    let anonymous = flags & libc::MAP_ANONYMOUS != 0;
    let share = if anonymous { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
    let protection = match (anonymous, write) {
        (true, _) => libc::PROT_NONE,
        (false, true) => libc::PROT_READ | libc::PROT_WRITE,
        (false, false) => libc::PROT_READ,
    };
    let raw = if anonymous { -1 } else { fd.as_raw_fd() };
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: a fresh mapping, or (MAP_FIXED, from `Pages::map` alone) one over our own unused reservation.
    let p = unsafe { libc::mmap(at, len, protection, share | flags, raw, offset) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(p.cast()).ok_or_else(|| io::Error::other("mmap at address 0"))
}
