//! The lines of polls that are slow, and of tasks that are profiled.

use std::{sync::mpsc, time::Duration};

use postlude::{Profile, Task, TaskRegistry};

use crate::capture::{listen_everywhere, logged};

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn a_slow_poll_is_warned_of_once_with_its_name_and_location() {
    let text = logged(async {
        let profile = Profile::default().slow_poll(MILLISECOND);
        let registry = TaskRegistry::builder().profile(profile).build().unwrap();
        let slow = Task::new(async { std::thread::sleep(MILLISECOND) });
        registry.spawn(slow.named("slow")).await;
        registry.spawn(Task::blocking(|| std::thread::sleep(MILLISECOND)).named("closure")).await;
    });
    let lines = text.lines_with("name=\"slow\"");
    assert_eq!(lines.len(), 1, "{}", text.read());
    for wanted in ["WARN", "slow poll", "took=", "location=", "profile.rs", "Task::blocking"] {
        assert!(lines[0].contains(wanted), "{wanted}: {}", lines[0]);
    }
    assert!(text.lines_with("closure").is_empty(), "{}", text.read());
}

#[test]
fn the_line_of_an_end_has_the_figures_if_the_registry_profiles() {
    let text = logged(async {
        let on = TaskRegistry::builder().profile(Profile::default()).build().unwrap();
        for (registry, name) in [(on, "on"), (TaskRegistry::new(), "off")] {
            registry.spawn(Task::new(async { Err::<(), _>("refused") }).named(name)).await;
        }
    });
    let [on, off] = ["on", "off"].map(|name| text.lines_with(&format!("name=\"{name}\"")).remove(0));
    for wanted in [" polls=1 ", " busy=", " longest_poll="] {
        assert!(on.contains(wanted) && !off.contains(wanted), "{wanted}: {on}{off}");
    }
}

/// The only worker is inside the poll, so nothing of the runtime can say so.
#[test]
fn a_poll_that_does_not_return_is_logged_while_it_lasts_and_at_each_doubling() {
    let elsewhere = listen_everywhere();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let profile = Profile::default().slow_poll(MILLISECOND);
    let registry = TaskRegistry::builder().profile(profile).handle(runtime.handle().clone()).build().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let stuck = Task::new(async move { assert!(held.lock().unwrap().recv().is_err()) });
    registry.spawn(stuck.named("stuck in a poll"));
    let of_task = || elsewhere.lines_with("name=\"stuck in a poll\"").into_iter();
    let lines = || of_task().filter(|line| line.contains("WARN")).collect::<Vec<_>>();
    while lines().len() < 3 {
        std::thread::yield_now();
    }
    drop(release);
    runtime.block_on(registry.wait_idle());
    let lines = lines();
    let (last, found) = lines.split_last().unwrap();
    assert!(last.contains("slow poll") && last.contains("took="), "{last}");
    for line in found {
        for wanted in ["WARN", "has not returned", "polling_for=", "location=", "profile.rs", "id="] {
            assert!(line.contains(wanted), "{wanted}: {line}");
        }
    }
}
