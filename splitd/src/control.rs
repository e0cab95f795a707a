//! The control socket's server: one request a line, answered in turn; each client is a task of its own. Knows nothing of what
//! the requests do.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::protocol::{Request, Response, VERSION, Verb};

/// Longest request.
const REQUEST_LEN_MAX: u64 = 64 << 10;

/// Most clients at a time; a hundred disks of a hundred guests may be attached at once.
const CLIENTS_MAX: usize = 512;

/// Answers a request.
pub trait Answers {
    /// The result as JSON, or an error that names the thing, the value and what is allowed.
    fn answer(&self, verb: Verb) -> impl Future<Output = Result<serde_json::Value, String>>;
}

/// Makes the socket, for its owner and group alone.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves clients for ever.
pub async fn serve(listener: UnixListener, answers: impl Answers + Clone + 'static) {
    let room = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = answers.clone();
                tokio::task::spawn_local(async move {
                    if let Err(trouble) = client(stream, &answers).await {
                        warn!("a client of the control socket: {trouble}");
                    }
                    drop(permit);
                });
            }
            Err(trouble) => {
                warn!("control socket: {trouble}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client(stream: UnixStream, answers: &impl Answers) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        if (&mut read).take(REQUEST_LEN_MAX).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let outcome = match serde_json::from_slice::<Request>(&line) {
            Ok(Request { version, .. }) if version > VERSION => {
                Err(format!("the request's version is {version}: this splitd speaks up to {VERSION}"))
            }
            Ok(request) => answers.answer(request.verb).await,
            Err(error) => Err(format!("not a request: {error}")),
        };
        let mut text = serde_json::to_vec(&Response::of(outcome))?;
        text.push(b'\n');
        write.write_all(&text).await?;
        if !whole {
            return Ok(());
        }
    }
}
