//! A guest of a real store: the page over which the two talk (xs_wire.h, `struct xenstore_domain_interface`), bridged to a socket, so
//! that the client under test can be a guest. The store's shim has the page as a file and events as datagrams. Knows nothing
//! of what is said.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixDatagram, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use xenbus::DomId;
use xenbus::store::Address;

/// The shim's event port for a domain, and for "a domain changed".
const PORT_OF_DOMAIN: u32 = 1000;
pub(crate) const PORT_OF_VIRQ: u32 = 999;

const RING_LEN: u32 = 1024;
/// Where the page's parts begin: what the guest says, what it hears, and for each the consumer's and the producer's index.
const REQUESTS: Ring = Ring { bytes: 0, consumer: 2048, producer: 2052 };
const ANSWERS: Ring = Ring { bytes: 1024, consumer: 2056, producer: 2060 };

struct Ring {
    bytes: u32,
    consumer: u64,
    producer: u64,
}

/// A guest that exists until this is dropped.
pub(crate) struct Guest {
    domain: DomId,
    event_path: PathBuf,
    socket_path: PathBuf,
    bridge: JoinHandle<()>,
}

impl Guest {
    pub(crate) fn start(shim_dir: &Path, domain: DomId) -> Self {
        let event_path = shim_dir.join(format!("dom-{domain}"));
        let socket_path = shim_dir.join(format!("guest-{domain}.sock"));
        let page_path = shim_dir.join(format!("ring-{domain}"));
        fs::write(&page_path, [0; 4096]).unwrap();
        let bridge = Bridge {
            page: OpenOptions::new().read(true).write(true).open(page_path).unwrap(),
            events: UnixDatagram::bind(&event_path).unwrap(),
            store: shim_dir.join("evtchn"),
            port: PORT_OF_DOMAIN + u32::from(domain.0),
        };
        let listener = UnixListener::bind(&socket_path).unwrap();
        let bridge = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                bridge.serve(stream).await;
            }
        });
        Self { domain, event_path, socket_path, bridge }
    }

    pub(crate) fn domain(&self) -> DomId {
        self.domain
    }

    pub(crate) fn address(&self) -> Address {
        Address::Socket(self.socket_path.clone())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.bridge.abort();
        fs::remove_file(&self.event_path).expect("a guest's socket is its own to remove");
    }
}

struct Bridge {
    page: File,
    events: UnixDatagram,
    store: PathBuf,
    port: u32,
}

impl Bridge {
    /// Carries bytes both ways until the client hangs up.
    async fn serve(&self, mut stream: UnixStream) {
        let mut unsent = Vec::new();
        loop {
            let answers = self.take_answers();
            if !answers.is_empty() && stream.write_all(&answers).await.is_err() {
                return;
            }
            self.put_requests(&mut unsent);
            let (mut event, mut input) = ([0; 4], [0; 4096]);
            tokio::select! {
                _ = self.events.recv(&mut event) => {}
                len = stream.read(&mut input), if unsent.is_empty() => match len {
                    Ok(len @ 1..) => unsent.extend_from_slice(&input[..len]),
                    _ => return,
                },
                // A datagram that did not fit into the socket is lost, as no real event is.
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    }

    fn take_answers(&self) -> Vec<u8> {
        let (mut consumer, producer) = (self.word(ANSWERS.consumer), self.word(ANSWERS.producer));
        let mut answers = Vec::new();
        while consumer != producer {
            let mut byte = [0];
            let at = u64::from(ANSWERS.bytes + consumer % RING_LEN);
            self.page.read_exact_at(&mut byte, at).unwrap();
            answers.extend(byte);
            consumer = consumer.wrapping_add(1);
        }
        if !answers.is_empty() {
            self.set_word(ANSWERS.consumer, consumer);
        }
        answers
    }

    fn put_requests(&self, unsent: &mut Vec<u8>) {
        let (consumer, mut producer) = (self.word(REQUESTS.consumer), self.word(REQUESTS.producer));
        let room = RING_LEN - producer.wrapping_sub(consumer);
        let len = unsent.len().min(room as usize);
        for byte in unsent.drain(..len) {
            let at = u64::from(REQUESTS.bytes + producer % RING_LEN);
            self.page.write_all_at(&[byte], at).unwrap();
            producer = producer.wrapping_add(1);
        }
        if len > 0 {
            self.set_word(REQUESTS.producer, producer);
        }
    }

    fn word(&self, at: u64) -> u32 {
        let mut word = [0; 4];
        self.page.read_exact_at(&mut word, at).unwrap();
        u32::from_ne_bytes(word)
    }

    /// Moves one of our two indices and tells the store.
    fn set_word(&self, at: u64, value: u32) {
        self.page.write_all_at(&value.to_ne_bytes(), at).unwrap();
        // A full socket holds enough events already.
        let _ = self.events.try_send_to(&self.port.to_ne_bytes(), &self.store);
    }
}
