//! `splitctl sla`: a month's ledger as a table of who got what was promised. Reads the files itself: it needs no splitd. Knows nothing
//! of how windows are judged.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use qos::ledger::{Account, Entry, Sum, Verdict};
use serde_json::json;

use super::table;
use crate::ledger::{self, file_name};

/// Longer ones are no lines of ours.
const LINE_LEN_MAX: u64 = 64 << 10;

const REPORT: [table::Column; 10] = [
    ("Customer", "customer"),
    ("Class", "class"),
    ("Domains", "domains"),
    ("Kept", "kept"),
    ("Violated", "violated"),
    ("Faults", "device_fault"),
    ("Capped", "capped"),
    ("Compliance", "compliance"),
    ("Target", "target"),
    ("Credit", "credit"),
];

/// What to do with the ledger.
#[derive(Debug, Subcommand)]
pub enum Sla {
    /// Per customer and class: windows kept and not, what that comes to, and the credit that the contract gives back
    Report {
        /// Which month, in UTC, as in 2026-11; this one if left out
        #[arg(long, value_parser = month)]
        month: Option<String>,
        /// Where splitd keeps the ledger
        #[arg(long, default_value = "/var/lib/splitd")]
        ledger: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

fn month(text: &str) -> Result<String, String> {
    let first: Result<jiff::civil::Date, _> = format!("{text}-01").parse();
    match first {
        Ok(date) if date.strftime("%Y-%m").to_string() == text => Ok(text.to_owned()),
        _ => Err("allowed is a year and a month, as in 2026-11".to_owned()),
    }
}

impl Sla {
    /// Does it; what is to be printed.
    pub fn run(&self) -> anyhow::Result<String> {
        let Self::Report { month, ledger, json } = self;
        let month = month.clone().unwrap_or_else(ledger::this_month);
        let path = ledger.join(file_name(&month));
        let file = File::open(&path).with_context(|| {
            let there = ledger::months(ledger).unwrap_or_default().join(", ");
            let there = if there.is_empty() { "no month".to_owned() } else { there };
            format!("{}: the ledger in {} has {there}", path.display(), ledger.display())
        })?;
        let (sum, unreadable) = read(file).with_context(|| path.display().to_string())?;
        let accounts = sum.accounts();
        if *json {
            let report =
                json!({ "version": 1, "month": month, "accounts": accounts, "unreadable_lines": unreadable });
            return Ok(format!("{report}\n"));
        }
        let rows: Vec<_> = accounts.iter().map(row).collect();
        let on_terminal = std::io::stdout().is_terminal();
        let mut text = if on_terminal { table::aligned(&REPORT, &rows) } else { table::pairs(&rows) };
        if unreadable > 0 {
            text.push_str(&format!(
                "{unreadable} lines of {} cannot be read and are in no row\n",
                path.display()
            ));
        }
        Ok(text)
    }
}

fn row(account: &Account) -> serde_json::Value {
    let count = |verdict| account.windows.get(&verdict).copied().unwrap_or_default();
    let percent = |ppm: u32| format!("{}.{:04}%", ppm / 10_000, ppm % 10_000);
    json!({
        "customer": account.customer,
        "class": account.class,
        "domains": account.domains,
        "kept": count(Verdict::Kept),
        "violated": count(Verdict::Violated),
        "device_fault": count(Verdict::DeviceFault),
        "capped": count(Verdict::Capped),
        "compliance": account.compliance_ppm.map(percent),
        "target": percent(account.target_ppm),
        "credit": format!("{}%", account.credit_percent),
    })
}

/// All lines; how many are none of ours.
fn read(file: impl Read) -> anyhow::Result<(Sum, u64)> {
    let (mut sum, mut unreadable) = (Sum::default(), 0);
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok((sum, unreadable));
        }
        if line.len() as u64 == LINE_LEN_MAX && line.last() != Some(&b'\n') {
            bail!("a line is longer than {LINE_LEN_MAX} bytes: it is not a ledger");
        }
        match serde_json::from_slice::<Entry>(&line) {
            Ok(entry) => sum.add(entry),
            Err(_) => unreadable += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that was torn by a crash is told, not passed over and not fatal; what is no ledger at all is refused.
    #[test]
    fn torn_lines_are_told() {
        let (sum, unreadable) = read(&b"{\"from\":\"2026-1\n\n"[..]).unwrap();
        assert_eq!((sum.accounts().len(), unreadable), (0, 2));
        assert!(read(&vec![b'a'; 1 << 17][..]).is_err());
    }

    /// Months as the files are named.
    #[test]
    fn months_are_months() {
        assert!(month("2026-11").is_ok());
        for bad in ["2026-13", "2026", "11-2026", "2026-1", "2026-11-01", "../../etc"] {
            assert!(month(bad).is_err(), "{bad}");
        }
    }
}
