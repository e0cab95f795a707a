//! xenstore's wire format (xs_wire.h), for both ends: a 16-byte header and at most 4096 bytes of payload. Pure and total:
//! any bytes give a message, "more, please" or an error. Knows nothing of sockets, of what a store holds, or of who may do what.

use bytes::{Buf, BufMut, Bytes, BytesMut};

mod errno;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use errno::Errno;
pub use reply::{
    DirectoryPart, Event, Permission, Rights, parse_directory, parse_permissions, parse_unsigned,
};
pub use request::{BadRequest, Request};

/// Bytes of a header: type, request, transaction, payload length; four little-endian words on every machine Xen runs on here.
pub const HEADER_LEN: usize = 16;
/// The longest payload (`XENSTORE_PAYLOAD_MAX`). A socket peer that sends more is cut off.
pub const PAYLOAD_MAX: usize = 4096;
/// The longest payload that is taken from a store.
pub const ANSWER_MAX: usize = 1 << 20;
/// The longest absolute path (`XENSTORE_ABS_PATH_MAX`).
pub const ABSOLUTE_PATH_MAX: usize = 3072;
/// The longest relative path (`XENSTORE_REL_PATH_MAX`).
pub const RELATIVE_PATH_MAX: usize = 2048;

/// What a message is (`enum xsd_sockmsg_type`). Any value may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u32);

impl Kind {
    /// Children of a node.
    pub const DIRECTORY: Self = Self(1);
    /// Value of a node.
    pub const READ: Self = Self(2);
    /// Permissions of a node.
    pub const GET_PERMS: Self = Self(3);
    /// Wish to hear of changes.
    pub const WATCH: Self = Self(4);
    /// The end of that wish.
    pub const UNWATCH: Self = Self(5);
    /// Opens a transaction.
    pub const TRANSACTION_START: Self = Self(6);
    /// Commits or drops a transaction.
    pub const TRANSACTION_END: Self = Self(7);
    /// Tells the store of a domain (toolstack only).
    pub const INTRODUCE: Self = Self(8);
    /// Tells the store that a domain is gone (toolstack only).
    pub const RELEASE: Self = Self(9);
    /// Home directory of a domain.
    pub const GET_DOMAIN_PATH: Self = Self(10);
    /// Sets a node's value, making it and its parents.
    pub const WRITE: Self = Self(11);
    /// Makes an empty node and its parents.
    pub const MKDIR: Self = Self(12);
    /// Removes a node and all below it.
    pub const RM: Self = Self(13);
    /// Sets a node's permissions.
    pub const SET_PERMS: Self = Self(14);
    /// Unasked: a watched path changed.
    pub const WATCH_EVENT: Self = Self(15);
    /// The answer to a request that failed.
    pub const ERROR: Self = Self(16);
    /// Whether the store knows a domain.
    pub const IS_DOMAIN_INTRODUCED: Self = Self(17);
    /// Drops all watches and transactions of the connection.
    pub const RESET_WATCHES: Self = Self(21);
    /// A part of the children of a node whose list is longer than a payload.
    pub const DIRECTORY_PART: Self = Self(22);
}

/// One message, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The request it is, or answers.
    pub req_id: u32,
    /// The transaction it belongs to; 0 is none.
    pub tx_id: u32,
    /// At most [`PAYLOAD_MAX`] bytes, or [`ANSWER_MAX`] of an answer.
    pub payload: Bytes,
}

/// A payload that is too long: announced by a peer, after which its stream means nothing, or about to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a xenstore message of {len} bytes; at most {allowed} are allowed")]
pub struct TooLong {
    /// Bytes of the payload.
    pub len: usize,
    /// The most there may be.
    pub allowed: usize,
}

impl Message {
    /// The answer `OK` to a request.
    #[must_use]
    pub fn ok(kind: Kind, req_id: u32, tx_id: u32) -> Self {
        Self { kind, req_id, tx_id, payload: Bytes::from_static(b"OK\0") }
    }

    /// The answer to a request that failed.
    #[must_use]
    pub fn error(errno: Errno, req_id: u32, tx_id: u32) -> Self {
        let mut payload = BytesMut::new();
        put_string(&mut payload, errno.name().as_bytes());
        Self { kind: Kind::ERROR, req_id, tx_id, payload: payload.freeze() }
    }

    /// The news that `path`, watched under `token`, changed.
    #[must_use]
    pub fn event(path: &[u8], token: &[u8]) -> Self {
        let mut payload = BytesMut::with_capacity(path.len() + token.len() + 2);
        put_string(&mut payload, path);
        put_string(&mut payload, token);
        Self { kind: Kind::WATCH_EVENT, req_id: 0, tx_id: 0, payload: payload.freeze() }
    }

    /// Takes the next message off the front of `input`; `None`, and nothing taken, if it is not complete yet.
    ///
    /// After an error the stream has no meaning any more, and the peer must be cut off.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Self>, TooLong> {
        Self::decode_within(PAYLOAD_MAX, input)
    }

    /// As [`Message::decode`], for an answer, which may be longer: oxenstored sends a long list of children whole.
    pub fn decode_answer(input: &mut BytesMut) -> Result<Option<Self>, TooLong> {
        Self::decode_within(ANSWER_MAX, input)
    }

    fn decode_within(allowed: usize, input: &mut BytesMut) -> Result<Option<Self>, TooLong> {
        let Some((header, _)) = input.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let mut header = &header[..];
        let kind = Kind(header.get_u32_le());
        let req_id = header.get_u32_le();
        let tx_id = header.get_u32_le();
        let len = usize::try_from(header.get_u32_le()).unwrap_or(usize::MAX);
        if len > allowed {
            return Err(TooLong { len, allowed });
        }
        if input.len() < HEADER_LEN + len {
            return Ok(None);
        }
        input.advance(HEADER_LEN);
        Ok(Some(Self { kind, req_id, tx_id, payload: input.split_to(len).freeze() }))
    }

    /// Appends the message to `output`; nothing is appended on an error.
    pub fn encode(&self, output: &mut BytesMut) -> Result<(), TooLong> {
        encode(self.kind, self.req_id, self.tx_id, &[&self.payload], output)
    }
}

/// Appends a message whose payload is `parts` in a row.
fn encode(
    kind: Kind,
    req_id: u32,
    tx_id: u32,
    parts: &[&[u8]],
    output: &mut BytesMut,
) -> Result<(), TooLong> {
    let len = parts.iter().map(|part| part.len()).sum();
    let Some(len_word) = u32::try_from(len).ok().filter(|_| len <= PAYLOAD_MAX) else {
        return Err(TooLong { len, allowed: PAYLOAD_MAX });
    };
    output.reserve(HEADER_LEN + len);
    for word in [kind.0, req_id, tx_id, len_word] {
        output.put_u32_le(word);
    }
    for part in parts {
        output.put_slice(part);
    }
    Ok(())
}

fn put_string(output: &mut BytesMut, text: &[u8]) {
    output.put_slice(text);
    output.put_u8(0);
}

/// The strings of a payload in which each ends with a NUL; `None` if the last one does not.
fn strings(payload: &[u8]) -> Option<Vec<&[u8]>> {
    match payload.split_last() {
        None => Some(Vec::new()),
        Some((0, all)) => Some(all.split(|&b| b == 0).collect()),
        Some(_) => None,
    }
}

/// True for a path that every xenstored accepts: the letters, digits and `-/_@`, no empty part, no `/` at the end, not too
/// long; absolute, or relative to the caller's home. The names `@introduceDomain` and the like are for watches only.
#[must_use]
pub fn is_path(path: &str) -> bool {
    if path == "/" {
        return true;
    }
    let (parts, max) = match path.strip_prefix('/') {
        Some(rest) => (rest, ABSOLUTE_PATH_MAX),
        None => (path, RELATIVE_PATH_MAX),
    };
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'@'))
    };
    path.len() <= max && !path.starts_with('@') && parts.split('/').all(is_name)
}

/// True for what may be watched: a path, or an event of the store itself (`@introduceDomain`, `@releaseDomain`).
#[must_use]
pub fn is_watch_path(path: &str) -> bool {
    path.strip_prefix('@').map_or_else(|| is_path(path), |event| is_path(event) && !event.contains('/'))
}
