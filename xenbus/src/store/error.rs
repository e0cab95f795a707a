//! What can go wrong with the store, as outcomes a caller can tell apart. Knows nothing of how it is retried or reported.

use std::io;

use super::Address;
use super::wire::{Errno, Kind};

/// Why a request of the store has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `ENOENT`: no such node (or, for `unwatch`, no such watch).
    #[error("{path}: no such node in xenstore")]
    NoEntry {
        /// Which.
        path: String,
    },
    /// `EACCES`, `EPERM`.
    #[error("{path}: xenstore gives this domain no right to do that")]
    Access {
        /// To what.
        path: String,
    },
    /// `EEXIST`: the watch exists already.
    #[error("{path}: already watched under that token")]
    Exists {
        /// On what.
        path: String,
    },
    /// `EAGAIN`, as often as we tried.
    #[error("xenstore: others changed {path} during each of {attempts} attempts")]
    Again {
        /// The directory, or "the nodes of the transaction".
        path: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A quota of the store or its memory is used up (`ENOSPC`, `EQUOTA`, `ENOMEM`, `E2BIG`).
    #[error("{path}: over a xenstore quota ({})", errno.name())]
    Quota {
        /// What was asked for.
        path: String,
        /// Which kind of quota.
        errno: Errno,
    },
    /// Too long to be sent; nothing was.
    #[error("{path}: {len} bytes do not fit into a xenstore message; at most {allowed} are allowed")]
    TooBig {
        /// What was asked for.
        path: String,
        /// Bytes of path and value.
        len: usize,
        /// The most that may be sent.
        allowed: usize,
    },
    /// Not a path, token or value as it must be; found here, or by the store (`EINVAL`).
    #[error("{path:?}: {reason}")]
    Invalid {
        /// Which.
        path: String,
        /// What is wrong with it and what is allowed.
        reason: &'static str,
    },
    /// Another error of the store.
    #[error("{path}: xenstore answered {}", errno.name())]
    Refused {
        /// What was asked for.
        path: String,
        /// With what.
        errno: Errno,
    },
    /// The store is away, or went away before it answered: whether the request was carried out is not known.
    #[error("{path}: the connection to xenstore is lost")]
    Disconnected {
        /// What was asked for.
        path: String,
    },
    /// The store's answer makes no sense.
    #[error("{path}: xenstore's answer is not the protocol's: {reason}")]
    Protocol {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store cannot be reached at all.
    #[error("xenstore at {address}: {source}")]
    Connect {
        /// Where it was looked for.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// The kernel's device failed a request.
    #[error("{path}: {source}")]
    Io {
        /// What was asked for.
        path: String,
        /// How.
        source: io::Error,
    },
}

impl Error {
    /// What an error answer to a request means.
    pub(super) fn of_errno(errno: Errno, kind: Kind, path: String) -> Self {
        match errno {
            Errno::NoEntry => Self::NoEntry { path },
            Errno::Access | Errno::NotPermitted => Self::Access { path },
            Errno::Exists => Self::Exists { path },
            Errno::Again => Self::Again { path, attempts: 1 },
            Errno::NoSpace | Errno::NoMemory | Errno::Quota | Errno::TooBig => Self::Quota { path, errno },
            Errno::Invalid if kind == Kind::WATCH || kind == Kind::UNWATCH => {
                Self::Invalid { path, reason: "xenstore refuses it (EINVAL) as a path to watch" }
            }
            Errno::Invalid => Self::Invalid { path, reason: "xenstore refuses it (EINVAL)" },
            _ => Self::Refused { path, errno },
        }
    }

    /// What the payload of an error message means.
    pub(super) fn of_payload(payload: &[u8], kind: Kind, path: String) -> Self {
        match Errno::parse(payload) {
            Some(errno) => Self::of_errno(errno, kind, path),
            None => {
                let reason = format!("an error named {}", payload.escape_ascii());
                Self::Protocol { path, reason }
            }
        }
    }

    /// What a failed `write` of a request to the kernel's device means: it answers some requests that way.
    pub(super) fn of_write(source: io::Error, kind: Kind, path: String) -> Self {
        let errno = match source.raw_os_error() {
            Some(libc::EINVAL) => Errno::Invalid,
            Some(libc::EACCES) => Errno::Access,
            Some(libc::EPERM) => Errno::NotPermitted,
            Some(libc::EEXIST) => Errno::Exists,
            Some(libc::ENOENT) => Errno::NoEntry,
            Some(libc::EAGAIN) => Errno::Again,
            Some(libc::ENOSPC) => Errno::NoSpace,
            Some(libc::ENOMEM) => Errno::NoMemory,
            Some(libc::E2BIG) => Errno::TooBig,
            Some(libc::EDQUOT) => Errno::Quota,
            Some(libc::ENOSYS) => Errno::NotImplemented,
            Some(libc::EBUSY) => Errno::Busy,
            _ => return Self::Io { path, source },
        };
        Self::of_errno(errno, kind, path)
    }

    /// True for [`Error::NoEntry`].
    #[must_use]
    pub fn is_no_entry(&self) -> bool {
        matches!(self, Self::NoEntry { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// control-plane notes §4: the kernel's device answers some requests by the error of the `write` that carries them.
    #[test]
    fn errors_of_a_write_are_the_stores_too() {
        let error = |errno| Error::of_write(io::Error::from_raw_os_error(errno), Kind::WATCH, "/a".into());
        assert!(matches!(error(libc::EINVAL), Error::Invalid { .. }));
        assert!(matches!(error(libc::EACCES), Error::Access { .. }));
        assert!(matches!(error(libc::ENOENT), Error::NoEntry { .. }));
        assert!(matches!(error(libc::E2BIG), Error::Quota { errno: Errno::TooBig, .. }));
        assert!(matches!(error(libc::ENOSPC), Error::Quota { errno: Errno::NoSpace, .. }));
        assert!(matches!(error(libc::EFAULT), Error::Io { path, .. } if path == "/a"));
    }
}
