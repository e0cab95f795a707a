//! Where one end of a device stands (`XenbusState` of xenbus.h), as read from a `state` node: any bytes may stand there.
//! Knows nothing of what follows from it.

use std::fmt;

/// A `state` node's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// 0: what a frontend that is about to vanish may write.
    Unknown = 0,
    /// 1
    Initialising = 1,
    /// 2: the backend has said what it offers.
    InitWait = 2,
    /// 3: the frontend has said how to reach it.
    Initialised = 3,
    /// 4
    Connected = 4,
    /// 5
    Closing = 5,
    /// 6
    Closed = 6,
    /// 7: PCI's, never a disk's.
    Reconfiguring = 7,
    /// 8: PCI's, never a disk's.
    Reconfigured = 8,
}

impl State {
    /// All of them, for tables.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
    ];

    /// The value of a node; `None` if it is anything but one decimal digit from 0 to 8.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let [digit @ b'0'..=b'8'] = text else { return None };
        Self::ALL.get(usize::from(digit - b'0')).copied()
    }

    /// What the node holds.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}
