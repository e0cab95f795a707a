//! What a policy and xenstore's `rate` come to for an interface, and what is told of it.

use qos::policy::NetCap;
use serde_json::json;
use worker::message::VifRate;
use xenbus::DomId;

use super::*;
use crate::id::Kind;
use crate::limits::Change;

const POLICY: &str = "version = 1\n[class.c]\nnet = { rx_max = \"8Mb/s\", rx_pps_max = \"1K\" }\n[[domain]]\n\
     match.name = \"web\"\nclass = \"c\"\nnet.rx_pps_max = 500\nnet.burst = \"20ms\"\nnet.0.tx_max = \"5Mb/s\"\n";

/// The interface whose rate counts both ways.
const BOTH_WAYS: u32 = 3;

fn id(devid: u32) -> DeviceId {
    DeviceId { backend: DomId(0), frontend: DomId(5), devid, kind: Kind::Vif }
}

struct Bed {
    dir: tempfile::TempDir,
    limits: Limits,
}

fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.toml.in"), POLICY).unwrap();
    let limits = Limits::load(dir.path().join("policy.toml.in"), dir.path()).unwrap();
    Bed { dir, limits }
}

impl Bed {
    fn enter(&self, devid: u32) -> VifAccounts {
        let dir = self.dir.path().join(format!("vif-5-{devid}"));
        let rate_both_ways = devid == BOTH_WAYS;
        let vif = Vif { name: Some("web".into()), uuid: "u-1".into(), dir, rate: None, rate_both_ways };
        self.limits.enter_vif(id(devid), vif)
    }

    fn tx(&self, rate: Option<VifRate>) -> Option<VifCap> {
        self.limits.vif_caps(id(0), rate).unwrap().own[NetCap::Tx as usize]
    }

    fn origin(&self) -> serde_json::Value {
        let told = self.limits.explain(Some("web")).unwrap();
        told.pointer("/interfaces/0/caps/vif/tx_max/origin").cloned().unwrap_or_default()
    }
}

/// Of the policy and of `rate` the lower one holds, and it is told which; where neither says a thing there is no limit. The window of
/// the domain's table is that of its class's caps, too.
#[test]
fn the_lower_one_holds() {
    let b = bed();
    let accounts = b.enter(0);
    assert_eq!(accounts.domain, b.dir.path().join("accounts/net-u-1"));
    let cap = |rate, window_ns| Some(VifCap { rate, window_ns });
    assert_eq!(b.tx(None), cap(5_000_000, 50_000_000));
    assert_eq!(b.origin(), "domain \"web\" net.0, line 9");
    let rate = |window_len_bytes| Some(VifRate { window_len_bytes, window_us: 50_000 });
    assert_eq!(b.tx(rate(62_500)), cap(5_000_000, 50_000_000));
    assert_eq!(b.tx(rate(25_000)).map(|cap| cap.rate), Some(4_000_000));
    assert_eq!(b.origin(), "rate in xenstore");
    let other = b.enter(1);
    assert!(other.domain == accounts.domain && other.own != accounts.own);
    let caps = b.limits.vif_caps(id(1), None).unwrap();
    assert_eq!(
        (caps.own, caps.domain),
        ([None; 4], [None, cap(8_000_000, 20_000_000), None, cap(500, 20_000_000)])
    );
    assert_eq!(b.limits.vif_caps(id(2), rate(1)), None, "whose it is is not known");
}

/// With `rate_both_ways` a rate holds for what the guest receives, too; a lower cap of the policy's is lower still.
#[test]
fn a_rate_may_hold_both_ways() {
    let b = bed();
    b.enter(BOTH_WAYS);
    let own = |window_len_bytes| {
        let rate = VifRate { window_len_bytes, window_us: 50_000 };
        b.limits.vif_caps(id(BOTH_WAYS), Some(rate)).unwrap().own.map(|cap| cap.map(|cap| cap.rate))
    };
    assert_eq!(own(25_000), [Some(4_000_000), Some(4_000_000), None, None]);
    std::fs::write(b.dir.path().join("policy.toml.in"), format!("{POLICY}net.3.rx_max = \"3Mb/s\"\n"))
        .unwrap();
    b.limits.reload().unwrap();
    assert_eq!(own(25_000), [Some(4_000_000), Some(3_000_000), None, None]);
}

/// A reload and what an operator sets for a while count for interfaces, and are told; "none" lifts.
#[test]
fn changes_are_told() {
    let b = bed();
    b.enter(0);
    std::fs::write(b.dir.path().join("policy.toml.in"), POLICY.replace("5Mb", "6Mb")).unwrap();
    let told = b.limits.reload().unwrap();
    assert_eq!(told.pointer("/changes"), Some(&json!(["vif/5/0: caps.vif.tx_max.rate 5000000 -> 6000000"])));
    assert_eq!(b.tx(None).map(|cap| cap.rate), Some(6_000_000));
    let change = |caps: &[&str]| Change {
        caps: caps.iter().map(|cap| (*cap).to_owned()).collect(),
        ttl: Some("1ms".into()),
        ..Change::default()
    };
    for (cap, part) in [
        ("tx_max=5", "says b for bits"),
        ("rx_pps_max=9", "at least 10"),
        ("pps_max=5", "total_bytes_max, tx_max, rx_max, tx_pps_max, rx_pps_max"),
    ] {
        let error = b.limits.set("5", &change(&[cap])).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    b.limits.set("web", &change(&["rx_max=none", "tx_pps_max=70"])).unwrap();
    let rates = |b: &Bed| b.limits.vif_caps(id(0), None).unwrap().domain.map(|cap| cap.map(|cap| cap.rate));
    assert_eq!(rates(&b), [None, None, Some(70), Some(500)]);
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert!(b.limits.expire() && !b.limits.expire());
    assert_eq!(rates(&b), [None, Some(8_000_000), None, Some(500)]);
}

/// A domain's account goes with its last interface, once it owes nothing.
#[test]
fn an_account_goes_with_the_last_interface() {
    let b = bed();
    let (first, _) = (b.enter(0), b.enter(1));
    let owes = worker::clock::monotonic_ns() * 16 + (1 << 50);
    for (clock, is_left) in [(owes, true), (1, false)] {
        std::fs::write(&first.domain, clock.to_le_bytes()).unwrap();
        b.limits.leave(id(0));
        assert!(first.domain.exists(), "another one is there");
        b.limits.leave(id(1));
        assert_eq!(first.domain.exists(), is_left);
        b.enter(0);
        b.enter(1);
    }
}
