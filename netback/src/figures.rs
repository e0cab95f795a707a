//! What a vif counts, by name. The numbers are places in the counters file. Knows nothing of who reads it.

use worker::counters::{Names, QueueCounters};

/// Everything counted, in the order of [`Counter`]. `tx` is from the guest, `rx` to it.
pub const NAMES: Names = Names {
    counters: &[
        "tx_frames",
        "tx_bytes",
        "tx_slots",
        "rx_frames",
        "rx_bytes",
        "rx_slots",
        "tx_refused_frames",
        "tx_unfit_frames",
        "tx_guarded_frames",
        "tx_tap_refused_frames",
        "rx_unfit_frames",
        "rx_late_frames",
        "rx_backlog_frames",
        "rx_filtered_frames",
        "rx_finished_checksums",
        "rx_cut_frames",
        "grant_errors",
        "grant_copies",
        "grant_copy_calls",
        "mapped_copies",
        "wakeups",
        "empty_wakeups",
        "notifies",
        "credit_waits",
        "rx_cap_waits",
        "slot_waits",
        "replayed_slots",
        "held_frames_now",
    ],
    histograms: &[],
};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    TxFrames,
    TxBytes,
    TxSlots,
    RxFrames,
    RxBytes,
    RxSlots,
    TxRefused,
    TxUnfit,
    TxGuarded,
    TxTapRefused,
    RxUnfit,
    RxLate,
    RxBacklog,
    RxFiltered,
    RxFinished,
    RxCut,
    GrantErrors,
    GrantCopies,
    GrantCopyCalls,
    MappedCopies,
    Wakeups,
    EmptyWakeups,
    Notifies,
    CreditWaits,
    RxCapWaits,
    SlotWaits,
    Replayed,
    HeldFrames,
}

const _: () = assert!(Counter::HeldFrames as usize + 1 == NAMES.counters.len());

/// A queue's figures.
#[derive(Debug)]
pub(crate) struct Figures(pub(crate) QueueCounters);

impl Figures {
    pub(crate) fn add(&self, counter: Counter, n: usize) {
        self.0.add(counter as usize, n as u64);
    }

    pub(crate) fn set(&self, counter: Counter, value: usize) {
        self.0.set(counter as usize, value as u64);
    }
}
