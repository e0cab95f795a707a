//! What a network frontend may write, read once by strict total parsers. Pure. Knows nothing of the store.

use std::collections::HashSet;
use std::num::{NonZeroU16, NonZeroU32};

use worker::message::{IpRange, VifControlRing, VifFeatures, VifRate, VifRing};

use super::{BadNode, Nodes, PORTS_END, flag, number};

/// The nodes that [`choices`] looks at.
pub const CHOICE_NODES: [&str; 10] = [
    "multi-queue-num-queues",
    "request-rx-copy",
    "feature-rx-notify",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-no-csum-offload",
    "feature-ipv6-csum-offload",
    "request-multicast-control",
    "xdp-headroom",
];

/// Largest headroom that is taken; netfront asks for 256.
const HEADROOM_MAX: u32 = 0x7fff;

/// A frontend's choices, absent nodes as netif.h has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// More than one means directories `queue-N`.
    pub queues: NonZeroU16,
    /// What it can take.
    pub features: VifFeatures,
    /// `request-multicast-control`
    pub multicast_control: bool,
    /// `xdp-headroom`
    pub xdp_headroom: u16,
}

/// Reads the frontend's choices.
pub fn choices(nodes: &Nodes, max_queues: NonZeroU16) -> Result<Choices, BadNode> {
    let get = |name: &str| nodes.get(name).map(Vec::as_slice);
    let on = |name: &str| flag(get(name));
    if !on("request-rx-copy") {
        let text = "only frontends that take copies are served: allowed is 1";
        return Err(BadNode::new("request-rx-copy", get("request-rx-copy"), text));
    }
    let queues = match get("multi-queue-num-queues") {
        None => NonZeroU16::MIN,
        value => value
            .and_then(number)
            .and_then(|n| u16::try_from(n).ok())
            .and_then(NonZeroU16::new)
            .filter(|queues| *queues <= max_queues)
            .ok_or_else(|| {
                BadNode::new("multi-queue-num-queues", value, format!("allowed are 1 to {max_queues}"))
            })?,
    };
    let features = VifFeatures {
        sg: on("feature-sg"),
        gso_tcpv4: on("feature-gso-tcpv4"),
        gso_tcpv6: on("feature-gso-tcpv6"),
        csum_ipv4: !on("feature-no-csum-offload"),
        csum_ipv6: on("feature-ipv6-csum-offload"),
        rx_notify: on("feature-rx-notify"),
    };
    let xdp_headroom = headroom(get("xdp-headroom"))?;
    Ok(Choices { queues, features, multicast_control: on("request-multicast-control"), xdp_headroom })
}

/// `xdp-headroom`, which a frontend may change while it is connected.
pub fn headroom(value: Option<&[u8]>) -> Result<u16, BadNode> {
    let Some(text) = value else { return Ok(0) };
    number(text)
        .filter(|n| *n <= HEADROOM_MAX)
        .and_then(|n| u16::try_from(n).ok())
        .ok_or_else(|| BadNode::new("xdp-headroom", value, format!("allowed are 0 to {HEADROOM_MAX}")))
}

fn queue_dir(queues: NonZeroU16, queue: u16) -> String {
    if queues.get() == 1 { String::new() } else { format!("queue-{queue}/") }
}

const QUEUE_NODES: [&str; 5] =
    ["tx-ring-ref", "rx-ring-ref", "event-channel", "event-channel-tx", "event-channel-rx"];

const CONTROL_NODES: [&str; 2] = ["ctrl-ring-ref", "event-channel-ctrl"];

/// The nodes that [`rings`] looks at.
#[must_use]
pub fn ring_node_names(queues: NonZeroU16) -> Vec<String> {
    (0..queues.get())
        .flat_map(|queue| QUEUE_NODES.iter().map(move |name| format!("{}{name}", queue_dir(queues, queue))))
        .chain(CONTROL_NODES.map(str::to_owned))
        .collect()
}

/// A frontend's rings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rings {
    /// In order.
    pub queues: Vec<VifRing>,
    /// If it has one.
    pub control: Option<VifControlRing>,
}

/// Reads the frontend's rings. Two rings in one page, or two queues on one event channel, are refused.
pub fn rings(nodes: &Nodes, queues: NonZeroU16) -> Result<Rings, BadNode> {
    let (mut seen_refs, mut seen_ports) = (HashSet::new(), HashSet::new());
    let mut reference = |name: String| {
        let value = nodes.get(&name).map(Vec::as_slice);
        let gref = value
            .and_then(number)
            .ok_or_else(|| BadNode::new(&name, value, "a grant reference is a decimal number below 2^32"))?;
        if !seen_refs.insert(gref) {
            return Err(BadNode::new(&name, value, "another ring page has the same grant reference"));
        }
        Ok(gref)
    };
    let mut port = |name: String| {
        let value = nodes.get(&name).map(Vec::as_slice);
        let port = value.and_then(number).and_then(NonZeroU32::new).filter(|port| port.get() < PORTS_END);
        let port =
            port.ok_or_else(|| BadNode::new(&name, value, format!("allowed are 1 to {}", PORTS_END - 1)))?;
        if !seen_ports.insert(port) {
            return Err(BadNode::new(&name, value, "another ring has the same event channel"));
        }
        Ok(port.get())
    };
    let mut found = Vec::new();
    for queue in 0..queues.get() {
        let dir = queue_dir(queues, queue);
        let tx_ref = reference(format!("{dir}tx-ring-ref"))?;
        let rx_ref = reference(format!("{dir}rx-ring-ref"))?;
        // Two event channels, or one for both.
        let (tx_port, rx_port) = if nodes.contains_key(&format!("{dir}event-channel-tx")) {
            (port(format!("{dir}event-channel-tx"))?, port(format!("{dir}event-channel-rx"))?)
        } else {
            let both = port(format!("{dir}event-channel"))?;
            (both, both)
        };
        found.push(VifRing { tx_ref, rx_ref, tx_port, rx_port });
    }
    let [ring_ref, channel] = CONTROL_NODES;
    let control = if nodes.contains_key(ring_ref) {
        Some(VifControlRing { ring_ref: reference(ring_ref.to_owned())?, port: port(channel.to_owned())? })
    } else {
        None
    };
    Ok(Rings { queues: found, control })
}

/// `rate`, as `bytes,usec`. What cannot be read is no limit, as with the kernel's netback; the caller says so.
#[must_use]
pub fn rate(value: &str) -> Option<VifRate> {
    let (bytes, micros) = value.split_once(',')?;
    let rate =
        VifRate { window_len_bytes: bytes.trim().parse().ok()?, window_us: micros.trim().parse().ok()? };
    (rate.window_len_bytes > 0 && rate.window_us > 0).then_some(rate)
}

/// `mac`, six bytes in hexadecimal.
#[must_use]
pub fn mac(value: &str) -> Option<[u8; 6]> {
    let mut parts = value.split(':');
    let mut mac = [0; 6];
    for byte in &mut mac {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// `ip`: addresses and networks of IPv4 and IPv6 with spaces (or commas) between.
pub fn ips(value: &str) -> Result<Vec<IpRange>, String> {
    let parts = value.split([' ', '\t', ',']).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().map_err(|why| format!("{part}: {why}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(pairs: &[(&str, &str)]) -> Nodes {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    const FOUR: NonZeroU16 = NonZeroU16::MIN.saturating_add(3);

    /// As Linux' netfront writes them: two queues with an event channel for each ring.
    #[test]
    fn linux_with_two_queues() {
        let nodes = nodes(&[
            ("multi-queue-num-queues", "2"),
            ("request-rx-copy", "1"),
            ("feature-rx-notify", "1"),
            ("feature-sg", "1"),
            ("feature-gso-tcpv4", "1"),
            ("feature-gso-tcpv6", "1"),
            ("feature-ipv6-csum-offload", "1"),
            ("queue-0/tx-ring-ref", "768"),
            ("queue-0/rx-ring-ref", "769"),
            ("queue-0/event-channel-tx", "16"),
            ("queue-0/event-channel-rx", "17"),
            ("queue-1/tx-ring-ref", "1280"),
            ("queue-1/rx-ring-ref", "1281"),
            ("queue-1/event-channel-tx", "18"),
            ("queue-1/event-channel-rx", "19"),
        ]);
        let choices = choices(&nodes, FOUR).unwrap();
        let all = VifFeatures {
            sg: true,
            gso_tcpv4: true,
            gso_tcpv6: true,
            csum_ipv4: true,
            csum_ipv6: true,
            rx_notify: true,
        };
        assert_eq!((choices.queues.get(), choices.features, choices.xdp_headroom), (2, all, 0));
        let found = rings(&nodes, choices.queues).unwrap();
        assert_eq!(found.control, None);
        assert_eq!(found.queues[1], VifRing { tx_ref: 1280, rx_ref: 1281, tx_port: 18, rx_port: 19 });
    }

    /// The oldest frontends say almost nothing (net.md B11).
    #[test]
    fn an_old_frontend_with_one_channel() {
        let nodes = nodes(&[
            ("request-rx-copy", "1"),
            ("tx-ring-ref", "8"),
            ("rx-ring-ref", "9"),
            ("event-channel", "3"),
        ]);
        let choices = choices(&nodes, FOUR).unwrap();
        let features = VifFeatures { csum_ipv4: true, ..VifFeatures::default() };
        assert_eq!((choices.queues.get(), choices.features), (1, features));
        let ring = VifRing { tx_ref: 8, rx_ref: 9, tx_port: 3, rx_port: 3 };
        assert_eq!(rings(&nodes, choices.queues), Ok(Rings { queues: vec![ring], control: None }));
    }

    /// B7: a control ring comes with its own page and event channel, as Windows writes it.
    #[test]
    fn a_control_ring_has_a_page_and_a_channel() {
        let with = |more: &[(&str, &str)]| {
            let base = [("tx-ring-ref", "8"), ("rx-ring-ref", "9"), ("event-channel", "3")];
            rings(&nodes(&[&base, more].concat()), NonZeroU16::MIN)
        };
        let found = with(&[("ctrl-ring-ref", "10"), ("event-channel-ctrl", "4")]).unwrap();
        assert_eq!(found.control, Some(VifControlRing { ring_ref: 10, port: 4 }));
        for (gref, port) in [("9", "4"), ("10", "3"), ("x", "4"), ("10", "0")] {
            assert!(with(&[("ctrl-ring-ref", gref), ("event-channel-ctrl", port)]).is_err(), "{gref} {port}");
        }
        assert!(with(&[("ctrl-ring-ref", "10")]).is_err());
    }

    /// `ip=` as people write it.
    #[test]
    fn addresses_of_a_vif() {
        let found = ips("10.0.0.1 10.0.1.0/24,fd00::1").unwrap();
        assert_eq!(found.iter().map(|range| range.prefix_bits).collect::<Vec<_>>(), [32, 24, 128]);
        assert_eq!(ips(" "), Ok(vec![]));
        assert!(ips("10.0.0.1 web-1").unwrap_err().starts_with("web-1"));
    }

    /// Each value that is none is named with what is allowed.
    #[test]
    fn nonsense_is_refused_by_name() {
        let bad = |pairs: &[(&str, &str)]| {
            let nodes = nodes(pairs);
            choices(&nodes, FOUR).and_then(|c| rings(&nodes, c.queues)).unwrap_err().to_string()
        };
        let base =
            [("request-rx-copy", "1"), ("tx-ring-ref", "8"), ("rx-ring-ref", "9"), ("event-channel", "3")];
        for (name, value) in [
            ("request-rx-copy", "0"),
            ("multi-queue-num-queues", "0"),
            ("multi-queue-num-queues", "5"),
            ("multi-queue-num-queues", "x"),
            ("xdp-headroom", "32768"),
            ("xdp-headroom", "-1"),
            ("tx-ring-ref", ""),
            ("tx-ring-ref", "9"),
            ("event-channel", "0"),
            ("event-channel", "131072"),
            ("event-channel-tx", "4"),
        ] {
            let mut pairs = base.to_vec();
            pairs.retain(|(known, _)| *known != name);
            pairs.push((name, value));
            let text = bad(&pairs);
            assert!(
                text.contains("allowed") || text.contains("same") || text.contains("below"),
                "{name}={value}: {text}"
            );
        }
    }

    /// `rate=10Mb/s` and `rate=1MB/s@20ms` as libxl writes them.
    #[test]
    fn rates_and_addresses() {
        assert_eq!(rate("62500,50000"), Some(VifRate { window_len_bytes: 62_500, window_us: 50_000 }));
        for text in ["", "0,50000", "62500", "62500,0", "a,b", "1,2,3", "-1,2"] {
            assert_eq!(rate(text), None, "{text}");
        }
        assert_eq!(mac("00:16:3e:01:02:ff"), Some([0, 0x16, 0x3e, 1, 2, 0xff]));
        for text in ["", "00:16:3e:01:02", "00:16:3e:01:02:03:04", "00:16:3e:01:02:zz", "+0:16:3e:01:02:031"]
        {
            assert_eq!(mac(text), None, "{text}");
        }
    }

    proptest! {
        /// Whatever a guest writes is rings or an error, never a panic.
        #[test]
        fn any_nodes(values in prop::collection::btree_map(
            prop::sample::select(CHOICE_NODES.iter().chain(&QUEUE_NODES).chain(&CONTROL_NODES).map(|n| (*n).to_owned()).collect::<Vec<_>>()),
            prop::collection::vec(any::<u8>(), 0..12), 0..12,
        )) {
            let nodes: Nodes = values.into_iter().collect();
            if let Ok(choices) = choices(&nodes, FOUR) {
                let _ = rings(&nodes, choices.queues);
            }
        }
    }
}
