//! A frontend that writes what it likes into its directory and its rings. Knows nothing of which of that is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use xenbus::DomId;
use xenbus::sim::SimDomain;

use crate::blkfront::{FrontError, Ring, state};
use crate::store::{StoreClient, StoreError};

/// Nodes by their names within the frontend's directory.
pub type Nodes = BTreeMap<String, String>;

/// What a backend made of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// State 4.
    Connected,
    /// State 5 or 6.
    Closed,
    /// Neither in the time given; its state.
    Waits(u32),
}

/// A guest with bad intentions, or with a bad driver.
#[derive(Debug)]
pub struct Attacker {
    /// Its domain.
    pub guest: SimDomain,
    /// Its own connection to the store.
    pub store: StoreClient,
    /// The frontend's directory.
    pub home: String,
    /// The backend's directory.
    pub backend: String,
}

/// What libxl wrote and a frontend leaves alone. It also wrote `protocol`, which is the frontend's all the same.
const TOOLSTACK_NODES: &[&str] =
    &["backend", "backend-id", "state", "virtual-device", "device-type", "trusted", "handle", "mac", "mtu"];

impl Attacker {
    /// For the disk `devid`, whose nodes the toolstack has made.
    pub fn new(guest: &SimDomain, devid: u32) -> Result<Self, FrontError> {
        Self::of(guest, "vbd", devid)
    }

    /// For the network interface `devid`, likewise.
    pub fn of_vif(guest: &SimDomain, devid: u32) -> Result<Self, FrontError> {
        Self::of(guest, "vif", devid)
    }

    fn of(guest: &SimDomain, kind: &str, devid: u32) -> Result<Self, FrontError> {
        let mut store = StoreClient::connect(guest.store_socket())?;
        let home = format!("/local/domain/{}/device/{kind}/{devid}", guest.id());
        let backend = store.read(&format!("{home}/backend"))?;
        let backend = backend.ok_or_else(|| FrontError::Backend("no backend node".into()))?;
        Ok(Self { guest: guest.clone(), store, home, backend })
    }

    /// What an honest frontend would offer of these rings.
    #[must_use]
    pub fn honest(rings: &[Ring]) -> Nodes {
        let mut nodes = Nodes::new();
        let pages = rings.first().map_or(1, |r| r.refs().len());
        if let Some(ring) = rings.first() {
            nodes.insert("protocol".into(), ring.abi().protocol().into());
        }
        if pages > 1 {
            nodes.insert("ring-page-order".into(), pages.ilog2().to_string());
        }
        if rings.len() > 1 {
            nodes.insert("multi-queue-num-queues".into(), rings.len().to_string());
        }
        for (i, ring) in rings.iter().enumerate() {
            let at = if rings.len() > 1 { format!("queue-{i}/") } else { String::new() };
            nodes.insert(format!("{at}event-channel"), ring.port().to_string());
            for (n, gref) in ring.refs().iter().enumerate() {
                let name = if pages > 1 { format!("{at}ring-ref{n}") } else { format!("{at}ring-ref") };
                nodes.insert(name, gref.to_string());
            }
        }
        nodes
    }

    /// Writes an offer, and nothing else, with state 3, at once.
    pub fn offer(&mut self, nodes: &Nodes) -> Result<(), StoreError> {
        let home = self.home.clone();
        self.store.transaction(|store| {
            for stale in store.list(&home)?.iter().filter(|n| !TOOLSTACK_NODES.contains(&n.as_str())) {
                store.remove(&format!("{home}/{stale}"))?;
            }
            for (name, value) in nodes {
                store.write(&format!("{home}/{name}"), value)?;
            }
            store.write(&format!("{home}/state"), &state::INITIALISED.to_string())
        })
    }

    /// Sets its state, in any words.
    pub fn say(&mut self, state: &str) -> Result<(), StoreError> {
        let path = format!("{}/state", self.home);
        self.store.write(&path, state)
    }

    /// What the backend makes of it.
    pub fn verdict(&mut self, timeout: Duration) -> Result<Verdict, StoreError> {
        let path = format!("{}/state", self.backend);
        let decided = [state::CONNECTED, state::CLOSING, state::CLOSED];
        match self.store.wait_state(&path, &decided, timeout) {
            Ok(state::CONNECTED) => Ok(Verdict::Connected),
            Ok(_) => Ok(Verdict::Closed),
            Err(StoreError::TimedOut { found, .. }) => {
                Ok(Verdict::Waits(found.and_then(|f| f.parse().ok()).unwrap_or(0)))
            }
            Err(e) => Err(e),
        }
    }

    /// Closes and comes back, as a kernel that is started anew would: the backend must be at 2 then.
    pub fn start_over(&mut self, timeout: Duration) -> Result<(), StoreError> {
        let path = format!("{}/state", self.backend);
        self.say("6")?;
        self.store.wait_state(&path, &[state::CLOSED, state::INIT_WAIT], timeout)?;
        self.say("1")?;
        self.store.wait_state(&path, &[state::INIT_WAIT], timeout)?;
        Ok(())
    }
}

/// What the backend says went wrong with a disk, as dom0 reads it.
pub fn error_node(
    store: &mut StoreClient,
    kind: &str,
    domain: DomId,
    devid: u32,
) -> Result<Option<String>, StoreError> {
    store.read(&format!("/local/domain/0/error/backend/{kind}/{domain}/{devid}/error"))
}
