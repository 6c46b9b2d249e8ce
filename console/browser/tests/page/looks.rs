//! Pictures of each view, for people to look at, and what can be asserted of them: nothing is cut off.

use std::path::PathBuf;

use crate::{
    driver::{Browser, Look},
    service::Service,
};

const VIEWS: [&str; 10] = [
    "overview",
    "names",
    "name?name=send_mail",
    "tasks",
    "history",
    "history?state=failed",
    "dead",
    "queues",
    "events",
    "runbook",
];

fn take(service: &Service, browser: &Browser, folder: &str) {
    let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pictures").join(folder);
    for (kind, look) in [
        ("light", Look { width: 1280, is_dark: false }),
        ("dark", Look { width: 1280, is_dark: true }),
        ("narrow", Look { width: 360, is_dark: false }),
    ] {
        browser.look(look);
        for view in VIEWS {
            browser.open(&service.url(view));
            browser.until(
                "document.querySelector('#health').innerText === 'health check passes' && !document.querySelector('[aria-busy]')",
            );
            if view == "events" {
                browser.until_live("Events");
                service.spawn("ok", "audit_log", 2);
                service.spawn("fail", "send_mail", 1);
                browser.until("document.querySelector('tbody')?.innerText.includes('failed')");
            }
            let name = view.replace(|character: char| !character.is_alphanumeric(), "_");
            browser.screenshot(&pictures.join(format!("{name}-{kind}.png")));
            let (width, cut) = (browser.run("return document.documentElement.scrollWidth"), look.width);
            assert!(width.as_u64().unwrap() <= u64::from(cut), "{view} is {width} wide on a screen of {cut}");
            if look.width < 600 {
                let cut_off = browser.run("return [...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.ariaLabel)");
                assert_eq!(cut_off.as_array().unwrap().len(), 0, "{view}: {cut_off}");
            }
        }
    }
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn with_no_task() {
    let (service, browser) = (Service::with(&["ACT", "JOBS"]), Browser::start());
    take(&service, &browser, "0");
}

#[test]
fn with_twenty_tasks() {
    let (service, browser) = (Service::with(&["ACT", "JOBS"]), Browser::start());
    browser.open(&service.url("overview"));
    browser.until_text("Nothing stands out");
    service.spawn("work", "import_customers_from_the_old_system", 6);
    service.spawn("hang", "limited", 7);
    service.spawn("late", "monthly_report", 7);
    service.spawn("ok", "audit_log", 40);
    service.spawn("fail", "send_mail", 9);
    service.spawn("die", "the receiver at shop.example answers 503 Service Unavailable: try again later", 2);
    browser.until_text("fails: 9 of 9");
    take(&service, &browser, "20");
}

#[test]
fn with_a_hundred_thousand_tasks() {
    let (service, browser) = (Service::with(&["ACT", "JOBS"]), Browser::start());
    browser.open(&service.url("overview"));
    browser.until_text("Nothing stands out");
    service.spawn("hang", "send_mail", 99_900);
    service.spawn("hang", "limited", 100);
    take(&service, &browser, "100000");
}
