//! An end of a connection, for tests that run it in another network namespace. Knows nothing beside `splitd_tests::net_end`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match splitd_tests::net_end::main(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("net_end: {e}");
            ExitCode::FAILURE
        }
    }
}
