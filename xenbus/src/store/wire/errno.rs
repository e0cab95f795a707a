//! The error names that a store answers with. Knows nothing of the operations that cause them.

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// An error of the store, sent by its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Errno {
            $($(#[$doc])* $variant,)*
        }

        impl Errno {
            /// Every error.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As on the wire.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

errors! {
    /// A malformed request.
    Invalid = "EINVAL",
    /// No right to the node.
    Access = "EACCES",
    /// The watch exists.
    Exists = "EEXIST",
    /// Unused by today's stores.
    IsDirectory = "EISDIR",
    /// No such node, watch or transaction.
    NoEntry = "ENOENT",
    /// The store, or the domain's quota of it, is out of memory.
    NoMemory = "ENOMEM",
    /// A quota: nodes, transactions.
    NoSpace = "ENOSPC",
    /// The store failed.
    Io = "EIO",
    /// Unused by today's stores.
    NotEmpty = "ENOTEMPTY",
    /// The store does not know the request.
    NotImplemented = "ENOSYS",
    /// The store takes no writes now.
    ReadOnly = "EROFS",
    /// A transaction inside of a transaction, or a store about to be replaced.
    Busy = "EBUSY",
    /// The transaction met somebody else's change.
    Again = "EAGAIN",
    /// The domain is introduced already.
    IsConnected = "EISCONN",
    /// A value over its quota, or a list longer than a payload; of a watch: too many of them.
    TooBig = "E2BIG",
    /// Not for this caller.
    NotPermitted = "EPERM",
    /// A quota (oxenstored).
    Quota = "EQUOTA",
}

impl Errno {
    /// What a payload of an error message names, with or without the NUL at its end; `None` for a name not known here.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let name = payload.strip_suffix(&[0]).unwrap_or(payload);
        Self::ALL.iter().copied().find(|errno| errno.name().as_bytes() == name)
    }
}
