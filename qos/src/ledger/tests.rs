//! Verdicts by their definitions, and sums as an invoice needs them.

use proptest::prelude::*;

use super::*;

fn promise() -> Promise {
    let credits = [(999_000, 10), (990_000, 30), (950_000, 100)];
    Promise {
        domain: "db".to_owned(),
        uuid: "u".to_owned(),
        customer: Some("acme".to_owned()),
        class: Some("gold".to_owned()),
        reserve_iops: 1000,
        sla: Sla {
            target_ppm: 999_000,
            tolerance_ppm: 900_000,
            credits: credits.map(|(below_ppm, percent)| Credit { below_ppm, percent }).to_vec(),
        },
    }
}

/// `ops` requests of a millisecond each, and as much waiting.
fn figures(ops: u64, waited_ms: u64) -> Figures {
    let mut figures = Figures {
        ops,
        bytes: ops * 4096,
        latency_ns: ops * (1 + waited_ms) * 1_000_000,
        queued_ns: ops * waited_ms * 1_000_000,
        ..Figures::default()
    };
    figures.latencies[20] = ops;
    figures
}

fn verdict(grown: &Figures, around: Circumstances) -> Verdict {
    judge(&promise(), "2026-11-01T00:00:00Z", 10.0, grown, around).verdict
}

/// A promise is broken only where something was asked for, no cap of its own held the domain back, and it got less than what is
/// tolerated of the smaller of its demand and its reservation.
#[test]
fn verdicts() {
    let (calm, under_way) =
        (Circumstances::default(), Circumstances { in_flight: true, ..Default::default() });
    let short = Circumstances { short_of_reserves: true, ..Default::default() };
    let shared = |ops, waited_ms| Figures { share_waits: 1, ..figures(ops, waited_ms) };
    let capped = |ops, waited_ms| Figures { cap_waits: 1, ..figures(ops, waited_ms) };
    assert_eq!(verdict(&figures(0, 0), calm), Verdict::NoDemand);
    assert_eq!(verdict(&figures(0, 0), under_way), Verdict::DeviceFault, "the device answers nothing");
    assert_eq!(
        verdict(&figures(10, 0), calm),
        Verdict::Kept,
        "all that was asked for, far below what is reserved"
    );
    assert_eq!(verdict(&shared(9_000, 9), calm), Verdict::Kept, "90 % of the reservation is tolerated");
    assert_eq!(verdict(&shared(8_999, 9), calm), Verdict::Violated);
    assert_eq!(verdict(&shared(5_000, 0), calm), Verdict::Kept, "it waited for nothing that counts");
    assert_eq!(verdict(&shared(8_999, 9), short), Verdict::DeviceFault);
    assert_eq!(verdict(&capped(500, 99), calm), Verdict::Capped);
    assert_eq!(verdict(&capped(0, 0), under_way), Verdict::Capped);
}

/// Demand is the pace without the waiting: half of the latency was waiting, twice as much was asked for.
#[test]
fn demand() {
    let entry = judge(&promise(), "", 10.0, &figures(1_000, 1), Circumstances::default());
    assert_eq!((entry.delivered_iops, entry.demanded_iops), (100.0, 200.0));
    assert_eq!((entry.p50_ns, entry.p999_ns), (Some((1 << 21) - 1), Some((1 << 21) - 1)));
    let nothing = judge(&promise(), "", 10.0, &figures(0, 0), Circumstances::default());
    assert_eq!((nothing.demanded_iops, nothing.p99_ns), (0.0, None));
}

/// One window of a thousand broken is 99.9 %, which is not below 99.9 %; two are, and give the first step back. Windows without
/// demand or under a cap of its own count for neither side.
#[test]
fn a_month() {
    let month = |kept, violated, fault| {
        let mut sum = Sum::default();
        let verdicts = [
            (Verdict::Kept, kept),
            (Verdict::Violated, violated),
            (Verdict::DeviceFault, fault),
            (Verdict::NoDemand, 5000),
            (Verdict::Capped, 7),
        ];
        for (verdict, n) in verdicts {
            let mut entry = judge(&promise(), "", 60.0, &figures(0, 0), Circumstances::default());
            entry.verdict = verdict;
            (0..n).for_each(|_| sum.add(entry.clone()));
        }
        let mut accounts = sum.accounts();
        let account = accounts.pop().unwrap();
        assert!(accounts.is_empty() && account.customer == "acme" && account.domains == 1);
        (account.compliance_ppm, account.credit_percent)
    };
    assert_eq!(month(999, 1, 0), (Some(999_000), 0));
    assert_eq!(month(998, 1, 1), (Some(998_000), 10));
    assert_eq!(month(98, 2, 0), (Some(980_000), 30));
    assert_eq!(month(94, 0, 6), (Some(940_000), 100));
    assert_eq!(month(0, 0, 0), (None, 0), "nothing was asked for: nothing is owed");
}

/// A domain without a customer stands for itself.
#[test]
fn without_a_customer() {
    let mut sum = Sum::default();
    for domain in ["a", "b"] {
        let promise =
            Promise { customer: None, domain: domain.to_owned(), uuid: domain.to_owned(), ..promise() };
        sum.add(judge(&promise, "", 60.0, &figures(10, 0), Circumstances::default()));
    }
    assert_eq!(sum.accounts().iter().map(|a| a.customer.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

fn any_figures() -> impl Strategy<Value = Figures> {
    (prop::array::uniform7(any::<u64>()), prop::collection::vec(any::<u64>(), 0..80)).prop_map(
        |(n, latencies)| Figures {
            ops: n[0],
            bytes: n[1],
            latency_ns: n[2],
            queued_ns: n[3],
            cap_waits: n[4],
            share_waits: n[5],
            errors: n[6],
            latencies,
        },
    )
}

proptest! {
    /// Whatever a worker that was taken over writes is a line that can be read again, with finite numbers.
    #[test]
    fn any_figures_are_a_line(now in any_figures(), last in any_figures(), in_flight: bool, short_of_reserves: bool) {
        let mut grown = now.since(&last);
        grown.add(&last);
        let around = Circumstances { in_flight, short_of_reserves };
        let entry = judge(&promise(), "2026-11-01T00:00:00Z", 60.0, &grown, around);
        prop_assert!(entry.demanded_iops.is_finite() && entry.delivered_iops <= entry.demanded_iops);
        let line = serde_json::to_string(&entry).unwrap();
        let read: Entry = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(read.verdict, entry.verdict);
        prop_assert!(!line.contains('\n'));
    }
}
