//! Writing a disk's page: the copy that does not count first, then the number that makes it count. Written, never mapped: a worker that
//! cuts the file short harms nobody here. Knows nothing of policies.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use qos::page::{self, Rules, Twice};
use qos::share::Grant;

pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens a page; a new one holds a whole rule, without limits, before it has its magic number.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    if word(&file, 0)? != page::MAGIC {
        file.set_len(0)?;
        file.set_len(u64::try_from(page::LEN).map_err(io::Error::other)?)?;
        write(&file, page::GRANT, Grant::OPEN.words())?;
    }
    Ok(file)
}

fn word(file: &File, at: usize) -> io::Result<u64> {
    let mut bytes = [0; 8];
    match file.read_exact_at(&mut bytes, at as u64) {
        Err(trouble) if trouble.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        outcome => outcome.map(|()| u64::from_le_bytes(bytes)),
    }
}

fn write<const N: usize>(file: &File, of: Twice, words: [u64; N]) -> io::Result<()> {
    write_after(word(file, of.number_at)?, file, of, words).map(drop)
}

/// Where so many were written already; how many there are then.
fn write_after<const N: usize>(nr: u64, file: &File, of: Twice, words: [u64; N]) -> io::Result<u64> {
    let next = nr.wrapping_add(1);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.write_all_at(&bytes, of.copies_at[usize::from(next & 1 == 1)] as u64)?;
    file.write_all_at(&next.to_le_bytes(), of.number_at as u64)?;
    Ok(next)
}

fn read<const N: usize>(file: &File, of: Twice) -> io::Result<[u64; N]> {
    let at = of.copies_at[usize::from(word(file, of.number_at)? & 1 == 1)];
    let mut words = [0; N];
    for (i, value) in words.iter_mut().enumerate() {
        *value = word(file, at + i * 8)?;
    }
    Ok(words)
}

/// Rules that hold from now on.
pub(super) fn write_rules(path: &Path, rules: &Rules) -> io::Result<()> {
    let file = open(path)?;
    let is_new = word(&file, 0)? != page::MAGIC;
    if is_new || read(&file, page::RULES)? != rules.words() {
        write(&file, page::RULES, rules.words())?;
    }
    if is_new {
        file.write_all_at(&page::MAGIC.to_le_bytes(), 0)?;
    }
    Ok(())
}

/// A page to which shares are written again and again, by this process alone.
#[derive(Debug)]
pub(crate) struct Page {
    file: File,
    nr_grants: u64,
}

impl Page {
    /// Opens it, as [`open`] does.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let nr_grants = word(&file, page::GRANT.number_at)?;
        Ok(Self { file, nr_grants })
    }

    /// The share that was last granted.
    pub(crate) fn grant(&self) -> io::Result<Grant> {
        read(&self.file, page::GRANT).map(Grant::of_words)
    }

    /// Another share.
    pub(crate) fn write_grant(&mut self, grant: Grant) -> io::Result<()> {
        self.nr_grants = write_after(self.nr_grants, &self.file, page::GRANT, grant.words())?;
        Ok(())
    }
}
