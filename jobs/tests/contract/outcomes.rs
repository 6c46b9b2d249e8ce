//! 4. From the outcome of a task to the settlement of its job.

use postlude::TaskRegistry;
use postlude_jobs::{JobOutput, JobState, JobVerdict, Jobs, Page};
use tokio::sync::mpsc;

use crate::{
    engine::TestEngine,
    support::{Journal, LEASE, Mail, Report, SECOND, attempt, builder, mail_worker, until, until_len, until_state},
};

/// Runs one mail with a handler that gets the attempt, and returns the queue and what is known of the job when it has ended.
async fn run<E: TestEngine, Fut>(
    handler: impl Fn(u32) -> Fut + Send + Sync + 'static,
    state: JobState,
) -> (E, Jobs, postlude_jobs::JobInfo)
where
    Fut: Future<Output: JobOutput> + Send + 'static,
{
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let jobs = builder.handle(move |_: Mail| handler(attempt())).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    let info = until_state(&jobs, id, state).await;
    (engine, jobs, info)
}

pub(crate) async fn completed<E: TestEngine>() {
    let (_engine, jobs, info) = run::<E, _>(async |_| (), JobState::Completed).await;
    assert_eq!((info.failures, info.crashes, info.last_error), (0, 0, None));
    assert!(info.finished_at.unwrap() >= info.started_at.unwrap());
    until("it is counted", async || jobs.metrics().completed == 1).await;
}

pub(crate) async fn failed_is_retried<E: TestEngine>() {
    let handler = async |attempt| if attempt < 3 { Err("busy") } else { Ok(()) };
    let (_engine, jobs, info) = run::<E, _>(handler, JobState::Completed).await;
    assert_eq!((info.failures, info.last_error.as_deref()), (2, Some("failed: busy")));
    until("its failures are counted", async || jobs.metrics().retried == 2).await;
}

pub(crate) async fn panicked_is_retried<E: TestEngine>() {
    let handler = async |attempt| assert!(attempt > 1, "the first attempt panics");
    let (_engine, _jobs, info) = run::<E, _>(handler, JobState::Completed).await;
    assert_eq!((info.failures, info.crashes), (1, 0));
    assert!(info.last_error.unwrap().contains("the first attempt panics"));
}

pub(crate) async fn timed_out_is_retried<E: TestEngine>() {
    let engine = E::create().await;
    let registry = TaskRegistry::builder().default_timeout(SECOND / 50).build().unwrap();
    let builder = Jobs::builder(engine.queue().await, registry).lease(LEASE);
    let handler = async |_: Mail| {
        if attempt() == 1 {
            std::future::pending::<()>().await;
        }
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    let info = until_state(&jobs, id, JobState::Completed).await;
    assert_eq!((info.failures, info.last_error.as_deref()), (1, Some("timed out after 20ms")));
}

pub(crate) async fn aborted_by_a_person_is_dead<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, registry) = builder(&engine).await;
    let jobs = builder.handle(|_: Mail| std::future::pending::<()>()).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until("the job runs", async || registry.abort_named("mail") == 1).await;
    let info = until_state(&jobs, id, JobState::Dead).await;
    assert!(info.last_error.unwrap().contains("aborted by a person"));
}

pub(crate) async fn snooze_counts_as_nothing<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (builder, _registry) = builder(&engine).await;
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        let is_ready = noted.len() == 5;
        async move { if is_ready { JobVerdict::Done } else { JobVerdict::Snooze(SECOND / 100) } }
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    let info = until_state(&jobs, id, JobState::Completed).await;
    assert_eq!((info.failures, info.crashes), (0, 0));
    assert_eq!(journal.entries(), [(1, 1); 5], "also beyond `max_attempts`");
}

pub(crate) async fn declared_dead<E: TestEngine>() {
    let handler = async |_| Ok::<_, std::io::Error>(JobVerdict::Dead("no such order".to_owned()));
    let (_engine, jobs, info) = run::<E, _>(handler, JobState::Dead).await;
    assert_eq!(info.last_error.as_deref(), Some("failed: no such order"));
    until("it is counted", async || jobs.metrics().dead == 1).await;
}

pub(crate) async fn undecodable_is_retried_then_dead_with_its_bytes<E: TestEngine>() {
    /// What an older version of the program has pushed under the same name.
    #[derive(serde::Serialize, serde::Deserialize)]
    struct OldMail {
        number: String,
    }
    impl postlude_jobs::Job for OldMail {
        const NAME: &'static str = "mail";
        fn policy() -> postlude_jobs::JobPolicy {
            <Mail as postlude_jobs::Job>::policy()
        }
    }

    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, registry) = mail_worker(&engine, &journal).await;
    let id = jobs.push(OldMail { number: "top secret".to_owned() }).await.unwrap();
    let info = until_state(&jobs, id, JobState::Dead).await;
    assert_eq!(info.failures, 3, "a newer worker might have read it");
    let error = info.last_error.unwrap();
    assert!(error.contains("can't be decoded"), "{error}");
    assert!(!error.contains("secret"), "the payload must not show: {error}");
    let dead = jobs.dead(Page::default()).await.unwrap();
    assert_eq!(dead[0].payload(), br#"{"number":"top secret"}"#);
    assert_eq!(registry.metrics().failed, 3, "each attempt is a failed task");
    // The worker goes on.
    let next = jobs.push(Mail { number: 2 }).await.unwrap();
    until_state(&jobs, next, JobState::Completed).await;
}

pub(crate) async fn an_unknown_name_is_left<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let report = jobs.push(Report { number: 1 }).await.unwrap();
    let mail = jobs.push(Mail { number: 2 }).await.unwrap();
    until_state(&jobs, mail, JobState::Completed).await;
    assert_eq!(jobs.find(report).await.unwrap().unwrap().state, JobState::Waiting);

    let (builder, _registry) = builder(&engine).await;
    let (sender, mut reports) = mpsc::unbounded_channel();
    let other = builder.handle(move |report: Report| {
        sender.send(report.number).unwrap();
        async {}
    });
    let other = other.start().await.unwrap();
    assert_eq!(reports.recv().await, Some(1));
    until_state(&other, report, JobState::Completed).await;
}

pub(crate) async fn rejected_is_released<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let refuses = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = std::sync::Arc::clone(&refuses);
    let filter = move |_: &postlude::TaskInfo| {
        if asked.load(std::sync::atomic::Ordering::SeqCst) { Err("not now".into()) } else { Ok(()) }
    };
    let registry = TaskRegistry::builder().admit(filter).build().unwrap();
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        async {}
    };
    let jobs = Jobs::builder(engine.queue().await, registry).lease(LEASE).handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until("it was released", async || jobs.metrics().released >= 1).await;
    refuses.store(false, std::sync::atomic::Ordering::SeqCst);
    until_len(&journal, 1).await;
    let info = until_state(&jobs, id, JobState::Completed).await;
    assert_eq!((journal.entries(), info.failures, info.crashes), (vec![(1, 1)], 0, 0));
}
