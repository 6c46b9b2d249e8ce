//! What the page does, and refuses to do.

use crate::{driver::Browser, service::Service};

#[test]
fn are_not_offered_where_they_are_off() {
    let (service, browser) = (Service::start(), Browser::start());
    let [id] = &service.spawn("hang", "import", 1)[..] else { panic!("no task") };
    service.spawn("die", "webhook", 1);
    for view in ["tasks", "dead", "name?name=import", &format!("task?id={id}")] {
        browser.open(&service.url(view));
        browser.until(
            "document.querySelector('#health').innerText === 'health check passes' && !document.querySelector('[aria-busy]')",
        );
        let offered = browser.run(
            "return [...document.querySelectorAll('main button, main input[type=checkbox]')].filter((one) => one.getClientRects().length).map((one) => one.innerText)",
        );
        let offered: Vec<String> = serde_json::from_value(offered).unwrap();
        assert!(offered.iter().all(|label| ["Back", "Next page"].contains(&label.as_str())), "{view}: {offered:?}");
    }
    // Also a page that asks all the same is refused, and is told why.
    let path = format!("tasks/{id}");
    browser.run(&format!(
        "fetch('admin/{path}', {{ method: 'DELETE', headers: {{ 'x-requested-with': 'a' }} }}).then(async (answer) => {{ globalThis.refused = answer.status + await answer.text(); }})"
    ));
    browser.until("globalThis.refused?.includes('405') && refused.includes('allow_abort')");
    assert_eq!(service.get(&path)["state"], "running");
}

#[test]
fn replay_and_discard_letters() {
    let (service, browser) = (Service::acting(), Browser::start());
    service.spawn("die", "webhook", 3);
    service.spawn("die", "other", 2);
    browser.open(&service.url("dead"));
    browser.until("document.querySelectorAll('article').length === 5");
    browser.click("(//article//button[.='Replay'])[1]");
    browser.until_text("1 replayed.");
    // The replay fails, too.
    browser.until("document.querySelectorAll('article').length === 5");
    browser.until_text("The same error");
    browser.click("(//table//button[.='Replay'])[1]");
    browser.until_text("Replay 3 letters of “webhook”?");
    browser.click("//dialog//button[.='Replay']");
    browser.until_text("3 replayed.");
    browser.until("document.querySelectorAll('article').length === 5");
    browser.click("(//article//summary)[1]");
    browser.until("document.querySelectorAll('article:first-of-type li').length === 2");
    browser.click("(//article//summary)[1]");
    browser.click("(//article//button[.='Discard'])[1]");
    browser.until_text("Discard the letter of task ");
    browser.click("//dialog//button[.='Discard']");
    browser.until_text("1 discarded.");
    browser.write("//input[@id='text']", "WEBh");
    browser.click("//button[.='Discard all that match']");
    browser.until_text("Discard 2 letters with “WEBh” in the name?");
    browser.click("//dialog//button[.='Cancel']");
    browser.click("//button[.='Discard all that match']");
    browser.click("//dialog//button[.='Discard']");
    browser.until_text("2 discarded.");
    assert_eq!(service.get("dead-letters")["dead_letters"].as_array().unwrap().len(), 2);
    assert_eq!(browser.problems(), [""; 0]);
}

/// A replay is told until it has ended, and the list and its groups have the letters that there are.
#[test]
fn say_what_became_of_replayed_letters() {
    let (service, browser) = (Service::acting(), Browser::start());
    let letters = service.spawn("mend", "mended", 2);
    service.spawn("die", "webhook", 2);
    browser.open(&service.url("dead"));
    browser.until_text("Showing 4 of 4");
    browser.until_text("4 letters in 2 groups");
    browser.click("//button[.='Replay all']");
    browser.until_text("Replay 4 letters?");
    browser.click("//dialog//button[.='Replay']");
    browser.until_text("4 letters replayed: 2 failed again, 2 running.");
    // Those that failed again are letters again, in the list, in the groups and in the tab.
    browser.until_text("Showing 2 of 2");
    browser.until("document.querySelector('main .again')?.innerText === '2 failed again'");
    browser.until("document.querySelector('nav .count')?.parentNode.parentNode.innerText.includes('Dead letters2')");
    browser.until("document.querySelectorAll('article').length === 2");
    browser.until_text("a replay of");
    service.release();
    browser.until_text("4 letters replayed: 2 failed again, 2 completed.");

    // From the letter's task to that of its replay, and back; also after the page was loaded again.
    browser.open(&service.url("overview"));
    browser.open(&service.url(&format!("task?id={}", letters[0])));
    browser.click("//dt[.='Replayed as']/following-sibling::dd[1]/a");
    browser.until_text("Replay of");
    browser.until("document.querySelector('main dl').innerText.includes('completed')");
    browser.click("//dt[.='Replay of']/following-sibling::dd[1]/a");
    browser.until_text("Replayed as");

    // One that is discarded is gone everywhere at once: its group is told no longer.
    browser.open(&service.url("dead"));
    browser.until_text("2 letters in 1 group");
    browser.click("(//article//button[.='Discard'])[1]");
    browser.click("//dialog//button[.='Discard']");
    browser.until_text("Showing 1 of 1");
    browser.until_no_text("The same error");
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn abort_one_task_or_many() {
    let (service, browser) = (Service::acting(), Browser::start());
    let [id, ..] = &service.spawn("hang", "import", 5)[..] else { panic!("no task") };
    browser.open(&service.url(&format!("task?id={id}")));
    browser.click("//button[.='Abort']");
    browser.click("//dialog//button[.='Abort']");
    browser.until_text("The task is aborted.");
    browser.until("document.querySelector('main dl').innerText.includes('aborted')");
    browser.click("//nav//a[starts-with(., 'Tasks')]");
    browser.until("document.querySelectorAll('tbody tr').length === 4");
    browser.click("(//tbody//input)[1]");
    browser.click("(//tbody//input)[2]");
    browser.click("//button[.='Abort 2 selected']");
    browser.click("//dialog//button[.='Abort']");
    browser.until_text("2 aborted.");
    browser.until("document.querySelectorAll('tbody tr').length === 2");
    assert_eq!(browser.problems(), [""; 0]);
}

#[test]
fn survive_a_restart_and_act_in_no_other_process() {
    let (mut service, browser) = (Service::acting(), Browser::start());
    service.spawn("hang", "before", 1);
    browser.open(&service.url("tasks"));
    browser.until_text("before");
    let first = browser.run("return document.querySelector('#instance').title");
    browser.click("(//tbody//input)[1]");
    service.stop();
    browser.until_text("no answer");
    service.restart();
    service.spawn("hang", "after", 1);
    browser.until_text("Another process answers");
    browser.until(&format!("document.querySelector('#instance').title !== {first}"));
    browser.until_text("live");
    // What was selected is of the other process, and is not aborted here.
    browser.click("//nav//a[starts-with(., 'History')]");
    browser.click("//nav//a[starts-with(., 'Tasks')]");
    browser.until("document.querySelector('tbody')?.innerText.includes('after')");
    browser.click("(//tbody//input)[1]");
    browser.click("//button[.='Abort 1 selected']");
    browser.click("//dialog//button[.='Abort']");
    browser.until_text("1 aborted.");
    // A lost connection is a line of the console, and nothing else may be.
    let expected = |line: &&String| !line.contains("ERR_");
    assert_eq!(browser.problems().iter().filter(expected).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn pause_and_limit_a_name() {
    let (service, browser) = (Service::acting(), Browser::start());
    service.spawn("hang", "import", 1);
    browser.open(&service.url("name?name=import"));
    browser.click("//button[.='Pause']");
    browser.until_text("Pause this name?");
    browser.click("//dialog//button[.='Pause']");
    browser.until_text("The name is paused.");
    assert_eq!(service.get("names/import")["paused"], true);
    service.spawn("hang", "import", 1);
    browser.click("//main//a[.='Live tasks']");
    browser.until_text("its name, which is paused");
    browser.choose("//select[@id='state']", "paused");
    browser.until("document.querySelectorAll('tbody tr').length === 1");
    browser.open(&service.url("name?name=import"));
    browser.click("//button[.='Resume']");
    browser.until_text("The name is resumed.");
    browser.write("//input[@id='limit']", "2");
    browser.click("//button[.='Set']");
    browser.until_text("The limit is set.");
    browser.until_text("2 of 2");
    browser.write("//input[@id='limit']", "0");
    browser.click("//button[.='Set']");
    browser.until_text("use `pause`");
    browser.click("//button[.='Remove the limit']");
    browser.until_text("The limit is removed.");
    assert_eq!(service.get("names/import")["limit"], serde_json::Value::Null);
    let problems = browser.problems();
    let expected = |line: &&String| !line.contains("400 (Bad Request)"); // the limit of zero
    assert_eq!(problems.iter().filter(expected).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn abort_all_that_match() {
    let (service, browser) = (Service::acting(), Browser::start());
    service.spawn("hang", "import", 12_000);
    service.spawn("hang", "kept", 3);
    browser.open(&service.url("tasks"));
    // What comes next in the order of the focus is there.
    browser.until("document.querySelector('main button.danger:enabled')?.getClientRects().length");
    browser.write("//input[@id='text']", "IMPO");
    browser.until("location.hash.includes('text=IMPO') && document.querySelectorAll('tbody tr').length === 50");
    browser.click("//button[.='Abort all that match']");
    browser.until_text("the text “IMPO”");
    browser.click("//dialog//button[.='Abort all']");
    browser.until_text("12,000 aborted.");
    browser.until_text("No live task matches.");
    assert_eq!(service.get("metrics.json")["live"], 3);
    assert_eq!(browser.problems(), [""; 0]);
}

/// A page that was not told of the restart yet sends the instance that it shows.
#[test]
fn meant_for_another_process_do_nothing() {
    let (mut service, browser) = (Service::acting(), Browser::start());
    service.spawn("hang", "import", 1);
    browser.open(&service.url("name?name=import"));
    browser.click("//button[.='Pause']");
    browser.until_text("Pause this name?");
    service.restart();
    service.spawn("hang", "import", 1);
    browser.click("//dialog//button[.='Pause']");
    browser.until_text("nothing was done");
    assert_eq!(service.get("names/import")["paused"], false);
}
