//! What a network interface has beside a disk's life: a tap, settings that change, a frontend that reconfigures. Knows nothing of
//! frames.

use qos::policy::NetCap;
use tracing::{info, warn};
use worker::message::{
    ConnectVif, OpenVif, ToWorker, VifAccounts, VifCap, VifCaps, VifFeatures, VifRate, VifSettings,
};
use xenbus::XenbusState as State;

use super::Device;
use super::actions::random;
use crate::config::Config;
use crate::id::Kind;
use crate::limits::Vif;
use crate::nodes::vif;
use crate::observe::{self, Look, Toolstack, Unusable};
use crate::offer::Pairs;
use crate::record::{Connection, Opening};
use crate::tap::Tap;

impl Device {
    /// Makes the tap, or finds it again.
    pub(super) fn open_tap(&mut self) -> Result<(), String> {
        if self.tap.is_some() {
            return Ok(());
        }
        self.make_dir()?;
        let tap = Tap::open(&self.host.links, self.id, &self.dir).map_err(|trouble| trouble.to_string())?;
        info!(device = %self.id, tap = tap.name(), "tap");
        self.tap = Some(tap);
        Ok(())
    }

    /// After a restart of splitd: the tap of a device that is on record is there already.
    pub(super) fn adopt_tap(&mut self) {
        if self.id.kind == Kind::Vif
            && let Err(trouble) = self.open_tap()
        {
            self.raise(trouble);
        }
    }

    pub(super) fn tap_queues(&mut self) -> Result<Vec<std::os::fd::OwnedFd>, String> {
        self.open_tap()?;
        let count = self.host.config.max_queues.get();
        let queues = self.tap.as_ref().map(|tap| tap.queues(count));
        queues.unwrap_or_else(|| Ok(Vec::new())).map_err(|trouble| format!("queues of the tap: {trouble}"))
    }

    /// The device is gone.
    pub(super) fn remove_tap(&mut self) {
        if self.id.kind != Kind::Vif {
            return;
        }
        match self.tap.take() {
            Some(tap) => tap.remove(),
            None => Tap::reap(&self.dir),
        }
    }

    pub(super) fn open_vif(&mut self, toolstack: &Toolstack) -> Result<OpenVif, String> {
        self.open_tap()?;
        let link = self.tap.as_ref().map(Tap::link).ok_or("no tap")?;
        Ok(OpenVif {
            frontend: self.id.frontend.0,
            devid: self.id.devid,
            vm_uuid: toolstack.vm_uuid.clone(),
            link,
            max_queues: self.host.config.max_queues.get(),
            run_dir: self.dir.clone(),
            uid: self.uid(),
            accounts: Some(self.limit_vif(toolstack)),
            settings: limited(fixed_settings(&self.host.config, toolstack)?, self.wanted_caps()),
        })
    }

    /// Has the interface limited.
    pub(super) fn limit_vif(&self, toolstack: &Toolstack) -> VifAccounts {
        let vif = Vif {
            name: toolstack.domain_name.clone(),
            uuid: toolstack.vm_uuid.clone(),
            dir: self.dir.clone(),
            rate: self.rate(),
            rate_both_ways: self.host.config.rate_both_ways.includes(toolstack.domain_name.as_deref()),
        };
        self.host.limits.enter_vif(self.id, vif)
    }

    /// What the toolstack says.
    fn rate(&self) -> Option<VifRate> {
        self.last.as_ref().and_then(|look| vif::rate(look.rate.as_deref()?))
    }

    /// `None` while it is not known whose interface it is: what holds goes on to hold.
    fn wanted_caps(&self) -> Option<VifCaps> {
        self.host.limits.vif_caps(self.id, self.rate())
    }

    pub(super) async fn connect_vif(&mut self, look: &Look, dir: &str) -> Result<(), String> {
        let max_queues = self.host.config.max_queues;
        let (mut choices, rings) = match observe::vif_frontend(&self.host.store, dir, max_queues).await {
            Ok(found) => found,
            Err(Unusable::Bad(node)) => {
                self.violation = Some(node.to_string());
                return Ok(());
            }
            Err(Unusable::Store(trouble)) => return Err(trouble.to_string()),
        };
        if let Some(text) = look.rate.as_deref().filter(|text| vif::rate(text).is_none()) {
            warn!(device = %self.id, "rate is {text:?}: allowed are BYTES,MICROSECONDS; not limited");
        }
        // What does not change stands on record since the worker was told to open.
        let Some(Opening::Vif(open)) = self.record.as_ref().map(|record| &record.open) else {
            return Err("connects without a record of a network interface".to_owned());
        };
        let fixed = open.settings.clone();
        if fixed.finish_checksums {
            let VifFeatures { sg, rx_notify, .. } = choices.features;
            choices.features = VifFeatures { sg, rx_notify, ..VifFeatures::default() };
        }
        let settings = VifSettings {
            multicast_control: choices.multicast_control,
            xdp_headroom: choices.xdp_headroom,
            ..limited(fixed, self.wanted_caps())
        };
        self.begin_connection(Connection::Vif(ConnectVif {
            connection: random().map_err(|trouble| trouble.to_string())?,
            queues: rings.queues,
            control: rings.control,
            features: choices.features,
            settings,
        }))
    }

    fn settings(&self) -> Option<&VifSettings> {
        match self.record.as_ref()?.connect.as_ref()? {
            Connection::Vif(connect) => Some(&connect.settings),
            Connection::Disk(_) => None,
        }
    }

    pub(super) fn settings_stale(&self) -> bool {
        let wanted = self.wanted_caps();
        wanted.is_some() && self.settings().is_some_and(|told| told.caps.as_deref() != wanted.as_ref())
    }

    fn tell_settings(&mut self, change: impl FnOnce(&mut VifSettings)) -> Result<(), String> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let Some(Connection::Vif(connect)) = &mut record.connect else { return Ok(()) };
        change(&mut connect.settings);
        let settings = connect.settings.clone();
        self.store_record().map_err(|trouble| trouble.to_string())?;
        if let Some(link) = &self.link {
            link.say(ToWorker::SetVif(settings));
        }
        Ok(())
    }

    /// The toolstack or the policy changed what it may carry.
    pub(super) fn adjust(&mut self) -> Result<(), String> {
        let caps = self.wanted_caps();
        info!(device = %self.id, ?caps, "limits changed");
        self.tell_settings(|settings| *settings = limited(settings.clone(), caps))
    }

    /// The frontend wants another headroom: an XDP program came or went.
    pub(super) async fn reconfigure(&mut self, look: &Look) -> Result<(), String> {
        let Some(dir) = look.frontend_path.as_deref() else { return Ok(()) };
        let headroom = match observe::vif_headroom(&self.host.store, dir).await {
            Ok(headroom) => headroom,
            Err(Unusable::Bad(node)) => {
                self.violation = Some(node.to_string());
                return Ok(());
            }
            Err(Unusable::Store(trouble)) => return Err(trouble.to_string()),
        };
        self.tell_settings(|settings| settings.xdp_headroom = headroom)?;
        self.write(look, &Pairs::new(), State::Reconfigured).await.map(|_| ())
    }
}

/// With other caps, and what a worker that knows none can keep of them.
fn limited(settings: VifSettings, caps: Option<VifCaps>) -> VifSettings {
    let Some(caps) = caps else { return settings };
    VifSettings {
        caps: Some(Box::new(caps)),
        rate: caps.own[NetCap::Tx as usize].map(VifCap::rate),
        ..settings
    }
}

/// What the operator says of a guest's interface, for its whole life. An interface whose own addresses cannot be told is not served
/// unguarded.
fn fixed_settings(config: &Config, toolstack: &Toolstack) -> Result<VifSettings, String> {
    let name = toolstack.domain_name.as_deref();
    let finish_checksums = config.plain_vifs.includes(name);
    if !config.guard_vifs.includes(name) {
        return Ok(VifSettings { finish_checksums, ..VifSettings::default() });
    }
    let mac = toolstack.mac.as_deref().unwrap_or_default();
    let only_mac = vif::mac(mac).ok_or_else(|| {
        format!("guarded (guard_vifs), but mac is {mac:?}: allowed are six bytes like 00:16:3e:00:00:01")
    })?;
    let only_ips = vif::ips(toolstack.ip.as_deref().unwrap_or_default()).map_err(|why| {
        format!(
            "guarded (guard_vifs), but in ip {why}: allowed are addresses and networks with spaces between"
        )
    })?;
    Ok(VifSettings { only_mac: Some(only_mac), only_ips, finish_checksums, ..VifSettings::default() })
}
