//! The example `observe`, as somebody who tries it sees it.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::driver::{Browser, Look};

/// Pictures of the views that an operator needs first.
fn take(browser: &Browser, link: &str) {
    let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pictures/observe");
    for (width, is_dark) in [(1280, false), (1280, true), (360, false), (360, true)] {
        browser.look(Look { width, is_dark });
        for view in [
            "overview",
            "names",
            "name?name=monthly_report",
            "tasks",
            "tasks?name=resize_image&state=pending",
            "dead",
            "runbook",
        ] {
            browser.open(&format!("{link}#/{view}"));
            browser.until(
                "document.querySelector('#connection').innerText === 'live' && !document.querySelector('[aria-busy]')",
            );
            let name = view.split(['?', '&']).next().unwrap();
            let kind = if is_dark { "dark" } else { "light" };
            let name = if view.contains("resize_image") { "waiting" } else { name };
            browser.screenshot(&pictures.join(format!("{name}-{width}-{kind}.png")));
            let cut = browser.run("return document.documentElement.scrollWidth");
            assert!(cut.as_u64().unwrap() <= u64::from(width), "{view} is {cut} wide on a screen of {width}");
        }
        browser.open(&format!("{link}#/tasks?name=resize_image&state=pending"));
        browser.click("(//tbody//th//a)[1]");
        // It may have started meanwhile.
        browser.until("document.querySelector('main dl')?.innerText.includes('resize_image')");
        browser.screenshot(&pictures.join(format!("task-{width}-{}.png", if is_dark { "dark" } else { "light" })));
    }
}

/// The example, which ends with its value.
struct Observe(Child);

impl Drop for Observe {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// One command and a link: the page says what misbehaves, and how.
#[test]
fn shows_four_names_that_misbehave_and_why() {
    let example = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../debug/examples/observe");
    let mut command = Command::new(example);
    let process = command.env("PORT", "0").env("NO_COLOR", "1").stdout(Stdio::piped()).spawn().unwrap();
    let mut process = Observe(process);
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let link = lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.strip_prefix("open ")?.to_owned()));
    // Its log goes on, and would stop it if nobody read it.
    let log = std::thread::spawn(move || lines.map_while(Result::ok).last());
    let browser = Browser::start();
    let link = link.unwrap();
    browser.open(&link);
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
    // It sleeps.
    browser.until(
        "/Most of its time \\(\\d+ %\\) it is idle/.test(document.querySelector('#findings li.slow').innerText)",
    );
    take(&browser, &link);
    assert_eq!(browser.problems(), [""; 0]);
    drop(process);
    log.join().unwrap();
}
