//! `splitd.toml`: whose devices are served and within which limits. An unknown key is an error, a missing one has its
//! default. Knows nothing of devices.

use std::num::NonZeroU16;
use std::path::Path;

use anyhow::{Context, bail};
use qos::policy::glob;
use serde::Deserialize;
use worker::message::MAX_BUSY_POLL_US;

use crate::id::Kind;
use crate::web::Listen;

/// Everything that an operator sets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whose disks.
    pub serve: Serve,
    /// Whose network interfaces.
    pub serve_vifs: WhichVifs,
    /// Whose network interfaces may send only with the MAC and IP addresses of their configuration.
    pub guard_vifs: WhichVifs,
    /// Whose network interfaces get nothing offloaded: complete checksums and cut TCP, both ways.
    pub plain_vifs: WhichVifs,
    /// Whose network interfaces' `rate` holds for what they receive, too; else for what they send, as xl says.
    pub rate_both_ways: WhichVifs,
    /// Offer `feature-persistent`; else all data goes by grant copy.
    pub persistent: bool,
    /// `multi-queue-max-queues`
    pub max_queues: NonZeroU16,
    /// `max-ring-page-order`
    pub max_ring_page_order: u8,
    /// `feature-max-indirect-segments`, 0 for none.
    pub max_indirect_segments: u16,
    /// Transfer buffers of one device.
    pub buffer_bytes: u64,
    /// Longest a disk's worker looks for what comes next before it sleeps.
    pub busy_poll_us: u32,
    /// Longest wait for a dead worker's last I/O.
    pub fence_timeout_ms: u64,
    /// The worker of domain N runs as this user plus N; 0: as the user that splitd runs as.
    pub worker_uid_base: u32,
    /// When a worker that keeps dying is left dead.
    pub crash_loop: CrashLoop,
    /// Where metrics and the status page are served; "off" for nowhere.
    #[serde(deserialize_with = "listen")]
    pub metrics: Option<Listen>,
}

fn listen<'de, D: serde::Deserializer<'de>>(text: D) -> Result<Option<Listen>, D::Error> {
    let text = String::deserialize(text)?;
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Whose devices are served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serve {
    /// Those whose `script` is block-splitd, and all of `vbd3`.
    Script,
    /// All that no kernel driver is bound to.
    All,
    /// Those of domains whose name matches one of these (`*` and `?`).
    Domains(Vec<String>),
}

/// Whose network interfaces. Stock scripts carry no word of ours, so they are named by domain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhichVifs {
    /// Nobody's.
    None,
    /// All that no kernel driver is bound to.
    All,
    /// Those of domains whose name matches one of these (`*` and `?`).
    Domains(Vec<String>),
}

/// A worker that dies this often in that time is not started again until `splitctl restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrashLoop {
    /// Deaths.
    pub deaths: usize,
    /// In this many seconds.
    pub within_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            serve: Serve::Script,
            serve_vifs: WhichVifs::None,
            guard_vifs: WhichVifs::None,
            plain_vifs: WhichVifs::None,
            rate_both_ways: WhichVifs::None,
            persistent: false,
            max_queues: NonZeroU16::MIN.saturating_add(3),
            max_ring_page_order: 4,
            max_indirect_segments: 256,
            buffer_bytes: 4 << 20,
            busy_poll_us: 0,
            fence_timeout_ms: 30_000,
            worker_uid_base: 1_879_048_192,
            crash_loop: CrashLoop { deaths: 5, within_s: 60 },
            metrics: None,
        }
    }
}

impl Config {
    /// Reads the file; a missing one means the defaults.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| format!("{}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("{}", path.display())),
        }
    }

    /// Parses and checks the limits.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        if config.max_ring_page_order > 4 {
            bail!("max_ring_page_order is {}: allowed are 0 to 4", config.max_ring_page_order);
        }
        if config.max_queues.get() > 64 {
            bail!("max_queues is {}: allowed are 1 to 64", config.max_queues);
        }
        if config.max_indirect_segments > 256 {
            bail!("max_indirect_segments is {}: allowed are 0 to 256", config.max_indirect_segments);
        }
        if config.busy_poll_us > MAX_BUSY_POLL_US {
            bail!("busy_poll_us is {}: allowed are 0 to {MAX_BUSY_POLL_US}", config.busy_poll_us);
        }
        if !(1 << 20..=1 << 30).contains(&config.buffer_bytes) {
            bail!("buffer_bytes is {}: allowed are {} to {}", config.buffer_bytes, 1 << 20, 1 << 30);
        }
        if config.worker_uid_base > u32::MAX - 0x1_0000 {
            bail!("worker_uid_base is {}: allowed are 0 to {}", config.worker_uid_base, u32::MAX - 0x1_0000);
        }
        if config.crash_loop.deaths == 0 {
            bail!("crash_loop.deaths is 0: allowed are 1 and more");
        }
        Ok(config)
    }
}

impl Serve {
    /// Whether a device is ours to serve, kernel drivers apart. `script` is the node's value.
    #[must_use]
    pub fn includes(&self, kind: Kind, script: Option<&str>, domain_name: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Script => {
                // Also a wrapper: block-splitd-drbd, locked-block-splitd.
                let name = script.and_then(|script| script.rsplit('/').next()).unwrap_or_default();
                kind == Kind::Vbd3 || name.starts_with("block-splitd") || name.ends_with("block-splitd")
            }
            Self::Domains(globs) => any_glob(globs, domain_name),
        }
    }
}

impl WhichVifs {
    /// Whether a guest's interfaces are among them.
    #[must_use]
    pub fn includes(&self, domain_name: Option<&str>) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Domains(globs) => any_glob(globs, domain_name),
        }
    }
}

fn any_glob(globs: &[String], domain_name: Option<&str>) -> bool {
    domain_name.is_some_and(|name| globs.iter().any(|g| glob::matches(g, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped file says what is built in, so that reading it tells the truth.
    #[test]
    fn the_shipped_file_holds_the_defaults() {
        let shipped = include_str!("../../dist/splitd.toml");
        assert_eq!(Config::parse(shipped).unwrap(), Config::default());
        let uncommented: String = shipped
            .lines()
            .filter_map(|line| line.strip_prefix("#:").map(str::trim_start))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(Config::parse(&uncommented).unwrap(), Config::default());
    }

    /// Nothing is silently ignored.
    #[test]
    fn bad_files_are_refused_by_name() {
        for (text, part) in [
            ("severs = \"all\"", "severs"),
            ("serve = \"some\"", "some"),
            ("max_queues = 0", "max_queues"),
            ("max_ring_page_order = 5", "allowed are 0 to 4"),
            ("buffer_bytes = 17", "buffer_bytes is 17"),
            ("busy_poll_us = 51", "busy_poll_us is 51"),
            ("crash_loop = { deaths = 0, within_s = 1 }", "crash_loop.deaths"),
            ("metrics = \"9981\"", "allowed are \"off\", ADDRESS:PORT"),
        ] {
            let error = format!("{:#}", Config::parse(text).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    /// Hosts move guest by guest: by script, by name, or all.
    #[test]
    fn whose_device_it_is() {
        let script = Some("/etc/xen/scripts/block-splitd");
        assert!(Serve::Script.includes(Kind::Vbd, script, None));
        assert!(!Serve::Script.includes(Kind::Vbd, Some("/etc/xen/scripts/block"), None));
        assert!(Serve::Script.includes(Kind::Vbd, Some("/x/block-splitd-held"), None));
        assert!(Serve::Script.includes(Kind::Vbd, Some("held-block-splitd"), None));
        assert!(!Serve::Script.includes(Kind::Vbd, Some("/block-splitd/block"), None));
        assert!(Serve::Script.includes(Kind::Vbd3, Some("/etc/xen/scripts/block"), None));
        assert!(Serve::All.includes(Kind::Vbd, None, None));
        let domains = Serve::Domains(vec!["web-*".to_owned(), "db?".to_owned()]);
        for (name, served) in
            [("web-1", true), ("web-", true), ("db1", true), ("db12", false), ("aweb-1", false)]
        {
            assert_eq!(domains.includes(Kind::Vbd, None, Some(name)), served, "{name}");
        }
        assert!(!domains.includes(Kind::Vbd, None, None));
        assert!(WhichVifs::All.includes(None) && !WhichVifs::None.includes(Some("web-1")));
        assert!(WhichVifs::Domains(vec!["web-*".to_owned()]).includes(Some("web-1")));
    }
}
