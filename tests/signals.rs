//! What signals do to a process that serves: real signals to a child process.
//!
//! Without libtest: this program is both the tests and, started with an argument, the process that gets the signals.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop where it stands, and say so"
)]
#![expect(clippy::disallowed_methods, reason = "the process plays a stranger's handler")]

use std::{
    env,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use axum::{Router, routing::get};
use postlude::{ServePolicy, Task, TaskLayer, TaskRegistry, TaskSet};

const HOUR: Duration = Duration::from_secs(3600);

/// Longer than the time within which a signal counts once.
const LATER: Duration = Duration::from_millis(700);

// The process.

/// Waits for a line from the test.
fn wait_for_line() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Serves until a signal.
async fn serve(registry: &TaskRegistry, policy: ServePolicy) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let at_half = registry.clone();
    let app = Router::new()
        .route(
            "/held",
            get(|| async {
                println!("called");
                tokio::task::spawn_blocking(wait_for_line).await.unwrap();
                "answered"
            }),
        )
        .route(
            "/after_half",
            get(|tasks: TaskSet| async move {
                println!("called");
                while !at_half.is_shutting_down() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tasks.add(async {});
                "answered"
            }),
        )
        .layer(TaskLayer::new(registry.clone()));
    let server = |stop: tokio_util::sync::CancellationToken| {
        // From here on, signals are heard.
        println!("port {port}");
        axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
    };
    let report = registry.serve::<_, std::io::Error>(policy, server).await.unwrap();
    println!("served: {report}");
}

fn process(kind: &str) {
    tracing_subscriber::fmt().with_writer(std::io::stdout).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let builder = TaskRegistry::builder().settle(Duration::from_millis(100)).handle(runtime.handle().clone());
    let registry = builder.build().unwrap();
    let policy = ServePolicy::within(HOUR);
    match kind {
        "serve" => runtime.block_on(serve(&registry, policy)),
        "no second" => runtime.block_on(serve(&registry, policy.exit_on_second_signal(false))),
        "short" => runtime.block_on(serve(&registry, ServePolicy::within(Duration::from_secs(2)))),
        "busy" => {
            for _ in 0..2 {
                registry.spawn(async {
                    println!("called");
                    loop {
                        thread::yield_now();
                    }
                });
            }
            runtime.block_on(serve(&registry, policy));
        }
        "stuck" => {
            registry.spawn(Task::blocking(|| {
                loop {
                    thread::park();
                }
            }));
            runtime.block_on(serve(&registry, ServePolicy::within(Duration::ZERO)));
            // It waits for the closure.
            drop(runtime);
        }
        "after" | "not after" => {
            runtime.block_on(serve(&registry, policy.exit_after_serving(kind == "after")));
            wait_for_line();
        }
        "twice" => {
            runtime.block_on(serve(&registry, policy));
            let builder = TaskRegistry::builder().handle(runtime.handle().clone());
            runtime.block_on(serve(&builder.build().unwrap(), policy));
        }
        kind => panic!("there is no process `{kind}`"),
    }
}

// What the tests know of it.

struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Process {
    fn start(kind: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["process", kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take().unwrap();
        let mut process = Self { child, input, output, port: 0 };
        process.wait_until_serving();
        process
    }

    fn wait_until_serving(&mut self) {
        self.port = self.wait_for("port ").trim_start_matches("port ").parse().unwrap();
    }

    /// Reads its output up to a line that contains `needle`.
    fn wait_for(&mut self, needle: &str) -> String {
        self.output.by_ref().map(Result::unwrap).find(|line| line.contains(needle)).unwrap()
    }

    /// Sends a request, and waits until it is being handled.
    fn request(&mut self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        self.wait_for("called");
        stream
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn send_line(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    fn exit_status(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, unless a test has failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

// The tests.

fn the_same_signal_twice_at_once_counts_once() {
    for signal in ["-TERM", "-INT"] {
        let mut process = Process::start("serve");
        let held = process.request("/held");
        process.signal(signal);
        process.signal(signal);
        process.wait_for("stopping");
        process.signal(signal);
        process.send_line();
        assert!(answer(held).ends_with("answered"));
        process.wait_for("served");
        assert_eq!(process.exit_status(), Some(0));
    }
}

fn a_later_signal_exits_at_once_also_while_all_workers_are_busy() {
    for kind in ["serve", "busy"] {
        for (second, status) in [("-TERM", 143), ("-INT", 130)] {
            let mut process = Process::start(kind);
            let _held = (kind == "serve").then(|| process.request("/held"));
            process.signal("-TERM");
            process.wait_for("stopping");
            thread::sleep(LATER);
            process.signal(second);
            assert_eq!(process.exit_status(), Some(status));
        }
    }
}

fn another_signal_is_a_second_one_at_once() {
    let mut process = Process::start("serve");
    let _held = process.request("/held");
    process.signal("-TERM");
    process.wait_for("stopping");
    process.signal("-INT");
    assert_eq!(process.exit_status(), Some(130));
}

fn a_second_signal_does_nothing_if_that_is_switched_off() {
    let mut process = Process::start("no second");
    let held = process.request("/held");
    process.signal("-TERM");
    process.wait_for("stopping");
    thread::sleep(LATER);
    process.signal("-TERM");
    process.signal("-INT");
    process.send_line();
    assert!(answer(held).ends_with("answered"));
    process.wait_for("served");
    assert_eq!(process.exit_status(), Some(0));
}

fn a_signal_exits_while_the_runtime_waits_for_a_closure() {
    let mut process = Process::start("stuck");
    process.signal("-TERM");
    assert!(process.wait_for("served").contains("1 stuck"));
    thread::sleep(LATER);
    process.signal("-TERM");
    assert_eq!(process.exit_status(), Some(143));
}

fn a_signal_after_the_service_has_ended_exits() {
    for (second, status) in [("-TERM", 143), ("-INT", 130)] {
        let mut process = Process::start("after");
        process.signal("-TERM");
        process.wait_for("served");
        thread::sleep(LATER);
        process.signal(second);
        assert_eq!(process.exit_status(), Some(status));
    }
}

fn a_signal_after_the_service_does_nothing_if_that_is_switched_off() {
    let mut process = Process::start("not after");
    process.signal("-TERM");
    process.wait_for("served");
    thread::sleep(LATER);
    process.signal("-TERM");
    process.send_line();
    assert_eq!(process.exit_status(), Some(0));
}

fn a_second_service_is_ended_by_a_signal_and_not_exited_by_the_first() {
    let mut process = Process::start("twice");
    process.signal("-TERM");
    process.wait_for("served");
    process.wait_until_serving();
    thread::sleep(LATER);
    process.signal("-TERM");
    process.wait_for("served");
    assert_eq!(process.exit_status(), Some(0));
}

fn a_request_in_flight_may_use_more_than_half_of_the_grace() {
    let mut process = Process::start("short");
    let stream = process.request("/after_half");
    process.signal("-TERM");
    assert!(answer(stream).ends_with("answered"));
    assert!(process.wait_for("served").contains("1 completed"));
    assert_eq!(process.exit_status(), Some(0));
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [command, kind] = arguments.as_slice() {
        if command == "process" {
            process(kind);
            return ExitCode::SUCCESS;
        }
    }
    macro_rules! tests {
        ($($test:ident),+ $(,)?) => { [$((stringify!($test), $test as fn())),+] };
    }
    let tests = tests![
        the_same_signal_twice_at_once_counts_once,
        a_later_signal_exits_at_once_also_while_all_workers_are_busy,
        another_signal_is_a_second_one_at_once,
        a_second_signal_does_nothing_if_that_is_switched_off,
        a_signal_exits_while_the_runtime_waits_for_a_closure,
        a_signal_after_the_service_has_ended_exits,
        a_signal_after_the_service_does_nothing_if_that_is_switched_off,
        a_second_service_is_ended_by_a_signal_and_not_exited_by_the_first,
        a_request_in_flight_may_use_more_than_half_of_the_grace,
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
