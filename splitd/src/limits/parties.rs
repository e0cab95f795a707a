//! Who has a contract, as the ledger needs it. Knows nothing of figures.

use std::collections::BTreeMap;

use qos::ledger::Promise;

use super::Limits;
use crate::ledger::Party;

impl Limits {
    /// The length of the ledger's windows, s.
    pub fn window_s(&self) -> u32 {
        self.state.borrow().policy.accounting.window_s
    }

    /// Devices that cannot keep all that is reserved of them any more, or can again, since this was asked last.
    pub fn shortages(&self) -> Vec<(String, bool)> {
        self.arbiter.shortages()
    }

    /// Domains with a contract and a reservation, and their disks.
    pub fn parties(&self) -> Vec<Party> {
        let state = self.state.borrow();
        let mut parties: BTreeMap<&str, Party> = BTreeMap::new();
        for (id, disk) in &state.disks {
            let rules = state.rules(*id, disk);
            let (Some(sla), Some(reserve)) = (rules.sla, rules.reserve_iops) else { continue };
            let promise = Promise {
                domain: disk.name.clone().unwrap_or_else(|| disk.uuid.clone()),
                uuid: disk.uuid.clone(),
                customer: rules.customer,
                class: rules.class,
                reserve_iops: reserve.value,
                sla,
            };
            let party = parties.entry(&disk.uuid).or_insert_with(|| Party { promise, disks: Vec::new() });
            party.disks.push((*id, disk.place.as_ref().map(|place| place.device.clone())));
        }
        parties.into_values().collect()
    }
}
