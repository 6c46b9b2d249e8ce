//! What the compiler says to a mistake. Each case in `cases/` has its message beside it. After a change,
//! `TRYBUILD=overwrite cargo test -p postlude-messages` writes them anew: read each, as one who made the mistake.
#![expect(clippy::print_stdout, reason = "a test may stop where it stands, and say why")]

use std::process::Command;

/// Another compiler words its messages in another way.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn of_compiler_say_what_to_do() {
    let version =
        Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    if !version.starts_with(COMPILER) {
        println!("skipped: the messages are those of {COMPILER}x, and this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/cases/*.rs");
}
