//! What a run leaves behind beside its outcome: its progress, and its result.

use std::sync::Arc;

use postlude::progress;
use postlude_jobs::{JobState, JobVerdict, Jobs, ResultError, job};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    engine::TestEngine,
    support::{Mail, SECOND, builder, until, until_state},
};

/// While a job runs, every process sees how far it has come; the last report is kept with the completed job.
pub(crate) async fn progress_is_seen_everywhere_and_kept<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let may_go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&may_go_on);
    let handler = move |_: Mail| {
        let waits = Arc::clone(&waits);
        async move {
            progress().set(1, 3).message("page 1");
            waits.notified().await;
            progress().set(2, 3).message("page 2");
            waits.notified().await;
            progress().set(3, 3);
        }
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    let other = Jobs::producer(engine.queue().await).await.unwrap();
    let shows = async |text: &str| {
        until(text, async || {
            let info = other.find(id).await.unwrap().unwrap();
            info.progress.is_some_and(|progress| progress.to_string() == text)
        })
        .await;
    };
    shows("1 of 3, page 1").await;
    may_go_on.notify_one();
    shows("2 of 3, page 2").await;
    may_go_on.notify_one();
    let info = until_state(&other, id, JobState::Completed).await;
    assert_eq!(info.progress.unwrap().to_string(), "3 of 3, page 2");
    assert_eq!(info.result, None);
}

/// A failed attempt's progress is kept until the next attempt begins, which begins without one.
pub(crate) async fn each_attempt_begins_without_progress<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let handler = async |_: Mail| {
        if job::current().unwrap().attempt() == 1 {
            progress().message("first");
            return Err("the first attempt fails");
        }
        Ok(())
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    let info = until_state(&jobs, id, JobState::Completed).await;
    assert_eq!((info.failures, info.progress), (1, None));
}

pub(crate) async fn a_result_is_kept_with_the_completed_job<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, registry) = builder(&engine).await;
    let handler = async |mail: Mail| {
        let current = job::current().unwrap();
        current.set_result(&json!({ "lost": true })).unwrap();
        if current.attempt() == 1 && mail.number == 1 {
            return Err("the result of a failed attempt is lost");
        }
        current.set_result(&json!({ "path": "exports/\0 ü.csv", "rows": [mail.number] })).unwrap();
        Ok(())
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    for number in [1, 2] {
        let id = jobs.push(Mail { number }).await.unwrap();
        let info = until_state(&jobs, id, JobState::Completed).await;
        assert_eq!(info.result, Some(json!({ "path": "exports/\0 ü.csv", "rows": [number] })));
    }
    registry.shutdown(SECOND).await;
}

/// A result that is too large is an error of `set_result`, and one of a job that does not complete is not kept.
pub(crate) async fn a_result_is_small<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let handler = async |mail: Mail| {
        let current = job::current().unwrap();
        current.set_result(&"small").unwrap();
        let error = current.set_result(&"x".repeat(16 * 1024)).unwrap_err();
        assert!(matches!(error, ResultError::TooLarge { bytes: 16_386, limit: 16_384 }), "{error}");
        if mail.number == 1 { JobVerdict::Done } else { JobVerdict::Dead("no".to_owned()) }
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    for (number, state, result) in [(1, JobState::Completed, Some(json!("small"))), (2, JobState::Dead, None)] {
        let id = jobs.push(Mail { number }).await.unwrap();
        assert_eq!(until_state(&jobs, id, state).await.result, result);
    }
}
