//! The keys of tasks: claims them, and ends the tasks that a claim replaces.

use std::{future::poll_fn, sync::Arc};

use crate::{
    engine::{queue_state::QueueState, set_queue::SetQueue, shared::Shared},
    ledger::finished::EndedBy,
    limits::unique::{Accepted, Claimed, Replaced},
    model::{DiscardReason, IfLive, KeyOfName, Outcome, TaskId, TaskName},
    task::{
        keyed::{Claim, Held, Keyed},
        work::{BoxedWork, Condition, Meta},
    },
    util::{clock::Timestamp, loom::MutexGuard, panic::drop_catching},
};

/// The tasks that a claim ends. They are ended without a lock.
#[derive(Default)]
pub(crate) struct Displaced(Vec<DisplacedTask>);

enum DisplacedTask {
    /// It has not started, and is a duplicate of the other one.
    Duplicate {
        id: TaskId,
        of: TaskId,
    },
    Aborted(TaskId),
}

impl Displaced {
    pub(crate) fn end(self, shared: &Arc<Shared>) {
        for task in self.0 {
            match task {
                DisplacedTask::Duplicate { id, of } => shared.discard_unstarted(id, DiscardReason::Duplicate, Some(of)),
                DisplacedTask::Aborted(id) => _ = shared.abort(id),
            }
        }
    }
}

/// Claims the key of a live task, if it must be unique, and notes in the task what became of that. A task that has
/// expired will not start, so it claims no key. May be called under the lock of the task's queue.
pub(crate) fn claim(shared: &Shared, meta: &mut Meta, displaced: &mut Displaced) {
    let now = Timestamp::now();
    if meta.is_expired(now) {
        return;
    }
    let (id, key) = (meta.id(), meta.key_of_name());
    let keyed = meta.policy.as_mut().and_then(|policy| policy.keyed.as_deref_mut());
    let (Some(key), Some(Keyed { unique: Some(policy), claim: claim @ Claim::None, .. })) = (key, keyed) else {
        return;
    };
    *claim = match shared.admission.unique.claim(&key, id, *policy, now) {
        Claimed::Duplicate(of) => {
            displaced.0.push(DisplacedTask::Duplicate { id, of });
            Claim::Duplicate(of)
        }
        Claimed::Accepted(Accepted { replaces, aborts, since, waits }) => {
            displaced.0.extend(replaces.map(|replaced| DisplacedTask::Duplicate { id: replaced, of: id }));
            displaced.0.extend(aborts.map(DisplacedTask::Aborted));
            let put_off_until = policy.put_off_at_most.map(|time| since.plus(time));
            Claim::Held(Held { place: replaces.map(|_| since), put_off_until, waits })
        }
    };
}

/// The same for a task that is spawned, and listed by the ledger.
#[cold]
pub(crate) fn claim_spawned(shared: &Shared, meta: &mut Meta, displaced: &mut Displaced) {
    claim(shared, meta, displaced);
    let (id, key) = (meta.id(), meta.key_of_name());
    if let (Some(_), Some(key)) = (meta.held(), key) {
        if shared.with_live(id, |live| live.hold_key(key.clone())).is_none() {
            // The task was ended since it was listed.
            shared.admission.unique.release(&key, id);
        }
    }
}

/// Ends a task that is spawned, and listed by the ledger, as a duplicate.
#[cold]
pub(crate) fn end_duplicate(shared: &Arc<Shared>, work: BoxedWork, of: TaskId) {
    let id = work.meta().id();
    drop_catching(work);
    shared.with_live(id, |live| live.note_duplicate(of));
    if !shared.end_spawned(id, |_| Outcome::Discarded(DiscardReason::Duplicate), EndedBy::Runner) {
        shared.abandoned.dropped(id);
    }
}

/// Waits until the task that has the key has ended.
pub(crate) async fn turn(shared: &Shared, key: &KeyOfName, id: TaskId) -> Result<(), Replaced> {
    poll_fn(|context| shared.admission.unique.poll_turn(key, id, context)).await
}

/// The outcome of a task that was replaced before it has started.
pub(crate) fn replaced(shared: &Shared, id: TaskId, Replaced(by): Replaced) -> Outcome {
    if let Some(by) = by {
        shared.with_live(id, |live| live.note_duplicate(by));
    }
    Outcome::Discarded(DiscardReason::Duplicate)
}

/// Locks a queue to which a task is added whose key must be unique. If the set has begun to drain, the condition of the
/// task was evaluated before.
pub(crate) fn lock_for_claim<'a>(queue: &'a SetQueue, meta: &mut Meta) -> MutexGuard<'a, QueueState> {
    loop {
        let state = queue.state.lock();
        let Some(ending) = state.ending.filter(|_| state.has_begun()) else {
            return state;
        };
        let (id, name) = (meta.id(), meta.name);
        let Some(policy) = &mut *meta.policy else { return state };
        let Some(condition) = policy.when.take() else { return state };
        drop(state);
        let runs = queue.shared().may_run(id, name, &condition, ending);
        drop_catching(condition);
        if !runs {
            refuse(policy.keyed.as_deref_mut());
        }
    }
}

fn refuse(keyed: Option<&mut Keyed>) {
    if let Some(keyed) = keyed {
        keyed.claim = Claim::Refused;
    }
}

/// Claims the keys of the tasks that were added before their set has begun to drain: of some hundred at a time, in
/// order. Called by the drain before it takes the first task.
#[cold]
pub(crate) fn claim_pending(queue: &Arc<SetQueue>) {
    let shared = queue.shared();
    let mut from = Some(0);
    while let Some(first) = from {
        ask_conditions(queue, first);
        let mut displaced = Displaced::default();
        let mut state = queue.state.lock();
        from = state.pending.for_some(first, |task| claim(shared, task.meta_mut(), &mut displaced));
        drop(state);
        displaced.end(shared);
    }
}

/// Whether a task that is added to a set must be refused, because its key is live.
pub(crate) fn is_skipped(shared: &Shared, state: &QueueState, meta: &Meta) -> bool {
    state.has_begun() && is_live(shared, meta)
}

/// Whether the key of a task that is skipped in that case is live.
pub(crate) fn is_live(shared: &Shared, meta: &Meta) -> bool {
    let skips = |keyed: &Keyed| keyed.unique.is_some_and(|policy| policy.if_live == IfLive::Skip);
    meta.keyed().is_some_and(skips)
        && meta.key_of_name().is_some_and(|key| shared.admission.unique.find(&key).is_some())
}

/// Evaluates the conditions of the tasks whose keys are about to be claimed, so that a task that will not run replaces
/// none.
fn ask_conditions(queue: &Arc<SetQueue>, first: u64) {
    let mut conditions: Vec<(TaskId, TaskName, Condition)> = Vec::new();
    let mut state = queue.state.lock();
    let Some(ending) = state.ending else { return };
    state.pending.for_some(first, |task| {
        let meta = task.meta_mut();
        let (id, name) = (meta.id(), meta.name);
        if let (true, Some(policy)) = (meta.is_unique(), &mut *meta.policy) {
            conditions.extend(policy.when.take().map(|condition| (id, name, condition)));
        }
    });
    drop(state);
    let runs = |(id, name, condition): (TaskId, TaskName, Condition)| {
        let runs = queue.shared().may_run(id, name, &condition, ending);
        drop_catching(condition);
        (!runs).then_some(id)
    };
    let refused: Vec<_> = conditions.into_iter().filter_map(runs).collect();
    let mut state = queue.state.lock();
    for id in refused {
        if let Some(policy) = state.pending.find_mut(id).and_then(|task| task.meta_mut().policy.as_mut()) {
            refuse(policy.keyed.as_deref_mut());
        }
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use crate::{engine::shared::TaskRegistry, model::UniquePolicy, task::Task};

    #[tokio::test]
    async fn a_million_keys_come_and_go() {
        let registry = TaskRegistry::builder().limit_by_key("limited", 1).build().unwrap();
        for key in 0..1_000_000_u32 {
            let policy = if key % 2 == 0 { UniquePolicy::join() } else { UniquePolicy::replace() };
            registry.spawn(Task::new(async {}).named("limited").key(key).unique(policy));
            if key % 1_000 == 0 {
                registry.wait_idle().await;
            }
        }
        registry.wait_idle().await;
        assert_eq!(registry.metrics().completed, 1_000_000);
        assert_eq!((registry.shared.admission.unique.len(), registry.shared.admission.keys.len()), (0, 0));
    }
}
