//! Lists that are read page by page.

use std::collections::HashSet;

use postlude::{Page, RetryPolicy, Task, TaskId, TaskInfo, TaskRegistry, TaskReport};

fn hanging() -> Task {
    Task::new(std::future::pending::<()>()).named("hanging")
}

fn info_ids(page: &Page<TaskInfo>) -> Vec<TaskId> {
    page.items.iter().map(|task| task.id).collect()
}

fn report_ids(page: &Page<TaskReport>) -> Vec<TaskId> {
    page.items.iter().map(|report| report.id).collect()
}

mod live_page {
    use super::*;

    #[tokio::test]
    async fn lists_by_id_and_applies_the_filter() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let named = ["a", "b", "a", "a"].map(|name| set.add(Task::new(async {}).named(name)));
        let first = registry.live_page(None, 2, |task| task.name == "a");
        assert_eq!((info_ids(&first), first.next), (vec![named[0], named[2]], Some(named[2])));
        let second = registry.live_page(first.next, 2, |task| task.name == "a");
        assert_eq!((info_ids(&second), second.next), (vec![named[3]], None));
    }

    // A page that is exactly full is the last one if no task is left over.
    #[tokio::test]
    async fn a_full_last_page_has_no_next() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let ids = [set.add(hanging()), set.add(hanging())];
        let page = registry.live_page(None, 2, |_| true);
        assert_eq!((info_ids(&page), page.next), (ids.to_vec(), None));
    }

    #[tokio::test]
    async fn a_limit_of_0_counts_as_1() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let ids = [set.add(hanging()), set.add(hanging())];
        let page = registry.live_page(None, 0, |_| true);
        assert_eq!((info_ids(&page), page.next), (vec![ids[0]], Some(ids[0])));
    }

    // Among 25,000 tasks only the last one matches: no page looks at more than 10,000.
    #[tokio::test]
    async fn a_page_without_a_match_has_a_next_one() {
        let registry = TaskRegistry::new();
        let mut all = HashSet::new();
        for _ in 0..25_000 {
            all.insert(registry.spawn(hanging()).id());
        }
        let last = *all.iter().max().unwrap();
        let (mut cursor, mut pages, mut looked_at) = (None, Vec::new(), HashSet::new());
        loop {
            let mut looks = 0;
            let page = registry.live_page(cursor, 100, |task| {
                looks += 1;
                assert!(looked_at.insert(task.id), "{} is looked at once", task.id);
                task.id == last
            });
            assert!(looks <= 10_000, "{looks}");
            cursor = page.next;
            pages.push(info_ids(&page));
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(pages, [vec![], vec![], vec![last]]);
        assert_eq!(looked_at, all);
    }

    // The filter runs without a lock.
    #[tokio::test]
    async fn the_filter_may_call_the_registry() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let id = set.add(hanging());
        registry.spawn(hanging());
        let page = registry.live_page(None, 10, |task| registry.abort(task.id));
        assert!(info_ids(&page).contains(&id) && page.items.len() == 2, "{page:?}");
        assert_eq!(registry.metrics().aborted, 2);
    }
}

mod history_page {
    use super::*;

    #[tokio::test]
    async fn lists_the_latest_first_and_applies_the_filter() {
        let registry = TaskRegistry::new();
        let mut failed = Vec::new();
        for number in 0..6 {
            let handle = registry.spawn(async move { if number % 2 == 0 { Ok(()) } else { Err("odd") } });
            failed.extend((number % 2 == 1).then_some(handle.id()));
            handle.await;
        }
        failed.reverse();
        let first = registry.history_page(None, 2, |report| !report.outcome.is_completed());
        assert_eq!((report_ids(&first), first.next), (failed[..2].to_vec(), Some(failed[1])));
        registry.spawn(async { Err::<(), _>("later") }).await;
        let second = registry.history_page(first.next, 2, |report| !report.outcome.is_completed());
        assert_eq!((report_ids(&second), second.next), (failed[2..].to_vec(), None));
    }

    #[tokio::test]
    async fn a_cursor_that_is_forgotten_ends_the_list() {
        let registry = TaskRegistry::builder().history(2).build().unwrap();
        let mut ids = Vec::new();
        for _ in 0..3 {
            let handle = registry.spawn(async {});
            ids.push(handle.id());
            handle.await;
        }
        assert_eq!(report_ids(&registry.history_page(Some(ids[2]), 9, |_| true)), [ids[1]]);
        let page = registry.history_page(Some(ids[0]), 9, |_| true);
        assert_eq!((page.items.len(), page.next), (0, None));
    }
}

mod dead_letters_page {
    use super::*;

    #[tokio::test]
    async fn lists_the_latest_first_while_letters_come_and_go() {
        let registry = TaskRegistry::new();
        let mut dead = Vec::new();
        for _ in 0..5 {
            let once = RetryPolicy::default().attempts(1);
            let handle = registry.spawn(Task::retrying(once, || async { Err::<(), _>("down") }));
            dead.push(handle.id());
            handle.await;
        }
        dead.reverse();
        let letters = registry.dead_letters();
        let ids =
            |page: &Page<_, u64>| page.items.iter().map(|letter: &postlude::DeadLetter| letter.id).collect::<Vec<_>>();
        let first = letters.page(None, 2);
        assert_eq!(ids(&first), dead[..2]);
        letters.discard(dead[1]); // the cursor's own
        registry.spawn(async { Err::<(), _>("later") }).await;
        let second = letters.page(first.next, 3);
        assert_eq!((ids(&second), second.next), (dead[2..].to_vec(), None));
        assert_eq!(ids(&letters.page(second.next, 0)).len(), 1, "a limit of 0 counts as 1");
    }
}
