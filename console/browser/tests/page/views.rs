//! Each view, what is live in it, its filters, and the keyboard.

use crate::{
    driver::{Browser, Look},
    service::Service,
};

/// The views that have a tab, and a word that each has.
const TABS: [(&str, &str); 7] = [
    ("Overview", "What is wrong now"),
    ("Names", "Part of the name"),
    ("Tasks", "Live tasks"),
    ("History", "Outcome"),
    ("Dead letters", "Dead letters"),
    ("Events", "Failures only"),
    ("Runbook", "Start here"),
];

#[test]
fn each_opens_by_its_tab_and_by_its_address_and_breaks_no_rule() {
    let (service, browser) = (Service::acting(), Browser::start());
    service.spawn("ok", "audit", 12);
    service.spawn("fail", "mail", 8);
    service.spawn("die", "webhook", 3);
    let [running, ..] = &service.spawn("work", "import", 2)[..] else { panic!("no task") };
    browser.open(&service.url("overview"));
    for (tab, word) in TABS {
        browser.click(&format!("//nav//a[starts-with(., '{tab}')]"));
        browser.until(&format!("document.querySelector('main').innerText.includes('{word}')"));
        browser.until("document.querySelector('nav [aria-current=page]') && !document.querySelector('[aria-busy]')");
        assert_eq!(browser.unnamed_controls(), [""; 0], "{tab}");
    }
    for (view, word) in [
        ("name?name=mail", "The last failure"),
        (&format!("task?id={running}"), "40 of 90"),
        ("history?state=failed", "mail"),
        ("task?id=17", "append"),
    ] {
        browser.open(&service.url(view));
        browser.until_text(word);
        assert_eq!(browser.unnamed_controls(), [""; 0], "{view}");
    }
    let problems = browser.problems();
    let expected = |line: &&String| !line.contains("400 (Bad Request)"); // the id that is none
    assert_eq!(problems.iter().filter(expected).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn a_task_comes_and_goes_without_a_reload() {
    let (service, browser) = (Service::start(), Browser::start());
    browser.open(&service.url("tasks"));
    browser.until_text("No task is live.");
    browser.run("globalThis.isFirst = true");
    service.spawn("work", "import", 1);
    browser.until_text("40 of 90");
    service.release();
    browser.until_text("No task is live.");
    browser.click("//nav//a[starts-with(., 'Events')]");
    browser.until_live("Events");
    service.spawn("ok", "audit", 1);
    browser.until("document.querySelector('main').innerText.includes('completed')");
    browser.click("//button[.='Pause']");
    service.spawn("ok", "unseen", 1);
    browser.until_text("3 waiting");
    browser.until_no_text("unseen");
    browser.click("//button[.='Go on']");
    browser.until_text("unseen");
    assert_eq!(browser.run("return globalThis.isFirst"), true, "the page was not loaded again");
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn filters_and_errors_are_found() {
    let (service, browser) = (Service::start(), Browser::start());
    service.spawn("ok", "audit", 70);
    service.spawn("fail", "mail", 2);
    service.spawn("hang", "import", 60);
    service.spawn("late", "report", 1);
    browser.open(&service.url("history"));
    browser.until("document.querySelectorAll('tbody tr').length === 50");
    browser.click("//button[.='Next page']");
    browser.until("document.querySelectorAll('tbody tr').length === 22");
    browser.click("//button[.='Back']");
    browser.until("document.querySelectorAll('tbody tr').length === 50");
    browser.choose("//select[@id='state']", "failed");
    browser.until("document.querySelectorAll('tbody tr').length === 2");
    browser.click("//tbody//a[1]");
    browser.until("document.querySelector('main dl')?.innerText.includes('Error')");
    browser.click("//nav//a[starts-with(., 'Tasks')]");
    browser.until("document.querySelectorAll('tbody tr').length === 50");
    // What is typed filters at once, in the field and in the address.
    browser.type_into("//input[@id='text']", "EPO");
    browser.until("document.querySelectorAll('tbody tr').length === 1 && document.activeElement.id === 'text'");
    browser.until("location.hash.endsWith('text=EPO')");
    browser.until_text("Showing 1 of 1");
    browser.until_text("its time, in 5");
    browser.click("//nav//a[starts-with(., 'Names')]");
    browser.until("document.querySelectorAll('tbody tr').length === 5");
    browser.type_into("//input[@id='text']", "AUD");
    browser.until("document.querySelectorAll('tbody tr').length === 1");
    browser.until_text("Showing 1 of 5 names");
    browser.write("//input[@id='text']", "");
    browser.until_text("Showing 5 of 5 names");
    browser.click("//th//button[.='Name']");
    browser.until("document.querySelector('th[aria-sort]')?.innerText.startsWith('Name')");
    browser.until("document.querySelector('tbody tr').innerText.startsWith('audit')");
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn the_overview_says_what_fails_and_leads_there() {
    let (service, browser) = (Service::start(), Browser::start());
    browser.open(&service.url("overview"));
    browser.until_text("Nothing stands out");
    service.spawn("fail", "mail", 9);
    browser.until_text("fails: 9 of 9 tasks (100 %)");
    browser.click("//ul[@id='findings']//a[.='mail']");
    browser.until("location.hash.includes('history') && document.querySelectorAll('tbody tr').length === 9");
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn the_keyboard_reaches_and_does_everything() {
    const TAB: &str = "\u{e004}";
    const ENTER: &str = "\u{e007}";
    const SPACE: &str = " ";
    const ESCAPE: &str = "\u{e00c}";
    let (service, browser) = (Service::acting(), Browser::start());
    service.spawn("hang", "import", 1);
    browser.open(&service.url("overview"));
    browser.until_text("live");
    let focused = || browser.run("return document.activeElement.innerText || document.activeElement.ariaLabel || ''");
    browser.press(TAB);
    assert_eq!(focused(), "Skip to the content");
    browser.press(ENTER);
    browser.until("document.activeElement.id === 'main' && location.hash.includes('overview')");
    let to = |wanted: &str| {
        for _ in 0..60 {
            if focused().as_str().unwrap().starts_with(wanted) {
                return;
            }
            browser.press(TAB);
        }
        panic!("{wanted} is not reached");
    };
    browser.run("document.activeElement.blur(); document.querySelector('.skip').focus()");
    to("Tasks");
    browser.press(ENTER);
    browser.until("document.activeElement.id === 'main' && document.querySelector('tbody input')");
    to("Select task");
    browser.press(SPACE);
    to("Abort 1 selected");
    browser.press(ENTER);
    browser.until("document.querySelector('dialog[open]') && document.activeElement.innerText === 'Cancel'");
    browser.press(ESCAPE);
    browser.until("!document.querySelector('dialog[open]')");
    assert_eq!(focused(), "Abort 1 selected", "the focus comes back");
    browser.press(ENTER);
    browser.until("document.querySelector('dialog[open]')");
    to("Abort");
    browser.press(ENTER);
    browser.until_text("1 aborted.");
    browser.until_text("No task is live.");
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn a_hundred_thousand_live_tasks_are_shown_a_page_at_a_time() {
    let (service, browser) = (Service::start(), Browser::start());
    service.spawn("hang", "import", 100_000);
    browser.open(&service.url("overview"));
    browser.until_text("100,000");
    browser.click("//nav//a[starts-with(., 'Tasks')]");
    browser.until("document.querySelectorAll('tbody tr').length === 50");
    for _ in 0..3 {
        let first = browser.run("return document.querySelector('tbody tr').innerText.split('\\n')[0]");
        browser.click("//button[.='Next page']");
        browser.until(&format!("!document.querySelector('tbody tr').innerText.startsWith({first})"));
    }
    browser.until_text("Showing 151 to 200 of 100,000");
    browser.write("//input[@id='text']", "nobody");
    browser.until_text("No live task matches");
    assert_eq!(browser.problems(), [""; 0]);
}

/// The service of this test has no stream: the page asks again and again.
#[test]
fn a_profile_is_shown_where_there_is_one() {
    let (service, browser) = (Service::with(&["PROFILED", "STREAMLESS"]), Browser::start());
    let [id] = &service.spawn("block", "import", 1)[..] else { panic!("no task") };
    browser.open(&service.url(""));
    browser.until_text("blocks the runtime: it has not returned");
    browser.click(&format!("//li[@class='blocks_runtime']//a[contains(., '{}')]", id.split('-').next().unwrap()));
    browser.until_text("In a poll for");
    browser.open(&service.url(""));
    browser.until_text("A task blocks the runtime: see above.");
    browser.open(&service.url(&format!("task?id={id}")));
    browser.until_text("In a poll for");

    service.release();
    browser.open(&service.url("names"));
    browser.until_text("every 2 s");
    for text in ["Busy", "100 %", "Slow polls", "Longest poll", "3.00 MiB"] {
        browser.until_text(text);
    }
    browser.click("//tbody//a[.='import']");
    browser
        .until("/100 %: [\\d.]+ m?s in 1 poll, 0.* idle, 0.* woken and not yet polled/.test(document.body.innerText)");
    browser.until_text("1 slow");
    let most = "/most of the time of its tasks \\(\\d+ %\\) they are busy on the worker/";
    browser.until(&format!("{most}.test(document.querySelector('#time')?.innerText)"));
    browser.until("[...document.querySelectorAll('#time dt')].map((one) => one.innerText).sort().join() === 'busy on the worker,idle,waiting to be polled,waiting to start'");
    browser.open(&service.url(""));
    browser.until_text("Nothing blocks the runtime now. The longest that a task kept a worker to itself was");
}

/// A problem says what helps: a way to what it is about, and the part of the runbook.
#[test]
fn a_problem_leads_to_what_helps() {
    let (service, browser) = (Service::acting(), Browser::start());
    browser.open(&service.url("overview"));
    browser.until_text("Nothing stands out");
    for number in 0..8 {
        service.spawn("fail", &format!("mail {number}"), 6);
    }
    browser.until_text("8 problems");
    browser.until("document.querySelector('nav .count').innerText === '8'");
    browser.until_text("Showing 5 of 8 problems: the worst five of each kind.");
    assert_eq!(browser.run("return document.querySelectorAll('#findings li.failing').length"), 5);
    browser.click("//li[@class='failing'][1]//a[.='What to do']");
    browser.until("document.activeElement.id === 'a-dependency-fails' && location.hash.includes('runbook')");
    browser.until_text("Pause the name:");
    browser.click("//main//a[.='overload']");
    browser.until("document.activeElement.id === 'overload'");

    // Those that wait, those that hold the permits, and the one that waits for them.
    service.spawn("hang", "limited", 3);
    browser.open(&service.url("overview"));
    browser.until_text("1 running, 2 waiting for their turn");
    browser.click("//li[@class='at_limit']//a[.='Who holds the permits']");
    browser.until("document.querySelectorAll('tbody tr').length === 1");
    browser.until_text("Showing 1 of 1");
    let holder = browser.run("return document.querySelector('tbody th code').innerText");
    browser.open(&service.url("tasks?state=pending"));
    browser
        .until("document.querySelector('tbody')?.innerText.includes('a permit: 1 of this name run, the limit is 1')");
    browser.click("(//tbody//th//a)[1]");
    browser.until_text("Who holds the permits that it waits for");
    browser.until(&format!("document.querySelector('.related a').innerText === {holder}"));
    browser.click("//ol[@class='related']//a");
    browser.until_text("2 of its name wait for a permit like the one that it holds");
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn a_set_leads_to_its_tasks_and_they_to_each_other() {
    let (service, browser) = (Service::start(), Browser::start());
    let [first, second, _] = &service.spawn("behind", "step", 3)[..] else { panic!("no tasks") };
    let short = |id: &String| id.split('-').next().unwrap().to_owned();
    service.spawn("hang", "other", 2);
    browser.open(&service.url(&format!("task?id={second}")));
    browser.until_text("the tasks before it in set");
    browser.until("document.querySelectorAll('.related li').length === 3");
    browser.click(&format!("//ol[@class='related']//a[.='{}']", short(first)));
    browser.until_text("Running for");
    browser.until(&format!("document.querySelector('.related b').innerText === '{}'", short(first)));
    browser.click("//main//h2//a");
    browser.until("document.querySelectorAll('tbody tr').length === 3 && location.hash.includes('set=')");
    browser.click("//button[@aria-label='Any set']");
    browser.until("document.querySelectorAll('tbody tr').length === 5");
    browser.click("//tbody//a[contains(., 'set ')]");
    browser.until("document.querySelectorAll('tbody tr').length === 3");
    service.release();
    browser.until_text("No live task matches.");
    browser.click("//a[.='Its tasks that have ended']");
    browser.until("document.querySelectorAll('tbody tr').length === 3");
    assert_eq!(browser.problems(), [""; 0]);
}

/// A table that is drawn again each second stays where it was scrolled to, and a row where it has the focus.
#[test]
fn names_keep_the_focus_and_the_place_and_can_be_sorted_on_a_phone() {
    let (service, browser) = (Service::with(&["PROFILED"]), Browser::start());
    for name in ["a_name", "b_name", "c_name"] {
        service.spawn("ok", name, 3);
    }
    browser.open(&service.url("names"));
    browser.look(Look { width: 1280, is_dark: false });
    // That of the builder's limit, too.
    browser.until("document.querySelectorAll('tbody tr').length === 4");
    let (scroll, first) = ("document.querySelector('.scroll')", "document.querySelector('tbody th')");
    let fits = format!("{scroll}.scrollWidth <= {scroll}.clientWidth");
    browser.until(&fits);
    browser.look(Look { width: 800, is_dark: false });
    browser.until(&format!("!({fits})"));
    browser.run(&format!("{scroll}.scrollLeft = 10_000; document.querySelector('tbody tr:nth-child(2) a').focus()"));
    let focused = browser.run("return document.activeElement.innerText");
    service.spawn("fail", "c_name", 5);
    service.spawn("fail", "a_name", 9);
    browser.until("document.querySelector('tbody').innerText.includes('(75')");
    assert_eq!(browser.run("return document.activeElement.innerText"), focused);
    browser.until(&format!("{scroll}.scrollLeft > 0"));
    let offset = format!("{first}.getBoundingClientRect().left - {scroll}.getBoundingClientRect().left");
    assert!(browser.run(&format!("return {offset}")).as_f64().unwrap().abs() < 2.0, "the name is not scrolled away");

    browser.look(Look { width: 360, is_dark: false });
    browser.run("document.activeElement.blur()");
    browser.until("document.querySelector('tbody tr').innerText.includes('a_name')");
    browser.choose("//select[@id='sort']", "Name");
    browser.until(
        "[...document.querySelectorAll('tbody th')].map((one) => one.innerText).join() === 'a_name,b_name,c_name,limited'",
    );
    browser.click("//button[.='Ascending ▲']");
    browser.until(
        "[...document.querySelectorAll('tbody th')].map((one) => one.innerText).join() === 'limited,c_name,b_name,a_name'",
    );
    assert_eq!(browser.problems(), [""; 0]);
}
