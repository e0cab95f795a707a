//! What a store and its client owe the daemon, one function each. Knows nothing of which store it is.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use xenbus::DomId;
use xenbus::store::{Changed, Error, Link, Paths, Permission, Rights, Store};

use crate::server::Server;

const GUEST: DomId = DomId(7);

fn may(domain: DomId, rights: Rights) -> Permission {
    Permission { domain, rights }
}

/// The news of one client, kept until somebody wants them.
struct Inbox<'a> {
    store: &'a Store,
    unread: Vec<Changed>,
}

impl<'a> Inbox<'a> {
    fn of(store: &'a Store) -> Self {
        Self { store, unread: Vec::new() }
    }

    /// Waits until `path` was reported under `token`; other paths of the token are forgotten.
    async fn wait_for(&mut self, token: &str, path: &str) {
        let is_it = |paths: &Paths| matches!(paths, Paths::These(paths) if paths.contains(path));
        loop {
            let (news, others) = self.unread.drain(..).partition::<Vec<_>, _>(|news| news.token == token);
            self.unread = others;
            if news.iter().any(|news| is_it(&news.paths)) {
                return;
            }
            self.unread.extend(self.store.changed().await);
        }
    }
}

/// Every operation on nodes (xenstore.txt): any bytes as a value, parents made on the way, permissions inherited and set.
pub(crate) async fn nodes_hold_what_was_written(server: Server) {
    let store = server.connect().await;
    let bytes: Vec<u8> = (0..=255).collect();
    store.write("/t/a/b", &bytes).await.unwrap();
    assert_eq!(store.read("/t/a/b").await.unwrap(), bytes);
    assert!(matches!(store.read_text("/t/a/b").await, Err(Error::Invalid { .. })));
    store.write("/t/a/b", b"").await.unwrap();
    assert_eq!(store.read_text("/t/a/b").await.unwrap(), "");
    store.mkdir("/t/c").await.unwrap();
    store.mkdir("/t/c").await.unwrap();
    let mut names = store.directory("/t").await.unwrap();
    names.sort();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(store.directory("/t/c").await.unwrap(), Vec::<String>::new());

    let permissions = [may(DomId(0), Rights::None), may(GUEST, Rights::Both), may(DomId(9), Rights::Read)];
    store.set_permissions("/t/c", &permissions).await.unwrap();
    assert_eq!(store.permissions("/t/c").await.unwrap(), permissions);
    store.write("/t/c/d", b"v").await.unwrap();
    assert_eq!(store.permissions("/t/c/d").await.unwrap(), permissions, "a new node takes after its parent");

    store.remove("/t").await.unwrap();
    let gone = store.read("/t/a/b").await;
    assert!(matches!(&gone, Err(Error::NoEntry { path }) if path == "/t/a/b"), "{gone:?}");
    assert!(matches!(store.directory("/t").await, Err(Error::NoEntry { .. })));
    assert!(matches!(store.permissions("/t").await, Err(Error::NoEntry { .. })));
    assert_eq!(store.find_text("/t").await.unwrap(), None);
    let again = store.remove("/t").await;
    assert!(matches!(again, Ok(()) | Err(Error::NoEntry { .. })), "{again:?}");
    store.write("/big", &[b'x'; 2000]).await.unwrap();
    let longest = store.write("/big", &[b'x'; 4096 - 5]).await;
    let is_quota = |error: &Error| matches!(error, Error::Quota { .. });
    assert!(
        longest.as_ref().err().is_none_or(is_quota),
        "oxenstored lets dom0 not have more either: {longest:?}"
    );
    assert!(matches!(store.write("/big", &[b'x'; 4096 - 4]).await, Err(Error::TooBig { .. })));
    assert!(store.read("/big").await.unwrap().len() >= 2000);
}

/// Many requests under way at once, each with its own answer.
pub(crate) async fn requests_are_pipelined(server: Server) {
    let store = server.connect().await;
    let tasks: Vec<_> = (0..300)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let (path, missing) = (format!("/t/{n}"), format!("/u/{n}"));
                store.write(&path, n.to_string().as_bytes()).await.unwrap();
                let (value, gone) = tokio::join!(store.read_text(&path), store.read(&missing));
                assert_eq!(value.unwrap(), n.to_string());
                assert!(matches!(gone, Err(Error::NoEntry { path }) if path == missing));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// control-plane.md §1.1: what libxl writes in a transaction is seen at its end, with its watches.
pub(crate) async fn a_transaction_is_seen_whole_or_not_at_all(server: Server) {
    let (store, other) = (server.connect().await, server.connect().await);
    other.write("/t/state", b"1").await.unwrap();
    let mut news = Inbox::of(&other);
    other.watch("/t", "t").await.unwrap();
    news.wait_for("t", "/t").await;
    let value = store
        .transaction(async |nodes| {
            nodes.write("/t/state", b"2").await?;
            nodes.mkdir("/t/new").await?;
            assert_eq!(other.read_text("/t/state").await?, "1");
            assert!(other.read("/t/new").await.unwrap_err().is_no_entry());
            nodes.read_text("/t/state").await
        })
        .await;
    assert_eq!(value.unwrap(), "2");
    news.wait_for("t", "/t/state").await;
    assert_eq!(other.read_text("/t/state").await.unwrap(), "2");

    let dropped: Result<(), Error> = store
        .transaction(async |nodes| {
            nodes.remove("/t").await?;
            nodes.read("/nowhere").await.map(|_| ())
        })
        .await;
    assert!(dropped.unwrap_err().is_no_entry());
    assert_eq!(other.read_text("/t/state").await.unwrap(), "2");
}

/// A change by another connection in the middle of a transaction: it is run again, on the new values.
pub(crate) async fn a_conflicting_transaction_is_done_again(server: Server) {
    let (store, other) = (server.connect().await, server.connect().await);
    store.write("/t/count", b"10").await.unwrap();
    let attempts = Cell::new(0);
    let add_one = async |nodes: xenbus::store::Nodes| {
        attempts.set(attempts.get() + 1);
        let count: u32 = nodes.read_text("/t/count").await?.parse().unwrap();
        if attempts.get() <= 3 {
            other.write("/t/count", format!("{}", count + 10).as_bytes()).await?;
        }
        nodes.write("/t/count", format!("{}", count + 1).as_bytes()).await
    };
    store.transaction(add_one).await.unwrap();
    assert_eq!((attempts.get(), &store.read_text("/t/count").await.unwrap()[..]), (4, "41"));
}

/// control-plane.md §4, "Watches": at once, below, by what removes it, and not any more.
pub(crate) async fn watches_tell_of_what_is_below(server: Server) {
    let (store, other) = (server.connect().await, server.connect().await);
    store.watch("/t/a", "t").await.unwrap();
    let mut news = Inbox::of(&store);
    news.wait_for("t", "/t/a").await;
    assert!(matches!(store.watch("/t/a", "t").await, Err(Error::Exists { .. })));
    store.watch("/t/a", "u").await.unwrap();
    news.wait_for("u", "/t/a").await;

    other.write("/t/a/b/c", b"1").await.unwrap();
    news.wait_for("t", "/t/a/b/c").await;
    other.remove("/t").await.unwrap();
    news.wait_for("t", "/t/a").await;

    store.unwatch("/t/a", "t").await.unwrap();
    assert!(matches!(store.unwatch("/t/a", "t").await, Err(Error::NoEntry { .. })));
    other.write("/t/a", b"2").await.unwrap();
    let changed = loop {
        let changed = store.changed().await;
        if changed.iter().any(|c| matches!(&c.paths, Paths::These(paths) if paths.contains("/t/a"))) {
            break changed;
        }
    };
    assert!(changed.iter().all(|changed| changed.token == "u"), "{changed:?}");
}

/// The published clients lose these: of every node that somebody writes, the last value is seen, however slow the reader.
pub(crate) async fn ten_thousand_changes_and_none_lost(server: Server) {
    const NODES: usize = 200;
    const ROUNDS: usize = 50;
    let (store, writer) = (server.connect().await, server.connect().await);
    let path = |node: usize| format!("/t/{}/{node}", node % 7);
    for token in 0..7 {
        let dir = format!("/t/{token}");
        store.mkdir(&dir).await.unwrap();
        store.watch(&dir, &token.to_string()).await.unwrap();
    }
    let write = tokio::spawn(async move {
        for round in 0..ROUNDS {
            for node in 0..NODES {
                writer.write(&path(node), round.to_string().as_bytes()).await.unwrap();
            }
        }
    });
    let mut seen = BTreeMap::new();
    let last = (ROUNDS - 1).to_string();
    while seen.len() < NODES || seen.values().any(|value| *value != last) {
        for changed in store.changed().await {
            let paths = match changed.paths {
                Paths::These(paths) => paths,
                Paths::AllBelow => {
                    let dir = format!("/t/{}", changed.token);
                    let names = store.directory(&dir).await.unwrap();
                    names.into_iter().map(|name| format!("{dir}/{name}")).collect()
                }
            };
            for path in paths.into_iter().filter(|path| path.matches('/').count() == 3) {
                let value = store.read_text(&path).await.unwrap();
                seen.insert(path, value);
            }
        }
    }
    write.await.unwrap();
    assert_eq!(seen.keys().cloned().collect::<BTreeSet<_>>(), (0..NODES).map(path).collect());
}

/// A list of children beyond one message: read in parts, also inside of a transaction.
pub(crate) async fn six_hundred_children_are_listed(server: Server) {
    let store = server.connect().await;
    let names: BTreeSet<String> = (0..600).map(|n| format!("a-child-with-a-longer-name-{n}")).collect();
    for name in &names {
        store.write(&format!("/t/{name}"), b"").await.unwrap();
    }
    assert_eq!(store.directory("/t").await.unwrap().into_iter().collect::<BTreeSet<_>>(), names);
    let inside = store
        .transaction(async |nodes| {
            nodes.mkdir("/t/one-more").await?;
            nodes.directory("/t").await
        })
        .await
        .unwrap();
    assert_eq!(inside.len(), 601);
}

/// A guest's own client: relative paths, what it may read and write, and that a refusal is an outcome of its own.
pub(crate) async fn a_guest_sees_what_it_may(mut server: Server) {
    let address = server.add_guest(GUEST).await;
    let (dom0, guest) = (server.connect().await, Store::connect(&address).await.unwrap());
    dom0.write("/secret", b"s").await.unwrap();
    dom0.set_permissions("/secret", &[may(DomId(0), Rights::None)]).await.unwrap();
    dom0.watch("/local/domain/7/data", "d").await.unwrap();
    let (mut news, mut guest_news) = (Inbox::of(&dom0), Inbox::of(&guest));

    guest.write("data/x", b"hello").await.unwrap();
    news.wait_for("d", "/local/domain/7/data/x").await;
    assert_eq!(dom0.read_text("/local/domain/7/data/x").await.unwrap(), "hello");
    let owner = dom0.permissions("/local/domain/7/data/x").await.unwrap()[0];
    assert_eq!(owner, may(GUEST, Rights::None));

    let secret = guest.read("/secret").await;
    assert!(matches!(&secret, Err(Error::Access { path }) if path == "/secret"), "{secret:?}");
    for refused in [
        guest.write("/local/domain/7/name", b"x").await,
        guest.write("/other", b"x").await,
        guest.remove("/secret").await,
        guest.set_permissions("/secret", &[may(GUEST, Rights::Both)]).await,
        guest.directory("/secret").await.map(|_| ()),
    ] {
        assert!(matches!(refused, Err(Error::Access { .. })), "{refused:?}");
    }
    guest.watch("data", "mine").await.unwrap();
    guest_news.wait_for("mine", "data").await;
    dom0.write("/local/domain/7/data/y", b"1").await.unwrap();
    guest_news.wait_for("mine", "data/y").await;
}

/// control-plane.md §4, "Quotas": each is a [`Error::Quota`] with the path, and the connection lives on.
pub(crate) async fn quotas_are_errors_of_their_own(mut server: Server) {
    let address = server.add_guest(GUEST).await;
    let guest = Store::connect(&address).await.unwrap();
    let is_quota = |error: &Error, of: &str| matches!(error, Error::Quota { path, .. } if path == of);

    let long = guest.write("data/long", &[b'x'; 3000]).await.unwrap_err();
    assert!(is_quota(&long, "data/long"), "{long}");

    let mut watches = 0;
    let refused = loop {
        match guest.watch("data", &watches.to_string()).await {
            Ok(()) => watches += 1,
            Err(error) => break error,
        }
        assert!(watches < 1000, "no quota of watches");
    };
    assert!(watches >= 50 && is_quota(&refused, "data"), "{watches}: {refused}");

    let mut nodes = 0;
    let refused = loop {
        let path = format!("data/{nodes}");
        match guest.write(&path, b"").await {
            Ok(()) => nodes += 1,
            Err(error) => break (path, error),
        }
        assert!(nodes < 5000, "no quota of nodes");
    };
    assert!(nodes >= 500 && is_quota(&refused.1, &refused.0), "{nodes}: {refused:?}");
    assert_eq!(guest.read_text("data/0").await.unwrap(), "");
}

/// control-plane.md §4, "xenstored death": found again, watched again, and everybody told.
pub(crate) async fn a_store_that_comes_back_is_watched_again(mut server: Server) {
    let store = server.connect().await;
    store.mkdir("/t").await.unwrap();
    store.watch("/t", "t").await.unwrap();
    store.watch("@releaseDomain", "r").await.unwrap();
    let mut news = Inbox::of(&store);
    news.wait_for("t", "/t").await;

    server.kill();
    while store.read("/t").await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.restart().await;
    let mut told = BTreeSet::new();
    while told.len() < 2 {
        let away = store.changed().await.into_iter().filter(|changed| changed.store_was_away);
        told.extend(away.map(|changed| changed.token));
    }
    assert!(matches!(store.link(), Link::Up { connection: 2.. }));
    // Whoever is told reads again, and this is behind the watches on the same connection.
    let _ = store.read("/t").await;
    server.connect().await.write("/t/new", b"1").await.unwrap();
    news.wait_for("t", "/t/new").await;
    assert_eq!(store.read_text("/t/new").await.unwrap(), "1");
}

/// control-plane.md §4: the store tells that some domain came or went; which, one has to ask.
pub(crate) async fn domains_come_and_go(mut server: Server) {
    let store = server.connect().await;
    store.watch("@introduceDomain", "in").await.unwrap();
    store.watch("@releaseDomain", "out").await.unwrap();
    let mut news = Inbox::of(&store);
    news.wait_for("in", "@introduceDomain").await;
    news.wait_for("out", "@releaseDomain").await;
    assert!(!store.is_introduced(GUEST).await.unwrap());

    server.add_guest(GUEST).await;
    news.wait_for("in", "@introduceDomain").await;
    assert!(store.is_introduced(GUEST).await.unwrap());
    server.destroy_guest(GUEST);
    news.wait_for("out", "@releaseDomain").await;
    assert!(!store.is_introduced(GUEST).await.unwrap());
}
