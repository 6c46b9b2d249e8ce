//! Tests that need a process of their own: real signals to a real server, a server under a flood, and the first clock that a
//! process asks.
//!
//! Without libtest: this program is both the tests and, started with `--child`, the process that they talk to or wait
//! for. As with libtest, an argument is a part of the names of the tests to run.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may stop where it stands, and say so"
)]
#![cfg_attr(
    feature = "axum",
    expect(clippy::panic, clippy::disallowed_methods, reason = "the tests keep the time of their clients")
)]

mod child;
#[cfg(feature = "axum")]
mod flood;
#[cfg(all(feature = "axum", feature = "signal"))]
mod serve;
#[cfg(feature = "axum")]
mod server;
mod timestamp;

use std::{env, process::ExitCode};

type Test = (&'static str, fn());

const TESTS: &[&[Test]] = &[
    timestamp::TESTS,
    #[cfg(feature = "axum")]
    flood::TESTS,
    #[cfg(all(feature = "axum", feature = "signal"))]
    serve::TESTS,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--child", "timestamp"] => timestamp::child(),
        #[cfg(feature = "axum")]
        ["--child", "flood", slow] => flood::child(slow),
        #[cfg(all(feature = "axum", feature = "signal"))]
        ["--child", "serve", folder, grace] => serve::child(folder, grace),
        arguments => return run(arguments),
    }
    ExitCode::SUCCESS
}

fn run(arguments: &[&str]) -> ExitCode {
    let all = || TESTS.iter().flat_map(|tests| tests.iter());
    let parts: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted = all().filter(|(name, _)| parts.is_empty() || parts.iter().any(|part| name.contains(**part)));
    if arguments.contains(&"--list") {
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
    let others = all().count() - passed - failed;
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {others} filtered out"
    );
    ExitCode::from(u8::from(failed > 0))
}
