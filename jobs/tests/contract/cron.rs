//! 9. Cron: one job a tick over all workers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postlude_jobs::{JobState, ScheduleError, StartError, job};

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, SECOND, builder, until_len},
};

/// Three workers with the same schedule, which ticks each second.
pub(crate) async fn one_job_for_each_tick_over_all_workers<E: TestEngine>() {
    let engine = E::create().await;
    let journal: Journal<u64> = Journal::default();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let (builder, registry) = builder(&engine).await;
        let noted = journal.clone();
        let handler = move |_: Mail| {
            let pushed = job::current().unwrap().pushed_at();
            noted.note(pushed.duration_since(UNIX_EPOCH).unwrap().as_secs());
            async {}
        };
        let jobs = builder.cron::<Mail>("* * * * * *").handle(handler).start().await.unwrap();
        workers.push((jobs, registry));
    }
    until_len(&journal, 3).await;
    for (_, registry) in &workers {
        registry.shutdown(SECOND).await;
    }
    let mut seconds = journal.entries();
    seconds.sort_unstable();
    let jobs = seconds.len();
    seconds.dedup();
    assert_eq!(seconds.len(), jobs, "no tick has two jobs: {:?}", journal.entries());
}

pub(crate) async fn the_latest_missed_tick_is_made_up_for<E: TestEngine>() {
    let engine = E::create().await;
    let journal: Journal<SystemTime> = Journal::default();
    let start = async || {
        let (builder, registry) = builder(&engine).await;
        let noted = journal.clone();
        let handler = move |_: Mail| {
            noted.note(job::current().unwrap().pushed_at());
            async {}
        };
        // Once a day, and not now.
        let hour = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 3600 + 12) % 24;
        let jobs = builder.cron::<Mail>(&format!("0 {hour} * * *")).handle(handler).start().await.unwrap();
        (jobs, registry)
    };
    let (jobs, registry) = start().await;
    // A new schedule begins with its next tick.
    let probe = jobs.push_with(Mail::default(), postlude_jobs::PushOptions::default().delay(SECOND)).await.unwrap();
    crate::support::until_state(&jobs, probe, JobState::Completed).await;
    registry.shutdown(SECOND).await;
    assert_eq!(journal.len(), 1);

    // As if nothing had run for a week.
    engine.execute("UPDATE postlude_ticks SET last = last - 604800000").await;
    let (_jobs, registry) = start().await;
    until_len(&journal, 2).await;
    registry.shutdown(SECOND).await;
    let (_jobs, registry) = start().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    registry.shutdown(SECOND).await;
    assert_eq!(journal.len(), 2, "one for all that were missed");
}

pub(crate) async fn mistakes_show_at_start<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let error = builder.cron::<Mail>("every monday").handle(async |_: Mail| ()).start().await.unwrap_err();
    let expected = |error: &StartError| matches!(error, StartError::Cron(ScheduleError::Expression { .. }));
    assert!(expected(&error) && error.to_string().contains("`every monday`"), "{error:?}");
}
