//! The list of mutants as it stands in `tests/mutants/*.toml`. Knows nothing of how one is run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A check that is taken out, or done wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mutant {
    pub(super) name: String,
    /// Numbers of the catalogue of hostile guests, and advisories.
    pub(super) cases: Vec<String>,
    pub(super) file: String,
    /// Stands in the file exactly once.
    find: String,
    /// Stands there instead.
    replace: String,
    /// What has to notice: `cargo test`'s words, and the test's path last.
    test: String,
    /// `RUSTFLAGS` of that test.
    #[serde(default)]
    flags: String,
}

/// A case without a mutant.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Without {
    #[allow(dead_code)] // looked at by the test that reads the cases
    cases: Vec<String>,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    mutant: Vec<Mutant>,
    #[serde(default)]
    without: Vec<Without>,
}

/// A test, as cargo is told of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    pub(super) flags: String,
    pub(super) cargo: Vec<String>,
    pub(super) test: String,
}

impl Mutant {
    pub(super) fn named(&self) -> Result<Named> {
        let mut cargo: Vec<String> = self.test.split_whitespace().map(str::to_owned).collect();
        let test = cargo.pop().filter(|_| cargo.len() >= 3);
        let test = test.with_context(|| format!("{}: test = {:?}: too short", self.name, self.test))?;
        Ok(Named { flags: self.flags.clone(), cargo, test })
    }

    /// The file's text with the mutant in it.
    pub(super) fn applied(&self, text: &str) -> Result<String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            count => bail!("its text stands {count} times in {}; exactly once is wanted", self.file),
        }
    }

    pub(super) fn is_about(&self, text: &str) -> bool {
        let whole = [&self.name, &self.file, &self.test];
        whole.iter().any(|words| words.contains(text)) || self.cases.iter().any(|case| case == text)
    }
}

/// All of them, files in the order of their names.
pub(super) fn read(root: &Path) -> Result<Vec<Mutant>> {
    let dir = root.join("tests/mutants");
    let mut paths = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        paths.push(entry?.path());
    }
    paths.sort();
    let mut mutants = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "toml")) {
        let shown = || path.display().to_string();
        let file: File =
            toml::from_str(&fs::read_to_string(path).with_context(shown)?).with_context(shown)?;
        if let Some(silent) = file.without.iter().find(|without| without.why.trim().is_empty()) {
            bail!("{}: {:?} says no reason", path.display(), silent.cases);
        }
        mutants.extend(file.mutant);
    }
    Ok(mutants)
}
