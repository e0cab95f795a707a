//! `splitctl retarget`: copies a disk to another file or block device under its running guest, again and again where the guest wrote
//! meanwhile, until so little is left that the guest can wait for it. Whoever kills it leaves the old target whole and served. Knows
//! nothing of workers beyond the numbers they count.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use worker::written::{REGIONS, REGIONS_AT};

use crate::device::retarget::{Destination, Source};
use crate::protocol::Verb;

/// Bytes copied at once.
const PIECE_LEN: usize = 1 << 20;
/// A guest may wait so long for the last piece.
const LAST_PIECE: Duration = Duration::from_millis(300);
/// So little is copied in that time by anything.
const LAST_PIECE_LEN_MIN: u64 = 4 << 20;
/// Times that all written meanwhile is copied, before it is clear that the guest writes faster.
const ROUNDS_MAX: u32 = 60;
/// Between two looks of a progress bar.
const TICK: Duration = Duration::from_millis(250);
/// Ending of a file that is not a whole copy yet.
const PARTIAL: &str = ".splitd-copy";

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes copied, those copied again included.
    pub copied_bytes: u64,
    /// How often what was written meanwhile was copied.
    pub rounds: u32,
    /// How long the guest waited.
    pub held: Duration,
    /// What splitd said last.
    pub said: String,
}

type Ask<'a> = &'a dyn Fn(Verb) -> anyhow::Result<Value>;

/// A copy that is being made.
struct Copy {
    source: Source,
    from: File,
    to: File,
    counts: File,
    /// The copy has never been written to: what is zero is zero there.
    is_fresh: bool,
    buffer: Vec<u8>,
    /// The number of each region before it was copied last.
    seen: Vec<u64>,
    copied_bytes: u64,
    meter: Meter,
}

/// Moves `device` to `target`; `told` hears how far it is.
pub fn run(ask: Ask<'_>, device: &str, target: &Path) -> anyhow::Result<Outcome> {
    let source = begin(ask, device, None)?;
    check(&source, target)?;
    let place = Place::open(target, len_bytes(&source))?;
    let to = Destination { target: target.to_owned(), identity: place.identity.clone() };
    let source = begin(ask, device, Some(to.clone()))?;
    let mut copy = Copy::new(source, &place)?;
    let rounds = copy.until_little_is_left(device)?;
    let began = Instant::now();
    ask(Verb::RetargetHold { device: device.to_owned() })?;
    let finish = || -> anyhow::Result<Value> {
        copy.round("the rest")?;
        copy.to.sync_all()?;
        place.complete()?;
        ask(Verb::RetargetFinish { device: device.to_owned(), to })
    };
    let said = match finish() {
        Ok(said) => super::table::word(said.get("done")),
        Err(trouble) => {
            // It would go on by itself a little later.
            let _ = ask(Verb::Resume { device: device.to_owned() });
            return Err(trouble.context(format!("{device} stays on {}", copy.source.target.display())));
        }
    };
    copy.meter.end();
    Ok(Outcome { copied_bytes: copy.copied_bytes, rounds, held: began.elapsed(), said })
}

/// What would be done.
pub fn would(ask: Ask<'_>, device: &str, target: &Path) -> anyhow::Result<String> {
    let row = ask(Verb::Show { device: device.to_owned() })?;
    let from = super::table::word(row.pointer("/device/target"));
    let sectors = row.pointer("/device/sectors").and_then(Value::as_u64).unwrap_or_default();
    ensure!(target.is_absolute(), "{}: a target is an absolute path", target.display());
    Ok(format!(
        "{device}: copied from {from} to {}, {} MiB, and served from there",
        target.display(),
        sectors >> 11
    ))
}

fn begin(ask: Ask<'_>, device: &str, to: Option<Destination>) -> anyhow::Result<Source> {
    let answer = ask(Verb::RetargetBegin { device: device.to_owned(), to })?;
    let source = answer.get("source").cloned().unwrap_or_default();
    serde_json::from_value(source)
        .context("splitd's answer is not understood; are splitd and splitctl of one version?")
}

fn len_bytes(source: &Source) -> u64 {
    source.capacity_sectors.saturating_mul(512)
}

fn check(source: &Source, target: &Path) -> anyhow::Result<()> {
    ensure!(target.is_absolute(), "{}: a target is an absolute path", target.display());
    ensure!(target != source.target, "{}: the disk is served from there", target.display());
    Ok(())
}

/// Where the copy is made.
struct Place {
    target: PathBuf,
    /// Another name until the copy is whole.
    partial: Option<PathBuf>,
    file: File,
    identity: String,
}

impl Place {
    fn open(target: &Path, len_bytes: u64) -> anyhow::Result<Self> {
        match fs::metadata(target) {
            Ok(found) if found.file_type().is_block_device() => Self::device(target, len_bytes),
            Ok(_) => bail!(
                "{}: is there already: a copy goes into a new file, or on a block device, whose contents are lost",
                target.display()
            ),
            Err(trouble) if trouble.kind() == io::ErrorKind::NotFound => Self::new_file(target, len_bytes),
            Err(trouble) => Err(trouble).with_context(|| target.display().to_string()),
        }
    }

    fn device(target: &Path, len_bytes: u64) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        // O_EXCL: not one that is mounted, or part of something else.
        options.write(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC);
        let file = options
            .open(target)
            .with_context(|| format!("{}: it is in use, or cannot be written", target.display()))?;
        let has = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        ensure!(has >= len_bytes, "{}: has {has} bytes, the disk {len_bytes}", target.display());
        let rdev = file.metadata()?.rdev();
        let identity = format!("dev:{}:{}", libc::major(rdev), libc::minor(rdev));
        Ok(Self { target: target.to_owned(), partial: None, file, identity })
    }

    fn new_file(target: &Path, len_bytes: u64) -> anyhow::Result<Self> {
        let mut name = target.file_name().context("a target is a file or a block device")?.to_owned();
        name.push(PARTIAL);
        let partial = target.with_file_name(name);
        let told = || partial.display().to_string();
        // One that a copy left which did not come to its end.
        match fs::remove_file(&partial) {
            Err(trouble) if trouble.kind() != io::ErrorKind::NotFound => {
                return Err(trouble).with_context(told);
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_CLOEXEC);
        let file = options.open(&partial).with_context(told)?;
        if let Err(trouble) = direct(&partial) {
            let _ = fs::remove_file(&partial);
            return Err(trouble);
        }
        file.set_len(len_bytes).with_context(told)?;
        let meta = file.metadata()?;
        let identity = format!("file:{}:{}:{}", libc::major(meta.dev()), libc::minor(meta.dev()), meta.ino());
        Ok(Self { target: target.to_owned(), partial: Some(partial), file, identity })
    }

    /// The copy is whole, and durable under its own name.
    fn complete(&self) -> anyhow::Result<()> {
        let Some(partial) = &self.partial else { return Ok(()) };
        // Not over something that has come meanwhile.
        fs::hard_link(partial, &self.target).with_context(|| self.target.display().to_string())?;
        fs::remove_file(partial)?;
        if let Some(dir) = self.target.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

/// What a worker will want of it.
fn direct(path: &Path) -> anyhow::Result<()> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(path);
    match opened {
        Err(trouble) if trouble.raw_os_error() == Some(libc::EINVAL) => {
            bail!("{}: its file system does not do O_DIRECT, which a disk needs", path.display())
        }
        outcome => outcome.map(drop).with_context(|| path.display().to_string()),
    }
}

impl Copy {
    fn new(source: Source, place: &Place) -> anyhow::Result<Self> {
        let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
        let regions = usize::try_from((len_bytes(&source) >> source.region_shift) + 1)?.min(REGIONS);
        Ok(Self {
            from: open(&source.target)?,
            counts: open(&source.written)?,
            to: place.file.try_clone()?,
            is_fresh: place.partial.is_some(),
            buffer: vec![0; PIECE_LEN],
            // None of them can have been seen.
            seen: vec![u64::MAX; regions],
            copied_bytes: 0,
            meter: Meter::new(),
            source,
        })
    }

    /// Copies everything, and what was written meanwhile, until little is left; how many rounds that took.
    fn until_little_is_left(&mut self, device: &str) -> anyhow::Result<u32> {
        for round in 0..ROUNDS_MAX {
            let (began, before) = (Instant::now(), self.copied_bytes);
            self.round(&format!("round {}", round + 1))?;
            // What is on its way to the disk would be waited for with the guest held.
            self.to.sync_data()?;
            let (took, done) = (began.elapsed(), self.copied_bytes - before);
            let in_time = u128::from(done) * LAST_PIECE.as_millis() / took.as_millis().max(1);
            let left = self.left()?;
            if u128::from(left) <= in_time.max(LAST_PIECE_LEN_MIN.into()) {
                return Ok(round + 1);
            }
        }
        bail!(
            "{device}: after {ROUNDS_MAX} rounds its guest still writes faster than is copied; cap it for a while, as in \
             splitctl qos -d DOMAIN -c write_bytes_max=50MB/s --ttl 1h"
        );
    }

    /// Bytes of regions that were written since they were copied.
    fn left(&self) -> anyhow::Result<u64> {
        let now = self.numbers()?;
        let dirty = now.iter().zip(&self.seen).filter(|(now, seen)| now != seen).count() as u64;
        Ok(dirty << self.source.region_shift)
    }

    fn numbers(&self) -> anyhow::Result<Vec<u64>> {
        let mut bytes = vec![0; self.seen.len() * 8];
        self.counts.read_exact_at(&mut bytes, REGIONS_AT as u64).context("the worker's counts")?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// Copies every region that was written since it was copied last.
    fn round(&mut self, name: &str) -> anyhow::Result<()> {
        // Before anything is read: a write that ends from now on makes another number.
        let now = self.numbers()?;
        let region_len = 1_u64 << self.source.region_shift;
        let dirty: Vec<usize> = (0..now.len()).filter(|i| now[*i] != self.seen[*i]).collect();
        let total = dirty.len() as u64 * region_len;
        let mut done = 0;
        for region in dirty {
            let from = region as u64 * region_len;
            // The last number stands for all that lies behind it.
            let to = if region + 1 == REGIONS { u64::MAX } else { from.saturating_add(region_len) };
            self.piece(from, to.min(len_bytes(&self.source)), self.seen[region] == u64::MAX)?;
            self.seen[region] = now[region];
            done += region_len;
            self.meter.show(name, done, total);
        }
        Ok(())
    }

    fn piece(&mut self, mut at: u64, end: u64, is_first: bool) -> anyhow::Result<()> {
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(PIECE_LEN).min(PIECE_LEN);
            let Some(bytes) = self.buffer.get_mut(..len) else { return Ok(()) };
            self.from.read_exact_at(bytes, at).with_context(|| self.source.target.display().to_string())?;
            // A hole stays one.
            if !(is_first && self.is_fresh && bytes.iter().all(|byte| *byte == 0)) {
                self.to.write_all_at(bytes, at).context("writing the copy")?;
            }
            self.copied_bytes += len as u64;
            at += len as u64;
        }
        Ok(())
    }
}

/// A bar on a terminal; nothing elsewhere.
struct Meter {
    on: bool,
    shown: Instant,
}

impl Meter {
    fn new() -> Self {
        Self { on: io::stderr().is_terminal(), shown: Instant::now() }
    }

    fn show(&mut self, name: &str, done: u64, total: u64) {
        if !self.on || (self.shown.elapsed() < TICK && done < total) {
            return;
        }
        self.shown = Instant::now();
        let part = usize::try_from(done * 40 / total.max(1)).unwrap_or(40).min(40);
        // A bar that cannot be drawn stops no copy.
        let _ = write!(
            io::stderr(),
            "\r{name:<10} [{:<40}] {:>8} of {} MiB ",
            "#".repeat(part),
            done >> 20,
            total >> 20
        );
    }

    fn end(&self) {
        if self.on {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is there is nobody's to overwrite, and a copy that did not come to its end is not mistaken for one.
    #[test]
    fn copies_are_new_files() {
        // Not on a tmpfs, which does no O_DIRECT.
        let own = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
        let target = dir.path().join("b.img");
        fs::write(&target, "precious").unwrap();
        let refused = Place::open(&target, 4096).err().unwrap().to_string();
        assert!(refused.contains("is there already"), "{refused}");
        fs::remove_file(&target).unwrap();
        for _ in 0..2 {
            let place = Place::open(&target, 8192).unwrap();
            assert!(!target.exists() && place.identity.starts_with("file:"), "{}", place.identity);
            assert_eq!(place.file.metadata().unwrap().len(), 8192);
        }
        let place = Place::open(&target, 8192).unwrap();
        fs::write(&target, "meanwhile").unwrap();
        assert!(place.complete().is_err());
        assert_eq!(fs::read(&target).unwrap(), b"meanwhile");
        fs::remove_file(&target).unwrap();
        place.complete().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
