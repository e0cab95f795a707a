//! The control ring: orders about the guest's hash of frames to it, one at a time, answered in order. It has a thread of its own that
//! looks a thousand times in a second at most, so that no guest makes work with it. Knows nothing of frames.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use worker::attach;
use worker::message::VifControlRing;
use worker::wake::{self, Bell, Want};
use xen_ring::{BackRing, Indices};
use xenbus::GrantRef;
use xenbus::hv::{Direction, EventChannel, GrantCopy, GrantStatus, GrantTable, Pending};
use xenbus::memory::LocalMemory;

use self::kept::Kept;
use self::order::{FETCH_LEN, Request, SLOT_LEN, Slot};
use crate::hash::Hashing;
use crate::queue::{ConnectError, Next, Stop, shape_error};
use crate::shared::Shared;
use crate::steering::Steering;
use crate::thread::Serve;

pub(crate) mod kept;
pub mod order;

/// Between two looks at the ring.
const PAUSE: Duration = Duration::from_millis(1);

/// What the thread has from the worker's start on.
#[derive(Debug)]
pub(crate) struct Parts<G, E> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) grants: G,
    pub(crate) events: E,
    pub(crate) bell: Bell,
    pub(crate) kept: Kept,
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
        let control = Self {
            terms: order::Terms { nr_queues: terms.nr_queues, can_steer: parts.can_steer },
            hashing: parts.kept.load(terms.nr_queues),
            page: LocalMemory::new(FETCH_LEN)?,
            parts,
            ring,
            again,
            is_told: false,
            has_paused: false,
        };
        control.apply();
        // A predecessor may have died between publishing and notifying.
        control.notify();
        Ok((control, replayed))
    }

    fn unused(_: Self::Parts) {}

    fn turn(&mut self) -> Result<Next, Stop> {
        let has_worked = self.work()?;
        if has_worked || self.ring.final_check()? {
            return Ok(Next::Wait(Some(PAUSE)));
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
        self.steer(false);
    }
}

impl<G: GrantTable, E: EventChannel> Control<G, E> {
    /// Answers all there is; true if there was something.
    fn work(&mut self) -> Result<bool, Stop> {
        let mut has_worked = false;
        if let Some(slot) = self.again.take() {
            self.answer(&slot);
            has_worked = true;
        }
        for _ in 0..self.ring.unconsumed()? {
            let mut slot = Slot::default();
            let index = self.ring.consume(&mut slot);
            self.parts.kept.keep(index, &slot);
            worker::crash_point!("net_after_control_take");
            self.answer(&slot);
            has_worked = true;
        }
        Ok(has_worked)
    }

    fn answer(&mut self, slot: &Slot) {
        let request = Request::read(slot);
        let Self { hashing, terms, parts, page, .. } = self;
        let before = hashing.clone();
        let (status, data) = order::obey(hashing, request.order, *terms, |gref, out| {
            fetch(&mut parts.grants, page, gref, out)
        });
        tracing::debug!(?request, ?status, data, "control");
        if *hashing != before {
            self.parts.kept.store(&self.hashing);
            self.apply();
        }
        self.ring.push_response(&request.response(status, data));
        let wants_to_be_told = self.ring.publish();
        worker::crash_point!("net_after_control_publish");
        self.parts.kept.answered(self.ring.next_response());
        if wants_to_be_told {
            self.notify();
        }
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

/// Copies the first bytes of a guest's page; false if the page cannot be read.
fn fetch<G: GrantTable>(grants: &mut G, page: &mut LocalMemory, gref: u32, out: &mut [u8]) -> bool {
    let Ok(len) = u16::try_from(out.len()) else { return false };
    let mut copies = [GrantCopy {
        gref: GrantRef(gref),
        offset: 0,
        len,
        local: 0,
        direction: Direction::FromGuest,
        status: GrantStatus::GENERAL_ERROR,
    }];
    let done = grants.copy(page, &mut copies);
    let is_done = done.is_ok() && copies.iter().all(|copy| copy.status.is_okay());
    is_done && page.read(0, out)
}
