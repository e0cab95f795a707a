//! The client against a store that answers as each test says: late, wrongly, in pieces, or not at all. What real stores do is
//! tested elsewhere, against real ones.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::wire::{Errno, Kind, Message, Request};
use super::*;

/// A listening socket that a [`Store`] connects to.
struct Fake {
    _dir: TempDir,
    listener: UnixListener,
    address: Address,
}

/// The fake's end of one connection.
struct Peer {
    stream: UnixStream,
    input: BytesMut,
}

impl Fake {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        Self { _dir: dir, listener, address: Address::Socket(path) }
    }

    async fn accept(&self) -> Peer {
        Peer { stream: self.listener.accept().await.unwrap().0, input: BytesMut::new() }
    }

    async fn connect(&self) -> (Store, Peer) {
        let (store, peer) = tokio::join!(Store::connect(&self.address), self.accept());
        (store.unwrap(), peer)
    }
}

impl Peer {
    async fn next(&mut self) -> Message {
        loop {
            if let Some(message) = Message::decode(&mut self.input).unwrap() {
                return message;
            }
            assert_ne!(self.stream.read_buf(&mut self.input).await.unwrap(), 0, "the client hung up");
        }
    }

    async fn send(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn answer(&mut self, request: &Message, payload: impl Into<Bytes>) {
        let answer = Message { kind: request.kind, payload: payload.into(), ..*request };
        self.send(answer).await;
    }

    /// Takes one request, which must be of that kind, and answers it.
    async fn serve(&mut self, kind: Kind, payload: &'static [u8]) -> Message {
        let request = self.next().await;
        assert_eq!(request.kind, kind);
        self.answer(&request, payload).await;
        request
    }

    async fn refuse(&mut self, kind: Kind, errno: Errno) {
        let request = self.next().await;
        assert_eq!(request.kind, kind);
        self.send(Message::error(errno, request.req_id, request.tx_id)).await;
    }
}

/// Runs a test on the kind of runtime that the daemon has.
fn run(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Duration::from_secs(60);
    runtime.block_on(async { tokio::time::timeout(limit, test()).await.expect("the test hangs") });
}

/// xenstore.txt: answers are matched by request number, whatever their order.
#[test]
fn answers_find_their_requests() {
    run(async || {
        let (store, mut peer) = Fake::new().connect().await;
        let serve = async {
            let (a, b) = (peer.next().await, peer.next().await);
            peer.answer(&b, b.payload.clone()).await;
            peer.send(Message::event(b"/nobody", b"unasked")).await;
            peer.answer(&a, a.payload.clone()).await;
        };
        let (a, b, ()) = tokio::join!(store.read_text("/a"), store.read_text("/b"), serve);
        assert_eq!((a.unwrap(), b.unwrap()), ("/a\0".into(), "/b\0".into()));
    });
}

/// A store of which not a word can be trusted costs the connection, never the process.
#[test]
fn nonsense_ends_the_connection_and_is_survived() {
    run(async || {
        let fake = Fake::new();
        let (store, mut peer) = fake.connect().await;
        for nonsense in 0..5 {
            let misbehave = async {
                let request = peer.next().await;
                match nonsense {
                    0 => peer.send(Message::ok(Kind::READ, request.req_id + 1, 0)).await,
                    1 => peer.send(Message::ok(Kind::WRITE, request.req_id, 0)).await,
                    2 => peer.stream.write_all(&[0xff; 16]).await.unwrap(),
                    3 => peer.answer(&Message { kind: Kind::WATCH_EVENT, ..request }, &b"/a"[..]).await,
                    _ => peer.stream.write_all(&[2, 0, 0, 0]).await.unwrap(),
                }
                if nonsense == 4 {
                    peer.stream.shutdown().await.unwrap();
                }
                assert_eq!(peer.stream.read(&mut [0]).await.unwrap(), 0);
                peer = fake.accept().await;
            };
            let (result, ()) = tokio::join!(store.read("/a"), misbehave);
            while store.link() != (Link::Up { connection: nonsense + 2 }) {
                tokio::task::yield_now().await;
            }
            match result {
                Err(Error::Protocol { path, .. }) if nonsense < 4 => assert_eq!(path, "/a"),
                Err(Error::Disconnected { path }) if nonsense == 4 => assert_eq!(path, "/a"),
                other => panic!("{nonsense}: {other:?}"),
            }
        }
    });
}

/// Scenario 31 and "xenstored death": requests under way fail, all watches are set again ahead of anything else, every token is
/// told to look again, and a transaction of the old connection does not act on the new one.
#[test]
fn a_returning_store_gets_the_watches_again() {
    run(async || {
        let fake = Fake::new();
        let (store, mut peer) = fake.connect().await;
        let watch = async {
            store.watch("/a", "t").await.unwrap();
            store.watch("/b", "t").await.unwrap();
            store.watch("@releaseDomain", "u").await.unwrap();
            store.unwatch("/a", "t").await.unwrap();
        };
        let serve = async {
            for kind in [Kind::WATCH, Kind::WATCH, Kind::WATCH, Kind::UNWATCH] {
                peer.serve(kind, b"OK\0").await;
            }
            peer.serve(Kind::TRANSACTION_START, b"77\0").await;
            let read = peer.next().await;
            assert_eq!((read.kind, read.tx_id), (Kind::READ, 77));
            peer.stream.write_all(b"\x02\0\0").await.unwrap();
            drop(peer);
            let mut peer = fake.accept().await;
            let (b, u) = (peer.next().await, peer.next().await);
            assert_eq!(Request::parse(&b), Ok(Request::Watch { path: "/b", token: "t" }));
            assert_eq!(Request::parse(&u), Ok(Request::Watch { path: "@releaseDomain", token: "u" }));
            peer.answer(&b, &b"OK\0"[..]).await;
            peer.answer(&u, &b"OK\0"[..]).await;
            peer
        };
        let work = async {
            watch.await;
            let stale: Result<(), Error> = store
                .transaction(async |nodes| {
                    assert!(matches!(nodes.read("/x").await, Err(Error::Disconnected { .. })));
                    let news = store.changed().await;
                    assert!(news.iter().all(|n| n.store_was_away && n.paths == Paths::AllBelow));
                    assert_eq!(news.iter().map(|n| &n.token[..]).collect::<Vec<_>>(), ["t", "u"]);
                    assert_eq!(store.link(), Link::Up { connection: 2 });
                    nodes.write("/x", b"").await
                })
                .await;
            assert!(matches!(stale, Err(Error::Disconnected { .. })), "{stale:?}");
        };
        let (mut peer, ()) = tokio::join!(serve, work);
        let (value, request) = tokio::join!(store.read("/y"), peer.serve(Kind::READ, b"v"));
        assert_eq!((value.unwrap(), request.tx_id), (b"v".to_vec(), 0));
    });
}

/// While the store is away, requests fail at once and watches are kept for its return.
#[test]
fn watches_can_be_set_while_the_store_is_away() {
    run(async || {
        let fake = Fake::new();
        let (store, peer) = fake.connect().await;
        let Fake { _dir: dir, listener, address } = fake;
        drop((peer, listener));
        while store.link() != (Link::Away { connection: 1 }) {
            tokio::task::yield_now().await;
        }
        assert!(matches!(store.read("/a").await, Err(Error::Disconnected { .. })));
        store.watch("/a", "t").await.unwrap();
        store.watch("/b", "t").await.unwrap();
        store.unwatch("/a", "t").await.unwrap();
        assert!(matches!(store.unwatch("/a", "t").await, Err(Error::NoEntry { .. })));

        std::fs::remove_file(address.path()).unwrap();
        let fake = Fake { listener: UnixListener::bind(address.path()).unwrap(), _dir: dir, address };
        let mut peer = fake.accept().await;
        let request = peer.serve(Kind::WATCH, b"OK\0").await;
        assert_eq!(Request::parse(&request), Ok(Request::Watch { path: "/b", token: "t" }));
        assert!(store.changed().await[0].store_was_away);
    });
}

/// X16; xenstore.txt: `EAGAIN` at the end means once more from the start, twenty times at most.
#[test]
fn a_transaction_is_tried_again_from_the_start() {
    run(async || {
        let (store, mut peer) = Fake::new().connect().await;
        let serve = async {
            for (id, end) in [(&b"5\0"[..], Some(Errno::Again)), (b"6\0", Some(Errno::Again)), (b"7\0", None)]
            {
                peer.serve(Kind::TRANSACTION_START, id).await;
                peer.serve(Kind::READ, id).await;
                match end {
                    Some(errno) => peer.refuse(Kind::TRANSACTION_END, errno).await,
                    None => assert_eq!(&peer.serve(Kind::TRANSACTION_END, b"OK\0").await.payload[..], b"T\0"),
                }
            }
        };
        let work = store.transaction(async |nodes| nodes.read("/a").await);
        let (value, ()) = tokio::join!(work, serve);
        assert_eq!(value.unwrap(), b"7\0");
    });
}

/// A node that somebody changes all the time must not hold the caller for ever.
#[test]
fn a_transaction_is_not_tried_for_ever() {
    run(async || {
        let (store, mut peer) = Fake::new().connect().await;
        let serve = async {
            for _ in 0..20 {
                peer.serve(Kind::TRANSACTION_START, b"5\0").await;
                peer.refuse(Kind::TRANSACTION_END, Errno::Again).await;
            }
        };
        let work = store.transaction(async |_| Ok::<_, Error>(()));
        let (result, ()) = tokio::join!(work, serve);
        assert!(matches!(result, Err(Error::Again { attempts: 20, .. })), "{result:?}");
    });
}

/// An open transaction holds up a live update of the store (control-plane notes, scenario 31): whatever ends it, it is ended.
#[test]
fn no_transaction_is_left_open() {
    run(async || {
        let (store, mut peer) = Fake::new().connect().await;

        let dropped = async |peer: &mut Peer, id: &'static [u8], tx_id: u32| {
            peer.serve(Kind::TRANSACTION_START, id).await;
            let end = peer.serve(Kind::TRANSACTION_END, b"OK\0").await;
            assert_eq!((&end.payload[..], end.tx_id), (&b"F\0"[..], tx_id));
        };
        let fail = store.transaction(async |_| {
            Err::<(), _>(Error::Invalid { path: "/a".into(), reason: "the work says so" })
        });
        let (result, ()) = tokio::join!(fail, dropped(&mut peer, b"5\0", 5));
        assert!(matches!(result, Err(Error::Invalid { .. })));

        let forever = store.transaction(async |_| std::future::pending::<Result<(), Error>>().await);
        tokio::select! {
            _ = forever => panic!("it never ends"),
            _ = peer.serve(Kind::TRANSACTION_START, b"6\0") => {}
        }
        let end = peer.serve(Kind::TRANSACTION_END, b"OK\0").await;
        assert_eq!((&end.payload[..], end.tx_id), (&b"F\0"[..], 6));

        let start = {
            let never_started = store.transaction(async |_| Ok::<_, Error>(()));
            tokio::select! {
                _ = never_started => panic!("not answered yet"),
                start = peer.next() => start,
            }
        };
        peer.answer(&start, &b"8\0"[..]).await;
        let end = peer.serve(Kind::TRANSACTION_END, b"OK\0").await;
        assert_eq!((&end.payload[..], end.tx_id), (&b"F\0"[..], 8));
    });
}

/// xenstore.txt, DIRECTORY_PART: a list that changes while it is read is read again from the start.
#[test]
fn a_long_listing_is_read_in_parts() {
    run(async || {
        let (store, mut peer) = Fake::new().connect().await;
        let serve = async {
            peer.refuse(Kind::DIRECTORY, Errno::TooBig).await;
            let offsets =
                [("0", &b"1\0a\0b\0"[..]), ("4", b"2\0c\0\0"), ("0", b"2\0a\0"), ("2", b"2\0c\0\0")];
            for (offset, part) in offsets {
                let request = peer.serve(Kind::DIRECTORY_PART, part).await;
                assert_eq!(&request.payload[..], format!("/d\0{offset}\0").as_bytes());
            }
            peer.refuse(Kind::DIRECTORY, Errno::TooBig).await;
            peer.serve(Kind::DIRECTORY_PART, b"1\0").await;
            peer.refuse(Kind::DIRECTORY, Errno::TooBig).await;
            peer.refuse(Kind::DIRECTORY_PART, Errno::NotImplemented).await;
        };
        let list = async {
            assert_eq!(store.directory("/d").await.unwrap(), ["a", "c"]);
            let stuck = store.directory("/d").await;
            assert!(matches!(stuck, Err(Error::Protocol { .. })), "{stuck:?}");
            let unable = store.directory("/d").await;
            assert!(matches!(unable, Err(Error::Invalid { .. })), "{unable:?}");
        };
        tokio::join!(serve, list);
    });
}

/// Each error a store may answer is an outcome of its own, and names what it is about.
#[test]
fn errors_are_typed() {
    run(async || {
        let (store, mut peer) = Fake::new().connect().await;
        for &errno in Errno::ALL {
            let (result, ()) = tokio::join!(store.read("/a"), peer.refuse(Kind::READ, errno));
            let error = result.unwrap_err();
            let is_expected = match errno {
                Errno::NoEntry => matches!(error, Error::NoEntry { .. }),
                Errno::Access | Errno::NotPermitted => matches!(error, Error::Access { .. }),
                Errno::Exists => matches!(error, Error::Exists { .. }),
                Errno::Again => matches!(error, Error::Again { .. }),
                Errno::Invalid => matches!(error, Error::Invalid { .. }),
                Errno::NoSpace | Errno::NoMemory | Errno::Quota | Errno::TooBig => {
                    matches!(error, Error::Quota { .. })
                }
                _ => matches!(error, Error::Refused { .. }),
            };
            assert!(is_expected && error.to_string().contains("/a"), "{errno:?}: {error}");
        }
        let unknown = async {
            let request = peer.next().await;
            let answer = Message { kind: Kind::ERROR, payload: Bytes::from_static(b"EWHAT\0"), ..request };
            peer.send(answer).await;
        };
        let (result, ()) = tokio::join!(store.read("/a"), unknown);
        assert!(result.unwrap_err().to_string().contains("EWHAT"));
    });
}

/// What cannot be sent is refused here, by name, and costs no connection: a store cuts off whoever sends too much.
#[test]
fn what_cannot_be_sent_is_not_sent() {
    run(async || {
        let (store, mut peer) = Fake::new().connect().await;
        let big = store.write("/a", &[0; 4094]).await;
        assert!(matches!(big, Err(Error::TooBig { len: 4097, allowed: 4096, .. })), "{big:?}");
        for path in ["/a b", "", "/a/", "@releaseDomain", "/a\0/b"] {
            let error = store.read(path).await.unwrap_err();
            assert!(matches!(&error, Error::Invalid { path: named, .. } if named == path), "{error}");
        }
        assert!(matches!(store.watch("/a", "t\0").await, Err(Error::Invalid { .. })));
        let (value, _) = tokio::join!(store.read("/b"), peer.serve(Kind::READ, b"first"));
        assert_eq!(value.unwrap(), b"first");
    });
}

/// A caller may hold many requests at once, but only a bounded number of them reaches the store unanswered.
#[test]
fn requests_under_way_are_bounded() {
    run(async || {
        let (store, mut peer) = Fake::new().connect().await;
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { store.read_text(&format!("/{n}")).await.unwrap() })
            })
            .collect();
        let mut open = Vec::new();
        for _ in 0..16 {
            open.push(peer.next().await);
        }
        let more = tokio::time::timeout(Duration::from_millis(20), peer.next()).await;
        assert!(more.is_err(), "a 17th request");
        for _ in 0..100 {
            if let Some(request) = open.pop() {
                peer.answer(&request, request.payload.clone()).await;
            } else {
                let request = peer.next().await;
                peer.answer(&request, request.payload.clone()).await;
            }
        }
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), format!("/{n}\0"));
        }
    });
}

/// The daemon runs its parts as tasks; work in a transaction must be able to move between threads.
#[test]
fn transactions_run_in_tasks() {
    run(async || {
        let (store, mut peer) = Fake::new().connect().await;
        let value = String::from("v");
        let task = tokio::spawn(async move {
            let (value, path) = (&value, String::from("/a"));
            store
                .transaction(async |nodes| {
                    nodes.write(&path, value.as_bytes()).await?;
                    Ok::<_, Error>(())
                })
                .await
        });
        peer.serve(Kind::TRANSACTION_START, b"5\0").await;
        peer.serve(Kind::WRITE, b"OK\0").await;
        peer.serve(Kind::TRANSACTION_END, b"OK\0").await;
        task.await.unwrap().unwrap();
    });
}

/// The kernel's device takes one message per `write` and counts the header into its 4096 bytes. A FIFO opened for both ways echoes each
/// message, which is an answer of the right kind and number.
#[test]
fn the_kernels_device_is_spoken_to_message_by_message() {
    run(async || {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("xenbus");
        make_fifo(&path);
        let store = Store::connect(&Address::Device(path)).await.unwrap();
        let (a, b) = tokio::join!(store.read_text("/a"), store.read_text("/b"));
        assert_eq!((a.unwrap(), b.unwrap()), ("/a\0".into(), "/b\0".into()));
        store.write("/a", &[1; 4080 - 3]).await.unwrap();
        let big = store.write("/a", &[1; 4080 - 2]).await;
        assert!(matches!(big, Err(Error::TooBig { len: 4081, allowed: 4080, .. })), "{big:?}");
    });
}

/// Linux sends a message from a buffer that the next `write` fills anew: as long as one request is open, no other is written. Seen in a
/// driver domain as EINVAL for paths that were well-formed.
#[test]
fn the_kernels_device_has_one_request_at_a_time() {
    run(async || {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("xenbus");
        make_fifo(&path);
        let (mut incoming, mut outgoing) = link::open(&Address::Device(path)).await.unwrap();
        let mut written = BytesMut::new();
        outgoing.push(1, BytesMut::from(&b"first"[..]));
        outgoing.push(2, BytesMut::from(&b"second"[..]));
        outgoing.progress().await.unwrap();
        outgoing.answered(2);
        assert!(outgoing.is_idle(), "the first is open");
        incoming.receive(&mut written).await.unwrap();
        outgoing.answered(1);
        assert!(!outgoing.is_idle());
        outgoing.progress().await.unwrap();
        incoming.receive(&mut written).await.unwrap();
        assert_eq!(&written[..], b"firstsecond");
    });
}

/// F7: a length beyond any message's is refused as soon as the header is there, or a peer could have us wait and grow for ever.
#[test]
fn lengths_beyond_any_message_are_refused() {
    for (len, okay) in [(wire::ANSWER_MAX, true), (wire::ANSWER_MAX + 1, false), (u32::MAX as usize, false)] {
        let mut header = BytesMut::new();
        for word in [Kind::READ.0, 7, 0, u32::try_from(len).unwrap()] {
            header.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(Message::decode_answer(&mut header).is_ok(), okay, "{len}");
    }
}

fn make_fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}
