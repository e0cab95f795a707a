//! The store's rules, one request after the other, by the behaviour of the C xenstored (control plane: xenstore client).

use bytes::BytesMut;

use super::*;
use crate::store::wire::{Kind, Permission};

const GUEST: DomId = DomId(7);

/// A store and the messages each connection was sent.
struct World {
    core: Core,
    events: Vec<(u64, String, String)>,
}

impl World {
    fn new() -> Self {
        Self { core: Core::new(), events: Vec::new() }
    }

    fn ask_in(&mut self, connection: u64, tx_id: u32, request: &Request<'_>) -> Result<String, String> {
        let mut bytes = BytesMut::new();
        request.encode(5, tx_id, &mut bytes).unwrap();
        let message = Message::decode(&mut bytes).unwrap().unwrap();
        let mut outgoing = self.core.handle(connection, &message).into_iter();
        let (to, answer) = outgoing.next().unwrap();
        assert_eq!((to, answer.req_id, answer.tx_id), (connection, 5, tx_id));
        for (to, event) in outgoing {
            assert_eq!(event.kind, Kind::WATCH_EVENT);
            let text = String::from_utf8(event.payload.to_vec()).unwrap();
            let (path, token) = text.strip_suffix('\0').unwrap().split_once('\0').unwrap();
            self.events.push((to, path.into(), token.into()));
        }
        let text = String::from_utf8_lossy(&answer.payload).into_owned();
        if answer.kind == Kind::ERROR { Err(text.trim_end_matches('\0').into()) } else { Ok(text) }
    }

    fn ask(&mut self, connection: u64, request: &Request<'_>) -> Result<String, String> {
        self.ask_in(connection, 0, request)
    }

    fn write(&mut self, connection: u64, path: &str, value: &str) -> Result<String, String> {
        self.ask(connection, &Request::Write { path, value: value.as_bytes() })
    }

    fn read(&mut self, connection: u64, path: &str) -> Result<String, String> {
        self.ask(connection, &Request::Read { path })
    }

    fn allow(&mut self, path: &str, list: &[&str]) {
        let permissions = list.iter().map(|p| Permission::parse(p).unwrap()).collect();
        self.core.as_dom0(&Request::SetPermissions { path, permissions }).0.unwrap();
    }

    fn start(&mut self, connection: u64) -> u32 {
        let id = self.ask(connection, &Request::TransactionStart).unwrap();
        id.trim_end_matches('\0').parse().unwrap()
    }

    fn events(&mut self) -> Vec<(u64, String, String)> {
        std::mem::take(&mut self.events)
    }
}

fn event(to: u64, path: &str, token: &str) -> (u64, String, String) {
    (to, path.into(), token.into())
}

/// WRITE makes parents, which is why a backend must never write into a directory that was removed.
#[test]
fn writing_makes_parents_and_removing_takes_children() {
    let mut w = World::new();
    let dom0 = w.core.connect(DomId::DOM0);

    w.write(dom0, "/a/b/c", "1").unwrap();

    assert_eq!(w.read(dom0, "/a/b").unwrap(), "");
    assert_eq!(w.ask(dom0, &Request::Directory { path: "/a" }).unwrap(), "b\0");
    w.ask(dom0, &Request::Remove { path: "/a" }).unwrap();
    assert_eq!(w.read(dom0, "/a/b/c").unwrap_err(), "ENOENT");
    assert_eq!(w.ask(dom0, &Request::Remove { path: "/a" }).unwrap(), "OK\0", "its parent exists");
    assert_eq!(w.ask(dom0, &Request::Remove { path: "/a/b" }).unwrap_err(), "ENOENT");
    assert_eq!(w.ask(dom0, &Request::Remove { path: "/" }).unwrap_err(), "EINVAL");
    assert_eq!(w.write(dom0, "/a//b", "").unwrap_err(), "EINVAL");
}

/// A watch fires once when set, for the node and all below it, and with its own path when a parent goes.
#[test]
fn watches_hear_of_themselves_children_and_lost_parents() {
    let mut w = World::new();
    let dom0 = w.core.connect(DomId::DOM0);
    let other = w.core.connect(DomId::DOM0);
    w.ask(dom0, &Request::Watch { path: "/a/b", token: "t" }).unwrap();
    assert_eq!(w.events(), [event(dom0, "/a/b", "t")]);
    assert_eq!(w.ask(dom0, &Request::Watch { path: "/a/b", token: "t" }).unwrap_err(), "EEXIST");

    w.write(other, "/a/b/c", "1").unwrap();
    w.write(other, "/a/bc", "1").unwrap();
    assert_eq!(w.events(), [event(dom0, "/a/b/c", "t")]);

    w.ask(other, &Request::Remove { path: "/a" }).unwrap();
    assert_eq!(w.events(), [event(dom0, "/a/b", "t")]);

    w.ask(dom0, &Request::Unwatch { path: "/a/b", token: "t" }).unwrap();
    assert_eq!(w.ask(dom0, &Request::Unwatch { path: "/a/b", token: "t" }).unwrap_err(), "ENOENT");
    w.write(other, "/a/b", "2").unwrap();
    assert_eq!(w.events(), []);
}

/// All of a transaction at once, and watches with it.
#[test]
fn a_transaction_is_seen_by_others_only_when_committed() {
    let mut w = World::new();
    let (one, two) = (w.core.connect(DomId::DOM0), w.core.connect(DomId::DOM0));
    w.ask(two, &Request::Watch { path: "/x", token: "t" }).unwrap();
    w.events();
    let tx = w.start(one);

    w.ask_in(one, tx, &Request::Write { path: "/x/a", value: b"1" }).unwrap();
    w.ask_in(one, tx, &Request::Write { path: "/x/b", value: b"2" }).unwrap();

    assert_eq!(w.ask_in(one, tx, &Request::Read { path: "/x/a" }).unwrap(), "1");
    assert_eq!(w.read(two, "/x/a").unwrap_err(), "ENOENT");
    assert_eq!(w.events(), []);
    w.ask_in(one, tx, &Request::TransactionEnd { commit: true }).unwrap();
    assert_eq!(w.read(two, "/x/b").unwrap(), "2");
    assert_eq!(w.events(), [event(two, "/x/a", "t"), event(two, "/x/b", "t")]);
    assert_eq!(w.ask_in(one, tx, &Request::TransactionEnd { commit: true }).unwrap_err(), "ENOENT");
}

/// Anything read or written in it that others changed: EAGAIN, and nothing done.
#[test]
fn a_transaction_that_met_a_change_is_refused() {
    let mut w = World::new();
    let (one, two) = (w.core.connect(DomId::DOM0), w.core.connect(DomId::DOM0));
    w.write(one, "/state", "1").unwrap();
    for conflict in ["/state", "/not-there"] {
        let tx = w.start(one);
        let _ = w.ask_in(one, tx, &Request::Read { path: conflict });
        w.ask_in(one, tx, &Request::Write { path: "/mine", value: b"x" }).unwrap();
        w.write(two, conflict, "2").unwrap();

        let end = w.ask_in(one, tx, &Request::TransactionEnd { commit: true });
        assert_eq!(end.unwrap_err(), "EAGAIN", "{conflict}");
        assert_eq!(w.read(one, "/mine").unwrap_err(), "ENOENT");
    }
    let tx = w.start(one);
    assert_eq!(w.ask_in(one, tx, &Request::TransactionStart).unwrap_err(), "EBUSY");
    w.ask_in(one, tx, &Request::Write { path: "/mine", value: b"x" }).unwrap();
    w.ask_in(one, tx, &Request::TransactionEnd { commit: false }).unwrap();
    assert_eq!(w.read(one, "/mine").unwrap_err(), "ENOENT");
}

/// A guest owns its frontend directory, reads the backend's, and learns nothing of its neighbours.
#[test]
fn domains_have_the_rights_that_nodes_give() {
    let mut w = World::new();
    let (dom0, guest) = (w.core.connect(DomId::DOM0), w.core.connect(GUEST));
    w.write(dom0, "/local/domain/7/device/vbd/1/state", "1").unwrap();
    w.allow("/local/domain/7/device/vbd/1", &["n7", "r0"]);
    w.write(dom0, "/backend/7/state", "2").unwrap();
    w.allow("/backend/7", &["n0", "r7"]);
    w.write(dom0, "/backend/7/sectors", "8").unwrap();

    assert_eq!(w.read(guest, "/backend/7/sectors").unwrap(), "8", "inherited");
    assert_eq!(w.write(guest, "/backend/7/sectors", "9").unwrap_err(), "EACCES");
    assert_eq!(w.read(guest, "/backend/8/x").unwrap_err(), "EACCES", "not even whether it exists");
    assert_eq!(w.read(guest, "/backend/7/nothing").unwrap_err(), "ENOENT");
    w.write(guest, "device/vbd/1/ring-ref", "8").unwrap();
    assert_eq!(w.read(dom0, "/local/domain/7/device/vbd/1/ring-ref").unwrap(), "8");
    let permissions = Request::Permissions { path: "/local/domain/7/device/vbd/1/ring-ref" };
    assert_eq!(w.ask(guest, &permissions).unwrap(), "n7\0r0\0");
    let give_away = Request::SetPermissions {
        path: "device/vbd/1/ring-ref",
        permissions: vec![Permission::parse("n0").unwrap()],
    };
    assert_eq!(w.ask(guest, &give_away).unwrap_err(), "EPERM");
    assert_eq!(w.ask(guest, &Request::Release { domain: GUEST }).unwrap_err(), "EACCES");
}

/// No news of what one may not read; relative watches get relative paths.
#[test]
fn a_guests_watches_hear_what_it_may_read() {
    let mut w = World::new();
    let (dom0, guest) = (w.core.connect(DomId::DOM0), w.core.connect(GUEST));
    w.write(dom0, "/local/domain/7/data", "").unwrap();
    w.allow("/local/domain/7/data", &["n7"]);
    w.ask(guest, &Request::Watch { path: "data", token: "mine" }).unwrap();
    w.ask(guest, &Request::Watch { path: "/secret", token: "not" }).unwrap();
    w.ask(guest, &Request::Watch { path: "@releaseDomain", token: "gone" }).unwrap();
    w.ask(dom0, &Request::Watch { path: "@releaseDomain", token: "gone" }).unwrap();
    w.events();

    w.write(dom0, "/secret/x", "1").unwrap();
    w.write(dom0, "/local/domain/7/data/x", "1").unwrap();
    assert_eq!(w.events(), [event(guest, "data/x", "mine")]);

    w.ask(dom0, &Request::Introduce { domain: DomId(9), ring_frame: 0, port: 1 }).unwrap();
    assert_eq!(w.ask(dom0, &Request::IsIntroduced { domain: DomId(9) }).unwrap(), "T\0");
    w.ask(dom0, &Request::Release { domain: DomId(9) }).unwrap();
    assert_eq!(w.events(), [event(dom0, "@releaseDomain", "gone")]);
    assert_eq!(w.ask(dom0, &Request::IsIntroduced { domain: DomId(9) }).unwrap(), "F\0");
}

/// What stops a guest from filling the store; dom0 is not stopped.
#[test]
fn quotas_hold_for_guests() {
    let mut w = World::new();
    let (dom0, guest) = (w.core.connect(DomId::DOM0), w.core.connect(GUEST));
    for dir in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        let path = format!("/local/domain/7/{dir}");
        w.write(dom0, &path, "").unwrap();
        w.allow(&path, &["n7"]);
    }
    let created =
        (0..2000).take_while(|i| w.write(guest, &format!("{}/{i}", ["a", "b", "c", "d"][i % 4]), "").is_ok());
    assert_eq!(created.count(), 990);
    assert_eq!(w.write(guest, "a/more", "").unwrap_err(), "ENOSPC");
    assert_eq!(w.write(guest, "e", &"x".repeat(2100)).unwrap_err(), "ENOSPC");
    w.write(dom0, "/big", &"x".repeat(4000)).unwrap();

    for i in 0..128 {
        w.ask(guest, &Request::Watch { path: "a", token: &i.to_string() }).unwrap();
    }
    assert_eq!(w.ask(guest, &Request::Watch { path: "a", token: "more" }).unwrap_err(), "E2BIG");
    for _ in 0..10 {
        w.start(guest);
    }
    assert_eq!(w.ask(guest, &Request::TransactionStart).unwrap_err(), "ENOSPC");
    w.ask(guest, &Request::ResetWatches).unwrap();
    w.start(guest);
}

/// A directory whose names do not fit into a payload (hostile X11).
#[test]
fn a_long_directory_comes_in_parts() {
    let mut w = World::new();
    let dom0 = w.core.connect(DomId::DOM0);
    let names: Vec<String> = (0..600).map(|i| format!("child-{i:05}")).collect();
    for name in &names {
        w.write(dom0, &format!("/d/{name}"), "").unwrap();
    }
    assert_eq!(w.ask(dom0, &Request::Directory { path: "/d" }).unwrap_err(), "E2BIG");

    let (mut seen, mut offset_bytes) = (Vec::new(), 0);
    loop {
        let answer = w.ask(dom0, &Request::DirectoryPart { path: "/d", offset_bytes }).unwrap();
        assert!(answer.len() <= PAYLOAD_MAX);
        let part = crate::store::wire::DirectoryPart::parse(answer.as_bytes()).unwrap();
        seen.extend(part.names.iter().map(|n| (*n).to_owned()));
        offset_bytes += part.len_bytes;
        if part.is_last {
            break;
        }
    }
    assert_eq!(seen, names);
}

/// Requests that make no sense are answered, and the connection lives on.
#[test]
fn nonsense_is_answered() {
    let mut w = World::new();
    let dom0 = w.core.connect(DomId::DOM0);
    for (kind, payload, expected) in [
        (Kind(999), &b"x\0"[..], "ENOSYS\0"),
        (Kind::READ, b"no-nul", "EINVAL\0"),
        (Kind::TRANSACTION_END, b"T\0", "ENOENT\0"),
    ] {
        let message = Message { kind, req_id: 1, tx_id: 0, payload: Bytes::from_static(payload) };
        let outgoing = w.core.handle(dom0, &message);
        assert_eq!(outgoing[0].1.kind, Kind::ERROR);
        assert_eq!(outgoing[0].1.payload, expected.as_bytes());
    }
    assert_eq!(w.ask_in(dom0, 77, &Request::Read { path: "/" }).unwrap_err(), "ENOENT");
}

/// Over the socket: pipelined requests, and a client that is cut off does not disturb the other.
#[test]
fn the_socket_serves_two_clients() {
    let dir = tempfile::tempdir().unwrap();
    let server = StoreServer::start(dir.path()).unwrap();
    let mut good = UnixStream::connect(dir.path().join("xenstored.sock")).unwrap();
    let mut bad = UnixStream::connect(dir.path().join("xenstored.sock")).unwrap();
    bad.write_all(&[0xFF; 16]).unwrap();
    assert_eq!(bad.read(&mut [0; 16]).unwrap(), 0, "an impossible length ends the connection");

    let mut bytes = BytesMut::new();
    for i in 0..500u32 {
        Request::Write { path: &format!("/n/{i}"), value: b"v" }.encode(i, 0, &mut bytes).unwrap();
    }
    good.write_all(&bytes).unwrap();
    let (mut input, mut chunk) = (BytesMut::new(), [0; 4096]);
    for i in 0..500u32 {
        let answer = loop {
            if let Some(m) = Message::decode(&mut input).unwrap() {
                break m;
            }
            let n = good.read(&mut chunk).unwrap();
            assert_ne!(n, 0);
            input.extend_from_slice(&chunk[..n]);
        };
        assert_eq!((answer.req_id, &answer.payload[..]), (i, &b"OK\0"[..]));
    }
    server.close(DomId::DOM0);
    assert_eq!(good.read(&mut chunk).unwrap(), 0);
}
