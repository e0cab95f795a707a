//! What xl and libxl do to the store for a network interface, and the trace that `vif-bridge` leaves there. Knows nothing of taps.

use xenbus::DomId;

use super::{Paths, STATE_TIMEOUT, ToolError, Toolstack, flag};
use crate::blkfront::state;

/// A network interface, as in `xl`'s configuration.
#[derive(Clone, Debug)]
pub struct VifConfig {
    /// Its number.
    pub devid: u32,
    /// `mac=`
    pub mac: String,
    /// `ip=`
    pub ip: Option<String>,
    /// `mtu=`, written if it is not 1500.
    pub mtu: u16,
    /// `rate=`, as libxl writes it: `bytes,microseconds`.
    pub rate: Option<String>,
}

impl VifConfig {
    /// The interface with this number.
    #[must_use]
    pub fn new(devid: u32) -> Self {
        Self { devid, mac: format!("00:16:3e:00:00:{devid:02x}"), ip: None, mtu: 1500, rate: None }
    }

    fn backend_nodes(&self, domain: DomId, paths: &Paths) -> Vec<(&'static str, String)> {
        let mut nodes = vec![
            ("frontend", paths.frontend.clone()),
            ("frontend-id", domain.to_string()),
            ("online", flag(true)),
            ("state", state::INITIALISING.to_string()),
            ("script", "/etc/xen/scripts/vif-bridge".to_owned()),
            ("mac", self.mac.clone()),
        ];
        if let Some(rate) = &self.rate {
            nodes.push(("rate", rate.clone()));
        }
        if let Some(ip) = &self.ip {
            nodes.push(("ip", ip.clone()));
        }
        if self.mtu != 1500 {
            nodes.push(("mtu", self.mtu.to_string()));
        }
        nodes.extend([
            ("bridge", "xenbr0".to_owned()),
            ("handle", self.devid.to_string()),
            ("type", "vif".to_owned()),
            ("hotplug-status", String::new()),
        ]);
        nodes
    }

    fn frontend_nodes(&self, paths: &Paths) -> Vec<(&'static str, String)> {
        vec![
            ("backend", paths.backend.clone()),
            ("backend-id", "0".to_owned()),
            ("state", state::INITIALISING.to_string()),
            ("handle", self.devid.to_string()),
            ("mac", self.mac.clone()),
            ("trusted", flag(true)),
        ]
    }
}

impl Toolstack {
    /// `xl network-attach`: nodes, state 2, script.
    pub fn attach_vif(&mut self, domain: DomId, vif: &VifConfig) -> Result<Paths, ToolError> {
        let paths = self.write_vif_nodes(domain, vif)?;
        self.store().wait_state(&format!("{}/state", paths.backend), &[state::INIT_WAIT], STATE_TIMEOUT)?;
        self.run_vif_script(domain, vif, &paths)?;
        Ok(paths)
    }

    /// All nodes of an interface, in one transaction.
    pub fn write_vif_nodes(&mut self, domain: DomId, vif: &VifConfig) -> Result<Paths, ToolError> {
        let paths = Paths::vif(domain, vif.devid);
        let (back, front) = (vif.backend_nodes(domain, &paths), vif.frontend_nodes(&paths));
        self.write_device(domain, &paths, &back, &front)?;
        Ok(paths)
    }

    /// What `vif-bridge online` writes.
    pub fn run_vif_script(&mut self, domain: DomId, vif: &VifConfig, paths: &Paths) -> Result<(), ToolError> {
        let mtu = format!("/local/domain/{domain}/device/vif/{}/mtu", vif.devid);
        self.store().write(&mtu, &vif.mtu.to_string())?;
        self.store().write(&format!("{}/hotplug-status", paths.backend), "connected")?;
        Ok(())
    }

    /// The second half of `xl network-detach`, whose first is that of disks: waits for state 6, removes all nodes.
    pub fn finish_vif_detach(&mut self, paths: &Paths) -> Result<(), ToolError> {
        self.store().wait_state(&format!("{}/state", paths.backend), &[state::CLOSED], STATE_TIMEOUT)?;
        self.remove_device(paths)
    }
}
