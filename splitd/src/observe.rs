//! Reading a device from xenstore: what `step` needs each time, and the rest when a worker is launched or connected. Every value
//! is read once and parsed from that copy. Knows nothing of what is done about it.

use std::path::PathBuf;

use xenbus::store::{Error, Nodes as View, Store};
use xenbus::{DomId, XenbusState as State};

use crate::id::{DeviceId, Kind};
use crate::nodes::{self, BadNode, Choices, Nodes, Offer};
use crate::sharing::Access;
use crate::step::{Backend, Frontend, Observed};

/// The longest `params` that is a path.
const PATH_LEN_MAX: usize = 4095;

/// What one look at a device found.
#[derive(Clone, Debug)]
pub struct Look {
    /// For `step`.
    pub observed: Observed,
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

/// Looks at a device.
pub async fn look(store: &Store, id: DeviceId) -> Result<Look, Blind> {
    let dir = id.backend_dir();
    let Some(state) = node(store, &format!("{dir}/state")).await? else {
        // A store that was started anew has nothing yet; only where it knows us is a missing device a removed one.
        if store.directory(&format!("/local/domain/{}", id.backend)).await.is_err() {
            return Err(Blind::StoreAway);
        }
        let observed = Observed { backend: None, frontend: Frontend::Gone };
        return Ok(Look { observed, frontend_path: None });
    };
    let online = node(store, &format!("{dir}/online")).await?;
    let script = node(store, &format!("{dir}/hotplug-status")).await?;
    let sectors = node(store, &format!("{dir}/sectors")).await?;
    let frontend_path = frontend_path(id, node(store, &format!("{dir}/frontend")).await?.as_deref());
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
        state: State::parse(&state),
        online: nodes::flag(online.as_deref()),
        script_done: script.as_deref() == Some(b"connected"),
        sectors: sectors.as_deref().and_then(nodes::big_number),
    };
    Ok(Look { observed: Observed { backend: Some(backend), frontend }, frontend_path })
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
}

/// Reads what the toolstack says.
pub async fn toolstack(store: &Store, id: DeviceId) -> Result<Toolstack, Error> {
    let dir = id.backend_dir();
    let text = async |name: &str| -> Result<Option<String>, Error> {
        let value = node(store, &format!("{dir}/{name}")).await?;
        Ok(value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let params = text("params").await?;
    let mode = text("mode").await?.unwrap_or_default();
    let discard = text("discard-enable").await?;
    let cdrom = text("device-type").await?.as_deref() == Some("cdrom");
    let removable = text("removable").await?.as_deref() == Some("1");
    let script = text("script").await?;
    let access = match mode.as_str() {
        "w" | "rw" => Access::Exclusive,
        "w!" | "!" => Access::Shared,
        _ => Access::ReadOnly,
    };
    let home = home(id);
    let vm = node(store, &format!("{home}vm")).await?;
    let name = node(store, &format!("{home}name")).await?;
    Ok(Toolstack {
        target: target(id.kind, params.as_deref()),
        access,
        discard: discard.as_deref() != Some("0") && access != Access::ReadOnly,
        cdrom,
        removable,
        script,
        vm_uuid: vm_uuid(id.frontend, vm.as_deref()),
        domain_name: name.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
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

/// Reads what a frontend that is ready has written.
pub async fn frontend(
    store: &Store,
    dir: &str,
    offer: Offer,
) -> Result<(Choices, Vec<worker::message::QueueRing>), Unusable> {
    let taken = take(store, dir, nodes::CHOICE_NODES.iter().map(|name| (*name).to_owned())).await?;
    let choices = nodes::choices(&taken, offer).map_err(Unusable::Bad)?;
    let taken = take(store, dir, nodes::queue_node_names(&choices).into_iter()).await?;
    let queues = nodes::queues(&taken, &choices).map_err(Unusable::Bad)?;
    Ok((choices, queues))
}

async fn take(store: &Store, dir: &str, names: impl Iterator<Item = String>) -> Result<Nodes, Unusable> {
    let mut nodes = Nodes::new();
    for name in names {
        match node(store, &format!("{dir}/{name}")).await {
            Ok(Some(value)) => {
                nodes.insert(name, value);
            }
            Ok(None) => {}
            Err(Error::Access { path }) => {
                let value = "not readable for the backend".to_owned();
                let allowed = "the frontend's nodes must be".to_owned();
                return Err(Unusable::Bad(BadNode { node: path, value, allowed }));
            }
            Err(other) => return Err(Unusable::Store(other)),
        }
    }
    Ok(nodes)
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
