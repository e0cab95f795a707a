//! House rules that a machine can check, over every Rust file of the tree. Knows nothing about what the files do.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::fs;
use std::path::{Path, PathBuf};

/// Files (and two directories) where `unsafe` may stand: thin layers over system calls and shared memory, each block with its SAFETY comment.
const MAY_BE_UNSAFE: &[&str] = &[
    "blkback/src/persistent/tests.rs",
    "blkback/src/target/ioctl.rs",
    "netback/src/steering.rs",
    "netback/src/tap.rs",
    "ring/src/shared.rs",
    "ring/src/tests.rs",
    "splitd/examples/obedient_worker.rs",
    "splitd/src/process.rs",
    "splitd/src/tap.rs",
    "worker/examples/sandbox_probe.rs",
    "worker/src/clock.rs",
    "worker/src/fence.rs",
    "worker/src/mapped_file.rs",
    "worker/src/sandbox.rs",
    "worker/src/start.rs",
    "worker/src/uring.rs",
    "worker/src/wake.rs",
    "xenbus/examples/on_xen/",
    "xenbus/src/memory.rs",
    "xenbus/src/sim/",
    "xenbus/src/xen/",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every Rust file outside build output, as (path below the root, text).
fn sources() -> Vec<(String, String)> {
    let mut pending = vec![root()];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                pending.push(path);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(), text));
            }
        }
    }
    found
}

/// The paths of sources for which `breaks` gives a reason, with it.
fn offenders(breaks: impl Fn(&str, &str) -> Option<String>) -> Vec<String> {
    sources()
        .iter()
        .filter_map(|(path, text)| breaks(path, text).map(|why| format!("{path}: {why}")))
        .collect()
}

/// A file longer than this holds more than one idea.
#[test]
fn files_have_at_most_500_lines() {
    let long = offenders(|_, text| {
        let lines = text.lines().count();
        (lines > 500).then(|| format!("{lines} lines"))
    });

    assert_eq!(long, Vec::<String>::new());
}

/// The first line tells a newcomer what the file is for.
#[test]
fn files_open_with_their_role() {
    let silent =
        offenders(|_, text| (!text.starts_with("//! ")).then(|| "does not open with //!".to_owned()));

    assert_eq!(silent, Vec::<String>::new());
}

/// A reader who looks for memory safety has this list of files to read, and no other.
#[test]
fn unsafe_stands_only_in_the_listed_files() {
    let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    let outside = offenders(|path, text| {
        let line = text.lines().find(|line| {
            let code = line.split("//").next().unwrap_or_default();
            words.iter().any(|word| code.contains(word)) && !code.contains('"')
        })?;
        (!MAY_BE_UNSAFE.iter().any(|allowed| path.starts_with(allowed))).then(|| line.trim().to_owned())
    });

    assert_eq!(outside, Vec::<String>::new());
}

/// A test that is left out says what it needs, and nothing is left for later in the sources.
#[test]
fn nothing_is_left_for_later() {
    let marks =
        [["#[ign", "ore]"].concat(), ["FIX", "ME"].concat(), ["TO", "DO"].concat(), ["XX", "X"].concat()];
    let left = offenders(|_, text| {
        text.lines()
            .find(|line| marks.iter().any(|mark| line.contains(mark.as_str())))
            .map(|line| line.trim().to_owned())
    });

    assert_eq!(left, Vec::<String>::new());
}

/// XSA-295: on some processors an atomic read-modify-write of memory that another domain writes to never ends. Pages of a guest are
/// loaded and stored, nothing else.
#[test]
fn shared_pages_are_loaded_and_stored_only() {
    let words = ["fetch_", "compare_exchange", ".swap("];
    let found = offenders(|path, text| {
        let is_ours =
            path.starts_with("ring/src/") && !path.ends_with("tests.rs") && !path.ends_with("_loom.rs");
        let line = text.lines().filter(|_| is_ours).find(|line| words.iter().any(|w| line.contains(w)))?;
        Some(line.trim().to_owned())
    });

    assert_eq!(found, Vec::<String>::new());
}

/// XSA-482, XSA-487: any hypercall can be made through privcmd, so nothing of ours opens it.
#[test]
fn nothing_opens_privcmd() {
    let device = ["/dev/xen/", "priv", "cmd"].concat();
    let found = offenders(|path, text| {
        let opens = text.contains(&device) && !path.starts_with("worker/examples/");
        opens.then(|| "names privcmd".to_owned())
    });

    assert_eq!(found, Vec::<String>::new());
}
