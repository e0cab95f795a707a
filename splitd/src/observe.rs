//! Reading a device from xenstore: what `step` needs each time, and the rest when a worker is launched or connected. Every value
//! is read once and parsed from that copy. Knows nothing of what is done about it.

use std::num::NonZeroU16;
use std::path::PathBuf;

use xenbus::store::{Error, Nodes as View, Store};
use xenbus::{DomId, XenbusState as State};

use crate::id::{DeviceId, Kind};
use crate::nodes::{self, BadNode, Choices, Nodes, Offer, vif};
use crate::sharing::Access;
use crate::step::{Backend, Frontend, Observed};
use crate::together;

/// The longest `params` that is a path.
const PATH_LEN_MAX: usize = 4095;

/// What one look at a device found.
#[derive(Clone, Debug)]
pub struct Look {
    /// For `step`.
    pub observed: Observed,
    /// `rate` of a vif.
    pub rate: Option<String>,
    /// The frontend's directory, once the backend's names it.
    pub frontend_path: Option<String>,
}

/// Why there is nothing to act on.
#[derive(Debug)]
pub enum Blind {
    /// The store is away, or freshly started and still empty: a missing node means nothing.
    StoreAway,
    /// A read failed.
    Store(Error),
}

impl From<Error> for Blind {
    fn from(error: Error) -> Self {
        match error {
            Error::Disconnected { .. } | Error::Connect { .. } => Self::StoreAway,
            other => Self::Store(other),
        }
    }
}

/// Reads a node; `None` if there is none.
pub async fn node(store: &View, path: &str) -> Result<Option<Vec<u8>>, Error> {
    match store.read(path).await {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_no_entry() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads nodes of one directory, all at once.
async fn nodes_of(
    store: &View,
    dir: &str,
    names: impl IntoIterator<Item = impl Into<String>>,
) -> Result<Nodes, Error> {
    let read = |name: String| async move {
        let value = node(store, &format!("{dir}/{name}")).await?;
        Ok(value.map(|value| (name, value)))
    };
    let found = together::all(names.into_iter().map(|name| read(name.into()))).await;
    found.into_iter().filter_map(Result::transpose).collect()
}

/// Looks at a device.
pub async fn look(store: &Store, id: DeviceId) -> Result<Look, Blind> {
    let ours = [
        "state",
        "online",
        "hotplug-status",
        if id.kind == Kind::Vif { "rate" } else { "sectors" },
        "frontend",
    ];
    let nodes = nodes_of(store, &id.backend_dir(), ours).await?;
    let get = |name: &str| nodes.get(name).map(Vec::as_slice);
    let Some(state) = get("state") else {
        // A store that was started anew has nothing yet; only where it knows us is a missing device a removed one.
        if store.directory(&format!("/local/domain/{}", id.backend)).await.is_err() {
            return Err(Blind::StoreAway);
        }
        let observed = Observed { backend: None, frontend: Frontend::Gone };
        return Ok(Look { observed, rate: None, frontend_path: None });
    };
    let frontend_path = frontend_path(id, get("frontend"));
    let frontend = match &frontend_path {
        None => Frontend::Gone,
        Some(path) => match node(store, &format!("{path}/state")).await {
            Ok(None) => Frontend::Gone,
            Ok(Some(value)) => Frontend::In(State::parse(&value)),
            // The guest owns its directory and may forbid us to read it, or write what cannot be read.
            Err(Error::Access { .. } | Error::Invalid { .. } | Error::Quota { .. }) => {
                Frontend::In(State::Unknown)
            }
            Err(other) => return Err(other.into()),
        },
    };
    let backend = Backend {
        state: State::parse(state),
        online: nodes::flag(get("online")),
        script_done: get("hotplug-status") == Some(b"connected"),
        sectors: get("sectors").and_then(nodes::big_number),
    };
    let rate = get("rate").map(|value| String::from_utf8_lossy(value).into_owned());
    Ok(Look { observed: Observed { backend: Some(backend), frontend }, rate, frontend_path })
}

/// The guest's home, outside of which nothing of a frontend is ever looked for.
fn home(id: DeviceId) -> String {
    format!("/local/domain/{}/", id.frontend)
}

/// The frontend's directory, as the toolstack wrote it; never one outside of the guest's home.
fn frontend_path(id: DeviceId, value: Option<&[u8]>) -> Option<String> {
    let path = std::str::from_utf8(value?).ok()?;
    let below = path.strip_prefix(&home(id))?;
    (!below.is_empty() && !below.split('/').any(|part| part.is_empty() || part == ".."))
        .then(|| path.to_owned())
}

/// What the toolstack says of a device; it does not change in a device's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolstack {
    /// The path to serve, or why there is none.
    pub target: Result<PathBuf, String>,
    /// `mode`
    pub access: Access,
    /// `discard-enable`
    pub discard: bool,
    /// `device-type` is `cdrom`
    pub cdrom: bool,
    /// `removable`
    pub removable: bool,
    /// `script`
    pub script: Option<String>,
    /// UUID of the guest's virtual machine, which a migration or a reboot keeps.
    pub vm_uuid: String,
    /// The guest's name.
    pub domain_name: Option<String>,
    /// `mac` of a vif.
    pub mac: Option<String>,
    /// `ip` of a vif.
    pub ip: Option<String>,
}

/// Reads what the toolstack says.
pub async fn toolstack(store: &Store, id: DeviceId) -> Result<Toolstack, Error> {
    let names = ["params", "mode", "discard-enable", "device-type", "removable", "script", "mac", "ip"];
    let ours = nodes_of(store, &id.backend_dir(), names).await?;
    // dom0's toolstack keeps these from a driver domain, whose guests then go by their numbers.
    let guest = match nodes_of(store, home(id).trim_end_matches('/'), ["vm", "name"]).await {
        Err(Error::Access { .. }) => Nodes::new(),
        known => known?,
    };
    let text = |nodes: &Nodes, name| {
        nodes.get(name).map(|value: &Vec<u8>| String::from_utf8_lossy(value).into_owned())
    };
    let access = match text(&ours, "mode").as_deref() {
        Some("w" | "rw") => Access::Exclusive,
        Some("w!" | "!") => Access::Shared,
        _ => Access::ReadOnly,
    };
    Ok(Toolstack {
        target: target(id.kind, text(&ours, "params").as_deref()),
        access,
        discard: text(&ours, "discard-enable").as_deref() != Some("0") && access != Access::ReadOnly,
        cdrom: text(&ours, "device-type").as_deref() == Some("cdrom"),
        removable: text(&ours, "removable").as_deref() == Some("1"),
        script: text(&ours, "script"),
        vm_uuid: vm_uuid(id.frontend, guest.get("vm").map(Vec::as_slice)),
        domain_name: text(&guest, "name"),
        mac: text(&ours, "mac"),
        ip: text(&ours, "ip"),
    })
}

/// `/vm/UUID`; a domain without one (dom0 itself) is named by its number.
fn vm_uuid(frontend: DomId, value: Option<&[u8]>) -> String {
    let uuid = value.and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.strip_prefix("/vm/"));
    match uuid {
        Some(uuid) if !uuid.is_empty() => uuid.to_owned(),
        _ => format!("domain-{frontend}"),
    }
}

/// The path in `params`. The format is the toolstack's word (`FORMAT:PATH` in vbd3, raw in vbd), never a guess.
fn target(kind: Kind, params: Option<&str>) -> Result<PathBuf, String> {
    let params = params.unwrap_or_default();
    let path = match (kind, params.split_once(':')) {
        (Kind::Vbd3, Some(("aio" | "raw", path))) => path,
        (Kind::Vbd3, Some((format, path))) if !format.contains('/') => {
            return Err(format!(
                "{path}: format {format} is not served, only raw; \
                 qemu-img convert -O raw {path} {path}.raw makes a raw image of it"
            ));
        }
        _ => params,
    };
    if path.is_empty() {
        return Err("params names no target: a disk needs target=PATH".to_owned());
    }
    if !path.starts_with('/') {
        return Err(format!("{path}: a target is an absolute path"));
    }
    if path.len() > PATH_LEN_MAX || path.contains('\0') {
        return Err(format!(
            "the target's path has {} bytes or a NUL; at most {PATH_LEN_MAX} are allowed",
            path.len()
        ));
    }
    Ok(PathBuf::from(path))
}

/// Why a frontend's nodes could not be taken.
#[derive(Debug)]
pub enum Unusable {
    /// What stands there breaks the protocol.
    Bad(BadNode),
    /// The store's trouble.
    Store(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        match error {
            Error::Access { path } => Self::Bad(BadNode {
                node: path,
                value: "not readable for the backend".to_owned(),
                allowed: "a frontend's nodes must be".to_owned(),
            }),
            other => Self::Store(other),
        }
    }
}

/// Reads what a frontend that is ready has written.
pub async fn frontend(
    store: &Store,
    dir: &str,
    offer: Offer,
) -> Result<(Choices, Vec<worker::message::QueueRing>), Unusable> {
    let taken = nodes_of(store, dir, nodes::CHOICE_NODES).await?;
    let choices = nodes::choices(&taken, offer).map_err(Unusable::Bad)?;
    let taken = nodes_of(store, dir, nodes::queue_node_names(&choices)).await?;
    let queues = nodes::queues(&taken, &choices).map_err(Unusable::Bad)?;
    Ok((choices, queues))
}

/// Reads what a network frontend that is ready has written.
pub async fn vif_frontend(
    store: &Store,
    dir: &str,
    max_queues: NonZeroU16,
) -> Result<(vif::Choices, vif::Rings), Unusable> {
    let taken = nodes_of(store, dir, vif::CHOICE_NODES).await?;
    let choices = vif::choices(&taken, max_queues).map_err(Unusable::Bad)?;
    let taken = nodes_of(store, dir, vif::ring_node_names(choices.queues)).await?;
    let rings = vif::rings(&taken, choices.queues).map_err(Unusable::Bad)?;
    Ok((choices, rings))
}

/// Reads what a network frontend may change while it is connected.
pub async fn vif_headroom(store: &Store, dir: &str) -> Result<u16, Unusable> {
    let value = node(store, &format!("{dir}/xdp-headroom")).await?;
    vif::headroom(value.as_deref()).map_err(Unusable::Bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X15: a frontend path that leads elsewhere (XSA-175's class) is no frontend.
    #[test]
    fn frontends_live_in_their_own_home() {
        let id = DeviceId { backend: DomId(0), frontend: DomId(5), devid: 51712, kind: Kind::Vbd };
        let good = b"/local/domain/5/device/vbd/51712".as_slice();
        assert_eq!(frontend_path(id, Some(good)).as_deref(), Some("/local/domain/5/device/vbd/51712"));
        for bad in [
            "/local/domain/6/device/vbd/51712",
            "/local/domain/55/device",
            "/local/domain/5/",
            "/local/domain/5/../6/device",
            "/local/domain/5//device",
            "",
        ] {
            assert_eq!(frontend_path(id, Some(bad.as_bytes())), None, "{bad}");
        }
        assert_eq!(frontend_path(id, Some(b"\xff\xfe")), None);
        assert_eq!(frontend_path(id, None), None);
    }

    /// Domain 5 beside a guest, 6.
    fn driver_domain() -> (tempfile::TempDir, xenbus::sim::SimHost, xenbus::sim::SimDomain) {
        let dir = tempfile::tempdir().unwrap();
        let host = xenbus::sim::SimHost::start(dir.path()).unwrap();
        let backend = host.domain(DomId(5), "driver domain", "5", 16).unwrap();
        host.domain(DomId(6), "guest", "6", 16).unwrap();
        (dir, host, backend)
    }

    /// Scenario 28: in a driver domain a guest's name and uuid are not readable. It is served all the same, under its number.
    #[test]
    fn a_driver_domain_knows_guests_by_number() {
        let (_dir, _host, backend) = driver_domain();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let address = xenbus::store::Address::Socket(backend.store_socket().to_owned());
            let store = Store::connect(&address).await.unwrap();
            let name = store.read_text("/local/domain/6/name").await;
            assert!(matches!(name, Err(Error::Access { .. })), "{name:?}");
            let id = DeviceId { backend: DomId(5), frontend: DomId(6), devid: 51712, kind: Kind::Vbd };
            let told = toolstack(&store, id).await.unwrap();
            assert_eq!((told.domain_name, told.vm_uuid.as_str()), (None, "domain-6"));
        });
    }

    /// X13: a frontend that keeps its nodes from the backend's domain breaks the protocol, with the node's name; it is no trouble of the
    /// store's, which would be waited out.
    #[test]
    fn nodes_that_are_not_readable_are_the_frontends_fault() {
        let (_dir, host, backend) = driver_domain();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let connect = |path: &std::path::Path| {
                let address = xenbus::store::Address::Socket(path.to_owned());
                async move { Store::connect(&address).await.unwrap() }
            };
            let dom0 = connect(&host.dir().join("xenstored.sock")).await;
            let dir = "/local/domain/6/device/vbd/51712";
            dom0.write(&format!("{dir}/ring-ref"), b"8").await.unwrap();
            let store = connect(backend.store_socket()).await;
            let offer = Offer { max_queues: NonZeroU16::MIN, max_ring_order: 0 };
            match frontend(&store, dir, offer).await {
                Err(Unusable::Bad(node)) => assert!(node.to_string().contains("not readable"), "{node}"),
                other => panic!("{other:?}"),
            }
        });
    }

    /// XSA-326 and its kin: what a store that is away cannot say is not that the disk is gone.
    #[test]
    fn a_store_that_is_away_says_nothing_of_a_disk() {
        let path = "/local/domain/0/backend/vbd/5/51712/state".to_owned();
        assert!(matches!(Blind::from(Error::Disconnected { path: path.clone() }), Blind::StoreAway));
        assert!(matches!(Blind::from(Error::Access { path }), Blind::Store(_)));
    }

    /// X18, and the formats that are refused by name with the way out.
    #[test]
    fn targets() {
        let ok = |kind, params: &str| target(kind, Some(params)).unwrap();
        assert_eq!(ok(Kind::Vbd, "/srv/a.img"), PathBuf::from("/srv/a.img"));
        assert_eq!(ok(Kind::Vbd, "/srv/a:b.img"), PathBuf::from("/srv/a:b.img"));
        assert_eq!(ok(Kind::Vbd3, "aio:/srv/a:b.img"), PathBuf::from("/srv/a:b.img"));
        assert_eq!(ok(Kind::Vbd3, "/srv/a:b.img"), PathBuf::from("/srv/a:b.img"));
        let error = |kind, params| target(kind, params).unwrap_err();
        assert!(
            error(Kind::Vbd3, Some("qcow2:/srv/a")).contains("qemu-img convert -O raw /srv/a /srv/a.raw")
        );
        assert!(error(Kind::Vbd, Some("a.img")).contains("absolute"));
        assert!(error(Kind::Vbd, Some("")).contains("target="));
        assert!(error(Kind::Vbd, None).contains("target="));
        assert!(error(Kind::Vbd, Some(&format!("/{}", "a".repeat(5000)))).contains("5001"));
    }

    /// Scenario 27: dom0 is attached to itself and has no `vm` node.
    #[test]
    fn machines_without_a_uuid_are_told_apart() {
        assert_eq!(vm_uuid(DomId(5), Some(b"/vm/0d1e")), "0d1e");
        assert_eq!(vm_uuid(DomId(0), None), "domain-0");
        assert_eq!(vm_uuid(DomId(5), Some(b"/vm/")), "domain-5");
    }
}
