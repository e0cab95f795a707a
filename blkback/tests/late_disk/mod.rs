//! A disk served by a process that outlives those who write to it: a file system of one file, over FUSE, whose server can hold a write
//! back and carry it out when told to, whatever has become of the writer meanwhile. What a slow disk does to a killed worker's last
//! writes. Knows nothing of workers. The numbers are those of linux/fuse.h.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const FILE_NODE: u64 = 2;
const HEADER_LEN: usize = 40;
const WRITE_HEADER_LEN: usize = 40;
const MAX_WRITE: u32 = 1 << 17;
const ASYNC_DIO: u32 = 1 << 15;
const ATTRIBUTES_VALID_S: u64 = 3600;

#[derive(Default)]
struct State {
    hold_next: bool,
    held: bool,
    release: bool,
    landed: bool,
}

#[derive(Default)]
struct Gate(Mutex<State>, Condvar);

impl Gate {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
        self.1.notify_all();
    }

    fn wait_until(&self, condition: impl Fn(&State) -> bool) {
        let state = self.0.lock().unwrap();
        let limit = Duration::from_secs(20);
        let (_state, waited) = self.1.wait_timeout_while(state, limit, |s| !condition(s)).unwrap();
        assert!(!waited.timed_out(), "waited {limit:?} for the disk");
    }
}

pub(crate) struct LateDisk {
    gate: Arc<Gate>,
    mount_point: PathBuf,
    backing: PathBuf,
}

impl LateDisk {
    /// A disk of that many bytes below `dir`; `None`, and said so, where FUSE cannot be had.
    pub(crate) fn mount(dir: &Path, len: u64) -> Option<Self> {
        let (mount_point, backing) = (dir.join("late"), dir.join("late.backing"));
        std::fs::create_dir(&mount_point).unwrap();
        let file = File::options().create_new(true).read(true).write(true).open(&backing).unwrap();
        file.set_len(len).unwrap();
        let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else {
            eprintln!("SKIPPED: no /dev/fuse here, or not for this user");
            return None;
        };
        let status = Command::new("sh")
            .args([
                "-c",
                "exec mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 late \"$0\" 3<&0",
            ])
            .arg(&mount_point)
            .stdin(Stdio::from(OwnedFd::from(device.try_clone().unwrap())))
            .status();
        if !status.is_ok_and(|s| s.success()) {
            eprintln!("SKIPPED: a FUSE file system cannot be mounted by this user");
            return None;
        }
        let gate = Arc::new(Gate::default());
        let server = Server { device, file, len, gate: Arc::clone(&gate) };
        std::thread::spawn(move || server.run());
        Some(Self { gate, mount_point, backing })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.mount_point.join("disk.img")
    }

    /// The next write is held back.
    pub(crate) fn hold_next_write(&self) {
        self.gate.change(|s| s.hold_next = true);
    }

    pub(crate) fn wait_until_held(&self) {
        self.gate.wait_until(|s| s.held);
    }

    /// Carries out what was held back, and returns once that is on the disk.
    pub(crate) fn release(&self) {
        self.gate.change(|s| s.release = true);
        self.gate.wait_until(|s| s.landed);
    }

    /// What the disk has now.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        File::open(&self.backing).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

impl Drop for LateDisk {
    fn drop(&mut self) {
        self.gate.change(|s| s.release = true);
        let _ = Command::new("umount").arg("-l").arg(&self.mount_point).status();
    }
}

struct Server {
    device: File,
    file: File,
    len: u64,
    gate: Arc<Gate>,
}

impl Server {
    fn run(self) {
        let mut request = vec![0; MAX_WRITE as usize + 4096];
        // An error is the end of the mount.
        while let Ok(len) = (&self.device).read(&mut request) {
            if let Some(request) = request.get(..len).filter(|r| r.len() >= HEADER_LEN) {
                self.serve(request);
            }
        }
    }

    fn serve(&self, request: &[u8]) {
        let (opcode, unique, node) = (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16));
        let body = &request[HEADER_LEN..];
        let answer = match opcode {
            // FORGET, INTERRUPT, BATCH_FORGET: nobody waits for an answer.
            2 | 36 | 42 => return,
            1 if body.starts_with(b"disk.img\0") => Ok(self.entry()),
            1 => Err(libc::ENOENT),
            3 => Ok(self.attributes_answer(node)),
            14 => Ok(vec![0; 16]),
            15 => self.read(body),
            16 => return self.write(unique, body),
            // RELEASE, FSYNC, FLUSH, DESTROY
            18 | 20 | 25 | 38 => Ok(Vec::new()),
            26 => Ok(init(body)),
            _ => Err(libc::ENOSYS),
        };
        answer_with(&self.device, unique, answer);
    }

    fn read(&self, body: &[u8]) -> Result<Vec<u8>, i32> {
        let (offset, len) = (u64_at(body, 8), u32_at(body, 16) as usize);
        let mut bytes = vec![0; len];
        let got = self.file.read_at(&mut bytes, offset).map_err(|_| libc::EIO)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    fn write(&self, unique: u64, body: &[u8]) {
        let (offset, data) = (u64_at(body, 8), body[WRITE_HEADER_LEN..].to_vec());
        let (device, file) = (self.device.try_clone().unwrap(), self.file.try_clone().unwrap());
        let mut late = false;
        self.gate.change(|s| {
            late = std::mem::take(&mut s.hold_next);
            s.held |= late;
        });
        let gate = Arc::clone(&self.gate);
        let carry_out = move || {
            if late {
                gate.wait_until(|s| s.release);
            }
            let written = file.write_all_at(&data, offset).map_err(|_| libc::EIO);
            let len = u32::try_from(data.len()).unwrap();
            answer_with(&device, unique, written.map(|()| [len.to_ne_bytes(), [0; 4]].concat()));
            if late {
                gate.change(|s| s.landed = true);
            }
        };
        if late { _ = std::thread::spawn(carry_out) } else { carry_out() }
    }

    /// `fuse_attr`
    fn attributes(&self, node: u64) -> Vec<u8> {
        let (mode, size) =
            if node == FILE_NODE { (libc::S_IFREG | 0o600, self.len) } else { (libc::S_IFDIR | 0o700, 0) };
        let longs = [node, size, size / 512, 0, 0, 0];
        let ints = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0];
        longs.iter().flat_map(|l| l.to_ne_bytes()).chain(ints.iter().flat_map(|i| i.to_ne_bytes())).collect()
    }

    fn attributes_answer(&self, node: u64) -> Vec<u8> {
        [ATTRIBUTES_VALID_S.to_ne_bytes().to_vec(), vec![0; 8], self.attributes(node)].concat()
    }

    /// `fuse_entry_out`
    fn entry(&self) -> Vec<u8> {
        let longs = [FILE_NODE, 0, ATTRIBUTES_VALID_S, ATTRIBUTES_VALID_S, 0];
        let head = longs.iter().flat_map(|l| l.to_ne_bytes()).collect();
        [head, self.attributes(FILE_NODE)].concat()
    }
}

/// `fuse_init_out`
fn init(body: &[u8]) -> Vec<u8> {
    let minor = u32_at(body, 4).min(31);
    let words = [7, minor, 0, ASYNC_DIO, 64 << 16 | 64, MAX_WRITE, 1];
    let mut out: Vec<u8> = words.iter().flat_map(|w: &u32| w.to_ne_bytes()).collect();
    out.resize(64, 0);
    out
}

fn answer_with(mut device: &File, unique: u64, answer: Result<Vec<u8>, i32>) {
    let (error, body) = answer.map_or_else(|errno| (-errno, Vec::new()), |body| (0, body));
    let len = u32::try_from(16 + body.len()).unwrap();
    let head = [len.to_ne_bytes().as_slice(), &error.to_ne_bytes(), &unique.to_ne_bytes()].concat();
    // An answer that nobody waits for any more is refused.
    let _ = device.write(&[head, body].concat());
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}
