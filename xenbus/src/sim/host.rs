//! The host server: answers backends' connections on `host.sock` from one thread, and counts for each connection what it
//! holds, so that a killed process leaves nothing behind. Knows nothing of rings, requests or the store.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::domain::{Channel, Domain};
use super::message::{MAX_WORDS, Reply, Request};
use super::socket::{self, Epoll, EventFd};
use crate::hv::Access;
use crate::{DomId, GrantRef, Port};

/// The domains that exist.
pub(super) type Domains = Arc<Mutex<BTreeMap<DomId, Arc<Domain>>>>;

const STOP: u64 = 0;
const LISTENER: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

/// Serves until `stop` is signalled.
pub(super) fn serve(listener: &OwnedFd, stop: &EventFd, domains: &Domains) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(stop.as_fd(), STOP)?;
    epoll.add(listener.as_fd(), LISTENER)?;
    let mut connections = HashMap::new();
    let mut next = FIRST_CONNECTION;
    loop {
        for number in epoll.wait()? {
            match number {
                STOP => return Ok(()),
                LISTENER => {
                    let fd = socket::accept(listener.as_fd())?;
                    epoll.add(fd.as_fd(), next)?;
                    connections.insert(next, Connection { fd, role: Role::New });
                    next += 1;
                }
                _ => {
                    let alive = connections.get_mut(&number).is_some_and(|c| c.turn(domains));
                    if !alive {
                        connections.remove(&number);
                    }
                }
            }
        }
    }
}

#[derive(Debug)]
struct Connection {
    fd: OwnedFd,
    role: Role,
}

/// What a connection is for; what it holds is let go of on drop.
#[derive(Debug)]
enum Role {
    New,
    Grants(Maps),
    Events(Binding),
}

#[derive(Debug)]
struct Maps {
    domain: Arc<Domain>,
    maps: HashMap<u32, (Access, Vec<GrantRef>)>,
    next: u32,
}

#[derive(Debug)]
struct Binding {
    domain: Arc<Domain>,
    event: Arc<EventFd>,
    channel: Option<Arc<Channel>>,
}

/// A reply and the descriptors that go with it, borrowed from what the connection holds.
struct Answer<'a>(Vec<u32>, Vec<BorrowedFd<'a>>);

impl Connection {
    /// Reads one message and answers it; false when the connection is over.
    fn turn(&mut self, domains: &Domains) -> bool {
        let Ok(Some((words, fds))) = socket::receive(self.fd.as_fd(), MAX_WORDS) else { return false };
        let Some(request) = Request::decode(&words) else { return false };
        let answer = self.role.answer(request, fds, domains);
        let sent = match answer {
            Ok(Answer(words, fds)) => socket::send(self.fd.as_fd(), &Reply::Done(words).encode(), &fds),
            Err(errno) => socket::send(self.fd.as_fd(), &Reply::Failed(errno).encode(), &[]),
        };
        sent.is_ok()
    }
}

impl Role {
    fn answer(
        &mut self,
        request: Request,
        fds: Vec<OwnedFd>,
        domains: &Domains,
    ) -> Result<Answer<'_>, libc::c_int> {
        let find = |id: DomId| {
            let domains = domains.lock().unwrap_or_else(PoisonError::into_inner);
            domains.get(&id).map(Arc::clone).ok_or(libc::ESRCH)
        };
        if let Self::New = self {
            *self = match (&request, fds.into_iter().next()) {
                (Request::OpenGrants(id), None) => {
                    Self::Grants(Maps { domain: find(*id)?, maps: HashMap::new(), next: 0 })
                }
                (Request::OpenEvents(id), Some(fd)) => Self::Events(Binding {
                    domain: find(*id)?,
                    event: Arc::new(EventFd::from_fd(fd)),
                    channel: None,
                }),
                _ => return Err(libc::EINVAL),
            };
        }
        match (self, request) {
            (Self::Grants(m), Request::OpenGrants(_)) => {
                Ok(Answer(vec![], vec![m.domain.memory.as_fd(), m.domain.entries.0.as_fd()]))
            }
            (Self::Grants(m), Request::Map(access, refs)) => {
                m.map(access, refs).map(|words| Answer(words, vec![]))
            }
            (Self::Grants(m), Request::Unmap(map)) => m.unmap(map).map(|()| Answer(vec![], vec![])),
            (Self::Events(b), Request::OpenEvents(_)) => Ok(Answer(vec![], vec![b.domain.words.0.as_fd()])),
            (Self::Events(b), Request::Bind(port)) => b.bind(port),
            (Self::Events(b), Request::Unbind) => b.unbind().map(|()| Answer(vec![], vec![])),
            _ => Err(libc::EINVAL),
        }
    }
}

impl Maps {
    fn map(&mut self, access: Access, refs: Vec<GrantRef>) -> Result<Vec<u32>, libc::c_int> {
        let map = self.next;
        self.next = self.next.wrapping_add(1);
        if self.maps.contains_key(&map) {
            return Err(libc::ENOMEM);
        }
        let frames = self.domain.pin(&refs, access).ok_or(libc::EINVAL)?;
        self.maps.insert(map, (access, refs));
        let mut words = vec![map];
        words.extend(frames);
        Ok(words)
    }

    fn unmap(&mut self, map: u32) -> Result<(), libc::c_int> {
        let (access, refs) = self.maps.remove(&map).ok_or(libc::ENOENT)?;
        self.domain.unpin(&refs, access);
        Ok(())
    }
}

impl Drop for Maps {
    fn drop(&mut self) {
        for (access, refs) in self.maps.values() {
            self.domain.unpin(refs, *access);
        }
    }
}

impl Binding {
    fn bind(&mut self, port: Port) -> Result<Answer<'_>, libc::c_int> {
        if self.channel.is_some() {
            return Err(libc::EINVAL);
        }
        let channel = self.domain.bind(port, &self.event).ok_or(libc::EINVAL)?;
        let channel = &*self.channel.insert(channel);
        let slot = u32::try_from(channel.slot).map_err(|_| libc::EINVAL)?;
        Ok(Answer(vec![slot], vec![channel.guest.as_fd()]))
    }

    fn unbind(&mut self) -> Result<(), libc::c_int> {
        self.channel.take().ok_or(libc::ENOTCONN)?.unbind();
        Ok(())
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        if let Some(channel) = &self.channel {
            channel.unbind();
        }
    }
}
