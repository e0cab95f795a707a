//! Named places at which a test can end the process as `kill -9` would. Without the feature `crash-points` they are nothing.
//! Knows nothing of what is being tested.
//!
//! `SPLITD_CRASH_POINT=NAME[:COUNT]` ends the process the COUNT-th time (the first, if not said) that NAME is passed.

/// Ends the process here if the environment says so.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::crash::passed($name)
    };
}

/// Called by [`crash_point!`].
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn passed(_name: &str) {}

/// Called by [`crash_point!`].
#[cfg(feature = "crash-points")]
pub fn passed(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static WANTED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let value = std::env::var("SPLITD_CRASH_POINT").ok()?;
        let (name, count) = value.split_once(':').unwrap_or((&value, "1"));
        Some((name.to_owned(), AtomicU32::new(count.parse().ok()?)))
    });
    if let Some((at, left)) = wanted
        && at == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}
