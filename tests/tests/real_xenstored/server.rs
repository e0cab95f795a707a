//! A store to test against: Xen's in C, Xen's in OCaml, or the simulated host's; each can be killed and come back, and can have
//! guests. Knows nothing of what is tested.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use xenbus::DomId;
use xenbus::sim::{SimDomain, SimHost};
use xenbus::store::wire::{Kind, Message, Request};
use xenbus::store::{Address, Permission, Rights, Store};

use crate::guest::{self, Guest};
use crate::packages::Packages;

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// xenstored.
    C,
    /// oxenstored.
    Ocaml,
    /// The simulated host's.
    Sim,
}

/// A running store.
pub(crate) struct Server {
    running: Running,
    /// Dropped last: the others live in it.
    dir: TempDir,
}

enum Running {
    Daemon { which: Which, packages: &'static Packages, child: Child, guests: Vec<Guest> },
    Sim { host: SimHost, guests: Vec<SimDomain> },
}

impl Server {
    /// Starts one; `None` if this machine cannot have it.
    pub(crate) async fn start(which: Which) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let running = match which {
            Which::Sim => Running::Sim { host: SimHost::start(dir.path()).unwrap(), guests: Vec::new() },
            Which::C | Which::Ocaml => {
                let packages = Packages::get()?;
                make_dirs(dir.path());
                let child = spawn(which, packages, dir.path());
                Running::Daemon { which, packages, child, guests: Vec::new() }
            }
        };
        let mut server = Self { running, dir };
        server.wait_until_ready().await;
        Some(server)
    }

    pub(crate) fn address(&self) -> Address {
        Address::Socket(match &self.running {
            Running::Daemon { which: Which::Ocaml, .. } => {
                self.dir.path().join("run/var/run/xenstored/socket")
            }
            Running::Daemon { .. } => self.dir.path().join("socket"),
            Running::Sim { .. } => self.dir.path().join("xenstored.sock"),
        })
    }

    /// A client, as dom0.
    pub(crate) async fn connect(&self) -> Store {
        Store::connect(&self.address()).await.unwrap()
    }

    async fn wait_until_ready(&mut self) {
        let address = self.address();
        while Store::connect(&address).await.is_err() {
            if let Running::Daemon { child, .. } = &mut self.running
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("the store ended at once: {status}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills the store without warning. The simulated one keeps its nodes, the real ones lose them.
    pub(crate) fn kill(&mut self) {
        match &mut self.running {
            Running::Daemon { child, .. } => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            Running::Sim { host, .. } => host.disconnect_store(),
        }
    }

    /// Starts it again.
    pub(crate) async fn restart(&mut self) {
        let (dir, address) = (self.dir.path().to_owned(), self.address());
        if let Running::Daemon { which, packages, child, .. } = &mut self.running {
            if let Address::Socket(path) = address {
                let _ = fs::remove_file(path);
            }
            *child = spawn(*which, packages, &dir);
        }
        self.wait_until_ready().await;
    }

    /// Makes a guest with a home of its own in the store, and returns where a client is that guest.
    pub(crate) async fn add_guest(&mut self, domain: DomId) -> Address {
        let address = self.address();
        match &mut self.running {
            Running::Daemon { guests, .. } => {
                let guest = Guest::start(self.dir.path(), domain);
                introduce(&address, domain).await;
                let address = guest.address();
                guests.push(guest);
                address
            }
            Running::Sim { host, guests } => {
                let guest = host.domain(domain, "guest", "00000000-0000-0000-0000-000000000007", 16).unwrap();
                let address = Address::Socket(guest.store_socket().to_owned());
                guests.push(guest);
                address
            }
        }
    }

    /// A guest dies, and its toolstack has not cleaned up yet.
    pub(crate) fn destroy_guest(&mut self, domain: DomId) {
        match &mut self.running {
            Running::Daemon { guests, .. } => {
                guests.retain(|guest| guest.domain() != domain);
                let port = guest::PORT_OF_VIRQ.to_ne_bytes();
                let socket = UnixDatagram::unbound().unwrap();
                socket.send_to(&port, self.dir.path().join("evtchn")).unwrap();
            }
            Running::Sim { host, .. } => host.destroy(domain).unwrap(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Running::Daemon { child, .. } = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A toolstack's part: the guest's home, a directory in it that the guest owns, and its introduction.
async fn introduce(address: &Address, domain: DomId) {
    let store = Store::connect(address).await.unwrap();
    let home = format!("/local/domain/{domain}");
    let data = format!("{home}/data");
    let none = |domain| Permission { domain, rights: Rights::None };
    let read = Permission { domain, rights: Rights::Read };
    store.mkdir(&data).await.unwrap();
    store.set_permissions(&home, &[none(DomId::DOM0), read]).await.unwrap();
    store.set_permissions(&data, &[none(domain)]).await.unwrap();

    let Address::Socket(path) = address else { panic!("not a socket: {address}") };
    let mut stream = UnixStream::connect(path).await.unwrap();
    let mut bytes = BytesMut::new();
    Request::Introduce { domain, ring_frame: 1, port: 1 }.encode(1, 0, &mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    bytes.clear();
    let answer = loop {
        if let Some(answer) = Message::decode(&mut bytes).unwrap() {
            break answer;
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the store hung up");
    };
    assert_eq!(answer, Message::ok(Kind::INTRODUCE, 1, 0));
}

fn make_dirs(dir: &Path) {
    for path in ["var/run/xen", "var/run/xenstored", "var/log/xen", "var/lib/xenstored", "etc/xen"] {
        fs::create_dir_all(dir.join("run").join(path)).unwrap();
    }
    let config = "xenstored-kva = /proc/xen/xsd_kva\nxenstored-port = /proc/xen/xsd_port\n\
                  perms-activate = true\nquota-activate = true\nquota-maxentity = 1000\nquota-maxsize = 2048\n\
                  quota-maxwatch = 100\nquota-transaction = 10\nquota-maxrequests = 1024\n";
    fs::write(dir.join("oxenstored.conf"), config).unwrap();
}

fn spawn(which: Which, packages: &Packages, dir: &Path) -> Child {
    let config: PathBuf = dir.join("oxenstored.conf");
    let mut command = match which {
        Which::Ocaml => {
            let mut command = Command::new(packages.program("oxenstored"));
            command.arg("--no-fork").arg("--config-file").arg(config);
            command
        }
        Which::C | Which::Sim => {
            let mut command = Command::new(packages.program("xenstored"));
            command.arg("-N");
            command
        }
    };
    let log = fs::File::create(dir.join("log")).unwrap();
    command
        .env("LD_PRELOAD", &packages.shim)
        .env("LD_LIBRARY_PATH", packages.libraries())
        .env("SHIM_DIR", dir)
        .env("XENSTORED_RUNDIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}
