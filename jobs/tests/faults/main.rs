//! Faults: workers that are killed, stopped, and that kill themselves; a server that is killed; a network that cuts and
//! delays; a full disk; a clock that is set. On each engine, with processes of their own. What ran is read from the log
//! that the workers write themselves, never from the queue's word.
//!
//! Started with `--child`, this program is such a process. Tests that can't run here, because a server or a tool is not
//! installed, are reported as ignored.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "these are tests, in a harness of their own"
)]

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod chaos;
mod child;
mod clock;
#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "sqlite")]
mod disk_full;
mod durability;
mod engine;
#[cfg(feature = "postgres")]
mod proxy;
#[cfg(feature = "postgres")]
mod server_killed;
mod versions;
#[cfg(feature = "axum")]
mod web;
mod work;
mod workers;

use std::env;

use libtest_mimic::{Arguments, Trial};

use self::{
    common::{Test, trial},
    engine::Engine,
};

fn trials<E: Engine>() -> Vec<Trial> {
    macro_rules! list {
        ($($module:ident: $($name:ident)+;)+) => {
            vec![$($(trial(E::NAME, stringify!($name), E::is_installed(), || Box::pin($module::$name::<E>()))),+),+]
        };
    }
    #[allow(unused_mut, clippy::allow_attributes, reason = "without axum, that is all")]
    let mut all = list! {
        workers: killed_in_mid_job killed_in_mid_batch killed_between_work_and_settlement
            stopped_for_longer_than_its_lease a_job_that_aborts_its_process shut_down_in_the_middle
            four_producers_and_four_workers very_many_scheduled;
        versions: two_versions_at_once;
        durability: a_producer_is_killed;
    };
    #[cfg(feature = "axum")]
    all.extend([
        trial(E::NAME, "web::an_order_and_its_job", E::is_installed(), || Box::pin(web::an_order_and_its_job::<E>())),
        trial(E::NAME, "web::comes_up_again", E::is_installed(), || Box::pin(web::comes_up_again::<E>())),
    ]);
    all
}

#[cfg(feature = "sqlite")]
fn of_sqlite() -> Vec<Trial> {
    let mut all = trials::<engine::Sqlite>();
    let tests: [(&str, bool, Test); 4] = [
        ("disk_full", disk_full::can_mount(), || Box::pin(disk_full::disk_full())),
        ("clock_of_the_machine_is_set", clock::is_installed(), || Box::pin(clock::of_the_machine())),
        ("synced_before_push_returns", durability::can_trace(), || {
            Box::pin(durability::synced_before_push_returns_by_sqlite())
        }),
        ("chaos", true, || Box::pin(chaos::sqlite())),
    ];
    all.extend(tests.map(|(name, can_run, test)| trial("sqlite", name, can_run, test)));
    all
}

#[cfg(feature = "postgres")]
fn of_postgresql() -> Vec<Trial> {
    let mut all = trials::<engine::Postgres>();
    let tests: [(&str, bool, Test); 7] =
        [
            ("server_killed_and_started_again", true, || {
                Box::pin(server_killed::with_jobs_waiting_running_and_scheduled())
            }),
            ("server_killed_right_after_pushes", true, || Box::pin(server_killed::right_after_pushes())),
            ("proxy_cuts_delays_holds_and_half_closes", true, || Box::pin(proxy::cuts_delays_holds_and_half_closes())),
            ("silence_longer_than_workers_wait", true, || Box::pin(proxy::silence_longer_than_workers_wait())),
            ("clock_of_the_server_is_set", clock::is_installed(), || Box::pin(clock::of_the_server())),
            ("synced_before_push_returns", durability::can_trace(), || {
                Box::pin(durability::synced_before_push_returns_by_postgresql())
            }),
            ("chaos", true, || Box::pin(chaos::postgresql())),
        ];
    let is_installed = common::postgres::is_installed();
    all.extend(tests.map(|(name, can_run, test)| trial("postgresql", name, is_installed && can_run, test)));
    all
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [role, config] = &arguments[..]
        && role == "--child"
    {
        child::run(config);
        return;
    }
    let mut arguments = Arguments::from_args();
    // Each test has processes of its own, and leases need a machine that is not too busy.
    arguments.test_threads.get_or_insert(4);
    #[allow(unused_mut, clippy::allow_attributes, reason = "one engine may be all there is")]
    let mut all: Vec<Trial> = Vec::new();
    #[cfg(feature = "sqlite")]
    all.extend(of_sqlite());
    #[cfg(feature = "postgres")]
    all.extend(of_postgresql());
    let conclusion = libtest_mimic::run(&arguments, all);
    #[cfg(feature = "postgres")]
    common::postgres::stop();
    conclusion.exit()
}
