//! Parsers of what stands in a device's two directories: pure and total, each failure names the node, its value and what is
//! allowed. The guest owns its whole directory, so every byte of it may be anything, at any time. Knows nothing of how the
//! nodes are read; callers hand over the values they took, once.

use std::collections::{BTreeMap, HashSet};
use std::num::{NonZeroU16, NonZeroU32};

use thiserror::Error;
use worker::message::{Abi, QueueRing};

/// Nodes of one directory by their name relative to it.
pub type Nodes = BTreeMap<String, Vec<u8>>;

pub mod vif;

/// The largest port there can be, plus one (2-level ABI has fewer, FIFO has 2^17).
const PORTS_END: u32 = 1 << 17;

/// How much of a hostile value an error quotes.
const QUOTED_LEN: usize = 40;

/// How much of a worker's reason is kept.
const REASON_LEN: usize = 200;

/// A node that does not say what it must.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{node} is {value}: {allowed}")]
pub struct BadNode {
    /// Relative to the directory.
    pub node: String,
    /// What stands there, cut and made printable.
    pub value: String,
    /// What may stand there.
    pub allowed: String,
}

impl BadNode {
    fn new(node: &str, value: Option<&[u8]>, allowed: impl Into<String>) -> Self {
        Self { node: node.to_owned(), value: quote(value), allowed: allowed.into() }
    }
}

/// A value as it may stand in a log line or an error node: printable ASCII, cut.
#[must_use]
pub fn quote(value: Option<&[u8]>) -> String {
    let Some(value) = value else { return "missing".to_owned() };
    let mut text = String::from("\"");
    for byte in value.iter().take(QUOTED_LEN) {
        match byte {
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    if value.len() > QUOTED_LEN {
        text.push('…');
    }
    text.push('"');
    text
}

/// What a worker says of its guest, as it may stand in a log line or an error node.
#[must_use]
pub fn printable(text: &str) -> String {
    let kept = text.chars().take(REASON_LEN).map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' });
    kept.collect()
}

/// A decimal number as `%u` prints it: digits alone, at most ten, no sign, no space.
#[must_use]
pub fn number(value: &[u8]) -> Option<u32> {
    if value.is_empty() || value.len() > 10 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A decimal number of up to 20 digits.
#[must_use]
pub fn big_number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A switch of the toolstack's: `1` is on, all else is off.
#[must_use]
pub fn flag(value: Option<&[u8]>) -> bool {
    value == Some(b"1")
}

/// What we offered, which bounds what a frontend may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `multi-queue-max-queues`
    pub max_queues: NonZeroU16,
    /// `max-ring-page-order`
    pub max_ring_order: u8,
}

/// The frontend's choices that decide which further nodes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Slot layout.
    pub abi: Abi,
    /// It keeps its grants.
    pub persistent: bool,
    /// `None`: a single page in `ring-ref`; else `2^order` pages in `ring-ref0` and on, even for order 0.
    pub ring_order: Option<u8>,
    /// More than one means directories `queue-N`.
    pub queues: NonZeroU16,
}

/// The nodes that [`choices`] looks at.
pub const CHOICE_NODES: [&str; 4] =
    ["protocol", "feature-persistent", "ring-page-order", "multi-queue-num-queues"];

/// Reads the frontend's choices.
pub fn choices(nodes: &Nodes, offer: Offer) -> Result<Choices, BadNode> {
    let get = |name: &str| nodes.get(name).map(Vec::as_slice);
    let abi = match get("protocol") {
        // A frontend of the time before the node speaks the layout of a 32-bit x86.
        None | Some(b"x86_32-abi") => Abi::X86_32,
        Some(b"x86_64-abi" | b"arm-abi") => Abi::Native64,
        other => return Err(BadNode::new("protocol", other, "allowed are x86_64-abi, x86_32-abi, arm-abi")),
    };
    let ring_order = match get("ring-page-order") {
        None => None,
        value => Some(ring_order(value, offer)?),
    };
    let queues = match get("multi-queue-num-queues") {
        None => NonZeroU16::MIN,
        value => queue_count(value, offer)?,
    };
    Ok(Choices { abi, persistent: flag(get("feature-persistent")), ring_order, queues })
}

fn ring_order(value: Option<&[u8]>, offer: Offer) -> Result<u8, BadNode> {
    value
        .and_then(number)
        .and_then(|n| u8::try_from(n).ok())
        .filter(|order| *order <= offer.max_ring_order)
        .ok_or_else(|| {
            BadNode::new("ring-page-order", value, format!("allowed are 0 to {}", offer.max_ring_order))
        })
}

fn queue_count(value: Option<&[u8]>, offer: Offer) -> Result<NonZeroU16, BadNode> {
    value
        .and_then(number)
        .and_then(|n| u16::try_from(n).ok())
        .and_then(NonZeroU16::new)
        .filter(|queues| *queues <= offer.max_queues)
        .ok_or_else(|| {
            BadNode::new("multi-queue-num-queues", value, format!("allowed are 1 to {}", offer.max_queues))
        })
}

/// Names of the nodes of one queue: its rings' references in order, then its port.
fn queue_nodes(choices: &Choices, queue: u16) -> (Vec<String>, String) {
    let base = if choices.queues.get() == 1 { String::new() } else { format!("queue-{queue}/") };
    let rings = match choices.ring_order {
        None => vec![format!("{base}ring-ref")],
        Some(order) => (0..1_u32 << order).map(|page| format!("{base}ring-ref{page}")).collect(),
    };
    (rings, format!("{base}event-channel"))
}

/// The nodes that [`queues`] looks at.
#[must_use]
pub fn queue_node_names(choices: &Choices) -> Vec<String> {
    (0..choices.queues.get())
        .flat_map(|queue| {
            let (mut rings, port) = queue_nodes(choices, queue);
            rings.push(port);
            rings
        })
        .collect()
}

/// Reads the frontend's queues. A grant or a port that is named twice is refused: two rings in one page, or two
/// consumers of one event, would have us answer requests twice.
pub fn queues(nodes: &Nodes, choices: &Choices) -> Result<Vec<QueueRing>, BadNode> {
    let (mut seen_refs, mut seen_ports) = (HashSet::new(), HashSet::new());
    let mut queues = Vec::new();
    for queue in 0..choices.queues.get() {
        let (ring_names, port_name) = queue_nodes(choices, queue);
        let mut ring_refs = Vec::new();
        for name in ring_names {
            let value = nodes.get(&name).map(Vec::as_slice);
            let gref = value.and_then(number).ok_or_else(|| {
                BadNode::new(&name, value, "a grant reference is a decimal number below 2^32")
            })?;
            if !seen_refs.insert(gref) {
                return Err(BadNode::new(&name, value, "another ring page has the same grant reference"));
            }
            ring_refs.push(gref);
        }
        let value = nodes.get(&port_name).map(Vec::as_slice);
        let port = value
            .and_then(number)
            .and_then(NonZeroU32::new)
            .filter(|port| port.get() < PORTS_END)
            .ok_or_else(|| BadNode::new(&port_name, value, format!("allowed are 1 to {}", PORTS_END - 1)))?;
        if !seen_ports.insert(port) {
            return Err(BadNode::new(&port_name, value, "another queue has the same event channel"));
        }
        queues.push(QueueRing { ring_refs, port: port.get() });
    }
    Ok(queues)
}

#[cfg(test)]
mod tests;
