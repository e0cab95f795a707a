//! The ledger of promises, from real workers' figures to what `splitctl sla report` says of the month.

use std::collections::BTreeSet;
use std::fs;

use qos::ledger::{Entry, Verdict};
use serde_json::Value;
use splitd_tests::blkfront::Load;
use splitd_tests::world::World;

use crate::Bed;

fn policy(limits: &str) -> String {
    format!(
        "version = 1\n[defaults]\nclass = \"gold\"\n[defaults.accounting]\nwindow = \"1s\"\n[class.gold.disk]\n{limits}\n\
         [class.gold.sla]\ntarget = \"99.9%\"\ncredit = [{{ below = \"99.9%\", pct = 10 }}]\n\
         [customer.acme]\ndomains = [\"*\"]\n"
    )
}

fn entries(world: &World) -> Vec<Entry> {
    let files = fs::read_dir(world.state_dir()).into_iter().flatten().flatten();
    let mut files: Vec<_> = files.map(|entry| entry.path()).collect();
    files.sort();
    let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn until(world: &mut World, verdict: Verdict, count: usize) {
    let found = world.until(&format!("{count} windows {verdict:?}"), |world| {
        entries(world).iter().filter(|entry| entry.verdict == verdict).count() >= count
    });
    found.unwrap_or_else(|e| panic!("{e}: {:?}\n{}", entries(world), world.log()));
}

/// Idle windows, windows in which a guest gets more than is reserved for it, and windows under a cap of its own are told apart; a splitd
/// that was killed goes on where its predecessor's window began, so that no request is missing from the ledger and none is in it twice.
#[test]
fn windows_become_a_month() {
    let mut bed = Bed::new("");
    bed.world.write_policy(&policy("reserve = { iops = 20 }")).unwrap();
    bed.world.splitctl(&["policy", "reload"]).unwrap();
    until(&mut bed.world, Verdict::NoDemand, 1);
    let running = bed.disk.start(&Load { operations: None, ..Load::default() }).unwrap();
    until(&mut bed.world, Verdict::Kept, 2);
    bed.world.kill_splitd().unwrap();
    bed.world.start_splitd().unwrap();
    let before = entries(&bed.world).len();
    until(&mut bed.world, Verdict::Kept, 4);
    let after = entries(&bed.world);
    let read_on =
        after.iter().skip(before).all(|entry| entry.delivered_iops > 20.0 && entry.p99_ns.is_some());
    assert!(
        read_on && after.iter().all(|entry| entry.promise.customer.as_deref() == Some("acme")),
        "{after:?}"
    );

    let capped = policy("reserve = { iops = 100000 }\ntotal_bytes_max = \"256KiB/s\"");
    bed.world.write_policy(&capped).unwrap();
    bed.world.splitctl(&["policy", "reload"]).unwrap();
    until(&mut bed.world, Verdict::Capped, 2);
    running.stop();
    let done = running.finish(&mut bed.disk).unwrap();
    assert!(done.is_clean(), "{done:?}");
    let idle = entries(&bed.world).iter().filter(|entry| entry.verdict == Verdict::NoDemand).count();
    until(&mut bed.world, Verdict::NoDemand, idle + 2);

    let all = entries(&bed.world);
    let booked: f64 = all.iter().map(|entry| entry.delivered_iops * entry.len_s).sum();
    // What was done before the contract began is in no window, and a load that runs on is.
    assert!(booked.round() >= done.done as f64 - 1.0, "{booked} of {} requests are in the ledger", done.done);
    assert!(
        booked.round() <= done.done as f64 + 64.0,
        "{booked} of {} requests are in the ledger",
        done.done
    );
    assert_eq!(all.iter().map(|entry| entry.promise.uuid.as_str()).collect::<BTreeSet<_>>().len(), 1);

    let state = bed.world.state_dir().display().to_string();
    let report = bed.world.splitctl(&["sla", "report", "--ledger", &state]).unwrap();
    for word in
        ["customer=acme", "class=gold", "domains=1", "compliance=100.0000%", "target=99.9000%", "credit=0%"]
    {
        assert!(report.split_whitespace().any(|found| found == word), "{word} is not in {report}");
    }
    let json = bed.world.splitctl(&["sla", "report", "--ledger", &state, "--json"]).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["version"], &json["unreadable_lines"]), (&1.into(), &0.into()));
    assert!(json["accounts"][0]["windows"]["capped"].as_u64() >= Some(2), "{json}");
}
