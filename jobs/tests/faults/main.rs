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

#[cfg(any(feature = "redis", feature = "rabbitmq"))]
mod certificate;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
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
mod failover;
#[cfg(any(feature = "postgres", feature = "redis", feature = "rabbitmq"))]
mod proxy;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod server_killed;
mod versions;
#[cfg(all(feature = "axum", any(feature = "sqlite", feature = "postgres")))]
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
    list! {
        workers: killed_in_mid_job killed_in_mid_batch killed_between_work_and_settlement
            stopped_for_longer_than_its_lease a_job_that_aborts_its_process shut_down_in_the_middle
            four_producers_and_four_workers very_many_scheduled;
        versions: two_versions_at_once;
        durability: a_producer_is_killed;
    }
}

/// The tests of a web server, which pushes in its transactions.
#[cfg(all(feature = "axum", any(feature = "sqlite", feature = "postgres")))]
fn of_the_web<E: Engine>() -> [Trial; 2] {
    [
        trial(E::NAME, "web::an_order_and_its_job", E::is_installed(), || Box::pin(web::an_order_and_its_job::<E>())),
        trial(E::NAME, "web::comes_up_again", E::is_installed(), || Box::pin(web::comes_up_again::<E>())),
    ]
}

#[cfg(feature = "sqlite")]
fn of_sqlite() -> Vec<Trial> {
    let mut all = trials::<engine::Sqlite>();
    #[cfg(feature = "axum")]
    all.extend(of_the_web::<engine::Sqlite>());
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

/// The tests of an engine with a server of its own.
#[cfg(any(feature = "postgres", feature = "redis"))]
fn of_a_server<E: Engine, S: engine::Server>() -> Vec<Trial> {
    let tests: [(&str, bool, Test); 6] = [
        ("server_killed_and_started_again", true, || {
            Box::pin(server_killed::with_jobs_waiting_running_and_scheduled::<S>())
        }),
        ("server_killed_right_after_pushes", true, || Box::pin(server_killed::right_after_pushes::<S>())),
        ("proxy_cuts_delays_holds_and_half_closes", true, || Box::pin(proxy::cuts_delays_holds_and_half_closes::<S>())),
        ("silence_longer_than_workers_wait", true, || Box::pin(proxy::silence_longer_than_workers_wait::<S>())),
        ("clock_of_the_server_is_set", clock::is_installed(), || Box::pin(clock::of_the_server::<S>())),
        ("chaos", true, || Box::pin(chaos::of_a_server::<S>())),
    ];
    let tests = tests.map(|(name, can_run, test)| trial(E::NAME, name, E::is_installed() && can_run, test));
    trials::<E>().into_iter().chain(tests).collect()
}

#[cfg(feature = "postgres")]
fn of_postgresql() -> Vec<Trial> {
    let mut all = of_a_server::<engine::Postgres, common::postgres::Server>();
    #[cfg(feature = "axum")]
    all.extend(of_the_web::<engine::Postgres>());
    let can_run = engine::Postgres::is_installed() && durability::can_trace();
    all.push(trial("postgresql", "synced_before_push_returns", can_run, || {
        Box::pin(durability::synced_before_push_returns_by_postgresql())
    }));
    all.push(trial("postgresql", "a_replica_takes_over", engine::Postgres::is_installed(), || {
        Box::pin(failover::a_replica_takes_over())
    }));
    all
}

#[cfg(feature = "redis")]
fn of_redis() -> Vec<Trial> {
    let mut all = of_a_server::<engine::Redis, common::redis::Server>();
    let tests: [(&str, bool, Test); 12] = [
        ("synced_before_push_returns", durability::can_trace(), || Box::pin(redis::synced_before_push_returns())),
        ("each_second_is_synced_later", durability::can_trace(), || Box::pin(redis::each_second_is_synced_later())),
        ("each_second_keeps_what_is_written", true, || Box::pin(redis::each_second_keeps_what_is_written())),
        ("durability_is_told", true, || Box::pin(redis::durability_is_told())),
        ("memory_limit", true, || Box::pin(redis::memory_limit())),
        ("credentials_revoked", true, || Box::pin(redis::credentials_revoked())),
        ("without_permission_for_the_channel", true, || Box::pin(redis::without_permission_for_the_channel())),
        ("workers_are_told", true, || Box::pin(redis::workers_are_told())),
        ("what_is_reserved_and_not_held_is_released", true, || {
            Box::pin(redis::what_is_reserved_and_not_held_is_released())
        }),
        ("a_cluster_says_where_the_queue_is", true, || Box::pin(redis::a_cluster_says_where_the_queue_is())),
        ("sentinels_promote_a_replica", true, || Box::pin(redis::sentinels_promote_a_replica())),
        ("tls", certificate::can_create(), || Box::pin(redis::tls())),
    ];
    all.extend(tests.map(|(name, can_run, test)| trial("redis", name, engine::Redis::is_installed() && can_run, test)));
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
    #[cfg(feature = "redis")]
    all.extend(of_redis());
    #[cfg(feature = "rabbitmq")]
    all.extend(rabbitmq::all());
    let conclusion = libtest_mimic::run(&arguments, all);
    #[cfg(feature = "postgres")]
    common::postgres::stop();
    #[cfg(feature = "rabbitmq")]
    common::rabbitmq::stop();
    conclusion.exit()
}
