//! Every row of the catalogue of hostile guests is cited by a test, and by a mutant that has to be caught, by its number: `R` rings and
//! grants, `B` disk requests, `X` nodes in xenstore, `N` network frames. Knows nothing of whether the test is a good one.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A group of rows, how many it has, and those that no test on this machine can stand for, with the reason.
struct Group {
    letter: char,
    rows: u32,
    exceptions: &'static [(u32, &'static str)],
}

const CATALOGUE: [Group; 4] = [
    Group { letter: 'R', rows: 16, exceptions: &[] },
    Group { letter: 'B', rows: 34, exceptions: &[] },
    Group { letter: 'X', rows: 23, exceptions: &[] },
    Group { letter: 'N', rows: 33, exceptions: &[] },
];

/// Advisories about backends and what they stand on, by the first number of each row.
const ADVISORIES: [&str; 32] = [
    "XSA-39",
    "XSA-43",
    "XSA-86",
    "XSA-90",
    "XSA-57",
    "XSA-142",
    "XSA-155",
    "XSA-180",
    "XSA-216",
    "XSA-258",
    "XSA-270",
    "XSA-295",
    "XSA-331",
    "XSA-343",
    "XSA-349",
    "XSA-350",
    "XSA-115",
    "XSA-326",
    "XSA-361",
    "XSA-371",
    "XSA-374",
    "XSA-376",
    "XSA-392",
    "XSA-406",
    "XSA-423",
    "XSA-441",
    "XSA-448",
    "CVE-2026-45890",
    "XSA-526",
    "XSA-379",
    "XSA-482",
    "XSA-443",
];

/// What stands in tests: whole files below a `tests` directory or called `tests.rs`, and modules after `#[cfg(test)]`.
fn tests(dir: &Path, found: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            tests(&path, found);
        } else if name.ends_with(".rs") && name != "catalogue.rs" {
            let text = fs::read_to_string(&path).unwrap();
            let whole = name == "tests.rs" || path.iter().any(|part| part == "tests");
            let from = if whole { Some(0) } else { text.find("#[cfg(test)]") };
            found.push_str(from.and_then(|at| text.get(at..)).unwrap_or_default());
        }
    }
}

/// `B10 to B15` is all of them.
fn cited(text: &str) -> BTreeSet<(char, u32)> {
    let mut cited = BTreeSet::new();
    let mut before: Option<(char, u32)> = None;
    let mut through = false;
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()) {
        let row = word.strip_prefix(['R', 'B', 'X', 'N']).and_then(|number| number.parse().ok());
        match (row, word.chars().next()) {
            (Some(number), Some(letter)) => {
                let first = before.filter(|b| through && b.0 == letter).map_or(number, |b| b.1);
                cited.extend((first..=number).map(|n| (letter, n)));
                (before, through) = (Some((letter, number)), false);
            }
            _ => (before, through) = (before.filter(|_| word == "to"), word == "to"),
        }
    }
    cited
}

#[test]
fn ranges_are_read() {
    let found = cited("/// B10 to B12, X1, X3: what B20 and R7 to B9 are\n0xB5 FB6 B7x");
    let expected = [('B', 9), ('B', 10), ('B', 11), ('B', 12), ('B', 20), ('R', 7), ('X', 1), ('X', 3)];
    assert_eq!(found, BTreeSet::from(expected));
}

#[test]
fn every_row_is_cited_by_a_test() {
    let mut text = String::new();
    tests(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(), &mut text);
    let cited = cited(&text);
    let mut wrong = Vec::new();
    for Group { letter, rows, exceptions } in CATALOGUE {
        for row in 1..=rows {
            let exception = exceptions.iter().find(|(n, _)| *n == row);
            match (cited.contains(&(letter, row)), exception) {
                (false, None) => wrong.push(format!("{letter}{row}: no test cites it")),
                (true, Some((_, why))) => wrong.push(format!("{letter}{row}: has a test, but also: {why}")),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The cases of `tests/mutants/*.toml`: of its mutants, and of those that say why there is none.
fn cases_of_mutants() -> [BTreeSet<String>; 2] {
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/mutants");
    for entry in fs::read_dir(dir).unwrap() {
        let mut without = 0;
        for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            match line {
                "[[mutant]]" => without = 0,
                "[[without]]" => without = 1,
                _ => {}
            }
            if let Some(list) = line.strip_prefix("cases = [") {
                let words =
                    list.trim_end_matches(']').split(", ").map(|word| word.trim_matches('"').to_owned());
                found[without].extend(words);
            }
        }
    }
    found
}

/// A test that has never been seen to fail may be one that cannot: each case names a check that was taken out, or why there is none.
#[test]
fn every_row_has_a_mutant_or_says_why_not() {
    let [mutants, without] = cases_of_mutants();
    let numbers = CATALOGUE.iter().flat_map(|g| (1..=g.rows).map(move |row| format!("{}{row}", g.letter)));
    let mut wrong = Vec::new();
    for case in numbers.chain(ADVISORIES.map(str::to_owned)) {
        match (mutants.contains(&case), without.contains(&case)) {
            (false, false) => wrong.push(format!("{case}: no mutant")),
            (true, true) => wrong.push(format!("{case}: a mutant, and a reason why there is none")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
