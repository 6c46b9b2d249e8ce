//! 12. What an engine can do is tried, and not only said.

use std::time::{Duration, SystemTime};

use postlude::Priority;
use postlude_jobs::{Jobs, Page, PushOptions, Queue};

use crate::{engine::TestEngine, support::Mail};

/// Tries each capability, and compares it with what the engine says and with the table of the guide.
pub(crate) async fn table<E: TestEngine>() {
    let engine = E::create().await;
    let queue = engine.queue().await;
    let can = queue.capabilities();
    let jobs = Jobs::producer(queue.clone()).await.unwrap();
    let push = async |options: PushOptions| jobs.push_with(Mail::default(), options).await;
    let options = PushOptions::default;
    // A handle remembers the figures for a while.
    let waiting = async || Jobs::producer(queue.clone()).await.unwrap().stats().await.unwrap().total().waiting;
    let id = push(options()).await.unwrap();
    let tried = [
        ("priority", can.priority, push(options().priority(Priority::High)).await.is_ok()),
        ("delay", can.delay, push(options().delay(Duration::from_secs(60))).await.is_ok()),
        ("arbitrary time", can.arbitrary_time, push(options().at(SystemTime::now())).await.is_ok()),
        ("unique", can.unique, {
            let first = push(options().unique("key")).await;
            first.is_ok() && first.ok() == push(options().unique("key")).await.ok()
        }),
        ("push twice with one id", can.push_once, {
            let before = waiting().await;
            let again = push(options().id(id)).await;
            again.is_ok() && before == waiting().await
        }),
        ("find", can.find, matches!(jobs.find(id).await, Ok(Some(_)))),
        ("cancel", can.cancel, matches!(jobs.cancel(id).await, Ok(true))),
        ("pause", can.pause, matches!(jobs.pause("mail").await, Ok(true))),
        ("dead list by id", can.dead_by_id, {
            engine.execute("UPDATE postlude_jobs SET state = 4, finished_at = 1 WHERE unique_key = 'key'").await;
            let dead = jobs.dead(Page::default()).await.unwrap_or_default();
            dead.len() == 1 && matches!(jobs.replay(dead[0].id).await, Ok(true))
        }),
        ("transactional push", can.transactional_push, {
            let new = jobs.prepare(Mail::default()).unwrap();
            let id = E::push_in(&queue, &engine, new, true).await;
            matches!(jobs.find(id).await, Ok(Some(_)))
        }),
        ("cron", can.cron, {
            let registry = postlude::TaskRegistry::new();
            let builder = Jobs::builder(queue.clone(), registry).cron::<Mail>("0 0 1 1 *");
            builder.handle(async |_: Mail| ()).start().await.is_ok()
        }),
    ];
    let guide = include_str!("../../docs/jobs.md");
    let header = guide.lines().find(|line| line.starts_with("| can |")).expect("the guide has the table");
    let column = header.split('|').position(|cell| cell.trim().eq_ignore_ascii_case(E::NAME)).expect("a column");
    for (capability, said, works) in tried {
        assert_eq!(said, works, "{capability}");
        let row = guide.lines().find(|line| line.starts_with(&format!("| {capability} |"))).expect(capability);
        let cell = row.split('|').nth(column).unwrap().trim();
        assert_eq!(cell, if works { "yes" } else { "no" }, "the guide says of {capability}");
    }
}
