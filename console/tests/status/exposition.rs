//! The metrics, for Prometheus and as JSON.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use postlude::{Profile, Task, TaskLayer, TaskRegistry, TaskReport};
use postlude_console::{StatusRouter, TaskCollector};
use serde_json::json;

use crate::support::{dead, get, hanging, serve, serve_status};

#[tokio::test]
async fn names_are_escaped() {
    let registry = TaskRegistry::new();
    registry.spawn(Task::new(async {}).named("a \"quoted\"\nname \\ of {two} lines, ü")).await;
    let address = serve_status(StatusRouter::new(registry)).await;
    let json = get(address, "/admin/metrics.json").await.json();
    assert_eq!(json["by_name"]["a \"quoted\"\nname \\ of {two} lines, ü"]["completed"], json!(1));
    let text = get(address, "/admin/metrics").await;
    assert!(text.head.contains(TaskCollector::CONTENT_TYPE), "{text:?}");
    let line = r#"postlude_tasks_total{name="a \"quoted\"\nname \\ of {two} lines, ü",outcome="completed"} 1"#;
    assert!(text.body.lines().any(|other| other == line), "{}", text.body);
}

#[tokio::test(start_paused = true)]
async fn histograms_have_counts_sums_and_buckets() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    for seconds in [1, 2, 8] {
        let work = async move { tokio::time::sleep(Duration::from_secs(seconds)).await };
        registry.spawn(Task::new(work).named("work"));
    }
    registry.wait_idle().await;
    let text = TaskCollector::new(registry.clone()).text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    };
    let run = |le: &str| value(&format!("postlude_task_run_seconds_bucket{{le=\"{le}\",name=\"work\"}}"));
    assert_eq!([run("0.268435455"), run("1.073741823"), run("4.294967295"), run("+Inf")], [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(value("postlude_task_run_seconds_count{name=\"work\"}"), 3.0);
    assert_eq!(value("postlude_task_run_seconds_sum{name=\"work\"}").round(), 11.0);
    assert_eq!(value("postlude_task_wait_seconds_sum{name=\"work\"}").round(), 4.0, "0, 1 and 3");
    assert_eq!(value("postlude_tasks_added_total"), 3.0);
    assert_eq!(value("postlude_tasks_running{name=\"work\"}"), 0.0);
    assert!(text.ends_with("# EOF\n"));

    let metrics = registry.metrics();
    assert_eq!(metrics.total_queued.as_secs_f64().round(), 4.0);
    assert_eq!(metrics.queued_quantile(1.0).as_secs(), 3);
    let line = metrics.to_string();
    assert!(line.starts_with("3 added: 0 pending, 0 running, 3 completed, 0 failed"), "{line}");
}

#[tokio::test]
async fn profiles_show_only_if_they_are_on() {
    let probe = std::sync::atomic::AtomicU64::new(0);
    let allocations = move || probe.fetch_add(100, std::sync::atomic::Ordering::Relaxed);
    let profile = Profile::default().slow_poll(Duration::from_millis(1)).allocations(allocations);
    let on = TaskRegistry::builder().profile(profile).build().unwrap();
    let slow = async {
        std::thread::sleep(Duration::from_millis(1));
        tokio::task::yield_now().await;
    };
    on.spawn(Task::new(slow).named("slow")).await;
    on.spawn(Task::blocking(|| ()).named("closure")).await;
    let off = TaskRegistry::new();
    off.spawn(Task::new(async {}).named("slow")).await;
    assert!(!TaskCollector::new(off.clone()).text().contains("_poll"));
    let text = TaskCollector::labelled([("off", off), ("on", on.clone())]).text();
    let slow = on.metrics().by_name()["slow"].profile.clone().unwrap();
    let closure = on.metrics().by_name()["closure"].profile.clone().unwrap();
    let series = |metric: &str, name: &str| format!("{metric}{{name=\"{name}\",registry=\"on\"}}");
    let mut expected = vec![
        (series("postlude_task_polls_total", "slow"), 2.0),
        (series("postlude_task_polls_total", "closure"), 0.0),
        (series("postlude_slow_polls_total", "slow"), 1.0),
        (series("postlude_task_allocated_bytes_total", "slow"), 200.0),
        (series("postlude_task_busy_seconds_total", "slow"), slow.busy.as_secs_f64()),
        (series("postlude_task_busy_seconds_total", "closure"), closure.busy.as_secs_f64()),
        (series("postlude_task_idle_seconds_total", "slow"), slow.idle.as_secs_f64()),
        (series("postlude_task_scheduled_seconds_total", "slow"), slow.scheduled.as_secs_f64()),
        (series("postlude_task_poll_seconds_count", "slow"), 2.0),
        (series("postlude_task_poll_seconds_sum", "slow"), slow.busy.as_secs_f64()),
        (series("postlude_task_schedule_delay_seconds_count", "slow"), 1.0),
    ];
    expected.extend(closure.cpu.map(|cpu| (series("postlude_task_cpu_seconds_total", "closure"), cpu.as_secs_f64())));
    for (series, value) in expected {
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        assert_eq!(line.map(|line| line.trim().parse()), Some(Ok(value)), "{series}: {text}");
    }
    assert!(!text.contains(&series("postlude_task_cpu_seconds_total", "slow")), "it is no closure");
    let of_off = text.lines().filter(|line| line.contains("registry=\"off\""));
    assert!(of_off.clone().count() > 0 && of_off.clone().all(|line| !line.contains("_poll")), "{text}");
    let bounds = text.lines().filter(|line| line.starts_with("postlude_task_poll_seconds_bucket"));
    assert!(bounds.clone().any(|line| line.contains("le=\"0.000001023\"")), "{text}");
    assert_eq!(bounds.filter(|line| line.contains("\"slow\"")).count(), 26);
    assert_eq!(text.lines().filter(|line| *line == "# UNIT postlude_task_allocated_bytes bytes").count(), 1);
}

#[tokio::test]
async fn a_paused_and_a_limited_name_show() {
    let registry = TaskRegistry::builder().limit_by_key("report", 2).build().unwrap();
    registry.pause("mail");
    registry.set_limit("report", 3).unwrap();
    let paused = registry.spawn(Task::new(async {}).named("mail"));
    let running = registry.spawn(Task::new(std::future::pending::<()>()).named("report"));
    tokio::task::yield_now().await;
    let text = TaskCollector::new(registry.clone()).text();
    let of_names = text.lines().filter(|line| line.starts_with("postlude_name_")).collect::<Vec<_>>();
    assert_eq!(
        of_names,
        [
            r#"postlude_name_paused{name="mail"} 1"#,
            r#"postlude_name_paused{name="report"} 0"#,
            r#"postlude_name_limit{name="report"} 3"#,
            r#"postlude_name_limit_by_key{name="report"} 2"#,
            r#"postlude_name_in_use{name="report"} 1"#,
        ]
    );

    let address = serve_status(StatusRouter::new(registry)).await;
    let by_name = &get(address, "/admin/metrics.json").await.json()["by_name"];
    let of_name = |name: &str| ["paused", "limit", "in_use"].map(|field| by_name[name][field].clone());
    assert_eq!(of_name("mail"), [json!(true), json!(null), json!(0)]);
    assert_eq!(of_name("report"), [json!(false), json!(3), json!(1)]);
    assert_eq!(get(address, "/admin/tasks?state=paused").await.ids(), [paused.id().to_external()]);
    assert_eq!(get(address, "/admin/tasks?state=paused&name=report").await.ids(), [""; 0]);
    let task = get(address, &format!("/admin/tasks/{}", running.id().to_external())).await.json();
    assert_eq!((&task["state"], &task["paused"]), (&json!("running"), &json!(false)));
}

/// The families that are described, in the order of the alphabet.
fn families(text: &str) -> Vec<&str> {
    let mut families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    families.sort_unstable();
    families
}

/// The series with a label.
fn series<'a>(text: &'a str, label: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter(move |line| line.contains(label))
}

#[tokio::test]
async fn each_family_is_written_once_for_several_registries() {
    let registries = ["mails", "reports", "a \"third\""].map(|label| (label, TaskRegistry::new()));
    for (index, (_, registry)) in registries.iter().enumerate() {
        for _ in 0..=index {
            registry.spawn(Task::new(async {}).named("mail")).await;
        }
    }
    let alone = TaskCollector::new(registries[0].1.clone()).text();
    let together = TaskCollector::labelled(registries).text();
    for text in [&alone, &together] {
        let mut once = families(text);
        once.dedup();
        assert_eq!(families(text), once, "{text}");
    }
    assert_eq!(families(&alone), families(&together));
    let plain = alone.lines().filter(|line| !line.starts_with('#')).count();
    for (label, count) in [("mails", 1), ("reports", 2), (r#"a \"third\""#, 3)] {
        let label = format!("registry=\"{label}\"");
        assert_eq!(series(&together, &label).count(), plain, "as many series as alone");
        let completed = format!("postlude_tasks_total{{name=\"mail\",{label},outcome=\"completed\"}} {count}");
        assert!(together.lines().any(|line| line == completed), "{completed}: {together}");
        let added = format!("postlude_tasks_added_total{{{label}}} {count}");
        assert!(together.lines().any(|line| line == added), "{added}: {together}");
    }
    let all: Vec<_> =
        together.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')).collect();
    let distinct: std::collections::HashSet<_> = all.iter().map(|(series, _)| series).collect();
    assert_eq!(all.len(), distinct.len(), "no series twice");
}

#[tokio::test]
async fn live_tasks_are_counted_by_name_and_the_runtime_is_described() {
    let registry = TaskRegistry::builder().max_concurrent(2).build().unwrap();
    for name in ["mail", "mail", "report"] {
        registry.spawn(Task::new(std::future::pending::<()>()).named(name));
    }
    tokio::task::yield_now().await;
    let address = serve_status(StatusRouter::new(registry)).await;
    let text = get(address, "/admin/metrics").await.body;
    let expected = [
        "postlude_tasks_running{name=\"mail\"} 2",
        "postlude_tasks_pending{name=\"mail\"} 0",
        "postlude_tasks_retrying{name=\"mail\"} 0",
        "postlude_tasks_running{name=\"report\"} 0",
        "postlude_tasks_pending{name=\"report\"} 1",
        "postlude_runtime_workers 1",
        "postlude_log_suppressed_total 0",
    ];
    for line in expected {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    assert!(series(&text, "postlude_runtime_alive_tasks").count() == 3, "described, and one series: {text}");
    let json = get(address, "/admin/metrics.json").await.json();
    let names = &json["by_name"];
    assert_eq!((&names["mail"]["running"], &names["report"]["pending"]), (&json!(2), &json!(1)));
    assert_eq!(json["runtime"]["workers"], json!(1));
}

/// Aborts this many closures. They return when the sender is dropped.
async fn stuck(registry: &TaskRegistry, closures: usize) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (held, (started, has_started)) = (Arc::new(Mutex::new(held)), mpsc::channel());
    for _ in 0..closures {
        let (held, started) = (Arc::clone(&held), started.clone());
        let handle = registry.spawn_blocking(move || {
            started.send(()).unwrap();
            _ = held.lock().unwrap().recv();
        });
        while has_started.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        handle.abort();
    }
    release
}

/// Each figure has a value of its own.
#[tokio::test]
async fn each_figure_is_that_of_the_registry() {
    let hook = |report: &TaskReport| assert!(report.name != "loud", "a bug in a hook");
    let registry = TaskRegistry::builder().capacity(40).dead_letters(3).on_failure(hook).build().unwrap();
    // 10 letters, of which 3 are kept, and 5 panics of the hook.
    for _ in 0..5 {
        dead(&registry).await;
    }
    for _ in 0..5 {
        registry.spawn(Task::new(async { Err::<(), _>("failed") }).named("loud")).await;
    }
    let release = stuck(&registry, 6).await;
    // 10 open sets, and one in which a task waits for 61 s.
    let open: Vec<_> = (0..10).map(|_| registry.set()).collect();
    for set in &open {
        set.add(async {});
    }
    let set = registry.set();
    set.add(hanging());
    set.add(async {});
    let drained = set.drain();
    tokio::time::pause();
    tokio::task::yield_now().await;
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    // 8 requests that were turned away.
    while registry.try_spawn(hanging()).is_ok() {}
    let app = axum::Router::new().route("/", axum::routing::get(|| async {}));
    let address = serve(app.layer(TaskLayer::new(registry.clone()).shed_at_capacity())).await;
    for _ in 0..8 {
        assert_eq!(get(address, "/").await.status, 503);
    }
    // 9 tasks in the queue of the runtime that all workers share.
    let runtime = tokio::runtime::Handle::current();
    let other = runtime.clone();
    std::thread::spawn(move || (0..9).for_each(|_| drop(other.spawn(async {})))).join().unwrap();

    let text = TaskCollector::new(registry.clone()).text();
    let expected = [
        "postlude_dead_letters 3".to_owned(),
        "postlude_dead_letters_evicted_total 7".to_owned(),
        "postlude_hook_panics_total 5".to_owned(),
        "postlude_tasks_stuck{name=\"unnamed\"} 6".to_owned(),
        "postlude_open_sets 10".to_owned(),
        "postlude_requests_shed_total 8".to_owned(),
        "postlude_runtime_workers 1".to_owned(),
        "postlude_runtime_queue_depth 9".to_owned(),
        format!("postlude_runtime_alive_tasks {}", runtime.metrics().num_alive_tasks()),
        "postlude_task_retries_total{name=\"webhook\"} 5".to_owned(),
        format!("postlude_tasks_added_total {}", registry.metrics().added),
    ];
    for line in expected {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    let oldest =
        text.lines().find_map(|line| line.strip_prefix("postlude_oldest_pending_seconds{name=\"unnamed\"} ")).unwrap();
    assert_eq!(oldest.parse::<f64>().unwrap().trunc(), 61.0);
    drop((release, open, drained));
}
