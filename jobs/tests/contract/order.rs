//! 10. First come, first reserved, within a priority and name.

use postlude::Priority;
use postlude_jobs::{Jobs, PushOptions};

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, builder, until_len},
};

/// Works off what is stored, one job at a time.
async fn work_off<E: TestEngine>(engine: &E, count: usize) -> Vec<u64> {
    let journal = Journal::default();
    let (builder, _registry) = builder(engine).await;
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        async {}
    };
    let _jobs = builder.concurrency(1).handle(handler).start().await.unwrap();
    until_len(&journal, count).await;
    journal.entries().into_iter().map(|(number, _)| number).collect()
}

pub(crate) async fn first_come_first_reserved<E: TestEngine>() {
    let engine = E::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    for number in 0..10 {
        jobs.push(Mail { number }).await.unwrap();
    }
    jobs.push_all((10..30).map(|number| Mail { number }).collect()).await.unwrap();
    assert_eq!(work_off(&engine, 30).await, (0..30).collect::<Vec<_>>());
}

pub(crate) async fn a_higher_priority_is_reserved_first<E: TestEngine>() {
    let engine = E::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    for (number, priority) in [(1, Priority::Low), (2, Priority::Normal), (3, Priority::High), (4, Priority::High)] {
        jobs.push_with(Mail { number }, PushOptions::default().priority(priority)).await.unwrap();
    }
    assert_eq!(work_off(&engine, 4).await, [3, 4, 2, 1]);
}
