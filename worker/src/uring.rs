//! A queue thread's io_uring: its only wait point and its only way to the disk. Created disabled, told the few operations it will
//! ever do and the files it may do them on, then enabled. Owns the memory its operations go to, so that nothing can be freed
//! under the kernel. Knows nothing of requests; an operation is known by its tag.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, register::Restriction};
use xenbus::memory::LocalMemory;

/// Place of a file in the table given to [`Uring::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIndex(pub u32);

/// An operation that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As given.
    pub tag: u64,
    /// Bytes, or an errno negated.
    pub result: i32,
    /// A poll that is still armed.
    pub more: bool,
}

/// Which way bytes go between a file and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rw {
    /// File to memory.
    Read,
    /// Memory to file.
    Write,
}

/// A queue's way to the disk, and its only wait point: [`Uring`], or in a test a disk that outlives whoever uses it.
pub trait Disk {
    /// Hands over the part of the registered memory that this ring's operations go to.
    fn give_memory(&mut self, part: LocalMemory);
    /// The memory given.
    #[must_use]
    fn memory(&self) -> Option<&LocalMemory>;
    /// Disk operations that have not ended; polls are not counted.
    #[must_use]
    fn in_flight(&self) -> u32;
    /// Moves `len` bytes between `offset` of a file and `local` of this ring's memory.
    fn transfer(
        &mut self,
        rw: Rw,
        file: FileIndex,
        offset: u64,
        local: usize,
        len: u32,
        tag: u64,
    ) -> io::Result<()>;
    /// Makes a file's data durable.
    fn fdatasync(&mut self, file: FileIndex, tag: u64) -> io::Result<()>;
    /// Gives a range of a file back to its file system; it reads as zeroes then.
    fn punch_hole(&mut self, file: FileIndex, offset: u64, len: u64, tag: u64) -> io::Result<()>;
    /// Completes with `tag` each time the file becomes readable, until a completion says `more: false`.
    fn poll(&mut self, file: FileIndex, tag: u64) -> io::Result<()>;
    /// Whether something has ended; a system call only if the kernel says that it has something to hand over.
    fn has_ended(&mut self) -> io::Result<bool>;
    /// Hands pushed operations to the kernel.
    fn submit(&mut self) -> io::Result<()>;
    /// Hands pushed operations to the kernel and waits for a completion, at most for `limit` (`None`: for ever).
    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()>;
    /// Takes what has ended so far, at most as much as `out` has room for without growing.
    fn completions(&mut self, out: &mut Vec<Completion>);
    /// Books a disk operation's completion; for polls it is not called.
    fn ended(&mut self);
}

/// Why a ring cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Switched off, or not in this kernel.
    #[error(
        "io_uring cannot be set up: {0} (kernel 5.11 or later is needed, \
         and `sysctl kernel.io_uring_disabled` 0)"
    )]
    Setup(io::Error),
    /// Its pages count against the limit on locked memory, which all processes of a user share.
    #[error(
        "io_uring cannot be set up: no locked memory is left (`ulimit -l`; 8192 is enough for a few disks, \
         splitd.service sets LimitMEMLOCK=infinity)"
    )]
    LockedMemory,
    /// A registration failed.
    #[error("io_uring: registering {what}: {source}")]
    Register {
        /// What was registered.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// One thread's ring.
pub struct Uring {
    ring: mem::ManuallyDrop<IoUring>,
    memory: mem::ManuallyDrop<Option<LocalMemory>>,
    memory_registered: bool,
    in_flight: u32,
    /// Not handed to the kernel yet.
    pushed: u32,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

/// So many operations are handed to the kernel at once: a disk begins with them while the next ones are prepared.
const SUBMIT_BATCH: u32 = 8;

const POLLIN: u32 = libc::POLLIN as u32;

impl Uring {
    /// Sets a ring up, disabled. `files` is all it may ever touch; `memory`, of which [`give_memory`](Self::give_memory) brings a
    /// part later, is registered if the memlock limit allows.
    pub fn new(entries: u32, files: &[BorrowedFd<'_>], memory: &LocalMemory) -> Result<Self, SetupError> {
        let ring = build(entries).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOMEM) => SetupError::LockedMemory,
            _ => SetupError::Setup(error),
        })?;
        let submitter = ring.submitter();
        let failed = |what| move |source| SetupError::Register { what, source };
        let fds: Vec<RawFd> = files.iter().map(|f| f.as_raw_fd()).collect();
        submitter.register_files(&fds).map_err(failed("files"))?;
        let memory_registered = register_memory(&ring, memory);
        submitter.register_restrictions(&mut restrictions()).map_err(failed("restrictions"))?;
        Ok(Self {
            ring: mem::ManuallyDrop::new(ring),
            memory: mem::ManuallyDrop::new(None),
            memory_registered,
            in_flight: 0,
            pushed: 0,
        })
    }

    /// Makes the calling thread the ring's owner, the only one that may use it from now on.
    pub fn enable(&self) -> Result<(), SetupError> {
        let failed = |source| SetupError::Register { what: "its thread", source };
        self.ring.submitter().register_enable_rings().map_err(failed)
    }

    /// True if disk operations go to registered pages (no page lookup for each).
    #[must_use]
    pub fn memory_registered(&self) -> bool {
        self.memory_registered
    }

    /// # Safety
    /// Memory named by `entry` stays valid until its completion.
    unsafe fn push(&mut self, entry: Entry, tag: u64) -> io::Result<()> {
        let entry = entry.user_data(tag).flags(Flags::FIXED_FILE);
        // SAFETY: the caller's promise.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit()?;
            // SAFETY: the caller's promise.
            unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::WouldBlock)?;
        }
        self.in_flight += 1;
        self.pushed += 1;
        if self.pushed >= SUBMIT_BATCH {
            self.submit()?;
        }
        Ok(())
    }
}

impl Disk for Uring {
    fn give_memory(&mut self, part: LocalMemory) {
        *self.memory = Some(part);
    }

    fn memory(&self) -> Option<&LocalMemory> {
        self.memory.as_ref()
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn transfer(
        &mut self,
        rw: Rw,
        file: FileIndex,
        offset: u64,
        local: usize,
        len: u32,
        tag: u64,
    ) -> io::Result<()> {
        let memory = self.memory.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let p = memory.address(local, len as usize).ok_or(io::ErrorKind::InvalidInput)?.as_ptr();
        let file = Fixed(file.0);
        let entry = match (rw, self.memory_registered) {
            (Rw::Read, true) => opcode::ReadFixed::new(file, p, len, 0).offset(offset).build(),
            (Rw::Write, true) => opcode::WriteFixed::new(file, p, len, 0).offset(offset).build(),
            (Rw::Read, false) => opcode::Read::new(file, p, len).offset(offset).build(),
            (Rw::Write, false) => opcode::Write::new(file, p, len).offset(offset).build(),
        };
        // SAFETY: the bytes are inside `memory` (checked), which this value owns and, in `drop`, leaks rather than frees
        // while an operation is in flight.
        unsafe { self.push(entry, tag) }
    }

    fn fdatasync(&mut self, file: FileIndex, tag: u64) -> io::Result<()> {
        let entry = opcode::Fsync::new(Fixed(file.0)).flags(FsyncFlags::DATASYNC).build();
        // SAFETY: no memory is involved.
        unsafe { self.push(entry, tag) }
    }

    fn punch_hole(&mut self, file: FileIndex, offset: u64, len: u64, tag: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let entry = opcode::Fallocate::new(Fixed(file.0), len).offset(offset).mode(mode).build();
        // SAFETY: no memory is involved.
        unsafe { self.push(entry, tag) }
    }

    fn poll(&mut self, file: FileIndex, tag: u64) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fixed(file.0), POLLIN).multi(true).build();
        // SAFETY: no memory is involved.
        unsafe { self.push(entry, tag)? };
        self.in_flight -= 1;
        Ok(())
    }

    fn has_ended(&mut self) -> io::Result<bool> {
        if self.ring.submission().taskrun() {
            soften(self.ring.submitter().submit_with_args(0, &SubmitArgs::new()))?;
        }
        Ok(!self.ring.completion().is_empty())
    }

    fn submit(&mut self) -> io::Result<()> {
        self.pushed = 0;
        soften(self.ring.submit())
    }

    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.pushed = 0;
        match limit {
            None => soften(self.ring.submit_and_wait(1)),
            Some(limit) => {
                let limit = Timespec::from(limit);
                soften(self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit)))
            }
        }
    }

    fn completions(&mut self, out: &mut Vec<Completion>) {
        let room = out.capacity() - out.len();
        for cqe in self.ring.completion().take(room) {
            let more = io_uring::cqueue::more(cqe.flags());
            out.push(Completion { tag: cqe.user_data(), result: cqe.result(), more });
        }
    }

    fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // While the kernel may still write to it, memory is leaked; the process is about to end anyway.
        if self.in_flight == 0 {
            // SAFETY: dropped once, here; the ring goes first.
            unsafe {
                mem::ManuallyDrop::drop(&mut self.ring);
                mem::ManuallyDrop::drop(&mut self.memory);
            }
        }
    }
}

/// The newest kernel's cheapest way first, then one that 5.11 knows.
fn build(entries: u32) -> io::Result<IoUring> {
    let completions = entries.saturating_mul(4);
    IoUring::builder()
        .setup_r_disabled()
        .setup_cqsize(completions)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries)
        .or_else(|_| IoUring::builder().setup_r_disabled().setup_cqsize(completions).build(entries))
}

fn register_memory(ring: &IoUring, memory: &LocalMemory) -> bool {
    let Some(base) = memory.address(0, memory.len()) else { return false };
    let all = libc::iovec { iov_base: base.as_ptr().cast(), iov_len: memory.len() };
    // SAFETY: the kernel pins these pages; even once unmapped here they are nobody else's while the ring lives.
    unsafe { ring.submitter().register_buffers(&[all]) }.is_ok()
}

fn restrictions() -> [Restriction; 9] {
    [
        Restriction::sqe_op(opcode::Read::CODE),
        Restriction::sqe_op(opcode::Write::CODE),
        Restriction::sqe_op(opcode::ReadFixed::CODE),
        Restriction::sqe_op(opcode::WriteFixed::CODE),
        Restriction::sqe_op(opcode::Fsync::CODE),
        Restriction::sqe_op(opcode::Fallocate::CODE),
        Restriction::sqe_op(opcode::PollAdd::CODE),
        Restriction::sqe_flags_allowed(Flags::FIXED_FILE.bits()),
        Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
    ]
}

/// Timeouts and interruptions are not errors, and a full completion queue is emptied by the caller's next step.
fn soften(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(e) => match e.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(e),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use super::*;

    fn ended(ring: &mut Uring) -> Completion {
        let mut out = Vec::with_capacity(4);
        ring.wait(Some(Duration::from_secs(10))).unwrap();
        ring.completions(&mut out);
        assert_eq!(out.len(), 1, "{out:?}");
        out[0]
    }

    /// Writes and reads go where they are told, through the registered part of the memory.
    #[test]
    fn moves_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        let whole = LocalMemory::new(8192).unwrap();
        let mut ring = Uring::new(8, &[file.as_fd()], &whole).unwrap();
        ring.enable().unwrap();
        ring.give_memory(whole.split(2).remove(1));
        assert!(ring.memory().unwrap().write(512, b"hello"));

        ring.transfer(Rw::Write, FileIndex(0), 100, 512, 5, 77).unwrap();
        let done = ended(&mut ring);
        ring.ended();

        assert_eq!(done, Completion { tag: 77, result: 5, more: false });
        let mut text = String::new();
        file.seek(std::io::SeekFrom::Start(100)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(ring.transfer(Rw::Read, FileIndex(0), 0, 4000, 97, 1).is_err(), "beyond the memory");
    }

    /// A poll reports and stays armed; a file outside of the table cannot be named.
    #[test]
    fn polls_again_and_again() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let memory = LocalMemory::new(4096).unwrap();
        let mut ring = Uring::new(8, &[reader.as_fd()], &memory).unwrap();
        ring.enable().unwrap();
        ring.poll(FileIndex(0), 5).unwrap();

        for _ in 0..2 {
            writer.write_all(b"x").unwrap();
            let done = ended(&mut ring);
            assert_eq!((done.tag, done.more), (5, true));
            reader.read_exact(&mut [0]).unwrap();
        }

        ring.fdatasync(FileIndex(9), 6).unwrap();
        assert_eq!(ended(&mut ring).result, -libc::EBADF);
        ring.ended();
    }
}
