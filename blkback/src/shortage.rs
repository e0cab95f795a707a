//! A shortage that the kernel reports for I/O (out of memory): how long it has lasted, and when somebody has to be told. Knows
//! neither what is short nor what waits for it.

use std::time::Duration;

/// A shortage may pass unnoticed for so long; after that an operator has to know.
pub(crate) const UNTOLD: Duration = Duration::from_secs(10);

/// What to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Requests have waited for longer than [`UNTOLD`].
    Lasts,
    /// It was told, and is over.
    Over,
}

/// One queue's shortage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shortage {
    since_ns: Option<u64>,
    told: bool,
}

impl Shortage {
    /// The kernel refused an operation for want of something.
    pub(crate) fn refused(&mut self, now_ns: u64) {
        self.since_ns.get_or_insert(now_ns);
    }

    /// The kernel carried an operation out.
    pub(crate) fn carried_out(&mut self) {
        self.since_ns = None;
    }

    /// What has to be told now, once each.
    pub(crate) fn notice(&mut self, now_ns: u64) -> Option<Notice> {
        let lasted_ns = self.since_ns.map(|since_ns| u128::from(now_ns.saturating_sub(since_ns)));
        match (lasted_ns, self.told) {
            (Some(lasted_ns), false) if lasted_ns >= UNTOLD.as_nanos() => {
                self.told = true;
                Some(Notice::Lasts)
            }
            (None, true) => {
                self.told = false;
                Some(Notice::Over)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// A request that waits for ever without a word would be a hang: a lasting shortage is told once, and so is its end; one that
    /// passes in between is not.
    #[test]
    fn a_lasting_shortage_is_told_once_and_so_is_its_end() {
        let mut shortage = Shortage::default();
        shortage.refused(SECOND_NS);
        assert_eq!(shortage.notice(9 * SECOND_NS), None);
        shortage.carried_out();
        shortage.refused(10 * SECOND_NS);
        shortage.refused(15 * SECOND_NS);
        assert_eq!(shortage.notice(19 * SECOND_NS), None);

        assert_eq!(shortage.notice(20 * SECOND_NS), Some(Notice::Lasts));
        assert_eq!(shortage.notice(30 * SECOND_NS), None);
        shortage.carried_out();

        assert_eq!(shortage.notice(31 * SECOND_NS), Some(Notice::Over));
        assert_eq!(shortage.notice(32 * SECOND_NS), None);
    }
}
