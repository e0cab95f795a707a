//! The words in shared memory: a guest's grant entries and its event channels, and the rules for changing them. Xen's
//! meaning (grant_table.h, `GTF_*`; event_channel.h) in a layout of our own. Knows nothing of processes and sockets.

use std::sync::atomic::{AtomicU64, Ordering};

use super::memfd::Memfd;
use super::socket::EventFd;
use crate::hv::{Access, GrantStatus};
use crate::{DomId, GrantRef};

/// Entries in a grant table: as Xen's default of 64 frames doubled twice, enough for four queues of the largest rings.
pub(super) const GRANT_ENTRIES: u32 = 131_072;
/// Grant references that no guest uses (Linux, `GNTTAB_NR_RESERVED_ENTRIES`).
pub(super) const RESERVED_GRANTS: u32 = 8;
/// Event channels of one domain.
pub(super) const CHANNELS: usize = 4096;

const PERMIT_ACCESS: u64 = 1;
const READONLY: u64 = 1 << 2;
const READING: u64 = 1 << 3;
const WRITING: u64 = 1 << 4;

/// `GNTST_bad_gntref`: beyond the table.
pub const BAD_GRANT_REF: GrantStatus = GrantStatus(-3);
/// `GNTST_bad_page`: the entry names a frame that the domain does not have.
pub const BAD_PAGE: GrantStatus = GrantStatus(-9);

/// One entry: flags above, then the domain, then the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    pub(super) fn new(frame: u32, to: DomId, access: Access) -> Self {
        let flags = PERMIT_ACCESS | if access == Access::ReadOnly { READONLY } else { 0 };
        Self(u64::from(frame) | u64::from(to.0) << 32 | flags << 48)
    }

    fn flags(self) -> u64 {
        self.0 >> 48
    }

    #[allow(clippy::cast_possible_truncation)] // the low half is the frame
    pub(super) fn frame(self) -> u32 {
        self.0 as u32
    }

    fn permits(self, to: DomId, access: Access) -> bool {
        let granted_to = self.0 >> 32 & 0xffff;
        self.flags() & PERMIT_ACCESS != 0
            && granted_to == u64::from(to.0)
            && (access == Access::ReadOnly || self.flags() & READONLY == 0)
    }
}

/// A guest's grant table in memory that it shares with the host and with backends.
#[derive(Debug)]
pub(super) struct GrantEntries(pub(super) Memfd);

impl GrantEntries {
    fn entry(&self, gref: GrantRef) -> Option<&AtomicU64> {
        if gref.0 >= GRANT_ENTRIES { None } else { self.0.word64(gref.0 as usize) }
    }

    /// The frame that `gref` grants to `to`, without pinning it: a copy, which is over before anybody could tell.
    pub(super) fn frame(&self, gref: GrantRef, to: DomId, access: Access) -> Result<u32, GrantStatus> {
        let word = self.entry(gref).ok_or(BAD_GRANT_REF)?;
        let entry = Entry(word.load(Ordering::Acquire));
        if entry.permits(to, access) { Ok(entry.frame()) } else { Err(GrantStatus::GENERAL_ERROR) }
    }

    /// Marks `gref` as mapped. The guest cannot end access until [`unpin`](Self::unpin).
    pub(super) fn pin(&self, gref: GrantRef, to: DomId, access: Access) -> Result<u32, GrantStatus> {
        let word = self.entry(gref).ok_or(BAD_GRANT_REF)?;
        let in_use = (READING | if access == Access::ReadWrite { WRITING } else { 0 }) << 48;
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            Entry(old).permits(to, access).then_some(old | in_use)
        })
        .map(|old| Entry(old).frame())
        .map_err(|_| GrantStatus::GENERAL_ERROR)
    }

    /// Clears the marks that no remaining mapping needs.
    pub(super) fn unpin(&self, gref: GrantRef, still_read: bool, still_written: bool) {
        let mut clear = 0;
        if !still_written {
            clear |= WRITING << 48;
        }
        if !still_read && !still_written {
            clear |= READING << 48;
        }
        if let Some(word) = self.entry(gref) {
            word.fetch_and(!clear, Ordering::AcqRel);
        }
    }

    /// The guest grants; false if the entry does not exist.
    pub(super) fn grant(&self, gref: GrantRef, entry: Entry) -> bool {
        self.entry(gref).is_some_and(|word| {
            word.store(entry.0, Ordering::Release);
            true
        })
    }

    /// The guest ends access; false while the page is mapped ("g.e. still in use").
    pub(super) fn end_access(&self, gref: GrantRef) -> bool {
        let free = |old: u64| (Entry(old).flags() & (READING | WRITING) == 0).then_some(0);
        self.entry(gref)
            .is_some_and(|word| word.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_ok())
    }

    /// True while the page is mapped.
    pub(super) fn in_use(&self, gref: GrantRef) -> bool {
        self.entry(gref)
            .is_some_and(|word| Entry(word.load(Ordering::Acquire)).flags() & (READING | WRITING) != 0)
    }
}

const WORDS_PER_CHANNEL: usize = 16;
const PENDING: usize = 0;
const MASKED: usize = 1;

/// The pending and mask words of the backend's end of a domain's channels.
#[derive(Debug)]
pub(super) struct ChannelWords(pub(super) Memfd);

impl ChannelWords {
    /// A fresh binding: nothing masked, one event waiting.
    pub(super) fn reset(&self, slot: usize, backend: &EventFd) -> std::io::Result<()> {
        self.set(slot, MASKED, 0);
        self.send(slot, backend)
    }

    /// An event for the backend. Delivered now unless masked; then with the unmasking, and once however often sent.
    pub(super) fn send(&self, slot: usize, backend: &EventFd) -> std::io::Result<()> {
        self.set(slot, PENDING, 1);
        self.deliver(slot, backend)
    }

    /// Lets the next event through.
    pub(super) fn unmask(&self, slot: usize, backend: &EventFd) -> std::io::Result<()> {
        // SeqCst pairs with `send`: either the sender finds the mask gone, or we find its pending word.
        self.set(slot, MASKED, 0);
        let pending =
            self.0.word32(slot * WORDS_PER_CHANNEL + PENDING).is_some_and(|w| w.load(Ordering::SeqCst) != 0);
        if pending { self.deliver(slot, backend) } else { Ok(()) }
    }

    /// Masks and wakes the backend, unless it is masked. Whoever sets the mask does the waking; a second look at an event
    /// already taken is a spurious one, which is allowed.
    fn deliver(&self, slot: usize, backend: &EventFd) -> std::io::Result<()> {
        let Some(mask) = self.0.word32(slot * WORDS_PER_CHANNEL + MASKED) else { return Ok(()) };
        if mask.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Ok(());
        }
        self.set(slot, PENDING, 0);
        backend.signal()
    }

    fn set(&self, slot: usize, word: usize, value: u32) {
        if let Some(w) = self.0.word32(slot * WORDS_PER_CHANNEL + word) {
            w.store(value, Ordering::SeqCst);
        }
    }

    /// Bytes of the page.
    pub(super) const LEN: usize = CHANNELS * WORDS_PER_CHANNEL * 4;
}
