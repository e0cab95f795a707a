//! The operator's policy file: a policy that can be applied to anybody, or faults that are told with their places, all of them, the same
//! each time.

use qos::policy::effective::{Caps, Override, Who};
use qos::policy::{self, Cap, Fault, Policy};

/// What a mistake's line may come to on a terminal, beside the key.
const TOLD_LEN: usize = 1200;

pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let outcome = policy::parse(&text);
    assert_eq!(policy::parse(&text), outcome);
    match outcome {
        Ok(policy) => applied(&policy),
        Err(faults) => told(&text, &faults),
    }
}

fn applied(policy: &Policy) {
    let mut over = Override { weight: Some(9), ..Override::default() };
    over.caps[Cap::ReadBytes as usize] = Some(None);
    let named: Vec<&str> = policy.domains.iter().map(|domain| domain.who.text()).take(8).collect();
    for name in named.into_iter().chain(["web-01", ""]) {
        let who = Who { uuid: Some(name), name: Some(name) };
        for set in [None, Some(&over)] {
            let rules = policy.disk(who, "xvda", 51712, set);
            assert!(rules.weights.iter().all(|weight| (1..=65_535).contains(&weight.value)));
            assert!(set.is_none() || rules.weights[1].value == 9);
            assert!(set.is_none() || rules.domain_caps[Cap::ReadBytes as usize].is_none());
            for caps in [&rules.customer_caps, &rules.domain_caps, &rules.disk_caps] {
                can_be_kept(caps);
            }
            if let Some(reserved) = rules.reserve_iops {
                let iops = [Cap::ReadIops, Cap::WriteIops, Cap::TotalIops];
                let caps = iops.into_iter().filter_map(|cap| rules.domain_caps[cap as usize].as_ref());
                assert!(reserved.value > 0);
                // What an operator sets for a while may be below what is reserved; it is the file that adds up.
                assert!(set.is_some() || caps.into_iter().all(|cap| cap.value.rate >= reserved.value));
            }
            if let Some(class) = &rules.class {
                assert!(policy.classes.contains_key(class));
            }
        }
        let net = policy.net(who, 0, None);
        let caps = net.domain_caps.iter().chain(&net.vif_caps).flatten();
        assert!(caps.into_iter().all(|cap| cap.value.rate >= 10), "{net:?}");
    }
}

/// No cap is so low that the guest's kernel would take its disk for dead, and no burst is below its cap.
fn can_be_kept(caps: &Caps) {
    for (cap, rule) in Cap::ALL.iter().zip(caps) {
        let Some(rule) = rule.as_ref().map(|told| &told.value) else { continue };
        assert!(rule.rate >= if cap.is_iops() { 10 } else { 64 << 10 }, "{cap:?} {rule:?}");
        assert!(rule.burst_rate.is_none_or(|burst| burst >= rule.rate && rule.burst_len_ns > 0), "{rule:?}");
    }
}

fn told(text: &str, faults: &[Fault]) {
    assert!(!faults.is_empty());
    assert!(faults.is_sorted() && faults.windows(2).all(|pair| pair[0] != pair[1]));
    // An empty file's place is its first.
    let lines = text.split('\n').count();
    for fault in faults {
        let line = usize::try_from(fault.at.line).unwrap();
        assert!((1..=lines + 1).contains(&line) && fault.at.column >= 1, "{fault}");
        assert!(fault.value.len() <= 80.max(text.len()), "{fault}");
        let told = fault.to_string();
        assert!(told.starts_with(&fault.at.to_string()));
        let names = fault.key.len() + fault.value.len() + text.len();
        assert!(told.len() <= TOLD_LEN + names, "{} bytes: {fault}", told.len());
    }
}
