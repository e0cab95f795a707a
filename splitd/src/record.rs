//! What is remembered of a device's worker in its run directory, so that a later splitd finds the worker again, or, when both
//! are gone, starts its successor: `launch.json`, replaced as a whole. Knows nothing of processes or of xenstore.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use worker::message::{Connect, ConnectVif, Open, OpenVif, Opened, ToWorker};

/// The file's format; one that is newer is not understood.
const VERSION: u32 = 1;

const FILE: &str = "launch.json";

/// Longest file that is read.
const LEN_MAX: u64 = 1 << 20;

/// What a worker was told to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Opening {
    /// A network interface, which alone has a `link`.
    Vif(OpenVif),
    /// A disk.
    Disk(Open),
}

impl Opening {
    /// UUID of the guest's virtual machine.
    #[must_use]
    pub fn vm_uuid(&self) -> &str {
        match self {
            Self::Vif(open) => &open.vm_uuid,
            Self::Disk(open) => &open.vm_uuid,
        }
    }

    /// A disk's.
    #[must_use]
    pub fn disk(&self) -> Option<&Open> {
        match self {
            Self::Vif(_) => None,
            Self::Disk(open) => Some(open),
        }
    }

    /// As it is said.
    #[must_use]
    pub fn message(&self) -> ToWorker {
        match self {
            Self::Vif(open) => ToWorker::OpenVif(open.clone()),
            Self::Disk(open) => ToWorker::Open(open.clone()),
        }
    }
}

/// What a worker was told to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Connection {
    /// A network frontend, which alone has `features`.
    Vif(ConnectVif),
    /// A disk's.
    Disk(Connect),
}

impl Connection {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        match self {
            Self::Vif(connect) => connect.connection,
            Self::Disk(connect) => connect.connection,
        }
    }

    /// A disk's.
    #[must_use]
    pub fn disk(&self) -> Option<&Connect> {
        match self {
            Self::Vif(_) => None,
            Self::Disk(connect) => Some(connect),
        }
    }

    /// As it is said.
    #[must_use]
    pub fn message(&self) -> ToWorker {
        match self {
            Self::Vif(connect) => ToWorker::ConnectVif(connect.clone()),
            Self::Disk(connect) => ToWorker::Connect(connect.clone()),
        }
    }
}

/// A worker and what it was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Its process.
    pub process: Option<Process>,
    /// What it was told to open.
    pub open: Opening,
    /// What that turned out to be.
    pub opened: Option<Opened>,
    /// The connection that it serves; a successor is told the same.
    pub connect: Option<Connection>,
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl Record {
    /// A worker that is about to be launched.
    #[must_use]
    pub fn new(open: Opening) -> Self {
        Self { version: VERSION, process: None, open, opened: None, connect: None }
    }

    /// Reads what is remembered in `dir`; `None` if nothing is.
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(FILE);
        let len = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if len > LEN_MAX {
            return Err(io::Error::other(format!(
                "{}: {len} bytes; at most {LEN_MAX} are read",
                path.display()
            )));
        }
        let record: Self = serde_json::from_slice(&fs::read(&path)?)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        if record.version > VERSION {
            let version = record.version;
            return Err(io::Error::other(format!("{}: version {version} of a later splitd", path.display())));
        }
        Ok(Some(record))
    }

    /// Remembers, all or nothing: splitd may die at any instruction.
    pub fn store(&self, dir: &Path) -> io::Result<()> {
        let staged = dir.join("launch.json.new");
        let mut file = fs::File::create(&staged)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        drop(file);
        fs::rename(&staged, dir.join(FILE))
    }

    /// Forgets.
    pub fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Process {
    /// The running process `pid`; `None` if there is none.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
        // The command, in parentheses, may itself hold any character; the start time is field 22.
        let (_, after_command) = stat.rsplit_once(')')?;
        let mut fields = after_command.split_ascii_whitespace();
        let state = fields.next()?;
        let start_ticks = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, start_ticks })
    }

    /// The very same process still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Open {
        Open {
            frontend: 5,
            devid: 51712,
            vm_uuid: "u".to_owned(),
            target: "/srv/a.img".into(),
            read_only: false,
            discard: true,
            max_queues: 4,
            max_ring_order: 4,
            max_indirect_segments: 256,
            buffer_len_bytes: 4 << 20,
            busy_poll_us: 50,
            run_dir: "/run/splitd/vbd-5-51712".into(),
            uid: Some(7),
            qos: None,
        }
    }

    /// Both may die at once: the file is then all that is left of the connection.
    #[test]
    fn records_survive() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), None);
        let mut record = Record::new(Opening::Disk(open()));
        record.store(dir.path()).unwrap();
        record.process = Process::find(std::process::id());
        record.store(dir.path()).unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), Some(record));
        Record::remove(dir.path()).unwrap();
        Record::remove(dir.path()).unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), None);
    }

    /// The same of a network interface, which must not be read back as a disk.
    #[test]
    fn records_of_interfaces_survive() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::new(Opening::Vif(OpenVif {
            frontend: 5,
            devid: 0,
            vm_uuid: "u".to_owned(),
            link: worker::message::Link::Tap,
            max_queues: 4,
            run_dir: "/run/splitd/vif-5-0".into(),
            uid: None,
            settings: worker::message::VifSettings::default(),
            accounts: None,
        }));
        record.connect = Some(Connection::Vif(ConnectVif {
            connection: 7,
            queues: Vec::new(),
            control: None,
            features: worker::message::VifFeatures::default(),
            settings: worker::message::VifSettings::default(),
        }));
        record.store(dir.path()).unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), Some(record));
    }

    /// A torn or foreign file is an error to be told, never a connection made up.
    #[test]
    fn damaged_records_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "{\"version\":1}", "null"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert!(Record::load(dir.path()).is_err(), "{text}");
        }
        let mut record = Record::new(Opening::Disk(open()));
        record.version = 2;
        record.store(dir.path()).unwrap();
        assert!(Record::load(dir.path()).unwrap_err().to_string().contains("later splitd"));
    }

    /// Pids are used again.
    #[test]
    fn processes_are_told_apart_by_their_start() {
        let own = Process::find(std::process::id()).unwrap();
        assert!(own.is_running());
        assert!(!Process { start_ticks: own.start_ticks + 1, ..own }.is_running());
        assert_eq!(Process::find(u32::MAX), None);
    }
}
