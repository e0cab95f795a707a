//! The control ring: orders about the guest's hash of frames to it and about its static grants, one at a time, answered in order. It
//! has a thread of its own that looks a thousand times in a second at most, and the more seldom the more pages it was told to map, so
//! that no guest makes work with it. Knows nothing of frames.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use worker::attach;
use worker::log_limit::LogLimit;
use worker::message::VifControlRing;
use worker::wake::{self, Bell, Want};
use xen_ring::{BackRing, Indices};
use xenbus::GrantRef;
use xenbus::hv::{Direction, EventChannel, GrantCopy, GrantStatus, GrantTable, Pending};
use xenbus::memory::LocalMemory;

use self::kept::Kept;
use self::order::{FETCH_LEN, HashOrder, Order, Request, SLOT_LEN, Slot, Status};
use crate::hash::Hashing;
use crate::queue::{ConnectError, Next, Stop, shape_error};
use crate::shared::Shared;
use crate::static_grants::StaticGrants;
use crate::steering::Steering;
use crate::thread::Serve;

pub(crate) mod kept;
pub mod list;
pub mod order;
mod pages;

/// Between two looks at the ring.
const PAUSE: Duration = Duration::from_millis(1);
/// And so much more for each page that was mapped or unmapped: several times of what it takes.
const PAGE_PAUSE: Duration = Duration::from_micros(50);

/// What the thread has from the worker's start on.
pub(crate) struct Parts<G: GrantTable, E> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) grants: G,
    pub(crate) events: E,
    pub(crate) bell: Bell,
    pub(crate) kept: Kept,
    /// Of each queue.
    pub(crate) pages: Vec<Arc<StaticGrants<G::Mapping>>>,
    /// Of a tap; without the right to load one there is none.
    pub(crate) steering: Option<Steering>,
    /// Frames come by the queue that their hash says.
    pub(crate) can_steer: bool,
}

/// What a connection brings.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) connection: u64,
    pub(crate) ring: VifControlRing,
    pub(crate) nr_queues: u32,
}

/// A connected ring.
pub(crate) struct Control<G: GrantTable, E> {
    parts: Parts<G, E>,
    terms: order::Terms,
    ring: BackRing<G::Mapping>,
    /// A request that a predecessor took and did not answer.
    again: Option<Slot>,
    hashing: Hashing,
    page: LocalMemory,
    log: LogLimit,
    /// Pages mapped or unmapped since the last pause.
    nr_touched: usize,
    /// An event was taken and not let go.
    is_told: bool,
    has_paused: bool,
}

impl<G: GrantTable, E: EventChannel> Serve for Control<G, E> {
    type Parts = Parts<G, E>;
    type Terms = Terms;

    fn connect(mut parts: Self::Parts, terms: &Terms) -> Result<(Self, u32), ConnectError> {
        let pages = attach::map_ring(&mut parts.grants, "ctrl-ring-ref", &[terms.ring.ring_ref])?;
        attach::bind(&mut parts.events, "event-channel-ctrl", terms.ring.port)?;
        let ring = BackRing::attach(pages, SLOT_LEN, Indices::default()).map_err(shape_error)?;
        let at = parts.kept.begin(terms.connection, terms.ring, ring.shared_rsp_prod())?;
        let indices = Indices { req_cons: at.taken, rsp_prod: at.answered };
        let ring = BackRing::attach(ring.into_memory(), SLOT_LEN, indices).map_err(shape_error)?;
        let again = (at.taken != at.answered).then(|| parts.kept.request());
        let replayed = again.is_some().into();
        let mut control = Self {
            terms: order::Terms { nr_queues: terms.nr_queues, can_steer: parts.can_steer },
            hashing: parts.kept.load(terms.nr_queues),
            page: LocalMemory::new(FETCH_LEN)?,
            log: LogLimit::default(),
            nr_touched: 0,
            parts,
            ring,
            again,
            is_told: false,
            has_paused: false,
        };
        control.apply();
        control.map_again();
        // A predecessor may have died between publishing and notifying.
        control.notify();
        Ok((control, replayed))
    }

    fn unused(_: Self::Parts) {}

    fn turn(&mut self) -> Result<Next, Stop> {
        let has_worked = self.work()?;
        if has_worked || self.ring.final_check()? {
            let touched = u32::try_from(std::mem::take(&mut self.nr_touched)).unwrap_or(u32::MAX);
            return Ok(Next::Wait(Some(PAUSE + PAGE_PAUSE.saturating_mul(touched))));
        }
        if self.is_told {
            if !std::mem::replace(&mut self.has_paused, true) {
                return Ok(Next::Wait(Some(PAUSE)));
            }
            (self.is_told, self.has_paused) = (false, false);
            self.parts.events.ack()?;
        }
        Ok(Next::Wait(None))
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<(), Stop> {
        let files = [
            (!self.is_told).then(|| (self.parts.events.as_fd(), Want::Read)),
            Some((self.parts.bell.as_fd(), Want::Read)),
        ];
        let [event, bell] = wake::ready(files, limit)?;
        if event && !matches!(self.parts.events.pending()?, Pending::None) {
            self.is_told = true;
        }
        if bell {
            self.parts.bell.hush();
        }
        Ok(())
    }

    fn leave(mut self, in_order: bool) {
        if in_order {
            self.parts.kept.end();
        }
        if let Err(error) = self.parts.events.unbind() {
            tracing::debug!(%error, "unbind");
        }
        self.parts.pages.iter().for_each(|pages| pages.clear());
        self.steer(false);
    }
}

impl<G: GrantTable, E: EventChannel> Control<G, E> {
    /// Answers what there is, up to an order that took long; true if there was something.
    fn work(&mut self) -> Result<bool, Stop> {
        let mut has_worked = false;
        if let Some(slot) = self.again.take() {
            self.answer(&slot, true);
            has_worked = true;
        }
        for _ in 0..self.ring.unconsumed()? {
            if self.nr_touched > 0 {
                break;
            }
            let mut slot = Slot::default();
            let index = self.ring.consume(&mut slot);
            self.parts.kept.keep(index, &slot);
            worker::crash_point!("net_after_control_take");
            self.answer(&slot, false);
            has_worked = true;
        }
        Ok(has_worked)
    }

    /// `is_again` says that a predecessor took it, and may have carried it out.
    fn answer(&mut self, slot: &Slot, is_again: bool) {
        let request = Request::read(slot);
        let (status, data) = match request.order {
            Order::Hash(order) => self.obey_hash(order),
            Order::Static { queue, order } => self.obey_static(queue, order, is_again),
            Order::Unknown => (Status::NotSupported, 0),
        };
        tracing::debug!(?request, ?status, data, "control");
        self.ring.push_response(&request.response(status, data));
        let wants_to_be_told = self.ring.publish();
        worker::crash_point!("net_after_control_publish");
        self.parts.kept.answered(self.ring.next_response());
        if wants_to_be_told {
            self.notify();
        }
    }

    fn obey_hash(&mut self, order: HashOrder) -> (Status, u32) {
        let Self { hashing, terms, parts, page, .. } = self;
        let before = hashing.clone();
        let answer = order::obey(hashing, order, *terms, |gref, out| {
            copy_page(&mut parts.grants, page, gref, out.len(), Direction::FromGuest) && page.read(0, out)
        });
        if *hashing != before {
            self.parts.kept.store(&self.hashing);
            self.apply();
        }
        answer
    }

    /// What was set counts from now on.
    fn apply(&self) {
        self.hashing.publish(self.parts.shared.words());
        self.steer(self.hashing.is_on);
    }

    fn steer(&self, on: bool) {
        if let Some(Err(error)) = self.parts.steering.as_ref().map(|steering| steering.set(on)) {
            tracing::warn!(%error, on, "TUNSETSTEERINGEBPF");
        }
    }

    fn notify(&self) {
        if let Err(error) = self.parts.events.notify() {
            tracing::debug!(%error, "notify");
        }
    }
}

/// Copies the first bytes of a guest's page to the first of ours, or the other way; false if the grant does not allow it.
fn copy_page<G: GrantTable>(
    grants: &mut G,
    page: &LocalMemory,
    gref: u32,
    len: usize,
    direction: Direction,
) -> bool {
    let Ok(len) = u16::try_from(len) else { return false };
    let gref = GrantRef(gref);
    let mut copies =
        [GrantCopy { gref, offset: 0, len, local: 0, direction, status: GrantStatus::GENERAL_ERROR }];
    let done = grants.copy(page, &mut copies);
    done.is_ok() && copies.iter().all(|copy| copy.status.is_okay())
}
