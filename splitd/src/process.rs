//! Starting a worker's process, hearing of its end, killing it: the system calls. Knows nothing of what is said to it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use worker::message::{LISTEN_FD, TAP_FD};

use crate::record::Process;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// For people.
    pub how: String,
    /// By itself and not well; not by a kill.
    pub crashed: bool,
}

/// A worker's process, ours or one that an earlier splitd started.
#[derive(Debug)]
pub struct Handle {
    /// Which.
    pub process: Process,
    pidfd: OwnedFd,
    child: RefCell<Option<Child>>,
}

impl Handle {
    /// Starts a worker. It gets the listening socket, `taps` behind it, and our stderr, nothing else that we have open, and a session
    /// of its own.
    pub fn spawn(program: &Path, host: &str, listener: &UnixListener, taps: &[OwnedFd]) -> io::Result<Self> {
        let listen_fd = listener.as_raw_fd();
        let first_free = TAP_FD + RawFd::try_from(taps.len()).map_err(io::Error::other)?;
        // Out of the way of the numbers that they are to have.
        let lifted = taps.iter().map(|tap| lift(tap, first_free)).collect::<io::Result<Vec<_>>>()?;
        let numbers: Vec<RawFd> = lifted.iter().map(AsRawFd::as_raw_fd).collect();
        let mut command = Command::new(program);
        command.arg("--listen-fd").arg(LISTEN_FD.to_string()).arg("--host").arg(host);
        if !taps.is_empty() {
            command.arg("--tap-fds").arg(taps.len().to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
        // SAFETY: the closure only makes async-signal-safe system calls on plain integers.
        unsafe { command.pre_exec(move || prepare(listen_fd, &numbers)) };
        let child = command.spawn()?;
        let process = Process::find(child.id())
            .ok_or_else(|| io::Error::other(format!("process {} is not in /proc", child.id())))?;
        let pidfd = open_pidfd(child.id())?;
        Ok(Self { process, pidfd, child: RefCell::new(Some(child)) })
    }

    /// The process that an earlier splitd started, if it still runs.
    pub fn adopt(process: Process) -> io::Result<Option<Self>> {
        let pidfd = match open_pidfd(process.pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            other => other?,
        };
        // Looked at after the descriptor was opened: it is of this process or of none.
        Ok(process.is_running().then_some(Self { process, pidfd, child: RefCell::new(None) }))
    }

    /// SIGKILL; false if it has ended already.
    pub fn kill(&self) -> bool {
        // SAFETY: pidfd is an open descriptor; the other arguments are plain values.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        rc == 0
    }

    /// Becomes readable when it has ended.
    pub fn end(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let pidfd = self.pidfd.try_clone()?;
        // SAFETY: the descriptor is moved in and owned by the AsyncFd alone, open until that is dropped, never exchanged.
        unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(io::Error::from)
    }

    /// How it ended; to be asked once `pidfd` is readable. Takes a child of ours out of the process table.
    pub fn ended(&self) -> End {
        let end = |how: String| End { how, crashed: false };
        match self.child.borrow_mut().as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => {
                let killed = matches!(status.signal(), Some(libc::SIGKILL | libc::SIGTERM));
                End { how: status.to_string(), crashed: !status.success() && !killed }
            }
            Some(Ok(None)) => end("has not ended".to_owned()),
            Some(Err(error)) => end(error.to_string()),
            // Another splitd's child: only that one could know.
            None => end("ended".to_owned()),
        }
    }
}

/// A copy whose number is `first` or higher, closed at exec.
fn lift(file: &OwnedFd, first: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; a non-negative result is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Between fork and exec.
fn prepare(listen_fd: RawFd, taps: &[RawFd]) -> io::Result<()> {
    // SAFETY: each call takes plain integers; dup2 clears close-on-exec on its copy.
    unsafe {
        if libc::setsid() == -1 {
            return Err(io::Error::last_os_error());
        }
        if listen_fd == LISTEN_FD {
            if libc::fcntl(listen_fd, libc::F_SETFD, 0) == -1 {
                return Err(io::Error::last_os_error());
            }
        } else if libc::dup2(listen_fd, LISTEN_FD) == -1 {
            return Err(io::Error::last_os_error());
        }
        let mut next = TAP_FD;
        for &tap in taps {
            if libc::dup2(tap, next) == -1 {
                return Err(io::Error::last_os_error());
            }
            next += 1;
        }
        // Marked rather than closed: the standard library reports a failed exec through one of them.
        let first = libc::c_uint::try_from(next).unwrap_or(4);
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) == -1 {
            return Err(io::Error::last_os_error());
        }
        // Inherited masks would keep a worker from its own signals.
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    Ok(())
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: plain integers; a non-negative result is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// True for root, who alone may give a worker another user.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() == 0 }
}
