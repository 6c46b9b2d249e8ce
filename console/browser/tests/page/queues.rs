//! The view of durable jobs.

use crate::{driver::Browser, service::Service};

fn dead(service: &Service) -> usize {
    service.get_of_jobs("dead")["dead"].as_array().unwrap().len()
}

#[test]
fn are_absent_where_there_are_no_jobs() {
    let (service, browser) = (Service::start(), Browser::start());
    browser.open(&service.url("overview"));
    browser.until_text("Nothing stands out");
    browser.until_no_text("Queues");
    browser.open(&service.url("queues"));
    browser.until_text("does not say where the routes of its jobs are");
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn show_the_figures_and_the_dead_jobs_and_act() {
    let (service, browser) = (Service::with(&["ACT", "JOBS"]), Browser::start());
    browser.open(&service.url("overview"));
    browser.click("//nav//a[.='Queues']");
    browser.until_text("stored in SQLite");
    browser.until(
        "document.querySelectorAll('tbody tr').length === 2 && document.querySelectorAll('article').length === 3",
    );
    browser.until_text("the receiver answered 502 <script>\\u{202e}");
    assert_eq!(browser.unnamed_controls(), [""; 0]);
    browser.click("//button[@aria-label='Pause report']");
    browser.click("//dialog//button[.='Pause']");
    browser.until_text("The name is paused.");
    assert_eq!(service.get_of_jobs("queue")["names"]["report"]["paused"], true);
    browser.click("//button[@aria-label='Resume report']");
    browser.until_text("The name is resumed.");
    browser.click("(//article//summary)[1]");
    browser.until_text("pushed at");
    browser.click("(//article//summary)[1]");
    browser.click("(//article//button[.='Discard'])[1]");
    browser.click("//dialog//button[.='Discard']");
    browser.until("document.querySelectorAll('article').length === 2");
    assert_eq!(dead(&service), 2);
    browser.click("//tbody//a[.='webhook<b>']");
    browser.click("//button[.='Replay all of this name']");
    browser.until_text("Replay 2 dead jobs of “webhook<b>”?");
    browser.click("//dialog//button[.='Replay']");
    browser.until_text("2 replayed.");
    // They die again.
    browser.until("document.querySelectorAll('article').length === 2 && document.querySelector('main').innerText.includes('1 replay')");
    browser.click("//button[.='Discard all of this name']");
    browser.click("//dialog//button[.='Discard']");
    browser.until_text("There are no dead jobs");
    assert_eq!(dead(&service), 0);
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn offer_no_action_where_actions_are_off() {
    let (service, browser) = (Service::with(&["JOBS"]), Browser::start());
    browser.open(&service.url("queues"));
    browser.until("document.querySelectorAll('article').length === 3");
    let offered = browser
        .run("return [...document.querySelectorAll('main button:not(th button)')].filter((one) => one.getClientRects().length).map((one) => one.innerText).join()");
    assert_eq!(offered, "Back,Next page");
    assert_eq!(browser.problems(), [""; 0]);
}
