//! One page in Prometheus' text format: a recorder that keeps what is said of it for a single scrape, so that the series of a
//! device end with the device. Knows nothing of what is measured.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit};

/// What a browser or Prometheus is told that this is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bounds of a histogram of nanoseconds are those powers of two that lie between 4 µs and 17 s.
const BUCKETS: std::ops::Range<usize> = 11..34;

/// One scrape's page.
#[derive(Debug, Default)]
pub struct Page {
    families: RefCell<BTreeMap<String, Family>>,
}

#[derive(Debug, Default)]
struct Family {
    kind: &'static str,
    help: String,
    samples: Vec<(String, Value)>,
}

#[derive(Debug)]
enum Value {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    /// Lines as they are.
    Text(String),
}

impl Page {
    /// The page, families and their samples in order.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, family) in self.families.borrow().iter().filter(|(_, family)| !family.samples.is_empty()) {
            let _ = writeln!(out, "# HELP {name} {}", family.help.replace('\\', "\\\\").replace('\n', "\\n"));
            let _ = writeln!(out, "# TYPE {name} {}", family.kind);
            for (labels, value) in &family.samples {
                let _ = match value {
                    Value::Counter(n) => writeln!(out, "{name}{labels} {}", n.load(Relaxed)),
                    Value::Gauge(bits) => {
                        writeln!(out, "{name}{labels} {}", f64::from_bits(bits.load(Relaxed)))
                    }
                    Value::Text(text) => write!(out, "{text}"),
                };
            }
        }
        out
    }

    /// Adds a whole histogram of nanoseconds, by powers of two as the counters file has it, in seconds.
    pub fn histogram(&self, name: &str, labels: &[Label], buckets: &[u64], sum_ns: u64) {
        let total = buckets.iter().fold(0, |sum: u64, n| sum.wrapping_add(*n));
        let mut text = String::new();
        let mut upto: u64 = buckets.iter().take(BUCKETS.start).sum();
        for (at, counted) in buckets.iter().enumerate().skip(BUCKETS.start).take(BUCKETS.len()) {
            upto = upto.wrapping_add(*counted);
            let le = Label::new("le", seconds(1_u64 << (at + 1)));
            let _ = writeln!(text, "{name}_bucket{} {upto}", braces(labels.iter().chain([&le])));
        }
        let inf = Label::from_static_parts("le", "+Inf");
        let _ = writeln!(text, "{name}_bucket{} {total}", braces(labels.iter().chain([&inf])));
        let _ = writeln!(text, "{name}_sum{} {}", braces(labels), seconds(sum_ns));
        let _ = writeln!(text, "{name}_count{} {total}", braces(labels));
        self.add(name, String::new(), Value::Text(text));
    }

    /// Adds a sum of nanoseconds, in seconds.
    pub fn seconds(&self, name: &str, labels: &[Label], ns: u64) {
        let line = format!("{name}{} {}\n", braces(labels), seconds(ns));
        self.add(name, String::new(), Value::Text(line));
    }

    fn describe(&self, kind: &'static str, key: KeyName, help: SharedString) {
        let mut families = self.families.borrow_mut();
        let family = families.entry(key.as_str().to_owned()).or_default();
        (family.kind, family.help) = (kind, help.into_owned());
    }

    fn add(&self, name: &str, labels: String, value: Value) {
        let mut families = self.families.borrow_mut();
        families.entry(name.to_owned()).or_default().samples.push((labels, value));
    }
}

/// Nanoseconds in seconds, exact to the last digit.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn braces<'a>(labels: impl IntoIterator<Item = &'a Label>) -> String {
    let mut out = String::new();
    for label in labels {
        let value = label.value().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{}{}=\"{value}\"", if out.is_empty() { "" } else { "," }, label.key());
    }
    if out.is_empty() { out } else { format!("{{{out}}}") }
}

impl Recorder for Page {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe("counter", key, help);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe("gauge", key, help);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe("histogram", key, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let value = Arc::new(AtomicU64::new(0));
        self.add(key.name(), braces(key.labels()), Value::Counter(Arc::clone(&value)));
        Counter::from_arc(value)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let value = Arc::new(AtomicU64::new(0));
        self.add(key.name(), braces(key.labels()), Value::Gauge(Arc::clone(&value)));
        Gauge::from_arc(value)
    }

    /// Distributions are counted in the workers; see [`Page::histogram`].
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that Prometheus reads: names of guests are quoted, buckets add up, seconds are seconds.
    #[test]
    fn as_prometheus_reads_it() {
        let page = Page::default();
        metrics::with_local_recorder(&page, || {
            metrics::describe_counter!("a_total", "Of a");
            metrics::describe_gauge!("g", "Of g");
            metrics::describe_gauge!("unused", "Not there");
            metrics::describe_histogram!("h_seconds", "Of h");
            metrics::counter!("a_total", "name" => "x\"\\\n").absolute(7);
            metrics::gauge!("g").set(1.5);
        });
        let mut buckets = vec![0; 64];
        (buckets[3], buckets[11], buckets[63]) = (1, 2, 4);
        page.histogram("h_seconds", &[Label::new("op", "read")], &buckets, 2_500_000_000);
        let text = page.text();
        assert!(text.starts_with("# HELP a_total Of a\n# TYPE a_total counter\na_total{name=\"x\\\"\\\\\\n\"} 7\n# HELP g Of g\n# TYPE g gauge\ng 1.5\n"), "{text}");
        for line in [
            "h_seconds_bucket{op=\"read\",le=\"0.000004096\"} 3",
            "h_seconds_bucket{op=\"read\",le=\"17.179869184\"} 3",
            "h_seconds_bucket{op=\"read\",le=\"+Inf\"} 7",
            "h_seconds_sum{op=\"read\"} 2.5",
            "h_seconds_count{op=\"read\"} 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("unused"), "{text}");
    }
}
