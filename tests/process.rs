//! The end of a whole process: real signals to a real server in a process of its own.
//!
//! Without libtest: this program is both the tests and, started with an argument, the server they talk to.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop where it stands, and say so")]

use std::{
    collections::BTreeSet,
    convert::Infallible,
    env, fs,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
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
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("port {}", listener.local_addr()?.port());
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

// What the tests know of it.

struct Server {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(grace: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["serve", folder.path().to_str().unwrap(), &grace.as_secs().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut server = Self { process, output, port: 0, folder };
        server.port = server.wait_for("port ").trim_start_matches("port ").parse().unwrap();
        server
    }

    /// Reads the server's output up to a line that contains `needle`.
    fn wait_for(&mut self, needle: &str) -> String {
        self.output.by_ref().map(Result::unwrap).find(|line| line.contains(needle)).unwrap()
    }

    /// Sends a request and reads the head of the response.
    fn request(&self, method: &str, path: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        reader
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn noted(&self, file: &str) -> BTreeSet<String> {
        let text = fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn wait_until_ended(&self, names: &[&str]) {
        // So long that it is a failure, and not a hang.
        let mut patience = 60_000;
        while !names.iter().all(|name| self.noted("ended").contains(*name)) {
            patience -= 1;
            assert!(patience > 0, "only {:?} have ended", self.noted("ended"));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, unless a test has failed.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

// The tests.

fn sigterm_ends_streams_finishes_tasks_and_leaves_nobody_to_a_stalled_client() {
    // Half of the grace is the server's, whom the stalled client keeps.
    let mut server = Server::start(Duration::from_secs(4));
    let mut events = server.request("GET", "/events");
    let _stalled = server.request("GET", "/huge");
    server.request("POST", "/quick/one");
    server.wait_until_ended(&["one"]);
    assert_eq!(server.noted("ended").len(), 1, "the others wait for their clients");

    server.signal("-TERM");
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: hello"), "the stream has ended: {rest}");
    let report = server.wait_for("shut down in");
    assert!(report.contains(" 0 aborted, 0 discarded, 0 stuck"), "{report}");
    assert!(server.process.wait().unwrap().success());
    assert_eq!(server.noted("ended"), server.noted("accepted"));
    assert_eq!(server.noted("ended").len(), 3);
}

fn what_does_not_end_is_aborted_at_the_deadline_and_named() {
    let mut server = Server::start(Duration::from_secs(1));
    server.request("POST", "/hang/one");
    server.request("POST", "/quick/two");
    server.wait_until_ended(&["two"]);
    server.signal("-INT");
    let report = server.wait_for("shut down in");
    assert!(report.contains("1 aborted, 0 discarded, 0 stuck"), "{report}");
    assert!(server.wait_for("aborted: task").contains("process.rs"));
    assert!(server.process.wait().unwrap().success());
}

fn a_second_signal_exits_at_once() {
    for (second, status) in [("-INT", 130), ("-TERM", 143)] {
        let mut server = Server::start(Duration::from_secs(3600));
        server.request("POST", "/hang/one");
        server.signal("-TERM");
        server.wait_for("stopping");
        // The same signal within 500 ms would be the first one again.
        std::thread::sleep(Duration::from_millis(700));
        server.signal(second);
        assert_eq!(server.process.wait().unwrap().code(), Some(status));
    }
}

fn sigkill_loses_exactly_what_was_live() {
    let mut server = Server::start(Duration::from_secs(20));
    let quick: Vec<_> = (0..50).map(|number| format!("quick{number}")).collect();
    for name in &quick {
        server.request("POST", &format!("/quick/{name}"));
    }
    for number in 0..5 {
        server.request("POST", &format!("/hang/{number}"));
    }
    server.wait_until_ended(&quick.iter().map(String::as_str).collect::<Vec<_>>());
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    let accepted = server.noted("accepted");
    let lost: Vec<_> = accepted.difference(&server.noted("ended")).cloned().collect();
    assert_eq!(lost, ["0", "1", "2", "3", "4"]);
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [command, folder, grace] = arguments.as_slice() {
        if command == "serve" {
            serve(Path::new(folder), Duration::from_secs(grace.parse().unwrap())).unwrap();
            return ExitCode::SUCCESS;
        }
    }
    let tests: [(&str, fn()); 4] = [
        (
            "sigterm_ends_streams_finishes_tasks_and_leaves_nobody_to_a_stalled_client",
            sigterm_ends_streams_finishes_tasks_and_leaves_nobody_to_a_stalled_client,
        ),
        (
            "what_does_not_end_is_aborted_at_the_deadline_and_named",
            what_does_not_end_is_aborted_at_the_deadline_and_named,
        ),
        ("a_second_signal_exits_at_once", a_second_signal_exits_at_once),
        ("sigkill_loses_exactly_what_was_live", sigkill_loses_exactly_what_was_live),
    ];
    let mut failed = 0;
    for (name, test) in tests {
        let ended = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ended { "ok" } else { "FAILED" });
        failed += usize::from(!ended);
    }
    let passed = tests.len() - failed;
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::from(u8::from(failed > 0))
}
