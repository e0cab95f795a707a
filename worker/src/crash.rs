//! Named places at which a test can end the process as `kill -9` would, or have the disk fail. Without the feature
//! `crash-points` they are nothing. Knows nothing of what is being tested.
//!
//! `SPLITD_CRASH_POINT=NAME[:COUNT]` ends the process the COUNT-th time (the first, if not said) that NAME is passed.
//! `SPLITD_PAUSE=NAME:MS` holds the first thread that passes NAME for so long, as a scheduler could.
//! `SPLITD_WITHOUT=fence` leaves the fence out, to show what it is for.
//! `SPLITD_POISON_SECTOR=N` ends the process whenever a request for that sector (0 for a flush) is about to be carried out.
//! `SPLITD_DISK_FAULT=NAME:ERRNO[:COUNT]` makes the COUNT-th operation of that name fail; errno 0 makes all of them short.

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

#[cfg(feature = "crash-points")]
thread_local! {
    static ON_PASSED: std::cell::RefCell<Option<OnPassed>> = const { std::cell::RefCell::new(None) };
}

/// Called with each name that the thread passes.
#[cfg(feature = "crash-points")]
pub type OnPassed = Box<dyn FnMut(&str)>;

/// For a test that is itself the worker: what it is told of the places that this thread passes, where it may panic.
#[cfg(feature = "crash-points")]
pub fn on_passed(call: Option<OnPassed>) {
    ON_PASSED.set(call);
}

/// Called by [`crash_point!`].
#[cfg(feature = "crash-points")]
pub fn passed(name: &str) {
    ON_PASSED.with_borrow_mut(|call| call.as_mut().map(|call| call(name)));
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
    pause(name);
}

#[cfg(feature = "crash-points")]
fn pause(name: &str) {
    use std::sync::Mutex;
    static WANTED: Mutex<Option<Option<(String, u64)>>> = Mutex::new(None);
    let pause = WANTED.lock().ok().and_then(|mut wanted| {
        let wanted = wanted.get_or_insert_with(|| {
            let value = std::env::var("SPLITD_PAUSE").ok()?;
            let (name, ms) = value.split_once(':')?;
            Some((name.to_owned(), ms.parse().ok()?))
        });
        wanted.take_if(|(at, _)| at == name)
    });
    if let Some((_, ms)) = pause {
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }
}

/// Whether something is left out.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
#[must_use]
pub fn without(_name: &str) -> bool {
    false
}

/// Whether something is left out.
#[cfg(feature = "crash-points")]
#[must_use]
pub fn without(name: &str) -> bool {
    std::env::var("SPLITD_WITHOUT").is_ok_and(|what| what == name)
}

/// A request for this sector is about to be carried out.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn sector(_sector: u64) {}

/// A request for this sector is about to be carried out.
#[cfg(feature = "crash-points")]
pub fn sector(sector: u64) {
    use std::sync::OnceLock;
    static POISON: OnceLock<Option<u64>> = OnceLock::new();
    if *POISON.get_or_init(|| std::env::var("SPLITD_POISON_SECTOR").ok()?.parse().ok()) == Some(sector) {
        std::process::abort();
    }
}

/// What the disk's `result` of an operation is taken for.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
#[must_use]
pub fn disk_fault(_name: &str, result: i32) -> i32 {
    result
}

/// What the disk's `result` of an operation is taken for.
#[cfg(feature = "crash-points")]
#[must_use]
pub fn disk_fault(name: &str, result: i32) -> i32 {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static WANTED: OnceLock<Option<(String, i32, AtomicU32)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let value = std::env::var("SPLITD_DISK_FAULT").ok()?;
        let mut words = value.split(':');
        let (name, errno) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some((name, errno, AtomicU32::new(words.next().unwrap_or("1").parse().ok()?)))
    });
    match wanted {
        Some((at, 0, _)) if at == name && result >= 1024 => result / 1024 * 512,
        Some((at, errno, left)) if at == name && *errno != 0 && left.fetch_sub(1, Ordering::Relaxed) == 1 => {
            -errno
        }
        _ => result,
    }
}
