//! A worker's figures, in a file that names what it holds, so that a reader of any version understands it and they outlive the
//! worker. Each queue's thread is the only writer of its own block. Knows nothing of what the figures mean.
//!
//! ```text
//!  0     magic u64 │ version u32 │ queues u32 │ counters u32 │ histograms u32
//!  64    names, 32 bytes each, zero-padded: counters, then histograms
//!  4096  queue 0: counters u64… │ histograms u64 × 64 …  │ queue 1: …        bucket i counts values in 2^i ..= 2^(i+1) - 1
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::mapped_file::MappedFile;

const MAGIC: u64 = u64::from_le_bytes(*b"splitdC\x01");
const VERSION: u32 = 1;
const NAMES_AT: usize = 64;
const NAME_LEN: usize = 32;
const HEADER_LEN: usize = 4096;
const MAX_NAMES: usize = (HEADER_LEN - NAMES_AT) / NAME_LEN;
const MAX_QUEUES: u32 = 64;
/// Buckets of a histogram.
pub const BUCKETS: usize = 64;

/// What a device counts; a counter's number is its place here.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Sums, and gauges (whose names end in `_now`).
    pub counters: &'static [&'static str],
    /// Distributions by powers of two.
    pub histograms: &'static [&'static str],
}

impl Names {
    fn queue_len(&self) -> usize {
        (self.counters.len() + self.histograms.len() * BUCKETS) * 8
    }

    fn all(&self) -> impl Iterator<Item = &'static str> {
        self.counters.iter().chain(self.histograms).copied()
    }
}

/// One queue's block of the file.
#[derive(Clone, Debug)]
pub struct QueueCounters {
    file: Arc<MappedFile>,
    at: usize,
    nr_counters: usize,
}

/// Opens or creates the file and gives out a block for each queue. Figures of a predecessor go on if it counted the same things.
pub fn open(path: &Path, names: &Names, nr_queues: u32) -> io::Result<Vec<QueueCounters>> {
    let fits = names.all().count() <= MAX_NAMES && names.all().all(|n| n.len() < NAME_LEN);
    if !fits || nr_queues > MAX_QUEUES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let len = HEADER_LEN + nr_queues as usize * names.queue_len();
    let mut file = MappedFile::open(path, len)?;
    let header = header(names, nr_queues)?;
    let mut found = vec![0; HEADER_LEN];
    file.read(0, &mut found);
    if found != header {
        file.write(HEADER_LEN, &vec![0; len - HEADER_LEN]);
        file.write(0, &header);
    }
    let file = Arc::new(file);
    let block = |i| HEADER_LEN + i * names.queue_len();
    Ok((0..nr_queues as usize)
        .map(|i| QueueCounters { file: Arc::clone(&file), at: block(i), nr_counters: names.counters.len() })
        .collect())
}

fn header(names: &Names, nr_queues: u32) -> io::Result<Vec<u8>> {
    let count = |n: usize| u32::try_from(n).map_err(io::Error::other);
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    for word in [VERSION, nr_queues, count(names.counters.len())?, count(names.histograms.len())?] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.resize(NAMES_AT, 0);
    for (i, name) in names.all().enumerate() {
        out.extend_from_slice(name.as_bytes());
        out.resize(NAMES_AT + (i + 1) * NAME_LEN, 0);
    }
    out.resize(HEADER_LEN, 0);
    Ok(out)
}

impl QueueCounters {
    /// Adds to a counter.
    pub fn add(&self, counter: usize, n: u64) {
        // One writer: a plain load and store.
        let word = self.word(counter);
        word.store(word.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, counter: usize, value: u64) {
        self.word(counter).store(value, Relaxed);
    }

    /// Books a value in a histogram.
    pub fn record(&self, histogram: usize, value: u64) {
        let bucket = value.max(1).ilog2() as usize;
        self.add(self.nr_counters + histogram * BUCKETS + bucket, 1);
    }

    fn word(&self, i: usize) -> &std::sync::atomic::AtomicU64 {
        self.file.u64_at(self.at + i * 8)
    }
}

/// One queue's figures at some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSnapshot {
    /// By name.
    pub counters: BTreeMap<String, u64>,
    /// By name; bucket `i` counts values from 2^i to 2^(i+1) - 1.
    pub histograms: BTreeMap<String, Vec<u64>>,
}

/// A device's figures at some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In order.
    pub queues: Vec<QueueSnapshot>,
}

impl Snapshot {
    /// A counter over all queues; 0 if nobody counts it.
    #[must_use]
    pub fn total(&self, counter: &str) -> u64 {
        self.queues.iter().filter_map(|q| q.counters.get(counter)).sum()
    }
}

/// Reads a counters file, without mapping it. Anything may stand in it: its writer may have been taken over by a guest.
pub fn read(path: &Path) -> io::Result<Snapshot> {
    let file = File::open(path)?;
    let mut head = vec![0; HEADER_LEN];
    file.read_exact_at(&mut head, 0)?;
    let unknown = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{path:?}: {what}"));
    let u32_at =
        |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    if head.get(..8) != Some(&MAGIC.to_le_bytes()) || u32_at(8) != VERSION {
        return Err(unknown("not a counters file of version 1"));
    }
    let (nr_queues, nr_counters, nr_histograms) = (u32_at(12), u32_at(16) as usize, u32_at(20) as usize);
    if nr_queues > MAX_QUEUES || nr_counters > MAX_NAMES || nr_histograms > MAX_NAMES - nr_counters {
        return Err(unknown("counts out of bounds"));
    }
    let names: Vec<String> = (0..nr_counters + nr_histograms)
        .map(|i| {
            let at = NAMES_AT + i * NAME_LEN;
            let name = head.get(at..at + NAME_LEN).unwrap_or_default();
            String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()
        })
        .collect();
    let queue_len = (nr_counters + nr_histograms * BUCKETS) * 8;
    let mut snapshot = Snapshot::default();
    for queue in 0..u64::from(nr_queues) {
        let mut bytes = vec![0; queue_len];
        file.read_exact_at(&mut bytes, HEADER_LEN as u64 + queue * queue_len as u64)?;
        let words: Vec<u64> =
            bytes.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes)).collect();
        let (sums, buckets) = words.split_at(nr_counters.min(words.len()));
        snapshot.queues.push(QueueSnapshot {
            counters: names.iter().cloned().zip(sums.iter().copied()).collect(),
            histograms: names
                .iter()
                .skip(nr_counters)
                .cloned()
                .zip(buckets.chunks(BUCKETS).map(<[u64]>::to_vec))
                .collect(),
        });
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names { counters: &["reads", "writes"], histograms: &["read_ns"] };

    /// What a worker counts, splitd reads, also across workers.
    #[test]
    fn read_back_across_workers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counters");
        for _ in 0..2 {
            let queues = open(&path, &NAMES, 2).unwrap();
            queues[1].add(1, 5);
            queues[1].record(0, 4096);
            queues[0].record(0, 0);
        }

        let snapshot = read(&path).unwrap();

        assert_eq!((snapshot.total("writes"), snapshot.total("reads"), snapshot.total("none")), (10, 0, 0));
        assert_eq!(snapshot.queues[1].histograms["read_ns"][12], 2);
        assert_eq!(snapshot.queues[0].histograms["read_ns"][0], 2);
    }

    /// A worker that counts other things starts at zero instead of misreading.
    #[test]
    fn other_names_start_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counters");
        open(&path, &NAMES, 1).unwrap()[0].add(0, 9);
        let other = Names { counters: &["reads", "discards"], histograms: &[] };

        open(&path, &other, 1).unwrap();

        assert_eq!(read(&path).unwrap().total("reads"), 0);
    }

    /// A hostile or torn file is an error, never more.
    #[test]
    fn junk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counters");
        std::fs::write(&path, [0xff; 5000]).unwrap();
        assert!(read(&path).is_err());
        let mut head = header(&NAMES, 1).unwrap();
        head[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        std::fs::write(&path, &head).unwrap();
        assert!(read(&path).is_err());
        std::fs::write(&path, header(&NAMES, 1).unwrap()).unwrap();
        assert!(read(&path).is_err(), "shorter than it says");
    }
}
