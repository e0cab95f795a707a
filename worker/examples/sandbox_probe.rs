//! One act that a worker has no business doing, tried outside of the sandbox or inside it: `sandbox_probe list`, or
//! `sandbox_probe NUMBER outside|inside DIR`. Exits with 0 if the act succeeded and 3 if it was refused; inside, most end with SIGSYS.
//! Knows nothing of what is expected. DIR has a file `victim` in it, which an act may take away.

#![allow(unsafe_code)] // what this is for

use std::ffi::CString;
use std::os::fd::{AsRawFd, IntoRawFd};

use libc::{AT_FDCWD, c_long};
use worker::sandbox;

/// An ioctl that a worker has, so that the list of them is not empty.
const FIONBIO: u32 = 0x5421;
const FIONREAD: u32 = 0x541b;
/// Nobody's.
const UID: u32 = 61_234;
const PAGE_LEN: usize = 4096;

/// What acts are done to, made before the sandbox is entered.
struct Ground {
    dir: CString,
    victim: CString,
    fresh: CString,
    file: i32,
    pipe: [i32; 2],
    ring: i32,
    page: *mut libc::c_void,
}

macro_rules! call {
    ($number:ident $(, $argument:expr)* $(,)?) => {{
        // SAFETY: pointers are to values that live until the call returns, and the lengths given with them are theirs. Calls that
        // start, replace or confine a process do so to this one, which ends right after.
        unsafe { libc::syscall(libc::$number $(, $argument)*) }
    }};
}

type Act = (&'static str, fn(&Ground) -> c_long);

const NONE: usize = 0;

/// Of files and directories.
const FILES: &[Act] = &[
    ("read a file", |_| call!(SYS_openat, AT_FDCWD, c"/etc/passwd".as_ptr(), libc::O_RDONLY)),
    ("make a file", |g| call!(SYS_openat, AT_FDCWD, g.fresh.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600)),
    ("openat2", |_| {
        let how = [0u64; 3];
        call!(SYS_openat2, AT_FDCWD, c"/etc/passwd".as_ptr(), how.as_ptr(), size_of_val(&how))
    }),
    ("stat a path", |_| {
        let mut out = [0u64; 64];
        call!(SYS_statx, AT_FDCWD, c"/etc".as_ptr(), 0, 0x7ff, out.as_mut_ptr())
    }),
    ("look at an access right", |_| call!(SYS_faccessat, AT_FDCWD, c"/etc".as_ptr(), 0)),
    ("read a link", |_| {
        let mut out = [0u8; 256];
        call!(SYS_readlinkat, AT_FDCWD, c"/proc/self/exe".as_ptr(), out.as_mut_ptr(), out.len())
    }),
    ("make a directory", |g| call!(SYS_mkdirat, AT_FDCWD, g.fresh.as_ptr(), 0o700)),
    ("make a FIFO", |g| call!(SYS_mknodat, AT_FDCWD, g.fresh.as_ptr(), libc::S_IFIFO | 0o600, 0)),
    ("remove a file", |g| call!(SYS_unlinkat, AT_FDCWD, g.victim.as_ptr(), 0)),
    ("rename a file", |g| call!(SYS_renameat2, AT_FDCWD, g.victim.as_ptr(), AT_FDCWD, g.fresh.as_ptr(), 0)),
    ("link a file", |g| call!(SYS_linkat, AT_FDCWD, g.victim.as_ptr(), AT_FDCWD, g.fresh.as_ptr(), 0)),
    ("make a symbolic link", |g| call!(SYS_symlinkat, c"/etc".as_ptr(), AT_FDCWD, g.fresh.as_ptr())),
    ("change a mode", |g| call!(SYS_fchmodat, AT_FDCWD, g.victim.as_ptr(), 0o777)),
    ("change an open file's mode", |g| call!(SYS_fchmod, g.file, 0o777)),
    ("change an owner", |g| call!(SYS_fchownat, AT_FDCWD, g.victim.as_ptr(), -1, -1, 0)),
    ("cut a file by its path", |g| call!(SYS_truncate, g.victim.as_ptr(), NONE)),
    ("cut an open file", |g| call!(SYS_ftruncate, g.file, NONE)),
    ("change a file's times", |g| call!(SYS_utimensat, AT_FDCWD, g.victim.as_ptr(), NONE, 0)),
    ("change directory", |_| call!(SYS_chdir, c"/".as_ptr())),
    ("change the root", |g| call!(SYS_chroot, g.dir.as_ptr())),
    ("watch files", |_| call!(SYS_inotify_init1, 0)),
    ("look at a file system's size", |g| {
        let mut out = [0u64; 64];
        call!(SYS_statfs, g.dir.as_ptr(), out.as_mut_ptr())
    }),
    ("list a file's attributes", |g| call!(SYS_listxattr, g.victim.as_ptr(), NONE, NONE)),
    ("copy from file to file", |g| call!(SYS_sendfile, g.pipe[1], g.file, NONE, 1usize)),
    ("splice", |g| call!(SYS_splice, g.file, NONE, g.pipe[1], NONE, 1usize, 0)),
    ("make a file in memory", |_| call!(SYS_memfd_create, c"x".as_ptr(), 0)),
    ("lock a file as a whole", |g| call!(SYS_flock, g.file, libc::LOCK_EX | libc::LOCK_NB)),
    ("double a descriptor", |g| call!(SYS_dup, g.file)),
];

/// Of processes, users and limits.
const PROCESSES: &[Act] = &[
    ("fork", |_| {
        let child = call!(SYS_clone, libc::SIGCHLD, NONE, NONE, NONE, NONE);
        if child == 0 {
            std::process::exit(0);
        }
        child
    }),
    ("fork by clone3", |_| {
        let mut how = [0u64; 8];
        how[4] = libc::SIGCHLD.unsigned_abs().into();
        let child = call!(SYS_clone3, how.as_ptr(), size_of_val(&how));
        if child == 0 {
            std::process::exit(0);
        }
        child
    }),
    ("run a program", |_| {
        let arguments = [c"true".as_ptr(), std::ptr::null()];
        call!(SYS_execve, c"/bin/true".as_ptr(), arguments.as_ptr(), NONE)
    }),
    ("run a program by execveat", |_| {
        let arguments = [c"true".as_ptr(), std::ptr::null()];
        call!(SYS_execveat, AT_FDCWD, c"/bin/true".as_ptr(), arguments.as_ptr(), NONE, 0)
    }),
    ("signal a process", |_| call!(SYS_kill, std::process::id(), 0)),
    ("be traced", |_| call!(SYS_ptrace, libc::PTRACE_TRACEME, 0, NONE, NONE)),
    ("read a process's memory", |g| {
        let mut byte = 0u8;
        let ours = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let theirs = libc::iovec { iov_base: g.page, iov_len: 1 };
        call!(
            SYS_process_vm_readv,
            std::process::id(),
            &raw const ours,
            1usize,
            &raw const theirs,
            1usize,
            0usize
        )
    }),
    ("hold a process", |_| call!(SYS_pidfd_open, std::process::id(), 0)),
    ("enter a mount namespace", |_| call!(SYS_unshare, libc::CLONE_NEWNS)),
    ("enter a network namespace", |_| call!(SYS_unshare, libc::CLONE_NEWNET)),
    ("enter a user namespace", |_| call!(SYS_unshare, libc::CLONE_NEWUSER)),
    ("become root", |_| call!(SYS_setresuid, 0, 0, 0)),
    ("become root's group", |_| call!(SYS_setresgid, 0, 0, 0)),
    ("change groups", |_| call!(SYS_setgroups, 0, NONE)),
    ("look at capabilities", |_| {
        let (header, mut out) = ([0x2008_0522u32, 0], [0u32; 6]);
        call!(SYS_capget, header.as_ptr(), out.as_mut_ptr())
    }),
    ("be dumpable again", |_| call!(SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0)),
    ("take another name", |_| call!(SYS_prctl, libc::PR_SET_NAME, c"kthreadd".as_ptr(), 0, 0, 0)),
    ("change priority", |_| call!(SYS_setpriority, libc::PRIO_PROCESS, 0, 0)),
    ("become real-time", |_| {
        let priority = 1i32;
        call!(SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &raw const priority)
    }),
    ("choose a processor", |_| {
        let all = u64::MAX;
        call!(SYS_sched_setaffinity, 0, 8usize, &raw const all)
    }),
    ("look at a limit", |_| {
        let mut old = [0u64; 2];
        call!(SYS_prlimit64, 0, libc::RLIMIT_CORE, NONE, old.as_mut_ptr())
    }),
    ("change the group of processes", |_| call!(SYS_setpgid, 0, 0)),
    ("change personality", |_| call!(SYS_personality, 0)),
];

/// Of the kernel, memory and sockets.
const KERNEL: &[Act] = &[
    ("add a key", |_| {
        let ring = -1; // the thread's own
        call!(SYS_add_key, c"user".as_ptr(), c"x".as_ptr(), c"y".as_ptr(), 1usize, ring)
    }),
    ("make a key ring", |_| call!(SYS_keyctl, 0, -1, 1)),
    ("handle page faults", |_| call!(SYS_userfaultfd, 1)),
    ("give the kernel a program", |_| {
        // A map: an array of one.
        let mut map = [0u32; 32];
        map[..4].copy_from_slice(&[2, 4, 4, 1]);
        call!(SYS_bpf, 0, map.as_ptr(), size_of_val(&map))
    }),
    ("count performance", |_| {
        // The task's own clock.
        let mut what = [0u32; 32];
        what[..3].copy_from_slice(&[1, 128, 1]);
        call!(SYS_perf_event_open, what.as_ptr(), 0, -1, -1, NONE)
    }),
    ("make an io_uring", |_| {
        let mut parameters = [0u32; 30];
        call!(SYS_io_uring_setup, 1, parameters.as_mut_ptr())
    }),
    ("change an io_uring", |g| {
        // IORING_REGISTER_PERSONALITY
        call!(SYS_io_uring_register, g.ring, 9, NONE, 0)
    }),
    ("map memory that can be run", |_| {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        call!(SYS_mmap, NONE, PAGE_LEN, prot, flags, -1, NONE)
    }),
    ("make memory runnable", |g| call!(SYS_mprotect, g.page, PAGE_LEN, libc::PROT_READ | libc::PROT_EXEC)),
    ("make memory runnable by a key", |g| {
        call!(SYS_pkey_mprotect, g.page, PAGE_LEN, libc::PROT_READ | libc::PROT_EXEC, -1)
    }),
    ("share memory", |_| call!(SYS_shmget, libc::IPC_PRIVATE, PAGE_LEN, 0o600)),
    ("make a semaphore", |_| call!(SYS_semget, libc::IPC_PRIVATE, 1, 0o600)),
    ("make a message queue", |_| call!(SYS_msgget, libc::IPC_PRIVATE, 0o600)),
    ("make a Unix socket", |_| call!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)),
    ("make an IPv4 socket", |_| call!(SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("make a netlink socket", |_| call!(SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0)),
    ("make a packet socket", |_| call!(SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0)),
    ("make a pair of sockets", |_| {
        let mut pair = [0i32; 2];
        call!(SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr())
    }),
    ("use an ioctl that is not listed", |g| {
        let mut waiting = 0i32;
        call!(SYS_ioctl, g.pipe[0], FIONREAD, &raw mut waiting)
    }),
    ("make a pipe", |_| {
        let mut pair = [0i32; 2];
        call!(SYS_pipe2, pair.as_mut_ptr(), 0)
    }),
    ("make an eventfd", |_| call!(SYS_eventfd2, 0, 0)),
    ("make a timer", |_| call!(SYS_timerfd_create, libc::CLOCK_MONOTONIC, 0)),
    ("make an epoll", |_| call!(SYS_epoll_create1, 0)),
    ("look at the clock's state", |_| {
        let mut state = [0u64; 32];
        call!(SYS_adjtimex, state.as_mut_ptr())
    }),
    ("look at the kernel's log", |_| call!(SYS_syslog, 10, NONE, 0)),
    ("ask for the system's name", |_| {
        let mut name = [0u8; 65 * 6];
        call!(SYS_uname, name.as_mut_ptr())
    }),
];

fn ground(dir: &str) -> std::io::Result<Ground> {
    let path = |name: &str| CString::new(format!("{dir}/{name}")).map_err(std::io::Error::other);
    let file = std::fs::File::options().read(true).write(true).open(format!("{dir}/victim"))?;
    let (reader, writer) = std::io::pipe()?;
    let ring = io_uring::IoUring::new(1)?;
    let page = xenbus::memory::LocalMemory::new(PAGE_LEN)?;
    let place = page.address(0, PAGE_LEN).ok_or(std::io::ErrorKind::OutOfMemory)?.as_ptr().cast();
    let number = ring.as_raw_fd();
    // Until the process ends.
    std::mem::forget((ring, page));
    Ok(Ground {
        dir: CString::new(dir).map_err(std::io::Error::other)?,
        victim: path("victim")?,
        fresh: path("fresh")?,
        file: file.into_raw_fd(),
        pipe: [reader.into_raw_fd(), writer.into_raw_fd()],
        ring: number,
        page: place,
    })
}

fn main() {
    let acts: Vec<&Act> = [FILES, PROCESSES, KERNEL].into_iter().flatten().collect();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (number, place, dir) = match words[..] {
        ["list"] => return acts.iter().for_each(|(name, _)| println!("{name}")),
        [number, place @ ("outside" | "inside"), dir] => (number, place, dir),
        _ => std::process::exit(2),
    };
    let act = number.parse().ok().and_then(|n: usize| acts.get(n));
    let (Some((_, act)), Ok(ground)) = (act, ground(dir)) else { std::process::exit(2) };
    if place == "inside" {
        // SAFETY: no arguments.
        let uid = (unsafe { libc::geteuid() } == 0).then_some(UID);
        if sandbox::forget_paths().is_err() || sandbox::lock_in(uid, &[FIONBIO]).is_err() {
            std::process::exit(2);
        }
    }
    std::process::exit(if act(&ground) < 0 { 3 } else { 0 });
}
