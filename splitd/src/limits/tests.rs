//! A policy's life in splitd: files that are taken whole or not at all, values set for a while, what a start finds.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use xenbus::DomId;

use super::*;
use crate::id::Kind;

fn id() -> DeviceId {
    DeviceId { backend: DomId(0), frontend: DomId(5), devid: 51712, kind: Kind::Vbd }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir };
        place.write(policy);
        place
    }

    fn write(&self, policy: &str) {
        fs::write(self.dir.path().join("policy.toml.in"), policy).unwrap();
    }

    fn load(&self) -> anyhow::Result<Limits> {
        Limits::load(self.dir.path().join("policy.toml.in"), self.dir.path())
    }

    fn enter(&self, limits: &Limits) -> QosFiles {
        let dir = self.dir.path().join("vbd-5-51712");
        fs::create_dir_all(&dir).unwrap();
        let disk =
            Disk { name: Some("web-1".into()), uuid: "u-1".into(), vdev: "xvda".into(), dir, place: None };
        limits.enter(id(), disk).unwrap()
    }
}

const CAPPED: &str = "version = 1\n[[domain]]\nmatch.glob = \"web-*\"\ndisk.total_iops_max = 100\n";

fn limit(files: &QosFiles) -> u64 {
    let mut seen = worker::qos::Seen::default();
    let gate = worker::qos::Gate::open(files).unwrap();
    gate.look(&mut seen);
    gate.charge(&seen, qos::cost::Op::Read, 4096, 1_000_000_000);
    // Nobody waits who would have the next place.
    let domain = fs::OpenOptions::new().write(true).open(&files.domain).unwrap();
    domain.write_all_at(&[0; 8], (qos::account::LINE * 8) as u64).unwrap();
    let ask = qos::account::Ask { op: qos::cost::Op::Read, len_bytes: 4096, taken_ns: 0 };
    gate.cap(&seen, ask, &mut qos::account::Place::default(), 999_999_999).err().unwrap_or(0)
}

/// A reload is taken whole and told as a difference; a file with an error changes nothing, and what was in force survives the
/// start of the next splitd, too.
#[test]
fn all_or_nothing() {
    let place = Place::new(CAPPED);
    let limits = place.load().unwrap();
    let files = place.enter(&limits);
    assert_eq!(limit(&files), 1_000_000_000);

    place.write(&CAPPED.replace("100", "0"));
    let error = limits.reload().unwrap_err();
    assert!(
        error.contains("policy.toml.in:4:6: domain.disk.total_iops_max = 0: 0 is not allowed"),
        "{error}"
    );
    assert_eq!(limit(&files), 1_010_000_000);
    let limits = place.load().unwrap();
    let files = place.enter(&limits);
    place.write(&CAPPED.replace("100", "200"));
    let told = limits.reload().unwrap();
    assert_eq!(
        told.pointer("/changes/0"),
        Some(&json!("vbd/5/xvda: caps.domain.total_iops_max.rate 100 -> 200"))
    );
    assert_eq!(limit(&files), 1_015_000_000, "the debt of before, and half the time for a request");
}

/// No policy is no limit, a broken one at the very first start is no start.
#[test]
fn the_first_start() {
    let place = Place::new("version = 2\n");
    assert!(place.load().unwrap_err().to_string().contains("version = 1 is needed"));
    fs::remove_file(place.dir.path().join("policy.toml.in")).unwrap();
    let limits = place.load().unwrap();
    assert_eq!(limit(&place.enter(&limits)), 0);
}

/// A domain without a customer stands beside customers by its own weight; one with a customer shares that one's.
#[test]
fn who_stands_where() {
    let text = "version = 1\n[customer.c]\nweight = 9\ndomains = [\"c-*\"]\n[[domain]]\nmatch.glob = \"*\"\nweight = 512\n";
    let policy = policy::parse(text).unwrap();
    let standing_of = |name: &str| {
        let dir = PathBuf::new();
        let disk = Disk { name: Some(name.into()), uuid: name.into(), vdev: "xvda".into(), dir, place: None };
        standing(&disk, &policy.disk(disk.who(), "xvda", 51712, None))
    };
    let (alone, one, other) = (standing_of("web"), standing_of("c-1"), standing_of("c-2"));
    assert_eq!((alone.weights, one.weights), ([512, 512, 256], [9, 512, 256]));
    assert!(one.customer == other.customer && one.domain != other.domain && alone.customer == alone.domain);
}

/// Set for a while, above the file, and gone when the time is up.
#[test]
fn for_a_while() {
    let place = Place::new(CAPPED);
    let limits = place.load().unwrap();
    place.enter(&limits);
    let change = |ttl: &str, cap: &str| Change {
        weight: Some(7),
        caps: vec![cap.into()],
        ttl: Some(ttl.into()),
        reset: false,
    };
    for (ttl, cap, part) in [
        ("1y", "total_iops_max=50", "ttl is \"1y\": not a time"),
        ("1m", "total_iops_max=0", "0 is not allowed"),
        ("1m", "iops=5", "allowed is NAME=VALUE"),
        ("1m", "read_bytes_max=5", "at least 64KiB/s"),
    ] {
        let error = limits.set("web-1", &change(ttl, cap)).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    assert!(limits.set("nobody", &change("1m", "total_iops_max=50")).unwrap_err().contains("nobody"));
    limits.set("5", &change("1ms", "total_iops_max=50")).unwrap();
    let rate = || {
        limits
            .explain(Some("web-1"))
            .unwrap()
            .pointer("/disks/0/caps/domain/total_iops_max/value/rate")
            .cloned()
    };
    assert_eq!(rate(), Some(json!(50)));
    std::thread::sleep(Duration::from_millis(2));
    limits.expire();
    assert_eq!(rate(), Some(json!(100)));
}

/// What an operator set outlives splitd (an upgrade, a crash), for as long as it was set for; what cannot be read is left out, and nothing
/// else.
#[test]
fn for_a_while_and_over_a_restart() {
    let place = Place::new(CAPPED);
    let set = |limits: &Limits, ttl: Option<&str>, cap: &str| {
        let caps = vec![format!("total_iops_max={cap}")];
        limits.set("web-1", &Change { caps, ttl: ttl.map(str::to_owned), ..Change::default() }).unwrap();
    };
    let rate = |limits: &Limits| {
        place.enter(limits);
        let told = limits.explain(Some("web-1")).unwrap();
        told.pointer("/disks/0/caps/domain/total_iops_max/value/rate").and_then(Value::as_u64)
    };
    let limits = place.load().unwrap();
    place.enter(&limits);
    set(&limits, None, "60");
    set(&limits, Some("10m"), "50");
    drop(limits);
    let limits = place.load().unwrap();
    assert_eq!(rate(&limits), Some(50));
    set(&limits, Some("1ms"), "40");
    std::thread::sleep(Duration::from_millis(2));
    drop(limits);
    assert_eq!(rate(&place.load().unwrap()), Some(100));

    let limits = place.load().unwrap();
    place.enter(&limits);
    set(&limits, None, "70");
    assert_eq!(rate(&place.load().unwrap()), Some(70));
    let kept = place.dir.path().join(temporary::FILE);
    let broken = fs::read_to_string(&kept).unwrap().replace("\"70\"", "\"0\"");
    fs::write(&kept, broken).unwrap();
    assert_eq!(rate(&place.load().unwrap()), Some(100));
    limits.set("web-1", &Change { reset: true, ..Change::default() }).unwrap();
    assert_eq!(rate(&place.load().unwrap()), Some(100));
}
