//! The contract, point by point, on each engine. A test bears the engine and the point:
//! `sqlite::unique::is_held_until_settled`. Tests of an engine whose server is not installed are reported as ignored.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "these are tests, in a harness of their own"
)]

mod accepted;
mod at_least_once;
mod capabilities;
mod caps;
#[path = "../common/mod.rs"]
mod common;
mod cron;
mod engine;
mod engine_away;
mod notes;
mod operators;
mod order;
mod outcomes;
mod payloads;
#[cfg(feature = "postgres")]
mod plans;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod registry;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod schema;
mod shutdown;
#[cfg(feature = "postgres")]
mod sql;
mod support;
mod unique;
mod waiting;

use libtest_mimic::{Arguments, Trial};

#[cfg(feature = "postgres")]
use self::common::Test;
use self::{common::trial, engine::TestEngine};

fn trials<E: TestEngine>() -> Vec<Trial> {
    let is_installed = E::is_installed();
    macro_rules! list {
        ($($module:ident: $($name:ident)+;)+) => {
            vec![$($(trial(
                E::NAME,
                concat!(stringify!($module), "::", stringify!($name)),
                is_installed,
                || Box::pin($module::$name::<E>()),
            )),+),+]
        };
    }
    let mut all = list! {
        accepted: is_stored_when_push_returns one_id_is_stored_once push_all_is_one_transaction;
        at_least_once: what_completed_never_runs_again a_job_longer_than_its_lease_runs_once
            a_late_settlement_is_refused a_lost_lease_cancels_the_attempt the_lease_is_one_value_for_all_workers
            work_that_goes_on_after_its_time_limit_keeps_its_lease;
        caps: failures_are_capped crashes_are_capped_apart a_release_counts_as_neither
            a_crashed_job_runs_alone push_options_replace_max_attempts;
        outcomes: completed failed_is_retried panicked_is_retried timed_out_is_retried aborted_by_a_person_is_dead
            snooze_counts_as_nothing declared_dead undecodable_is_retried_then_dead_with_its_bytes
            an_unknown_name_is_left rejected_is_released;
        waiting: delayed_by_the_engine due_at_a_time no_more_is_reserved_than_may_start
            none_of_a_paused_name_is_reserved no_more_is_in_hand_than_the_concurrency;
        shutdown: lets_jobs_run_and_settles_them releases_what_did_not_finish reserves_no_more
            an_idle_worker_ends_at_once;
        engine_away: a_push_fails_within_its_time_limit workers_go_on;
        unique: is_held_until_settled is_held_over_retries a_running_job_runs_again_once
            skip_if_running_marks_nothing a_push_after_the_death_of_the_holder_is_not_missed keys_belong_to_names;
        cron: one_job_for_each_tick_over_all_workers the_latest_missed_tick_is_made_up_for mistakes_show_at_start;
        order: first_come_first_reserved a_higher_priority_is_reserved_first;
        payloads: too_large_is_an_error headers_are_stored a_codec_encodes_and_decodes never_show;
        capabilities: table;
        notes: progress_is_seen_everywhere_and_kept each_attempt_begins_without_progress
            a_result_is_kept_with_the_completed_job a_result_is_small;
        operators: find stats cancel dead_in_pages replay_starts_again_from_the_first_attempt discard
            pause_holds_for_all_workers retention_keeps_what_completed_for_a_while mistakes_of_the_builder;
        registry: jobs_are_tasks current_is_the_job_that_runs four_producers_and_four_workers;
    };
    if E::PUSHES_IN_TRANSACTIONS {
        all.extend(list! {
            accepted: push_in_commits_with_its_transaction push_in_rolls_back_with_its_transaction;
        });
    }
    all
}

/// Of the engines that have tables.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn trials_of_tables<E: TestEngine>() -> Vec<Trial> {
    macro_rules! list {
        ($($name:ident)+) => {
            vec![$(trial(
                E::NAME,
                concat!("schema::", stringify!($name)),
                E::is_installed(),
                || Box::pin(schema::$name::<E>()),
            )),+]
        };
    }
    list! {
        newer_tables_that_older_programs_can_use newer_tables_that_older_programs_can_not_use
            a_worker_that_runs_reserves_no_more
    }
}

/// RabbitMQ can't find a job by its id, as most tests do. It has tests of its own for the same promises.
#[cfg(feature = "rabbitmq")]
fn trials_of_rabbitmq() -> Vec<Trial> {
    use engine::TestEngine as _;

    type E = engine::RabbitMq;
    macro_rules! list {
        ($($module:ident: $($name:ident)+;)+) => {
            vec![$($(trial(
                E::NAME,
                concat!(stringify!($module), "::", stringify!($name)),
                E::is_installed(),
                || Box::pin($module::$name::<E>()),
            )),+),+]
        };
    }
    let mut all = list! {
        waiting: none_of_a_paused_name_is_reserved;
        shutdown: an_idle_worker_ends_at_once;
        order: first_come_first_reserved;
        capabilities: table;
        operators: mistakes_of_the_builder;
        registry: current_is_the_job_that_runs four_producers_and_four_workers;
    };
    all.extend(rabbitmq::all().into_iter().map(|(name, test)| trial(E::NAME, name, E::is_installed(), test)));
    all
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Each test has its own files or database. More than a few at a time are no faster, and leases need a machine that
    // is not too busy.
    arguments.test_threads.get_or_insert(4);
    #[allow(unused_mut, clippy::allow_attributes, reason = "one engine may be all there is")]
    let mut all: Vec<Trial> = Vec::new();
    #[cfg(feature = "sqlite")]
    {
        all.extend(trials::<engine::Sqlite>());
        all.extend(trials_of_tables::<engine::Sqlite>());
    }
    #[cfg(feature = "postgres")]
    {
        all.extend(trials::<engine::Postgres>());
        all.extend(trials_of_tables::<engine::Postgres>());
        macro_rules! list {
            ($($name:ident)+) => {
                [$((stringify!($name), (|| Box::pin(sql::$name())) as Test)),+]
            };
        }
        let tests = list! {
            the_function_pushes_in_the_transaction_of_its_caller the_progress_of_a_locked_job_is_stored_later
            tables_are_created_once renewals_do_not_wait_for_the_pool a_small_pool_without_notifications_is_enough
        };
        all.extend(tests.map(|(name, test)| trial("postgresql::sql", name, common::postgres::is_installed(), test)));
        let plans = || Box::pin(plans::no_statement_scans_the_jobs()) as _;
        all.push(trial("postgresql::plans", "no_statement_scans_the_jobs", plans::can_run(), plans));
    }
    #[cfg(feature = "redis")]
    all.extend(trials::<engine::Redis>());
    #[cfg(feature = "rabbitmq")]
    all.extend(trials_of_rabbitmq());
    let conclusion = libtest_mimic::run(&arguments, all);
    #[cfg(feature = "postgres")]
    common::postgres::stop();
    #[cfg(feature = "rabbitmq")]
    common::rabbitmq::stop();
    conclusion.exit()
}
