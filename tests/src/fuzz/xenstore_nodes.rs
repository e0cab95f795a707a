//! A frontend's nodes, and both ends' states, in any order, with whatever a worker does meanwhile. Actions come to an end; nothing is
//! written to what is gone or not ours; a frontend that wants to be served is closed for nothing but its own fault; what is connected
//! has the shape that was offered, and every refusal can be read.

use std::num::NonZeroU16;

use splitd::nodes::{self, BadNode, Nodes, Offer, vif};
use splitd::step::{Action, Backend, Device, Frontend, Observed, Worker, step};
use xenbus::XenbusState as State;

use super::input::Input;

/// Events of one input.
const MOST: usize = 128;
/// More actions than that without an event are a loop.
const MOST_ACTIONS: usize = 12;
const OFFER: Offer = Offer { max_queues: NonZeroU16::MIN.saturating_add(3), max_ring_order: 4 };
/// What a refusal may come to in a log or an error node: a name, 40 bytes quoted, and what is allowed.
const TOLD_LEN: usize = 400;

struct Model {
    seen: Observed,
    device: Device,
    nodes: Nodes,
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let bits = input.byte();
    let backend = Backend { state: State::Initialising, online: true, script_done: false, sectors: None };
    let mut model = Model {
        seen: Observed { backend: Some(backend), frontend: Frontend::In(State::Initialising) },
        device: Device {
            ours: bits & 1 == 0,
            worker: Worker::Absent,
            connection: false,
            violation: false,
            backoff: false,
            is_vif: bits & 2 != 0,
            settings_stale: false,
            capacity_sectors: None,
        },
        nodes: Nodes::new(),
    };
    if bits & 4 == 0 {
        honest(&mut model);
    }
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        event(&mut input, &mut model);
        settle(&mut model);
    }
}

/// What a frontend of Linux' would have written.
fn honest(model: &mut Model) {
    let pairs: &[(&str, &str)] = if model.device.is_vif {
        &[("request-rx-copy", "1"), ("tx-ring-ref", "8"), ("rx-ring-ref", "9"), ("event-channel", "3")]
    } else {
        &[("protocol", "x86_64-abi"), ("ring-ref", "8"), ("event-channel", "3")]
    };
    model.nodes = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
}

fn event(input: &mut Input<'_>, model: &mut Model) {
    let Model { seen, device, .. } = model;
    match input.below(9) {
        0 => seen.frontend = Frontend::In(State::parse(&[b'0' + input.byte() % 10])),
        1 => seen.frontend = Frontend::In(State::parse(value(input).as_deref().unwrap_or_default())),
        2 => seen.frontend = Frontend::Gone,
        3 | 4 => write(input, model),
        5 => toolstack(input, seen),
        6 => device.backoff = input.flag(),
        7 => device.settings_stale = input.flag() && device.is_vif,
        _ => news(input, device),
    }
}

fn toolstack(input: &mut Input<'_>, seen: &mut Observed) {
    let bits = input.byte();
    if bits == 0xff {
        // xl destroy.
        (seen.backend, seen.frontend) = (None, Frontend::Gone);
    }
    if let Some(backend) = &mut seen.backend {
        (backend.online, backend.script_done) = (bits & 1 == 0, bits & 2 == 0);
    }
}

/// What a worker that was started may say, or its end.
fn news(input: &mut Input<'_>, device: &mut Device) {
    let choice = input.byte();
    device.worker = match (device.worker, choice % 4) {
        (Worker::Absent | Worker::GaveUp, _) => return,
        (Worker::Stopping, _) => {
            device.connection = false;
            Worker::Absent
        }
        (_, 0) => Worker::Absent,
        (Worker::Opening, _) => {
            device.capacity_sectors = Some((choice >> 2).into());
            Worker::Opened
        }
        (Worker::Connecting, 1) => {
            device.violation = true;
            Worker::Connecting
        }
        (Worker::Connecting, _) => Worker::Serving,
        (Worker::Serving, 1) => {
            device.violation = true;
            Worker::Serving
        }
        (Worker::Serving, _) => {
            device.capacity_sectors = Some((choice >> 2).into());
            Worker::Serving
        }
        (other, _) => other,
    };
}

/// Anything in a node: numbers that are, almost are, and are not.
fn value(input: &mut Input<'_>) -> Option<Vec<u8>> {
    let kind = input.byte();
    Some(match kind % 8 {
        0 => return None,
        1 => input.byte().to_string().into_bytes(),
        2 => (kind >> 3).to_string().into_bytes(),
        3 => input.u64().to_string().into_bytes(),
        4 => [b"x86_64-abi", &b"x86_32-abi"[..], b"arm-abi", b"1", b"0", b"4294967295", b"131071"]
            [input.below(7)]
        .to_vec(),
        5 => {
            let len = input.below(12);
            input.bytes(len).to_vec()
        }
        6 => vec![b'0' + (kind >> 3) % 10; usize::from(input.byte()) * 16],
        _ => format!("{:#x} ", input.byte()).into_bytes(),
    })
}

fn write(input: &mut Input<'_>, model: &mut Model) {
    let choice = usize::from(input.byte());
    let mut names: Vec<String> = if model.device.is_vif {
        vif::CHOICE_NODES.iter().map(|name| (*name).to_owned()).collect()
    } else {
        nodes::CHOICE_NODES.iter().map(|name| (*name).to_owned()).collect()
    };
    names.extend(ring_names(model).unwrap_or_default());
    let name = names.swap_remove(choice % names.len());
    match value(input) {
        Some(value) => _ = model.nodes.insert(name, value),
        None => _ = model.nodes.remove(&name),
    }
}

/// The nodes of the rings that a frontend's choices lead to.
fn ring_names(model: &Model) -> Result<Vec<String>, BadNode> {
    if model.device.is_vif {
        vif::choices(&model.nodes, OFFER.max_queues).map(|choices| vif::ring_node_names(choices.queues))
    } else {
        nodes::choices(&model.nodes, OFFER).map(|choices| nodes::queue_node_names(&choices))
    }
}

/// Acts until there is nothing to do, as splitd would.
fn settle(model: &mut Model) {
    for _ in 0..MOST_ACTIONS {
        let action = step(&model.seen, &model.device);
        allowed(model, action);
        if action == Action::Wait || action == Action::Forget {
            return;
        }
        act(model, action);
    }
    panic!("it never comes to rest: {:?} {:?}", model.seen, model.device);
}

fn allowed(model: &Model, action: Action) {
    let Model { seen, device, .. } = model;
    let at = || format!("{seen:?} {device:?}: {action:?}");
    let Some(backend) = seen.backend else {
        return assert!(matches!(action, Action::Stop | Action::Wait | Action::Forget), "{}", at());
    };
    assert!(device.ours || action == Action::Wait, "{}", at());
    let wants = matches!(seen.frontend, Frontend::In(State::Initialised | State::Connected));
    let ends = matches!(action, Action::FollowClosing | Action::Fail | Action::Close | Action::Introduce);
    if wants && !device.violation && matches!(backend.state, State::InitWait | State::Connected) {
        assert!(!ends, "closed for no fault of its own: {}", at());
    }
    match action {
        Action::Launch => assert!(backend.script_done && !device.backoff, "{}", at()),
        Action::Recover => assert!(device.connection && !device.backoff, "{}", at()),
        Action::Fail => assert!(device.violation, "{}", at()),
        Action::Close | Action::Introduce => {
            assert!(matches!(device.worker, Worker::Absent | Worker::GaveUp), "{}", at());
        }
        _ => {}
    }
}

fn act(model: &mut Model, action: Action) {
    if action == Action::Connect && !model.device.connection {
        match connected(model) {
            Ok(()) => model.device.connection = true,
            Err(bad) => {
                told(&bad);
                model.device.violation = true;
                return;
            }
        }
    }
    let Model { seen, device, .. } = model;
    let mut set = |state| {
        if let Some(backend) = &mut seen.backend {
            backend.state = state;
        }
    };
    match action {
        Action::Introduce | Action::Close => {
            set(if action == Action::Close { State::Closed } else { State::InitWait });
            (device.violation, device.connection, device.worker) = (false, false, Worker::Absent);
        }
        Action::Launch | Action::Recover => device.worker = Worker::Opening,
        Action::Connect => device.worker = Worker::Connecting,
        Action::Publish | Action::Resize => {
            set(State::Connected);
            if let Some(backend) = &mut seen.backend {
                backend.sectors = device.capacity_sectors;
            }
        }
        Action::Adjust => device.settings_stale = false,
        Action::Reconfigure => set(State::Reconfigured),
        Action::FollowClosing | Action::Fail => set(State::Closing),
        Action::Stop => device.worker = Worker::Stopping,
        Action::Orphan => device.worker = Worker::GaveUp,
        Action::Wait | Action::Forget => {}
    }
}

/// What a worker would be told: as many rings as there may be, none of them twice.
fn connected(model: &Model) -> Result<(), BadNode> {
    let (mut refs, mut ports) = (Vec::new(), Vec::new());
    if model.device.is_vif {
        let choices = vif::choices(&model.nodes, OFFER.max_queues)?;
        let rings = vif::rings(&model.nodes, choices.queues)?;
        assert_eq!(rings.queues.len(), usize::from(choices.queues.get()));
        assert!(choices.queues <= OFFER.max_queues && choices.xdp_headroom <= 0x7fff);
        for ring in &rings.queues {
            refs.extend([ring.tx_ref, ring.rx_ref]);
            ports.push(ring.tx_port);
            ports.extend(Some(ring.rx_port).filter(|port| *port != ring.tx_port));
        }
        if let Some(control) = rings.control {
            refs.push(control.ring_ref);
            ports.push(control.port);
        }
    } else {
        let choices = nodes::choices(&model.nodes, OFFER)?;
        let queues = nodes::queues(&model.nodes, &choices)?;
        assert_eq!(queues.len(), usize::from(choices.queues.get()));
        assert!(choices.queues <= OFFER.max_queues);
        for queue in &queues {
            assert_eq!(queue.ring_refs.len(), 1 << choices.ring_order.unwrap_or(0));
            assert!(queue.ring_refs.len() <= 1 << OFFER.max_ring_order);
            refs.extend(&queue.ring_refs);
            ports.push(queue.port);
        }
    }
    let distinct = |numbers: &[u32]| numbers.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert!(distinct(&refs) == refs.len() && distinct(&ports) == ports.len(), "{refs:?} {ports:?}");
    assert!(ports.iter().all(|port| (1..1 << 17).contains(port)));
    Ok(())
}

fn told(bad: &BadNode) {
    let text = bad.to_string();
    assert!(text.len() <= TOLD_LEN, "{} bytes: {text}", text.len());
    assert!(text.chars().all(|c| c == '…' || (' '..='~').contains(&c)), "{text:?}");
}
