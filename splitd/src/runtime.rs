//! The runtime that everything in splitd runs on: one thread, on io_uring. Knows nothing of what runs there.

use std::cell::Cell;
use std::future::Future;

use tracing::warn;

/// Entries of the ring: splitd's own file work is small.
const ENTRIES: u32 = 64;

thread_local! {
    static ON_URING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread's runtime is on io_uring: `tokio_uring`'s files need it.
#[must_use]
pub fn is_uring() -> bool {
    ON_URING.get()
}

/// Runs `work` to its end. Where io_uring is switched off, on plain tokio: workers will fail then, but `splitctl doctor` can
/// say why.
pub fn block_on<F: Future>(work: F) -> std::io::Result<F::Output> {
    match tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES)) {
        Ok(runtime) => {
            ON_URING.set(true);
            Ok(runtime.block_on(work))
        }
        Err(trouble) => {
            warn!("io_uring: {trouble}; no disk can be served without it");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(tokio::task::LocalSet::new().block_on(&runtime, work))
        }
    }
}
