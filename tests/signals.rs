//! What signals do to a process that serves: real signals to a child process.
//!
//! Without libtest: this program is both the tests and, started with `--process`, the process that gets the signals. As
//! with libtest, an argument is a part of the names of the tests to run.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop where it stands, and say so"
)]
#![expect(clippy::disallowed_methods, reason = "the process plays a stranger's handler")]

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::{
        Arc, Barrier,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use postlude::{ServePolicy, Task, TaskLayer, TaskRegistry, TaskSet};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

const HOUR: Duration = Duration::from_secs(3600);

/// The time within which a signal counts once.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

/// Longer than that.
const LATER: Duration = Duration::from_millis(700);

/// Within this time, everything that the tests wait for must come, so that a failure is an error and not a hang.
const WITHIN: Duration = Duration::from_secs(60);

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

/// Ends two tasks before the signal, and four after it, before its server ends.
async fn serve_and_end_tasks(registry: &TaskRegistry, policy: ServePolicy) {
    for _ in 0..2 {
        assert!(registry.spawn(async {}).await.is_completed());
    }
    let server = async |stop: tokio_util::sync::CancellationToken| {
        println!("port 0");
        stop.cancelled().await;
        // The server may take a while: the registry is not shut down yet.
        tokio::task::yield_now().await;
        for _ in 0..3 {
            assert!(registry.spawn(async {}).await.is_completed());
        }
        registry.spawn(async { Err::<(), _>("no") }).await;
        Ok::<_, std::io::Error>(())
    };
    println!("served: {}", registry.serve(policy, server).await.unwrap());
}

/// Tells the test of each signal that the process gets.
fn report_signals(runtime: &Runtime) {
    let _entered = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).unwrap();
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                println!("heard");
            }
        });
    }
}

fn process(kind: &str) {
    tracing_subscriber::fmt().with_writer(std::io::stdout).with_ansi(false).init();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let builder = TaskRegistry::builder().settle(Duration::from_millis(100)).handle(runtime.handle().clone());
    let registry = builder.build().unwrap();
    let policy = ServePolicy::within(HOUR);
    match kind {
        "serve" => runtime.block_on(serve(&registry, policy)),
        // The last signals may come so late that the service has ended.
        "no second" => {
            report_signals(&runtime);
            runtime.block_on(serve(&registry, policy.exit_on_second_signal(false).exit_after_serving(false)));
        }
        "ends tasks" => runtime.block_on(serve_and_end_tasks(&registry, policy)),
        "short" => runtime.block_on(serve(&registry, ServePolicy::within(Duration::from_secs(4)))),
        "busy" => {
            let all_busy = Arc::new(Barrier::new(3));
            for _ in 0..2 {
                let busy = Arc::clone(&all_busy);
                registry.spawn(async move {
                    busy.wait();
                    loop {
                        thread::yield_now();
                    }
                });
            }
            all_busy.wait();
            runtime.block_on(serve(&registry, policy));
        }
        "stuck" => {
            let (begun, has_begun) = channel();
            registry.spawn(Task::blocking(move || {
                begun.send(()).unwrap();
                loop {
                    thread::park();
                }
            }));
            has_begun.recv().unwrap();
            runtime.block_on(serve(&registry, ServePolicy::within(Duration::ZERO)));
            // It waits for the closure.
            drop(runtime);
        }
        "after" | "not after" => {
            runtime.block_on(serve(&registry, policy.exit_after_serving(kind == "after")));
            report_signals(&runtime);
            println!("reporting");
            wait_for_line();
        }
        "twice" | "twice, no second" | "twice, not after" => {
            if kind != "twice" {
                report_signals(&runtime);
            }
            runtime.block_on(serve(&registry, policy));
            let builder = TaskRegistry::builder().handle(runtime.handle().clone());
            let policy = policy.exit_on_second_signal(kind == "twice").exit_after_serving(kind != "twice, not after");
            runtime.block_on(serve(&builder.build().unwrap(), policy));
            // The thread of the first service may be late.
            wait_for_line();
        }
        kind => panic!("there is no process `{kind}`"),
    }
}

// What the tests know of it.

struct Process {
    child: Child,
    input: ChildStdin,
    /// Its lines.
    output: Receiver<String>,
    port: u16,
}

impl Process {
    fn start(kind: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--process", kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (line_read, output) = channel();
        // It ends with the process, or with the test.
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| line_read.send(line)));
        let input = child.stdin.take().unwrap();
        let mut process = Self { child, input, output, port: 0 };
        process.wait_until_serving();
        process
    }

    fn wait_until_serving(&mut self) {
        self.port = self.wait_for("port ").trim_start_matches("port ").parse().unwrap();
    }

    /// Reads its output up to a line that contains `needle`, and returns that line.
    fn wait_for(&mut self, needle: &str) -> String {
        self.lines_to(needle).pop().unwrap()
    }

    /// Reads its output up to a line that contains `needle`.
    fn lines_to(&mut self, needle: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.output.recv_timeout(WITHIN) {
                Ok(line) => lines.push(line),
                Err(error) => panic!("no line with `{needle}` ({error}), but {lines:#?}"),
            }
            if lines.last().unwrap().contains(needle) {
                return lines;
            }
        }
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

    /// Ends the first of two services, and waits until a signal to the second one is not taken for the same signal.
    fn end_first_service(&mut self) {
        self.signal("-TERM");
        self.wait_for("served");
        self.wait_until_serving();
        thread::sleep(LATER);
    }

    /// Sends signals that must have no effect, to a process that reports them.
    fn signal_in_vain(&mut self, signals: &[&str]) {
        for signal in signals.repeat(10) {
            self.signal(signal);
            self.wait_for("heard");
        }
    }

    fn send_line(&mut self) {
        // If it has exited, the test sees that in its exit status.
        self.input.write_all(b"\n").ok();
    }

    fn exit_status(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < WITHIN, "the process has not exited");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, unless a test has failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Whether the request was answered, and not cut off.
fn is_answered(mut stream: TcpStream) -> bool {
    let mut answer = String::new();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream.read_to_string(&mut answer).is_ok() && answer.ends_with("answered")
}

// The tests.

fn the_same_signal_twice_at_once_counts_once() {
    for signal in ["-TERM", "-INT"] {
        assert!((0..20).any(|_| counts_once(signal)), "the machine is too slow to send two signals at once");
    }
}

/// `false` if the signals were too far apart to tell.
fn counts_once(signal: &str) -> bool {
    let mut process = Process::start("serve");
    let held = process.request("/held");
    let begun = Instant::now();
    process.signal(signal);
    process.signal(signal);
    process.wait_for("stopping");
    // The two may have been delivered as one. This one comes after the first was handled.
    process.signal(signal);
    process.send_line();
    let (is_answered, status) = (is_answered(held), process.exit_status());
    if status != Some(0) && begun.elapsed() >= ONE_SIGNAL {
        return false;
    }
    assert_eq!((is_answered, status), (true, Some(0)));
    process.wait_for("served");
    true
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
    process.signal_in_vain(&["-TERM", "-INT"]);
    process.send_line();
    assert_eq!((is_answered(held), process.exit_status()), (true, Some(0)));
    process.wait_for("served");
}

fn a_signal_exits_while_the_runtime_waits_for_a_closure() {
    let mut process = Process::start("stuck");
    process.signal("-TERM");
    let served = process.wait_for("served");
    assert!(served.contains("1 stuck"), "{served}");
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
    process.wait_for("reporting");
    thread::sleep(LATER);
    process.signal_in_vain(&["-TERM", "-INT"]);
    process.send_line();
    assert_eq!(process.exit_status(), Some(0));
}

fn a_second_service_is_ended_by_a_signal_and_not_exited_by_the_first() {
    let mut process = Process::start("twice");
    process.end_first_service();
    process.signal("-TERM");
    process.wait_for("served");
    process.send_line();
    assert_eq!(process.exit_status(), Some(0));
}

fn a_second_signal_to_a_second_service_does_nothing_if_that_is_switched_off() {
    let mut process = Process::start("twice, no second");
    process.end_first_service();
    let held = process.request("/held");
    process.signal("-TERM");
    process.wait_for("stopping");
    thread::sleep(LATER);
    process.signal_in_vain(&["-TERM", "-INT"]);
    process.send_line();
    assert!(is_answered(held));
}

fn a_signal_after_a_second_service_does_nothing_if_that_is_switched_off() {
    let mut process = Process::start("twice, not after");
    process.end_first_service();
    process.signal("-TERM");
    process.wait_for("served");
    thread::sleep(LATER);
    process.signal_in_vain(&["-TERM", "-INT"]);
    process.send_line();
    assert_eq!(process.exit_status(), Some(0));
}

fn a_request_in_flight_may_use_more_than_half_of_the_grace() {
    let mut process = Process::start("short");
    let stream = process.request("/after_half");
    process.signal("-TERM");
    assert!(is_answered(stream));
    let lines = process.lines_to("served");
    let served = lines.last().unwrap();
    assert!(served.contains("1 completed"), "{served}");
    assert!(!lines.iter().any(|line| line.contains("is dropped")), "{lines:#?}");
    assert_eq!(process.exit_status(), Some(0));
}

fn the_report_has_what_ended_since_the_signal() {
    let mut process = Process::start("ends tasks");
    process.signal("-TERM");
    let served = process.lines_to("served").pop().unwrap();
    assert!(served.contains("3 completed") && served.contains("1 failed"), "{served}");
    assert_eq!(process.exit_status(), Some(0));
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [command, kind] = arguments.as_slice() {
        if command == "--process" {
            process(kind);
            return ExitCode::SUCCESS;
        }
    }
    run(&arguments)
}

fn run(arguments: &[String]) -> ExitCode {
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
        a_second_signal_to_a_second_service_does_nothing_if_that_is_switched_off,
        a_signal_after_a_second_service_does_nothing_if_that_is_switched_off,
        a_request_in_flight_may_use_more_than_half_of_the_grace,
        the_report_has_what_ended_since_the_signal,
    ];
    let parts: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()));
    let wanted = tests.into_iter().filter(|(name, _)| is_wanted(name));
    if arguments.iter().any(|argument| argument == "--list") {
        wanted.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in wanted {
        let has_passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if has_passed { "ok" } else { "FAILED" });
        *if has_passed { &mut passed } else { &mut failed } += 1;
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let others = tests.len() - passed - failed;
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {others} filtered out"
    );
    ExitCode::from(u8::from(failed > 0))
}
