//! Taking a frontend's ring and event channel, with patience for what passes: a predecessor whose end the hypervisor has not quite
//! seen, a moment without map handles. Knows nothing of what is in the ring.

use std::io;
use std::time::{Duration, Instant};

use xenbus::hv::{Access, EventChannel, GrantTable, MapError};
use xenbus::{GrantRef, Port};

/// How long a dead predecessor may hold the port.
const BIND_LIMIT: Duration = Duration::from_secs(2);
/// How long we may be short of map handles.
const MAP_LIMIT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);

/// Why a ring or a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// What the frontend gave us is not usable.
    #[error("{0}")]
    Frontend(String),
    /// Ours.
    #[error("{0}")]
    Host(String),
}

/// Maps a ring's pages; `name` is what the frontend calls them.
pub fn map_ring<G: GrantTable>(grants: &mut G, name: &str, refs: &[u32]) -> Result<G::Mapping, AttachError> {
    if !refs.len().is_power_of_two() || refs.len() > xen_ring::MAX_PAGES {
        return Err(AttachError::Frontend(format!(
            "{} ring pages; 1, 2, 4, 8 or 16 are allowed",
            refs.len()
        )));
    }
    let pages: Vec<GrantRef> = refs.iter().map(|&r| GrantRef(r)).collect();
    let begun = Instant::now();
    loop {
        match grants.map(&pages, Access::ReadWrite) {
            Ok(mapping) => return Ok(mapping),
            Err(MapError::BadGrant) => {
                return Err(AttachError::Frontend(format!("{name} {refs:?} was not granted to us")));
            }
            Err(MapError::Shortage(e)) if begun.elapsed() > MAP_LIMIT => {
                return Err(AttachError::Host(format!("no room to map {name}: {e}")));
            }
            Err(MapError::Shortage(_)) => std::thread::sleep(RETRY),
            Err(MapError::Host(e)) => return Err(AttachError::Host(format!("mapping {name}: {e}"))),
        }
    }
}

/// Binds to the frontend's port; `name` is what the frontend calls it.
pub fn bind<E: EventChannel>(events: &mut E, name: &str, port: u32) -> Result<(), AttachError> {
    let begun = Instant::now();
    loop {
        match events.bind(Port(port)) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::InvalidInput && begun.elapsed() < BIND_LIMIT => {
                std::thread::sleep(RETRY);
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                return Err(AttachError::Frontend(format!("{name} {port} is not for us to bind")));
            }
            Err(e) => return Err(AttachError::Host(format!("binding {name} {port}: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd};

    use xenbus::hv::Pending;

    use super::*;

    /// An event channel device that answers binds with errors, one after the other, and then well.
    #[derive(Debug)]
    struct Answers(Vec<i32>, std::fs::File);

    impl AsFd for Answers {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.1.as_fd()
        }
    }

    impl EventChannel for Answers {
        fn bind(&mut self, _remote: Port) -> io::Result<()> {
            self.0.pop().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
        }
        fn notify(&self) -> io::Result<()> {
            Err(io::ErrorKind::NotConnected.into())
        }
        fn pending(&mut self) -> io::Result<Pending> {
            Ok(Pending::None)
        }
        fn ack(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::NotConnected.into())
        }
        fn unbind(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    fn bound(errnos: &[i32]) -> Result<(), AttachError> {
        let file = std::fs::File::open("/dev/null").unwrap();
        bind(&mut Answers(errnos.iter().rev().copied().collect(), file), "event-channel", 15)
    }

    /// X21: the domain is gone between the look at its nodes and the bind: said at once, and not blamed on it. A port that a dead
    /// predecessor has not quite let go of is had a moment later.
    #[test]
    fn a_domain_that_is_gone_is_not_waited_for() {
        assert!(bound(&[libc::EINVAL, libc::EINVAL]).is_ok());
        match bound(&[libc::ESRCH, libc::ESRCH]) {
            Err(AttachError::Host(why)) => assert!(why.contains("event-channel 15"), "{why}"),
            other => panic!("{other:?}"),
        }
        match bound(&[libc::EINVAL; 1000]) {
            Err(AttachError::Frontend(why)) => assert!(why.contains("not for us to bind"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
