//! What limits network interfaces: the policy, and `rate` in xenstore where that is lower. Their workers are told, and keep account of what
//! was carried in files that outlive them. Knows nothing of taps, nor of how limits are kept.

use std::path::PathBuf;

use qos::policy::NetCap;
use qos::policy::effective::{NetCapRule, NetCaps, NetRules, Told, Who};
use worker::message::{VifAccounts, VifCap, VifCaps, VifRate};

use super::{ACCOUNTS, Limits, State, file_name};
use crate::id::DeviceId;

/// An interface that is limited, or may be after the next reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vif {
    /// Its guest's name.
    pub name: Option<String>,
    /// Its guest's UUID.
    pub uuid: String,
    /// Its run directory.
    pub dir: PathBuf,
    /// What the toolstack says.
    pub rate: Option<VifRate>,
    /// It holds for what the guest receives, too.
    pub rate_both_ways: bool,
}

impl State {
    /// What holds for an interface; of the toolstack's rate and the policy's the lower one.
    pub(super) fn net_rules(&self, id: DeviceId, vif: &Vif) -> NetRules {
        let who = Who { uuid: Some(&vif.uuid), name: vif.name.as_deref() };
        let temporary = vif.name.as_ref().and_then(|name| self.temporary.get(name));
        let mut rules = self.policy.net(who, id.devid, temporary.map(super::Temporary::rules));
        if let Some(VifCap { rate, window_ns }) = vif.rate.map(VifRate::cap) {
            let ways = if vif.rate_both_ways { &[NetCap::Tx, NetCap::Rx][..] } else { &[NetCap::Tx] };
            for way in ways {
                let own = &mut rules.vif_caps[*way as usize];
                if own.as_ref().is_none_or(|told| rate < told.value.rate) {
                    let value = NetCapRule { rate, window_ns };
                    *own = Some(Told { value, origin: "rate in xenstore".to_owned() });
                }
            }
        }
        rules
    }
}

fn caps(caps: &NetCaps) -> [Option<VifCap>; 4] {
    let cap = |told: &Told<NetCapRule>| VifCap { rate: told.value.rate, window_ns: told.value.window_ns };
    NetCap::ALL.map(|which| caps[which as usize].as_ref().map(cap))
}

impl Limits {
    /// Where an interface's accounts stand; it is limited from now on.
    pub fn enter_vif(&self, id: DeviceId, vif: Vif) -> VifAccounts {
        let accounts = VifAccounts { own: vif.dir.join("account"), domain: self.net_account(&vif.uuid) };
        self.state.borrow_mut().vifs.insert(id, vif);
        accounts
    }

    pub(super) fn net_account(&self, uuid: &str) -> PathBuf {
        self.run_dir.join(ACCOUNTS).join(format!("net-{}", file_name(uuid)))
    }

    /// What an interface may carry, under this rate of the toolstack's; `None` if whose it is is not known.
    pub fn vif_caps(&self, id: DeviceId, rate: Option<VifRate>) -> Option<VifCaps> {
        let mut state = self.state.borrow_mut();
        // Kept for whoever asks what holds, and why.
        state.vifs.get_mut(&id)?.rate = rate;
        let rules = state.net_rules(id, state.vifs.get(&id)?);
        Some(VifCaps { own: caps(&rules.vif_caps), domain: caps(&rules.domain_caps) })
    }
}

#[cfg(test)]
mod tests;
