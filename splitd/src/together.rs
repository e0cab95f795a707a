//! Several futures of one kind awaited at once: the store answers many requests in the time of one. Knows nothing of what they do.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

enum Slot<F: Future> {
    Waiting(Pin<Box<F>>),
    Done(Option<F::Output>),
}

/// Waits for all; the results stand in the order of the futures.
pub async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut slots: Vec<_> = futures.into_iter().map(|future| Slot::Waiting(Box::pin(future))).collect();
    poll_fn(|context| {
        let mut waiting = false;
        for slot in &mut slots {
            if let Slot::Waiting(future) = slot {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *slot = Slot::Done(Some(output)),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    let outputs = slots.into_iter().filter_map(|slot| match slot {
        Slot::Done(output) => output,
        Slot::Waiting(_) => None,
    });
    outputs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All are under way at once, and each result is in its place.
    #[test]
    fn results_keep_their_order() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let start = tokio::time::Instant::now();
            let sleep = |n: u64| async move {
                tokio::time::sleep(std::time::Duration::from_millis(100 - n)).await;
                n
            };
            assert_eq!(all((0..100).map(sleep)).await, (0..100).collect::<Vec<_>>());
            assert_eq!(start.elapsed().as_millis(), 100);
            assert!(all(std::iter::empty::<std::future::Ready<()>>()).await.is_empty());
        });
    }
}
