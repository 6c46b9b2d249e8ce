//! `TaskRegistry::serve`: signals end the server, and the tasks of its requests are done first.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path as UrlPath, State},
    response::sse::{Event, Sse},
    routing::{get, post},
};
use futures::{Stream, StreamExt, stream};
use postlude::{TaskLayer, TaskRegistry, TaskSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Test,
    server::{Client, Server, listen, until},
};

pub(crate) const TESTS: &[Test] = &[
    ("serve::sigterm_ends_streams_and_finishes_tasks", sigterm_ends_streams_and_finishes_tasks),
    ("serve::aborts_and_names_tasks_at_deadline", aborts_and_names_tasks_at_deadline),
    ("serve::sigkill_loses_live_tasks_only", sigkill_loses_live_tasks_only),
];

// The server.

#[derive(Clone)]
struct App {
    stop: CancellationToken,
    folder: PathBuf,
}

impl App {
    /// Notes a line in a file, in one write, so that it is there even if the process is killed next.
    fn note(&self, file: &str, line: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.folder.join(file)).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn add(&self, tasks: &TaskSet, name: String, hangs: bool) {
        let app = self.clone();
        self.note("accepted", &name);
        tasks.add(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            app.note("ended", &name);
        });
    }
}

async fn add(State(app): State<App>, UrlPath((kind, name)): UrlPath<(String, String)>, tasks: TaskSet) {
    app.add(&tasks, name, kind == "hang");
}

/// A response that no client of these tests reads to its end.
async fn huge(State(app): State<App>, tasks: TaskSet) -> Body {
    app.add(&tasks, "huge".to_owned(), false);
    Body::from(vec![0; 64 << 20])
}

/// Events without end, which end when the server stops.
async fn events(State(app): State<App>, tasks: TaskSet) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    app.add(&tasks, "events".to_owned(), false);
    let hello = stream::once(async { Ok(Event::default().data("hello")) });
    Sse::new(hello.chain(stream::pending()).take_until(app.stop.cancelled_owned()))
}

#[tokio::main]
async fn serve(folder: &Path, grace: Duration) -> std::io::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stdout).with_ansi(false).init();
    let registry = TaskRegistry::builder().settle(Duration::from_millis(200)).build().unwrap();
    let listener = listen().await?;
    let report = registry
        .serve(grace, |stop| {
            let app = Router::new()
                .route("/{kind}/{name}", post(add))
                .route("/huge", get(huge))
                .route("/events", get(events))
                .with_state(App { stop: stop.clone(), folder: folder.to_owned() })
                .layer(TaskLayer::new(registry.clone()));
            axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
        })
        .await?;
    println!("{report}");
    Ok(())
}

pub(crate) fn child(folder: &str, grace: &str) {
    serve(Path::new(folder), Duration::from_secs(grace.parse().unwrap())).unwrap();
}

// The tests' side.

struct Site {
    server: Server,
    folder: tempfile::TempDir,
}

impl Site {
    fn start(grace: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&["serve", folder.path().to_str().unwrap(), &grace.as_secs().to_string()]);
        Self { server, folder }
    }

    /// Sends a request on a connection of its own and reads the head of the response.
    fn request(&self, method: &str, path: &str) -> Client {
        let mut client = self.server.connect();
        let head = client.request(method, path);
        assert_eq!(head.status, 200, "{head:?}");
        client
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.server.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn noted(&self, file: &str) -> BTreeSet<String> {
        let text = fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn wait_until_ended(&self, names: &[&str]) {
        let ended = || self.noted("ended");
        until(|| names.iter().all(|name| ended().contains(*name)), || format!("only {:?} have ended", ended()));
    }
}

// The tests.

fn sigterm_ends_streams_and_finishes_tasks() {
    // Half of the grace is the server's, whom the stalled client keeps.
    let mut site = Site::start(Duration::from_secs(4));
    let mut events = site.request("GET", "/events");
    let _stalled = site.request("GET", "/huge");
    site.request("POST", "/quick/one");
    site.wait_until_ended(&["one"]);
    assert_eq!(site.noted("ended").len(), 1, "the others wait for their clients");

    site.signal("-TERM");
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: hello"), "the stream has ended: {rest}");
    let report = site.server.wait_for("shut down in");
    assert!(report.contains(" 0 aborted, 0 discarded, 0 stuck"), "{report}");
    assert!(site.server.process.wait().unwrap().success());
    assert_eq!(site.noted("ended"), site.noted("accepted"));
    assert_eq!(site.noted("ended").len(), 3);
}

fn aborts_and_names_tasks_at_deadline() {
    let mut site = Site::start(Duration::from_secs(1));
    site.request("POST", "/hang/one");
    site.request("POST", "/quick/two");
    site.wait_until_ended(&["two"]);
    site.signal("-INT");
    let report = site.server.wait_for("shut down in");
    assert!(report.contains("1 aborted, 0 discarded, 0 stuck"), "{report}");
    assert!(site.server.wait_for("aborted: task").contains(file!()));
    assert!(site.server.process.wait().unwrap().success());
}

fn sigkill_loses_live_tasks_only() {
    let mut site = Site::start(Duration::from_secs(20));
    let quick: Vec<_> = (0..50).map(|number| format!("quick{number}")).collect();
    for name in &quick {
        site.request("POST", &format!("/quick/{name}"));
    }
    for number in 0..5 {
        site.request("POST", &format!("/hang/{number}"));
    }
    site.wait_until_ended(&quick.iter().map(String::as_str).collect::<Vec<_>>());
    site.server.process.kill().unwrap();
    site.server.process.wait().unwrap();
    let accepted = site.noted("accepted");
    let lost: Vec<_> = accepted.difference(&site.noted("ended")).cloned().collect();
    assert_eq!(lost, ["0", "1", "2", "3", "4"]);
}
