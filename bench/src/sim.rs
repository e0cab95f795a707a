//! The data path alone: a real blkback process on the simulated host, driven by a frontend that does nothing but keep a
//! ring full. Plays splitd's part of the messages itself. Knows nothing of xenstore.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use blkback::wire::{self, Segment};
use splitd::process::Handle;
use tempfile::TempDir;
use worker::message::{Abi, Connect, FromWorker, Open, QueueRing, ToWorker, TransferMode, VERSION};
use xen_ring::{FrontRing, PAGE_LEN};
use xenbus::hv::Access;
use xenbus::sim::{GuestPages, GuestPort, GuestWindow, SimDomain, SimHost};
use xenbus::{DomId, GrantRef};

use crate::cpu;
use crate::fio::Job;
use crate::rows::BlockRow;

const GUEST: DomId = DomId(7);
const VM_UUID: &str = "00000000-0000-0000-0000-000000000007";
/// Far beyond what any operation takes; a worker that is silent so long has hung.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// A file for both sides to read and write: `len_bytes` of incompressible bytes, so that no sparse or zero block flatters
/// anyone.
pub fn make_target(dir: &Path, len_bytes: u64) -> Result<PathBuf> {
    let path = dir.join("bench.img");
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = vec![0u8; 1 << 20];
    for _ in 0..len_bytes >> 20 {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&next(&mut state).to_le_bytes());
        }
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(path)
}

/// xorshift64*: offsets only have to be spread out.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// How a worker is to serve.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// How it moves data.
    pub mode: TransferMode,
    /// How long it looks for what comes next.
    pub busy_poll_us: u32,
}

/// One worker serving one file to one simulated guest.
#[derive(Debug)]
pub struct Bed {
    worker: Handle,
    control: BufReader<UnixStream>,
    front: Front,
    capacity_sectors: u64,
    _dir: TempDir,
    _host: SimHost,
}

#[derive(Debug)]
struct Front {
    ring: FrontRing<GuestWindow>,
    port: GuestPort,
    slots: Vec<Slot>,
    _ring_pages: GuestPages,
    _domain: SimDomain,
}

#[derive(Debug)]
struct Slot {
    grefs: Vec<GrantRef>,
    indirect: GrantRef,
    _pages: GuestPages,
}

impl Bed {
    /// Starts `blkback` (its path) on `target`, for requests of at most `job`'s length and depth.
    pub fn start(blkback: &Path, target: &Path, job: Job, how: How) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("splitd-bench").tempdir_in(volatile_dir())?;
        let host = SimHost::start(dir.path())?;
        let domain = host.domain(GUEST, "guest", VM_UUID, 8192)?;
        let (front, queue) = Front::new(domain, job)?;
        let run_dir = dir.path().join("vbd-7-51712");
        std::fs::create_dir(&run_dir)?;
        let socket = run_dir.join("control.sock");
        let listener = UnixListener::bind(&socket)?;
        let host_argument = format!("sim:{}", dir.path().display());
        let worker = Handle::spawn(blkback, &host_argument, &listener, &[])
            .with_context(|| format!("cannot start {}", blkback.display()))?;
        let stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        let mut control = BufReader::new(stream);
        say(&mut control, &ToWorker::Hello { version: VERSION })?;
        hear(&mut control, |m| matches!(m, FromWorker::Hello { .. }).then_some(()))?;
        say(&mut control, &ToWorker::Open(open(target, run_dir, how)))?;
        let capacity_sectors = hear(&mut control, |m| match m {
            FromWorker::Opened(opened) => Some(opened.capacity_sectors),
            _ => None,
        })?;
        let connection = Connect {
            connection: 1,
            queues: vec![queue],
            abi: Abi::Native64,
            mode: how.mode,
            barrier: false,
            predecessor_crashed: false,
            fence_timeout_ms: 5000,
        };
        say(&mut control, &ToWorker::Connect(connection))?;
        hear(&mut control, |m| matches!(m, FromWorker::Connected { .. }).then_some(()))?;
        Ok(Self { worker, control, front, capacity_sectors, _dir: dir, _host: host })
    }

    /// Does `operations` of `job` and measures them.
    pub fn run(&mut self, job: Job, operations: u64) -> Result<BlockRow> {
        let pid = self.worker.process.pid;
        let cpu_before = cpu::of_process(pid)?;
        let began = Instant::now();
        let mut latencies = self.front.run(job, operations, self.capacity_sectors)?;
        let took = began.elapsed().as_secs_f64();
        let cpu_us = (cpu::of_process(pid)? - cpu_before) as f64 / 1000.0;
        latencies.sort_unstable();
        let done = latencies.len() as f64;
        let percentile =
            |p: usize| latencies.get(latencies.len() * p / 100).map_or(f64::NAN, |ns| *ns as f64 / 1000.0);
        Ok(BlockRow {
            case: job.name.to_owned(),
            who: "splitd".to_owned(),
            iops: done / took,
            mib_s: done * f64::from(job.block_len_bytes) / 1_048_576.0 / took,
            p50_us: percentile(50),
            p99_us: percentile(99),
            cpu_us_per_io: cpu_us / done,
        })
    }

    /// Ends the worker the orderly way.
    pub fn finish(mut self) -> Result<()> {
        say(&mut self.control, &ToWorker::Disconnect)?;
        hear(&mut self.control, |m| matches!(m, FromWorker::Disconnected).then_some(()))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.worker.kill();
    }
}

impl Front {
    fn new(domain: SimDomain, job: Job) -> Result<(Self, QueueRing)> {
        let ring_pages = domain.allocate(1)?;
        let ring_ref = domain.grant(ring_pages.frame(0), DomId::DOM0, Access::ReadWrite)?;
        let window = ring_pages.window().context("no window on the ring's page")?;
        let ring = FrontRing::new(window, wire::slot_len(Abi::Native64))
            .map_err(|e| anyhow::anyhow!("ring: {e:?}"))?;
        let port = domain.allocate_port(DomId::DOM0)?;
        let slots = (0..job.depth).map(|_| Slot::new(&domain, job.block_len_bytes)).collect::<Result<_>>()?;
        let queue = QueueRing { ring_refs: vec![ring_ref.0], port: port.port().0 };
        Ok((Self { ring, port, slots, _ring_pages: ring_pages, _domain: domain }, queue))
    }

    /// Keeps `job.depth` requests in flight until `operations` are answered; the latency of each in ns.
    fn run(&mut self, job: Job, operations: u64, capacity_sectors: u64) -> Result<Vec<u64>> {
        let mut latencies = Vec::with_capacity(usize::try_from(operations)?);
        let mut began = vec![Instant::now(); self.slots.len()];
        let mut idle: Vec<usize> = (0..self.slots.len()).collect();
        let mut pattern = Pattern::new(job, capacity_sectors);
        let mut made = 0;
        let mut response = [0u8; wire::MAX_SLOT_LEN];
        while (latencies.len() as u64) < operations {
            while made < operations
                && let Some(slot) = idle.pop()
            {
                let (operation, sector) = pattern.next_request();
                began[slot] = Instant::now();
                self.ring.push_request(&self.slots[slot].request(slot as u64, operation, sector));
                made += 1;
                // Each by itself, as blkfront does: the backend begins with the first while the next one is made.
                if self.ring.publish() {
                    self.port.notify()?;
                }
            }
            while !self.ring.final_check().map_err(|e| anyhow::anyhow!("{e:?}"))? {
                ensure!(self.port.wait(SILENCE_LIMIT)?, "{}: no answer for {SILENCE_LIMIT:?}", job.name);
            }
            for _ in 0..self.ring.unconsumed().map_err(|e| anyhow::anyhow!("{e:?}"))? {
                self.ring.consume(&mut response);
                let slot = usize::from(response[0]);
                let status = i16::from_le_bytes([response[10], response[11]]);
                ensure!(status == 0, "{}: request answered with status {status}", job.name);
                latencies.push(u64::try_from(began[slot].elapsed().as_nanos())?);
                idle.push(slot);
            }
        }
        Ok(latencies)
    }
}

impl Slot {
    fn new(domain: &SimDomain, len_bytes: u32) -> Result<Self> {
        let nr_pages = len_bytes / u32::try_from(PAGE_LEN)?;
        let pages = domain.allocate(nr_pages + 1)?;
        let grant = |i| domain.grant(pages.frame(i), DomId::DOM0, Access::ReadWrite);
        let grefs = (0..nr_pages).map(grant).collect::<std::io::Result<Vec<_>>>()?;
        let table: Vec<u8> =
            grefs.iter().flat_map(|g| Segment { gref: *g, first: 0, last: 7 }.encode()).collect();
        ensure!(
            pages.write(nr_pages as usize * PAGE_LEN, &table),
            "the segments of {len_bytes} bytes fit one page"
        );
        let indirect = grant(nr_pages)?;
        Ok(Self { grefs, indirect, _pages: pages })
    }

    /// The slot's bytes (blkif.h, `blkif_request` and `blkif_request_indirect`, 64-bit layout).
    fn request(&self, id: u64, operation: u8, sector: u64) -> [u8; wire::MAX_SLOT_LEN] {
        let mut slot = [0u8; wire::MAX_SLOT_LEN];
        slot[8..16].copy_from_slice(&id.to_le_bytes());
        slot[16..24].copy_from_slice(&sector.to_le_bytes());
        let count = self.grefs.len();
        if count <= usize::from(wire::MAX_DIRECT_SEGMENTS) {
            slot[0] = operation;
            slot[1] = u8::try_from(count).unwrap_or(0);
            for (place, gref) in slot[24..].chunks_exact_mut(wire::SEGMENT_LEN).zip(&self.grefs) {
                place.copy_from_slice(&Segment { gref: *gref, first: 0, last: 7 }.encode());
            }
        } else {
            slot[0] = wire::OP_INDIRECT;
            slot[1] = operation;
            slot[2..4].copy_from_slice(&u16::try_from(count).unwrap_or(0).to_le_bytes());
            slot[28..32].copy_from_slice(&self.indirect.0.to_le_bytes());
        }
        slot
    }
}

/// Where the next operation goes, as fio would choose it.
struct Pattern {
    job: Job,
    state: u64,
    block: u64,
    blocks: u64,
}

impl Pattern {
    fn new(job: Job, capacity_sectors: u64) -> Self {
        let blocks = (capacity_sectors * wire::SECTOR_LEN / u64::from(job.block_len_bytes)).max(1);
        Self { job, state: 0x1234_5678_9abc_def1, block: 0, blocks }
    }

    fn next_request(&mut self) -> (u8, u64) {
        let random = next(&mut self.state);
        let block = if self.job.rw.starts_with("rand") { (random >> 8) % self.blocks } else { self.block };
        self.block = (self.block + 1) % self.blocks;
        let read = next(&mut self.state) % 100 < u64::from(self.job.read_percent);
        let operation = if read { wire::OP_READ } else { wire::OP_WRITE };
        (operation, block * u64::from(self.job.block_len_bytes) / wire::SECTOR_LEN)
    }
}

fn open(target: &Path, run_dir: PathBuf, how: How) -> Open {
    Open {
        frontend: GUEST.0,
        devid: 51712,
        vm_uuid: VM_UUID.to_owned(),
        target: target.to_owned(),
        read_only: false,
        discard: true,
        max_queues: 1,
        max_ring_order: 0,
        max_indirect_segments: 256,
        buffer_len_bytes: 4 << 20,
        busy_poll_us: how.busy_poll_us,
        run_dir,
        uid: None,
        qos: None,
    }
}

fn say(control: &mut BufReader<UnixStream>, message: &ToWorker) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    control.get_mut().write_all(&line).context("the worker does not listen")
}

/// Waits for the message that `wanted` takes; a failure it reports is an error here.
fn hear<T>(control: &mut BufReader<UnixStream>, wanted: impl Fn(&FromWorker) -> Option<T>) -> Result<T> {
    loop {
        let mut line = String::new();
        ensure!(control.read_line(&mut line).context("the worker says nothing")? > 0, "the worker has ended");
        let message: FromWorker = serde_json::from_str(&line)?;
        if let Some(found) = wanted(&message) {
            return Ok(found);
        }
        if matches!(
            message,
            FromWorker::Failed { .. } | FromWorker::Violation { .. } | FromWorker::Frozen { .. }
        ) {
            bail!("the worker says {message:?}");
        }
    }
}

fn volatile_dir() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    let usable = File::create(shm.join(format!(".splitd-bench-{}", std::process::id())));
    if usable.is_ok() {
        let _ = std::fs::remove_file(shm.join(format!(".splitd-bench-{}", std::process::id())));
        return shm;
    }
    std::env::temp_dir()
}
