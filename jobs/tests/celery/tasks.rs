//! What Rust sends, Python runs: on each broker.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, SystemTime},
};

use postlude_jobs::{
    Job, JobId,
    celery::{CeleryResult, CeleryState, CeleryTask, SendErrorKind},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    common::until,
    fleet::{Broker, ended, returned, spawn, until_state},
};

pub(crate) async fn arguments_of_every_kind_of_json<B: Broker>() {
    let producer = B::fleet().producer().await;
    let values = json!([
        null, true, 0, -1, i64::MIN, u64::MAX, 1.5, -2e-300, "", "Zürich 🚀 \"quoted\"\n\u{0}", [], [1, [2]], {},
        { "key": { "deep": [null] } }
    ]);
    let Value::Array(list) = values.clone() else { unreachable!("it is an array") };
    let task = list.into_iter().fold(CeleryTask::new("worker.echo"), CeleryTask::arg);
    let named = BTreeMap::from([("ключ", values.clone())]);
    let id = producer.send(task.kwarg("map", &named).kwarg("none", Value::Null)).await.unwrap();
    assert_eq!(returned::<Value>(&producer, id).await, json!([values, { "map": named, "none": null }]));

    let typed = |kind: &str, text: &str| json!({ "__type__": kind, "__value__": text });
    let task = CeleryTask::new("worker.kinds").args((1, 1.0, "text", true, ())).arg([1]).arg(json!({}));
    let task = task.arg(typed("datetime", "2026-11-29T12:00:00+00:00")).arg(typed("decimal", "1.10"));
    let id = producer.send(task).await.unwrap();
    let kinds = ["int", "float", "str", "bool", "NoneType", "list", "dict", "datetime", "Decimal"];
    assert_eq!(returned::<Vec<String>>(&producer, id).await, kinds);
}

#[derive(Serialize, Deserialize)]
struct Invoice {
    order: u64,
    copy: bool,
}

impl Job for Invoice {
    const NAME: &'static str = "worker.invoice";
}

pub(crate) async fn a_job_is_a_task_with_keyword_arguments<B: Broker>() {
    let producer = B::fleet().producer().await;
    let id = producer.push(Invoice { order: 17, copy: true }).await.unwrap();
    assert_eq!(returned::<String>(&producer, id).await, "order 17, copy True");
}

pub(crate) async fn the_request_has_the_options<B: Broker>() {
    let producer = B::fleet().builder().origin("shop@web").connect().await.unwrap();
    let id = JobId::generate();
    let at = SystemTime::now() + Duration::from_secs(3600);
    let task = CeleryTask::new("worker.request").id(id).arg("payload").queue("other").expires_at(at);
    let task = task.header("traceparent", "00-1-2-01").time_limit(Duration::from_secs(60));
    let task = task.soft_time_limit(Duration::from_millis(30_500)).priority(0);
    assert_eq!(producer.send(task.args_repr("(…)")).await.unwrap(), id);
    let request: Value = returned(&producer, id).await;
    let id = json!(id.to_string());
    for (name, value) in [
        ("id", id.clone()),
        ("root_id", id.clone()),
        ("correlation_id", id),
        ("parent_id", Value::Null),
        ("origin", json!("shop@web")),
        ("argsrepr", json!("(…)")),
        ("kwargsrepr", json!("<hidden>")),
        ("timelimit", json!([60, 30.5])),
        ("retries", json!(0)),
        ("lang", json!("py")),
        ("queue", json!("other")),
        ("priority", json!(0)),
        ("eta", Value::Null),
    ] {
        assert_eq!(request[name], value, "{name} in {request}");
    }
    assert_eq!(request["headers"]["traceparent"], "00-1-2-01", "{request}");
}

pub(crate) async fn countdown_and_eta<B: Broker>() {
    let producer = B::fleet().producer().await;
    let task = || CeleryTask::new("worker.is_due");
    let countdown = producer.send(task().countdown(Duration::from_millis(1500))).await.unwrap();
    let eta = producer.send(task().eta(SystemTime::now() + Duration::from_millis(700))).await.unwrap();
    assert!(returned::<bool>(&producer, countdown).await);
    assert!(returned::<bool>(&producer, eta).await);
}

pub(crate) async fn expired_is_revoked<B: Broker>() {
    let producer = B::fleet().producer().await;
    let task = || CeleryTask::new("worker.add").args((1, 2));
    let expired = producer.send(task().expires_after(Duration::ZERO)).await.unwrap();
    assert_eq!(ended::<u8>(&producer, expired).await, CeleryResult::Revoked);
    let in_time = producer.send(task().expires_after(Duration::from_secs(3600))).await.unwrap();
    assert_eq!(returned::<u8>(&producer, in_time).await, 3);
}

/// The numbers of priorities have opposite meanings.
pub(crate) async fn the_more_urgent_runs_first<B: Broker>() {
    let fleet = B::fleet();
    let producer = fleet.builder().queue("ranked").connect().await.unwrap();
    let (log, go_on) = (fleet.path("order"), fleet.path("go-on"));
    let record = |word: &str| CeleryTask::new("worker.record").args((&log, word));
    let first = producer.send(record("first").kwarg("go_on", &go_on)).await.unwrap();
    until("the worker is busy", async || fs::read_to_string(&log).is_ok_and(|lines| lines == "first\n")).await;
    let (urgent, lazy) = if B::NAME == "redis" { (0, 9) } else { (9, 0) };
    let ids = [
        first,
        producer.send(record("lazy").priority(lazy)).await.unwrap(),
        producer.send(record("usual").priority(5)).await.unwrap(),
        producer.send(record("urgent").priority(urgent)).await.unwrap(),
    ];
    fs::write(&go_on, "").unwrap();
    for id in ids {
        returned::<()>(&producer, id).await;
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), "first\nurgent\nusual\nlazy\n");
}

pub(crate) async fn retries_are_of_the_python_side<B: Broker>() {
    let producer = B::fleet().producer().await;
    let id = producer.send(CeleryTask::new("worker.third_time").arg("mail")).await.unwrap();
    assert_eq!(returned::<String>(&producer, id).await, "mail, after 2 retries");

    let id = producer.send(CeleryTask::new("worker.retried_later")).await.unwrap();
    until_state(&producer, id, &CeleryState::Retry).await;
    let CeleryResult::Retry(failure) = producer.result::<()>(id).await.unwrap() else {
        unreachable!("it is tried again");
    };
    assert!(failure.to_string().contains("ValueError: not yet"), "{failure}");
}

pub(crate) async fn a_chain_hands_results_on<B: Broker>() {
    let producer = B::fleet().producer().await;
    let add = || CeleryTask::new("worker.add");
    let ids = producer.send_chain([add().args((2, 2)), add().arg(4), add().arg(8)]).await.unwrap();
    assert_eq!(returned::<u8>(&producer, ids[2]).await, 16);
    assert_eq!((returned::<u8>(&producer, ids[0]).await, returned::<u8>(&producer, ids[1]).await), (4, 8));

    let later = CeleryTask::new("worker.request").arg("payload").immutable().queue("other");
    let later = later.header("traceparent", "00-1-2-01").countdown(Duration::from_millis(100));
    let later = later.expires_after(Duration::from_secs(3600)).time_limit(Duration::from_secs(60));
    let ids = producer.send_chain([add().args((1, 1)), later]).await.unwrap();
    let request: Value = returned(&producer, ids[1]).await;
    let first = json!(ids[0].to_string());
    assert_eq!((&request["root_id"], &request["parent_id"]), (&first, &first), "{request}");
    assert_eq!((&request["queue"], &request["timelimit"]), (&json!("other"), &json!([60, null])), "{request}");
    assert_eq!(request["headers"]["traceparent"], "00-1-2-01", "{request}");
    assert_eq!((&request["argsrepr"], &request["kwargsrepr"]), (&json!("<hidden>"), &json!("<hidden>")), "{request}");
    assert!(request["eta"].is_string() && request["expires"].is_string(), "{request}");
}

pub(crate) async fn a_chain_ends_with_the_step_that_fails<B: Broker>() {
    let producer = B::fleet().producer().await;
    let steps = [CeleryTask::new("worker.fails").arg("no"), CeleryTask::new("worker.add").arg(1)];
    let ids = producer.send_chain(steps).await.unwrap();
    let CeleryResult::Failure(failure) = ended::<()>(&producer, ids[0]).await else {
        unreachable!("it fails")
    };
    assert_eq!(failure.to_string(), "builtins.ValueError: no");
    assert!(failure.traceback().is_some_and(|text| text.contains("raise ValueError")));
    // Celery stores the failure for the steps that never start, too.
    let CeleryResult::Failure(failure) = ended::<()>(&producer, ids[1]).await else {
        unreachable!("it never starts")
    };
    assert_eq!(failure.to_string(), "builtins.ValueError: no");
}

pub(crate) async fn an_unknown_name_is_a_failure<B: Broker>() {
    let producer = B::fleet().producer().await;
    let id = producer.send(CeleryTask::new("worker.nobody_knows_it")).await.unwrap();
    let CeleryResult::Failure(failure) = ended::<()>(&producer, id).await else {
        unreachable!("it fails")
    };
    assert!(failure.exception().contains("NotRegistered"), "{failure}");
    let id = producer.send(CeleryTask::new("worker.add").args((1, 2))).await.unwrap();
    assert_eq!(returned::<u8>(&producer, id).await, 3);
}

pub(crate) async fn a_time_limit_ends_the_task<B: Broker>() {
    let fleet = B::fleet();
    let producer = fleet.producer().await;
    let task = CeleryTask::new("worker.waits").arg(fleet.path("never"));
    let id = producer.send(task.time_limit(Duration::from_secs(1))).await.unwrap();
    let CeleryResult::Failure(failure) = ended::<()>(&producer, id).await else {
        unreachable!("it is ended")
    };
    assert!(failure.exception().contains("TimeLimitExceeded"), "{failure}");
}

pub(crate) async fn states_while_it_runs<B: Broker>() {
    let fleet = B::fleet();
    let producer = fleet.producer().await;
    assert_eq!(producer.state(JobId::generate()).await.unwrap(), CeleryState::Pending);
    let go_on = fleet.path("go-on");
    let own = producer.send(CeleryTask::new("worker.progress").arg(&go_on)).await.unwrap();
    let progress = CeleryState::Other("PROGRESS".to_owned());
    until_state(&producer, own, &progress).await;
    let started = producer.send(CeleryTask::new("worker.waits").arg(&go_on)).await.unwrap();
    until_state(&producer, started, &CeleryState::Started).await;
    assert_eq!(producer.result::<()>(started).await.unwrap(), CeleryResult::Started);
    fs::write(&go_on, "").unwrap();
    returned::<()>(&producer, own).await;
    returned::<()>(&producer, started).await;
    let wrong_type = producer.result::<String>(started).await.unwrap_err().to_string();
    assert!(wrong_type.contains(&started.to_string()), "{wrong_type}");
}

pub(crate) async fn an_ignored_result_is_not_stored<B: Broker>() {
    let fleet = B::fleet();
    let producer = fleet.builder().queue("ranked").connect().await.unwrap();
    let log = fleet.path("ran");
    let record = |word: &str| CeleryTask::new("worker.record").args((&log, word));
    let ignored = producer.send(record("ignored").ignore_result()).await.unwrap();
    // The worker of this queue runs one after the other.
    let other = producer.send(record("other")).await.unwrap();
    returned::<()>(&producer, other).await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "ignored\nother\n");
    assert_eq!(producer.state(ignored).await.unwrap(), CeleryState::Pending);
}

pub(crate) async fn workers_log_no_payload<B: Broker>() {
    let fleet = B::fleet();
    let producer = fleet.producer().await;
    let secret = format!("secret-{}", JobId::generate());
    let task = CeleryTask::new("worker.kinds").arg(&secret);
    let id = producer.send(task).await.unwrap();
    returned::<Vec<String>>(&producer, id).await;
    until("the worker has logged the end", async || fleet.log().contains(&format!("[{id}] succeeded"))).await;
    assert!(!fleet.log().contains(&secret));
}

pub(crate) async fn very_many_at_once<B: Broker>() {
    let producer = B::fleet().producer().await;
    let send = |number: u32| {
        let producer = producer.clone();
        spawn(async move { producer.send(CeleryTask::new("worker.add").args((number, 1))).await.unwrap() })
    };
    let sent: Vec<_> = (0..300).map(send).collect();
    for (number, task) in (1..).zip(sent) {
        assert_eq!(returned::<u32>(&producer, task.await.unwrap()).await, number);
    }
}

pub(crate) async fn mistakes_are_errors_before_anything_is_sent<B: Broker>() {
    let producer = B::fleet().builder().max_payload_bytes(1000).connect().await.unwrap();
    let error = producer.send(CeleryTask::new("worker.add").arg("x".repeat(1000))).await.unwrap_err();
    assert!(matches!(error.kind(), SendErrorKind::TooLarge { .. }), "{error}");
    let error = producer.send(CeleryTask::new("worker.add").queue("q".repeat(300))).await.unwrap_err();
    assert!(matches!(error.kind(), SendErrorKind::Option(_)), "{error}");
    assert!(!error.may_be_stored());
}
