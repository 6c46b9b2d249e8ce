//! The time within which a task must start: see [`Task::expires_after`](crate::Task::expires_after).

use std::{sync::Arc, time::Duration};

use crate::{
    engine::shared::{Expiry, Shared, StartLimit},
    model::TaskId,
    task::work::{BoxedWork, Meta, StartBy},
    util::{clock::Timestamp, delay_queue::EntryGuard},
};

impl StartLimit {
    pub(crate) fn expire(self) {
        // The end of the runtime expires every entry. The task ends with that reason then.
        if !self.shared.ledger.has_runtime_ended() {
            self.shared.expire(self.id);
        }
    }
}

/// Starts the time within which a task must start, if it has one. An entry that expires before the task is listed has
/// no effect, so a call of [`check`] must follow.
#[inline]
pub(crate) fn start(shared: &Arc<Shared>, meta: &mut Meta) {
    if let Some(wait) = meta.policy.as_ref().and_then(|policy| policy.start_limit()) {
        insert(shared, meta, wait);
    }
}

fn insert(shared: &Arc<Shared>, meta: &mut Meta, wait: Duration) {
    let until = Timestamp::of(|| shared.timer.now()).plus(wait);
    let limit = StartLimit { shared: Arc::clone(shared), id: meta.id() };
    let key = until.to_instant().and_then(|until| shared.timer.insert_at(until, Expiry::StartLimit(limit)));
    let entry = key.map(|key| EntryGuard::new(&shared.timer, key));
    meta.policy.get_or_insert_default().start_by = Some(StartBy::new(until, entry));
}

/// Ends a task that is listed now, if its time was over before that.
pub(crate) fn check(shared: &Arc<Shared>, id: TaskId, until: Timestamp) {
    if Timestamp::of(|| shared.timer.now()) >= until {
        shared.expire(id);
    }
}

/// Leaves the limit for the start with the work of the first attempt, which removes it at the start.
pub(crate) fn leave_with(mut work: BoxedWork, start_by: Option<StartBy>) -> BoxedWork {
    if start_by.is_some() {
        work.as_mut().meta_mut().policy.get_or_insert_default().start_by = start_by;
    }
    work
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::{engine::shared::TaskRegistry, model::RetryPolicy, task::Task};

    const HOUR: Duration = Duration::from_secs(3600);

    async fn expect_entries(registry: &TaskRegistry, entries: usize) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(registry.shared.timer.len(), entries);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_removes_the_entry() {
        let registry = TaskRegistry::builder().limit_by_name("limited", 9).build().unwrap();
        let endless = || Task::new(pending::<()>()).expires_after(HOUR);
        registry.spawn(endless());
        registry.spawn(endless().named("limited"));
        registry.spawn(Task::retrying(RetryPolicy::default(), pending::<()>).expires_after(HOUR));
        for name in ["plain", "limited"] {
            let set = registry.set();
            set.add(endless().named(name));
            assert!(registry.shared.timer.len() > 0);
            set.drain();
        }
        expect_entries(&registry, 0).await;
        let (_release, held) = std::sync::mpsc::channel::<()>();
        let (start, started) = tokio::sync::oneshot::channel();
        let closure = move || {
            start.send(()).unwrap();
            held.recv().unwrap_err();
        };
        registry.spawn(Task::blocking(closure).expires_after(HOUR));
        started.await.unwrap();
        while registry.shared.timer.len() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(registry.metrics().running, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_and_a_refusal_remove_the_entry() {
        let registry = TaskRegistry::builder().capacity(2).build().unwrap();
        let set = registry.set();
        let id = set.add(Task::new(async {}).expires_after(HOUR));
        let handle = registry.spawn(Task::new(async {}).delay(HOUR).expires_after(HOUR));
        let rejected = set.try_add(Task::new(async {}).expires_after(HOUR)).unwrap_err();
        expect_entries(&registry, 3).await;
        handle.abort();
        expect_entries(&registry, 1).await;
        registry.abort(id);
        expect_entries(&registry, 0).await;
        drop(rejected);
    }
}
