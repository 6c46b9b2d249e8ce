//! Faults: workers that are killed, stopped, and that kill themselves; a server that is killed. On each engine, with worker
//! processes of their own. What ran is read from the log that the workers write themselves, never from the queue's word.
//!
//! Started with `--child`, this program is such a worker. Tests of an engine whose server is not installed are reported as
//! ignored.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "these are tests, in a harness of their own"
)]

mod child;
mod engine;
#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod server;
#[cfg(feature = "postgres")]
mod server_killed;
#[cfg(feature = "axum")]
mod web;
mod work;
mod workers;

use std::{env, future::Future, pin::Pin, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};

use self::engine::Engine;

type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Runs a test on a runtime of its own.
fn trial(engine: &str, name: &str, is_installed: bool, test: Test) -> Trial {
    let run = move || -> Result<(), Failed> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(test());
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    };
    Trial::test(format!("{engine}::{name}"), run).with_ignored_flag(!is_installed)
}

fn trials<E: Engine>() -> Vec<Trial> {
    macro_rules! list {
        ($($name:ident)+) => {
            vec![$(trial(E::NAME, stringify!($name), E::is_installed(), || Box::pin(workers::$name::<E>()))),+]
        };
    }
    let workers = list! {
        killed_in_mid_job killed_in_mid_batch killed_between_work_and_settlement stopped_for_longer_than_its_lease
        a_job_that_aborts_its_process shut_down_in_the_middle four_producers_and_four_workers
    };
    #[cfg(feature = "axum")]
    let web = vec![
        trial(E::NAME, "web::an_order_and_its_job", E::is_installed(), || Box::pin(web::an_order_and_its_job::<E>())),
        trial(E::NAME, "web::comes_up_again", E::is_installed(), || Box::pin(web::comes_up_again::<E>())),
    ];
    #[cfg(not(feature = "axum"))]
    let web = Vec::new();
    workers.into_iter().chain(web).collect()
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--child") {
        child::run(&arguments[1..]);
        return;
    }
    #[cfg(feature = "axum")]
    if arguments.first().is_some_and(|first| first == "--web") {
        web::run(&arguments[1..]);
        return;
    }
    let mut arguments = Arguments::from_args();
    // Each test has processes of its own, and leases need a machine that is not too busy.
    arguments.test_threads.get_or_insert(2);
    #[allow(unused_mut, clippy::allow_attributes, reason = "one engine may be all there is")]
    let mut all: Vec<Trial> = Vec::new();
    #[cfg(feature = "sqlite")]
    all.extend(trials::<engine::Sqlite>());
    #[cfg(feature = "postgres")]
    {
        all.extend(trials::<engine::Postgres>());
        let test: Test = || Box::pin(server_killed::with_jobs_waiting_running_and_scheduled());
        all.push(trial("postgresql", "server_killed_and_started_again", server::is_installed(), test));
    }
    let conclusion = libtest_mimic::run(&arguments, all);
    #[cfg(feature = "postgres")]
    engine::stop_postgres();
    conclusion.exit()
}
