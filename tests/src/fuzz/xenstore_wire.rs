//! xenstore's messages. A stream is cut into messages at the same places however it arrives; what is read is what was written, encoded
//! again; nothing is kept of a peer that says more than it may.

use bytes::BytesMut;
use xenbus::store::wire::{
    ANSWER_MAX, DirectoryPart, Errno, Event, HEADER_LEN, Kind, Message, PAYLOAD_MAX, Request, TooLong,
    is_path, is_watch_path, parse_directory, parse_permissions, parse_unsigned,
};
use xenbus::{Device, DomId, Vdev, XenbusState};

use super::input::Input;

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (is_answer, piece) = (input.flag(), 1 + input.below(64));
    let stream = if input.flag() { input.rest().to_vec() } else { messages(&mut input) };
    let (whole, end) = decoded(&stream, stream.len().max(1), is_answer);
    let (pieces, end_in_pieces) = decoded(&stream, piece, is_answer);
    assert_eq!((&whole, end), (&pieces, end_in_pieces), "however it arrives");
    again(&stream, &whole);
    for message in &whole {
        as_request(message);
        as_answer(&message.payload);
    }
}

/// A stream that makes some sense: known kinds, lengths that are right most of the time.
fn messages(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    while !input.is_empty() {
        let kind = u32::from(input.byte() % 26);
        let len = input.byte();
        let payload = input.bytes(usize::from(len & 63));
        let said = if len >> 6 == 3 { input.edgy_u32(4096) } else { u32::try_from(payload.len()).unwrap() };
        for word in [kind, u32::from(len), u32::from(kind == 3), said] {
            out.extend(word.to_le_bytes());
        }
        out.extend(payload);
    }
    out
}

fn decoded(stream: &[u8], piece: usize, is_answer: bool) -> (Vec<Message>, Result<usize, TooLong>) {
    let most = if is_answer { ANSWER_MAX } else { PAYLOAD_MAX };
    let mut unread = BytesMut::new();
    let mut found = Vec::new();
    for piece in stream.chunks(piece) {
        unread.extend_from_slice(piece);
        loop {
            let next =
                if is_answer { Message::decode_answer(&mut unread) } else { Message::decode(&mut unread) };
            match next {
                Ok(Some(message)) => {
                    assert!(message.payload.len() <= most);
                    found.push(message);
                }
                Ok(None) => break,
                Err(why) => {
                    assert!(why.len > why.allowed);
                    return (found, Err(why));
                }
            }
        }
        assert!(unread.len() < HEADER_LEN + most, "{} bytes are kept", unread.len());
    }
    (found, Ok(unread.len()))
}

fn again(stream: &[u8], messages: &[Message]) {
    let mut out = BytesMut::new();
    for message in messages {
        message.encode(&mut out).unwrap();
    }
    assert_eq!(stream[..out.len()], out[..]);
}

/// A request that is understood says the same when it is said again.
fn as_request(message: &Message) {
    let Ok(request) = Request::parse(message) else { return };
    let mut out = BytesMut::new();
    request.encode(message.req_id, message.tx_id, &mut out).unwrap();
    let said = Message::decode(&mut out).unwrap().unwrap();
    assert!(out.is_empty());
    assert_eq!((said.kind, said.req_id, said.tx_id), (message.kind, message.req_id, message.tx_id));
    assert_eq!(Request::parse(&said).as_ref(), Ok(&request));
    if let Some(path) = request.path() {
        names(path);
    }
}

fn names(path: &str) {
    let is_plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_/@".contains(&b));
    assert!(!is_path(path) || is_plain && path.len() <= 3072 && (path == "/" || !path.ends_with('/')));
    assert!(is_watch_path(path) || !is_path(path));
    if let Some((device, rest)) = Device::split_backend_path(path) {
        let whole = format!("{}/{rest}", device.backend_dir());
        assert_eq!(whole.trim_end_matches('/'), path.trim_end_matches('/'));
    }
    if let Ok(device) = Device::parse(path, DomId(0)) {
        assert_eq!(Device::parse(&device.to_string(), DomId(0)), Ok(device));
    }
    if let Ok(disk) = path.parse::<Vdev>() {
        assert_eq!(disk.to_string().parse(), Ok(disk));
    }
}

fn as_answer(payload: &[u8]) {
    if let Some(names) = parse_directory(payload) {
        let again: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
        assert_eq!(again, payload);
    }
    if let Some(permissions) = parse_permissions(payload) {
        let again: String = permissions.iter().map(|p| format!("{p}\0")).collect();
        assert!(again.len() <= payload.len() && parse_permissions(again.as_bytes()) == Some(permissions));
    }
    if let Some(part) = DirectoryPart::parse(payload) {
        assert!(part.len_bytes as usize <= payload.len() && part.names.iter().all(|name| !name.is_empty()));
    }
    if let Some(event) = Event::parse(payload) {
        let said = Message::event(event.path.as_bytes(), event.token.as_bytes());
        assert_eq!((said.kind, Event::parse(&said.payload)), (Kind::WATCH_EVENT, Some(event)));
    }
    if let Some(errno) = Errno::parse(payload) {
        assert_eq!(Errno::parse(&Message::error(errno, 0, 0).payload), Some(errno));
    }
    if let Ok(text) = std::str::from_utf8(payload) {
        names(text.trim_end_matches('\0'));
        if let Some(number) = parse_unsigned::<u32>(text) {
            assert_eq!(text.trim_start_matches('0'), number.to_string().trim_start_matches('0'));
        }
    }
    let state = XenbusState::parse(payload);
    assert_eq!(XenbusState::parse(state.to_value().as_bytes()), state);
}
