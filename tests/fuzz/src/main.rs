//! libFuzzer over one of the fuzz targets, the one that `SPLITD_FUZZ_TARGET` names. Knows nothing of what the targets check.

#![no_main]

use std::sync::OnceLock;

use splitd_tests::fuzz::{self, Target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn named() -> &'static Target {
    let name = std::env::var("SPLITD_FUZZ_TARGET").unwrap_or_default();
    match fuzz::find(&name) {
        Some(target) => target,
        None => {
            let names: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
            eprintln!("SPLITD_FUZZ_TARGET is {name:?}: allowed are {}", names.join(", "));
            std::process::exit(2)
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let target = TARGET.get_or_init(named);
    (target.run)(bytes.get(..target.longest).unwrap_or(bytes));
});
