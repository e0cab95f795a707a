//! The line to one worker: its socket and its life, as one stream of news in the order they happened. What a worker says is
//! bounded and parsed, for it has talked to a guest. Knows nothing of what the news mean.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use worker::message::{FromWorker, ToWorker, VERSION};

use crate::process::{End, Handle};

/// Longest line that is read.
const LINE_LEN_MAX: u64 = 64 << 10;

/// What an ended process may still have said is waited for that long.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a process may live on after it closed its socket.
const FAREWELL: Duration = Duration::from_secs(2);

/// News of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It says something.
    Said(FromWorker),
    /// It broke the messages' rules or closed its socket, and was killed for it; [`News::Ended`] follows.
    Broke(String),
    /// Its process is gone; nothing follows.
    Ended(End),
}

/// One worker. Dropping it leaves the process alone.
#[derive(Debug)]
pub struct WorkerLink {
    /// Tells a worker's news from those of its predecessor.
    pub generation: u64,
    handle: Rc<Handle>,
    say: mpsc::UnboundedSender<ToWorker>,
}

impl WorkerLink {
    /// Connects to the worker that listens at `socket`; its news arrive at `news`.
    pub async fn start(
        handle: Handle,
        socket: &Path,
        generation: u64,
        news: mpsc::Sender<(u64, News)>,
    ) -> io::Result<Self> {
        let stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(trouble) => {
                // Nobody could ever talk to it.
                handle.kill();
                return Err(trouble);
            }
        };
        let (read, write) = stream.into_split();
        let (say, said) = mpsc::unbounded_channel();
        let pidfd = handle.end()?;
        let handle = Rc::new(handle);
        // Written by a task of its own: a worker that does not read must not keep us from hearing of its end.
        tokio::task::spawn_local(speak(write, said));
        let listener = Listener { handle: Rc::clone(&handle), generation, news };
        tokio::task::spawn_local(async move { listener.run(BufReader::new(read), pidfd).await });
        let link = Self { generation, handle, say };
        link.say(ToWorker::Hello { version: VERSION });
        Ok(link)
    }

    /// Says something. If it cannot be heard any more, that is among the news.
    pub fn say(&self, message: ToWorker) {
        // A closed channel means that the worker's end is already on its way as news.
        let _ = self.say.send(message);
    }

    /// SIGKILL.
    pub fn kill(&self) -> bool {
        self.handle.kill()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.handle.process.pid
    }
}

async fn speak(mut write: OwnedWriteHalf, mut said: mpsc::UnboundedReceiver<ToWorker>) {
    while let Some(message) = said.recv().await {
        let Ok(mut line) = serde_json::to_vec(&message) else { return };
        line.push(b'\n');
        if write.write_all(&line).await.is_err() {
            return;
        }
    }
}

struct Listener {
    handle: Rc<Handle>,
    generation: u64,
    news: mpsc::Sender<(u64, News)>,
}

impl Listener {
    async fn tell(&self, news: News) -> bool {
        self.news.send((self.generation, news)).await.is_ok()
    }

    async fn run(self, mut read: BufReader<OwnedReadHalf>, pidfd: AsyncFd<std::os::fd::OwnedFd>) {
        let mut line = Vec::new();
        loop {
            tokio::select! {
                // What was said comes before the end that followed it.
                biased;
                heard = hear(&mut read, &mut line) => match heard {
                    Ok(Some(message)) => if !self.tell(News::Said(message)).await { return },
                    Ok(None) => break self.part("closed its socket", &pidfd).await,
                    Err(error) => break self.part(&error.to_string(), &pidfd).await,
                },
                _ = pidfd.readable() => {
                    while let Ok(Ok(Some(message))) = timeout(LAST_WORDS, hear(&mut read, &mut line)).await {
                        if !self.tell(News::Said(message)).await { return }
                    }
                    break;
                }
            }
        }
        let end = self.handle.ended();
        self.tell(News::Ended(end)).await;
    }

    /// The socket is of no more use: the process is given a moment to end, and is killed if it does not.
    async fn part(&self, reason: &str, pidfd: &AsyncFd<std::os::fd::OwnedFd>) {
        if timeout(FAREWELL, pidfd.readable()).await.is_err() {
            self.tell(News::Broke(reason.to_owned())).await;
            self.handle.kill();
            let _ = pidfd.readable().await;
        }
    }
}

/// The next message; `None` at the end. `line` keeps what has been read of it when the wait is given up.
async fn hear(read: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> io::Result<Option<FromWorker>> {
    let room = LINE_LEN_MAX.saturating_sub(line.len() as u64);
    (&mut *read).take(room).read_until(b'\n', line).await?;
    match line.last() {
        Some(b'\n') => {
            let message = serde_json::from_slice(line).map_err(|error| {
                io::Error::other(format!("says {}: {error}", crate::nodes::quote(Some(line))))
            })?;
            line.clear();
            Ok(Some(message))
        }
        Some(_) if line.len() as u64 >= LINE_LEN_MAX => {
            Err(io::Error::other(format!("says a line of more than {LINE_LEN_MAX} bytes")))
        }
        _ => Ok(None),
    }
}
