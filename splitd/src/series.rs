//! What a worker's counters are called in Prometheus: a table of names, so that whatever a counters file says, no other series can
//! come of it. Base units, from the guest's side: tx is from the guest. Knows nothing of sockets.

use std::path::Path;

use metrics::Label;

use crate::exposition::Page;
use crate::id::Kind;
use crate::report::Row;
use crate::stats::Totals;

/// Counters that are one metric, told apart by a label.
struct Family {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    /// (counter, value of the label)
    of: &'static [(&'static str, &'static str)],
}

const fn plain(
    name: &'static str,
    help: &'static str,
    of: &'static [(&'static str, &'static str)],
) -> Family {
    Family { name, help, label: "", of }
}

const fn by(
    label: &'static str,
    name: &'static str,
    help: &'static str,
    of: &'static [(&'static str, &'static str)],
) -> Family {
    Family { name, help, label, of }
}

const DISK: &[Family] = &[
    by(
        "op",
        "xen_blkback_requests_total",
        "Requests answered",
        &[
            ("read_requests", "read"),
            ("write_requests", "write"),
            ("flush_requests", "flush"),
            ("discard_requests", "discard"),
        ],
    ),
    by(
        "op",
        "xen_blkback_bytes_total",
        "Bytes of answered requests",
        &[("read_bytes", "read"), ("write_bytes", "write"), ("discard_bytes", "discard")],
    ),
    plain(
        "xen_blkback_rejected_requests_total",
        "Requests that were no valid requests",
        &[("rejected_requests", "")],
    ),
    plain("xen_blkback_io_errors_total", "Requests that the target failed", &[("io_errors", "")]),
    plain(
        "xen_blkback_grant_errors_total",
        "Grants that could not be used, the guest's fault",
        &[("grant_errors", "")],
    ),
    plain(
        "xen_blkback_buffer_waits_total",
        "Requests that waited for a transfer buffer",
        &[("buffer_waits", "")],
    ),
    plain("xen_blkback_wakeups_total", "Times that a queue woke up", &[("wakeups", "")]),
    plain("xen_blkback_empty_wakeups_total", "Times that it found nothing to do", &[("empty_wakeups", "")]),
    plain("xen_blkback_notifies_total", "Events sent to the guest", &[("notifies", "")]),
    plain(
        "xen_blkback_replayed_requests_total",
        "Requests taken over from a dead worker",
        &[("replayed_requests", "")],
    ),
    plain(
        "xen_blkback_given_up_requests_total",
        "Requests answered with an error because workers kept dying over them",
        &[("given_up_requests", "")],
    ),
    plain(
        "xen_blkback_map_shortages_total",
        "Times that a page could not be mapped and was copied",
        &[("map_shortages", "")],
    ),
    plain(
        "xen_blkback_in_flight_requests",
        "Requests taken and not answered yet: the queue's depth",
        &[("in_flight_now", "")],
    ),
    plain("xen_blkback_mapped_pages", "Pages of the guest that are mapped", &[("mapped_pages_now", "")]),
];

/// (histogram, counter of its sum, operation)
const DISK_TIMES: [(&str, &str, &str); 4] = [
    ("read_ns", "read_time_ns", "read"),
    ("write_ns", "write_time_ns", "write"),
    ("flush_ns", "flush_time_ns", "flush"),
    ("discard_ns", "discard_time_ns", "discard"),
];

/// (counter of nanoseconds, stage)
const STAGES: [(&str, &str); 4] = [
    ("queued_time_ns", "queued"),
    ("copy_in_time_ns", "copy_in"),
    ("device_time_ns", "device"),
    ("copy_out_time_ns", "copy_out"),
];

const STAGE_TIME: &str = "xen_blkback_stage_seconds_total";

const DISK_TIME: &str = "xen_blkback_request_duration_seconds";

const VIF: &[Family] = &[
    by(
        "direction",
        "xen_netback_frames_total",
        "Frames carried, tx from the guest and rx to it",
        &[("tx_frames", "tx"), ("rx_frames", "rx")],
    ),
    by(
        "direction",
        "xen_netback_bytes_total",
        "Bytes of frames carried, tx from the guest and rx to it",
        &[("tx_bytes", "tx"), ("rx_bytes", "rx")],
    ),
    by("direction", "xen_netback_slots_total", "Ring slots used", &[("tx_slots", "tx"), ("rx_slots", "rx")]),
    by(
        "reason",
        "xen_netback_dropped_tx_frames_total",
        "Frames from the guest that went nowhere",
        &[
            ("tx_refused_frames", "refused"),
            ("tx_unfit_frames", "unfit"),
            ("tx_guarded_frames", "guarded"),
            ("tx_tap_refused_frames", "tap_refused"),
        ],
    ),
    by(
        "reason",
        "xen_netback_dropped_rx_frames_total",
        "Frames for the guest that it did not get",
        &[
            ("rx_unfit_frames", "unfit"),
            ("rx_late_frames", "late"),
            ("rx_backlog_frames", "backlog"),
            ("rx_filtered_frames", "filtered"),
        ],
    ),
    plain(
        "xen_netback_finished_checksums_total",
        "Checksums filled in for the guest",
        &[("rx_finished_checksums", "")],
    ),
    plain(
        "xen_netback_cut_frames_total",
        "Frames cut because the guest does not take them whole",
        &[("rx_cut_frames", "")],
    ),
    plain(
        "xen_netback_grant_errors_total",
        "Grants that could not be used, the guest's fault",
        &[("grant_errors", "")],
    ),
    plain("xen_netback_grant_copies_total", "Pieces copied by grant", &[("grant_copies", "")]),
    plain(
        "xen_netback_mapped_copies_total",
        "Pieces copied through pages that the guest has mapped",
        &[("mapped_copies", "")],
    ),
    plain("xen_netback_grant_copy_calls_total", "Calls that copied them", &[("grant_copy_calls", "")]),
    plain("xen_netback_wakeups_total", "Times that a queue woke up", &[("wakeups", "")]),
    plain("xen_netback_empty_wakeups_total", "Times that it found nothing to do", &[("empty_wakeups", "")]),
    plain("xen_netback_notifies_total", "Events sent to the guest", &[("notifies", "")]),
    plain(
        "xen_netback_credit_waits_total",
        "Times that the guest's rate or another cap held it back",
        &[("credit_waits", "")],
    ),
    plain(
        "xen_netback_rx_cap_waits_total",
        "Times that a cap kept frames for the guest waiting",
        &[("rx_cap_waits", "")],
    ),
    plain(
        "xen_netback_slot_waits_total",
        "Times that the guest had no slots for a frame",
        &[("slot_waits", "")],
    ),
    plain(
        "xen_netback_replayed_slots_total",
        "Slots taken over from a dead worker",
        &[("replayed_slots", "")],
    ),
    plain("xen_netback_held_frames", "Frames that wait for slots", &[("held_frames_now", "")]),
];

/// Of every device.
const ABOUT: [(&str, &str); 5] = [
    ("xen_backend_info", "A device that splitd knows, and what it is; always 1"),
    ("xen_backend_state", "XenbusState of the backend; 4 is connected"),
    ("xen_backend_serving", "Whether a worker serves the device"),
    ("xen_backend_alarm", "Whether splitd needs somebody to look at the device; splitctl show says why"),
    ("xen_backend_worker_restarts_total", "Workers that took over from one that ended"),
];

/// All counters that become series, of one kind of device.
pub fn counters(kind: Kind) -> impl Iterator<Item = &'static str> {
    let times: &[_] = if kind == Kind::Vif { &[] } else { &DISK_TIMES };
    let plain = families(kind).iter().flat_map(|family| family.of).map(|(counter, _)| *counter);
    let stages: &[_] = if kind == Kind::Vif { &[] } else { &STAGES };
    plain.chain(times.iter().map(|(_, sum, _)| *sum)).chain(stages.iter().map(|(sum, _)| *sum))
}

fn families(kind: Kind) -> &'static [Family] {
    if kind == Kind::Vif { VIF } else { DISK }
}

/// The page for these devices.
#[must_use]
pub fn page(run_dir: &Path, rows: &[Row]) -> String {
    let page = Page::default();
    metrics::with_local_recorder(&page, || {
        describe();
        metrics::gauge!("splitd_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        for row in rows {
            about(row);
        }
        for row in rows.iter().filter(|row| row.not_served.is_none()) {
            let Some(id) = row.id() else { continue };
            // A file that cannot be read has no series; `splitctl stats` says why.
            if let Ok(Some(totals)) = Totals::read(run_dir, id) {
                figures(&page, id.kind, &device_labels(row), &totals);
            }
        }
    });
    page.text()
}

fn describe() {
    metrics::describe_gauge!("splitd_info", "The daemon; always 1");
    for (name, help) in ABOUT {
        describe_one(name, help);
    }
    for family in DISK.iter().chain(VIF) {
        describe_one(family.name, family.help);
    }
    describe_one(STAGE_TIME, "Time of requests that went to the disk, by what they waited for");
    metrics::describe_histogram!(DISK_TIME, "From the moment a request was taken to its answer");
}

fn describe_one(name: &'static str, help: &'static str) {
    if is_sum(name) {
        metrics::describe_counter!(name, help);
    } else {
        metrics::describe_gauge!(name, help);
    }
}

fn is_sum(name: &str) -> bool {
    name.ends_with("_total")
}

/// `device` is as the host's other exporters have it: `xvda`; `vif5.0`.
fn device_labels(row: &Row) -> Vec<Label> {
    let device = if row.kind == Kind::Vif.backend_name() {
        format!("vif{}.{}", row.domid, row.devid)
    } else {
        row.vdev.clone()
    };
    vec![Label::new("domid", row.domid.to_string()), Label::new("device", device)]
}

fn about(row: &Row) {
    let mut labels = device_labels(row);
    labels.push(Label::new("kind", row.kind.clone()));
    let [info, state, serving, alarm, restarts] = ABOUT.map(|(name, _)| name);
    let mut more = labels.clone();
    for (key, value) in [
        ("domain", &row.domain),
        ("target", &row.target),
        ("mode", &row.mode),
        ("transfer", &row.transfer),
        ("not_served", &row.not_served),
    ] {
        more.extend(value.as_ref().map(|value| Label::new(key, value.clone())));
    }
    metrics::gauge!(info, more).set(1.0);
    metrics::gauge!(state, labels.clone()).set(f64::from(row.state.unwrap_or(0)));
    if row.not_served.is_none() {
        metrics::gauge!(serving, labels.clone()).set(f64::from(u8::from(row.worker == "serving")));
        metrics::gauge!(alarm, labels.clone()).set(f64::from(u8::from(row.alarm.is_some())));
        metrics::counter!(restarts, labels).absolute(row.restarts);
    }
}

fn figures(page: &Page, kind: Kind, labels: &[Label], totals: &Totals) {
    for family in families(kind) {
        for (counter, value) in family.of {
            let Some(n) = totals.counters.get(*counter).copied() else { continue };
            let mut labels = labels.to_vec();
            if !family.label.is_empty() {
                labels.push(Label::from_static_parts(family.label, value));
            }
            if is_sum(family.name) {
                metrics::counter!(family.name, labels).absolute(n);
            } else {
                // Gauges are small; a worker that says otherwise is not believed to the last digit.
                #[allow(clippy::cast_precision_loss)]
                metrics::gauge!(family.name, labels).set(n as f64);
            }
        }
    }
    if kind == Kind::Vif {
        return;
    }
    for (counter, stage) in STAGES {
        if let Some(sum_ns) = totals.counters.get(counter) {
            let mut labels = labels.to_vec();
            labels.push(Label::from_static_parts("stage", stage));
            page.seconds(STAGE_TIME, &labels, *sum_ns);
        }
    }
    for (histogram, sum, op) in DISK_TIMES {
        if let Some(buckets) = totals.histograms.get(histogram) {
            let mut labels = labels.to_vec();
            labels.push(Label::from_static_parts("op", op));
            let sum_ns = totals.counters.get(sum).copied().unwrap_or_default();
            page.histogram(DISK_TIME, &labels, buckets, sum_ns);
        }
    }
}
