//! Each promise in the documentation names tests or scenarios that are there. Knows nothing of whether they show what they are named for.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Names of all functions in Rust files below a directory.
fn functions(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            functions(&path, names);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            names.extend(text.lines().filter_map(|line| {
                let (name, _) = line.trim_start().strip_prefix("fn ")?.split_once('(')?;
                Some(name.to_owned())
            }));
        }
    }
}

/// A renamed test would leave a promise that nothing shows.
#[test]
fn every_promise_names_what_shows_it() {
    let mut known = BTreeSet::new();
    functions(root(), &mut known);
    for entry in fs::read_dir(root().join("tests/lab/scenarios")).unwrap().flatten() {
        known.insert(entry.path().file_stem().unwrap().to_string_lossy().into_owned());
    }
    let mut promises = 0;
    for page in ["docs/durability.md", "docs/threat-model.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let mut in_table = false;
        for line in text.lines() {
            if line.ends_with("| shown by |") {
                in_table = true;
            } else if !line.starts_with('|') {
                in_table = false;
            } else if in_table && !line.starts_with("|---") {
                promises += 1;
                let cell = line.trim_end_matches('|').rsplit('|').next().unwrap();
                let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
                assert!(!names.is_empty(), "{page}: nothing shows {line}");
                let unknown: Vec<_> = names.iter().filter(|name| !known.contains(**name)).collect();
                assert!(unknown.is_empty(), "{page}: no test and no scenario is called {unknown:?}");
            }
        }
    }
    assert!(promises > 30, "{promises} promises found");
}
