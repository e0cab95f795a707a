//! The payloads of answers and events. Knows nothing of requests.

use std::fmt;
use std::str::FromStr;

use super::strings;
use crate::DomId;

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rights {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Both.
    Both,
}

/// One entry of a node's permissions. The first of a list names the owner, who may do everything, and what all the domains not
/// in the list may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permission {
    /// Who.
    pub domain: DomId,
    /// What.
    pub rights: Rights,
}

impl Permission {
    /// `r7`, `n0` …; `None` if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rights = match text.as_bytes().first()? {
            b'n' => Rights::None,
            b'r' => Rights::Read,
            b'w' => Rights::Write,
            b'b' => Rights::Both,
            _ => return None,
        };
        Some(Self { domain: DomId(parse_unsigned(text.get(1..)?)?), rights })
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.rights {
            Rights::None => 'n',
            Rights::Read => 'r',
            Rights::Write => 'w',
            Rights::Both => 'b',
        };
        write!(f, "{letter}{}", self.domain)
    }
}

/// A number in decimal digits alone: no sign, no space, no other base.
#[must_use]
pub fn parse_unsigned<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The permissions in an answer to `GET_PERMS`.
#[must_use]
pub fn parse_permissions(payload: &[u8]) -> Option<Vec<Permission>> {
    strings(payload)?.into_iter().map(|text| Permission::parse(str::from_utf8(text).ok()?)).collect()
}

/// The names in an answer to `DIRECTORY`.
#[must_use]
pub fn parse_directory(payload: &[u8]) -> Option<Vec<&str>> {
    strings(payload)?
        .into_iter()
        .map(|text| str::from_utf8(text).ok().filter(|name| !name.is_empty()))
        .collect()
}

/// An answer to `DIRECTORY_PART`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPart<'a> {
    /// Changes whenever the list does; then the parts do not fit together.
    pub generation: &'a str,
    /// Whole names.
    pub names: Vec<&'a str>,
    /// Bytes that these names take in the list: where the next part starts.
    pub len_bytes: u32,
    /// Nothing follows.
    pub is_last: bool,
}

impl<'a> DirectoryPart<'a> {
    /// Reads one; the last is marked by an empty name at its end.
    #[must_use]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut texts = strings(payload)?.into_iter().map(|text| str::from_utf8(text).ok());
        let generation = texts.next()??;
        let mut names = texts.collect::<Option<Vec<_>>>()?;
        let is_last = names.pop_if(|name| name.is_empty()).is_some();
        if names.iter().any(|name| name.is_empty()) {
            return None;
        }
        let len_bytes = u32::try_from(names.iter().map(|name| name.len() + 1).sum::<usize>()).ok()?;
        Some(Self { generation, names, len_bytes, is_last })
    }
}

/// The payload of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// What changed: the watched path or one below it.
    pub path: &'a str,
    /// The token the watch was set with.
    pub token: &'a str,
}

impl<'a> Event<'a> {
    /// Reads one. More strings than two are allowed and ignored.
    #[must_use]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let texts = strings(payload)?;
        let [path, token, ..] = texts[..] else { return None };
        Some(Self { path: str::from_utf8(path).ok()?, token: str::from_utf8(token).ok()? })
    }
}
