//! How a queue comes to serve: map both rings, bind the event channels, take a dead predecessor's slots over or begin afresh. Knows
//! nothing of how the terms were agreed on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use worker::attach::{self, AttachError};
use worker::log_limit::LogLimit;
use worker::message::{VifFeatures, VifRing};
use worker::wake::Bell;
use xen_ring::{BackRing, Indices, SharedMemory};
use xenbus::hv::{EventChannel, GrantTable};

use super::{Channel, FromGuest, Queue, RX, TX, ToGuest};
use crate::caps::Limits;
use crate::figures::{Counter, Figures};
use crate::kept::{Kept, Place, Side, Unusable};
use crate::shared::Shared;
use crate::static_grants::StaticGrants;
use crate::tap::TapQueue;
use crate::wire::{RX_SLOT_LEN, TX_SLOT_LEN};

/// What a queue's thread has from the worker's start on.
pub(crate) struct Parts<G: GrantTable, E> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) grants: G,
    pub(crate) pages: Arc<StaticGrants<G::Mapping>>,
    pub(crate) events: [E; 2],
    pub(crate) tap: TapQueue,
    pub(crate) bell: Bell,
    pub(crate) kept: Kept,
    pub(crate) figures: Figures,
}

/// What a connection brings.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) connection: u64,
    pub(crate) ring: VifRing,
    pub(crate) features: VifFeatures,
}

/// Why a queue cannot be connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// What the frontend gave us is not usable.
    #[error("{0}")]
    Frontend(String),
    /// Ours.
    #[error("{0}")]
    Host(String),
}

impl From<AttachError> for ConnectError {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Frontend(why) => Self::Frontend(why),
            AttachError::Host(why) => Self::Host(why),
        }
    }
}

impl From<Unusable> for ConnectError {
    fn from(error: Unusable) -> Self {
        match error {
            // Frontends begin their rings at zero: whatever else stands there, this connection is not to be saved.
            Unusable::Tampered { .. } | Unusable::Lost(_) => Self::Frontend(error.to_string()),
            Unusable::Terms => Self::Host(error.to_string()),
        }
    }
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> Self {
        Self::Host(error.to_string())
    }
}

impl<G: GrantTable, E: EventChannel> Queue<G, E> {
    pub(super) fn attach(parts: Parts<G, E>, terms: &Terms) -> Result<(Self, u32), ConnectError> {
        let Parts {
            shared,
            mut grants,
            pages,
            events: [mut tx_events, mut rx_events],
            tap,
            bell,
            mut kept,
            figures,
        } = parts;
        let ring = &terms.ring;
        let tx_pages = attach::map_ring(&mut grants, "tx-ring-ref", &[ring.tx_ref])?;
        let rx_pages = attach::map_ring(&mut grants, "rx-ring-ref", &[ring.rx_ref])?;
        attach::bind(&mut tx_events, "event-channel-tx", ring.tx_port)?;
        let is_split = ring.rx_port != ring.tx_port;
        if is_split {
            attach::bind(&mut rx_events, "event-channel-rx", ring.rx_port)?;
        }
        let tx_ring = BackRing::attach(tx_pages, TX_SLOT_LEN, Indices::default()).map_err(shape_error)?;
        let rx_ring = BackRing::attach(rx_pages, RX_SLOT_LEN, Indices::default()).map_err(shape_error)?;
        let keys = [ring.tx_ref, ring.rx_ref, ring.tx_port, ring.rx_port];
        let published = [tx_ring.shared_rsp_prod(), rx_ring.shared_rsp_prod()];
        let [tx_at, rx_at] = kept.begin(terms.connection, keys, published)?;
        let mut from_guest = FromGuest::new(reattach(tx_ring, TX_SLOT_LEN, tx_at)?)?;
        let mut to_guest = ToGuest::new(reattach(rx_ring, RX_SLOT_LEN, rx_at)?)?;
        let mut replayed = 0;
        for index in indices(tx_at) {
            let mut slot = [0; TX_SLOT_LEN];
            kept.slot(Side::Tx, index, &mut slot);
            from_guest.take_again(slot);
            replayed += 1;
        }
        for index in indices(rx_at) {
            let mut slot = [0; RX_SLOT_LEN];
            kept.slot(Side::Rx, index, &mut slot);
            to_guest.take_again(slot);
            replayed += 1;
        }
        figures.add(Counter::Replayed, replayed as usize);
        shared.serving.fetch_add(1, Ordering::Relaxed);
        let channel = |events| Some(Channel { events, waiting: false });
        let mut queue = Self {
            shared,
            features: terms.features,
            grants,
            pages,
            channels: [channel(tx_events), if is_split { channel(rx_events) } else { None }],
            tap,
            bell,
            kept,
            figures,
            log: LogLimit::default(),
            from_guest,
            to_guest,
            limits: Limits::default(),
            empty_wakeups: 0,
            woken: false,
            held_since_ns: None,
            now_ns: 0,
            worked: false,
        };
        queue.tap.set_carrier(true)?;
        // A predecessor may have died between publishing and notifying.
        let mut both = [false; 2];
        (both[TX], both[RX]) = (true, true);
        queue.notify(both);
        Ok((queue, replayed))
    }
}

fn indices(place: Place) -> impl Iterator<Item = u32> {
    (0..place.taken.wrapping_sub(place.answered)).map(move |i| place.answered.wrapping_add(i))
}

fn reattach<M: SharedMemory>(
    ring: BackRing<M>,
    slot_len: usize,
    at: Place,
) -> Result<BackRing<M>, ConnectError> {
    let at = Indices { req_cons: at.taken, rsp_prod: at.answered };
    BackRing::attach(ring.into_memory(), slot_len, at).map_err(shape_error)
}

pub(crate) fn shape_error(error: xen_ring::AttachError) -> ConnectError {
    ConnectError::Frontend(format!("ring: {error:?}"))
}
