//! Text of tasks and errors is text everywhere, whatever is in it.

use crate::{driver::Browser, service::Service};

/// Markup, script, quotes, controls, characters that turn the direction of text, and a long word.
const NAUGHTY: &str = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>\
                       \u{202e}\u{2066}\u{7}\u{0}\u{1b}[31m\u{200b}\"'&amp;{{7*7}}javascript:x&name=y#/dead?\u{85}\u{feff}";

#[test]
fn is_never_markup_in_any_view() {
    let (service, browser) = (Service::acting(), Browser::start());
    service.spawn("ok", NAUGHTY, 1);
    service.spawn("fail", NAUGHTY, 6);
    service.spawn("die", NAUGHTY, 1);
    let [id] = &service.spawn("work", NAUGHTY, 1)[..] else { panic!("no task") };
    let encoded = browser.run(&format!("return encodeURIComponent({})", serde_json::json!(NAUGHTY)));
    let encoded = encoded.as_str().unwrap();
    let views = ["overview", "names", "tasks", "history", "dead", "events"].map(str::to_owned);
    let others = [
        format!("name?name={encoded}"),
        format!("tasks?name={encoded}"),
        format!("dead?name={encoded}"),
        format!("task?id={id}"),
        format!("task?id={encoded}"),
        format!("{encoded}?{encoded}"),
    ];
    browser.open(&service.url("overview"));
    for view in views.iter().chain(&others) {
        browser.open(&service.url(view));
        browser.until(
            "document.querySelector('#health').innerText === 'health check passes' && !document.querySelector('[aria-busy]')",
        );
        if view == "events" {
            browser.until_live("Events");
            service.spawn("fail", NAUGHTY, 1);
        }
        if !view.starts_with("task?id=%") && !view.starts_with('%') {
            browser.until("document.querySelector('main').innerText.includes('<img src=x onerror=')");
            let text = browser.text();
            assert!(text.contains("\\u{202e}\\u{2066}\\u{7}\\u{0}\\u{1b}[31m\\u{200b}"), "{view}: {text}");
            for hidden in ['\u{202e}', '\u{2066}', '\u{7}', '\u{1b}', '\u{200b}', '\u{85}'] {
                assert!(!text.contains(hidden), "{view}: {hidden:?}");
            }
        }
        let foreign = browser.run(
            "return [...document.querySelectorAll('body img, body script, body iframe, [onerror]')].map((one) => one.outerHTML)",
        );
        assert_eq!(foreign.as_array().unwrap().len(), 0, "{view}: {foreign}");
        assert!(!browser.run("return document.title").as_str().unwrap().starts_with("pwned"), "{view}");
    }
    let expected = |line: &&String| !line.contains("400 (Bad Request)"); // the id that is none
    assert_eq!(browser.problems().iter().filter(expected).collect::<Vec<_>>(), [""; 0]);
}

/// A name that came over the network leads to its own tasks, and to no others.
#[test]
fn of_a_name_leads_to_its_own_tasks() {
    let (service, browser) = (Service::start(), Browser::start());
    service.spawn("hang", NAUGHTY, 2);
    service.spawn("hang", "y", 1);
    browser.open(&service.url("names"));
    browser.click("//tbody//a[contains(., 'onerror')]");
    browser.click("//main//a[.='Live tasks']");
    browser.until("document.querySelectorAll('tbody tr').length === 2");
    assert_eq!(browser.problems(), [""; 0]);
}
