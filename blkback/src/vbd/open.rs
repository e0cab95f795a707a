//! `Open`: everything that needs privileges, in order, then the end of them. Knows nothing of the frontend beside its number.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use worker::counters;
use worker::journal::Journal;
use worker::message::{Fault, MAX_BUSY_POLL_US, Open, Opened, Phase};
use worker::qos::Gate;
use worker::sandbox;
use worker::uring::Uring;
use worker::wake::Bell;
use worker::written::{self, Written};
use xen_ring::PAGE_LEN;
use xenbus::DomId;
use xenbus::hv::Hypervisor;
use xenbus::memory::LocalMemory;

use super::{Held, Vbd};
use crate::discard::Discards;
use crate::figures::{self, Figures};
use crate::queue::{Device, Parts, journal_shape};
use crate::target::Target;
use crate::thread::{self, Handle, Line, Report};
use crate::wire::SEGMENTS_PER_PAGE;

/// More queues than that gain nothing and cost each a thread.
#[allow(clippy::cast_possible_truncation)]
const MAX_QUEUES: u16 = crate::flushes::MAX_QUEUES as u16;
/// `ring-page-order` 4: 16 pages.
const MAX_RING_ORDER: u8 = 4;
/// Below that, a queue could not hold a single chunk.
const MIN_BUFFER_PAGES_PER_QUEUE: u64 = 16;
const THREAD_STACK_LEN: usize = 256 << 10;
/// evtchn's bind.
pub(super) const BIND: u32 = 0x8_4501;
/// gntdev's map.
pub(super) const MAP: u32 = 0x18_4700;
/// What is left of ioctl: evtchn's bind, unbind, notify, reset; gntdev's map, unmap, copy; discards; a socket's FIONBIO.
const IOCTLS: [u32; 10] =
    [BIND, 0x4_4503, 0x4_4504, 0x4505, MAP, 0x10_4701, 0x10_4708, 0x1277, 0x127d, 0x5421];
const READY_LIMIT: Duration = Duration::from_secs(30);

impl<H: Hypervisor> Vbd<H>
where
    H::Grants: 'static,
    H::Events: 'static,
{
    pub(super) fn open(&mut self, open: Open) -> Result<Opened, (Fault, String)> {
        check(&open)?;
        self.span = tracing::info_span!("vbd", frontend = open.frontend, devid = open.devid);
        let target = Target::open(&open.target, open.read_only, open.discard)
            .map_err(|e| (Fault::Target, e.to_string()))?;
        let target = Arc::new(target);
        let opened = target.opened().clone();
        let device = Arc::new(Device::default());
        device.capacity_sectors.store(opened.capacity_sectors, Ordering::Relaxed);
        let host = |what: &str, e: &dyn std::fmt::Display| (Fault::Host, format!("{what}: {e}"));
        let memory = usize::try_from(open.buffer_len_bytes)
            .map_err(|e| host("buffers", &e))
            .and_then(|len| LocalMemory::new(len).map_err(|e| host("buffers", &e)))?;
        let nr_queues = u32::from(open.max_queues);
        let counters = counters::open(&open.run_dir.join("counters"), &figures::NAMES, nr_queues)
            .map_err(|e| host("counters file", &e))?;
        if let Some(files) = &open.qos {
            let gate = Gate::open(files).map_err(|e| host("limits", &e))?;
            let _ = device.gate.set(gate);
        }
        let written = open.run_dir.join(written::FILE);
        let _ = device.written.set(Written::open(&written).map_err(|e| host("written file", &e))?);
        let discards = (opened.discard.is_some() && target.is_block_device())
            .then(|| Discards::start(Arc::clone(&target)))
            .transpose()
            .map_err(|e| host("discard thread", &e))?;
        let mut queues = Vec::new();
        for (number, counters) in counters.into_iter().enumerate() {
            let handle = self
                .spawn(number, &open, &target, &device, &memory, Figures(counters), discards.as_ref())
                .map_err(|e| host(&format!("queue {number}"), &e))?;
            queues.push(handle);
        }
        // Set once: this is the device's only open.
        let _ = device.bells.set(queues.iter().map(|q| q.bell.clone()).collect());
        self.wait_until_ready(queues.len())?;
        if !sandbox::forget_paths().map_err(|e| host("giving up paths", &e))? {
            tracing::info!("no Landlock in this kernel; the system call filter stands alone");
        }
        sandbox::lock_in(open.uid, &IOCTLS).map_err(|e| host("giving up privileges", &e))?;
        self.phase = Phase::Opened;
        self.held = Some(Held { open, opened: opened.clone(), target, device, memory: Some(memory), queues });
        Ok(opened)
    }

    #[allow(clippy::too_many_arguments)] // all that one thread is made of, in one place
    fn spawn(
        &self,
        number: usize,
        open: &Open,
        target: &Target,
        device: &Arc<Device>,
        memory: &LocalMemory,
        figures: Figures,
        discards: Option<&Discards>,
    ) -> anyhow::Result<Handle> {
        let frontend = DomId(open.frontend);
        let grants = self.host.open_grants(frontend)?;
        let events = self.host.open_events(frontend)?;
        let bell = Bell::new()?;
        let most_slots = xen_ring::nr_slots(1 << open.max_ring_order, 108);
        let shape = journal_shape(most_slots, open.max_indirect_segments);
        let journal = Journal::open(&open.run_dir.join(format!("journal-{number}")), shape)?;
        let files = [target.as_fd(), events.as_fd(), bell.as_fd()];
        let disk = Uring::new(most_slots.clamp(64, 512), &files, memory)?;
        if !disk.memory_registered() {
            tracing::warn!(
                len_bytes = open.buffer_len_bytes,
                "buffers are not registered with io_uring: raise the memlock limit (LimitMEMLOCK=infinity)"
            );
        }
        let (commands, for_thread) = crossbeam_channel::unbounded();
        let line = Line {
            number,
            commands: for_thread,
            reports: self.reporter.clone(),
            bell: self.bell.clone(),
            span: self.span.clone(),
        };
        let discards = discards.map(|d| d.line(bell.clone()));
        let device = Arc::clone(device);
        let bell_here = bell.clone();
        let parts = Parts { device, grants, events, disk, bell, journal, figures, discards };
        std::thread::Builder::new()
            .name(format!("queue-{number}"))
            .stack_size(THREAD_STACK_LEN)
            .spawn(move || thread::run(parts, &line))?;
        Ok(Handle { commands, bell: bell_here })
    }

    fn wait_until_ready(&self, nr_queues: usize) -> Result<(), (Fault, String)> {
        for _ in 0..nr_queues {
            match self.reports.recv_timeout(READY_LIMIT) {
                Ok((_, Report::Ready)) => {}
                Ok((number, Report::NotReady(why))) => {
                    return Err((Fault::Host, format!("queue {number}: {why}")));
                }
                Ok((number, other)) => return Err((Fault::Host, format!("queue {number}: {other:?}"))),
                Err(e) => return Err((Fault::Host, format!("a queue's thread did not start: {e}"))),
            }
        }
        Ok(())
    }
}

fn check(open: &Open) -> Result<(), (Fault, String)> {
    let refuse = |why: String| Err((Fault::Host, why));
    if open.frontend >= DomId::FIRST_RESERVED.0 {
        return refuse(format!("frontend {}: not a guest's number", open.frontend));
    }
    if !(1..=MAX_QUEUES).contains(&open.max_queues) {
        return refuse(format!("max_queues {}: 1 to {MAX_QUEUES} are allowed", open.max_queues));
    }
    if open.max_ring_order > MAX_RING_ORDER {
        return refuse(format!("max_ring_order {}: 0 to {MAX_RING_ORDER} are allowed", open.max_ring_order));
    }
    if usize::from(open.max_indirect_segments) > SEGMENTS_PER_PAGE {
        let most = SEGMENTS_PER_PAGE;
        return refuse(format!(
            "max_indirect_segments {}: 0 to {most} are allowed",
            open.max_indirect_segments
        ));
    }
    if open.busy_poll_us > MAX_BUSY_POLL_US {
        return refuse(format!("busy_poll_us {}: 0 to {MAX_BUSY_POLL_US} are allowed", open.busy_poll_us));
    }
    let least = MIN_BUFFER_PAGES_PER_QUEUE * u64::from(open.max_queues) * PAGE_LEN as u64;
    if open.buffer_len_bytes < least {
        return refuse(format!("buffer_len_bytes {}: at least {least} are needed", open.buffer_len_bytes));
    }
    Ok(())
}
