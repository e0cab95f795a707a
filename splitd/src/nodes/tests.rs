//! What a hostile frontend may write (reliability catalogue X3 to X9), and what real ones do.

use super::*;
use proptest::prelude::*;

const OFFER: Offer = Offer { max_queues: NonZeroU16::new(4).unwrap(), max_ring_order: 4 };

fn nodes(pairs: &[(&str, &str)]) -> Nodes {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
}

fn parse(pairs: &[(&str, &str)]) -> Result<(Choices, Vec<QueueRing>), BadNode> {
    let nodes = nodes(pairs);
    let choices = choices(&nodes, OFFER)?;
    Ok((choices, queues(&nodes, &choices)?))
}

fn reason(pairs: &[(&str, &str)]) -> String {
    parse(pairs).unwrap_err().to_string()
}

/// Linux with one vCPU, and every older frontend.
#[test]
fn one_queue_of_one_page() {
    let (choices, queues) =
        parse(&[("protocol", "x86_64-abi"), ("ring-ref", "8"), ("event-channel", "15")]).unwrap();
    assert_eq!(
        choices,
        Choices { abi: Abi::Native64, persistent: false, ring_order: None, queues: NonZeroU16::MIN }
    );
    assert_eq!(queues, [QueueRing { ring_refs: vec![8], port: 15 }]);
}

/// U-Boot, MiniOS: no `protocol` means the layout of 32-bit x86.
#[test]
fn a_missing_protocol_is_x86_32() {
    assert_eq!(parse(&[("ring-ref", "8"), ("event-channel", "15")]).unwrap().0.abi, Abi::X86_32);
}

/// Linux with several vCPUs: keys of an earlier boot loader at the top level mean nothing.
#[test]
fn several_queues_are_read_from_their_directories() {
    let (_, queues) = parse(&[
        ("ring-ref", "99"),
        ("event-channel", "99"),
        ("multi-queue-num-queues", "2"),
        ("ring-page-order", "1"),
        ("queue-0/ring-ref0", "1"),
        ("queue-0/ring-ref1", "2"),
        ("queue-0/event-channel", "3"),
        ("queue-1/ring-ref0", "4"),
        ("queue-1/ring-ref1", "5"),
        ("queue-1/event-channel", "6"),
    ])
    .unwrap();
    assert_eq!(
        queues,
        [QueueRing { ring_refs: vec![1, 2], port: 3 }, QueueRing { ring_refs: vec![4, 5], port: 6 }]
    );
}

/// The presence of `ring-page-order` decides, even when it is 0: keys of a previous frontend may lie about (Linux
/// fixed itself so in 5.5).
#[test]
fn presence_of_ring_page_order_decides_which_keys_count() {
    let stale = [("ring-ref", "7"), ("ring-ref0", "8"), ("event-channel", "1")];
    assert_eq!(parse(&stale).unwrap().1[0].ring_refs, [7]);
    let mut order_0 = stale.to_vec();
    order_0.push(("ring-page-order", "0"));
    assert_eq!(parse(&order_0).unwrap().1[0].ring_refs, [8]);
}

/// X3, X4: numbers that are none.
#[test]
fn references_and_ports_are_plain_numbers() {
    let long = "9".repeat(4096);
    for bad in ["", "0x1", "1e3", "-1", "+1", " 1", "1 ", "4294967296", "1\0", long.as_str()] {
        let text = reason(&[("ring-ref", bad), ("event-channel", "1")]);
        assert!(text.starts_with("ring-ref is \""), "{text}");
        assert!(text.len() < 300, "{} bytes", text.len());
        assert!(reason(&[("ring-ref", "1"), ("event-channel", bad)]).starts_with("event-channel is \""));
    }
    assert_eq!(
        reason(&[("ring-ref", "1"), ("event-channel", "0")]),
        "event-channel is \"0\": allowed are 1 to 131071"
    );
    assert!(reason(&[("ring-ref", "1"), ("event-channel", "131072")]).contains("131072"));
}

/// X5 (CVE-2026-45890 in the kernel's network backend: 0 queues), X6.
#[test]
fn counts_are_bounded_by_the_offer() {
    for bad in ["0", "5", "65537", "4294967296", "two", ""] {
        let text = reason(&[("multi-queue-num-queues", bad)]);
        assert_eq!(text, format!("multi-queue-num-queues is \"{bad}\": allowed are 1 to 4"));
    }
    for bad in ["5", "31", "-1", "256", ""] {
        let text = reason(&[("ring-page-order", bad)]);
        assert_eq!(text, format!("ring-page-order is \"{bad}\": allowed are 0 to 4"));
    }
}

/// X6, X8: a page or a whole queue is missing.
#[test]
fn missing_nodes_are_named() {
    let two_pages = [("ring-page-order", "1"), ("ring-ref0", "1"), ("event-channel", "1")];
    assert!(reason(&two_pages).starts_with("ring-ref1 is missing"));
    assert!(reason(&[("multi-queue-num-queues", "2")]).starts_with("queue-0/ring-ref is missing"));
}

/// X7, and N29's disk counterpart: the same page or port twice.
#[test]
fn nothing_is_named_twice() {
    let same_ref = [("ring-page-order", "1"), ("ring-ref0", "1"), ("ring-ref1", "1"), ("event-channel", "1")];
    assert!(reason(&same_ref).contains("same grant reference"));
    let same_port = [
        ("multi-queue-num-queues", "2"),
        ("queue-0/ring-ref", "1"),
        ("queue-0/event-channel", "9"),
        ("queue-1/ring-ref", "2"),
        ("queue-1/event-channel", "9"),
    ];
    assert!(reason(&same_port).contains("same event channel"));
}

/// X9: 4 KiB of junk end up neither in the log nor in the error node.
#[test]
fn junk_is_cut_and_made_printable() {
    let junk = "\u{7}\n\u{1b}[2J".repeat(700);
    let text = reason(&[("protocol", &junk)]);
    assert!(text.len() < 300 && text.chars().all(|c| c == '…' || c == ' ' || c.is_ascii_graphic()), "{text}");
}

/// A worker that was taken over by its guest may give any reason.
#[test]
fn reasons_are_printable_and_short() {
    assert_eq!(printable("req_prod is 4096: at most 32\u{1b}[2J\n"), "req_prod is 4096: at most 32?[2J?");
    assert_eq!(printable(&"ä".repeat(5000)).len(), REASON_LEN);
}

proptest! {
    /// No bytes at all make a parser panic or accept more than was offered.
    #[test]
    fn parsers_are_total(
        nodes in proptest::collection::btree_map(
            proptest::sample::select(vec![
                "protocol", "feature-persistent", "ring-page-order", "multi-queue-num-queues", "ring-ref", "ring-ref0",
                "event-channel", "queue-0/ring-ref", "queue-0/event-channel", "queue-1/ring-ref", "queue-1/event-channel",
            ]).prop_map(str::to_owned),
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..30),
                (0_u32..6).prop_map(|n| n.to_string().into_bytes()),
                Just(b"x86_64-abi".to_vec()),
            ],
            0..11,
        )
    ) {
        if let Ok(choices) = choices(&nodes, OFFER) {
            prop_assert!(choices.queues <= OFFER.max_queues);
            if let Ok(queues) = queues(&nodes, &choices) {
                prop_assert_eq!(queues.len(), usize::from(choices.queues.get()));
                for queue in queues {
                    prop_assert!(queue.ring_refs.len().is_power_of_two() && queue.ring_refs.len() <= 16);
                }
            }
        }
    }

    /// A number is read as it is printed, or not at all.
    #[test]
    fn numbers_round_trip(n in any::<u32>(), junk in proptest::collection::vec(any::<u8>(), 0..12)) {
        prop_assert_eq!(number(n.to_string().as_bytes()), Some(n));
        if let Some(read) = number(&junk) {
            let text = String::from_utf8(junk).unwrap();
            let printed = read.to_string();
            prop_assert_eq!(text.trim_start_matches('0'), printed.trim_start_matches('0'));
        }
    }
}
