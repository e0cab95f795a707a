//! What a backend's process and the simulated host say to each other on `host.sock`: one packet a message, whole 32-bit
//! words. Pure data. Knows nothing of sockets; file descriptors travel beside the words.

use crate::hv::Access;
use crate::{DomId, GrantRef, Port};

/// Most references in one map call: what fits into one packet under the default socket buffer.
pub(super) const MAX_MAP_REFS: usize = 16_384;
/// Most words in one message.
pub(super) const MAX_WORDS: usize = MAX_MAP_REFS + 8;

/// What the client asks. The first message on a connection is one of the two opens, and decides what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// This connection holds mappings; answered with the fds of the guest's memory and grant table.
    OpenGrants(DomId),
    /// This connection holds at most one bound port; sent with our eventfd, answered with the fd of the channels' page.
    OpenEvents(DomId),
    /// Pin these; answered with a map's number and one frame for each.
    Map(Access, Vec<GrantRef>),
    /// Let go of a map; already unmapped here.
    Unmap(u32),
    /// Bind; answered with the channel's place in the page and the guest's eventfd.
    Bind(Port),
    /// Let go of the port.
    Unbind,
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u32> {
        match self {
            Self::OpenGrants(d) => vec![1, u32::from(d.0)],
            Self::OpenEvents(d) => vec![2, u32::from(d.0)],
            Self::Map(access, refs) => {
                let mut words = vec![3, u32::from(*access == Access::ReadWrite)];
                words.extend(refs.iter().map(|r| r.0));
                words
            }
            Self::Unmap(map) => vec![4, *map],
            Self::Bind(port) => vec![5, port.0],
            Self::Unbind => vec![6],
        }
    }

    pub(super) fn decode(words: &[u32]) -> Option<Self> {
        let domain = |d: u32| u16::try_from(d).ok().map(DomId);
        Some(match *words {
            [1, d] => Self::OpenGrants(domain(d)?),
            [2, d] => Self::OpenEvents(domain(d)?),
            [3, write, ref refs @ ..] if write <= 1 && refs.len() <= MAX_MAP_REFS => {
                let access = if write == 1 { Access::ReadWrite } else { Access::ReadOnly };
                Self::Map(access, refs.iter().map(|r| GrantRef(*r)).collect())
            }
            [4, map] => Self::Unmap(map),
            [5, port] => Self::Bind(Port(port)),
            [6] => Self::Unbind,
            _ => return None,
        })
    }
}

/// What the host answers: an `errno`, or words whose meaning follows from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Not done.
    Failed(i32),
    /// Done.
    Done(Vec<u32>),
}

impl Reply {
    pub(super) fn encode(&self) -> Vec<u32> {
        match self {
            Self::Failed(errno) => vec![errno.unsigned_abs().max(1)],
            Self::Done(rest) => {
                let mut words = vec![0];
                words.extend_from_slice(rest);
                words
            }
        }
    }

    pub(super) fn decode(words: &[u32]) -> Option<Self> {
        match *words {
            [0, ref rest @ ..] => Some(Self::Done(rest.to_vec())),
            [errno] => Some(Self::Failed(i32::try_from(errno).ok()?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client and host are built apart (two binaries): the words must mean the same to both.
    #[test]
    fn every_message_reads_back() {
        let requests = [
            Request::OpenGrants(DomId(7)),
            Request::OpenEvents(DomId(0)),
            Request::Map(Access::ReadOnly, vec![GrantRef(8), GrantRef(u32::MAX)]),
            Request::Map(Access::ReadWrite, vec![]),
            Request::Unmap(3),
            Request::Bind(Port(5)),
            Request::Unbind,
        ];
        for r in requests {
            assert_eq!(Request::decode(&r.encode()), Some(r));
        }
        for r in [Reply::Failed(22), Reply::Done(vec![]), Reply::Done(vec![1, 2])] {
            assert_eq!(Reply::decode(&r.encode()), Some(r));
        }
        assert_eq!(Request::decode(&[1, 70_000]), None);
        assert_eq!(Reply::decode(&[]), None);
    }
}
