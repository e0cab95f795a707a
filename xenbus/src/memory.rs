//! A worker's own pages, into which grant copies and disk I/O go: anonymous, page-aligned, fixed in size. Never a Rust
//! reference to the bytes, because the kernel writes them while requests are in flight. Knows nothing of who uses which part.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use xen_ring::SharedMemory;

/// Private, page-aligned memory of a fixed length, zeroed at first, unmapped when its last part is dropped.
#[derive(Debug)]
pub struct LocalMemory {
    base: NonNull<u8>,
    len: usize,
    #[allow(dead_code)] // held, not read: keeps the range mapped
    mapping: Arc<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a `LocalMemory` alone reaches its range (parts never overlap); all access is by raw copies with bounds checks.
unsafe impl Send for LocalMemory {}
// SAFETY: a `Mapping` is only ever unmapped, by whoever drops the last reference.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`; nothing is read through a shared `Mapping`.
unsafe impl Sync for Mapping {}

impl LocalMemory {
    /// Maps `len` bytes, rounded up to whole pages.
    pub fn new(len: usize) -> io::Result<Self> {
        let len = len.max(1).next_multiple_of(xen_ring::PAGE_LEN);
        // SAFETY: a fresh anonymous private mapping aliases nothing.
        let p = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(p.cast()).ok_or_else(|| io::Error::other("mmap at address 0"))?;
        Ok(Self { base, len, mapping: Arc::new(Mapping { base, len }) })
    }

    /// Divides the area into `parts` equal, whole-page parts, each to be used by another thread; pages left over are used by
    /// nobody. Fewer parts come back if there are not that many pages.
    #[must_use]
    pub fn split(self, parts: usize) -> Vec<Self> {
        let part_len = self.len / xen_ring::PAGE_LEN / parts.max(1) * xen_ring::PAGE_LEN;
        let (parts, part_len) = if part_len == 0 { (1, self.len) } else { (parts, part_len) };
        (0..parts)
            .map(|i| Self {
                // SAFETY: (i + 1) * part_len <= self.len, so base + i * part_len is inside the mapping.
                base: unsafe { self.base.add(i * part_len) },
                len: part_len,
                mapping: Arc::clone(&self.mapping),
            })
            .collect()
    }

    /// Bytes in the area.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: an area has at least one page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the byte at `offset`, of which `len` more are inside the area; `None` if they are not.
    ///
    /// For system calls. Whoever passes it to the kernel keeps this value alive until the call has ended.
    #[must_use]
    pub fn address(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: offset <= self.len, inside or one past the mapping.
        Some(unsafe { self.base.add(offset) })
    }

    /// The bytes of a range; `None` if it is not inside the area. Not to be called while the kernel has an operation on that range.
    #[must_use]
    pub fn bytes_mut(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        let p = self.address(offset, len)?;
        // SAFETY: the range is inside the mapping and initialised; this value alone reaches it, and it is borrowed for as long
        // as the slice lives.
        Some(unsafe { std::slice::from_raw_parts_mut(p.as_ptr(), len) })
    }

    /// Copies bytes out; false (and nothing copied) if the range is not inside the area.
    #[must_use]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        let Some(p) = self.address(offset, out.len()) else { return false };
        // SAFETY: the range was checked; `out` is a distinct Rust object.
        unsafe { ptr::copy_nonoverlapping(p.as_ptr(), out.as_mut_ptr(), out.len()) };
        true
    }

    /// Copies bytes in; false (and nothing copied) if the range is not inside the area.
    #[must_use]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        let Some(p) = self.address(offset, bytes.len()) else { return false };
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), p.as_ptr(), bytes.len()) };
        true
    }

    /// Copies `len` bytes at `from` of another domain's pages to `offset`; false (and nothing copied) if either range is not
    /// inside its area. What the other domain writes meanwhile is its own affair: the bytes are data, nothing acts on them.
    #[must_use]
    pub fn copy_from<M: SharedMemory>(&self, offset: usize, pages: &M, from: usize, len: usize) -> bool {
        let (Some(to), Some(from)) = (self.address(offset, len), address_in(pages, from, len)) else {
            return false;
        };
        // SAFETY: both ranges were checked and stay valid while their owners are borrowed; a worker's own pages and another
        // domain's never overlap. The source is reached by raw pointer only.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), len) };
        true
    }

    /// Likewise the other way.
    #[must_use]
    pub fn copy_to<M: SharedMemory>(&self, offset: usize, pages: &M, to: usize, len: usize) -> bool {
        let (Some(from), Some(to)) = (self.address(offset, len), address_in(pages, to, len)) else {
            return false;
        };
        // SAFETY: as in `copy_from`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), len) };
        true
    }
}

fn address_in<M: SharedMemory>(pages: &M, offset: usize, len: usize) -> Option<NonNull<u8>> {
    if offset.checked_add(len)? > pages.len() {
        return None;
    }
    // SAFETY: offset <= pages.len(), inside or one past the area that `SharedMemory` promises.
    Some(unsafe { pages.base().add(offset) })
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mapping made in `new`, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
