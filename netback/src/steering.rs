//! The tap's choice of a queue for each frame to the guest: a program in the kernel over words that this process maps, so that a
//! guest's new hash takes a few stores and no privilege. Without the right to load one there is none. Knows nothing of what the words
//! mean.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use crate::hash::NR_WORDS;

mod program;

/// `TUNSETSTEERINGEBPF`
pub(crate) const SET_STEERING: u32 = 0x8004_54e0;

const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_MMAPABLE: u32 = 1 << 10;
const PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// The words that frames are hashed by, shared with the kernel's program if there is one.
#[derive(Debug)]
pub(crate) struct Words(Memory);

#[derive(Debug)]
enum Memory {
    Private(Box<[AtomicU32]>),
    Mapped(NonNull<AtomicU32>),
}

// SAFETY: the mapping lives as long as this and is reached as atomic words only.
unsafe impl Send for Words {}
// SAFETY: likewise.
unsafe impl Sync for Words {}

const MAPPED_LEN: usize = (NR_WORDS * 4).next_multiple_of(4096);

impl Words {
    /// For a link that chooses queues by itself.
    pub(crate) fn private() -> Self {
        Self(Memory::Private((0..NR_WORDS).map(|_| AtomicU32::new(0)).collect()))
    }

    fn mapped(map: &OwnedFd) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping of the array's one value; it aliases no Rust object.
        let p = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), MAPPED_LEN, access, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(p.cast()).ok_or_else(|| io::Error::other("mmap at address 0"))?;
        Ok(Self(Memory::Mapped(words)))
    }
}

impl std::ops::Deref for Words {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        match &self.0 {
            Memory::Private(words) => words,
            // SAFETY: `NR_WORDS` words are mapped, page-aligned, zeroed by the kernel, and every access is atomic.
            Memory::Mapped(words) => unsafe { std::slice::from_raw_parts(words.as_ptr(), NR_WORDS) },
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if let Memory::Mapped(words) = self.0 {
            // SAFETY: the mapping made in `mapped`, unmapped once.
            unsafe { libc::munmap(words.as_ptr().cast(), MAPPED_LEN) };
        }
    }
}

/// A program and the tap that it can be given to.
#[derive(Debug)]
pub(crate) struct Steering {
    program: OwnedFd,
    tap: OwnedFd,
}

impl Steering {
    /// Loads the program, and takes away what a predecessor gave the tap.
    pub(crate) fn open(tap: BorrowedFd<'_>) -> io::Result<(Self, Words)> {
        let (program, words) = load()?;
        let steering = Self { program, tap: tap.try_clone_to_owned()? };
        steering.set(false)?;
        Ok((steering, words))
    }

    /// Queues are chosen by the program, or by the kernel's own rule.
    pub(crate) fn set(&self, on: bool) -> io::Result<()> {
        let program: RawFd = if on { self.program.as_raw_fd() } else { -1 };
        // SAFETY: this request reads an int.
        let done = unsafe {
            libc::ioctl(self.tap.as_raw_fd(), libc::c_ulong::from(SET_STEERING), &raw const program)
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn load() -> io::Result<(OwnedFd, Words)> {
    let value_len = u32::try_from(NR_WORDS * 4).map_err(io::Error::other)?;
    let map = opened(MAP_CREATE, &[MAP_TYPE_ARRAY, 4, value_len, 1, MAP_MMAPABLE])?;
    let words = Words::mapped(&map)?;
    let code = program::write(map.as_raw_fd());
    let count = u32::try_from(code.len()).map_err(io::Error::other)?;
    let [code_low, code_high] = halves(code.as_ptr().addr());
    let [license_low, license_high] = halves(c"Dual MIT/GPL".as_ptr().addr());
    let program =
        opened(PROG_LOAD, &[PROG_TYPE_SOCKET_FILTER, count, code_low, code_high, license_low, license_high])?;
    Ok((program, words))
}

/// An address as it stands in a call's argument.
fn halves(address: usize) -> [u32; 2] {
    let address = address as u64;
    [address & 0xffff_ffff, address >> 32].map(|half| u32::try_from(half).unwrap_or(0))
}

/// `union bpf_attr`, longer than any command's.
#[repr(C, align(8))]
struct Argument([u32; 32]);

/// A command and the beginning of its argument, the rest of which is zero. What it points to must outlive the call.
fn bpf(command: libc::c_int, words: &[u32]) -> io::Result<(libc::c_long, Argument)> {
    let mut argument = Argument([0; 32]);
    argument.0.iter_mut().zip(words).for_each(|(to, from)| *to = *from);
    // SAFETY: the argument is valid for the call, and zero beyond what was given.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut argument, size_of::<Argument>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok((done, argument)) }
}

/// A command that opens a file.
fn opened(command: libc::c_int, words: &[u32]) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(bpf(command, words)?.0).map_err(io::Error::other)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests;
