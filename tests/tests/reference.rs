//! The reference blkfront against a backend small enough to be seen through, first honest, then with one fault at a time: an
//! oracle that does not notice those would prove nothing about the real backend.
#![allow(clippy::unwrap_used)] // a test's helpers may fail the test

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use splitd_tests::blkfront::{Frontend, Load, Options};
use splitd_tests::blkif::{self, Abi};
use splitd_tests::store::StoreClient;
use splitd_tests::toolstack::{DiskConfig, Hotplug, Toolstack};
use xen_ring::{BackRing, Indices};
use xenbus::hv::{Access, Direction, EventChannel, GrantCopy, GrantStatus, GrantTable, Hypervisor};
use xenbus::memory::LocalMemory;
use xenbus::sim::{Sim, SimDomain, SimGrants, SimHost, SimMapping};
use xenbus::{DomId, GrantRef, Port};

const GUEST: DomId = DomId(3);
const SECTORS: u64 = 4096;

/// What the small backend does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    AnswersTwice,
    WrongId,
    WrongOperation,
    LosesAWrite,
    KeepsAMapping,
    FailsAWrite,
    NeverNotifies,
    Forgets,
}

/// One queue of it.
struct Back {
    ring: BackRing<SimMapping>,
    grants: SimGrants,
    abi: Abi,
    local: LocalMemory,
    disk: Vec<u8>,
    fault: Fault,
    answered: u32,
    kept: Vec<SimMapping>,
    waiting: VecDeque<Vec<u8>>,
}

fn u64_at(slot: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(slot[at..at + 8].try_into().unwrap())
}

fn u32_at(slot: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(slot[at..at + 4].try_into().unwrap())
}

impl Back {
    fn copy(&mut self, gref: u32, offset: usize, len: usize, local: usize, direction: Direction) {
        let mut op = [GrantCopy {
            gref: GrantRef(gref),
            offset: u16::try_from(offset).unwrap(),
            len: u16::try_from(len).unwrap(),
            local,
            direction,
            status: GrantStatus::GENERAL_ERROR,
        }];
        self.grants.copy(&self.local, &mut op).unwrap();
        assert_eq!(op[0].status, GrantStatus::OKAY);
    }

    /// The segments of a request: 8 bytes each, from its slot or from its indirect pages.
    fn segments(&mut self, slot: &[u8]) -> (u8, Vec<[u8; 8]>) {
        let id_at = if self.abi == Abi::Native64 { 8 } else { 4 };
        let table: Vec<u8> = if slot[0] == blkif::INDIRECT {
            let count = usize::from(u16::from_le_bytes([slot[2], slot[3]]));
            let mut table = Vec::new();
            for (page, part) in (0..count).step_by(512).enumerate() {
                let len = (count - part).min(512) * 8;
                self.copy(u32_at(slot, id_at + 20 + page * 4), 0, len, 0, Direction::FromGuest);
                let mut bytes = vec![0; len];
                assert!(self.local.read(0, &mut bytes));
                table.extend(bytes);
            }
            table
        } else {
            slot[id_at + 16..][..usize::from(slot[1]) * 8].to_vec()
        };
        let operation = if slot[0] == blkif::INDIRECT { slot[1] } else { slot[0] };
        (operation, table.chunks(8).map(|c| c.try_into().unwrap()).collect())
    }

    fn serve(&mut self, slot: &[u8]) -> Vec<u8> {
        let id_at = if self.abi == Abi::Native64 { 8 } else { 4 };
        let (id, sector) = (u64_at(slot, id_at), u64_at(slot, id_at + 8));
        let first = self.answered == 20;
        let (operation, segments) =
            if slot[0] == blkif::DISCARD { (slot[0], vec![]) } else { self.segments(slot) };
        let lost = self.fault == Fault::LosesAWrite && self.answered.is_multiple_of(20);
        let mut at = usize::try_from(sector).unwrap() * 512;
        for s in segments {
            let gref = u32_at(&s, 0);
            let (offset, len) = (usize::from(s[4]) * 512, usize::from(s[5] - s[4] + 1) * 512);
            if operation == blkif::READ {
                assert!(self.local.write(0, &self.disk[at..at + len]));
                self.copy(gref, offset, len, 0, Direction::ToGuest);
            } else if !lost {
                self.copy(gref, offset, len, 0, Direction::FromGuest);
                let disk = &mut self.disk[at..at + len];
                assert!(self.local.read(0, disk));
            }
            if first && self.fault == Fault::KeepsAMapping {
                self.kept.push(self.grants.map(&[GrantRef(gref)], Access::ReadOnly).unwrap());
            }
            at += len;
        }
        if operation == blkif::DISCARD {
            let count = usize::try_from(u64_at(slot, id_at + 16)).unwrap();
            self.disk[at..at + count * 512].fill(0);
        }
        let id = if first && self.fault == Fault::WrongId { u64::MAX } else { id };
        let mut response = id.to_le_bytes().to_vec();
        let wrong = first && self.fault == Fault::WrongOperation;
        response.extend([if wrong { 77 } else { operation }, 0]);
        let failed = first && self.fault == Fault::FailsAWrite;
        response.extend(if failed { blkif::ERROR } else { blkif::OKAY }.to_le_bytes());
        response
    }

    /// Takes what there is, answers it in another order; true if the guest wants to know.
    fn turn(&mut self) -> bool {
        let mut slot = vec![0; self.abi.slot_len()];
        while self.ring.unconsumed().unwrap() > 0 {
            self.ring.consume(&mut slot);
            self.waiting.push_back(slot.clone());
        }
        while let Some(slot) = if self.waiting.len().is_multiple_of(3) {
            self.waiting.pop_back()
        } else {
            self.waiting.pop_front()
        } {
            self.answered += 1;
            if self.answered == 21 && self.fault == Fault::Forgets {
                continue;
            }
            let response = self.serve(&slot);
            self.ring.push_response(&response);
            if self.answered == 21 && self.fault == Fault::AnswersTwice && !self.waiting.is_empty() {
                // In place of another request's answer.
                self.waiting.pop_front();
                self.ring.push_response(&response);
            }
        }
        self.ring.publish()
    }
}

struct Served {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let result = thread.join();
            if !std::thread::panicking() {
                result.unwrap();
            }
        }
    }
}

/// Plays splitd and a worker in one, for one connection.
fn serve(host: &SimHost, features: &[(&str, &str)], fault: Fault) -> Served {
    let mut store = StoreClient::connect(&host.dir().join("xenstored.sock")).unwrap();
    let back = "/local/domain/0/backend/vbd/3/51712";
    let front = "/local/domain/3/device/vbd/51712";
    for (name, value) in features {
        store.write(&format!("{back}/{name}"), value).unwrap();
    }
    store.write(&format!("{back}/state"), "2").unwrap();
    let sim = Sim::open(host.dir());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let control = std::thread::spawn(move || {
        store.wait_state(&format!("{front}/state"), &[3], Duration::from_secs(20)).unwrap();
        let number =
            |store: &mut StoreClient, node: &str| store.read_number(&format!("{front}/{node}")).unwrap();
        let queues = number(&mut store, "multi-queue-num-queues");
        let order = number(&mut store, "ring-page-order");
        let protocol = store.read(&format!("{front}/protocol")).unwrap().unwrap();
        let abi = if protocol == "x86_32-abi" { Abi::X86_32 } else { Abi::Native64 };
        let mut threads = Vec::new();
        for q in 0..queues.unwrap_or(1) {
            let at = if queues.is_some() { format!("queue-{q}/") } else { String::new() };
            let refs: Vec<GrantRef> = match order {
                None => vec![number(&mut store, &format!("{at}ring-ref"))],
                Some(order) => {
                    (0..1 << order).map(|n| number(&mut store, &format!("{at}ring-ref{n}"))).collect()
                }
            }
            .into_iter()
            .map(|r| GrantRef(u32::try_from(r.unwrap()).unwrap()))
            .collect();
            let port = u32::try_from(number(&mut store, &format!("{at}event-channel")).unwrap()).unwrap();
            let (sim, stop) = (sim.clone(), Arc::clone(&stopped));
            threads.push(std::thread::spawn(move || run(&sim, &refs, Port(port), abi, fault, &stop)));
        }
        for (name, value) in
            [("sectors", SECTORS.to_string().as_str()), ("info", "0"), ("sector-size", "512")]
        {
            store.write(&format!("{back}/{name}"), value).unwrap();
        }
        store.write(&format!("{back}/state"), "4").unwrap();
        store.wait_state(&format!("{front}/state"), &[5, 6], Duration::from_secs(60)).unwrap();
        stopped.store(true, Ordering::Release);
        for thread in threads {
            thread.join().unwrap();
        }
        store.write(&format!("{back}/state"), "6").unwrap();
    });
    Served { threads: vec![control], stop }
}

fn run(sim: &Sim, refs: &[GrantRef], port: Port, abi: Abi, fault: Fault, stop: &AtomicBool) {
    let mut grants = sim.open_grants(GUEST).unwrap();
    let mut events = sim.open_events(GUEST).unwrap();
    let mapping = grants.map(refs, Access::ReadWrite).unwrap();
    events.bind(port).unwrap();
    let mut back = Back {
        ring: BackRing::attach(mapping, abi.slot_len(), Indices::default()).unwrap(),
        grants,
        abi,
        local: LocalMemory::new(4096).unwrap(),
        disk: vec![0; usize::try_from(SECTORS).unwrap() * 512],
        fault,
        answered: 0,
        kept: Vec::new(),
        waiting: VecDeque::new(),
    };
    while !stop.load(Ordering::Acquire) {
        events.pending().unwrap();
        if back.turn() && fault != Fault::NeverNotifies {
            events.notify().unwrap();
        }
        if !back.ring.final_check().unwrap() {
            std::thread::sleep(Duration::from_micros(200));
        }
        events.ack().unwrap();
    }
}

struct World {
    _dir: tempfile::TempDir,
    host: SimHost,
    guest: SimDomain,
    tools: Toolstack,
    config: DiskConfig,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let host = SimHost::start(dir.path()).unwrap();
    let guest = host.domain(GUEST, "guest", "0b1d5a8e-6c1f-4a53-9d5e-000000000003", 1 << 16).unwrap();
    let mut tools = Toolstack::connect(&host).unwrap();
    let config = DiskConfig::new(0, &PathBuf::from("/nowhere"), Hotplug::Stock);
    tools.write_nodes(GUEST, &config).unwrap();
    World { _dir: dir, host, guest, tools, config }
}

/// Every shape of connection that blkfront has: queues, ring orders, both layouts, indirect requests.
#[test]
fn an_honest_backend_passes_in_every_shape() {
    let all = [
        ("multi-queue-max-queues", "4"),
        ("max-ring-page-order", "4"),
        ("feature-max-indirect-segments", "256"),
        ("feature-flush-cache", "1"),
        ("feature-discard", "1"),
    ];
    let shapes = [
        (Options::default(), &all[..0], 1, 32),
        (Options { queues: 4, ring_order: 2, ..Options::default() }, &all[..], 4, 128),
        (Options { abi: Abi::X86_32, ring_order: 4, depth: 64, ..Options::default() }, &all[..], 1, 512),
        (Options { queues: 2, segments: 256, ..Options::default() }, &all[..], 2, 32),
    ];
    for (options, features, queues, slots) in shapes {
        let mut w = world();
        let served = serve(&w.host, features, Fault::None);
        let mut front = Frontend::connect(&w.guest, 51712, options.clone()).unwrap();
        assert_eq!(front.queues().len(), queues, "{options:?}");
        assert_eq!(front.queues()[0].ring().nr_slots(), slots, "{options:?}");
        let sectors = 1..options.segments as u64 * 8 + 1;

        for align_sectors in [1, 8] {
            let load =
                Load { operations: Some(400), sectors: sectors.clone(), align_sectors, ..Load::default() };
            // Every queue of the small backend has a disk of its own, so each run must stay on its part: it does.
            let load = Load { discard_percent: 3, seed: align_sectors, ..load };
            let report = front.run(&load).unwrap();
            assert!(report.is_clean(), "{options:?}: {report:?}");
            assert_eq!(report.done, 400 * queues as u64);
        }
        front.close().unwrap();
        drop(served);
        assert_eq!(w.guest.held(), xenbus::sim::Held::default());
        let paths = splitd_tests::toolstack::Paths::new(GUEST, &w.config);
        w.tools.finish_detach(&w.config, &paths).unwrap();
        assert_eq!(w.tools.store().list("/local/domain/0/backend/vbd").unwrap(), Vec::<String>::new());
    }
}

/// Each fault is seen, and by the count that names it.
#[test]
fn every_fault_of_a_backend_is_noticed() {
    for fault in [
        Fault::AnswersTwice,
        Fault::WrongId,
        Fault::WrongOperation,
        Fault::LosesAWrite,
        Fault::KeepsAMapping,
        Fault::FailsAWrite,
        Fault::NeverNotifies,
        Fault::Forgets,
    ] {
        let w = world();
        let _served = serve(&w.host, &[("feature-flush-cache", "1")], fault);
        let mut front = Frontend::connect(&w.guest, 51712, Options::default()).unwrap();
        // Few sectors, so that what is lost is read soon; writes first in number.
        let load = Load {
            operations: Some(1500),
            sectors: 8..17,
            stall: Duration::from_secs(2),
            flush_percent: 0,
            read_percent: if fault == Fault::NeverNotifies { 50 } else { 30 },
            ..Load::default()
        };
        let load = if fault == Fault::NeverNotifies { Load { operations: Some(3), ..load } } else { load };

        let report = front.run(&load).unwrap();

        let state = format!("{}/state", front.home());
        front.store().write(&state, "6").unwrap();
        assert!(!report.is_clean(), "{fault:?} went unnoticed");
        let f = report.faults;
        let seen = match fault {
            Fault::None => 0,
            Fault::AnswersTwice => f.double_answers,
            Fault::WrongId => f.unknown_ids,
            Fault::WrongOperation => f.wrong_operations,
            Fault::LosesAWrite => report.verify_errors,
            Fault::KeepsAMapping => f.grants_in_use,
            Fault::FailsAWrite => report.io_errors,
            Fault::NeverNotifies => f.lost_wakeups,
            Fault::Forgets => report.unanswered,
        };
        assert!(seen > 0, "{fault:?}: {report:?}");
    }
}
