//! The metrics, for Prometheus and as JSON.

use std::time::Duration;

use postlude::{Task, TaskRegistry};
use postlude_console::{StatusRouter, TaskCollector};
use serde_json::json;

use crate::support::{get, serve_status};

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
    assert_eq!(value("postlude_tasks_running"), 0.0);
    assert!(text.ends_with("# EOF\n"));

    let metrics = registry.metrics();
    assert_eq!(metrics.total_queued.as_secs_f64().round(), 4.0);
    assert_eq!(metrics.queued_quantile(1.0).as_secs(), 3);
    let line = metrics.to_string();
    assert!(line.starts_with("3 added: 0 pending, 0 running, 3 completed, 0 failed"), "{line}");
}

#[tokio::test]
async fn each_family_is_written_once() {
    let registry = TaskRegistry::new();
    let text = TaskCollector::new(registry).text();
    let mut families: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let count = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), count, "{text}");
}
