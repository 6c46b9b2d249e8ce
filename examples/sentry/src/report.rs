//! Reports the failures of tasks to Sentry. This file can be copied into a service as it is.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use postlude::{Outcome, TaskId, TaskInfo, TaskRegistryBuilder, TaskReport};
use sentry::{Hub, Level, event_from_error, protocol::Event};

/// The hubs of the live tasks: the end of a task is reported outside its work, where its hub is not the current one.
#[derive(Clone, Default)]
struct Hubs(Arc<Mutex<HashMap<TaskId, Arc<Hub>>>>);

impl Hubs {
    fn insert(&self, id: TaskId, hub: &Arc<Hub>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(hub));
    }

    fn remove(&self, id: TaskId) -> Option<Arc<Hub>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}

/// Forgets the hub of a task that has never run: `try_add` may have handed it back, and then its end is not reported.
struct Forget {
    id: TaskId,
    hubs: Hubs,
    has_run: AtomicBool,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if !*self.has_run.get_mut() {
            drop(self.hubs.remove(self.id));
        }
    }
}

/// Gives each task a hub of its own, with the scope of the code that adds it, and reports each task that failed once.
pub(crate) fn to_sentry(builder: TaskRegistryBuilder) -> TaskRegistryBuilder {
    with_hubs(builder, Hubs::default())
}

fn with_hubs(builder: TaskRegistryBuilder, hubs: Hubs) -> TaskRegistryBuilder {
    let of_reports = hubs.clone();
    builder
        .wrap(move |task: &TaskInfo| {
            let hub = Arc::new(Hub::new_from_top(Hub::current()));
            hub.configure_scope(|scope| {
                scope.set_tag("task.name", task.name);
                scope.set_tag("task.location", task.location);
            });
            hubs.insert(task.id, &hub);
            let forget = Forget { id: task.id, hubs: hubs.clone(), has_run: AtomicBool::new(false) };
            move |step| {
                // Relaxed: a drop has exclusive access.
                forget.has_run.store(true, Ordering::Relaxed);
                Hub::run(Arc::clone(&hub), || step.run())
            }
        })
        .observe(move |report: &TaskReport| {
            let hub = of_reports.remove(report.id);
            if let Some(event) = event_of(report) {
                hub.unwrap_or_else(Hub::current).capture_event(event);
            }
        })
}

/// The event of a task whose work was not done. A panic has one of Sentry's panic integration, with a stack trace.
fn event_of(report: &TaskReport) -> Option<Event<'static>> {
    if !report.outcome.is_loss() || matches!(report.outcome, Outcome::Panicked(_)) {
        return None;
    }
    let mut event = report.outcome.error().map_or_else(Event::new, event_from_error);
    event.level = Level::Error;
    event.message = Some(format!("task `{}` {}", report.name, report.outcome.kind().label()));
    event.tags.insert("task.name".to_owned(), report.name.to_string());
    event.tags.insert("task.location".to_owned(), report.location.to_string());
    Some(event)
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use postlude::{Task, TaskRegistry};

    use super::*;

    #[tokio::test]
    async fn no_hub_is_kept_longer_than_its_task() {
        let hubs = Hubs::default();
        let kept = || hubs.0.lock().unwrap().len();
        let registry = with_hubs(TaskRegistry::builder().capacity(1), hubs.clone()).build().unwrap();
        let running = registry.spawn(pending::<()>());
        assert_eq!(kept(), 1);
        let handed_back = registry.try_spawn(async {}).unwrap_err();
        assert_eq!(kept(), 1);
        drop(handed_back);
        running.abort();
        registry.wait_idle().await;
        assert_eq!(kept(), 0);

        let delayed = registry.spawn(Task::new(async {}).delay(Duration::from_secs(3600)));
        assert_eq!(kept(), 1);
        delayed.abort();
        registry.wait_idle().await;
        assert_eq!(kept(), 0);
        assert!(registry.spawn(async {}).await.is_completed());
        assert!(registry.spawn_blocking(|| ()).await.is_completed());
        registry.wait_idle().await;
        assert_eq!(kept(), 0);
    }
}
