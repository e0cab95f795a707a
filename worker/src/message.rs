//! What splitd and a worker say to each other on the worker's socket: one JSON object a line, either side may be one
//! version older. Pure data. Knows nothing of sockets or of processes.
//!
//! A worker is started as `blkback --listen-fd 3 --host xen|sim:DIR`, in a session of its own, with stdin and stdout on
//! /dev/null and no other descriptor: 3 is a listening stream socket, so that a later splitd can come to a worker that is
//! already running. One connection counts at a time; a new one takes the place of the old. `netback` is started likewise, with
//! `--tap-fds N` beside: 4 to 4+N-1 are the queues of its tap.
//!
//! Disks say `Open` and `Connect`, network interfaces `OpenVif`, `OpenedVif` and `ConnectVif`; all else is the same.
//!
//! ```text
//!   splitd                           worker
//!     Hello{1}           ─────────►
//!                        ◄─────────  Hello{1, pid, phase, …}     a worker already running says where it stands
//!     Open               ─────────►  opens target, grant and event devices; drops its privileges
//!                        ◄─────────  Opened | Failed
//!     Connect            ─────────►  fence → map → bind → replay the journal if there is one → serve
//!                        ◄─────────  Connected | Failed
//!     Refresh            ─────────►  looks at the target's size again (it does so by itself, too)
//!                        ◄─────────  Resized                       whenever the size changed
//!                        ◄─────────  Violation                     the frontend broke the protocol; the worker stopped serving
//!                        ◄─────────  Frozen | Thawed               our own or the disk's trouble; nothing is answered meanwhile
//!     HandOver           ─────────►  takes nothing more; ends what is in flight; exits 0, the connection to be taken over
//!     Disconnect         ─────────►  takes nothing more; ends what is in flight; unmaps; unbinds
//!                        ◄─────────  Disconnected                  then exits 0
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::ip_range::IpRange;
pub use crate::vif_caps::{VifCap, VifCaps, VifRate};

/// This build's version of the protocol. A peer that is one older is understood.
pub const VERSION: u32 = 3;

/// The first version that knows [`ToWorker::HandOver`].
pub const HAND_OVER_SINCE: u32 = 2;

/// The first version whose disks count where they were written; see [`crate::written`].
pub const WRITTEN_SINCE: u32 = 3;

/// The descriptor on which a worker finds its listening socket.
pub const LISTEN_FD: i32 = 3;

/// The first of the descriptors on which a `netback` finds its tap's queues.
pub const TAP_FD: i32 = 4;

/// More than that gains nothing over a sleep.
pub const MAX_BUSY_POLL_US: u32 = 50;

/// What splitd says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToWorker {
    /// First on every connection.
    Hello {
        /// Of the protocol.
        version: u32,
    },
    /// Open the target and all devices, then give up every privilege. Once in a worker's life.
    Open(Open),
    /// Serve the frontend. Once in a worker's life.
    Connect(Connect),
    /// Open all devices, then give up every privilege. Once in a worker's life.
    OpenVif(OpenVif),
    /// Serve the network frontend. Once in a worker's life.
    ConnectVif(ConnectVif),
    /// Go by these from now on.
    SetVif(VifSettings),
    /// Look at the target's size now.
    Refresh,
    /// Finish what was taken and exit, so that a successor finds nothing to do again. Disks only.
    HandOver,
    /// Finish what was taken, let go of the frontend, exit.
    Disconnect,
}

/// Everything a worker needs before it may give up its privileges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The frontend's domain.
    pub frontend: u16,
    /// The device's number: `51712` for `xvda`.
    pub devid: u32,
    /// UUID of the virtual machine (`/local/domain/N/vm`), with `devid` the key of the fence.
    pub vm_uuid: String,
    /// Absolute path of a regular file or a block device.
    pub target: PathBuf,
    /// Offered read-only.
    pub read_only: bool,
    /// Discard is wanted (`discard-enable`).
    pub discard: bool,
    /// The most queues a frontend may connect.
    pub max_queues: u16,
    /// The largest ring, as a power of two of pages.
    pub max_ring_order: u8,
    /// Most segments in an indirect request; 0 if not offered.
    pub max_indirect_segments: u16,
    /// Bytes of transfer buffers for the whole device.
    pub buffer_len_bytes: u64,
    /// Longest to look for the next request or the disk's answer before sleeping, in µs; 0 is never.
    #[serde(default)]
    pub busy_poll_us: u32,
    /// Directory of this device's journal and counters files, made by splitd.
    pub run_dir: PathBuf,
    /// User and group to become; `None` keeps the current one (a host without root, the simulated one).
    pub uid: Option<u32>,
    /// What limits it; a splitd of the version before knows none.
    #[serde(default)]
    pub qos: Option<QosFiles>,
}

/// Where a disk's limits stand, and what was used of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosFiles {
    /// What splitd writes.
    pub page: PathBuf,
    /// What the worker writes; only splitd reads it.
    pub usage: PathBuf,
    /// The account that all disks of the domain share.
    pub domain: PathBuf,
    /// The account that all domains of the customer share.
    pub customer: Option<PathBuf>,
}

/// What the target turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Size in units of 512 bytes.
    pub capacity_sectors: u64,
    /// The smallest write the target takes, bytes.
    pub logical_block_len_bytes: u32,
    /// The smallest write without read-modify-write, bytes.
    pub physical_block_len_bytes: u32,
    /// Discard works, with its granularity and alignment in bytes.
    pub discard: Option<Discard>,
    /// Reported `VDISK_CDROM` etc. come from the toolstack; this only says that the target itself refuses writes.
    pub read_only: bool,
    /// Canonical node and what it is: `dev:8:1`, `file:259:0:131` (device and inode).
    pub identity: String,
}

/// How a target takes discard requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    /// Bytes.
    pub granularity_bytes: u32,
    /// Bytes.
    pub alignment_bytes: u32,
    /// Secure erase, too.
    pub secure: bool,
}

/// How a connection moves data; fixed for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferMode {
    /// Grant copy into private buffers.
    Copy,
    /// Persistent mappings; both sides advertised `feature-persistent`.
    Persistent,
}

/// The layout of the slots (`protocol` in the frontend's directory).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Abi {
    /// `x86_64-abi`, and `arm-abi`, which is laid out alike.
    Native64,
    /// `x86_32-abi`, packed; also what a frontend without a `protocol` node speaks on x86.
    X86_32,
}

/// One queue of the frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRing {
    /// Grant refs of the ring's pages, in order; a power of two, 1 to 16.
    pub ring_refs: Vec<u32>,
    /// The frontend's event channel.
    pub port: u32,
}

/// What the frontend wrote, read once and checked for shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Chosen anew by splitd for every connection of a frontend; the same again when a dead worker's successor takes the
    /// connection over, which is what makes its journal valid.
    pub connection: u64,
    /// The queues, in order.
    pub queues: Vec<QueueRing>,
    /// Slot layout.
    pub abi: Abi,
    /// Data movement.
    pub mode: TransferMode,
    /// `feature-barrier` was offered (single-queue frontends only).
    pub barrier: bool,
    /// The last worker ended by itself, which something that it left may have been the cause of; one that was killed did not.
    #[serde(default)]
    pub predecessor_crashed: bool,
    /// Longest to wait for a predecessor's last I/O (the fence) before freezing, in ms.
    pub fence_timeout_ms: u64,
}

/// Everything a `netback` needs before it may give up its privileges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenVif {
    /// The frontend's domain.
    pub frontend: u16,
    /// The interface's number.
    pub devid: u32,
    /// UUID of the virtual machine (`/local/domain/N/vm`).
    pub vm_uuid: String,
    /// What the descriptors from [`TAP_FD`] on are.
    pub link: Link,
    /// The most queues a frontend may connect; there are as many descriptors.
    pub max_queues: u16,
    /// Directory of this device's journal and counters files, made by splitd.
    pub run_dir: PathBuf,
    /// User and group to become; `None` keeps the current one.
    pub uid: Option<u32>,
    /// What holds from the start.
    pub settings: VifSettings,
    /// Where is accounted for what it carries; a splitd of the version before knows none.
    #[serde(default)]
    pub accounts: Option<VifAccounts>,
}

/// Files that outlive the worker, and say what was carried of what may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifAccounts {
    /// The interface's own.
    pub own: PathBuf,
    /// That which all interfaces of its domain share.
    pub domain: PathBuf,
}

/// What carries a vif's frames on our side. Every frame is preceded by the 12 bytes of `struct virtio_net_hdr_v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Queues of a kernel tap: `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE`, header length 12, little-endian.
    Tap,
    /// Connected `SOCK_SEQPACKET` sockets, one message a frame, with the same header: the simulated wire. It takes every offload.
    Wire,
}

/// What may change while a vif is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifSettings {
    /// What the guest may send, over all queues, for a worker that knows no `caps`; `None` is without limit.
    pub rate: Option<VifRate>,
    /// Everything that limits it, over all queues; a splitd of the version before says `rate` alone.
    #[serde(default)]
    pub caps: Option<Box<VifCaps>>,
    /// `request-multicast-control`: only multicast that the guest asked for is passed to it.
    pub multicast_control: bool,
    /// `xdp-headroom`: bytes left free before a frame in the first slot given to the guest; 0 or at most 0x7fff.
    pub xdp_headroom: u16,
    /// Frames with another source address than this are dropped and counted; `None` lets the guest choose.
    pub only_mac: Option<[u8; 6]>,
    /// Packets with another IPv4 or IPv6 source (ARP sender, too) are dropped and counted; empty lets the guest choose.
    pub only_ips: Vec<IpRange>,
    /// Checksums that the guest leaves open are filled in before a frame goes to the link.
    #[serde(default)]
    pub finish_checksums: bool,
}

/// One queue of a network frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifRing {
    /// Grant ref of the ring of frames from the guest.
    pub tx_ref: u32,
    /// Grant ref of the ring of frames to the guest.
    pub rx_ref: u32,
    /// Event channel of the tx ring.
    pub tx_port: u32,
    /// Event channel of the rx ring; the same one for both without `feature-split-event-channels`.
    pub rx_port: u32,
}

/// The ring of requests about hashing and static grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifControlRing {
    /// Grant ref (`ctrl-ring-ref`).
    pub ring_ref: u32,
    /// Event channel (`event-channel-ctrl`).
    pub port: u32,
}

/// What a network frontend said that it can take; each as if absent unless it was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifFeatures {
    /// `feature-sg`: frames of several slots.
    pub sg: bool,
    /// `feature-gso-tcpv4`
    pub gso_tcpv4: bool,
    /// `feature-gso-tcpv6`
    pub gso_tcpv6: bool,
    /// Not `feature-no-csum-offload`: IPv4 frames whose TCP or UDP checksum is left open.
    pub csum_ipv4: bool,
    /// `feature-ipv6-csum-offload`: IPv6 frames likewise.
    pub csum_ipv6: bool,
    /// `feature-rx-notify`: it notifies when it has posted slots; else we look every 30 ms.
    pub rx_notify: bool,
}

/// What a network frontend wrote, read once and checked for shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectVif {
    /// As in [`Connect`].
    pub connection: u64,
    /// The queues, in order.
    pub queues: Vec<VifRing>,
    /// `None` if it made none.
    pub control: Option<VifControlRing>,
    /// What it can take.
    pub features: VifFeatures,
    /// What holds from now on.
    pub settings: VifSettings,
}

/// Whose fault a failure is; decides what splitd does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The target or what the operator asked for: an error to `xl`.
    Target,
    /// The frontend's: this device closes, with the reason in xenstore.
    Frontend,
    /// Ours: the device freezes, with an alarm.
    Host,
}

/// Where a worker stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for `Open`.
    Started,
    /// Waits for `Connect`.
    Opened,
    /// Serves.
    Connected,
    /// Takes nothing, answers nothing, until the operator or the disk changes that.
    Frozen,
    /// Finishing.
    Disconnecting,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromWorker {
    /// First on every connection.
    Hello {
        /// Of the protocol.
        version: u32,
        /// Of the worker's process.
        pid: u32,
        /// Where it stands.
        phase: Phase,
        /// What `Open` found, once it has.
        opened: Option<Opened>,
        /// The connection it serves, once it does.
        connection: Option<u64>,
    },
    /// Answer to `Open`.
    Opened(Opened),
    /// Answer to `OpenVif`.
    OpenedVif,
    /// Answer to `Connect` or `ConnectVif`: serving.
    Connected {
        /// Requests found in the journal of a dead predecessor and done again.
        replayed: u32,
        /// How long the fence took, in ms.
        fence_ms: u64,
        /// Requests that ended two workers each and are answered with an error instead of being done again.
        #[serde(default)]
        given_up: u32,
    },
    /// The last thing asked could not be done.
    Failed {
        /// Whose fault.
        fault: Fault,
        /// The thing, the value and what is allowed.
        reason: String,
    },
    /// The target has another size now.
    Resized {
        /// In units of 512 bytes.
        capacity_sectors: u64,
    },
    /// The frontend broke the protocol; nothing of it is served any more.
    Violation {
        /// What it did.
        reason: String,
    },
    /// Nothing is answered until further notice.
    Frozen {
        /// Why.
        reason: String,
    },
    /// Serving again.
    Thawed,
    /// All taken requests were answered, nothing is mapped or bound; the process ends.
    Disconnected,
}
