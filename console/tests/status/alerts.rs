//! What an operator is alerted of: each shows in a figure, in a line of the log and, if wished, in health.

use std::{
    io,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use axum::{Router, body::Body, routing::post};
use postlude::{RejectReason, Task, TaskLayer, TaskRegistry, TaskSet};
use postlude_console::StatusRouter;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{Answer, get, hanging, log_on_every_thread, serve, serve_status};

/// The lines of the log so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self, needle: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(needle)).map(str::to_owned).collect()
    }

    /// Waits for this many lines.
    async fn until(&self, needle: &str, count: usize) -> Vec<String> {
        while self.lines(needle).len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.lines(needle)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a scenario on one thread, with a log.
fn scenario(scenario: impl AsyncFnOnce(Log)) {
    log_on_every_thread();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(scenario(log));
        runtime.shutdown_background();
    });
}

async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

async fn metrics(address: std::net::SocketAddr) -> (Value, String) {
    (get(address, "/admin/metrics.json").await.json(), get(address, "/admin/metrics").await.body)
}

fn value(text: &str, series: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{series}: {text}")).parse().unwrap()
}

fn assert_problem(health: &Answer, problem: &str) {
    assert_eq!(health.status, 503, "{health:?}");
    assert!(health.body.contains(problem), "{problem}: {health:?}");
}

#[test]
fn a_task_that_hangs() {
    scenario(async |log| {
        let minute = Duration::from_secs(60);
        let registry = TaskRegistry::builder().warn_running_after(minute).build().unwrap();
        let address = serve_status(StatusRouter::new(registry.clone()).max_running_age(minute)).await;
        let hung = registry.spawn(hanging());
        tokio::task::yield_now().await;
        assert_eq!(get(address, "/admin/health").await.status, 200);
        pass(61).await;
        assert_problem(&get(address, "/admin/health").await, "running for");
        let (json, text) = metrics(address).await;
        for age in [
            json["by_name"]["hanging"]["oldest_running"].as_f64().unwrap(),
            json["oldest_running"].as_f64().unwrap(),
            value(&text, "postlude_oldest_running_seconds{name=\"hanging\"}"),
        ] {
            assert_eq!(age.trunc(), 61.0);
        }
        let [line] = &log.until("running for long", 1).await[..] else { panic!("one line") };
        assert!(
            line.contains(" WARN ") && line.contains("`hanging` (") && line.contains(&hung.id().to_string()),
            "{line}"
        );
        pass(62).await;
        log.until("running for long", 2).await;
        pass(62).await;
        tokio::task::yield_now().await;
        assert_eq!(log.lines("running for long").len(), 2, "at each doubling");
        hung.abort();
        hung.await;
        assert_eq!(get(address, "/admin/health").await.status, 200);
        assert_eq!(metrics(address).await.0["oldest_running"].as_f64(), Some(0.0));
    });
}

#[test]
fn an_overload_that_discards() {
    scenario(async |log| {
        let registry = TaskRegistry::builder().capacity(2).build().unwrap();
        let address = serve_status(StatusRouter::new(registry.clone())).await;
        let running = [registry.spawn(hanging()), registry.spawn(hanging())];
        for _ in 0..3 {
            registry.spawn(Task::new(async {}).named("mail"));
        }
        let handed_back = registry.try_spawn(Task::new(async {}).named("mail")).unwrap_err();
        assert_eq!(handed_back.reason(), RejectReason::Capacity, "and is not counted");
        let cleared = registry.set();
        running.iter().for_each(|handle| _ = handle.abort());
        registry.wait_idle().await;
        cleared.add(Task::new(async {}).named("mail"));
        cleared.clear();
        registry.spawn(hanging());
        registry.spawn(hanging());

        assert_problem(&get(address, "/admin/health").await, "capacity");
        let (json, text) = metrics(address).await;
        assert_eq!((json["live"].as_u64(), json["capacity"].as_u64()), (Some(2), Some(2)));
        assert_eq!((value(&text, "postlude_live_tasks"), value(&text, "postlude_capacity")), (2.0, 2.0));
        let mail = &json["by_name"]["mail"];
        assert_eq!((mail["discarded"].as_u64(), mail["discarded_by"]["capacity"].as_u64()), (Some(4), Some(3)));
        assert_eq!((mail["discarded_by"]["cleared"].as_u64(), mail["lost"].as_u64()), (Some(1), Some(3)));
        assert_eq!((json["discarded_by"]["capacity"].as_u64(), json["lost"].as_u64()), (Some(3), Some(5)));
        let series = |reason| format!("postlude_tasks_discarded_total{{name=\"mail\",reason=\"{reason}\"}}");
        assert_eq!(["capacity", "cleared", "closed"].map(|reason| value(&text, &series(reason))), [3.0, 1.0, 0.0]);
        assert_eq!(value(&text, "postlude_tasks_lost_total{name=\"mail\"}"), 3.0);
        assert_eq!(value(&text, "postlude_tasks_lost_total{name=\"hanging\"}"), 2.0, "aborted");
        let lines = log.lines("task discarded");
        let at = |level: &str| lines.iter().filter(|line| line.contains(level) && line.contains("mail")).count();
        assert_eq!((at("ERROR"), at("WARN")), (3, 1), "{lines:?}");
    });
}

#[test]
fn a_stuck_closure() {
    scenario(async |log| {
        let registry = TaskRegistry::new();
        let address = serve_status(StatusRouter::new(registry.clone()).max_stuck(0)).await;
        let (release, held) = mpsc::channel::<()>();
        let work = Task::blocking(move || _ = held.recv()).named("resize").timeout(Duration::from_millis(20));
        let outcome = registry.spawn(work).await;
        assert_eq!(outcome.label(), "timed_out");
        // After a second it counts as stuck.
        let [line] = &log.until("task is stuck", 1).await[..] else { panic!("one line") };
        assert!(line.contains(" WARN ") && line.contains("name=\"resize\"") && line.contains("alerts.rs"), "{line}");
        assert_problem(&get(address, "/admin/health").await, "the work of 1 tasks still runs");
        let (json, text) = metrics(address).await;
        assert_eq!((json["stuck"].as_u64(), json["by_name"]["resize"]["stuck"].as_u64()), (Some(1), Some(1)));
        assert_eq!(value(&text, "postlude_tasks_stuck{name=\"resize\"}"), 1.0);
        drop(release);
        log.until("no longer stuck", 1).await;
        assert_eq!(get(address, "/admin/health").await.status, 200);
        assert_eq!(value(&metrics(address).await.1, "postlude_tasks_stuck{name=\"resize\"}"), 0.0);
    });
}

#[test]
fn sets_that_clients_hold() {
    scenario(async |log| {
        let minute = Duration::from_secs(60);
        let registry = TaskRegistry::builder().warn_open_after(minute).build().unwrap();
        let status = serve_status(StatusRouter::new(registry.clone()).max_open_age(minute)).await;
        // A stream without end, as long as its client likes.
        let stream = |tasks: TaskSet| async move {
            tasks.add(Task::new(async {}).named("audit_log"));
            Body::from_stream(futures::stream::pending::<Result<String, io::Error>>())
        };
        let app = Router::new().route("/events", post(stream)).layer(TaskLayer::new(registry.clone()));
        let address = serve(app).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"POST /events HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            clients.push(client);
        }
        let collecting = registry.set();
        collecting.add(async {});
        while registry.metrics().held_sets < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(get(status, "/admin/health").await.status, 200);
        pass(61).await;
        assert_problem(&get(status, "/admin/health").await, "a client that takes its response");
        let (json, text) = metrics(status).await;
        assert_eq!((json["open_sets"].as_u64(), json["held_sets"].as_u64()), (Some(4), Some(3)));
        assert_eq!(["postlude_open_sets", "postlude_held_sets"].map(|series| value(&text, series)), [4.0, 3.0]);
        assert_eq!(value(&text, "postlude_oldest_open_seconds").trunc(), 61.0);
        assert_eq!(json["oldest_open"].as_f64().unwrap().trunc(), 61.0);
        assert_eq!(json["oldest_pending"].as_f64(), Some(0.0), "nothing waits for the service");
        let lines = log.until("open for long", 4).await;
        let held = |line: &&String| line.contains("its response is held") && line.contains("`audit_log`");
        assert_eq!(lines.iter().filter(held).count(), 3, "{lines:?}");
        drop((clients, collecting));
        while registry.metrics().open_sets > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(get(status, "/admin/health").await.status, 200);
        assert_eq!(value(&metrics(status).await.1, "postlude_oldest_open_seconds"), 0.0);
    });
}
