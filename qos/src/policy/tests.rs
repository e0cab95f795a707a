//! Every rule of the policy file, each with a file that breaks it and nothing else.

use proptest::prelude::*;

use super::effective::{Override, Who};
use super::*;

const GOOD: &str = r#"version = 1
[defaults]
class = "bronze"
[defaults.accounting]
iops_size = "256KiB"
count_flush_as_op = false
window = "5m"
[device.auto]
model = "auto"
max_reserved = "80%"
[class.bronze]
weight = 64
[class.silver]
weight = 256
net = { rx_max = "500Mb/s" }
[class.gold]
weight = 1024
[class.gold.disk]
reserve = { iops = 5000 }
read_bytes_max = "400MB/s"
write_bytes_max = "200MB/s"
total_iops_max = 20000
burst = { total_iops = 40000, length = "60s" }
[class.gold.sla]
target = "99.9%"
tolerance = "95%"
credit = [{ below = "99%", pct = 30 }, { below = "99.9%", pct = 10 }]
[customer.acme]
weight = 512
disk = { total_bytes_max = "1GB/s" }
domains = ["acme-*"]
[[domain]]
match = { uuid = "6F9C0000-1111-2222-3333-444455556666" }
class = "gold"
[[domain]]
match = { glob = "web-??" }
class = "silver"
disk.xvdb = { weight = 64, total_bytes_max = "50MB/s" }
net.0 = { tx_max = "1Gb/s", burst = "20ms" }
net.rx_pps_max = "20K"
net.burst = "100ms"
[[domain]]
match = { name = "acme-db" }
class = "gold"
disk = { total_iops_max = 30000, "xvd[c]" = {} }
"#;

/// The last domain's odd table is taken out again: it stands there to be refused by another test.
fn good() -> String {
    GOOD.replace(", \"xvd[c]\" = {}", "")
}

fn who(name: &str) -> Who<'_> {
    Who { uuid: None, name: Some(name) }
}

/// The manual's example is a policy, and says what it says.
#[test]
fn a_whole_policy() {
    let policy = parse(&good()).unwrap();
    let db = policy.disk(who("acme-db"), "xvda", 51712, None);
    assert_eq!(db.customer.as_deref(), Some("acme"));
    assert_eq!(db.weights.clone().map(|w| w.value), [512, 1024, 256]);
    let cap = db.domain_caps[Cap::TotalIops as usize].clone().unwrap();
    // Its own cap leaves the class's burst behind: 40000 was a burst of 20000.
    assert_eq!((cap.value.rate, cap.value.burst_rate), (30_000, None));
    assert_eq!(cap.origin, "domain \"acme-db\", line 45");
    assert_eq!(db.customer_caps[Cap::TotalBytes as usize].clone().unwrap().value.rate, 1_000_000_000);

    let sla = db.sla.unwrap();
    assert_eq!((sla.target_ppm, sla.tolerance_ppm, db.accounting.window_s), (999_000, 950_000, 300));
    assert_eq!(
        sla.credits.iter().map(|c| (c.below_ppm, c.percent)).collect::<Vec<_>>(),
        [(999_000, 10), (990_000, 30)]
    );

    let web = policy.disk(who("web-01"), "xvdb", 51728, None);
    assert_eq!(web.weights.map(|w| w.value), [256, 256, 64]);
    assert_eq!(web.disk_caps[Cap::TotalBytes as usize].clone().unwrap().value.rate, 50_000_000);
    assert!(policy.disk(who("web-01"), "xvda", 51712, None).disk_caps.iter().all(Option::is_none));

    let by_uuid = Who { uuid: Some("6f9c0000-1111-2222-3333-444455556666"), name: Some("web-01") };
    let gold = policy.disk(by_uuid, "xvda", 51712, None);
    let cap = gold.domain_caps[Cap::TotalIops as usize].clone().unwrap().value;
    assert_eq!((cap.rate, cap.burst_rate, cap.burst_len_ns), (20_000, Some(40_000), 60_000_000_000));
    assert_eq!(gold.reserve_iops.unwrap().value, 5000);
    assert_eq!(policy.disk(who("other"), "xvda", 51712, None).class.as_deref(), Some("bronze"));
    let net = policy.net(who("web-01"), 0, None);
    let told = |rate, window_ns, origin: &str| {
        let value = effective::NetCapRule { rate, window_ns };
        Some(effective::Told { value, origin: origin.to_owned() })
    };
    assert_eq!(net.vif_caps[0], told(1_000_000_000, 20_000_000, "domain \"web-??\" net.0, line 39"));
    // The class's cap, and the domain's window for both.
    assert_eq!(net.domain_caps[1], told(500_000_000, 100_000_000, "class.silver, line 15"));
    assert_eq!(net.domain_caps[3], told(20_000, 100_000_000, "domain \"web-??\", line 40"));
    let other = policy.net(who("web-01"), 1, None);
    assert_eq!((other.vif_caps, other.domain_caps), (effective::NetCaps::default(), net.domain_caps));
    assert_eq!(policy.net(who("other"), 0, None).class.as_deref(), Some("bronze"));
}

/// What an operator sets for a while is above the file, and "none" in the file lifts what is below it.
#[test]
fn layers() {
    let mut over = Override { weight: Some(7), ..Override::default() };
    over.caps[Cap::TotalIops as usize] = Some(None);
    over.caps[Cap::ReadBytes as usize] = Some(Some(1 << 20));
    over.net_caps = [Some(Some(9_000)), Some(None), None, None];
    let text = good()
        + "[[domain]]\nmatch = { glob = \"lift-*\" }\nclass = \"gold\"\ndisk.write_bytes_max = \"none\"\n\
           net = { rx_max = \"1Gb/s\", tx_pps_max = 10 }\n";
    let policy = parse(&text).unwrap();
    let rules = policy.disk(who("lift-1"), "xvda", 51712, Some(&over));
    assert_eq!(rules.weights[1], effective::Told { value: 7, origin: "splitctl qos".to_owned() });
    assert_eq!(rules.domain_caps[Cap::TotalIops as usize], None);
    assert_eq!(rules.domain_caps[Cap::ReadBytes as usize].clone().unwrap().value.rate, 1 << 20);
    assert_eq!(rules.domain_caps[Cap::WriteBytes as usize], None);
    let net = policy.net(who("lift-1"), 0, Some(&over));
    let rates = net.domain_caps.map(|told| told.map(|told| told.value.rate));
    assert_eq!(rates, [Some(9_000), None, Some(10), None]);
}

/// Each rule, with place, key and value.
#[test]
#[allow(clippy::too_many_lines)] // a table
fn every_rule_is_an_error_of_its_own() {
    let head = "version = 1\n";
    let disk = "version = 1\n[class.a.disk]\n";
    let net = "version = 1\n[[domain]]\nmatch.name = \"a\"\nnet.0.";
    let sla = "version = 1\n[class.a.disk]\nreserve.iops = 50\n[class.a.sla]\n";
    let domain = "version = 1\n[[domain]]\n";
    let cases: Vec<(String, &str)> = vec![
        ("version = ".into(), "1:11: the file: not TOML: "),
        ("version = 1\nversion = 1\n".into(), "2:1: the file: not TOML: duplicate key"),
        (String::new(), "1:1: version: version = 1 is needed"),
        ("version = 2\n".into(), "1:1: version = 2: version = 1 is needed"),
        (format!("{head}wieght = 1\n"), "2:1: wieght = 1: unknown key; allowed are version, "),
        (format!("{head}class = 3\n"), "2:1: class = 3: a table is wanted"),
        (format!("{head}[class.a]\nweight = 0\n"), "3:1: class.a.weight = 0: allowed are 1 to 65535"),
        (format!("{head}[class.a]\nweight = 65536\n"), "3:1: class.a.weight = 65536: allowed are 1 to 65535"),
        (format!("{head}[class.\"a b\"]\n"), "2:8: class.a b: a name is 1 to 64 letters"),
        (
            format!("{disk}total_iops_max = 0\n"),
            "3:1: class.a.disk.total_iops_max = 0: 0 is not allowed: \"none\" lifts",
        ),
        (format!("{disk}total_iops_max = -4\n"), "3:1: class.a.disk.total_iops_max = -4: not an amount"),
        (format!("{disk}total_iops_max = true\n"), "3:1: class.a.disk.total_iops_max = true: a whole number"),
        (
            format!("{disk}total_iops_max = \"9MB\"\n"),
            "3:1: class.a.disk.total_iops_max = \"9MB\": not an amount",
        ),
        (format!("{disk}total_iops_max = 9\n"), "3:1: class.a.disk.total_iops_max = 9: too low: at least 10"),
        (
            format!("{disk}read_bytes_max = 4096\n"),
            "3:1: class.a.disk.read_bytes_max = 4096: too low: at least 64KiB/s",
        ),
        (
            format!("{disk}read_bytes_max = \"9Mb/s\"\n"),
            "3:1: class.a.disk.read_bytes_max = \"9Mb/s\": lower-case b means bits",
        ),
        (
            format!("{disk}read_bytes_max = \"9%\"\n"),
            "3:1: class.a.disk.read_bytes_max = \"9%\": % is only allowed for",
        ),
        (
            format!("{disk}latency = {{ read_p99 = \"2ms\" }}\n"),
            "3:1: class.a.disk.latency = { read_p99 = \"2ms\" }: this version does not enforce",
        ),
        (
            format!("{disk}burst = {{ total_iops = 40, length = \"1s\" }}\n"),
            "3:11: class.a.disk.burst: a burst needs total_iops_max",
        ),
        (
            format!("{disk}total_iops_max = 50\nburst = {{ total_iops = 40, length = \"1s\" }}\n"),
            "4:11: class.a.disk.burst = 40: a burst is at least its cap, 50",
        ),
        (
            format!("{disk}total_iops_max = 50\nburst = {{ total_iops = 90 }}\n"),
            "4:1: class.a.disk.burst = { total_iops = 90 }: a burst has a length",
        ),
        (
            format!("{disk}total_iops_max = 50\nburst = {{ total_iops = 90, length = \"25h\" }}\n"),
            "4:28: class.a.disk.burst.length = \"25h\": allowed are 1ms to 24h",
        ),
        (
            format!("{disk}total_iops_max = 50\nburst = {{ total_iops = 90, length = \"25\" }}\n"),
            "4:28: class.a.disk.burst.length = \"25\": not a time",
        ),
        (
            format!("{disk}total_iops_max = 50\nreserve = {{ iops = 90 }}\n"),
            "4:13: class.a.disk.reserve = 90: a reservation is at most every cap; total_iops_max is 50",
        ),
        (
            format!("{net}tx_max = 1000000\n"),
            "4:7: domain.net.0.tx_max = 1000000: a network rate says b for bits or B",
        ),
        (
            format!("{net}tx_max = \"10M\"\n"),
            "4:7: domain.net.0.tx_max = \"10M\": a network rate says b for bits or B",
        ),
        (
            format!("{net}tx_max = \"7Kb/s\"\n"),
            "4:7: domain.net.0.tx_max = \"7Kb/s\": too low: at least 8Kb/s",
        ),
        (format!("{net}rx_pps_max = 9\n"), "4:7: domain.net.0.rx_pps_max = 9: too low: at least 10 is"),
        (format!("{net}tx_pps_max = \"9Mb/s\"\n"), "4:7: domain.net.0.tx_pps_max = \"9Mb/s\": not an amount"),
        (format!("{net}burst = \"1s\"\n"), "4:7: domain.net.0.burst: a burst needs tx_max, rx_max, "),
        (format!("{head}[class.a.net]\nburst = \"1s\"\n"), "3:1: class.a.net.burst: a burst needs tx_max"),
        (
            format!("{head}[customer.a.net]\ntx_max = \"1Mb/s\"\n"),
            "2:13: customer.a.net: this version does not",
        ),
        (
            format!("{head}[device.auto]\nmax_reserved = \"101%\"\n"),
            "3:1: device.auto.max_reserved = \"101%\": allowed are percentages",
        ),
        (
            format!("{head}[class.a.sla]\ntarget = \"99%\"\n"),
            "2:10: class.a.sla: an sla is about a reservation: disk.reserve",
        ),
        (format!("{sla}tolerance = \"90%\"\n"), "4:10: class.a.sla: an sla has a target"),
        (
            format!("{sla}target = \"0%\"\n"),
            "5:1: class.a.sla.target = \"0%\": allowed are percentages above 0",
        ),
        (
            format!("{sla}target = \"99%\"\ncredit = [{{ below = \"99.5%\", pct = 10 }}]\n"),
            "4:10: class.a.sla: credit is given below the target",
        ),
        (
            format!("{sla}target = \"99%\"\ncredit = [{{ below = \"99%\" }}]\n"),
            "6:11: class.a.sla.credit = { below = \"99%\" }: a step of credit has below and pct",
        ),
        (
            format!("{sla}target = \"99%\"\ncredit = [{{ below = \"99%\", pct = 101 }}]\n"),
            "6:28: class.a.sla.credit.pct = 101: allowed are 1 to 100",
        ),
        (
            format!(
                "{sla}target = \"99%\"\ncredit = [{{ below = \"9%\", pct = 5 }}, {{ below = \"99%\", pct = 5 }}]\n"
            ),
            "6:1: class.a.sla.credit = [{ below = \"9%\", pct = 5 }, { below = \"99%\", pct = 5 }]: allowed are up to 16 steps",
        ),
        (
            format!("{head}[defaults.accounting]\nwindow = \"1500ms\"\n"),
            "3:1: defaults.accounting.window = \"1500ms\": allowed are whole seconds, 1s to 1h",
        ),
        (
            format!("{head}[defaults]\nclass = \"gold\"\n[class.a]\n"),
            "3:1: defaults.class = gold: no class of that name; there are a",
        ),
        (format!("{head}[device.sda]\n"), "2:9: device.sda: allowed are \"auto\" and paths below /dev"),
        (
            format!("{disk}reserve = {{ bytes = \"80MB/s\" }}\n"),
            "3:13: class.a.disk.reserve.bytes = \"80MB/s\": this version does not enforce",
        ),
        (
            format!("{head}[device.auto]\ndepth = \"auto\"\n"),
            "3:1: device.auto.depth = \"auto\": this version does not enforce",
        ),
        (
            format!("{domain}class = \"x\"\nmatch = {{ name = \"n\" }}\n"),
            "4:1: domain.class = x: no class of that name",
        ),
        (format!("{domain}weight = 3\n"), "2:1: domain: exactly one of uuid, name, glob"),
        (
            format!("{domain}match = {{ name = \"a\", glob = \"a*\" }}\n"),
            "3:1: domain.match = { name = \"a\", glob = \"a*\" }: exactly one of",
        ),
        (format!("{domain}match = {{ uuid = \"6f9c\" }}\n"), "3:11: domain.match.uuid = \"6f9c\": a UUID is"),
        (
            format!("{domain}match.name = \"a\"\n[[domain]]\nmatch.name = \"a\"\n"),
            "5:1: domain.match = a: the same match stands in line 3",
        ),
        (
            format!("{domain}match.glob = \"a-*\"\n[[domain]]\nmatch.glob = \"*-b\"\n"),
            "5:1: domain.match = *-b: as exact as the glob in line 3",
        ),
        (
            format!("{domain}match.name = \"a\"\ndisk.cdrom = {{}}\n"),
            "4:6: domain.disk.cdrom = {}: neither a limit nor a disk",
        ),
        (
            format!("{domain}match.name = \"a\"\nnet.eth0 = {{}}\n"),
            "4:5: domain.net.eth0 = {}: neither a limit nor the number of an interface",
        ),
        (
            format!("{head}[customer.a]\ndomains = [\"x*\"]\n[customer.b]\ndomains = [\"*y\"]\n"),
            "5:12: customer.b.domains = *y: customer.a names the same domains",
        ),
    ];
    for (text, told) in cases {
        let faults = parse(&text).expect_err(&text);
        let first = faults.first().map(ToString::to_string).unwrap_or_default();
        assert!(first.starts_with(told), "{text}\n  told: {first}\n  want: {told}");
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
    }
}

/// What a domain sets has to go with the class that it has for want of another, too: a reservation above that one's cap could never be
/// kept, and a burst may belong to it.
#[test]
fn a_domain_without_a_class_is_checked_with_the_default_one() {
    let head = "version = 1\n[defaults]\nclass = \"a\"\n[class.a.disk]\ntotal_iops_max = 100\n[[domain]]\nmatch.name = \"d\"\n";
    let faults = parse(&format!("{head}disk.reserve = {{ iops = 5000 }}\n")).unwrap_err();
    let told = "8:18: domain.disk.reserve = 5000: a reservation is at most every cap; total_iops_max is 100";
    assert_eq!(faults.iter().map(ToString::to_string).collect::<Vec<_>>(), [told]);
    let policy = parse(&format!("{head}disk.burst = {{ total_iops = 400, length = \"1s\" }}\n")).unwrap();
    let rules = policy.disk(who("d"), "xvda", 51712, None);
    let cap = rules.domain_caps[Cap::TotalIops as usize].clone().unwrap().value;
    assert_eq!((cap.rate, cap.burst_rate), (100, Some(400)));
}

/// All faults are told at once, in the file's order.
#[test]
fn all_faults_at_once() {
    let faults =
        parse("version = 1\n[class.a]\nweight = 0\ncolour = 1\n[class.b]\nweight = -1\n").unwrap_err();
    assert_eq!(faults.iter().map(|fault| fault.at.line).collect::<Vec<_>>(), [3, 4, 6]);
}

proptest! {
    /// Whatever the operator writes is a policy or a list of faults, and what is accepted can be resolved.
    #[test]
    fn parsing_is_total(
        cut in 0usize..GOOD.len(),
        insert in "[\\[\\]{}=\".a-z0-9%\n -]{0,12}",
        name in "\\PC{0,12}",
    ) {
        let mut text = GOOD.to_owned();
        text.insert_str(cut, &insert);
        match parse(&text) {
            Ok(policy) => {
                let rules = policy.disk(who(&name), "xvda", 51712, None);
                prop_assert!(rules.weights.iter().all(|w| (1..=65_535).contains(&w.value)));
                let net = policy.net(who(&name), 0, None);
                let caps = net.domain_caps.iter().chain(&net.vif_caps).flatten();
                prop_assert!(caps.into_iter().all(|told| told.value.rate > 0 && told.value.window_ns > 0));
            }
            Err(faults) => prop_assert!(!faults.is_empty()),
        }
    }
}
