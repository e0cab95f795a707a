//! The fuzz targets without a fuzzer: every kept input, and small changes to them that a seed decides. `SPLITD_FUZZ_SEED` sets the seed,
//! which a failure tells, `SPLITD_FUZZ_MUTATIONS` how many changed inputs each target gets; `cargo xtask fuzz` searches in earnest.
#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may fail the test

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use splitd_tests::fuzz::{self, Target, mutate};
use splitd_tests::prng::Prng;

/// What the repository holds of them at most.
const KEPT_BYTES: usize = 300 << 10;
const KEPT_FILES: usize = 60;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// In the order of their names, so that a seed says it all.
fn kept(target: &Target) -> Vec<(String, Vec<u8>)> {
    let dir = corpus().join(target.name);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: nothing is kept", dir.display());
    files
}

fn set<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: a number is wanted")))
}

/// Runs one input; says which it was if it fails, and keeps it.
fn run(target: &Target, what: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok() {
        return;
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-failed", target.name));
    fs::write(&path, input).unwrap();
    panic!("{}, {what}: see above; the input of {} bytes is in {}", target.name, input.len(), path.display());
}

fn replay(name: &str, mutations: u32) {
    let target = fuzz::find(name).unwrap();
    let kept = kept(target);
    for (file, input) in &kept {
        assert!(input.len() <= target.longest, "{file}: longer than the target takes");
        run(target, file, input);
    }
    let seed = set("SPLITD_FUZZ_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let mutations = set("SPLITD_FUZZ_MUTATIONS").unwrap_or(mutations);
    println!("SPLITD_FUZZ_SEED={seed}, {mutations} mutations of {} inputs", kept.len());
    let mut random = Prng::new(seed);
    let pick = |random: &mut Prng| &kept[usize::try_from(random.below(kept.len() as u64)).unwrap()].1;
    for number in 0..mutations {
        let (input, other) = (pick(&mut random), pick(&mut random));
        let input = mutate::mutated(&mut random, input, other, target.longest);
        run(target, &format!("SPLITD_FUZZ_SEED={seed}, mutation {number}"), &input);
    }
}

macro_rules! replays {
    ($($name:ident $mutations:literal,)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name), $mutations);
            }
        )*

        /// A target without a replay would be run by hand only.
        #[test]
        fn every_target_is_replayed() {
            let replayed = BTreeSet::from([$(stringify!($name)),*]);
            assert_eq!(replayed, fuzz::TARGETS.iter().map(|target| target.name).collect());
        }
    };
}

replays! {
    blk_slot 3000,
    blk_device 200,
    net_tx 2000,
    net_rx 1000,
    net_control 500,
    xenstore_nodes 3000,
    xenstore_wire 2000,
    journal 2000,
    rules 3000,
    control 500,
    policy 500,
}

/// Kept inputs are each there for a reason; a clone of the repository is not to pay for more.
#[test]
fn what_is_kept_is_small() {
    let mut total = 0;
    for target in &fuzz::TARGETS {
        let kept = kept(target);
        assert!(kept.len() <= KEPT_FILES, "{}: {} files", target.name, kept.len());
        total += kept.iter().map(|(_, input)| input.len()).sum::<usize>();
    }
    assert!(total <= KEPT_BYTES, "{total} bytes");
}
