//! Figures of `vbd3` disks where libxenstat, and so xentop of Xen 4.20 and later, looks for them: `kthread-pid` in the backend
//! directory leads to `td3-PID/vbd-DOMID-DEVID` in /dev/shm. Everybody may write to /dev/shm: only a directory that is ours alone
//! is used. Knows nothing of what xentop shows.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tracing::warn;

use crate::device::Host;
use crate::id::{DeviceId, Kind};
use crate::stats::Totals;

/// xentop looks every three seconds unless told otherwise.
const PERIOD: Duration = Duration::from_secs(2);

/// Names the last directory, so that the next splitd can remove it.
const MARK: &str = "xenstat";

const LEN: usize = 96;

/// The reader's form, version 1: a version, padding, then eleven numbers.
fn encode(totals: &Totals) -> [u8; LEN] {
    let of = |name: &str| totals.counters.get(name).copied().unwrap_or_default();
    let sectors = |name| of(name) / 512;
    let ticks_us = |name| of(name) / 1_000;
    let words = [
        of("buffer_waits"),
        of("read_requests"),
        of("read_requests"),
        sectors("read_bytes"),
        ticks_us("read_time_ns"),
        of("write_requests"),
        of("write_requests"),
        sectors("write_bytes"),
        ticks_us("write_time_ns"),
        of("io_errors"),
        0,
    ];
    let mut out = [0; LEN];
    let version = 1_u64.to_le_bytes();
    let all = std::iter::once(version).chain(words.map(u64::to_le_bytes));
    out.chunks_exact_mut(8).zip(all).for_each(|(to, from)| to.copy_from_slice(&from));
    out
}

/// The directory of this splitd; the one of its predecessor is removed.
fn directory(shm: &Path, run_dir: &Path) -> io::Result<PathBuf> {
    let mark = run_dir.join(MARK);
    if let Some(name) = fs::read_to_string(&mark).ok().filter(|name| !name.contains('/')) {
        let old = shm.join(name);
        if is_ours(&old) {
            fs::remove_dir_all(old)?;
        }
    }
    let name = format!("td3-{}", std::process::id());
    let dir = shm.join(&name);
    fs::write(mark, name)?;
    match fs::DirBuilder::new().mode(0o755).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if is_ours(&dir) {
        Ok(dir)
    } else {
        Err(io::Error::other(format!("{} is somebody else's", dir.display())))
    }
}

/// A directory, no link, of our own user, that nobody else may write to.
fn is_ours(path: &Path) -> bool {
    let own = fs::metadata("/proc/self").map(|own| own.uid());
    fs::symlink_metadata(path).is_ok_and(|there| {
        there.is_dir() && own.is_ok_and(|uid| uid == there.uid()) && there.mode() & 0o022 == 0
    })
}

fn write(dir: &Path, id: DeviceId, totals: &Totals) -> io::Result<()> {
    let path = dir.join(file_name(id));
    let mut options = fs::File::options();
    let file = options.create(true).write(true).truncate(false).mode(0o644).open(path)?;
    // In one call: a reader sees the figures of before or of now.
    file.write_all_at(&encode(totals), 0)
}

fn file_name(id: DeviceId) -> String {
    format!("vbd-{}-{}", id.frontend, id.devid)
}

/// Keeps the files of all `vbd3` disks up to date, for ever. Without such disks it makes nothing.
pub async fn publish(host: Rc<Host>, shm: PathBuf) {
    let mut dir = None;
    let mut known = BTreeSet::new();
    loop {
        tokio::time::sleep(PERIOD).await;
        let served: BTreeSet<_> = host
            .reports
            .borrow()
            .iter()
            .filter(|(id, report)| id.kind == Kind::Vbd3 && report.pid.is_some())
            .map(|(id, _)| *id)
            .collect();
        if dir.is_none() && !served.is_empty() {
            match directory(&shm, &host.run_dir) {
                Ok(made) => dir = Some(made),
                Err(trouble) => {
                    warn!("xentop will not show disks of kind vbd3: {}: {trouble}", shm.display());
                    return;
                }
            }
        }
        let Some(dir) = &dir else { continue };
        for id in &served {
            let Ok(Some(totals)) = Totals::read(&host.run_dir, *id) else { continue };
            if let Err(trouble) = write(dir, *id, &totals) {
                warn!(device = %id, "{}: {trouble}", dir.display());
            }
            if !known.contains(id) && introduce(&host, *id).await {
                known.insert(*id);
            }
        }
        for id in known.iter().filter(|id| !served.contains(id)) {
            let _ = fs::remove_file(dir.join(file_name(*id)));
        }
        known.retain(|id| served.contains(id));
    }
}

/// Names our directory in the backend's, if that is still there.
async fn introduce(host: &Host, id: DeviceId) -> bool {
    let dir = &id.backend_dir();
    let pid = &std::process::id().to_string();
    let work = |tx: xenbus::store::Nodes| async move {
        tx.read(&format!("{dir}/state")).await?;
        tx.write(&format!("{dir}/kthread-pid"), pid.as_bytes()).await
    };
    match host.store.transaction(work).await {
        Ok(()) => true,
        Err(trouble) if trouble.is_no_entry() => false,
        Err(trouble) => {
            warn!(device = %id, "kthread-pid: {trouble}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout that libxenstat reads.
    #[test]
    fn layout() {
        let mut totals = Totals::default();
        for (name, n) in
            [("read_requests", 3), ("read_bytes", 4096), ("write_time_ns", 5_000), ("io_errors", 7)]
        {
            totals.counters.insert(name.to_owned(), n);
        }
        let bytes = encode(&totals);
        let words: Vec<_> = bytes.chunks(8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
        assert_eq!(words, [1, 0, 3, 3, 8, 0, 0, 0, 0, 5, 7, 0]);
    }

    /// /dev/shm is everybody's: a link or a directory that others may write to is not followed.
    #[test]
    fn only_our_own_directory() {
        let shm = tempfile::tempdir().unwrap();
        let run = tempfile::tempdir().unwrap();
        let dir = directory(shm.path(), run.path()).unwrap();
        assert!(is_ours(&dir));
        fs::write(dir.join("vbd-5-1"), "x").unwrap();
        assert_eq!(
            fs::read_dir(directory(shm.path(), run.path()).unwrap()).unwrap().count(),
            0,
            "of the old one"
        );
        fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink(run.path(), &dir).unwrap();
        assert!(directory(shm.path(), run.path()).unwrap_err().to_string().contains("somebody else's"));
    }
}
