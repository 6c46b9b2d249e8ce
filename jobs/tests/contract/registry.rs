//! Jobs are tasks of the registry.

use std::{future::poll_fn, sync::Arc, task::Poll};

use postlude::{OutcomeKind, TaskState};
use postlude_jobs::{JobState, Jobs, job};
use tokio::sync::Notify;

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, SECOND, builder, until, until_len, until_state},
};

pub(crate) async fn jobs_are_tasks<E: TestEngine>() {
    let engine = E::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (builder, registry) = builder(&engine).await;
    let (noted, waits) = (journal.clone(), Arc::clone(&go));
    let handler = move |mail: Mail| {
        let (noted, waits) = (noted.clone(), Arc::clone(&waits));
        async move {
            noted.mail(&mail);
            waits.notified().await;
        }
    };
    let (builder, line) = (builder.handle(handler), line!());
    let jobs = builder.start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;
    let tasks = registry.tasks();
    assert_eq!((tasks.len(), tasks[0].name.as_str(), tasks[0].state), (1, "mail", TaskState::Running));
    assert_eq!((tasks[0].location.file(), tasks[0].location.line()), (file!(), line), "the place of its handler");
    go.notify_one();
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(registry.history()[0].outcome.kind(), OutcomeKind::Completed);
    assert_eq!(registry.metrics().completed, 1);
}

pub(crate) async fn current_is_the_job_that_runs<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, registry) = builder(&engine).await;
    let journal: Journal<String> = Journal::default();
    let noted = journal.clone();
    let handler = move |_: Mail| {
        let noted = noted.clone();
        async move {
            let current = job::current().unwrap();
            tokio::task::yield_now().await;
            assert_eq!(job::current().unwrap().id(), current.id());
            let elsewhere = spawn(async { job::current().is_none() });
            assert!(elsewhere.await.unwrap(), "a tokio task of its own is not the job");
            noted.note(current.id().to_string());
        }
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;
    assert_eq!(journal.entries(), [id.to_string()]);
    assert!(job::current().is_none());
    let (sender, none) = tokio::sync::oneshot::channel();
    registry.spawn(async move {
        sender.send(job::current().is_none()).unwrap();
    });
    assert!(none.await.unwrap(), "a plain task is none");
}

/// Where nothing fails, each job runs exactly once: by the workers' own notes.
pub(crate) async fn four_producers_and_four_workers<E: TestEngine>() {
    const JOBS: u64 = 1_000;
    const ALL: usize = 4_000;
    let engine = E::create().await;
    let journal = Journal::default();
    let mut workers = Vec::new();
    for _ in 0..4 {
        let ((builder, registry), noted) = (builder(&engine).await, journal.clone());
        let handler = move |mail: Mail| {
            noted.mail(&mail);
            async {}
        };
        workers.push((builder.handle(handler).start().await.unwrap(), registry));
    }
    let mut producers = Vec::new();
    for producer in 0..4 {
        let jobs = Jobs::producer(engine.queue().await).await.unwrap();
        producers.push(spawn(async move {
            let all: Vec<_> = (0..JOBS).map(|number| Mail { number: producer * JOBS + number }).collect();
            for some in all.chunks(10) {
                let pushes = some.iter().map(|mail| jobs.push(mail.clone()));
                for id in join_all(pushes).await {
                    id.unwrap();
                }
            }
        }));
    }
    for producer in producers {
        producer.await.unwrap();
    }
    until_len(&journal, ALL).await;
    until("all are settled", async || {
        workers.iter().map(|(jobs, _)| jobs.metrics().completed).sum::<u64>() == 4 * JOBS
    })
    .await;
    for (_, registry) in &workers {
        registry.shutdown(SECOND).await;
    }
    let mut ran = journal.entries();
    ran.sort_unstable();
    assert_eq!(ran, (0..4 * JOBS).map(|number| (number, 1)).collect::<Vec<_>>());
}

/// Awaits futures together, on one task.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        for (future, output) in &mut futures {
            if output.is_some() {
                continue;
            }
            if let Poll::Ready(ready) = future.as_mut().poll(context) {
                *output = Some(ready);
            }
        }
        if futures.iter().all(|(_, output)| output.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

#[expect(clippy::disallowed_methods, reason = "a task that is none of the registry's")]
fn spawn<F: Future<Output: Send> + Send + 'static>(future: F) -> tokio::task::JoinHandle<F::Output> {
    tokio::spawn(future)
}
