//! What is left of a domain's account when its last disk has gone: kept while it owes, so that to detach and attach again is no way to
//! a fresh burst, and removed then, so that domains that come and go leave nothing. Knows nothing of which domains are there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use qos::account::NR_CLOCKS;
use tracing::warn;

/// Whether the file is gone, or was never there; one whose clocks stand beyond `now_ns` stays.
pub(super) fn remove_settled(path: &Path, now_ns: u64) -> bool {
    let outcome = match owes(path, now_ns) {
        Ok(true) => return false,
        Ok(false) => fs::remove_file(path),
        Err(trouble) => Err(trouble),
    };
    if let Err(trouble) = outcome
        && trouble.kind() != io::ErrorKind::NotFound
    {
        warn!("{}: {trouble}", path.display());
    }
    true
}

fn owes(path: &Path, now_ns: u64) -> io::Result<bool> {
    let mut bytes = Vec::with_capacity(NR_CLOCKS * 8);
    File::open(path)?.take((NR_CLOCKS * 8) as u64).read_to_end(&mut bytes)?;
    let (clocks, _) = bytes.as_chunks::<8>();
    Ok(clocks.iter().any(|clock| u64::from_le_bytes(*clock) > now_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A debt outlives the disk until it is paid by time; nothing is left after that.
    #[test]
    fn an_account_stays_while_it_owes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("domain-u");
        assert!(remove_settled(&path, 5), "there never was one");

        let mut clocks = [0u64; NR_CLOCKS];
        clocks[3] = 1000;
        fs::write(&path, clocks.map(u64::to_le_bytes).as_flattened()).unwrap();
        assert!(!remove_settled(&path, 999) && path.exists());
        assert!(remove_settled(&path, 1000) && !path.exists());
    }
}
