//! What holds for which device, and why, in JSON; and what is different after a reload, in words. Knows nothing of where rules come
//! from.

use qos::policy::effective::{DiskRules, NetRules, Told};
use qos::policy::{Cap, Model, NetCap};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Disk, Limits, Vif};
use crate::id::DeviceId;

impl Limits {
    /// Everything that holds for a domain's disks and interfaces, with the origin of each value; for all domains if none is named.
    pub fn explain(&self, domain: Option<&str>) -> Result<Value, String> {
        let name = domain.map(|domain| self.domain_name(domain)).transpose()?;
        let state = self.state.borrow();
        let chosen = state.disks.iter().filter(|(_, disk)| name.is_none() || disk.name == name);
        let row =
            |(id, disk): (&DeviceId, &Disk)| row(*id, disk, &state.rules(*id, disk), state.device(disk).0);
        let disks: Vec<Value> = chosen.map(row).collect();
        let chosen = state.vifs.iter().filter(|(_, vif)| name.is_none() || vif.name == name);
        let vifs: Vec<Value> =
            chosen.map(|(id, vif)| vif_row(*id, vif, &state.net_rules(*id, vif))).collect();
        Ok(json!({ "generation": state.generation, "file": self.file, "disks": disks, "interfaces": vifs }))
    }

    pub(super) fn explain_all(&self) -> Vec<Value> {
        rows(&self.explain(None).unwrap_or_default())
    }
}

/// All devices of an explanation.
pub(crate) fn rows(explained: &Value) -> Vec<Value> {
    let of = |key: &str| explained.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    [of("disks"), of("interfaces")].concat()
}

fn vif_row(id: DeviceId, about: &Vif, rules: &NetRules) -> Value {
    let [domain, own] =
        [&rules.domain_caps, &rules.vif_caps].map(|all| caps(NetCap::ALL.map(NetCap::name), all));
    json!({
        "device": id.to_string(),
        "domain": about.name,
        "domid": id.frontend.0,
        "uuid": about.uuid,
        "class": rules.class,
        "caps": { "domain": domain, "vif": own },
    })
}

fn row(id: DeviceId, about: &Disk, rules: &DiskRules, model: Model) -> Value {
    let [customer, domain, disk] = &rules.weights;
    let caps = |all| caps(Cap::ALL.map(Cap::name), all);
    json!({
        "device": id.to_string(),
        "domain": about.name,
        "domid": id.frontend.0,
        "uuid": about.uuid,
        "shares": about.place.as_ref().map(|place| &place.device),
        "model": about.place.as_ref().map(|place| model.of(place.rotational).name()),
        "unresolved": about.place.as_ref().is_some_and(|place| place.alone),
        "class": rules.class,
        "customer": rules.customer,
        "weight": { "customer": customer, "domain": domain, "disk": disk },
        "caps": {
            "customer": caps(&rules.customer_caps),
            "domain": caps(&rules.domain_caps),
            "disk": caps(&rules.disk_caps),
        },
        "reserve_iops": rules.reserve_iops,
        "iops_size_bytes": rules.accounting.iops_size_bytes,
        "sla": rules.sla,
    })
}

/// Those that are set, by their names.
fn caps<T: Serialize, const N: usize>(names: [&str; N], caps: &[Option<Told<T>>; N]) -> Value {
    let told = |(name, told): (&str, &Option<Told<T>>)| {
        let told = told.as_ref()?;
        Some((name.to_owned(), json!({ "value": told.value, "origin": told.origin })))
    };
    Value::Object(names.into_iter().zip(caps).filter_map(told).collect())
}

/// What is different, a line each; where a value comes from does not count.
pub(super) fn changes(before: &[Value], after: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    for row in after {
        let device = row.get("device").and_then(Value::as_str).unwrap_or_default();
        let Some(old) = before.iter().find(|old| old.get("device") == row.get("device")) else { continue };
        let (mut was, mut is) = (Map::new(), Map::new());
        flatten("", old, &mut was);
        flatten("", row, &mut is);
        let keys: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for key in keys {
            let word = |map: &Map<String, Value>| map.get(key).map_or("none".to_owned(), Value::to_string);
            if was.get(key) != is.get(key) {
                lines.push(format!("{device}: {key} {} -> {}", word(&was), word(&is)));
            }
        }
    }
    lines
}

fn flatten(path: &str, value: &Value, out: &mut Map<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter().filter(|(key, _)| *key != "origin") {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, out);
            }
        }
        Value::Null => {}
        other => {
            out.insert(path.trim_end_matches(".value").replace(".value.", "."), other.clone());
        }
    }
}
