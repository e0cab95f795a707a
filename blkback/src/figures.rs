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
        "queued_time_ns",
        "copy_in_time_ns",
        "device_time_ns",
        "copy_out_time_ns",
    ],
    histograms: &[
        "read_ns",
        "write_ns",
        "flush_ns",
        "discard_ns",
        "queued_ns",
        "copy_in_ns",
        "device_ns",
        "copy_out_ns",
    ],
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
    QueuedTime,
    CopyInTime,
    DeviceTime,
    CopyOutTime,
}

/// When a request reached its stages; 0 where it did not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stages {
    /// Taken off the ring.
    pub(crate) taken_ns: u64,
    /// Its turn had come, with a buffer.
    pub(crate) begun_ns: u64,
    /// Given to the disk: all that there was to copy before was copied.
    pub(crate) sent_ns: u64,
    /// Its disk was done.
    pub(crate) ended_ns: u64,
}

impl Stages {
    pub(crate) const NONE: Self = Self { taken_ns: 0, begun_ns: 0, sent_ns: 0, ended_ns: 0 };
}

/// Where the stages' histograms begin.
const STAGES_AT: usize = 4;

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
    pub(crate) fn answered(&self, work: Work, len_bytes: u64, stages: Stages, now_ns: u64) {
        let took_ns = now_ns.saturating_sub(stages.taken_ns);
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
        self.staged(stages, now_ns);
    }

    /// Where a request's time went; one that the disk never saw is not booked.
    fn staged(&self, at: Stages, now_ns: u64) {
        if at.sent_ns == 0 || at.ended_ns == 0 {
            return;
        }
        use Counter as C;
        let stages = [
            (C::QueuedTime, at.taken_ns, at.begun_ns),
            (C::CopyInTime, at.begun_ns, at.sent_ns),
            (C::DeviceTime, at.sent_ns, at.ended_ns),
            (C::CopyOutTime, at.ended_ns, now_ns),
        ];
        for (histogram, (counter, from_ns, to_ns)) in (STAGES_AT..).zip(stages) {
            let took_ns = to_ns.saturating_sub(from_ns);
            self.add(counter, took_ns);
            self.0.record(histogram, took_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The enum and the names are one list.
    #[test]
    fn every_counter_has_its_name() {
        assert_eq!(NAMES.counters.len(), Counter::CopyOutTime as usize + 1);
        assert_eq!(NAMES.histograms[STAGES_AT], "queued_ns");
        assert_eq!(NAMES.counters[Counter::InFlight as usize], "in_flight_now");
        assert_eq!(NAMES.counters[Counter::Rejected as usize], "rejected_requests");
    }
}
