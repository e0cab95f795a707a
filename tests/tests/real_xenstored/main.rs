//! The xenstore client against real stores: Xen's own two, run without Xen, and the simulated host's, which must behave like them.
//! Each behaviour is a test on each of the three. Where the packages of the real ones cannot be had the tests say that they
//! are skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod behaviour;
mod guest;
mod packages;
mod server;

use std::time::Duration;

use server::{Server, Which};

/// Longest that one test may take, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(180);

fn run(which: Which, behaviour: impl AsyncFnOnce(Server)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        if let Some(server) = Server::start(which).await {
            behaviour(server).await;
        }
    };
    runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.expect("the test hangs") });
}

macro_rules! on_every_server {
    ($($name:ident),* $(,)?) => {
        /// Xen's xenstored, in C.
        mod xenstored {
            $(#[test] fn $name() { crate::run(crate::Which::C, crate::behaviour::$name); })*
        }
        /// Xen's oxenstored, in OCaml.
        mod oxenstored {
            $(#[test] fn $name() { crate::run(crate::Which::Ocaml, crate::behaviour::$name); })*
        }
        /// The simulated host's store.
        mod simulated {
            $(#[test] fn $name() { crate::run(crate::Which::Sim, crate::behaviour::$name); })*
        }
    };
}

on_every_server!(
    nodes_hold_what_was_written,
    requests_are_pipelined,
    a_transaction_is_seen_whole_or_not_at_all,
    a_conflicting_transaction_is_done_again,
    watches_tell_of_what_is_below,
    ten_thousand_changes_and_none_lost,
    six_hundred_children_are_listed,
    a_guest_sees_what_it_may,
    quotas_are_errors_of_their_own,
    a_store_that_comes_back_is_watched_again,
    domains_come_and_go,
);
