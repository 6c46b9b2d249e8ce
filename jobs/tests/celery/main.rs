//! Real Celery workers on real brokers: what Rust sends, Python runs. A test bears the broker and what it tests:
//! `redis::countdown_and_eta`. Tests are reported as ignored if the server is not installed, or if there is no Python
//! with Celery: `scripts/celery-python` makes one.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "these are tests, in a harness of their own"
)]

#[path = "../common/mod.rs"]
#[allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it")]
mod common;
mod fleet;
mod rabbitmq;
mod redis;
mod tasks;

use libtest_mimic::{Arguments, Trial};

use self::{
    common::{Test, trial},
    fleet::{Broker, Rabbit, Redis, has_celery},
};

fn trials<B: Broker>() -> Vec<Trial> {
    let can_run = B::is_installed() && has_celery();
    macro_rules! list {
        ($($name:ident)+) => {
            vec![$(trial(B::NAME, stringify!($name), can_run, || Box::pin(tasks::$name::<B>()))),+]
        };
    }
    list! {
        arguments_of_every_kind_of_json a_job_is_a_task_with_keyword_arguments the_request_has_the_options
        countdown_and_eta expired_is_revoked the_more_urgent_runs_first retries_are_of_the_python_side
        a_chain_hands_results_on a_chain_ends_with_the_step_that_fails an_unknown_name_is_a_failure
        a_time_limit_ends_the_task states_while_it_runs an_ignored_result_is_not_stored workers_log_no_payload
        very_many_at_once mistakes_are_errors_before_anything_is_sent
    }
}

/// The tests that need no worker need no Python.
fn of_one_broker<B: Broker>(tests: &[(&str, bool, Test)]) -> Vec<Trial> {
    let of = |&(name, needs_celery, test): &(&str, bool, Test)| {
        trial(B::NAME, name, B::is_installed() && (has_celery() || !needs_celery), test)
    };
    tests.iter().map(of).collect()
}

fn main() {
    let arguments = Arguments::from_args();
    let mut all = trials::<Redis>();
    all.extend(trials::<Rabbit>());
    all.extend(of_one_broker::<Redis>(&[
        ("settings_of_the_workers", true, || Box::pin(redis::settings_of_the_workers())),
        ("a_priority_beyond_9_is_an_error", true, || Box::pin(redis::a_priority_beyond_9_is_an_error())),
        ("the_server_goes_and_comes", false, || Box::pin(redis::the_server_goes_and_comes())),
        ("a_wrong_password_is_said_and_not_shown", false, || Box::pin(redis::a_wrong_password_is_said_and_not_shown())),
    ]));
    all.extend(of_one_broker::<Rabbit>(&[
        ("a_queue_that_does_not_exist_is_an_error", true, || {
            Box::pin(rabbitmq::a_queue_that_does_not_exist_is_an_error())
        }),
        ("a_queue_that_is_gone_is_an_error", false, || Box::pin(rabbitmq::a_queue_that_is_gone_is_an_error())),
        ("answers_are_not_mixed_up", false, || Box::pin(rabbitmq::answers_are_not_mixed_up())),
        ("messages_are_persistent", false, || Box::pin(rabbitmq::messages_are_persistent())),
        ("a_full_queue_does_not_confirm", false, || Box::pin(rabbitmq::a_full_queue_does_not_confirm())),
        ("wrong_credentials_are_said_and_not_shown", false, || {
            Box::pin(rabbitmq::wrong_credentials_are_said_and_not_shown())
        }),
        ("the_server_goes_and_comes", false, || Box::pin(rabbitmq::the_server_goes_and_comes())),
    ]));
    let conclusion = libtest_mimic::run(&arguments, all);
    fleet::stop();
    conclusion.exit()
}
