//! The scenarios: bash files in tests/lab/scenarios whose first comment lines say what xtask must know. Knows nothing of
//! how they are run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Backend, Store, Xen};
use crate::command;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// What it shows, in one line.
    pub(crate) says: String,
    /// Numbers of the acceptance scenarios it covers.
    pub(crate) acceptance: Vec<u8>,
    /// On which `cargo xtask test` runs it.
    pub(crate) core: Vec<Xen>,
    /// Whether it measures rather than tests: run by name and by `cargo xtask bench` only.
    pub(crate) bench: bool,
    pub(crate) backends: Vec<Backend>,
    pub(crate) xens: Vec<Xen>,
    pub(crate) stores: Vec<Store>,
    pub(crate) limit_seconds: u64,
    /// Whether dom0 must run systemd.
    pub(crate) systemd: bool,
    /// The release whose kernel its guest runs, when that must not be dom0's.
    pub(crate) guest_kernel_of: Option<Xen>,
    /// Packages it installs in dom0 from files.
    pub(crate) packages: Vec<String>,
    /// Whether it needs a worker that fails where it is told to.
    pub(crate) faulty_worker: bool,
}

impl Scenario {
    pub(crate) fn runs_on(&self, xen: Xen, store: Store, backend: Backend) -> bool {
        self.xens.contains(&xen) && self.stores.contains(&store) && self.backends.contains(&backend)
    }
}

/// Every scenario, by name.
pub(crate) fn load() -> Result<Vec<Scenario>> {
    let dir = command::root().join("tests/lab/scenarios");
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sh") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path)?;
            found.push(parse(&name, &text).with_context(|| format!("{}", path.display()))?);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The named ones, in the order given.
pub(crate) fn pick(known: Vec<Scenario>, names: &[String]) -> Result<Vec<Scenario>> {
    if names.is_empty() {
        bail!("name scenarios to run, or say --core or --all; `cargo xtask lab list` names them");
    }
    names
        .iter()
        .map(|name| {
            known
                .iter()
                .find(|one| one.name == *name)
                .cloned()
                .with_context(|| format!("no scenario {name}; `cargo xtask lab list` names them"))
        })
        .collect()
}

/// Reads the `# key: value` lines at the top of a scenario's file.
fn parse(name: &str, text: &str) -> Result<Scenario> {
    let mut scenario = Scenario {
        name: name.to_owned(),
        says: String::new(),
        acceptance: Vec::new(),
        core: Vec::new(),
        bench: false,
        backends: vec![Backend::Splitd, Backend::Kernel],
        xens: Xen::ALL.to_vec(),
        stores: vec![Store::C, Store::Ocaml],
        limit_seconds: 600,
        systemd: false,
        guest_kernel_of: None,
        packages: Vec::new(),
        faulty_worker: false,
    };
    for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
        let (key, value) = line.split_once(": ").with_context(|| format!("not `key: value`: {line:?}"))?;
        let words = || value.split_whitespace();
        match key {
            "says" => scenario.says = value.to_owned(),
            "acceptance" => {
                scenario.acceptance =
                    words().map(str::parse).collect::<Result<_, _>>().with_context(|| format!("{line:?}"))?;
            }
            "core" => scenario.core = words().map(choice).collect::<Result<_>>()?,
            "bench" => scenario.bench = value == "yes",
            "backends" => scenario.backends = words().map(choice).collect::<Result<_>>()?,
            "xen" => scenario.xens = words().map(choice).collect::<Result<_>>()?,
            "store" => scenario.stores = words().map(choice).collect::<Result<_>>()?,
            "limit" => {
                scenario.limit_seconds =
                    value.parse().with_context(|| format!("limit in seconds, not {value:?}"))?;
            }
            "dom0" if value == "systemd" => scenario.systemd = true,
            "packages" => scenario.packages = words().map(str::to_owned).collect(),
            "faulty-worker" => scenario.faulty_worker = value == "yes",
            "guest-kernel-of" => scenario.guest_kernel_of = Some(choice(value)?),
            _ => bail!("unknown line {line:?}"),
        }
    }
    if scenario.says.is_empty() {
        bail!("no `# says: …` line");
    }
    Ok(scenario)
}

fn choice<T: clap::ValueEnum>(value: &str) -> Result<T> {
    T::from_str(value, false).map_err(|error| anyhow::anyhow!("{value:?}: {error}"))
}

/// Prints the scenarios, then each acceptance number with those that cover it or the reason why none does.
pub(crate) fn list(known: &[Scenario]) -> Result<()> {
    println!("{:<26} {:<10} {:<5} says", "scenario", "acceptance", "core");
    for one in known {
        let numbers: Vec<String> = one.acceptance.iter().map(u8::to_string).collect();
        let core = match one.core.as_slice() {
            [] if one.bench => "bench",
            [] => "",
            [xen] => xen.version(),
            _ => "both",
        };
        println!("{:<26} {:<10} {core:<5} {}", one.name, numbers.join(","), one.says);
    }
    println!("\nacceptance");
    for (number, title, why_not) in acceptance(&command::root().join("tests/lab/acceptance.tsv"))? {
        let covering: Vec<&str> = known
            .iter()
            .filter(|one| one.acceptance.contains(&number))
            .map(|one| one.name.as_str())
            .collect();
        let by = if covering.is_empty() {
            "does not run".to_owned()
        } else {
            format!("runs: {}", covering.join(" "))
        };
        let limits = if why_not.is_empty() { String::new() } else { format!(" ({why_not})") };
        println!("{number:>3}  {title}\n     {by}{limits}");
    }
    Ok(())
}

/// (number, title, what is left out and why) from tests/lab/acceptance.tsv.
fn acceptance(path: &Path) -> Result<Vec<(u8, String, String)>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut fields = line.split('\t');
            let number = fields.next().unwrap_or_default();
            let number = number.parse().with_context(|| format!("{}: number {number:?}", path.display()))?;
            let title = fields.next().unwrap_or_default().to_owned();
            Ok((number, title, fields.next().unwrap_or_default().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Backend, Xen, acceptance, load, parse};
    use crate::command;

    /// A misspelt header line must not silently leave a scenario out of a run.
    #[test]
    fn headers_are_read_and_unknown_lines_refused() {
        let text = "# says: boots\n# acceptance: 1 12\n# core: 4.17 4.20\n# xen: 4.20\n# backends: qdisk\n\nscenario() { :; }\n";

        let scenario = parse("boot", text).unwrap();

        assert_eq!((scenario.acceptance, scenario.core), (vec![1, 12], Xen::ALL.to_vec()));
        assert_eq!((scenario.xens, scenario.backends), (vec![Xen::V4_20], vec![Backend::Qdisk]));
        assert!(parse("x", "# says: a\n# backend: qdisk\n").is_err());
        assert!(parse("x", "# core: 4.17\n").is_err());
    }

    /// Every acceptance number is in the list once, and no scenario cites one that is not.
    #[test]
    fn the_list_names_all_acceptance_scenarios() {
        let numbers: Vec<u8> = acceptance(&command::root().join("tests/lab/acceptance.tsv"))
            .unwrap()
            .iter()
            .map(|row| row.0)
            .collect();

        assert_eq!(numbers, (1..=37).collect::<Vec<u8>>());
        for scenario in load().unwrap() {
            assert!(scenario.acceptance.iter().all(|number| numbers.contains(number)), "{}", scenario.name);
        }
    }
}
