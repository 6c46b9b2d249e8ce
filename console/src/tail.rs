//! The latest events of tasks: read once for all who look, and not at all while nobody does.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::body::Bytes;
use futures_util::stream::{self, Stream};
use parking_lot::Mutex;
use postlude::{TaskEvent, TaskEvents, TaskRegistry};
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};

/// How many events are kept.
const MAX_KEPT: usize = 1_000;
/// Events are read for this long, then sent together.
const EVERY: Duration = Duration::from_millis(250);
/// How many events are read in that time. When there are more, none is read until it is over.
const MAX_READ: usize = 100;
/// Events are read for this long after the last one who looked.
const READ_FOR: Duration = Duration::from_secs(30);

/// The tail of the events, which its readers share.
#[derive(Debug)]
pub(crate) struct Tail {
    state: Mutex<State>,
    /// The number of the next event.
    next: watch::Sender<u64>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct State {
    events: VecDeque<Arc<RawValue>>,
    /// The number of the first event that is kept, from 1.
    first: u64,
    looked_at: Instant,
}

/// Some events, and where to go on.
#[derive(serde::Serialize)]
pub(crate) struct Events {
    /// Whether some are not in the list: there were too many, or the reader was too slow.
    missed: bool,
    events: Vec<Arc<RawValue>>,
    /// Send it back as `after`.
    pub(crate) next: u64,
}

impl Tail {
    pub(crate) fn new() -> Self {
        let state = State { events: VecDeque::new(), first: 1, looked_at: Instant::now() };
        Self { state: Mutex::new(state), next: watch::Sender::new(1), task: Mutex::default() }
    }

    /// Starts to read the events, unless that is being done.
    #[expect(clippy::disallowed_methods, reason = "a reader of events is no task of its own, and may be lost")]
    pub(crate) fn start(self: &Arc<Self>, registry: &TaskRegistry) {
        self.state.lock().looked_at = Instant::now();
        let mut task = self.task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            // Subscribed here, so that nothing is missed that happens after the request.
            *task = Some(tokio::spawn(read(Arc::downgrade(self), registry.clone(), registry.subscribe())));
        }
    }

    /// The events from number `next` on; the latest ones if that is 0.
    pub(crate) fn from(&self, next: u64) -> Events {
        let mut state = self.state.lock();
        state.looked_at = Instant::now();
        let end = state.first + state.events.len() as u64;
        // A number of an earlier run may be larger than all.
        let from = if next > end { state.first } else { next.max(state.first) };
        let skip = usize::try_from(from - state.first).unwrap_or(usize::MAX);
        let events = state.events.iter().skip(skip).cloned().collect();
        Events { missed: next != 0 && from != next, events, next: end }
    }

    /// The events from number `next` on, as server-sent events.
    pub(crate) fn stream(self: &Arc<Self>, next: u64) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
        let (tail, news) = (Arc::clone(self), self.next.subscribe());
        stream::unfold((tail, news, next, true), async |(tail, mut news, next, is_first)| {
            if !is_first {
                news.changed().await.ok()?;
            }
            news.mark_unchanged();
            let events = tail.from(next);
            let next = events.next;
            let json = serde_json::to_string(&events).unwrap_or_default();
            let event = Bytes::from(format!("event: tasks\nid: {next}\ndata: {json}\n\n"));
            Some((Ok(event), (tail, news, next, false)))
        })
    }

    fn push(&self, events: Vec<Arc<RawValue>>) {
        let mut state = self.state.lock();
        state.events.extend(events);
        let surplus = state.events.len().saturating_sub(MAX_KEPT);
        state.events.drain(..surplus);
        state.first += surplus as u64;
        let next = state.first + state.events.len() as u64;
        drop(state);
        self.next.send_replace(next);
    }

    fn is_looked_at(&self) -> bool {
        self.next.receiver_count() > 0 || self.state.lock().looked_at.elapsed() < READ_FOR
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

/// Reads events until nobody has looked for a while.
async fn read(tail: Weak<Tail>, registry: TaskRegistry, first: TaskEvents) {
    let mut events = Some(first);
    loop {
        let until = Instant::now() + EVERY;
        // After a time with too many events: those that have happened meanwhile are not read.
        let mut from = events.take().unwrap_or_else(|| registry.subscribe());
        let (mut batch, mut is_full) = (Vec::new(), false);
        while let Ok(event) = timeout_at(until, from.recv()).await {
            let Some(event) = event else { return };
            is_full = batch.len() >= MAX_READ;
            if is_full {
                break;
            }
            batch.extend(as_json(&event));
        }
        if is_full {
            batch.extend(RawValue::from_string(String::from(r#"{"event":"too_many"}"#)).ok().map(Arc::from));
            drop(from);
            sleep_until(until).await;
        } else {
            events = Some(from);
        }
        let Some(tail) = tail.upgrade() else { return };
        if !batch.is_empty() {
            tail.push(batch);
        }
        if !tail.is_looked_at() {
            return;
        }
    }
}

fn as_json(event: &TaskEvent) -> Option<Arc<RawValue>> {
    serde_json::value::to_raw_value(event).ok().map(Arc::from)
}

#[cfg(test)]
mod tests {
    use postlude::Task;

    use super::*;

    async fn names(tail: &Tail, next: u64) -> (Vec<String>, u64, bool) {
        tokio::time::sleep(EVERY * 2).await;
        let Events { missed, events, next } = tail.from(next);
        let text = |event: &Arc<RawValue>| {
            let event: serde_json::Value = serde_json::from_str(event.get()).unwrap();
            format!("{} {}", event["event"].as_str().unwrap(), event["task"]["name"].as_str().unwrap_or_default())
        };
        (events.iter().map(text).collect(), next, missed)
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_numbered_and_a_reader_goes_on_where_it_was() {
        let registry = TaskRegistry::new();
        let tail = Arc::new(Tail::new());
        tail.start(&registry);
        registry.spawn(Task::new(async {}).named("first")).await;
        let (first, next, missed) = names(&tail, 0).await;
        assert_eq!(
            (first, next, missed),
            (["added first", "started first", "finished first"].map(str::to_owned).to_vec(), 4, false)
        );
        assert_eq!(names(&tail, next).await.0, [""; 0]);
        registry.spawn(Task::new(async {}).named("second")).await;
        let (second, next, _) = names(&tail, next).await;
        assert_eq!((second.len(), next), (3, 7));
        assert!(names(&tail, 4711).await.2, "a number of another process");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_read_in_part_and_said_so() {
        let registry = TaskRegistry::new();
        let tail = Arc::new(Tail::new());
        tail.start(&registry);
        for _ in 0..20 {
            for _ in 0..1_000 {
                registry.spawn(Task::new(async {}).named("flood")).await;
            }
            tokio::time::sleep(EVERY).await;
        }
        let (events, next, _) = names(&tail, 0).await;
        assert!(events.len() <= MAX_KEPT && next <= 1 + 22 * (MAX_READ as u64 + 1), "{} {next}", events.len());
        assert!(events.iter().any(|event| event.starts_with("too_many")));
        let (late, _, missed) = names(&tail, 2).await;
        assert_eq!((late.len(), missed), (MAX_KEPT, true));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_while_nobody_looks() {
        let registry = TaskRegistry::new();
        let tail = Arc::new(Tail::new());
        tail.start(&registry);
        tokio::time::sleep(READ_FOR + EVERY * 2).await;
        assert!(tail.task.lock().as_ref().unwrap().is_finished());
        registry.spawn(Task::new(async {}).named("unseen")).await;
        tail.start(&registry);
        registry.spawn(Task::new(async {}).named("seen")).await;
        assert_eq!(names(&tail, 0).await.0.len(), 3);
    }
}
