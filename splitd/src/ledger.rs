//! Keeps the ledger: at the end of each window the figures of every domain with a contract become a line of the month's file. Knows
//! nothing of what was promised, nor of how a window is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use jiff::{Timestamp, Unit};
use qos::ledger::{Circumstances, Entry, Figures, Promise, judge};
use qos::page::{NR_USAGE, USAGE_AT, Usage};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};
use worker::clock::monotonic_ns;

use crate::device::Host;
use crate::id::{self, DeviceId};
use crate::runtime;
use crate::stats::Totals;

/// Months kept: a year, and the one that is being written.
const MONTHS_KEPT: usize = 13;
/// Lines that wait for a disk with room; the newest are dropped beyond, and told.
const PENDING_MAX: usize = 20_000;
/// Below a disk's run directory: where its sums stood when the last window ended.
const JUDGED: &str = "judged";

/// A domain with a contract, and its disks.
#[derive(Clone, Debug, PartialEq)]
pub struct Party {
    /// What was promised.
    pub promise: Promise,
    /// Its disks, with the device each shares.
    pub disks: Vec<(DeviceId, Option<String>)>,
}

/// Where a disk's sums stood at some moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mark {
    at_ns: u64,
    figures: Figures,
}

/// All that is kept between windows.
#[derive(Debug)]
struct Ledger {
    dir: PathBuf,
    run_dir: PathBuf,
    marks: BTreeMap<DeviceId, Mark>,
    /// Devices that could not keep what is reserved of them, at some moment of this window or still.
    short: BTreeMap<String, bool>,
    pending: Vec<(String, String)>,
}

/// Judges windows until splitd ends.
pub async fn keep(host: Rc<Host>, dir: PathBuf) {
    if !runtime::is_uring() {
        return;
    }
    let run_dir = host.run_dir.clone();
    let mut ledger =
        Ledger { dir, run_dir, marks: BTreeMap::new(), short: BTreeMap::new(), pending: Vec::new() };
    loop {
        let left = until_window_ends(host.limits.window_s(), Timestamp::now());
        // What the arbiter says does not pile up for an hour.
        tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        ledger.hear(host.limits.shortages());
        if left <= Duration::from_secs(1) {
            ledger.close(&host.limits.parties()).await;
        }
    }
}

/// Windows end at multiples of their length, by the clock on the wall.
fn until_window_ends(window_s: u32, now: Timestamp) -> Duration {
    let window_ns = i128::from(window_s) * 1_000_000_000;
    let left = window_ns - now.as_nanosecond().rem_euclid(window_ns);
    Duration::from_nanos(u64::try_from(left).unwrap_or_default())
}

/// `sla-2026-11.jsonl`
#[must_use]
pub fn file_name(month: &str) -> String {
    format!("sla-{month}.jsonl")
}

/// `2026-11`
#[must_use]
pub fn month_of(time: Timestamp) -> String {
    time.strftime("%Y-%m").to_string()
}

/// The one that is being written.
#[must_use]
pub fn this_month() -> String {
    month_of(Timestamp::now())
}

/// Months of which there is a file, the oldest first.
pub fn months(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let month = name.to_str().and_then(|name| name.strip_prefix("sla-")?.strip_suffix(".jsonl"));
        found.extend(month.map(str::to_owned));
    }
    Ok(found.into_iter().collect())
}

impl Ledger {
    fn hear(&mut self, shortages: Vec<(String, bool)>) {
        for (device, short) in shortages {
            self.short.insert(device, short);
        }
    }

    async fn close(&mut self, parties: &[Party]) {
        let (now, now_ns) = (Timestamp::now(), monotonic_ns());
        for party in parties {
            if let Some((from, entry)) = self.window(party, now, now_ns) {
                self.book(month_of(from), &entry);
            }
        }
        let there: BTreeSet<DeviceId> =
            parties.iter().flat_map(|party| party.disks.iter().map(|(id, _)| *id)).collect();
        self.marks.retain(|id, _| there.contains(id));
        self.short.retain(|_, short| *short);
        self.write().await;
    }

    /// A domain's window; none of a domain that has just come.
    fn window(&mut self, party: &Party, now: Timestamp, now_ns: u64) -> Option<(Timestamp, Entry)> {
        let mut grown = Figures::default();
        let mut around = Circumstances::default();
        let mut began_ns = now_ns;
        for (id, device) in &party.disks {
            let (figures, in_flight) = self.look(*id)?;
            let mark = Mark { at_ns: now_ns, figures };
            if let Some(last) = self.last(*id) {
                grown.add(&mark.figures.since(&last.figures));
                began_ns = began_ns.min(last.at_ns);
                around.in_flight |= in_flight;
                around.short_of_reserves |= device.as_ref().is_some_and(|name| self.short.contains_key(name));
            }
            self.keep_mark(*id, mark);
        }
        let length = Duration::from_nanos(now_ns.checked_sub(began_ns).filter(|ns| *ns > 0)?);
        let from = now.checked_sub(length).ok()?;
        let told = from.round(Unit::Second).unwrap_or(from).to_string();
        Some((from, judge(&party.promise, &told, length.as_secs_f64(), &grown, around)))
    }

    /// Where a disk's sums stood at the end of the last window, also if another splitd judged it.
    fn last(&self, id: DeviceId) -> Option<Mark> {
        let on_file = || {
            let text = fs::read(self.run_dir.join(id::dir_name(&id)).join(JUDGED)).ok()?;
            serde_json::from_slice::<Mark>(&text).ok()
        };
        self.marks.get(&id).cloned().or_else(on_file).filter(|mark| mark.at_ns <= monotonic_ns())
    }

    fn keep_mark(&mut self, id: DeviceId, mark: Mark) {
        let path = self.run_dir.join(id::dir_name(&id)).join(JUDGED);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(&mark).map_err(io::Error::other);
        let kept = text.and_then(|text| fs::write(&new, text)).and_then(|()| fs::rename(&new, &path));
        if let Err(trouble) = kept {
            warn!(device = %id, "{}: {trouble}", path.display());
        }
        self.marks.insert(id, mark);
    }

    /// A disk's sums, and whether requests are under way. None of a disk whose directory is gone; a disk that was never connected did
    /// nothing.
    fn look(&self, id: DeviceId) -> Option<(Figures, bool)> {
        let dir = self.run_dir.join(id::dir_name(&id));
        if !dir.exists() {
            return None;
        }
        let totals = Totals::read(&self.run_dir, id).ok().flatten().unwrap_or_default();
        let in_flight = totals.counters.get("in_flight_now").is_some_and(|n| *n > 0);
        Some((figures(&totals, usage(&dir.join("usage"))), in_flight))
    }

    fn book(&mut self, month: String, entry: &Entry) {
        match serde_json::to_string(entry) {
            Ok(line) if self.pending.len() < PENDING_MAX => self.pending.push((month, line)),
            Ok(_) => error!("ALARM: {}: {PENDING_MAX} lines wait; a window is lost", self.dir.display()),
            Err(trouble) => error!("ALARM: the ledger: {trouble}"),
        }
    }

    async fn write(&mut self) {
        let months: BTreeSet<String> = self.pending.iter().map(|(month, _)| month.clone()).collect();
        for month in months {
            let lines = self.pending.iter().filter(|(of, _)| *of == month);
            let text: String = lines.flat_map(|(_, line)| [line.as_str(), "\n"]).collect();
            let path = self.dir.join(file_name(&month));
            match append(&path, text).await {
                Ok(()) => self.pending.retain(|(of, _)| *of != month),
                Err(trouble) => {
                    let waiting = self.pending.len();
                    error!("ALARM: {}: {trouble}; {waiting} lines of the ledger wait", path.display());
                }
            }
        }
        if let Err(trouble) = remove_old(&self.dir)
            && trouble.kind() != io::ErrorKind::NotFound
        {
            warn!("{}: {trouble}", self.dir.display());
        }
    }
}

/// Whole lines at the end, on stable storage. A line that somebody's death tore stays a line of its own.
async fn append(path: &Path, mut text: String) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let file = tokio_uring::fs::OpenOptions::new().read(true).write(true).create(true).open(path).await?;
    let outcome = async {
        let end = fs::metadata(path)?.len();
        if end > 0 {
            let (read, last) = file.read_exact_at(vec![0; 1], end - 1).await;
            read?;
            if last != b"\n" {
                text.insert(0, '\n');
            }
        }
        file.write_all_at(text.into_bytes(), end).await.0?;
        file.sync_data().await
    }
    .await;
    file.close().await?;
    outcome
}

fn remove_old(dir: &Path) -> io::Result<()> {
    let months = months(dir)?;
    let many = months.len().saturating_sub(MONTHS_KEPT);
    months.iter().take(many).try_for_each(|month| fs::remove_file(dir.join(file_name(month))))
}

/// What its limits put off: by caps, by the share.
fn usage(path: &Path) -> [u64; 2] {
    let mut bytes = [0; NR_USAGE * 8];
    let read = fs::File::open(path).and_then(|file| file.read_exact_at(&mut bytes, USAGE_AT as u64));
    let words = bytes.as_chunks::<8>().0;
    let word = |usage: Usage| words.get(usage as usize).map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if read.is_ok() { [word(Usage::CapWaits), word(Usage::Refused)] } else { [0; 2] }
}

fn figures(totals: &Totals, [cap_waits, share_waits]: [u64; 2]) -> Figures {
    let sum = |names: &[&str]| {
        let found = names.iter().filter_map(|name| totals.counters.get(*name));
        found.fold(0_u64, |sum, n| sum.saturating_add(*n))
    };
    let mut all = Figures {
        ops: sum(&["read_requests", "write_requests", "flush_requests", "discard_requests"]),
        bytes: sum(&["read_bytes", "write_bytes"]),
        latency_ns: sum(&["read_time_ns", "write_time_ns", "flush_time_ns", "discard_time_ns"]),
        queued_ns: sum(&["queued_time_ns"]),
        cap_waits,
        share_waits,
        errors: sum(&["io_errors"]),
        ..Figures::default()
    };
    for name in ["read_ns", "write_ns", "flush_ns", "discard_ns"] {
        let counted = totals.histograms.get(name).into_iter().flatten();
        all.latencies.iter_mut().zip(counted).for_each(|(to, n)| *to = to.saturating_add(*n));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Windows of a minute end when the wall's clock shows a whole one, months when UTC's do.
    #[test]
    fn windows_follow_the_wall() {
        let left = |text| until_window_ends(60, at(text)).as_millis();
        assert_eq!(left("2026-11-30T23:59:59.500Z"), 500);
        assert_eq!(left("2026-11-30T23:59:00Z"), 60_000);
        assert_eq!(month_of(at("2026-11-30T23:59:59.5Z")), "2026-11");
        assert_eq!(month_of(at("2026-12-01T00:00:00Z")), "2026-12");
    }

    /// Lines are added, one torn by a death is ended and stays alone, and of many months the oldest go.
    #[test]
    fn the_file_only_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/sla-2026-11.jsonl");
        runtime::block_on(async {
            append(&path, "a\n".to_owned()).await.unwrap();
            append(&path, "b\nc\n".to_owned()).await.unwrap();
            fs::write(&path, "a\nb\nc\ntor").unwrap();
            append(&path, "d\n".to_owned()).await.unwrap();
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\nc\ntor\nd\n");
        for month in 1..=14 {
            fs::write(path.with_file_name(file_name(&format!("2025-{month:02}"))), "").unwrap();
        }
        remove_old(path.parent().unwrap()).unwrap();
        let left = months(path.parent().unwrap()).unwrap();
        assert_eq!((left.len(), left[0].as_str(), left[12].as_str()), (13, "2025-03", "2026-11"));
    }
}
