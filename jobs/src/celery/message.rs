//! A task as a message: version 2 of Celery's protocol.
//!
//! The facts are from Celery's documentation of the protocol, and from what Celery 5.7 sends and reads.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::{
    error::SendErrorKind,
    task::{CeleryTask, When},
};
use crate::model::id::JobId;

/// What stands for arguments that are not shown.
const HIDDEN: &str = "<hidden>";

/// A message, before it has the form of a broker.
pub(super) struct Message {
    pub(super) id: JobId,
    pub(super) queue: String,
    pub(super) priority: Option<u8>,
    pub(super) headers: Map<String, Value>,
    /// JSON.
    pub(super) body: Vec<u8>,
}

/// What the producer adds.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) queue: &'a str,
    pub(super) origin: &'a str,
    pub(super) now: SystemTime,
    /// The ids of the tasks, one for each.
    pub(super) ids: &'a [JobId],
}

impl Message {
    /// The message of the first task, with the others as its chain.
    pub(super) fn new(context: Context<'_>, task: CeleryTask, rest: Vec<CeleryTask>) -> Result<Self, SendErrorKind> {
        let (Some(&id), Some(later)) = (context.ids.first(), context.ids.get(1..)) else {
            return Err(SendErrorKind::EmptyChain);
        };
        let mut steps = Vec::with_capacity(rest.len());
        for (step, id) in rest.into_iter().zip(later) {
            steps.push(signature(step, *id)?);
        }
        // Workers take the next step from the end.
        steps.reverse();
        let chain = if steps.is_empty() { Value::Null } else { Value::Array(steps) };
        let headers = headers(context, &task, id)?;
        let embed = json!({ "callbacks": null, "errbacks": null, "chain": chain, "chord": null });
        let body = json!([task.args, task.kwargs, embed]).to_string().into_bytes();
        let queue = task.options.queue.unwrap_or_else(|| context.queue.to_owned());
        Ok(Self { id, queue, priority: task.options.priority, headers, body })
    }
}

fn headers(context: Context<'_>, task: &CeleryTask, id: JobId) -> Result<Map<String, Value>, SendErrorKind> {
    let options = &task.options;
    let id = id.to_string();
    let entries = [
        ("lang", json!("py")),
        ("task", json!(task.name)),
        ("id", json!(id)),
        ("root_id", json!(id)),
        ("parent_id", Value::Null),
        ("group", Value::Null),
        ("group_index", Value::Null),
        ("shadow", Value::Null),
        ("eta", time(context.now, options.due)?),
        ("expires", time(context.now, options.expires)?),
        ("retries", json!(0)),
        ("timelimit", json!([options.time_limit.map(seconds), options.soft_time_limit.map(seconds)])),
        ("argsrepr", json!(options.args_repr.as_deref().unwrap_or(HIDDEN))),
        ("kwargsrepr", json!(options.kwargs_repr.as_deref().unwrap_or(HIDDEN))),
        ("origin", json!(context.origin)),
        // `None` leaves it to the task.
        ("ignore_result", if options.ignores_result { json!(true) } else { Value::Null }),
        ("replaced_task_nesting", json!(0)),
        ("stamped_headers", Value::Null),
        ("stamps", json!({})),
    ];
    let own = options.headers.iter().map(|(name, value)| (name.clone(), json!(value)));
    Ok(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(own).collect())
}

/// A later step of a chain, which a worker sends.
fn signature(task: CeleryTask, id: JobId) -> Result<Value, SendErrorKind> {
    let options = task.options;
    let hidden = || HIDDEN.to_owned();
    let mut entries = Map::new();
    let mut set = |name: &str, value: Value| entries.insert(name.to_owned(), value);
    set("task_id", json!(id.to_string()));
    set("argsrepr", json!(options.args_repr.unwrap_or_else(hidden)));
    set("kwargsrepr", json!(options.kwargs_repr.unwrap_or_else(hidden)));
    if let Some(queue) = options.queue {
        set("queue", json!(queue));
    }
    match options.due {
        Some(When::After(delay)) => drop(set("countdown", json!(delay.as_secs_f64()))),
        Some(When::At(at)) => drop(set("eta", iso8601(at)?)),
        None => {}
    }
    match options.expires {
        Some(When::After(time)) => drop(set("expires", json!(time.as_secs_f64()))),
        Some(When::At(at)) => drop(set("expires", iso8601(at)?)),
        None => {}
    }
    for (name, limit) in [("time_limit", options.time_limit), ("soft_time_limit", options.soft_time_limit)] {
        if let Some(limit) = limit {
            set(name, seconds(limit));
        }
    }
    if options.ignores_result {
        set("ignore_result", json!(true));
    }
    if !options.headers.is_empty() {
        set("headers", json!(options.headers));
    }
    Ok(json!({
        "task": task.name,
        "args": task.args,
        "kwargs": task.kwargs,
        "options": entries,
        "subtask_type": null,
        "immutable": options.is_immutable,
    }))
}

/// In how long a task is due.
pub(super) fn delay(now: SystemTime, due: Option<When>) -> Duration {
    match due {
        Some(When::After(delay)) => delay,
        Some(When::At(at)) => at.duration_since(now).unwrap_or_default(),
        None => Duration::ZERO,
    }
}

/// Whole seconds as an integer, as Python's users write them.
fn seconds(limit: Duration) -> Value {
    if limit.subsec_nanos() == 0 { json!(limit.as_secs()) } else { json!(limit.as_secs_f64()) }
}

fn time(now: SystemTime, when: Option<When>) -> Result<Value, SendErrorKind> {
    match when {
        None => Ok(Value::Null),
        Some(When::At(at)) => iso8601(at),
        Some(When::After(delay)) => iso8601(now.checked_add(delay).ok_or_else(beyond_python)?),
    }
}

fn beyond_python() -> SendErrorKind {
    SendErrorKind::Option(
        "a time of it is before the year 1 or after the year 9999, which Python can't read".to_owned(),
    )
}

/// With an offset, because a time without one is in the time zone of the worker, and with microseconds, because Python
/// knows no shorter time.
fn iso8601(at: SystemTime) -> Result<Value, SendErrorKind> {
    let at = jiff::Timestamp::try_from(at).map_err(|_| beyond_python())?.to_zoned(jiff::tz::TimeZone::UTC);
    if !(1..=9999).contains(&at.year()) {
        return Err(beyond_python());
    }
    Ok(json!(at.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const NOW: Duration = Duration::from_millis(1_700_000_000_250);

    fn message(tasks: Vec<CeleryTask>) -> Result<(Message, Value), SendErrorKind> {
        let ids: Vec<_> = (1..=tasks.len()).map(|bits| JobId::from_u128(bits as u128)).collect();
        let context = Context { queue: "celery", origin: "shop@web", now: UNIX_EPOCH + NOW, ids: &ids };
        let mut tasks = tasks.into_iter();
        let message = Message::new(context, tasks.next().expect("a task"), tasks.collect())?;
        let body = serde_json::from_slice(&message.body).unwrap();
        Ok((message, body))
    }

    #[test]
    fn has_the_headers_and_the_body_of_version_2() {
        let task = CeleryTask::new("shop.mail").arg("secret").kwarg("copy", true).queue("mails").priority(3);
        let task = task.countdown(Duration::from_secs(10)).expires_at(UNIX_EPOCH + NOW + Duration::from_secs(3600));
        let task = task.time_limit(Duration::from_secs(30)).soft_time_limit(Duration::from_millis(2500));
        let (message, body) = message(vec![task.header("traceparent", "00")]).unwrap();
        assert_eq!((message.queue.as_str(), message.priority), ("mails", Some(3)));
        let id = "00000000-0000-0000-0000-000000000001";
        let headers = json!({
            "lang": "py", "task": "shop.mail", "id": id, "root_id": id, "parent_id": null, "group": null,
            "group_index": null, "shadow": null, "eta": "2023-11-14T22:13:30.250000+00:00",
            "expires": "2023-11-14T23:13:20.250000+00:00", "retries": 0, "timelimit": [30, 2.5],
            "argsrepr": "<hidden>", "kwargsrepr": "<hidden>", "origin": "shop@web", "ignore_result": null,
            "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}, "traceparent": "00",
        });
        assert_eq!(Value::Object(message.headers), headers);
        let embed = json!({ "callbacks": null, "errbacks": null, "chain": null, "chord": null });
        assert_eq!(body, json!([["secret"], { "copy": true }, embed]));
    }

    #[test]
    fn has_the_steps_of_a_chain_from_the_last_to_the_second() {
        let second = CeleryTask::new("two").immutable().queue("other").countdown(Duration::from_millis(1500));
        let third = CeleryTask::new("three").arg(3).expires_after(Duration::from_secs(9)).args_repr("(3,)");
        let (_, body) = message(vec![CeleryTask::new("one").arg(1), second, third]).unwrap();
        let chain = json!([
            {
                "task": "three", "args": [3], "kwargs": {}, "subtask_type": null, "immutable": false,
                "options": {
                    "task_id": "00000000-0000-0000-0000-000000000003", "expires": 9.0, "argsrepr": "(3,)",
                    "kwargsrepr": "<hidden>",
                },
            },
            {
                "task": "two", "args": [], "kwargs": {}, "subtask_type": null, "immutable": true,
                "options": {
                    "task_id": "00000000-0000-0000-0000-000000000002", "queue": "other", "countdown": 1.5,
                    "argsrepr": "<hidden>", "kwargsrepr": "<hidden>",
                },
            },
        ]);
        assert_eq!(body[2]["chain"], chain);
    }

    #[test]
    fn times_that_python_can_not_read_are_errors() {
        for task in [
            CeleryTask::new("t").countdown(Duration::MAX),
            CeleryTask::new("t").expires_after(Duration::from_secs(400_000_000_000)),
            CeleryTask::new("t").eta(UNIX_EPOCH - Duration::from_secs(100_000_000_000)),
        ] {
            let error = message(vec![task]).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("year"), "{error}");
        }
    }
}
