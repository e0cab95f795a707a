//! The host's end of a vif: a tap `vifD.I` that outlives every worker, or on a simulated host without one a wire. splitd keeps one
//! queue of each tap that is detached, so that a worker's death takes neither the tap nor its carrier away; workers are handed
//! queues of their own. The script may rename a tap, so it is known by its index. Knows nothing of frames.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use worker::message::Link;

use crate::id::DeviceId;

const SET_IFF: libc::c_ulong = 0x4004_54ca;
const SET_PERSIST: libc::c_ulong = 0x4004_54cb;
const SET_OFFLOAD: libc::c_ulong = 0x4004_54d0;
const SET_HEADER_LEN: libc::c_ulong = 0x4004_54d8;
const SET_QUEUE: libc::c_ulong = 0x4004_54d9;
const SET_LITTLE_ENDIAN: libc::c_ulong = 0x4004_54dc;
const SET_CARRIER: libc::c_ulong = 0x4004_54e2;
/// `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE`
const FLAGS: libc::c_short = 0x0002 | 0x1000 | 0x4000 | 0x0100;
const ATTACH_QUEUE: libc::c_short = 0x200;
const DETACH_QUEUE: libc::c_short = 0x400;
/// `struct virtio_net_hdr_v1`
const HEADER_LEN: libc::c_int = 12;

/// What vifs of a host have for taps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Links {
    /// The kernel's.
    Kernel,
    /// A socket to which each queue is a connection.
    Wire(PathBuf),
}

impl Links {
    /// Wires where the simulated host has a switch for them.
    #[must_use]
    pub fn of_host(host: &str) -> Self {
        let wire = host.strip_prefix("sim:").map(|dir| Path::new(dir).join("wire.sock"));
        wire.filter(|path| path.exists()).map_or(Self::Kernel, Self::Wire)
    }
}

/// One vif's.
#[derive(Debug)]
pub enum Tap {
    /// In the kernel.
    Kernel {
        /// A queue that is detached.
        keeper: OwnedFd,
        /// Of the interface.
        index: libc::c_uint,
    },
    /// On the simulated host.
    Wire {
        /// Where.
        path: PathBuf,
        /// `vif5.0`
        name: String,
    },
}

impl Tap {
    /// Makes it, or finds it again: `dir` is the device's run directory, in which its index stands.
    pub fn open(links: &Links, id: DeviceId, dir: &Path) -> io::Result<Self> {
        let name = format!("vif{}.{}", id.frontend, id.devid);
        if let Links::Wire(path) = links {
            return Ok(Self::Wire { path: path.clone(), name });
        }
        let known = known(dir);
        let name = known.and_then(|index| name_of(index).ok()).unwrap_or(name);
        let of_name = |error: io::Error| io::Error::new(error.kind(), format!("tap {name}: {error}"));
        let keeper = queue(&name).map_err(of_name)?;
        let index = index_of(&name).map_err(of_name)?;
        if known != Some(index) {
            ask(&keeper, SET_PERSIST, 1).map_err(of_name)?;
            ask_with(&keeper, SET_CARRIER, 0).map_err(of_name)?;
            remember(dir, index)?;
        }
        set_queue(&keeper, DETACH_QUEUE).map_err(of_name)?;
        Ok(Self::Kernel { keeper, index })
    }

    /// What a worker is told of its queues.
    #[must_use]
    pub fn link(&self) -> Link {
        match self {
            Self::Kernel { .. } => Link::Tap,
            Self::Wire { .. } => Link::Wire,
        }
    }

    /// Its name now.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Kernel { index, .. } => name_of(*index).unwrap_or_else(|_| format!("interface {index}")),
            Self::Wire { name, .. } => name.clone(),
        }
    }

    /// Queues for a worker.
    pub fn queues(&self, count: u16) -> io::Result<Vec<OwnedFd>> {
        (0..count)
            .map(|number| match self {
                Self::Kernel { index, .. } => queue(&name_of(*index)?),
                Self::Wire { path, name } => wire(path, name, number),
            })
            .collect()
    }

    /// The link is down: the connection ended, and the worker may not have said so.
    pub fn set_carrier_off(&self) {
        if let Self::Kernel { index, .. } = self
            && let Ok(name) = name_of(*index)
        {
            // An interface that is not up has no carrier to set.
            let _ = fs::write(format!("/sys/class/net/{name}/carrier"), "0");
        }
    }

    /// The device is gone, and its tap with it.
    pub fn remove(self) {
        if let Self::Kernel { keeper, .. } = self {
            // Only an attached queue may say so; the interface goes with the last queue.
            let done = set_queue(&keeper, ATTACH_QUEUE).and_then(|()| ask(&keeper, SET_PERSIST, 0));
            if let Err(trouble) = done {
                tracing::warn!("tap: {trouble}");
            }
        }
    }

    /// Removes the tap that a device left which is no more.
    pub fn reap(dir: &Path) {
        let Some(name) = known(dir).and_then(|index| name_of(index).ok()) else { return };
        match queue(&name).and_then(|keeper| ask(&keeper, SET_PERSIST, 0)) {
            Ok(()) => tracing::info!("{name}: left over, removed"),
            Err(trouble) => tracing::warn!("{name}: {trouble}"),
        }
    }
}

fn known(dir: &Path) -> Option<libc::c_uint> {
    fs::read_to_string(dir.join("tap")).ok()?.trim().parse().ok()
}

fn remember(dir: &Path, index: libc::c_uint) -> io::Result<()> {
    let staged = dir.join("tap.new");
    let mut file = fs::File::create(&staged)?;
    writeln!(file, "{index}")?;
    fs::rename(staged, dir.join("tap"))
}

fn name_of(index: libc::c_uint) -> io::Result<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: room for a name and its end.
    if unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}

fn index_of(name: &str) -> io::Result<libc::c_uint> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a string with its end.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A new queue of the tap with this name, which is made if there is none.
fn queue(name: &str) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|error| {
            io::Error::new(error.kind(), format!("/dev/net/tun: {error}; modprobe tun makes it"))
        })?;
    let file = OwnedFd::from(file);
    let mut request = request(FLAGS);
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::other(format!("{name:?}: at most 15 bytes are allowed")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: an ifreq, which the call may write to.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SET_IFF, &raw mut request) })?;
    ask_with(&file, SET_HEADER_LEN, HEADER_LEN)?;
    ask_with(&file, SET_LITTLE_ENDIAN, 1)?;
    ask(&file, SET_OFFLOAD, 0)?;
    Ok(file)
}

fn request(flags: libc::c_short) -> libc::ifreq {
    // SAFETY: plain data, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = flags;
    request
}

fn set_queue(file: &OwnedFd, flags: libc::c_short) -> io::Result<()> {
    let request = request(flags);
    // SAFETY: an ifreq.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SET_QUEUE, &raw const request) })
}

/// A request that takes its argument by value.
fn ask(file: &OwnedFd, what: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::ioctl(file.as_raw_fd(), what, value) })
}

/// A request that reads an int.
fn ask_with(file: &OwnedFd, what: libc::c_ulong, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the int is valid for the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), what, &raw const value) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A connection to the switch, which is told whose it is first.
fn wire(path: &Path, name: &str, number: u16) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: plain numbers; a non-negative result is a new descriptor that nobody else owns.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        check(fd)?;
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: plain data, for which zeroes are a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).map_err(io::Error::other)?;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::other(format!("{}: too long for a socket", path.display())));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).map_err(io::Error::other)?;
    let line = format!("{name} {number}\n");
    // SAFETY: an address of that length, and bytes that are borrowed for the call.
    unsafe {
        check(libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len))?;
        if libc::send(socket.as_raw_fd(), line.as_ptr().cast(), line.len(), libc::MSG_NOSIGNAL) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(socket)
}
