//! The real `blkback` process beside a simulated host, a splitd that is a socket, and a frontend that says exactly what a test
//! tells it to. Knows nothing of what is expected.
#![allow(dead_code, unreachable_pub)] // each test file uses its own part
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use worker::message::{Abi, Connect, FromWorker, Open, QueueRing, ToWorker, TransferMode};
use xen_ring::{FrontRing, PAGE_LEN};
use xenbus::hv::Access;
use xenbus::sim::{GuestPages, GuestPort, GuestWindow, SimDomain, SimHost};
use xenbus::{DomId, GrantRef};

pub const GUEST: DomId = DomId(5);
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct World {
    pub dir: tempfile::TempDir,
    pub host: SimHost,
    pub guest: SimDomain,
    pub image: PathBuf,
}

impl World {
    pub fn new(image_len: u64) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let host = SimHost::start(dir.path()).unwrap();
        let guest = host.domain(GUEST, "g", "0f3c", 8192).unwrap();
        let image = dir.path().join("disk.img");
        std::fs::File::create(&image).unwrap().set_len(image_len).unwrap();
        Self { dir, host, guest, image }
    }

    pub fn open(&self) -> Open {
        Open {
            frontend: GUEST.0,
            devid: 51712,
            vm_uuid: "0f3c".into(),
            target: self.image.clone(),
            read_only: false,
            discard: true,
            max_queues: 2,
            max_ring_order: 2,
            max_indirect_segments: 256,
            buffer_len_bytes: 1 << 20,
            busy_poll_us: 50,
            run_dir: self.dir.path().into(),
            uid: None,
            qos: None,
        }
    }

    pub fn connect(&self, frontend: &Frontend) -> Connect {
        Connect {
            connection: 1,
            queues: frontend.queues.iter().map(Queue::published).collect(),
            abi: frontend.abi,
            mode: TransferMode::Copy,
            barrier: frontend.queues.len() == 1,
            predecessor_crashed: false,
            fence_timeout_ms: 10_000,
        }
    }
}

/// A running worker with a connection to it.
pub struct Worker {
    pub child: Child,
    pub socket: UnixStream,
    lines: BufReader<UnixStream>,
    pub path: PathBuf,
}

impl Worker {
    pub fn spawn(dir: &Path) -> Self {
        Self::spawn_with(dir, &[])
    }

    pub fn spawn_with(dir: &Path, environment: &[(&str, &str)]) -> Self {
        let path = dir.join("control.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" --host \"$1\" --listen-fd 3 3<&0 0</dev/null"])
            .arg(env!("CARGO_BIN_EXE_blkback"))
            .arg(format!("sim:{}", dir.display()))
            .envs(environment.iter().copied())
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        let (socket, lines) = Self::dial(&path);
        Self { child, socket, lines, path }
    }

    fn dial(path: &Path) -> (UnixStream, BufReader<UnixStream>) {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let lines = BufReader::new(socket.try_clone().unwrap());
        (socket, lines)
    }

    /// As a new splitd would.
    pub fn redial(&mut self) {
        let (socket, lines) = Self::dial(&self.path);
        (self.socket, self.lines) = (socket, lines);
    }

    pub fn tell(&mut self, message: &ToWorker) {
        let mut line = serde_json::to_vec(message).unwrap();
        line.push(b'\n');
        self.socket.write_all(&line).unwrap();
    }

    pub fn hear(&mut self) -> FromWorker {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    /// `None` if it died first.
    pub fn try_hear(&mut self) -> Option<FromWorker> {
        let mut line = String::new();
        self.lines.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// Whether it still lives after so long a time that whatever it has to do is done.
    pub fn outlives_its_work(&mut self) -> bool {
        (0..50).all(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            self.child.try_wait().unwrap().is_none()
        })
    }

    pub fn ask(&mut self, message: &ToWorker) -> FromWorker {
        self.tell(message);
        self.hear()
    }

    pub fn open(&mut self, open: Open) -> worker::message::Opened {
        match self.ask(&ToWorker::Open(open)) {
            FromWorker::Opened(opened) => opened,
            other => panic!("{other:?}"),
        }
    }

    /// Returns how many requests were replayed.
    pub fn connect(&mut self, connect: Connect) -> u32 {
        match self.ask(&ToWorker::Connect(connect)) {
            FromWorker::Connected { replayed, .. } => replayed,
            other => panic!("{other:?}"),
        }
    }

    /// As `connect`, for a worker that may die of it.
    pub fn try_connect(&mut self, connect: Connect) -> bool {
        self.tell(&ToWorker::Connect(connect));
        let mut line = String::new();
        self.lines.read_line(&mut line).is_ok() && line.contains("connected")
    }

    /// SIGKILL, and gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The orderly end.
    pub fn disconnect(mut self) {
        assert!(matches!(self.ask(&ToWorker::Disconnect), FromWorker::Disconnected));
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One ring of the frontend with its event channel.
pub struct Queue {
    pub pages: GuestPages,
    pub refs: Vec<GrantRef>,
    pub ring: FrontRing<GuestWindow>,
    pub port: GuestPort,
}

impl Queue {
    fn new(guest: &SimDomain, order: u32, abi: Abi) -> Self {
        let pages = guest.allocate(1 << order).unwrap();
        let grant = |i| guest.grant(pages.frame(i), DomId::DOM0, Access::ReadWrite).unwrap();
        let refs = (0..1 << order).map(grant).collect();
        let ring = FrontRing::new(pages.window().unwrap(), blkback::wire::slot_len(abi)).unwrap();
        let port = guest.allocate_port(DomId::DOM0).unwrap();
        Self { pages, refs, ring, port }
    }

    fn published(&self) -> QueueRing {
        QueueRing { ring_refs: self.refs.iter().map(|r| r.0).collect(), port: self.port.port().0 }
    }
}

/// An answer as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub id: u64,
    pub operation: u8,
    pub status: i16,
}

/// A frontend: rings and some granted data pages.
pub struct Frontend {
    pub abi: Abi,
    pub queues: Vec<Queue>,
    pub data: GuestPages,
    pub data_refs: Vec<GrantRef>,
}

impl Frontend {
    pub fn new(guest: &SimDomain, queues: usize, order: u32, abi: Abi, data_pages: u32) -> Self {
        let data = guest.allocate(data_pages).unwrap();
        let grant = |i| guest.grant(data.frame(i), DomId::DOM0, Access::ReadWrite).unwrap();
        let data_refs = (0..data_pages).map(grant).collect();
        let queues = (0..queues).map(|_| Queue::new(guest, order, abi)).collect();
        Self { abi, queues, data, data_refs }
    }

    /// A request's bytes: `segments` are (data page, first sector, last sector).
    pub fn request(&self, operation: u8, id: u64, sector: u64, segments: &[(usize, u8, u8)]) -> Vec<u8> {
        let mut bytes = self.header(operation, u8::try_from(segments.len()).unwrap(), 0, id, sector);
        let at = self.body_at();
        for (i, &(page, first, last)) in segments.iter().enumerate() {
            let segment = blkback::wire::Segment { gref: self.data_refs[page], first, last };
            bytes[at + i * 8..at + i * 8 + 8].copy_from_slice(&segment.encode());
        }
        bytes
    }

    /// An indirect request whose table is written to data page `table`.
    pub fn indirect(&self, operation: u8, id: u64, sector: u64, table: usize, pages: &[usize]) -> Vec<u8> {
        let nr = u16::try_from(pages.len()).unwrap();
        for (i, &page) in pages.iter().enumerate() {
            let segment = blkback::wire::Segment { gref: self.data_refs[page], first: 0, last: 7 };
            assert!(self.data.write(table * PAGE_LEN + i * 8, &segment.encode()));
        }
        let mut bytes = self.header(blkback::wire::OP_INDIRECT, operation, nr, id, sector);
        let at = self.body_at() + 4;
        bytes[at..at + 4].copy_from_slice(&self.data_refs[table].0.to_le_bytes());
        bytes
    }

    pub fn discard(&self, id: u64, sector: u64, nr_sectors: u64) -> Vec<u8> {
        let mut bytes = self.header(blkback::wire::OP_DISCARD, 0, 0, id, sector);
        let at = self.body_at();
        bytes[at..at + 8].copy_from_slice(&nr_sectors.to_le_bytes());
        bytes
    }

    fn body_at(&self) -> usize {
        if self.abi == Abi::Native64 { 24 } else { 20 }
    }

    fn header(&self, operation: u8, second: u8, third: u16, id: u64, sector: u64) -> Vec<u8> {
        let mut bytes = vec![0; blkback::wire::slot_len(self.abi)];
        (bytes[0], bytes[1]) = (operation, second);
        bytes[2..4].copy_from_slice(&third.to_le_bytes());
        let at = self.body_at() - 16;
        bytes[at..at + 8].copy_from_slice(&id.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&sector.to_le_bytes());
        bytes
    }

    /// Puts requests on a ring and tells the backend if it wants to know.
    pub fn send(&mut self, queue: usize, requests: &[Vec<u8>]) {
        let queue = &mut self.queues[queue];
        for request in requests {
            queue.ring.push_request(request);
        }
        if queue.ring.publish() {
            queue.port.notify().unwrap();
        }
    }

    /// Takes the answers that are there.
    pub fn poll(&mut self, queue: usize) -> Vec<Answer> {
        let queue = &mut self.queues[queue];
        let mut out = Vec::new();
        for _ in 0..queue.ring.unconsumed().unwrap() {
            let mut bytes = vec![0; blkback::wire::slot_len(self.abi)];
            queue.ring.consume(&mut bytes);
            assert!(bytes[12..].iter().all(|&b| b == 0) && bytes[9] == 0, "padding leaks: {bytes:?}");
            out.push(Answer {
                id: u64::from_le_bytes(bytes[..8].try_into().unwrap()),
                operation: bytes[8],
                status: i16::from_le_bytes(bytes[10..12].try_into().unwrap()),
            });
        }
        out
    }

    /// Waits for that many answers.
    pub fn answers(&mut self, queue: usize, count: usize) -> Vec<Answer> {
        let begun = Instant::now();
        let mut out = Vec::new();
        loop {
            out.extend(self.poll(queue));
            if out.len() >= count {
                return out;
            }
            assert!(begun.elapsed() < LIMIT, "{} of {count} answers: {out:?}", out.len());
            if !self.queues[queue].ring.final_check().unwrap() {
                self.queues[queue].port.wait(Duration::from_millis(100)).unwrap();
            }
        }
    }

    /// Sends and waits for one answer's status.
    pub fn ask(&mut self, queue: usize, request: Vec<u8>) -> i16 {
        self.send(queue, &[request]);
        self.answers(queue, 1)[0].status
    }

    pub fn fill(&self, page: usize, byte: u8) {
        assert!(self.data.write(page * PAGE_LEN, &[byte; PAGE_LEN]));
    }

    pub fn page(&self, page: usize) -> Vec<u8> {
        let mut out = vec![0; PAGE_LEN];
        assert!(self.data.read(page * PAGE_LEN, &mut out));
        out
    }
}
