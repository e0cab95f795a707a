//! The codec against the published format (xs_wire.h, xenstore.txt) and against any bytes at all.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::DomId;

fn round_trip(request: &Request<'_>) -> Message {
    let mut bytes = BytesMut::new();
    request.encode(7, 9, &mut bytes).unwrap();
    let message = Message::decode(&mut bytes).unwrap().unwrap();
    assert!(bytes.is_empty());
    assert_eq!((message.req_id, message.tx_id), (7, 9));
    message
}

/// xs_wire.h: four words, then the payload; a `READ` carries its path with a NUL.
#[test]
fn a_read_is_laid_out_as_published() {
    let mut bytes = BytesMut::new();
    Request::Read { path: "/a" }.encode(0x0102, 3, &mut bytes).unwrap();
    assert_eq!(&bytes[..], b"\x02\0\0\0\x02\x01\0\0\x03\0\0\0\x03\0\0\0/a\0");
}

/// xenstore.txt: the value of a `WRITE` may hold NULs and has none added.
#[test]
fn a_written_value_is_any_bytes() {
    let message = round_trip(&Request::Write { path: "/a", value: b"\0x\0" });
    assert_eq!(&message.payload[..], b"/a\0\0x\0");
    assert_eq!(Request::parse(&message), Ok(Request::Write { path: "/a", value: b"\0x\0" }));
}

/// Every kind of request is understood by the other end as it was meant.
#[test]
fn requests_survive_the_wire() {
    let permissions = vec![
        Permission { domain: DomId(0), rights: Rights::None },
        Permission { domain: DomId(7), rights: Rights::Both },
    ];
    for request in [
        Request::Directory { path: "/" },
        Request::DirectoryPart { path: "/local", offset_bytes: 4000 },
        Request::Mkdir { path: "a/b" },
        Request::Remove { path: "/a" },
        Request::Permissions { path: "/a" },
        Request::SetPermissions { path: "/a", permissions },
        Request::Watch { path: "@releaseDomain", token: "any thing/é" },
        Request::Unwatch { path: "/a", token: "" },
        Request::ResetWatches,
        Request::TransactionStart,
        Request::TransactionEnd { commit: true },
        Request::TransactionEnd { commit: false },
        Request::Introduce { domain: DomId(7), ring_frame: 1 << 40, port: 5 },
        Request::Release { domain: DomId(7) },
        Request::IsIntroduced { domain: DomId(0) },
        Request::DomainPath { domain: DomId(32751) },
    ] {
        let message = round_trip(&request);
        assert_eq!(message.kind, request.kind());
        assert_eq!(Request::parse(&message), Ok(request));
    }
}

/// A server must tell "not a request that I know" (ENOSYS) from "malformed" (EINVAL).
#[test]
fn bad_requests_are_told_apart() {
    let parse = |kind: u32, payload: &'static [u8]| {
        let message = Message { kind: Kind(kind), req_id: 0, tx_id: 0, payload: Bytes::from_static(payload) };
        Request::parse(&message).map(|_| ()).unwrap_err()
    };
    for (kind, payload) in [
        (2, &b""[..]),
        (2, b"/a"),
        (2, b"/a\0b\0"),
        (2, b"/\xff\0"),
        (4, b"/a\0"),
        (7, b"X\0"),
        (11, b"/a"),
        (14, b"/a\0"),
        (14, b"/a\0z1\0"),
        (14, b"/a\0r\0"),
        (14, b"/a\0r-1\0"),
        (17, b"65536\0"),
        (17, b"+1\0"),
        (22, b"/a\0\0"),
    ] {
        assert_eq!(parse(kind, payload), BadRequest::Malformed, "{kind} {payload:?}");
    }
    for kind in [0, 15, 16, 18, 19, 20, 23, u32::MAX] {
        assert_eq!(parse(kind, b"x\0"), BadRequest::UnknownKind, "{kind}");
    }
}

/// xs_wire.h: 4096 bytes of payload are the most; one more is refused at both ends, before anything is sent.
#[test]
fn the_longest_payload_is_4096() {
    let value = [1; PAYLOAD_MAX];
    let mut bytes = BytesMut::new();
    let fits = Request::Write { path: "/a", value: &value[3..] };
    fits.encode(0, 0, &mut bytes).unwrap();
    assert_eq!(bytes.len(), HEADER_LEN + PAYLOAD_MAX);
    assert!(Message::decode(&mut bytes).unwrap().is_some());

    let too_long = Request::Write { path: "/a", value: &value[2..] };
    assert_eq!(
        too_long.encode(0, 0, &mut bytes),
        Err(TooLong { len: PAYLOAD_MAX + 1, allowed: PAYLOAD_MAX })
    );
    assert!(bytes.is_empty());
    bytes.extend_from_slice(b"\x02\0\0\0\0\0\0\0\0\0\0\0\x01\x10\0\0");
    assert_eq!(Message::decode(&mut bytes), Err(TooLong { len: PAYLOAD_MAX + 1, allowed: PAYLOAD_MAX }));
}

/// oxenstored answers `DIRECTORY` with all names, however many; there is a limit all the same.
#[test]
fn an_answer_may_be_longer_than_a_request() {
    let mut bytes = BytesMut::from(&b"\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x10\0\0"[..]);
    assert_eq!(Message::decode_answer(&mut bytes), Ok(None));
    bytes.extend_from_slice(&[0; PAYLOAD_MAX + 1]);
    assert_eq!(Message::decode_answer(&mut bytes).unwrap().unwrap().payload.len(), PAYLOAD_MAX + 1);
    bytes.extend_from_slice(b"\x01\0\0\0\0\0\0\0\0\0\0\0\x01\0\x10\0");
    assert_eq!(Message::decode_answer(&mut bytes), Err(TooLong { len: ANSWER_MAX + 1, allowed: ANSWER_MAX }));
}

/// Errors travel by name; one without its NUL, as some stores sent it, is understood, an unknown one is not guessed at.
#[test]
fn errors_are_known_by_name() {
    for &errno in Errno::ALL {
        assert_eq!(Errno::parse(&Message::error(errno, 1, 2).payload), Some(errno));
    }
    assert_eq!(Errno::parse(b"EAGAIN"), Some(Errno::Again));
    assert_eq!(Errno::parse(b"EWHAT\0"), None);
    assert_eq!(Errno::parse(b""), None);
}

/// xenstore.txt, DIRECTORY_PART: generation, whole names, and an empty one behind the last.
#[test]
fn directory_parts_say_whether_more_follows() {
    let part = DirectoryPart::parse(b"12\0ab\0c\0").unwrap();
    assert_eq!((part.generation, part.len_bytes, part.is_last), ("12", 5, false));
    assert_eq!(part.names, ["ab", "c"]);
    let last = DirectoryPart::parse(b"12\0ab\0\0").unwrap();
    assert_eq!((&last.names[..], last.is_last), (&["ab"][..], true));
    let empty = DirectoryPart::parse(b"12\0\0").unwrap();
    assert_eq!((empty.names.len(), empty.is_last), (0, true));
    assert_eq!(DirectoryPart::parse(b""), None);
    assert_eq!(DirectoryPart::parse(b"12\0a\0\0b\0"), None);
}

/// The answer of an empty directory is an empty payload.
#[test]
fn listings_and_permissions_are_lists_of_strings() {
    assert_eq!(parse_directory(b""), Some(vec![]));
    assert_eq!(parse_directory(b"a\0b\0"), Some(vec!["a", "b"]));
    assert_eq!(parse_directory(b"a\0b"), None);
    let list = parse_permissions(b"n0\0b7\0").unwrap();
    assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["n0", "b7"]);
}

/// The store's own events carry no domain; a third string in an event is room for a later protocol.
#[test]
fn events_name_path_and_token() {
    let message = Message::event(b"@releaseDomain", b"t");
    let event = Event { path: "@releaseDomain", token: "t" };
    assert_eq!(Event::parse(&message.payload), Some(event));
    assert_eq!(Event::parse(b"@releaseDomain\0t\0more\0"), Some(event));
    assert_eq!(Event::parse(b"/a\0"), None);
}

/// The path rules of xenstore.txt, which decide what we refuse before sending.
#[test]
fn paths_follow_the_published_rules() {
    for path in ["/", "/local/domain/0", "device/vbd/51712", "/a-b_c@D", "data"] {
        assert!(is_path(path) && is_watch_path(path), "{path}");
    }
    for path in ["", "//", "/a/", "/a//b", "/a b", "/a\0", "/é", "/a.b", "@"] {
        assert!(!is_path(path) && !is_watch_path(path), "{path:?}");
    }
    assert!(is_watch_path("@releaseDomain") && !is_path("@releaseDomain"));
    assert!(is_path(&format!("/{}", "a".repeat(ABSOLUTE_PATH_MAX - 1))));
    assert!(!is_path(&format!("/{}", "a".repeat(ABSOLUTE_PATH_MAX))));
    assert!(!is_path(&"a".repeat(RELATIVE_PATH_MAX + 1)));
}

proptest! {
    /// Any bytes: no panic, progress or a wait, and what was decoded encodes to what was taken.
    #[test]
    fn any_bytes_decode_or_wait(bytes in vec(any::<u8>(), 0..200), len in 0u32..80) {
        let mut bytes = bytes;
        if let Some(word) = bytes.get_mut(12..16) {
            word.copy_from_slice(&len.to_le_bytes());
        }
        let mut input = BytesMut::from(&bytes[..]);
        while let Ok(Some(message)) = Message::decode(&mut input) {
            let _ = Request::parse(&message);
            let mut again = BytesMut::new();
            message.encode(&mut again).unwrap();
            let taken = bytes.len() - input.len();
            prop_assert_eq!(&again[..], &bytes[taken - again.len()..taken]);
        }
    }

    /// Any payload under any kind is parsed or refused, as a request, an answer and an event.
    #[test]
    fn any_payload_is_parsed_or_refused(kind in 0u32..26, payload in vec(prop_oneof![Just(0u8), b'0'..=b'9', any::<u8>()], 0..40)) {
        let message = Message { kind: Kind(kind), req_id: 1, tx_id: 2, payload: payload.into() };
        if let Ok(request) = Request::parse(&message) {
            let mut bytes = BytesMut::new();
            request.encode(1, 2, &mut bytes).unwrap();
            let again = Message::decode(&mut bytes).unwrap().unwrap();
            prop_assert_eq!(Request::parse(&again), Ok(request));
        }
        let _ = (parse_directory(&message.payload), parse_permissions(&message.payload));
        let _ = (DirectoryPart::parse(&message.payload), Event::parse(&message.payload), Errno::parse(&message.payload));
    }

    /// However a stream is cut into pieces, the same messages come out.
    #[test]
    fn messages_do_not_depend_on_how_the_stream_is_cut(
        values in vec(vec(any::<u8>(), 0..60), 1..8),
        cuts in vec(1usize..50, 1..40),
    ) {
        let mut stream = BytesMut::new();
        for value in &values {
            Request::Write { path: "/a", value }.encode(1, 0, &mut stream).unwrap();
        }
        let (mut input, mut seen) = (BytesMut::new(), Vec::new());
        let mut cuts = cuts.into_iter().cycle();
        while !stream.is_empty() {
            let cut = cuts.next().unwrap().min(stream.len());
            input.extend_from_slice(&stream.split_to(cut));
            while let Some(message) = Message::decode(&mut input).unwrap() {
                seen.push(message.payload[3..].to_vec());
            }
        }
        prop_assert_eq!(seen, values);
    }
}
