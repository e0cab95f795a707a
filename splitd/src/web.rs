//! The metrics endpoint: `/metrics` for Prometheus, and a page for people that plots what `/status.json` says. Reads only; off
//! unless `metrics` in splitd.toml names an address. Knows nothing of what the answers hold.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tracing::warn;

use crate::control;
use crate::exposition;

/// Most connections at a time; each is one request.
const CLIENTS_MAX: usize = 32;

/// Longest request head.
const HEAD_LEN_MAX: usize = 8 << 10;

/// How long an answer is good for.
const KEPT: Duration = Duration::from_millis(500);

/// Longest time for one connection.
const CLIENT_TIME: Duration = Duration::from_secs(10);

/// The whole page, without anything from elsewhere.
const PAGE: &str = include_str!("web/status.html");

/// The page's own script and style are inline; nothing else may be loaded or framed.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
     frame-ancestors 'none'";

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system, for its owner and group.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            None if text.parse::<SocketAddr>().is_ok() => {
                text.parse().map(Self::Tcp).map_err(|_| String::new())
            }
            _ => Err(format!(
                "metrics is {text:?}: allowed are \"off\", ADDRESS:PORT, as in 127.0.0.1:9981 or [::1]:9981, and unix:/PATH"
            )),
        }
    }
}

/// What is shown.
pub trait Shows {
    /// For Prometheus: what makes the text, without splitd's own thread.
    fn metrics(&self) -> impl FnOnce() -> String + Send + 'static;
    /// For the page, likewise.
    fn status(&self) -> impl FnOnce() -> String + Send + 'static;
}

/// Answers that are not made anew for everybody who asks: on a loopback address that is every user of the host, and splitd has
/// devices to look after.
struct Kept<S> {
    shows: S,
    metrics: Mutex<Option<(Instant, String)>>,
    status: Mutex<Option<(Instant, String)>>,
}

impl<S: Shows> Kept<S> {
    fn new(shows: S) -> Self {
        Self { shows, metrics: Mutex::default(), status: Mutex::default() }
    }

    async fn metrics(&self) -> String {
        fresh(&self.metrics, || self.shows.metrics()).await
    }

    async fn status(&self) -> String {
        fresh(&self.status, || self.shows.status()).await
    }
}

/// A text is made on a thread of its own, for one who asks; the others wait for it.
async fn fresh<M: FnOnce() -> String + Send + 'static>(
    kept: &Mutex<Option<(Instant, String)>>,
    make: impl FnOnce() -> M,
) -> String {
    let mut kept = kept.lock().await;
    match &*kept {
        Some((at, text)) if at.elapsed() < KEPT => text.clone(),
        _ => {
            let text = tokio::task::spawn_blocking(make()).await.unwrap_or_default();
            kept.insert((Instant::now(), text)).1.clone()
        }
    }
}

/// Serves for ever. An address that cannot be had is told, and stops nothing else.
pub async fn serve(listen: Listen, shows: impl Shows + 'static) {
    let shows = Rc::new(Kept::new(shows));
    let outcome = match &listen {
        Listen::Tcp(address) => match TcpListener::bind(address).await {
            Ok(listener) => {
                let is_local = address.ip().is_loopback();
                accept(async || Ok(listener.accept().await?.0), shows, is_local).await
            }
            Err(trouble) => Err(trouble),
        },
        Listen::Unix(path) => match control::listen(path) {
            Ok(listener) => accept(async || accept_unix(&listener).await, shows, false).await,
            Err(trouble) => Err(trouble),
        },
    };
    if let Err(trouble) = outcome {
        warn!("no metrics at {listen:?}: {trouble}");
    }
}

async fn accept_unix(listener: &UnixListener) -> io::Result<tokio::net::UnixStream> {
    Ok(listener.accept().await?.0)
}

async fn accept<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    next: impl AsyncFn() -> io::Result<S>,
    shows: Rc<Kept<impl Shows + 'static>>,
    is_local: bool,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
        match next().await {
            Ok(stream) => {
                let shows = Rc::clone(&shows);
                tokio::task::spawn_local(async move {
                    // One that is slow or breaks off has only itself to blame.
                    let _ = timeout(CLIENT_TIME, client(stream, &shows, is_local)).await;
                    drop(permit);
                });
            }
            Err(trouble) => {
                warn!("metrics: {trouble}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    shows: &Kept<impl Shows>,
    is_local: bool,
) -> io::Result<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut chunk).await?;
        if n == 0 || head.len() + n > HEAD_LEN_MAX {
            break;
        }
        head.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
    let (text, wants_body) = answer(&head, shows, is_local).await;
    let end = if wants_body { text.len() } else { text.find("\r\n\r\n").map_or(0, |at| at + 4) };
    stream.write_all(text.as_bytes().get(..end).unwrap_or_default()).await?;
    stream.shutdown().await
}

/// The whole answer, and whether its body is wanted.
async fn answer(head: &[u8], shows: &Kept<impl Shows>, is_local: bool) -> (String, bool) {
    let head = String::from_utf8_lossy(head);
    let Some((head, _)) = head.split_once("\r\n\r\n") else {
        return (response("400 Bad Request", "text/plain", "not a whole request\n", ""), true);
    };
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let path = target.unwrap_or_default().split('?').next().unwrap_or_default();
    if !version.unwrap_or_default().starts_with("HTTP/1.") {
        return (response("400 Bad Request", "text/plain", "not HTTP/1\n", ""), true);
    }
    if is_local && !host(head).is_none_or(is_own_name) {
        // A page from elsewhere, whose name was made to lead here.
        return (response("403 Forbidden", "text/plain", "ask by address, or for localhost\n", ""), true);
    }
    let more = format!("Content-Security-Policy: {PAGE_POLICY}\r\nX-Content-Type-Options: nosniff\r\n");
    let text = match (method, path) {
        (Some("GET" | "HEAD"), "/metrics") => {
            response("200 OK", exposition::CONTENT_TYPE, &shows.metrics().await, "")
        }
        (Some("GET" | "HEAD"), "/status.json") => {
            response("200 OK", "application/json", &shows.status().await, "Cache-Control: no-store\r\n")
        }
        (Some("GET" | "HEAD"), "/") => response("200 OK", "text/html; charset=utf-8", PAGE, &more),
        (Some("GET" | "HEAD"), _) => {
            response("404 Not Found", "text/plain", "there are /, /metrics and /status.json\n", "")
        }
        _ => response("405 Method Not Allowed", "text/plain", "GET and HEAD only\n", "Allow: GET, HEAD\r\n"),
    };
    (text, method != Some("HEAD"))
}

fn host(head: &str) -> Option<&str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| value.trim()).next()
}

fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn response(status: &str, kind: &str, body: &str, more: &str) -> String {
    let len = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n{more}\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Shows for Fixed {
        fn metrics(&self) -> impl FnOnce() -> String + Send + 'static {
            || "a 1\n".to_owned()
        }

        fn status(&self) -> impl FnOnce() -> String + Send + 'static {
            || r#"{"version":1}"#.to_owned()
        }
    }

    fn now<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    fn status(request: &str, is_local: bool) -> String {
        now(answer(request.as_bytes(), &Kept::new(Fixed), is_local))
            .0
            .split("\r\n")
            .next()
            .unwrap()
            .to_owned()
    }

    /// Three things can be read, nothing can be written.
    #[test]
    fn what_is_answered() {
        for (request, expected) in [
            ("GET /metrics HTTP/1.1\r\n\r\n", "200 OK"),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200 OK"),
            ("HEAD / HTTP/1.1\r\n\r\n", "200 OK"),
            ("GET /status.json HTTP/1.1\r\n\r\n", "200 OK"),
            ("GET /etc/passwd HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            ("GET /metrics HTTP/1.1\r\n", "400 Bad Request"),
            ("GET /metrics SPDY/3\r\n\r\n", "400 Bad Request"),
            ("", "400 Bad Request"),
            ("\u{fffd}\r\n\r\n", "400 Bad Request"),
        ] {
            assert_eq!(status(request, false), format!("HTTP/1.1 {expected}"), "{request:?}");
        }
        assert!(!now(answer(b"HEAD / HTTP/1.1\r\n\r\n", &Kept::new(Fixed), false)).1);
    }

    /// A thousand who ask at once cost one answer.
    #[test]
    fn answers_are_kept_for_a_moment() {
        struct Counted(std::cell::Cell<u32>);
        impl Shows for Counted {
            fn metrics(&self) -> impl FnOnce() -> String + Send + 'static {
                self.0.set(self.0.get() + 1);
                || "a 1\n".to_owned()
            }
            fn status(&self) -> impl FnOnce() -> String + Send + 'static {
                String::new
            }
        }
        let kept = Kept::new(Counted(std::cell::Cell::new(0)));
        for _ in 0..1000 {
            let text = now(answer(b"GET /metrics HTTP/1.1\r\n\r\n", &kept, false)).0;
            assert!(text.contains("\r\n\r\na "));
        }
        let made = kept.shows.0.get();
        assert!((1..100).contains(&made), "{made}");
    }

    /// DNS rebinding: a foreign page in the administrator's browser must not read the names of guests off a loopback address.
    #[test]
    fn loopback_is_asked_by_address() {
        for (host, allowed) in [
            ("127.0.0.1:9981", true),
            ("localhost", true),
            ("[::1]:9981", true),
            ("evil.example:9981", false),
            ("127.0.0.1.evil.example", false),
        ] {
            let request = format!("GET /status.json HTTP/1.1\r\nhOst: {host}\r\n\r\n");
            assert_eq!(status(&request, true).ends_with("200 OK"), allowed, "{host}");
            assert!(status(&request, false).ends_with("200 OK"));
        }
    }

    /// An operator's mistake is told with what is allowed.
    #[test]
    fn addresses() {
        assert_eq!("unix:/run/x".parse(), Ok(Listen::Unix("/run/x".into())));
        assert!(matches!("[::1]:9981".parse(), Ok(Listen::Tcp(_))));
        for bad in ["9981", "localhost:9981", "unix:x", ""] {
            assert!(bad.parse::<Listen>().unwrap_err().contains("127.0.0.1:9981"), "{bad}");
        }
    }
}
