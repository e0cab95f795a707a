//! The file or block device behind a disk: opened once, O_DIRECT, by absolute path, after its kind was checked; its size, its
//! blocks, and how it takes discards. Contents are never looked at: a raw disk may begin with anything its guest writes, so a
//! format is known by the toolstack's word alone. Knows nothing of rings or guests.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use worker::message::{Discard, Opened};

#[allow(unsafe_code)]
mod ioctl;

pub use ioctl::DiscardKind;

/// Why a target is refused: the path, what is wrong with it, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OpenError {
    #[error("target {0:?}: not an absolute path")]
    Relative(PathBuf),
    #[error(
        "target {path:?}: a {format} image; only raw images are served, convert it: \
         qemu-img convert -O raw {path:?} {raw:?}"
    )]
    Format { path: PathBuf, format: &'static str, raw: PathBuf },
    #[error("target {path:?}: is a {kind}; a regular file or a block device is needed")]
    Kind { path: PathBuf, kind: &'static str },
    #[error(
        "target {path:?}: the file system does not do O_DIRECT; move the image to ext4, XFS or a block device"
    )]
    NoDirect { path: PathBuf },
    #[error("target {path:?}: {len} bytes long; a positive multiple of 512 is needed")]
    Size { path: PathBuf, len: u64 },
    #[error(
        "target {path:?}: {len} bytes long, not a multiple of the {block}-byte blocks of its disk; \
         make it one: truncate -s %{block} {path:?}"
    )]
    PartialBlock { path: PathBuf, len: u64, block: u32 },
    #[error("target {path:?}: changed while it was opened")]
    Swapped { path: PathBuf },
    #[error("target {path:?}: block of {len} bytes; a power of two from 512 to 4096 is needed")]
    Block { path: PathBuf, len: u32 },
    #[error("target {path:?}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// An open target.
#[derive(Debug)]
pub struct Target {
    file: File,
    opened: Opened,
    block_device: bool,
}

/// Image formats by the name's ending, the only word on a format that there is without a toolstack's.
const FORMATS: [(&str, &str); 6] = [
    ("qcow2", "qcow2"),
    ("qcow", "qcow"),
    ("vhd", "VHD"),
    ("vhdx", "VHDX"),
    ("vmdk", "VMDK"),
    ("vdi", "VDI"),
];

impl Target {
    /// Opens and measures.
    pub fn open(path: &Path, read_only: bool, discard: bool) -> Result<Self, OpenError> {
        if !path.is_absolute() {
            return Err(OpenError::Relative(path.into()));
        }
        let failed = |source| OpenError::Io { path: path.into(), source };
        // The kind is known before the open: opening a FIFO blocks, opening a character device can act.
        let before = std::fs::metadata(path).map_err(failed)?;
        let block_device = check_kind(path, &before)?;
        if !block_device {
            check_name(path)?;
        }
        let file = open_direct(path, read_only)?;
        let after = file.metadata().map_err(failed)?;
        if node(&before) != node(&after) {
            return Err(OpenError::Swapped { path: path.into() });
        }
        let len = (&file).seek(SeekFrom::End(0)).map_err(failed)?;
        if len == 0 || !len.is_multiple_of(512) {
            return Err(OpenError::Size { path: path.into(), len });
        }
        let (logical, physical, refuses_writes) = if block_device {
            let blocks = ioctl::block_sizes(file.as_fd()).map_err(failed)?;
            (blocks.logical, blocks.physical, blocks.read_only)
        } else {
            // Below a file system's block even O_DIRECT writes exclude each other: a guest should know it.
            let file_system_block = u32::try_from(after.blksize()).unwrap_or(0).min(4096);
            (ioctl::direct_alignment(file.as_fd()).map_err(failed)?, file_system_block, false)
        };
        if !logical.is_power_of_two() || !(512..=4096).contains(&logical) {
            return Err(OpenError::Block { path: path.into(), len: logical });
        }
        if !len.is_multiple_of(u64::from(logical)) {
            return Err(OpenError::PartialBlock { path: path.into(), len, block: logical });
        }
        let read_only = read_only || refuses_writes;
        let discard = if discard && !read_only { discard_of(&file, &after, block_device) } else { None };
        let opened = Opened {
            capacity_sectors: len / 512,
            logical_block_len_bytes: logical,
            physical_block_len_bytes: if physical.is_power_of_two() {
                physical.max(logical)
            } else {
                logical
            },
            discard,
            read_only,
            identity: identity(&after, block_device),
        };
        Ok(Self { file, opened, block_device })
    }

    /// What the open found.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The size now, in units of 512 bytes.
    pub fn capacity_sectors(&self) -> io::Result<u64> {
        Ok((&self.file).seek(SeekFrom::End(0))? / 512)
    }

    /// A block device rather than a file.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// Forgets a range, which may take long: not for a queue's thread.
    pub fn discard(&self, kind: DiscardKind, sector: u64, nr_sectors: u64) -> io::Result<()> {
        ioctl::discard(self.file.as_fd(), kind, sector * 512, nr_sectors * 512)
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn node(meta: &Metadata) -> (u64, u64, u64) {
    (meta.dev(), meta.ino(), meta.rdev())
}

/// True for a block device, false for a regular file.
fn check_kind(path: &Path, meta: &Metadata) -> Result<bool, OpenError> {
    let kind = meta.file_type();
    let kind = if kind.is_block_device() {
        return Ok(true);
    } else if kind.is_file() {
        return Ok(false);
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_fifo() {
        "FIFO"
    } else if kind.is_char_device() {
        "character device"
    } else if kind.is_socket() {
        "socket"
    } else {
        "special file"
    };
    Err(OpenError::Kind { path: path.into(), kind })
}

fn check_name(path: &Path) -> Result<(), OpenError> {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match FORMATS.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known)) {
        Some((_, format)) => {
            Err(OpenError::Format { path: path.into(), format, raw: path.with_extension("raw") })
        }
        None => Ok(()),
    }
}

fn open_direct(path: &Path, read_only: bool) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(!read_only).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | libc::O_NOCTTY);
    options.open(path).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) => OpenError::NoDirect { path: path.into() },
        _ => OpenError::Io { path: path.into(), source },
    })
}

fn identity(meta: &Metadata, block_device: bool) -> String {
    let split = |dev| (libc::major(dev), libc::minor(dev));
    if block_device {
        let (major, minor) = split(meta.rdev());
        format!("dev:{major}:{minor}")
    } else {
        let (major, minor) = split(meta.dev());
        format!("file:{major}:{minor}:{}", meta.ino())
    }
}

fn discard_of(file: &File, meta: &Metadata, block_device: bool) -> Option<Discard> {
    if block_device {
        return block_discard(file, meta.rdev());
    }
    let past_the_end = meta.len().next_multiple_of(4096);
    ioctl::punch_hole(file.as_fd(), past_the_end, 4096).ok()?;
    let granularity_bytes =
        u32::try_from(meta.blksize()).ok().filter(|g| g.is_power_of_two()).unwrap_or(4096);
    Some(Discard { granularity_bytes, alignment_bytes: 0, secure: false })
}

/// A block device's word on discards stands in sysfs; a partition's, in its whole disk's directory.
fn block_discard(file: &File, rdev: u64) -> Option<Discard> {
    let node = format!("/sys/dev/block/{}:{}", libc::major(rdev), libc::minor(rdev));
    let read = |path: String| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let queue =
        |name| read(format!("{node}/queue/{name}")).or_else(|| read(format!("{node}/../queue/{name}")));
    if queue("discard_max_bytes")? == 0 {
        return None;
    }
    let granularity_bytes = u32::try_from(queue("discard_granularity")?).ok()?.max(512);
    let alignment = read(format!("{node}/discard_alignment")).unwrap_or(0);
    let alignment_bytes = u32::try_from(alignment).unwrap_or(0);
    Some(Discard { granularity_bytes, alignment_bytes, secure: ioctl::secure_discard_works(file.as_fd()) })
}

#[cfg(test)]
mod tests;
