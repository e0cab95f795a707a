//! What changed since somebody last asked: per token a bounded set of paths, so that no change is lost and no flood of events
//! grows memory. Knows nothing of sockets.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Most distinct paths kept for one token; beyond it they become [`Paths::AllBelow`].
const PATHS_MAX: usize = 64;

/// Where something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paths {
    /// At these paths, each of which is the watched one or below it.
    These(BTreeSet<String>),
    /// Anywhere at or below what is watched.
    AllBelow,
}

/// News for one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The token of the watches that fired.
    pub token: String,
    /// Where.
    pub paths: Paths,
    /// The store went away and came back since the last news for this token; then `paths` is [`Paths::AllBelow`]. A store that was
    /// started anew is empty at first: a missing node means "removed" only if `/local/domain/0` is there.
    pub store_was_away: bool,
}

/// The changes not yet fetched.
#[derive(Debug, Default)]
pub(super) struct Changes {
    by_token: Mutex<BTreeMap<String, Changed>>,
    arrived: Notify,
}

impl Changes {
    /// Notes a change at `path`.
    pub(super) fn note(&self, token: &str, path: &str) {
        let mut by_token = self.by_token.lock();
        match by_token.get_mut(token) {
            Some(changed) => changed.add(path),
            None => {
                let paths = Paths::These(BTreeSet::from([path.to_owned()]));
                let changed = Changed { token: token.to_owned(), paths, store_was_away: false };
                by_token.insert(token.to_owned(), changed);
            }
        }
        drop(by_token);
        self.arrived.notify_one();
    }

    /// Notes that all below `tokens` is to be looked at again, because the store was away.
    pub(super) fn note_return<'a>(&self, tokens: impl Iterator<Item = &'a String>) {
        let away = tokens.map(|token| {
            let changed = Changed { token: token.clone(), paths: Paths::AllBelow, store_was_away: true };
            (token.clone(), changed)
        });
        self.by_token.lock().extend(away);
        self.arrived.notify_one();
    }

    /// Drops the news for a token that is no longer watched.
    pub(super) fn forget(&self, token: &str) {
        self.by_token.lock().remove(token);
    }

    /// Waits until there is news and takes all of it. Nothing is lost if the wait is given up.
    pub(super) async fn take(&self) -> Vec<Changed> {
        loop {
            let arrived = self.arrived.notified();
            let by_token = std::mem::take(&mut *self.by_token.lock());
            if !by_token.is_empty() {
                return by_token.into_values().collect();
            }
            arrived.await;
        }
    }
}

impl Changed {
    fn add(&mut self, path: &str) {
        let Paths::These(paths) = &mut self.paths else { return };
        if paths.contains(path) {
            return;
        }
        if paths.len() == PATHS_MAX {
            self.paths = Paths::AllBelow;
        } else {
            paths.insert(path.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    /// A guest can make any number of nodes below a watched directory; what is kept for it is bounded, and says so.
    #[test]
    fn a_flood_of_paths_becomes_all_below() {
        let changes = Changes::default();
        for round in 0..3 {
            for n in 0..PATHS_MAX {
                changes.note("t", &format!("/a/{n}"));
            }
            if round < 2 {
                changes.note("u", "/b");
            }
        }
        let news = runtime().block_on(changes.take());
        assert!(matches!(&news[0].paths, Paths::These(paths) if paths.len() == PATHS_MAX));
        assert_eq!(news[1].paths, Paths::These(BTreeSet::from(["/b".to_owned()])));

        for n in 0..=PATHS_MAX {
            changes.note("t", &format!("/a/{n}"));
        }
        assert_eq!(runtime().block_on(changes.take())[0].paths, Paths::AllBelow);
    }

    /// A return of the store outranks single paths, and single paths do not hide it.
    #[test]
    fn a_return_is_not_hidden_by_later_changes() {
        let changes = Changes::default();
        changes.note("t", "/a");
        changes.note_return([&"t".to_owned()].into_iter());
        changes.note("t", "/b");
        let news = runtime().block_on(changes.take());
        assert_eq!(news, [Changed { token: "t".into(), paths: Paths::AllBelow, store_was_away: true }]);
    }

    /// Whoever waits is woken by what comes later; a wait given up takes nothing with it.
    #[test]
    fn news_wake_whoever_waits() {
        runtime().block_on(async {
            let changes = Changes::default();
            tokio::select! {
                biased;
                _ = changes.take() => panic!("nothing changed yet"),
                () = tokio::task::yield_now() => {}
            }
            let (news, ()) = tokio::join!(changes.take(), async { changes.note("t", "/a") });
            assert_eq!(news.len(), 1);
            changes.note("t", "/a");
            changes.forget("t");
            changes.note("u", "/a");
            assert_eq!(changes.take().await[0].token, "u");
        });
    }
}
