//! What a vbd counts, by name. The numbers are places in the counters file. Knows nothing of who reads it.

use worker::counters::{Names, QueueCounters};

use crate::request::Direction;
use crate::slot::Work;

/// Everything counted, in the order of [`Counter`] and of the histograms.
pub const NAMES: Names = Names {
    counters: &[
        "read_requests",
        "read_bytes",
        "write_requests",
        "write_bytes",
        "flush_requests",
        "discard_requests",
        "discard_bytes",
        "rejected_requests",
        "io_errors",
        "grant_errors",
        "buffer_waits",
        "wakeups",
        "empty_wakeups",
        "notifies",
        "replayed_requests",
        "in_flight_now",
        "mapped_pages_now",
        "map_shortages",
        "read_time_ns",
        "write_time_ns",
        "flush_time_ns",
        "discard_time_ns",
        "given_up_requests",
    ],
    histograms: &["read_ns", "write_ns", "flush_ns", "discard_ns"],
};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    ReadRequests,
    ReadBytes,
    WriteRequests,
    WriteBytes,
    FlushRequests,
    DiscardRequests,
    DiscardBytes,
    Rejected,
    IoErrors,
    GrantErrors,
    BufferWaits,
    Wakeups,
    EmptyWakeups,
    Notifies,
    Replayed,
    InFlight,
    MappedPages,
    MapShortages,
    ReadTime,
    WriteTime,
    FlushTime,
    DiscardTime,
    GivenUp,
}

/// A queue's figures.
#[derive(Debug)]
pub(crate) struct Figures(pub(crate) QueueCounters);

impl Figures {
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        self.0.add(counter as usize, n);
    }

    pub(crate) fn set(&self, counter: Counter, value: u64) {
        self.0.set(counter as usize, value);
    }

    /// Books an answered request.
    pub(crate) fn answered(&self, work: Work, len_bytes: u64, took_ns: u64) {
        use Counter as C;
        let (requests, bytes, time, histogram) = match work {
            Work::Nothing => return,
            Work::Data(Direction::Read) => (C::ReadRequests, Some(C::ReadBytes), C::ReadTime, 0),
            Work::Data(Direction::Write) => (C::WriteRequests, Some(C::WriteBytes), C::WriteTime, 1),
            Work::Flush => (C::FlushRequests, None, C::FlushTime, 2),
            Work::Discard { .. } => (C::DiscardRequests, Some(C::DiscardBytes), C::DiscardTime, 3),
        };
        self.add(requests, 1);
        self.add(time, took_ns);
        if let Some(bytes) = bytes {
            self.add(bytes, len_bytes);
        }
        self.0.record(histogram, took_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The enum and the names are one list.
    #[test]
    fn every_counter_has_its_name() {
        assert_eq!(NAMES.counters.len(), Counter::GivenUp as usize + 1);
        assert_eq!(NAMES.counters[Counter::InFlight as usize], "in_flight_now");
        assert_eq!(NAMES.counters[Counter::Rejected as usize], "rejected_requests");
    }
}
