//! The policy file as it was read: what is promised to whom. Knows nothing of TOML, of devices that exist, or of time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod check;
pub mod effective;
mod fault;
pub mod glob;
mod limits;
mod read;
mod sla;
mod units;

pub use fault::{Fault, Place, Rule};
pub use limits::{cap_value, net_cap_value};
pub use read::parse;
pub use units::time_ns;

/// A weight that nobody set, as in `xl sched-credit`.
pub const DEFAULT_WEIGHT: u32 = 256;

/// How many caps a disk has.
pub const NR_CAPS: usize = 6;

/// A disk's caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cap {
    /// Reads each second.
    ReadIops,
    /// Writes each second.
    WriteIops,
    /// Both.
    TotalIops,
    /// Bytes read each second.
    ReadBytes,
    /// Bytes written each second.
    WriteBytes,
    /// Both.
    TotalBytes,
}

impl Cap {
    /// All of them, each at its own index.
    pub const ALL: [Self; NR_CAPS] = [
        Self::ReadIops,
        Self::WriteIops,
        Self::TotalIops,
        Self::ReadBytes,
        Self::WriteBytes,
        Self::TotalBytes,
    ];

    /// As the policy file calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadIops => "read_iops_max",
            Self::WriteIops => "write_iops_max",
            Self::TotalIops => "total_iops_max",
            Self::ReadBytes => "read_bytes_max",
            Self::WriteBytes => "write_bytes_max",
            Self::TotalBytes => "total_bytes_max",
        }
    }

    /// Counts operations rather than bytes.
    #[must_use]
    pub const fn is_iops(self) -> bool {
        matches!(self, Self::ReadIops | Self::WriteIops | Self::TotalIops)
    }
}

/// How many caps a network interface has.
pub const NR_NET_CAPS: usize = 4;

/// A network interface's caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetCap {
    /// Bits each second from the guest.
    Tx,
    /// Bits each second to it.
    Rx,
    /// Packets each second from the guest.
    TxPackets,
    /// Packets each second to it.
    RxPackets,
}

impl NetCap {
    /// All of them, each at its own index.
    pub const ALL: [Self; NR_NET_CAPS] = [Self::Tx, Self::Rx, Self::TxPackets, Self::RxPackets];

    /// As the policy file calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tx => "tx_max",
            Self::Rx => "rx_max",
            Self::TxPackets => "tx_pps_max",
            Self::RxPackets => "rx_pps_max",
        }
    }

    /// Counts packets rather than bits.
    #[must_use]
    pub const fn is_packets(self) -> bool {
        matches!(self, Self::TxPackets | Self::RxPackets)
    }
}

/// Something set, with its place. The value of a limit is `None` where `"none"` lifts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub at: Place,
}

/// Limits of disks, as one table sets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskLimits {
    /// By [`Cap`].
    pub caps: [Option<Set<Option<u64>>>; NR_CAPS],
    /// By [`Cap`].
    pub bursts: [Option<Set<u64>>; NR_CAPS],
    /// How long a burst may last, ns.
    pub burst_len_ns: Option<Set<u64>>,
    /// Operations each second that are promised.
    pub reserve_iops: Option<Set<Option<u64>>>,
}

/// Limits of network interfaces, as one table sets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetLimits {
    /// By [`NetCap`].
    pub caps: [Option<Set<Option<u64>>>; NR_NET_CAPS],
    /// Time of a window in which that much may pass at once, ns.
    pub burst_ns: Option<Set<u64>>,
}

/// A kind of tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Share of a device.
    pub weight: Option<Set<u32>>,
    /// For all disks of a domain together.
    pub disk: DiskLimits,
    /// What is promised of the reservation.
    pub sla: Option<Set<Sla>>,
    /// For all interfaces of a domain together.
    pub net: NetLimits,
}

/// What a contract says of a reservation. Parts are parts of a million.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sla {
    /// Of the windows in which something was wanted, so many are to have got it.
    pub target_ppm: u32,
    /// A window that got so much of what it was entitled to has got it.
    pub tolerance_ppm: u32,
    /// What is given back, the mildest step first.
    pub credits: Vec<Credit>,
}

/// A step of what is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Where fewer windows than that were kept.
    pub below_ppm: u32,
    /// Of the month's price.
    pub percent: u32,
}

/// Who owns several domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Customer {
    /// Share of a device, for all domains together.
    pub weight: Option<Set<u32>>,
    /// For all disks of all domains together.
    pub disk: DiskLimits,
    /// Globs of names.
    pub domains: Vec<Set<String>>,
}

/// Whom a `[[domain]]` is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// Lower case, with dashes.
    Uuid(String),
    /// Exactly that name.
    Name(String),
    /// Names like that.
    Glob(String),
}

/// A `[[domain]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Whom.
    pub who: Match,
    /// Where it begins.
    pub at: Place,
    /// Its class.
    pub class: Option<String>,
    /// Share of a device.
    pub weight: Option<Set<u32>>,
    /// For all its disks together.
    pub disk: DiskLimits,
    /// By name or glob of a disk.
    pub disks: Vec<(String, DiskRule)>,
    /// For all its interfaces together.
    pub net: NetLimits,
    /// By number of an interface.
    pub nets: BTreeMap<u32, NetLimits>,
}

/// What a `[[domain]]` says of one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskRule {
    /// Share within the domain.
    pub weight: Option<Set<u32>>,
    /// For this disk alone.
    pub limits: DiskLimits,
}

/// How a device's work is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// By what kind of device it is.
    #[default]
    Auto,
    /// A disk with heads.
    Hdd,
    /// A SATA SSD.
    Ssd,
    /// An NVMe SSD.
    FastSsd,
}

impl Model {
    /// What a device is taken for that says of itself whether it has heads. QEMU's virtio drives say that they have.
    #[must_use]
    pub const fn of(self, rotational: bool) -> Self {
        match (self, rotational) {
            (Self::Auto, true) => Self::Hdd,
            (Self::Auto, false) => Self::Ssd,
            (told, _) => told,
        }
    }

    /// As a policy file has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Hdd => "hdd",
            Self::Ssd => "ssd",
            Self::FastSsd => "ssd-fast",
        }
    }
}

/// A `[device.X]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// A path below /dev, or `auto` for all without a table of their own.
    pub key: String,
    /// Where it begins.
    pub at: Place,
    /// Costs.
    pub model: Model,
    /// Most of it that may be reserved, parts of a million.
    pub max_reserved_ppm: u32,
}

/// Most of a device that may be reserved where nothing else is said, parts of a million.
pub const DEFAULT_MAX_RESERVED_PPM: u32 = 800_000;

/// How things are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accounting {
    /// A larger operation counts as several; `None`: every operation as one.
    pub iops_size_bytes: Option<u64>,
    /// A flush is an operation, too.
    pub flush_is_op: bool,
    /// Promises are judged by windows of that length, s.
    pub window_s: u32,
}

/// The window of [`Accounting`] where nothing else is said.
pub const DEFAULT_WINDOW_S: u32 = 60;

impl Default for Accounting {
    fn default() -> Self {
        Self { iops_size_bytes: Some(256 << 10), flush_is_op: false, window_s: DEFAULT_WINDOW_S }
    }
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// For any domain without a match; `None`: no limits and the default weight.
    pub default_class: Option<Set<String>>,
    /// How things are counted.
    pub accounting: Accounting,
    /// Devices.
    pub devices: Vec<Device>,
    /// Classes.
    pub classes: BTreeMap<String, Class>,
    /// Customers.
    pub customers: BTreeMap<String, Customer>,
    /// Domains, in the file's order.
    pub domains: Vec<Domain>,
}

#[cfg(test)]
mod tests;
