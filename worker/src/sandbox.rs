//! The end of a worker's privileges, once everything it needs is open: another user, no capability, a list of the system calls
//! that are left. A call that is not on it kills the process, and the journal makes that recoverable. What this cannot do: gntdev
//! has no restriction to one domain, so a worker that a guest took over could map any page granted to ours.
//! Knows nothing of devices, but for the ioctl numbers it is given.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetStatus,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Files a worker may have open beside those it has when it is locked in: splitd's connections, those of a simulated host.
const SPARE_FILES: u64 = 64;

/// Why a worker could not be locked in.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A privilege that could not be given up.
    #[error("{what}: {source}")]
    Privilege {
        /// The call.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The filter.
    #[error("seccomp: {0}")]
    Filter(#[from] seccompiler::Error),
    /// The filter.
    #[error("seccomp: {0}")]
    Backend(#[from] seccompiler::BackendError),
    /// Paths and ports.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// Not what was asked for.
    #[error("still {0} after giving up privileges")]
    Kept(&'static str),
}

/// Closes every open file above standard error but `keep`.
pub fn close_all_but(keep: RangeInclusive<i32>) -> io::Result<()> {
    let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    for (first, last) in [(3, number(keep.start() - 1)?), (number(keep.end() + 1)?, u32::MAX)] {
        if first > last {
            continue;
        }
        // SAFETY: plain numbers; called before anything that owns a file exists in this process.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Takes every path, and TCP where the kernel knows how, from the calling thread and those that it starts, for good: what is
/// open stays open, nothing else ever is. For each thread, because Landlock knows no other way; before [`lock_in`], whose filter
/// has no place for it. False on a kernel without Landlock (before 5.13, or not in `lsm=`): the filter is what is left there.
pub fn forget_paths() -> Result<bool, SandboxError> {
    // Signals are left alone: within one process they are how the C library changes the user of all threads.
    let RestrictionStatus { ruleset, .. } = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V5))?
        .create()?
        .restrict_self()?;
    Ok(ruleset != RulesetStatus::NotEnforced)
}

/// Locks all threads of the process in, for good. `ioctls` are the only ioctl requests left.
pub fn lock_in(uid: Option<u32>, ioctls: &[u32]) -> Result<(), SandboxError> {
    let filter = filter(ioctls)?;
    limit(libc::RLIMIT_CORE, 0, "no core dumps")?;
    limit(libc::RLIMIT_NOFILE, highest_file() + SPARE_FILES, "number of open files")?;
    if let Some(uid) = uid {
        become_user(uid)?;
    }
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }, "dumpable")?;
    // Sets no_new_privs, and takes every thread along.
    seccompiler::apply_filter_all_threads(&filter)?;
    Ok(())
}

/// Takes some more ioctl requests away from all threads, once what they were for is done.
pub fn forbid(ioctls: &[u32]) -> Result<(), SandboxError> {
    let rules = BTreeMap::from([(libc::SYS_ioctl, requests(ioctls)?)]);
    seccompiler::apply_filter_all_threads(&compile(
        rules,
        SeccompAction::Allow,
        SeccompAction::KillProcess,
    )?)?;
    Ok(())
}

fn check(result: libc::c_int, what: &'static str) -> Result<(), SandboxError> {
    if result < 0 {
        return Err(SandboxError::Privilege { what, source: io::Error::last_os_error() });
    }
    Ok(())
}

fn limit(resource: libc::__rlimit_resource_t, most: u64, what: &'static str) -> Result<(), SandboxError> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the pointer is valid for the call.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }, what)
}

fn highest_file() -> u64 {
    let number = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<u64>().ok();
    std::fs::read_dir("/proc/self/fd").map_or(256, |dir| dir.filter_map(number).max().unwrap_or(256))
}

/// The C library's calls change all threads.
fn become_user(uid: u32) -> Result<(), SandboxError> {
    // SAFETY: an empty list needs no memory.
    check(unsafe { libc::setgroups(0, std::ptr::null()) }, "setgroups")?;
    // SAFETY: plain numbers.
    check(unsafe { libc::setresgid(uid, uid, uid) }, "setresgid")?;
    // SAFETY: plain numbers. With the last root id every capability goes.
    check(unsafe { libc::setresuid(uid, uid, uid) }, "setresuid")?;
    // SAFETY: no arguments.
    if uid != 0 && unsafe { libc::setuid(0) } == 0 {
        return Err(SandboxError::Kept("able to become root"));
    }
    Ok(())
}

/// Everything a worker does after it opened its devices. Data goes through io_uring, whose own list is in [`crate::uring`].
const PLAIN_CALLS: [libc::c_long; 36] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_fcntl,
    libc::SYS_lseek,
    libc::SYS_fallocate,
    libc::SYS_io_uring_enter,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

fn filter(ioctls: &[u32]) -> Result<BpfProgram, SandboxError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = PLAIN_CALLS.iter().map(|&call| (call, vec![])).collect();
    let not_executable = || {
        let execute = libc::PROT_EXEC.unsigned_abs().into();
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(execute), 0)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    rules.insert(libc::SYS_ioctl, requests(ioctls)?);
    // Only to tighten further: what `forbid` needs.
    rules.insert(libc::SYS_seccomp, vec![]);
    let no_new_privs = libc::PR_SET_NO_NEW_PRIVS.unsigned_abs().into();
    let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, no_new_privs)?;
    rules.insert(libc::SYS_prctl, vec![SeccompRule::new(vec![is])?]);
    compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// One rule for each request number.
fn requests(ioctls: &[u32]) -> Result<Vec<SeccompRule>, SandboxError> {
    let mut requests = Vec::new();
    for &request in ioctls {
        let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request.into())?;
        requests.push(SeccompRule::new(vec![is])?);
    }
    Ok(requests)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that has forgotten all paths opens none, reads on from what it has open, and its siblings are not touched. Each
    /// act is seen to succeed before.
    #[test]
    fn paths_are_forgotten_by_the_thread_alone() {
        use std::fs::File;
        use std::io::Read;
        std::thread::scope(|scope| {
            let outcome = scope.spawn(|| {
                let mut open = File::open("/proc/self/maps").unwrap();
                if !forget_paths().unwrap() {
                    return None;
                }
                let read = open.read(&mut [0; 16]).unwrap();
                Some((read, File::open("/proc/self/maps").map_err(|e| e.kind()).err()))
            });
            match outcome.join().unwrap() {
                Some(outcome) => assert_eq!(outcome, (16, Some(io::ErrorKind::PermissionDenied))),
                None => eprintln!("SKIPPED: no Landlock in this kernel"),
            }
        });
        assert!(File::open("/proc/self/maps").is_ok());
    }

    /// The filter compiles, and without any ioctl there is no rule that would allow them all.
    #[test]
    fn filter_compiles() {
        assert!(filter(&[0x5421]).is_ok_and(|program| program.len() > PLAIN_CALLS.len()));
    }
}
