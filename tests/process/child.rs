//! This program once more, as a child of the tests.

use std::{
    env,
    process::{Child, Command, Stdio},
};

/// Starts a child; its output is piped.
pub(crate) fn start(arguments: &[&str]) -> Child {
    let program = env::current_exe().unwrap();
    Command::new(program).arg("--child").args(arguments).stdout(Stdio::piped()).spawn().unwrap()
}
