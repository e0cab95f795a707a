//! `splitctl policy` and `splitctl qos`: arguments and output. Knows nothing of what a policy means.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::table;
use crate::limits::{self, Change};
use crate::protocol::Verb;

/// Columns of `splitctl qos`, the first as in `xl sched-credit`.
const QOS: [table::Column; 7] = [
    ("Name", "domain"),
    ("ID", "domid"),
    ("Weight", "weight"),
    ("Class", "class"),
    ("Customer", "customer"),
    ("Device", "device"),
    ("Caps", "caps"),
];

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Reads a file as splitd would; every error with its place
    Check {
        /// Which
        #[arg(default_value = "/etc/splitd/policy.toml")]
        file: PathBuf,
    },
    /// Has splitd take the installed file: all of it, or nothing and the errors
    Reload,
    /// What holds for a domain's disks and interfaces, with the line of the file that each value comes from
    Explain {
        /// By name or number; all if left out
        domain: Option<String>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Shares and caps.
#[derive(Debug, Args)]
pub struct Qos {
    /// By name or number; all if left out
    #[arg(short, long)]
    domain: Option<String>,
    /// Its share, 1 to 65535
    #[arg(short, long, requires = "domain")]
    weight: Option<u32>,
    /// NAME=VALUE as in the policy file, for all its disks or interfaces together: total_iops_max=1000, rx_max=50Mb/s, …=none
    #[arg(short, long, requires = "domain")]
    cap: Vec<String>,
    /// For how long: 10m, 2h; else until --reset or the host boots
    #[arg(long, requires = "domain")]
    ttl: Option<String>,
    /// Back to the policy file
    #[arg(long, requires = "domain", conflicts_with_all = ["weight", "cap", "ttl"])]
    reset: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

type Ask<'a> = &'a dyn Fn(Verb) -> anyhow::Result<Value>;

impl Policy {
    /// Does it; what is to be printed.
    pub fn run(&self, ask: Ask<'_>) -> anyhow::Result<String> {
        match self {
            Self::Check { file } => match limits::read(file)? {
                Some((policy, _)) => Ok(format!(
                    "{}: sound; {} classes, {} customers, {} domains\n",
                    file.display(),
                    policy.classes.len(),
                    policy.customers.len(),
                    policy.domains.len()
                )),
                None => anyhow::bail!("{}: no such file", file.display()),
            },
            Self::Reload => {
                let result = ask(Verb::PolicyReload)?;
                let changes = result.get("changes").and_then(Value::as_array).cloned().unwrap_or_default();
                let mut text = format!("policy {}\n", table::word(result.get("generation")));
                changes.iter().for_each(|change| _ = writeln!(text, "  {}", table::word(Some(change))));
                Ok(text)
            }
            Self::Explain { domain, json } => {
                let result = ask(Verb::PolicyExplain { domain: domain.clone() })?;
                if *json {
                    return Ok(with_version(result));
                }
                Ok(limits::rows(&result).iter().map(explained).collect())
            }
        }
    }
}

impl Qos {
    /// Does it; what is to be printed.
    pub fn run(&self, ask: Ask<'_>) -> anyhow::Result<String> {
        let change =
            Change { weight: self.weight, caps: self.cap.clone(), ttl: self.ttl.clone(), reset: self.reset };
        let sets = self.weight.is_some() || !self.cap.is_empty() || self.reset;
        anyhow::ensure!(
            sets || self.ttl.is_none(),
            "--ttl says how long -w or --cap holds; neither is there"
        );
        let result = match &self.domain {
            Some(domain) if sets => ask(Verb::Qos { domain: domain.clone(), change })?,
            domain => ask(Verb::PolicyExplain { domain: domain.clone() })?,
        };
        if self.json {
            return Ok(with_version(result));
        }
        let mut rows = limits::rows(&result);
        for row in &mut rows {
            row["weight"] = row.pointer("/weight/domain/value").cloned().unwrap_or_default();
            row["caps"] = json!(caps_in_short(row));
        }
        Ok(table::aligned(&QOS, &rows))
    }
}

fn with_version(mut result: Value) -> String {
    result["version"] = json!(1);
    format!("{result}\n")
}

/// Caps of a row: whose, which, how much, whence.
fn caps_of(row: &Value) -> Vec<(String, String, u64, String)> {
    let mut found = Vec::new();
    for whose in ["disk", "vif", "domain", "customer"] {
        let caps = row.pointer(&format!("/caps/{whose}")).and_then(Value::as_object);
        for (name, cap) in caps.into_iter().flatten() {
            let rate = cap.pointer("/value/rate").and_then(Value::as_u64).unwrap_or_default();
            found.push((whose.to_owned(), name.clone(), rate, table::word(cap.get("origin"))));
        }
    }
    found
}

fn caps_in_short(row: &Value) -> String {
    let words = caps_of(row).into_iter().map(|(whose, name, rate, _)| match whose.as_str() {
        "domain" => format!("{name}={rate}"),
        whose => format!("{whose}.{name}={rate}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn explained(row: &Value) -> String {
    let word = |pointer: &str| table::word(row.pointer(pointer));
    let mut text = format!("{} of {}\n  class {}", word("/device"), word("/domain"), word("/class"));
    // An interface has no customer: there is no account of one's interfaces.
    let customer = row.get("customer").map(|customer| format!(", customer {}", table::word(Some(customer))));
    let _ = writeln!(text, "{}", customer.unwrap_or_default());
    if row.get("unresolved") == Some(&json!(true)) {
        let _ = writeln!(
            text,
            "  on {}, weighed as {}: what lies beneath is not known, it counts as a device by itself",
            word("/shares"),
            word("/model")
        );
    } else if row.get("shares").is_some_and(Value::is_string) {
        let _ = writeln!(text, "  on {}, weighed as {}", word("/shares"), word("/model"));
    }
    let weights = ["customer", "domain", "disk"];
    for whose in weights.into_iter().filter(|_| row.get("weight").is_some()) {
        let (value, origin) =
            (word(&format!("/weight/{whose}/value")), word(&format!("/weight/{whose}/origin")));
        let _ = writeln!(text, "  weight of the {whose} {value} ({origin})");
    }
    for (whose, name, rate, origin) in caps_of(row) {
        let _ = writeln!(text, "  {name} of the {whose} {rate} ({origin})");
    }
    if let Some(reserve) = row.pointer("/reserve_iops/value") {
        let _ = writeln!(text, "  reserve iops {reserve} ({})", word("/reserve_iops/origin"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value with the line that it comes from.
    #[test]
    fn explanations_name_their_origin() {
        let told = |value: u64, origin: &str| json!({ "value": value, "origin": origin });
        let cap = json!({ "value": { "rate": 100 }, "origin": "domain \"web-*\", line 4" });
        let row = json!({
            "device": "vbd/5/xvda", "domain": "web-1", "class": null, "customer": "acme",
            "weight": { "customer": told(512, "customer.acme, line 9"), "domain": told(256, "built in"), "disk": told(256, "built in") },
            "caps": { "domain": { "total_iops_max": cap.clone() }, "disk": {}, "customer": { "read_bytes_max": cap } },
            "reserve_iops": null, "shares": "sda", "model": "hdd",
        });
        assert_eq!(
            explained(&row),
            "vbd/5/xvda of web-1\n  class -, customer acme\n  on sda, weighed as hdd\n  weight of the customer 512 (customer.acme, line 9)\n  \
             weight of the domain 256 (built in)\n  weight of the disk 256 (built in)\n  \
             total_iops_max of the domain 100 (domain \"web-*\", line 4)\n  \
             read_bytes_max of the customer 100 (domain \"web-*\", line 4)\n"
        );
        assert_eq!(caps_in_short(&row), "total_iops_max=100 customer.read_bytes_max=100");
        let cap = json!({ "value": { "rate": 8000, "window_ns": 1 }, "origin": "rate in xenstore" });
        let row = json!({
            "device": "vif/5/0", "domain": "web-1", "class": "gold",
            "caps": { "domain": {}, "vif": { "tx_max": cap } },
        });
        assert_eq!(
            explained(&row),
            "vif/5/0 of web-1\n  class gold\n  tx_max of the vif 8000 (rate in xenstore)\n"
        );
        assert_eq!(caps_in_short(&row), "vif.tx_max=8000");
    }
}
