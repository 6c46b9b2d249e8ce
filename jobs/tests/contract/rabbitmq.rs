//! The promises on RabbitMQ, which can't find a job: what became of it is read from the notes of the handlers, and from the
//! queues of the broker.

use std::{
    error::Error,
    io::Write,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use parking_lot::Mutex;
use postlude::{Priority, TaskRegistry};
use postlude_jobs::{
    Figure, Job, JobId, JobPolicy, JobVerdict, Jobs, Page, PushErrorKind, PushOptions, Queue, QueueError, StartError,
    job, rabbitmq::RabbitQueue,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::sleep};

use crate::{
    common::{Test, rabbitmq::shared},
    engine::{RabbitMq, TestEngine},
    support::{Journal, Mail, Report, SECOND, attempt, builder, mail_worker, until, until_len},
};

macro_rules! list {
    ($($name:ident)+) => {
        vec![$((concat!("rabbitmq::", stringify!($name)), (|| Box::pin($name())) as Test)),+]
    };
}

pub(crate) fn all() -> Vec<(&'static str, Test)> {
    list! {
        is_stored_when_push_returns push_all_is_stored a_push_twice_is_stored_twice what_completed_never_runs_again
        failures_are_capped crashes_are_capped_apart a_crashed_job_runs_alone a_release_counts_as_neither
        panicked_and_timed_out_are_retried snooze_counts_as_nothing declared_dead aborted_by_a_person_is_dead
        undecodable_is_dead_with_its_bytes an_unknown_name_is_left rejected_is_released
        delayed a_delay_may_have_any_length_and_end_at_a_time many_delayed_jobs
        a_delay_longer_than_a_worker_may_keep_a_job no_more_is_reserved_than_may_start
        no_more_is_in_hand_than_the_concurrency more_names_than_jobs_in_hand
        a_shutdown_lets_jobs_run_and_settles_them a_shutdown_releases_what_did_not_finish a_shutdown_reserves_no_more
        a_queue_in_another_form_is_an_error a_deleted_queue_is_declared_anew a_job_of_another_program
        what_the_broker_can_not_do_is_an_error a_time_limit_beyond_that_of_the_broker_is_refused
        a_run_that_is_too_long_for_the_broker_is_cancelled headers_are_stored
        dead_jobs_are_replayed_and_discarded figures_that_are_unknown_are_named payloads_and_passwords_never_show
        wrong_addresses_and_names two_workers_of_one_handle a_runtime_may_end_before_its_connections
    }
}

/// How many messages a queue of the broker has, apart from those that are delivered.
async fn count(engine: &RabbitMq, kind: &str, name: &str) -> u32 {
    let (_connection, channel) = shared().connect().await;
    let passive = QueueDeclareOptions::durable().passive();
    let declared = channel.queue_declare(engine.place(kind, name).into(), passive, FieldTable::default()).await;
    declared.map_or(0, |queue| queue.message_count())
}

async fn until_count(engine: &RabbitMq, kind: &str, name: &str, messages: u32) {
    until(&format!("{messages} jobs `{name}` are {kind}"), async || count(engine, kind, name).await == messages).await;
}

/// The messages of a queue, which stay there.
async fn peek(engine: &RabbitMq, kind: &str, name: &str) -> Vec<(BasicProperties, Vec<u8>)> {
    let (_connection, channel) = shared().connect().await;
    let mut all = Vec::new();
    while let Some(got) = channel.basic_get(engine.place(kind, name).into(), BasicGetOptions::default()).await.unwrap()
    {
        all.push((got.delivery.properties, got.delivery.data));
    }
    all
}

fn text(properties: &BasicProperties, header: &str) -> String {
    match properties.headers().as_ref().and_then(|table| table.inner().get(header)) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => format!("{other:?}"),
    }
}

/// The messages of the errors of a dead job.
fn errors(properties: &BasicProperties) -> Vec<String> {
    let all: serde_json::Value = serde_json::from_str(&text(properties, "postlude-errors")).unwrap();
    all.as_array().unwrap().iter().map(|error| error["error"].as_str().unwrap().to_owned()).collect()
}

/// An error with its sources.
fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A worker with a handler of its own.
async fn worker<Fut>(engine: &RabbitMq, handler: impl Fn(Mail) -> Fut + Send + Sync + 'static) -> (Jobs, TaskRegistry)
where
    Fut: Future<Output: postlude_jobs::JobOutput> + Send + 'static,
{
    let (builder, registry) = builder(engine).await;
    (builder.handle(handler).start().await.unwrap(), registry)
}

/// A worker that notes each mail, which then waits for `go`.
async fn waiting_worker(
    engine: &RabbitMq,
    registry: TaskRegistry,
    journal: &Journal,
    go: &Arc<Notify>,
    concurrency: usize,
) -> Jobs {
    let (journal, go) = (journal.clone(), Arc::clone(go));
    let handler = move |mail: Mail| {
        let (journal, go) = (journal.clone(), Arc::clone(&go));
        async move {
            journal.mail(&mail);
            go.notified().await;
        }
    };
    let builder = Jobs::builder(engine.queue().await, registry).concurrency(concurrency);
    builder.handle(handler).start().await.unwrap()
}

async fn is_stored_when_push_returns() {
    let engine = RabbitMq::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    assert_eq!(count(&engine, "waiting", "mail").await, 1);
    let (properties, payload) = peek(&engine, "waiting", "mail").await.remove(0);
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id.to_string());
    assert_eq!(properties.delivery_mode(), &Some(2), "it survives a restart");
    assert_eq!(payload, br#"{"number":1}"#);
}

async fn push_all_is_stored() {
    let engine = RabbitMq::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    let ids = jobs.push_all((0..500).map(|number| Mail { number }).collect()).await.unwrap();
    assert_eq!((ids.len(), count(&engine, "waiting", "mail").await), (500, 500));
    assert_eq!(jobs.push_all::<Mail>(Vec::new()).await.unwrap(), []);
    let journal = Journal::default();
    let (worker, _registry) = mail_worker(&engine, &journal).await;
    until("all are settled", async || worker.metrics().completed == 500).await;
    assert_eq!(journal.len(), 500);
}

async fn a_push_twice_is_stored_twice() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    assert_eq!(jobs.push_with(Mail { number: 2 }, PushOptions::default().id(id)).await.unwrap(), id);
    until_len(&journal, 2).await;
}

async fn what_completed_never_runs_again() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let (jobs, registry) = mail_worker(&engine, &journal).await;
    jobs.push(Mail { number: 1 }).await.unwrap();
    until("it is settled", async || jobs.metrics().completed == 1).await;
    registry.shutdown(SECOND).await;
    drop(jobs);
    let (others, registry) = mail_worker(&engine, &journal).await;
    others.push(Mail { number: 2 }).await.unwrap();
    until("it is settled", async || others.metrics().completed == 1).await;
    registry.shutdown(SECOND).await;
    assert_eq!(journal.entries(), [(1, 1), (2, 1)]);
}

async fn failures_are_capped() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let noted = journal.clone();
    let (jobs, _registry) = worker(&engine, move |mail| {
        noted.mail(&mail);
        async move { Err::<(), _>(format!("attempt {} failed", attempt())) }
    })
    .await;
    let id = jobs.push_with(Mail { number: 1 }, PushOptions::default().header("traceparent", "00-ab")).await.unwrap();
    until_count(&engine, "dead", "mail", 1).await;
    assert_eq!(journal.entries(), [(1, 1), (1, 2), (1, 3)]);
    until("it is counted", async || jobs.metrics().dead == 1).await;
    assert_eq!(jobs.metrics().retried, 2);
    assert_eq!(count(&engine, "waiting", "mail").await, 0);
    let (properties, payload) = peek(&engine, "dead", "mail").await.remove(0);
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id.to_string());
    assert_eq!(payload, br#"{"number":1}"#);
    assert_eq!(errors(&properties), [1, 2, 3].map(|n| format!("failed: attempt {n} failed")));
    assert!(text(&properties, "postlude-headers").contains("00-ab"));
    // As often as the push says.
    jobs.push_with(Mail { number: 2 }, PushOptions::default().max_attempts(1)).await.unwrap();
    until_count(&engine, "dead", "mail", 2).await;
    assert_eq!(journal.len(), 4);
}

/// As after a crash: a job was delivered, and came back without an answer.
async fn crash(engine: &RabbitMq, times: usize) {
    let (_connection, channel) = shared().connect().await;
    for _ in 0..times {
        let got = channel.basic_get(engine.place("waiting", "mail").into(), BasicGetOptions::default()).await.unwrap();
        let options = BasicNackOptions { multiple: false, requeue: true };
        assert!(got.expect("a job waits").delivery.acker.nack(options).await.unwrap());
        until("it is back", async || count(engine, "waiting", "mail").await == 1).await;
    }
}

async fn crashes_are_capped_apart() {
    let engine = RabbitMq::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    jobs.push(Mail { number: 1 }).await.unwrap();
    crash(&engine, 1).await;
    let journal = Journal::default();
    let noted = journal.clone();
    let (worker, registry) = worker(&engine, move |mail| {
        noted.mail(&mail);
        async move { if attempt() == 2 { Err("the second attempt fails") } else { Ok(()) } }
    })
    .await;
    until("it has completed", async || worker.metrics().completed == 1).await;
    assert_eq!(journal.entries(), [(1, 2), (1, 3)], "a crash, a failure, and the run that completes");
    assert_eq!(worker.metrics().taken_back, 2, "it is told of a crash with each delivery");
    registry.shutdown(SECOND).await;

    jobs.push(Mail { number: 2 }).await.unwrap();
    crash(&engine, 2).await;
    let (worker, _registry) = mail_worker(&engine, &journal).await;
    until_count(&engine, "dead", "mail", 1).await;
    until("it is counted", async || worker.metrics().dead == 1).await;
    assert_eq!(journal.len(), 2, "it does not run");
    let (properties, _) = peek(&engine, "dead", "mail").await.remove(0);
    assert!(errors(&properties)[0].contains("2 times"), "{:?}", errors(&properties));
    worker.push(Mail { number: 3 }).await.unwrap();
    until_len(&journal, 3).await;
}

async fn a_crashed_job_runs_alone() {
    let engine = RabbitMq::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    jobs.push(Mail { number: 0 }).await.unwrap();
    crash(&engine, 1).await;
    jobs.push_all((1..30).map(|number| Mail { number }).collect()).await.unwrap();
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (noted, waits) = (journal.clone(), Arc::clone(&go));
    let (worker, registry) = worker(&engine, move |mail| {
        let (noted, waits) = (noted.clone(), Arc::clone(&waits));
        async move {
            if mail.number == 0 {
                noted.mail(&mail);
                waits.notified().await;
            }
            noted.mail(&mail);
        }
    })
    .await;
    until("it runs", async || journal.entries().contains(&(0, 2))).await;
    let before = journal.len();
    sleep(2 * SECOND).await;
    assert_eq!((journal.len(), registry.tasks().len()), (before, 1), "nothing runs beside it");
    go.notify_one();
    until("all have completed", async || worker.metrics().completed == 30).await;
}

async fn a_release_counts_as_neither() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    for ran in 1..=4 {
        let noted = journal.clone();
        let (jobs, registry) = worker(&engine, move |mail| {
            noted.mail(&mail);
            std::future::pending::<()>()
        })
        .await;
        if ran == 1 {
            jobs.push(Mail { number: 1 }).await.unwrap();
        }
        until_len(&journal, ran).await;
        registry.shutdown(SECOND / 100).await;
    }
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    until_len(&journal, 5).await;
    assert_eq!(journal.entries(), [(1, 1); 5], "each run was the first attempt");
    until("it has completed", async || jobs.metrics().completed == 1).await;
}

async fn panicked_and_timed_out_are_retried() {
    let engine = RabbitMq::create().await;
    let registry = TaskRegistry::builder().default_timeout(3 * SECOND).build().unwrap();
    let journal = Journal::default();
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        let noted = noted.clone();
        async move {
            noted.mail(&mail);
            match attempt() {
                1 => unreachable!("the first attempt panics"),
                2 => std::future::pending().await,
                _ => {}
            }
        }
    };
    let jobs = Jobs::builder(engine.queue().await, registry.clone()).handle(handler).start().await.unwrap();
    jobs.push(Mail { number: 1 }).await.unwrap();
    until("it has completed", async || jobs.metrics().completed == 1).await;
    assert_eq!((registry.metrics().panicked, registry.metrics().timed_out), (1, 1));
    assert_eq!(journal.entries(), [(1, 1), (1, 2), (1, 3)]);
}

async fn snooze_counts_as_nothing() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let noted = journal.clone();
    let (jobs, _registry) = worker(&engine, move |mail| {
        noted.mail(&mail);
        let is_ready = noted.len() == 5;
        async move { if is_ready { JobVerdict::Done } else { JobVerdict::Snooze(SECOND / 100) } }
    })
    .await;
    jobs.push(Mail { number: 1 }).await.unwrap();
    until("it has completed", async || jobs.metrics().completed == 1).await;
    assert_eq!(journal.entries(), [(1, 1); 5], "also beyond `max_attempts`");
}

async fn declared_dead() {
    let engine = RabbitMq::create().await;
    let (jobs, _registry) = worker(&engine, async |_| JobVerdict::Dead("no such order".to_owned())).await;
    jobs.push(Mail { number: 1 }).await.unwrap();
    until_count(&engine, "dead", "mail", 1).await;
    let (properties, _) = peek(&engine, "dead", "mail").await.remove(0);
    assert_eq!(errors(&properties), ["failed: no such order"]);
}

async fn aborted_by_a_person_is_dead() {
    let engine = RabbitMq::create().await;
    let (jobs, registry) = worker(&engine, |_| std::future::pending::<()>()).await;
    jobs.push(Mail { number: 1 }).await.unwrap();
    until("the job runs", async || registry.abort_named("mail") == 1).await;
    until_count(&engine, "dead", "mail", 1).await;
    let (properties, _) = peek(&engine, "dead", "mail").await.remove(0);
    assert!(errors(&properties)[0].contains("aborted by a person"));
}

async fn undecodable_is_dead_with_its_bytes() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let (jobs, registry) = mail_worker(&engine, &journal).await;
    let (_connection, channel) = shared().connect().await;
    let properties = BasicProperties::default();
    let queue = engine.place("waiting", "mail");
    channel
        .basic_publish("".into(), queue.as_str().into(), BasicPublishOptions::default(), b"top secret", properties)
        .await
        .unwrap();
    // Those of another program have the default attempts.
    until_count(&engine, "dead", "mail", 1).await;
    assert_eq!(registry.metrics().failed, 25);
    assert_eq!(peek(&engine, "dead", "mail").await[0].1, b"top secret");
    let options = PushOptions::default().max_attempts(1);
    /// What an older version of the program has pushed under the same name.
    #[derive(Serialize, Deserialize)]
    struct OldMail {
        number: String,
    }
    impl Job for OldMail {
        const NAME: &'static str = "mail";
    }
    jobs.push_with(OldMail { number: "top secret".to_owned() }, options).await.unwrap();
    until_count(&engine, "dead", "mail", 2).await;
    let (properties, payload) = peek(&engine, "dead", "mail").await.remove(1);
    assert_eq!(payload, br#"{"number":"top secret"}"#);
    let error = errors(&properties).remove(0);
    assert!(error.contains("can't be decoded") && !error.contains("secret"), "{error}");
    jobs.push(Mail { number: 2 }).await.unwrap();
    until_len(&journal, 1).await;
}

async fn an_unknown_name_is_left() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    jobs.push(Report { number: 1 }).await.unwrap();
    jobs.push(Mail { number: 2 }).await.unwrap();
    until_len(&journal, 1).await;
    assert_eq!(count(&engine, "waiting", "report").await, 1);
    let (sender, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let (builder, _registry) = builder(&engine).await;
    let handler = move |report: Report| {
        sender.send(report.number).unwrap();
        async {}
    };
    let _other = builder.handle(handler).start().await.unwrap();
    assert_eq!(reports.recv().await, Some(1));
}

async fn rejected_is_released() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let refuses = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = Arc::clone(&refuses);
    let filter = move |_: &postlude::TaskInfo| {
        if asked.load(std::sync::atomic::Ordering::SeqCst) { Err("not now".into()) } else { Ok(()) }
    };
    let registry = TaskRegistry::builder().admit(filter).build().unwrap();
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        async {}
    };
    let jobs = Jobs::builder(engine.queue().await, registry).handle(handler).start().await.unwrap();
    jobs.push(Mail { number: 1 }).await.unwrap();
    until("it was released", async || jobs.metrics().released >= 1).await;
    refuses.store(false, std::sync::atomic::Ordering::SeqCst);
    until_len(&journal, 1).await;
    assert_eq!(journal.entries(), [(1, 1)]);
}

async fn delayed() {
    let engine = RabbitMq::create().await;
    let started: Journal<SystemTime> = Journal::default();
    let noted = started.clone();
    let (jobs, registry) = worker(&engine, move |_| {
        noted.note(SystemTime::now());
        async {}
    })
    .await;
    let pushed = SystemTime::now();
    let delay = |delay| PushOptions::default().delay(delay);
    jobs.push_with(Mail { number: 1 }, delay(2 * SECOND)).await.unwrap();
    // A longer one before a shorter one: they do not wait for each other.
    jobs.push_with(Mail { number: 2 }, delay(SECOND / 2)).await.unwrap();
    jobs.push_with(Mail { number: 3 }, delay(Duration::ZERO)).await.unwrap();
    until_len(&started, 1).await;
    assert_eq!(registry.tasks().len(), 0, "none waits in the process");
    until_len(&started, 3).await;
    let times = started.entries();
    assert!(times[1] >= pushed + SECOND / 2 && times[2] >= pushed + 2 * SECOND, "{times:?} after {pushed:?}");
    assert!(times[1] < times[2]);
}

/// Nobody but a worker notices that a job is due.
async fn a_delay_may_have_any_length_and_end_at_a_time() {
    let engine = RabbitMq::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    let push = async |number, options, range: &str| {
        jobs.push_with(Mail { number }, options).await.unwrap();
        assert_eq!(count(&engine, "delayed", range).await, 1, "{range}");
    };
    push(1, PushOptions::default().delay(Duration::MAX), "1555200").await;
    push(2, PushOptions::default().at(SystemTime::now() + 3600 * SECOND), "7200").await;
    let due = SystemTime::now() + SECOND;
    push(3, PushOptions::default().at(due), "1").await;
    jobs.push_with(Mail { number: 4 }, PushOptions::default().at(SystemTime::now())).await.unwrap();
    assert_eq!(count(&engine, "waiting", "mail").await, 1, "what is due waits for nothing");
    let journal = Journal::default();
    let (_jobs, registry) = mail_worker(&engine, &journal).await;
    until_len(&journal, 2).await;
    assert!(SystemTime::now() >= due);
    let mut entries = journal.entries();
    entries.sort_unstable();
    assert_eq!(entries, [(3, 1), (4, 1)]);
    // A worker keeps what is not due, and leaves it when it ends.
    registry.shutdown(SECOND).await;
    until_count(&engine, "delayed", "7200", 1).await;
    until_count(&engine, "delayed", "1555200", 1).await;
}

/// More than a worker keeps, of several names, and the last ones are due first.
async fn many_delayed_jobs() {
    let engine = RabbitMq::create().await;
    let producer = Jobs::producer(engine.queue().await).await.unwrap();
    for number in 0..150 {
        let options = PushOptions::default().delay(2 * SECOND - Duration::from_millis(number));
        producer.push_with(Mail { number }, options.clone()).await.unwrap();
        producer.push_with(Report { number }, options).await.unwrap();
    }
    let (journal, reports) = (Journal::default(), Journal::default());
    let (builder, _registry) = builder(&engine).await;
    let (noted, noted_reports) = (journal.clone(), reports.clone());
    let builder = builder.handle(move |mail: Mail| {
        noted.mail(&mail);
        async {}
    });
    let builder = builder.handle(move |report: Report| {
        noted_reports.note(report.number);
        async {}
    });
    let jobs = builder.start().await.unwrap();
    until("all have completed", async || jobs.metrics().completed == 300).await;
    let mut numbers = reports.entries();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..150).collect::<Vec<_>>());
    assert_eq!(journal.len(), 150);
}

/// The broker would end the channel of who keeps a job for too long: it is given back, and that counts as nothing.
async fn a_delay_longer_than_a_worker_may_keep_a_job() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let noted = journal.clone();
    let queue = engine.queue().await.consumer_timeout(3 * SECOND / 2);
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        async {}
    };
    let jobs = Jobs::builder(queue, TaskRegistry::new()).handle(handler).start().await.unwrap();
    let pushed = SystemTime::now();
    jobs.push_with(Mail { number: 1 }, PushOptions::default().delay(2 * SECOND)).await.unwrap();
    until("it has completed", async || jobs.metrics().completed == 1).await;
    assert!(SystemTime::now() >= pushed + 2 * SECOND);
    assert_eq!(journal.entries(), [(1, 1)]);
}

async fn no_more_is_reserved_than_may_start() {
    let engine = RabbitMq::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let registry = TaskRegistry::builder().limit_by_name("mail", 2).build().unwrap();
    let reports: Journal<u64> = Journal::default();
    let (noted, waits, noted_reports) = (journal.clone(), Arc::clone(&go), reports.clone());
    let builder = Jobs::builder(engine.queue().await, registry.clone());
    let builder = builder.handle(move |mail: Mail| {
        let (noted, waits) = (noted.clone(), Arc::clone(&waits));
        async move {
            noted.mail(&mail);
            waits.notified().await;
        }
    });
    let builder = builder.handle(move |report: Report| {
        noted_reports.note(report.number);
        async {}
    });
    let jobs = builder.start().await.unwrap();
    jobs.push_all((0..10).map(|number| Mail { number }).collect()).await.unwrap();
    until_len(&journal, 2).await;
    // The others are not held up by the limit of this name.
    jobs.push_all((0..10).map(|number| Report { number }).collect()).await.unwrap();
    until_len(&reports, 10).await;
    until("the reports are settled", async || jobs.metrics().completed == 10).await;
    assert_eq!(count(&engine, "waiting", "mail").await, 8, "no more are delivered than may start");
    assert_eq!(registry.tasks().len(), 2, "none waits in the process");
    for ran in 3..=10 {
        go.notify_one();
        until_len(&journal, ran).await;
    }
}

async fn no_more_is_in_hand_than_the_concurrency() {
    let engine = RabbitMq::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let jobs = waiting_worker(&engine, TaskRegistry::new(), &journal, &go, 3).await;
    jobs.push_all((0..9).map(|number| Mail { number }).collect()).await.unwrap();
    until_len(&journal, 3).await;
    assert_eq!(count(&engine, "waiting", "mail").await, 6);
    for ran in 4..=9 {
        go.notify_one();
        until_len(&journal, ran).await;
        let reserved = usize::try_from(jobs.metrics().reserved).unwrap();
        assert!(reserved <= ran, "a slot is free when a job is settled");
        assert!(count(&engine, "waiting", "mail").await >= u32::try_from(9 - ran).unwrap());
    }
}

/// Each name has its turn.
async fn more_names_than_jobs_in_hand() {
    let engine = RabbitMq::create().await;
    let journal: Journal<&str> = Journal::default();
    let (mails, reports) = (journal.clone(), journal.clone());
    let (builder, _registry) = builder(&engine).await;
    let builder = builder.concurrency(1).handle(move |_: Mail| {
        mails.note("mail");
        sleep(SECOND / 100)
    });
    let builder = builder.handle(move |_: Report| {
        reports.note("report");
        sleep(SECOND / 100)
    });
    let jobs = builder.start().await.unwrap();
    jobs.push(Report { number: 1 }).await.unwrap();
    jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 2).await;
    // Also beside a name that always has jobs.
    jobs.push_all((0..500).map(|number| Mail { number }).collect()).await.unwrap();
    jobs.push(Report { number: 2 }).await.unwrap();
    until("the report has run", async || journal.entries().iter().filter(|name| **name == "report").count() == 2).await;
}

async fn a_shutdown_lets_jobs_run_and_settles_them() {
    let engine = RabbitMq::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let registry = TaskRegistry::new();
    let jobs = waiting_worker(&engine, registry.clone(), &journal, &go, 4).await;
    jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;
    let end = async {
        until("the shutdown has begun", async || registry.is_shutting_down()).await;
        go.notify_one();
    };
    let (report, ()) = tokio::join!(registry.shutdown(60 * SECOND), end);
    assert!(report.is_clean());
    assert_eq!(jobs.metrics().completed, 1, "the shutdown has waited for the settlement");
}

async fn a_shutdown_releases_what_did_not_finish() {
    let engine = RabbitMq::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let registry = TaskRegistry::new();
    let jobs = waiting_worker(&engine, registry.clone(), &journal, &go, 5).await;
    jobs.push_all((0..9).map(|number| Mail { number }).collect()).await.unwrap();
    until_len(&journal, 5).await;
    let report = registry.shutdown(SECOND / 100).await;
    assert_eq!((report.aborted.len(), jobs.metrics().released), (5, 5));
    assert_eq!(count(&engine, "waiting", "mail").await, 9, "also what was delivered ahead");
    let (others, _registry) = mail_worker(&engine, &journal).await;
    until("all have completed", async || others.metrics().completed == 9).await;
    assert!(journal.entries().iter().all(|(_, attempt)| *attempt == 1), "{:?}", journal.entries());
}

async fn a_shutdown_reserves_no_more() {
    let engine = RabbitMq::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let registry = TaskRegistry::new();
    let jobs = waiting_worker(&engine, registry.clone(), &journal, &go, 4).await;
    jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;
    let pushed = async {
        until("the shutdown has begun", async || registry.is_shutting_down()).await;
        jobs.push(Mail { number: 2 }).await.unwrap();
        go.notify_one();
    };
    tokio::join!(registry.shutdown(60 * SECOND), pushed);
    assert_eq!(count(&engine, "waiting", "mail").await, 1);
    assert_eq!(journal.entries(), [(1, 1)]);
}

async fn a_queue_in_another_form_is_an_error() {
    let engine = RabbitMq::create().await;
    let (_connection, channel) = shared().connect().await;
    let queue = engine.place("waiting", "mail");
    // As an older program may have declared it.
    let mut arguments = FieldTable::default();
    for (name, value) in [("x-dead-letter-exchange", ""), ("x-overflow", "reject-publish")] {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    let error = jobs.push(Mail { number: 1 }).await.unwrap_err();
    let said = whole(&error);
    assert!(said.contains("inequivalent arg") && said.contains(&queue) && said.contains("delete it"), "{said}");
    assert!(!error.may_be_stored());
    let (builder, _registry) = builder(&engine).await;
    let error = builder.handle(async |_: Mail| ()).start().await.unwrap_err();
    assert!(whole(&error).contains("inequivalent arg"), "{error:?}");
    // Others are not harmed, and it works again when the queue is gone.
    jobs.push(Report { number: 1 }).await.unwrap();
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    jobs.push(Mail { number: 1 }).await.unwrap();
}

async fn a_deleted_queue_is_declared_anew() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let (_connection, channel) = shared().connect().await;
    let delete = async || {
        let queue = engine.place("waiting", "mail");
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    };
    // By a push, where there is no worker.
    let producer = Jobs::producer(engine.queue().await).await.unwrap();
    for number in 0..2 {
        producer.push(Mail { number }).await.unwrap();
        assert_eq!(count(&engine, "waiting", "mail").await, 1, "what was in it is gone");
        if number == 0 {
            delete().await;
        }
    }
    // By a worker.
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    until("it is settled", async || jobs.metrics().completed == 1).await;
    delete().await;
    let has_consumer = async || {
        let (_connection, channel) = shared().connect().await;
        let (name, passive) = (engine.place("waiting", "mail"), QueueDeclareOptions::durable().passive());
        let declared = channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await;
        declared.is_ok_and(|queue| queue.consumer_count() == 1)
    };
    until("the worker has declared it", has_consumer).await;
    jobs.push(Mail { number: 2 }).await.unwrap();
    until_len(&journal, 2).await;
}

async fn a_job_of_another_program() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let (_connection, channel) = shared().connect().await;
    let id = JobId::generate();
    let properties = BasicProperties::default().with_message_id(id.to_string().as_str().into());
    let queue = engine.place("waiting", "mail");
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.as_str().into(), options, br#"{"number":7}"#, properties).await.unwrap();
    until_len(&journal, 1).await;
    assert_eq!(journal.entries(), [(7, 1)]);
    until("it is settled", async || jobs.metrics().completed == 1).await;
}

async fn what_the_broker_can_not_do_is_an_error() {
    #[derive(Serialize, Deserialize)]
    struct Urgent;
    impl Job for Urgent {
        const NAME: &'static str = "urgent";
        fn policy() -> JobPolicy {
            JobPolicy::default().priority(Priority::High)
        }
    }

    let engine = RabbitMq::create().await;
    let queue = engine.queue().await;
    let jobs = Jobs::producer(queue.clone()).await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    let asked: [(&str, Result<(), QueueError>); 7] = [
        ("find a job", jobs.find(id).await.map(drop)),
        ("cancel a job", jobs.cancel(id).await.map(drop)),
        ("list dead jobs", jobs.dead(Page::default()).await.map(drop)),
        ("replay a dead job", jobs.replay(id).await.map(drop)),
        ("discard a dead job", jobs.discard(id).await.map(drop)),
        ("pause a name", jobs.pause("mail").await.map(drop)),
        ("pause a name", jobs.resume("mail").await.map(drop)),
    ];
    for (what, answer) in asked {
        let error = answer.unwrap_err();
        assert!(matches!(error, QueueError::Unsupported { .. }) && error.to_string().contains(what), "{error}");
    }
    for (what, options) in [
        ("unique key", PushOptions::default().unique("key")),
        ("priority", PushOptions::default().priority(Priority::High)),
        ("headers", PushOptions::default().header("long", "x".repeat(70_000))),
    ] {
        let error = jobs.push_with(Mail { number: 1 }, options).await.unwrap_err();
        let is_unsupported = matches!(error.kind(), PushErrorKind::Queue(QueueError::Unsupported { .. }));
        assert!(is_unsupported && error.to_string().contains(what), "{error}");
    }
    assert!(jobs.push(Urgent).await.unwrap_err().to_string().contains("priority"), "also that of the policy");
    let start = |with: &dyn Fn(postlude_jobs::JobsBuilder) -> postlude_jobs::JobsBuilder| {
        with(Jobs::builder(queue.clone(), TaskRegistry::new()).handle(async |_: Mail| ())).start()
    };
    let error = start(&|builder| builder.lease(30 * SECOND)).await.unwrap_err();
    assert!(error.to_string().contains("leave `lease` out"), "{error}");
    let error = start(&|builder| builder.cron::<Mail>("0 7 * * MON")).await.unwrap_err();
    assert!(error.to_string().contains("keep a schedule"), "{error}");
    assert_eq!(count(&engine, "waiting", "mail").await, 1, "nothing else was stored");
}

async fn a_time_limit_beyond_that_of_the_broker_is_refused() {
    #[derive(Serialize, Deserialize)]
    struct Long;
    impl Job for Long {
        const NAME: &'static str = "long";
        fn policy() -> JobPolicy {
            JobPolicy::default().timeout(Duration::from_secs(3600))
        }
    }

    let engine = RabbitMq::create().await;
    let start =
        async |queue: RabbitQueue| Jobs::builder(queue, TaskRegistry::new()).handle(async |_: Long| ()).start().await;
    let error = start(engine.queue().await).await.unwrap_err();
    assert!(matches!(error, StartError::LongTimeLimit { name: "long", .. }), "{error}");
    assert!(error.to_string().contains("consumer_timeout"), "{error}");
    start(engine.queue().await.consumer_timeout(Duration::from_secs(7200))).await.unwrap();
}

async fn a_run_that_is_too_long_for_the_broker_is_cancelled() {
    let engine = RabbitMq::create().await;
    let journal = Journal::default();
    let registry = TaskRegistry::new();
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        let noted = noted.clone();
        async move {
            noted.mail(&mail);
            if attempt() == 1 {
                std::future::pending::<()>().await;
            }
        }
    };
    let url = format!("{}?heartbeat=1", shared().url());
    let queue = RabbitQueue::connect_to(&[&url], &engine.queue).await.unwrap().consumer_timeout(3 * SECOND);
    let jobs = Jobs::builder(queue, registry.clone()).handle(handler).start().await.unwrap();
    jobs.push(Mail { number: 1 }).await.unwrap();
    until("it has completed", async || jobs.metrics().completed == 1).await;
    assert_eq!(journal.entries(), [(1, 1), (1, 2)], "it counts as a crash");
    assert_eq!((jobs.metrics().lost, registry.metrics().aborted), (1, 1));
}

async fn headers_are_stored() {
    let engine = RabbitMq::create().await;
    let journal: Journal<[Option<String>; 3]> = Journal::default();
    let noted = journal.clone();
    let (jobs, _registry) = worker(&engine, move |_| {
        let current = job::current().unwrap();
        noted.note(["traceparent", "CC", "postlude-format"].map(|name| current.header(name).map(str::to_owned)));
        let is_first = current.attempt() == 1;
        async move { if is_first { Err("again") } else { Ok(()) } }
    })
    .await;
    // `CC` means something to the broker.
    let options = PushOptions::default().header("traceparent", "00-ab-cd-01").header("CC", "ann");
    jobs.push_with(Mail { number: 1 }, options).await.unwrap();
    until_len(&journal, 2).await;
    let expected = ["00-ab-cd-01", "ann", "1"].map(|text| Some(text.to_owned()));
    assert_eq!(journal.entries(), [expected.clone(), expected]);
}

async fn dead_jobs_are_replayed_and_discarded() {
    let engine = RabbitMq::create().await;
    let (jobs, registry) = worker(&engine, async |_| JobVerdict::Dead("no".to_owned())).await;
    jobs.push_all((0..5).map(|number| Mail { number }).collect()).await.unwrap();
    until_count(&engine, "dead", "mail", 5).await;
    registry.shutdown(SECOND).await;
    let queue = engine.queue().await;
    assert_eq!(queue.replay_dead("mail", 3).await.unwrap(), 3);
    assert_eq!((count(&engine, "waiting", "mail").await, count(&engine, "dead", "mail").await), (3, 2));
    let journal = Journal::default();
    let (_jobs, _registry) = mail_worker(&engine, &journal).await;
    until_len(&journal, 3).await;
    assert!(journal.entries().iter().all(|(_, attempt)| *attempt == 1), "with all attempts before them");
    assert_eq!(queue.discard_dead("mail").await.unwrap(), 2);
    assert_eq!(count(&engine, "dead", "mail").await, 0);
    assert_eq!(queue.replay_dead("report", 10).await.unwrap(), 0);
}

async fn figures_that_are_unknown_are_named() {
    let engine = RabbitMq::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    jobs.push(Mail { number: 1 }).await.unwrap();
    jobs.push_with(Mail { number: 2 }, PushOptions::default().delay(60 * SECOND)).await.unwrap();
    let stats = jobs.stats().await.unwrap();
    let mail = stats.get("mail");
    assert_eq!((mail.waiting, mail.dead, mail.scheduled, mail.running), (1, 0, 0, 0));
    assert_eq!(stats.unknown, [Figure::Scheduled, Figure::Running, Figure::OldestWaiting, Figure::Paused]);
    let json = serde_json::to_value(&stats).unwrap();
    assert_eq!(json["unknown"], serde_json::json!(["scheduled", "running", "oldest_waiting", "paused"]));
}

/// A writer of the log of the whole process.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Also of a message that the broker returns, which the driver logs with all its bytes.
async fn payloads_and_passwords_never_show() {
    let engine = RabbitMq::create().await;
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::DEBUG);
    // Of all threads: other tests log here, too.
    subscriber.with_writer(move || writer.clone()).init();
    let queue = engine.queue().await;
    let jobs = Jobs::producer(queue.clone()).await.unwrap();
    jobs.push(Mail { number: 4_711_471_147_114_711 }).await.unwrap();
    let (_connection, channel) = shared().connect().await;
    let name = engine.place("waiting", "mail");
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    jobs.push(Mail { number: 4_711_471_147_114_711 }).await.unwrap();
    let wrong = shared().url().replace("guest:guest", "guest:very-secret");
    let error = RabbitQueue::connect(&wrong).await.unwrap_err();
    let log = String::from_utf8_lossy(&captured.0.lock()).into_owned();
    let all = format!("{log} {} {error:?} {queue:?} {jobs:?}", whole(&error));
    assert!(all.contains("credentials are refused"), "{error:?}");
    for secret in ["very-secret", "4711471147114711", "52, 55, 49, 49, 52, 55"] {
        assert!(!all.contains(secret), "{secret} shows: {all}");
    }
}

async fn wrong_addresses_and_names() {
    let engine = RabbitMq::create().await;
    let url = shared().url();
    for (urls, queue, expected) in [
        (vec!["not a url"], "jobs", "amqp://user:password@host"),
        (vec![], "jobs", "at least one URL"),
        (vec!["amqp://127.0.0.1:1/"], "jobs", "can't be reached"),
        (vec![url.as_str()], "a.b", "letters, digits"),
        (vec![&*format!("{url}unknown")], "jobs", "virtual host"),
    ] {
        let error = RabbitQueue::connect_to(&urls, queue).await.unwrap_err();
        assert!(whole(&error).contains(expected), "{expected}: {}", whole(&error));
    }
    // One of several nodes is enough.
    let queue = RabbitQueue::connect_to(&["amqp://127.0.0.1:1/", &url], &engine.queue).await.unwrap();
    assert_eq!(queue.engine(), "RabbitMQ");
}

/// The driver has threads of its own, which use the runtime.
async fn a_runtime_may_end_before_its_connections() {
    let panics = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (counted, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() == Some("lapin-io-loop") {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        before(panic);
    }));
    let url = shared().url().replace("127.0.0.1", "localhost");
    for round in 0..60 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (connected, url) = (tokio::sync::oneshot::channel(), url.clone());
        runtime.spawn(async move {
            let queue = RabbitQueue::connect(&url).await.unwrap();
            // Nobody waits for it any more.
            let _sent = connected.0.send(());
            drop(queue);
            std::future::pending::<()>().await;
        });
        if round % 4 == 0 {
            connected.1.await.unwrap();
        } else {
            sleep(Duration::from_micros(150 * round)).await;
        }
        runtime.shutdown_background();
    }
    sleep(SECOND).await;
    assert_eq!(panics.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// Clones share their connections, and each worker has what was delivered to it.
async fn two_workers_of_one_handle() {
    let engine = RabbitMq::create().await;
    let queue = engine.queue().await;
    let journal = Journal::default();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (registry, noted) = (TaskRegistry::new(), journal.clone());
        let handler = move |mail: Mail| {
            noted.mail(&mail);
            sleep(SECOND / 1000)
        };
        let builder = Jobs::builder(queue.clone(), registry.clone()).concurrency(4).handle(handler);
        workers.push((builder.start().await.unwrap(), registry));
    }
    workers[0].0.push_all((0..200).map(|number| Mail { number }).collect()).await.unwrap();
    until_len(&journal, 200).await;
    workers[0].1.shutdown(SECOND).await;
    workers[1].0.push_all((200..300).map(|number| Mail { number }).collect()).await.unwrap();
    until_len(&journal, 300).await;
    workers[1].1.shutdown(SECOND).await;
    let completed: u64 = workers.iter().map(|(jobs, _)| jobs.metrics().completed).sum();
    assert_eq!(completed, 300);
}
