//! Requests: what a client asks, to and from a payload. Knows nothing of how a store answers.

use bytes::BytesMut;

use super::{Kind, Message, Permission, TooLong, encode, parse_unsigned, strings};
use crate::DomId;

/// One request, borrowed from its message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the protocol's own words
pub enum Request<'a> {
    Directory { path: &'a str },
    DirectoryPart { path: &'a str, offset_bytes: u32 },
    Read { path: &'a str },
    Write { path: &'a str, value: &'a [u8] },
    Mkdir { path: &'a str },
    Remove { path: &'a str },
    Permissions { path: &'a str },
    SetPermissions { path: &'a str, permissions: Vec<Permission> },
    Watch { path: &'a str, token: &'a str },
    Unwatch { path: &'a str, token: &'a str },
    ResetWatches,
    TransactionStart,
    TransactionEnd { commit: bool },
    Introduce { domain: DomId, ring_frame: u64, port: u32 },
    Release { domain: DomId },
    IsIntroduced { domain: DomId },
    DomainPath { domain: DomId },
}

/// Why a message is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// A kind that no client sends, or that is not known here: to be answered `ENOSYS`.
    UnknownKind,
    /// A payload that is not its kind's: to be answered `EINVAL`.
    Malformed,
}

impl<'a> Request<'a> {
    /// Reads a message as a request. Paths are text but not checked further: that is the store's rule, see [`super::is_path`].
    pub fn parse(message: &'a Message) -> Result<Self, BadRequest> {
        let payload = &message.payload[..];
        if message.kind == Kind::WRITE {
            return parse_write(payload).ok_or(BadRequest::Malformed);
        }
        let texts = strings(payload).ok_or(BadRequest::Malformed)?;
        let texts: Option<Vec<&str>> = texts.into_iter().map(|text| str::from_utf8(text).ok()).collect();
        let texts = texts.ok_or(BadRequest::Malformed)?;
        Self::from_texts(message.kind, &texts)
    }

    fn from_texts(kind: Kind, texts: &[&'a str]) -> Result<Self, BadRequest> {
        let request = match (kind, texts) {
            (Kind::DIRECTORY, &[path]) => Some(Self::Directory { path }),
            (Kind::DIRECTORY_PART, &[path, offset]) => {
                parse_unsigned(offset).map(|offset_bytes| Self::DirectoryPart { path, offset_bytes })
            }
            (Kind::READ, &[path]) => Some(Self::Read { path }),
            (Kind::MKDIR, &[path]) => Some(Self::Mkdir { path }),
            (Kind::RM, &[path]) => Some(Self::Remove { path }),
            (Kind::GET_PERMS, &[path]) => Some(Self::Permissions { path }),
            (Kind::SET_PERMS, &[path, ref permissions @ ..]) => permissions
                .iter()
                .map(|text| Permission::parse(text))
                .collect::<Option<Vec<_>>>()
                .filter(|permissions| !permissions.is_empty())
                .map(|permissions| Self::SetPermissions { path, permissions }),
            (Kind::WATCH, &[path, token]) => Some(Self::Watch { path, token }),
            (Kind::UNWATCH, &[path, token]) => Some(Self::Unwatch { path, token }),
            (Kind::RESET_WATCHES, &[] | &[""]) => Some(Self::ResetWatches),
            (Kind::TRANSACTION_START, &[] | &[""]) => Some(Self::TransactionStart),
            (Kind::TRANSACTION_END, &["T"]) => Some(Self::TransactionEnd { commit: true }),
            (Kind::TRANSACTION_END, &["F"]) => Some(Self::TransactionEnd { commit: false }),
            (Kind::INTRODUCE, &[domain, ring_frame, port]) => parse_introduce(domain, ring_frame, port),
            (Kind::RELEASE, &[domain]) => parse_domain(domain).map(|domain| Self::Release { domain }),
            (Kind::IS_DOMAIN_INTRODUCED, &[domain]) => {
                parse_domain(domain).map(|domain| Self::IsIntroduced { domain })
            }
            (Kind::GET_DOMAIN_PATH, &[domain]) => {
                parse_domain(domain).map(|domain| Self::DomainPath { domain })
            }
            _ if is_request(kind) => None,
            _ => return Err(BadRequest::UnknownKind),
        };
        request.ok_or(BadRequest::Malformed)
    }

    /// The kind of its message, and of its answer.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Directory { .. } => Kind::DIRECTORY,
            Self::DirectoryPart { .. } => Kind::DIRECTORY_PART,
            Self::Read { .. } => Kind::READ,
            Self::Write { .. } => Kind::WRITE,
            Self::Mkdir { .. } => Kind::MKDIR,
            Self::Remove { .. } => Kind::RM,
            Self::Permissions { .. } => Kind::GET_PERMS,
            Self::SetPermissions { .. } => Kind::SET_PERMS,
            Self::Watch { .. } => Kind::WATCH,
            Self::Unwatch { .. } => Kind::UNWATCH,
            Self::ResetWatches => Kind::RESET_WATCHES,
            Self::TransactionStart => Kind::TRANSACTION_START,
            Self::TransactionEnd { .. } => Kind::TRANSACTION_END,
            Self::Introduce { .. } => Kind::INTRODUCE,
            Self::Release { .. } => Kind::RELEASE,
            Self::IsIntroduced { .. } => Kind::IS_DOMAIN_INTRODUCED,
            Self::DomainPath { .. } => Kind::GET_DOMAIN_PATH,
        }
    }

    /// The path it is about, for errors.
    #[must_use]
    pub fn path(&self) -> Option<&'a str> {
        match *self {
            Self::Directory { path }
            | Self::DirectoryPart { path, .. }
            | Self::Read { path }
            | Self::Write { path, .. }
            | Self::Mkdir { path }
            | Self::Remove { path }
            | Self::Permissions { path }
            | Self::SetPermissions { path, .. }
            | Self::Watch { path, .. }
            | Self::Unwatch { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Appends the request as a message to `output`; nothing is appended on an error.
    ///
    /// A NUL inside of a path or a token would split it; whoever takes paths from outside checks them with
    /// [`super::is_path`] first.
    pub fn encode(&self, req_id: u32, tx_id: u32, output: &mut BytesMut) -> Result<(), TooLong> {
        let send = |parts: &[&[u8]], output| encode(self.kind(), req_id, tx_id, parts, output);
        match self {
            Self::Directory { path }
            | Self::Read { path }
            | Self::Mkdir { path }
            | Self::Remove { path }
            | Self::Permissions { path } => send(&[path.as_bytes(), b"\0"], output),
            Self::DirectoryPart { path, offset_bytes } => {
                send(&[path.as_bytes(), b"\0", offset_bytes.to_string().as_bytes(), b"\0"], output)
            }
            Self::Write { path, value } => send(&[path.as_bytes(), b"\0", value], output),
            Self::SetPermissions { path, permissions } => {
                let list: String = permissions.iter().map(|p| format!("{p}\0")).collect();
                send(&[path.as_bytes(), b"\0", list.as_bytes()], output)
            }
            Self::Watch { path, token } | Self::Unwatch { path, token } => {
                send(&[path.as_bytes(), b"\0", token.as_bytes(), b"\0"], output)
            }
            Self::ResetWatches | Self::TransactionStart => send(&[b"\0"], output),
            Self::TransactionEnd { commit: true } => send(&[b"T\0"], output),
            Self::TransactionEnd { commit: false } => send(&[b"F\0"], output),
            Self::Introduce { domain, ring_frame, port } => {
                send(&[format!("{domain}\0{ring_frame}\0{port}\0").as_bytes()], output)
            }
            Self::Release { domain } | Self::IsIntroduced { domain } | Self::DomainPath { domain } => {
                send(&[format!("{domain}\0").as_bytes()], output)
            }
        }
    }
}

fn is_request(kind: Kind) -> bool {
    matches!(kind, Kind(1..=14) | Kind::IS_DOMAIN_INTRODUCED | Kind::RESET_WATCHES | Kind::DIRECTORY_PART)
}

/// The value of a `WRITE` may hold any bytes and has no NUL at its end.
fn parse_write(payload: &[u8]) -> Option<Request<'_>> {
    let end = payload.iter().position(|&b| b == 0)?;
    let (path, rest) = payload.split_at_checked(end)?;
    Some(Request::Write { path: str::from_utf8(path).ok()?, value: rest.get(1..)? })
}

fn parse_domain(text: &str) -> Option<DomId> {
    parse_unsigned(text).map(DomId)
}

fn parse_introduce<'a>(domain: &str, ring_frame: &str, port: &str) -> Option<Request<'a>> {
    Some(Request::Introduce {
        domain: parse_domain(domain)?,
        ring_frame: parse_unsigned(ring_frame)?,
        port: parse_unsigned(port)?,
    })
}
