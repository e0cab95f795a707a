//! The reference netfront: the state machine of Linux' driver (1→4, closing, reconnect) through a guest's own store connection,
//! grants and event channels. Knows nothing of who the backend is.
//!
//! ```text
//!   Frontend::connect   waits for backend 2 ─► rings, grants, ports ─► 4 ─► waits for backend 4 ─► posts rx pages
//!   Frontend::queues    frames out and in, every answer checked; survives a backend that dies
//!   Frontend::close     5 ─► 6, waits for backend 6, ends every grant; reconnect() is what kexec does
//! ```

pub mod control;
mod queue;
mod ring;

use std::collections::BTreeMap;
use std::time::Duration;

use xen_ring::PAGE_LEN;
use xenbus::sim::SimDomain;

pub use self::control::Control;
pub use self::queue::{Answer, Queue};
pub use self::ring::Ring;
pub use crate::blkfront::{FrontError, state};
use crate::netif::{self, Extra, NR_SLOTS};
use crate::store::StoreClient;

/// A frame that a guest sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// How much of it is in each slot.
    pub slot_lens: Vec<usize>,
    /// Where in their pages the pieces begin, if they fit there.
    pub offset: u16,
    /// `netif::tx::*` of the first slot.
    pub flags: u16,
    /// Behind the first slot.
    pub extras: Vec<Extra>,
}

impl Outgoing {
    /// A complete frame in as few slots as possible.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let slot_lens = bytes.chunks(PAGE_LEN).map(<[u8]>::len).collect();
        Self { bytes, slot_lens, offset: 0, flags: 0, extras: Vec::new() }
    }

    /// In so many slots, each as long as the others, but for the last.
    #[must_use]
    pub fn in_slots(mut self, count: usize) -> Self {
        let len = self.bytes.len().div_ceil(count.max(1));
        self.slot_lens = self.bytes.chunks(len.max(1)).map(<[u8]>::len).collect();
        self
    }

    /// With the pieces so far into their pages.
    #[must_use]
    pub fn at(mut self, offset: u16) -> Self {
        self.offset = offset;
        self
    }

    /// Its checksum is open.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.flags |= netif::tx::CSUM_BLANK | netif::tx::DATA_VALIDATED;
        self
    }

    /// With another extra info.
    #[must_use]
    pub fn with(mut self, extra: Extra) -> Self {
        self.extras.push(extra);
        self
    }
}

/// A frame that a guest was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// What its slots hold, but for those that failed.
    pub bytes: Vec<u8>,
    /// `netif::rx::*` of the first slot.
    pub flags: u16,
    /// In order.
    pub extras: Vec<Extra>,
    /// Slots with data.
    pub nr_slots: usize,
    /// Statuses of slots that failed.
    pub errors: Vec<i16>,
}

impl Incoming {
    /// The checksum is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.flags & netif::rx::CSUM_BLANK != 0
    }

    /// Uncut TCP: its type and its segments' size.
    #[must_use]
    pub fn gso(&self) -> Option<(u8, u16)> {
        self.extras.iter().find_map(|extra| extra.as_gso())
    }
}

/// What the frontend can do and wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most queues; the backend may have fewer.
    pub queues: u32,
    /// An event channel for each ring, if the backend can.
    pub is_split: bool,
    /// `feature-sg`
    pub sg: bool,
    /// `feature-gso-tcpv4`
    pub gso_tcpv4: bool,
    /// `feature-gso-tcpv6`
    pub gso_tcpv6: bool,
    /// Not `feature-no-csum-offload`
    pub csum_ipv4: bool,
    /// `feature-ipv6-csum-offload`
    pub csum_ipv6: bool,
    /// `feature-rx-notify`
    pub rx_notify: bool,
    /// A control ring, if the backend has one.
    pub control: bool,
    /// Pages posted on each queue.
    pub rx_slots: u32,
    /// More nodes, for those who say more than Linux does.
    pub more: Vec<(String, String)>,
    /// Longest wait for a backend's state.
    pub state_timeout: Duration,
}

/// Linux' netfront with one queue.
impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            is_split: true,
            sg: true,
            gso_tcpv4: true,
            gso_tcpv6: true,
            csum_ipv4: true,
            csum_ipv6: true,
            rx_notify: true,
            control: false,
            rx_slots: NR_SLOTS,
            more: Vec::new(),
            state_timeout: Duration::from_secs(60),
        }
    }
}

impl Options {
    /// A frontend that can nothing.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            is_split: false,
            sg: false,
            gso_tcpv4: false,
            gso_tcpv6: false,
            csum_ipv4: false,
            csum_ipv6: false,
            ..Self::default()
        }
    }
}

/// A connected interface of a guest.
#[derive(Debug)]
pub struct Frontend {
    guest: SimDomain,
    store: StoreClient,
    home: String,
    backend: String,
    options: Options,
    /// Its queues.
    pub queues: Vec<Queue>,
    /// Its control ring.
    pub control: Option<Control>,
}

impl Frontend {
    /// Connects the interface `devid` of `guest`, whose nodes the toolstack has made.
    pub fn connect(guest: &SimDomain, devid: u32, options: Options) -> Result<Self, FrontError> {
        let store = StoreClient::connect(guest.store_socket())?;
        let home = format!("/local/domain/{}/device/vif/{devid}", guest.id());
        let mut frontend = Self {
            guest: guest.clone(),
            store,
            home,
            backend: String::new(),
            options,
            queues: Vec::new(),
            control: None,
        };
        frontend.handshake()?;
        Ok(frontend)
    }

    /// What kexec does: close, back to 1, and connect anew.
    pub fn reconnect(&mut self, options: Options) -> Result<(), FrontError> {
        self.close()?;
        self.options = options;
        self.set_state(state::INITIALISING)?;
        self.handshake()
    }

    fn handshake(&mut self) -> Result<(), FrontError> {
        let backend = self.store.read(&format!("{}/backend", self.home))?;
        self.backend = backend.ok_or_else(|| FrontError::Backend("no backend node".into()))?;
        self.wait_backend(&[state::INIT_WAIT])?;
        let most = self.backend_number("multi-queue-max-queues")?.unwrap_or(1);
        let can_split = self.backend_number("feature-split-event-channels")? == Some(1);
        let count = u64::from(self.options.queues).clamp(1, most.max(1));
        for _ in 0..count {
            self.queues.push(Queue::new(&self.guest, self.options.is_split && can_split)?);
        }
        if self.options.control && self.backend_number("feature-ctrl-ring")? == Some(1) {
            self.control = Some(Control::new(&self.guest)?);
        }
        self.publish_rings()?;
        self.wait_backend(&[state::CONNECTED])?;
        let slots = self.options.rx_slots;
        self.queues.iter_mut().try_for_each(|queue| queue.post(slots))
    }

    /// What the frontend writes of its queues and of itself.
    fn nodes(&self) -> BTreeMap<String, String> {
        let options = &self.options;
        let mut nodes = BTreeMap::from([("request-rx-copy".to_owned(), "1".to_owned())]);
        for (name, on) in [
            ("feature-sg", options.sg),
            ("feature-gso-tcpv4", options.gso_tcpv4),
            ("feature-gso-tcpv6", options.gso_tcpv6),
            ("feature-no-csum-offload", !options.csum_ipv4),
            ("feature-ipv6-csum-offload", options.csum_ipv6),
            ("feature-rx-notify", options.rx_notify),
        ] {
            nodes.insert(name.to_owned(), u8::from(on).to_string());
        }
        nodes.extend(queue_nodes(&self.queues));
        nodes.extend(self.control.iter().flat_map(Control::nodes));
        nodes.extend(options.more.iter().cloned());
        nodes
    }

    fn publish_rings(&mut self) -> Result<(), FrontError> {
        let (nodes, home) = (self.nodes(), self.home.clone());
        self.store.transaction(|store| {
            for stale in store.list(&home)?.iter().filter(|name| is_stale(name)) {
                store.remove(&format!("{home}/{stale}"))?;
            }
            for (name, value) in &nodes {
                store.write(&format!("{home}/{name}"), value)?;
            }
            store.write(&format!("{home}/state"), &state::CONNECTED.to_string())
        })?;
        Ok(())
    }

    fn set_state(&mut self, state: u32) -> Result<(), FrontError> {
        Ok(self.store.write(&format!("{}/state", self.home), &state.to_string())?)
    }

    /// Waits for the backend's state.
    pub fn wait_backend(&mut self, states: &[u32]) -> Result<u32, FrontError> {
        let path = format!("{}/state", self.backend);
        Ok(self.store.wait_state(&path, states, self.options.state_timeout)?)
    }

    /// A number that the backend wrote.
    pub fn backend_number(&mut self, node: &str) -> Result<Option<u64>, FrontError> {
        Ok(self.store.read_number(&format!("{}/{node}", self.backend))?)
    }

    /// The guest's connection to the store.
    pub fn store(&mut self) -> &mut StoreClient {
        &mut self.store
    }

    /// The frontend's directory.
    #[must_use]
    pub fn home(&self) -> &str {
        &self.home
    }

    /// The backend's directory.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// Posts pages again on all queues, for those that were answered.
    pub fn post(&mut self) -> Result<(), FrontError> {
        let slots = self.options.rx_slots;
        self.queues.iter_mut().try_for_each(|queue| queue.post(slots))
    }

    /// Closes as a driver that is unbound does, and gives all grants and pages back.
    pub fn close(&mut self) -> Result<(), FrontError> {
        self.set_state(state::CLOSING)?;
        self.wait_backend(&[state::CLOSING, state::CLOSED])?;
        self.finish_close()
    }

    /// Follows a backend that was told to close: 6, and waits for the backend's 6.
    pub fn finish_close(&mut self) -> Result<(), FrontError> {
        self.set_state(state::CLOSED)?;
        self.wait_backend(&[state::CLOSED])?;
        self.release()
    }

    /// Ends all grants; an error names how many the backend still holds.
    pub fn release(&mut self) -> Result<(), FrontError> {
        let in_use = self.queues.drain(..).map(|queue| queue.release().len()).sum::<usize>()
            + self.control.take().map_or(0, Control::release);
        if in_use == 0 {
            return Ok(());
        }
        Err(FrontError::Backend(format!("closed, and {in_use} grants are still mapped")))
    }
}

/// Nodes of queues: flat for one, in directories for several.
#[must_use]
pub fn queue_nodes(queues: &[Queue]) -> BTreeMap<String, String> {
    let mut nodes = BTreeMap::new();
    if queues.len() > 1 {
        nodes.insert("multi-queue-num-queues".to_owned(), queues.len().to_string());
    }
    for (i, queue) in queues.iter().enumerate() {
        let at = if queues.len() > 1 { format!("queue-{i}/") } else { String::new() };
        nodes.insert(format!("{at}tx-ring-ref"), queue.tx.gref().to_string());
        nodes.insert(format!("{at}rx-ring-ref"), queue.rx.gref().to_string());
        match queue.ports() {
            (both, None) => {
                nodes.insert(format!("{at}event-channel"), both.port().to_string());
            }
            (tx, Some(rx)) => {
                nodes.insert(format!("{at}event-channel-tx"), tx.port().to_string());
                nodes.insert(format!("{at}event-channel-rx"), rx.port().to_string());
            }
        }
    }
    nodes
}

/// What a frontend of an earlier kernel left in its directory.
fn is_stale(name: &str) -> bool {
    name.ends_with("-ring-ref")
        || ["queue-", "multi-queue", "event-channel", "feature-", "request-"]
            .iter()
            .any(|p| name.starts_with(p))
}
