//! `OpenVif`: everything that needs privileges, in order, then the end of them. Knows nothing of the frontend beside its number.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use worker::counters;
use worker::message::{Fault, Link, OpenVif, Phase};
use worker::sandbox;
use worker::wake::Bell;
use xenbus::DomId;
use xenbus::hv::{GrantTable, Hypervisor};

use super::{Held, Vif};
use crate::caps::Caps;
use crate::control;
use crate::figures::{self, Figures};
use crate::kept::Kept;
use crate::queue::{self, Queue};
use crate::shared::Shared;
use crate::static_grants::StaticGrants;
use crate::steering::{self, Steering, Words};
use crate::tap::{self, TapQueue};
use crate::thread::{self, Handle, Line, Report, Serve};

/// More queues than that gain nothing and cost each a thread.
const MAX_QUEUES: u16 = 64;
const THREAD_STACK_LEN: usize = 256 << 10;
/// evtchn's bind.
pub(super) const BIND: u32 = 0x8_4501;
/// gntdev's map.
pub(super) const MAP: u32 = 0x18_4700;
/// What is left of ioctl: evtchn's bind, unbind, notify, reset; gntdev's map, unmap, copy; a tap's carrier, queues and choice
/// of a queue; a socket's FIONBIO.
const IOCTLS: [u32; 11] = [
    BIND,
    0x4_4503,
    0x4_4504,
    0x4505,
    MAP,
    0x10_4701,
    0x10_4708,
    tap::SET_QUEUE,
    tap::SET_CARRIER,
    steering::SET_STEERING,
    0x5421,
];
/// A queue's static grants.
type Pages<H> = StaticGrants<<<H as Hypervisor>::Grants as GrantTable>::Mapping>;

const READY_LIMIT: Duration = Duration::from_secs(30);

impl<H: Hypervisor> Vif<H>
where
    H::Grants: 'static,
    H::Events: 'static,
{
    pub(super) fn open(&mut self, open: &OpenVif) -> Result<(), (Fault, String)> {
        check(open, self.nr_taps)?;
        self.span = tracing::info_span!("vif", frontend = open.frontend, devid = open.devid);
        let host = |what: &str, e: &dyn std::fmt::Display| (Fault::Host, format!("{what}: {e}"));
        let taps = TapQueue::adopt(open.max_queues, open.link).map_err(|e| host("tap", &e))?;
        if let Some(first) = taps.first() {
            // What this guest cannot take is done here, frame by frame: the tap hands out more than any guest takes anyway.
            first.set_offload(true, true).map_err(|e| host("TUNSETOFFLOAD", &e))?;
        }
        let (steering, words) = steering(open.link, taps.first());
        let can_steer = open.link == Link::Wire || steering.is_some();
        let caps = Caps::open(open.accounts.as_ref()).map_err(|e| host("accounts", &e))?;
        let shared = Arc::new(Shared::new(&open.settings, words, caps));
        let counters =
            counters::open(&open.run_dir.join("counters"), &figures::NAMES, open.max_queues.into())
                .map_err(|e| host("counters file", &e))?;
        let pages: Vec<_> = (0..open.max_queues).map(|_| Arc::default()).collect();
        let mut queues = Vec::new();
        for (number, ((counters, tap), pages)) in counters.into_iter().zip(taps).zip(&pages).enumerate() {
            let handle = self
                .spawn_queue(number, open, &shared, pages, tap, Figures(counters))
                .map_err(|e| host(&format!("queue {number}"), &e))?;
            queues.push(handle);
        }
        let control = self
            .spawn_control(open, &shared, pages, steering, can_steer)
            .map_err(|e| host("control ring", &e))?;
        self.wait_until_ready(queues.len() + 1)?;
        if !sandbox::forget_paths().map_err(|e| host("giving up paths", &e))? {
            tracing::info!("no Landlock in this kernel; the system call filter stands alone");
        }
        sandbox::lock_in(open.uid, &IOCTLS).map_err(|e| host("giving up privileges", &e))?;
        self.phase = Phase::Opened;
        self.held = Some(Held { shared, queues, control: Some(control) });
        Ok(())
    }

    fn spawn_queue(
        &self,
        number: usize,
        open: &OpenVif,
        shared: &Arc<Shared>,
        pages: &Arc<Pages<H>>,
        tap: TapQueue,
        figures: Figures,
    ) -> anyhow::Result<Handle<queue::Terms>> {
        let frontend = DomId(open.frontend);
        let bell = Bell::new()?;
        let parts = queue::Parts {
            shared: Arc::clone(shared),
            grants: self.host.open_grants(frontend)?,
            pages: Arc::clone(pages),
            events: [self.host.open_events(frontend)?, self.host.open_events(frontend)?],
            tap,
            bell: bell.clone(),
            kept: Kept::open(&open.run_dir.join(format!("kept-{number}")))?,
            figures,
        };
        self.spawn::<Queue<H::Grants, H::Events>>(number, &format!("queue-{number}"), parts, bell)
    }

    fn spawn_control(
        &self,
        open: &OpenVif,
        shared: &Arc<Shared>,
        pages: Vec<Arc<Pages<H>>>,
        steering: Option<Steering>,
        can_steer: bool,
    ) -> anyhow::Result<Handle<control::Terms>> {
        let frontend = DomId(open.frontend);
        let bell = Bell::new()?;
        let parts = control::Parts {
            shared: Arc::clone(shared),
            grants: self.host.open_grants(frontend)?,
            events: self.host.open_events(frontend)?,
            bell: bell.clone(),
            kept: control::kept::Kept::open(&open.run_dir.join("kept-control"), open.max_queues)?,
            pages,
            steering,
            can_steer,
        };
        let number = open.max_queues.into();
        self.spawn::<control::Control<H::Grants, H::Events>>(number, "control", parts, bell)
    }

    fn spawn<S: Serve>(
        &self,
        number: usize,
        name: &str,
        parts: S::Parts,
        bell: Bell,
    ) -> anyhow::Result<Handle<S::Terms>>
    where
        S::Parts: Send + 'static,
        S::Terms: Send + 'static,
    {
        let (commands, for_thread) = crossbeam_channel::unbounded();
        let line = Line {
            number,
            commands: for_thread,
            reports: self.reporter.clone(),
            bell: self.bell.clone(),
            span: self.span.clone(),
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(THREAD_STACK_LEN)
            .spawn(move || thread::run::<S>(parts, &line))?;
        Ok(Handle { commands, bell })
    }

    fn wait_until_ready(&self, nr_threads: usize) -> Result<(), (Fault, String)> {
        for _ in 0..nr_threads {
            match self.reports.recv_timeout(READY_LIMIT) {
                Ok((_, Report::Ready)) => {}
                Ok((number, Report::NotReady(why))) => {
                    return Err((Fault::Host, format!("thread {number}: {why}")));
                }
                Ok((number, other)) => return Err((Fault::Host, format!("thread {number}: {other:?}"))),
                Err(e) => return Err((Fault::Host, format!("a thread did not start: {e}"))),
            }
        }
        Ok(())
    }
}

/// A tap's choice of queues, where we may load it, and the words that it goes by.
fn steering(link: Link, tap: Option<&TapQueue>) -> (Option<Steering>, Words) {
    let Some(tap) = tap.filter(|_| link == Link::Tap) else { return (None, Words::private()) };
    match Steering::open(tap.as_fd()) {
        Ok((steering, words)) => (Some(steering), words),
        Err(error) => {
            tracing::info!(%error, "no steering program: guests are refused a hash of their own");
            (None, Words::private())
        }
    }
}

fn check(open: &OpenVif, nr_taps: u16) -> Result<(), (Fault, String)> {
    let refuse = |why: String| Err((Fault::Host, why));
    if open.frontend >= DomId::FIRST_RESERVED.0 {
        return refuse(format!("frontend {}: not a guest's number", open.frontend));
    }
    if !(1..=MAX_QUEUES).contains(&open.max_queues) {
        return refuse(format!("max_queues {}: 1 to {MAX_QUEUES} are allowed", open.max_queues));
    }
    if open.max_queues > nr_taps {
        return refuse(format!("max_queues {}: {nr_taps} queues of the tap were given", open.max_queues));
    }
    Ok(())
}
