//! What is wrong with a policy file: every rule is a variant of its own, with the place and the value. Knows nothing of how
//! values are read.

use std::fmt;

/// Where something stands in the file; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where.
    pub at: Place,
    /// The key, with the tables that it stands in: `class.gold.weight`.
    pub key: String,
    /// The value as written; empty where there is none to show.
    pub value: String,
    /// Which rule.
    pub rule: Rule,
}

/// The rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Rule {
    /// Not TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// `version` is missing or another.
    #[error("version = 1 is needed")]
    Version,
    /// A key that means nothing here.
    #[error("unknown key; allowed are {0}")]
    UnknownKey(String),
    /// Text where a number is wanted, and so on.
    #[error("{0} is wanted")]
    WrongType(&'static str),
    /// Text that is no amount.
    #[error("not an amount: allowed is a number with K, M, G, T (1000) or Ki, Mi, Gi, Ti (1024), as in {0}")]
    NotAnAmount(&'static str),
    /// 0 means unlimited elsewhere and nothing to a reader.
    #[error("0 is not allowed: \"none\" lifts a limit")]
    Zero,
    /// `b` on a disk.
    #[error("lower-case b means bits: disk rates are in bytes, B")]
    BitsOnDisk,
    /// Neither `b` nor `B` on a network.
    #[error("a network rate says b for bits or B for bytes, as in \"500Mb/s\"")]
    NoUnitOnNet,
    /// `%` where it has no meaning.
    #[error("% is only allowed for max_reserved and in sla")]
    Percent,
    /// A percentage outside its range.
    #[error("allowed are percentages above 0 and up to 100, as in \"99.9%\"")]
    PercentRange,
    /// Weight outside 1..=65535.
    #[error("allowed are 1 to 65535")]
    Weight,
    /// A time that is none.
    #[error("not a time: allowed is a number with us, ms, s, m or h")]
    NotATime,
    /// A burst's length.
    #[error("allowed are 1ms to 24h")]
    BurstLength,
    /// A cap so low that the guest's kernel would take its disk for dead.
    #[error("too low: at least {0} is allowed")]
    Floor(&'static str),
    /// A burst below its cap.
    #[error("a burst is at least its cap, {cap}")]
    BurstBelowCap {
        /// The cap.
        cap: u64,
    },
    /// A burst of what is not capped.
    #[error("a burst needs {0}")]
    BurstWithoutCap(&'static str),
    /// A burst without its length, or a length without a burst.
    #[error("a burst has a length and at least one rate")]
    BurstIncomplete,
    /// A reservation above a cap.
    #[error("a reservation is at most every cap; {name} is {cap}")]
    ReserveAboveCap {
        /// The cap's name.
        name: &'static str,
        /// Its value.
        cap: u64,
    },
    /// The same domain named twice.
    #[error("the same match stands in line {0}")]
    DuplicateMatch(u32),
    /// Two globs, neither of which is the more exact one.
    #[error("as exact as the glob in line {0} and both match some names: order decides nothing here")]
    AmbiguousGlob(u32),
    /// Not exactly one of uuid, name, glob.
    #[error("exactly one of uuid, name, glob is wanted")]
    Match,
    /// Not a UUID.
    #[error("a UUID is 32 hexadecimal digits in groups of 8-4-4-4-12")]
    Uuid,
    /// No such class.
    #[error("no class of that name; there are {0}")]
    UnknownClass(String),
    /// A domain in two customers.
    #[error("{0} names the same domains")]
    TwoCustomers(String),
    /// A name that cannot be kept apart from others.
    #[error("a name is 1 to 64 letters, digits, -, _ or .")]
    Name,
    /// `disk.X` where X is no disk.
    #[error(
        "neither a limit nor a disk: disks are xvda, sda, hda, numbers, or globs of those; limits are {0}"
    )]
    Disk(String),
    /// `net.X` where X is no number.
    #[error("neither a limit nor the number of an interface, as in net.0; limits are {0}")]
    Vif(String),
    /// Known, and not kept by this version.
    #[error("this version does not enforce it, and what is not enforced is not accepted")]
    NotEnforced,
    /// The ledger's window.
    #[error("allowed are whole seconds, 1s to 1h")]
    Window,
    /// A contract that promises nothing in numbers.
    #[error("an sla has a target, as in target = \"99.9%\"")]
    SlaWithoutTarget,
    /// Nothing is promised that could be kept.
    #[error("an sla is about a reservation: disk.reserve of the same class is missing")]
    SlaWithoutReserve,
    /// Money back although the target was met.
    #[error("credit is given below the target at most")]
    CreditAboveTarget,
    /// Steps that do not decide, or go the wrong way.
    #[error("allowed are up to 16 steps, each with its own below, and a lower one gives more")]
    CreditSteps,
    /// A step's part.
    #[error("allowed are 1 to 100")]
    CreditPercent,
    /// Half a step.
    #[error("a step of credit has below and pct")]
    CreditIncomplete,
    /// Not one of a few words.
    #[error("allowed are {0}")]
    Choice(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {}", self.rule)
    }
}

/// Line and column of a byte of `text`.
pub(super) fn place(text: &str, byte: usize) -> Place {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
    Place {
        line: count(before.matches('\n').count()),
        column: count(before.get(line_start..).map_or(0, |line| line.chars().count())),
    }
}
