//! The two ends of a connection over a network that is being tested or measured: one that serves, one that asks for something and says
//! what came of it. Plain sockets of this machine's kernel. Bytes of a verified transfer are decided by their place. Knows nothing of
//! what is between the ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::prng::mix;

/// Longest silence of the other end.
const SILENCE: Duration = Duration::from_secs(60);
const BLOCK_LEN: usize = 128 << 10;
/// A request of request/response, and its answer.
const REQUEST_LEN: usize = 64;

/// What is asked of the serving end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Takes bytes for so long, or so many that are verified.
    TcpOut(Amount),
    /// Gives bytes likewise.
    TcpIn(Amount),
    /// Answers one request after the other.
    Requests(Duration),
    /// Counts datagrams of this length.
    UdpOut(Duration, usize),
    /// Sends datagrams of this length.
    UdpIn(Duration, usize),
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// As much as passes in the time.
    For(Duration),
    /// So many bytes, each of which is looked at.
    Verified(u64),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// Payload that arrived.
    pub bytes: u64,
    /// Datagrams that arrived, or requests that were answered.
    pub packets: u64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes that were wrong.
    pub wrong: u64,
}

/// As in `tcp-out 2000 0`: what, milliseconds or `=bytes`, length of a datagram.
impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?}: KIND MILLISECONDS|=BYTES LENGTH is wanted");
        let mut words = text.split_whitespace();
        let (kind, amount) = (words.next().ok_or_else(bad)?, words.next().ok_or_else(bad)?);
        let len = words.next().and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        let amount = match amount.strip_prefix('=') {
            Some(bytes) => Amount::Verified(bytes.parse().map_err(|_| bad())?),
            None => Amount::For(Duration::from_millis(amount.parse().map_err(|_| bad())?)),
        };
        match (kind, amount) {
            ("tcp-out", amount) => Ok(Self::TcpOut(amount)),
            ("tcp-in", amount) => Ok(Self::TcpIn(amount)),
            ("requests", Amount::For(time)) => Ok(Self::Requests(time)),
            ("udp-out", Amount::For(time)) => Ok(Self::UdpOut(time, len)),
            ("udp-in", Amount::For(time)) => Ok(Self::UdpIn(time, len)),
            _ => Err(bad()),
        }
    }
}

/// The bytes from a place on.
fn fill(buffer: &mut [u8], from: u64) {
    for (word, at) in buffer.chunks_mut(8).zip((from..).step_by(8)) {
        word.iter_mut().zip(mix(at).to_le_bytes()).for_each(|(to, byte)| *to = byte);
    }
}

/// The command line of either end: `serve ADDRESS` or `ask ADDRESS TASK`.
pub fn main(arguments: &[String]) -> io::Result<()> {
    let address = |text: &String| text.parse::<SocketAddr>().map_err(io::Error::other);
    match arguments {
        [verb, at] if verb == "serve" => serve(address(at)?),
        [verb, at, task] if verb == "ask" => {
            let outcome = ask(address(at)?, task)?;
            println!("{}", serde_json::to_string(&outcome).map_err(io::Error::other)?);
            Ok(())
        }
        _ => Err(io::Error::other("serve ADDRESS or ask ADDRESS TASK is wanted")),
    }
}

/// Serves until it is killed; says so on standard output once it can be asked.
fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let datagrams = Arc::new(UdpSocket::bind(address)?);
    let counted = Arc::new(Counted::default());
    std::thread::spawn({
        let (datagrams, counted) = (Arc::clone(&datagrams), Arc::clone(&counted));
        move || counted.count(&datagrams)
    });
    println!("serving");
    for stream in listener.incoming() {
        let (datagrams, counted) = (Arc::clone(&datagrams), Arc::clone(&counted));
        std::thread::spawn(move || {
            if let Err(e) = stream.and_then(|stream| answer(&stream, &datagrams, &counted)) {
                eprintln!("net_end: {e}");
            }
        });
    }
    Ok(())
}

/// Datagrams that have arrived.
#[derive(Debug, Default)]
struct Counted {
    bytes: AtomicU64,
    packets: AtomicU64,
}

impl Counted {
    fn count(&self, socket: &UdpSocket) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(len) = socket.recv(&mut buffer) {
            self.bytes.fetch_add(len as u64, Ordering::Relaxed);
            self.packets.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Outcome {
        let [bytes, packets] = [&self.bytes, &self.packets].map(|n| n.swap(0, Ordering::Relaxed));
        Outcome { bytes, packets, ..Outcome::default() }
    }
}

fn answer(stream: &TcpStream, datagrams: &UdpSocket, counted: &Counted) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(256, stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let outcome = match line.parse().map_err(io::Error::other)? {
        Task::TcpOut(amount) => receive(reader, amount)?,
        Task::TcpIn(amount) => return send(stream, amount),
        Task::Requests(_) => {
            let mut request = [0; REQUEST_LEN];
            while reader.read_exact(&mut request).is_ok() {
                (&mut &*stream).write_all(&request)?;
            }
            return Ok(());
        }
        Task::UdpOut(..) => {
            counted.take();
            (&mut &*stream).write_all(b"\n")?;
            line.clear();
            reader.read_line(&mut line)?;
            counted.take()
        }
        Task::UdpIn(time, len) => {
            line.clear();
            reader.read_line(&mut line)?;
            let to: SocketAddr = line.trim().parse().map_err(io::Error::other)?;
            shoot(datagrams, Some(to), time, len)?
        }
    };
    let mut text = serde_json::to_vec(&outcome).map_err(io::Error::other)?;
    text.push(b'\n');
    (&mut &*stream).write_all(&text)
}

/// Asks for a task, does this end's part, and says what came of it.
fn ask(address: SocketAddr, text: &str) -> io::Result<Outcome> {
    let task: Task = text.parse().map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    (&mut &stream).write_all(format!("{text}\n").as_bytes())?;
    let began = Instant::now();
    let mut outcome = match task {
        Task::TcpOut(amount) => {
            send(&stream, amount)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            told(&stream)?
        }
        Task::TcpIn(amount) => receive(&stream, amount)?,
        Task::Requests(time) => requests(&stream, began, time)?,
        Task::UdpOut(time, len) => {
            BufReader::new(&stream).read_line(&mut String::new())?;
            let socket = UdpSocket::bind(SocketAddr::new(stream.local_addr()?.ip(), 0))?;
            socket.connect(address)?;
            shoot(&socket, None, time, len)?;
            (&mut &stream).write_all(b"\n")?;
            Outcome { seconds: time.as_secs_f64(), ..told(&stream)? }
        }
        Task::UdpIn(time, _) => {
            let socket = Arc::new(UdpSocket::bind(SocketAddr::new(stream.local_addr()?.ip(), 0))?);
            let counted = Arc::new(Counted::default());
            std::thread::spawn({
                let (socket, counted) = (Arc::clone(&socket), Arc::clone(&counted));
                move || counted.count(&socket)
            });
            (&mut &stream).write_all(format!("{}\n", socket.local_addr()?).as_bytes())?;
            told(&stream)?;
            Outcome { seconds: time.as_secs_f64(), ..counted.take() }
        }
    };
    if outcome.seconds == 0.0 {
        outcome.seconds = began.elapsed().as_secs_f64();
    }
    Ok(outcome)
}

fn told(stream: &TcpStream) -> io::Result<Outcome> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

fn send(mut stream: &TcpStream, amount: Amount) -> io::Result<()> {
    let (began, mut block, mut sent) = (Instant::now(), vec![0; BLOCK_LEN], 0u64);
    loop {
        match amount {
            Amount::For(time) if began.elapsed() >= time => return Ok(()),
            Amount::For(_) => stream.write_all(&block)?,
            Amount::Verified(bytes) if sent >= bytes => return Ok(()),
            Amount::Verified(bytes) => {
                fill(&mut block, sent);
                let len = usize::try_from(bytes - sent).map_or(BLOCK_LEN, |left| left.min(BLOCK_LEN));
                stream.write_all(block.get(..len).unwrap_or_default())?;
                sent += len as u64;
            }
        }
    }
}

fn receive(mut from: impl Read, amount: Amount) -> io::Result<Outcome> {
    let (mut block, mut expected) = (vec![0; BLOCK_LEN], vec![0; BLOCK_LEN]);
    let mut outcome = Outcome::default();
    loop {
        // Whole blocks, so that each begins where a word does.
        let len = match amount {
            Amount::For(_) => from.read(&mut block)?,
            Amount::Verified(_) => read_whole(&mut from, &mut block)?,
        };
        if len == 0 {
            if let Amount::Verified(bytes) = amount {
                outcome.wrong += bytes.abs_diff(outcome.bytes);
            }
            return Ok(outcome);
        }
        if matches!(amount, Amount::Verified(_)) {
            fill(&mut expected, outcome.bytes);
            let differ = block.iter().zip(&expected).take(len).filter(|(a, b)| a != b).count();
            outcome.wrong += differ as u64;
        }
        outcome.bytes += len as u64;
    }
}

/// Fills `out`, or what there is of it up to the end.
fn read_whole(from: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = out.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match from.read(rest)? {
            0 => break,
            n => len += n,
        }
    }
    Ok(len)
}

fn requests(mut stream: &TcpStream, began: Instant, time: Duration) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut block = [0; REQUEST_LEN];
    while began.elapsed() < time {
        stream.write_all(&block)?;
        stream.read_exact(&mut block)?;
        outcome.packets += 1;
        outcome.bytes += REQUEST_LEN as u64;
    }
    Ok(outcome)
}

/// Sends datagrams as fast as the kernel takes them.
fn shoot(socket: &UdpSocket, to: Option<SocketAddr>, time: Duration, len: usize) -> io::Result<Outcome> {
    let (began, block) = (Instant::now(), vec![0; len]);
    let mut outcome = Outcome::default();
    while began.elapsed() < time {
        let sent = to.map_or_else(|| socket.send(&block), |to| socket.send_to(&block, to));
        match sent {
            Ok(len) => {
                outcome.bytes += len as u64;
                outcome.packets += 1;
            }
            // A full queue on the way.
            Err(e) if e.raw_os_error() == Some(105) => std::thread::yield_now(),
            Err(e) => return Err(e),
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked is what is done; a wrong byte, a missing one, and one too many are noticed.
    #[test]
    fn wrong_bytes_are_noticed() {
        assert_eq!("tcp-in =5 0".parse(), Ok(Task::TcpIn(Amount::Verified(5))));
        assert_eq!("udp-out 20 64".parse(), Ok(Task::UdpOut(Duration::from_millis(20), 64)));
        assert!("udp-out =20 64".parse::<Task>().is_err() && "tcp-out".parse::<Task>().is_err());
        let len = 300_001;
        let mut bytes = vec![0; len];
        fill(&mut bytes, 0);
        let wrong = |bytes: &[u8]| receive(bytes, Amount::Verified(len as u64)).unwrap().wrong;
        assert_eq!(wrong(&bytes), 0);
        assert_eq!(wrong(&bytes[..len - 1]), 1);
        bytes[200_000] ^= 1;
        assert_eq!(wrong(&bytes), 1);
    }
}
