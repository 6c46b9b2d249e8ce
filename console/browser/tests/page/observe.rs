//! The example `observe`, as somebody who tries it sees it.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::driver::Browser;

/// One command and a link: the page says what misbehaves, and how.
#[test]
fn shows_four_names_that_misbehave_and_why() {
    let example = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../debug/examples/observe");
    let mut command = Command::new(example);
    let mut process = command.env("PORT", "0").env("NO_COLOR", "1").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let link = lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.strip_prefix("open ")?.to_owned()));
    // Its log goes on, and would stop it if nobody read it.
    let log = std::thread::spawn(move || lines.map_while(Result::ok).last());
    let browser = Browser::start();
    browser.open(&link.unwrap());
    for (kind, name, message) in [
        ("failing", "welcome_mail", "the mail server knows no such host"),
        ("blocking", "sync_stock", "2 later tasks of its set wait for it"),
        ("at_limit", "resize_image", "2 running"),
        ("slow", "monthly_report", "is slow"),
    ] {
        let found = format!(
            "[...document.querySelectorAll('#findings li.{kind}')].some((one) => one.innerText.includes('{name}') && one.innerText.includes('{message}'))"
        );
        browser.until(&found);
    }
    assert_eq!(browser.problems(), [""; 0]);
    process.kill().unwrap();
    process.wait().unwrap();
    log.join().unwrap();
}
