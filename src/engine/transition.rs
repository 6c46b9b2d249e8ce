//! One locked step of a set's queue, and its effects, which are applied without the locks.

use std::{mem, sync::Arc};

use crate::{
    engine::{
        queue_state::{Phase, QueueState, Waiting},
        set_queue::SetQueue,
    },
    ledger::{
        finished::{EndedBy, Finish},
        live::LiveTask,
        shard::ShardState,
    },
    model::{DiscardReason, Outcome, RejectReason, SharedError, TaskId},
    task::{Task, drop_tasks},
    util::{clock::Timestamp, loom::MutexGuard, panic::drop_catching},
};

/// How many tasks of a set are ended in one step of a shutdown.
const TASKS_PER_STEP: usize = 256;

/// A queue and its shard, both locked, at one time.
pub(crate) struct Transition<'a> {
    queue: &'a Arc<SetQueue>,
    pub(crate) state: MutexGuard<'a, QueueState>,
    shard: MutexGuard<'a, ShardState<SetQueue>>,
    now: Timestamp,
    effects: Effects,
}

/// The effects of a step, which must not happen under the locks. Small, because one is made and moved for each task.
#[derive(Default)]
struct Effects {
    /// Set if a task has completed and is not observed. The value: whether the shard is idle now.
    unobserved: Option<bool>,
    removed: Option<Arc<SetQueue>>,
    spawn: bool,
    rare: Option<Box<RareEffects>>,
}

/// The effects that few steps have, in the order in which they are applied.
#[derive(Default)]
struct RareEffects {
    discarded: Vec<Task>,
    finished: Vec<Finish>,
    evicted: Vec<SharedError>,
    waiting: Waiting,
}

impl Effects {
    #[inline(never)]
    fn rare(&mut self) -> &mut RareEffects {
        self.rare.get_or_insert_default()
    }

    #[cold]
    fn evict(&mut self, error: SharedError) {
        self.rare().evicted.push(error);
    }
}

impl<'a> Transition<'a> {
    pub(crate) fn new(queue: &'a Arc<SetQueue>) -> Self {
        Self::with(queue, queue.state.lock(), Timestamp::now())
    }

    #[inline]
    pub(crate) fn with(queue: &'a Arc<SetQueue>, mut state: MutexGuard<'a, QueueState>, now: Timestamp) -> Self {
        let mut shard = queue.shared().ledger.shard(queue.number());
        let mut effects = Effects::default();
        state.account.flush(&mut shard, |error| effects.evict(error));
        Self { queue, state, shard, now, effects }
    }

    /// Releases the locks and applies the effects.
    #[inline]
    pub(crate) fn finish(self) {
        let Self { queue, state, shard, mut effects, .. } = self;
        if let Some(idle) = &mut effects.unobserved {
            *idle = shard.is_idle();
        }
        drop(shard);
        drop(state);
        effects.apply(queue);
    }

    /// The dequeued tasks for which `wanted` holds.
    fn dequeued(&self, wanted: impl Fn(&LiveTask) -> bool) -> Vec<TaskId> {
        self.state.dequeued().filter(|task| wanted(task)).map(|task| task.identity.id).collect()
    }

    /// Counts the end of the current task, which has completed and is not observed. Returns `false` if it has extras.
    #[inline]
    pub(crate) fn finish_unobserved(&mut self, id: TaskId) -> bool {
        let current = self.state.current.as_ref().filter(|current| current.identity.id == id);
        let Some(completed) = current.and_then(|current| current.completed(self.now)) else {
            return false;
        };
        self.state.current = None;
        if let Some(error) = self.shard.complete(&completed) {
            self.effects.evict(error);
        }
        self.state.outcomes.count_completed();
        self.effects.unobserved = Some(false);
        true
    }

    /// Counts the end of a dequeued task, and of the tasks that its failure stops.
    pub(crate) fn end(&mut self, task: LiveTask, outcome: Outcome, by: EndedBy) {
        let stops = self.state.stop_on_failure && task.has_started() && outcome.stops_set();
        let index = task.identity.id.index;
        self.count(task, outcome, by);
        if stops {
            self.discard_all(DiscardReason::PreviousFailed);
            self.state.refusal = Some(RejectReason::PreviousFailed);
            // Tasks that slept before `stop_on_failure` was set.
            for later in self.dequeued(|task| !task.has_started() && task.identity.id.index > index) {
                self.stop(later, |_| Outcome::Discarded(DiscardReason::PreviousFailed));
            }
        }
    }

    fn count(&mut self, task: LiveTask, outcome: Outcome, by: EndedBy) {
        if let Some(error) = self.shard.finish(&task, &outcome, self.now) {
            self.effects.rare().evicted.push(error);
        }
        self.state.outcomes.count(outcome.kind());
        self.state.unreported += 1;
        self.effects.rare().finished.push(Finish { task, outcome, now: self.now, by });
    }

    fn end_pending(&mut self, task: Task, outcome: Outcome) {
        self.count(LiveTask::of(task.meta(), None), outcome, EndedBy::Caller);
        self.effects.rare().discarded.push(task);
    }

    pub(crate) fn discard_pending(&mut self, reason: DiscardReason) {
        for task in self.state.pending.take() {
            self.end_pending(task, Outcome::Discarded(reason));
        }
    }

    /// The same: a few of them now, and the others by the drain, so that no step is long.
    pub(crate) fn discard_all(&mut self, reason: DiscardReason) {
        if self.discard_some_pending(reason) {
            self.state.discards = Some(reason);
        }
    }

    /// The same for a few of them; whether there may be more.
    fn discard_some_pending(&mut self, reason: DiscardReason) -> bool {
        for _ in 0..TASKS_PER_STEP {
            let Some(task) = self.state.pending.pop() else {
                return false;
            };
            self.end_pending(task, Outcome::Discarded(reason));
        }
        true
    }

    /// Ends a task in any state on behalf of a caller; `false` if it has ended.
    pub(crate) fn end_any(&mut self, id: TaskId, outcome: Outcome) -> bool {
        if let Some(task) = self.state.pending.remove(id) {
            self.end_pending(task, outcome);
            self.remove_if_empty();
            return true;
        }
        self.stop(id, |_| outcome)
    }

    /// Discards a task that has not started: as a duplicate of the other task, if one is given.
    pub(crate) fn discard_unstarted(&mut self, id: TaskId, reason: DiscardReason, of: Option<TaskId>) {
        if let Some(task) = self.state.live(id) {
            if task.has_started() {
                return;
            }
            of.into_iter().for_each(|of| task.note_duplicate(of));
        }
        if let Some(task) = self.state.pending.find_mut(id) {
            of.into_iter().for_each(|of| task.meta_mut().note_duplicate(of));
        }
        self.end_any(id, Outcome::Discarded(reason));
    }

    /// Ends those that `wanted` selects of some of the live tasks, from index `from` on. Returns their number, and the
    /// index to go on from.
    pub(crate) fn end_some(
        &mut self,
        from: u64,
        wanted: impl Fn(&LiveTask) -> bool,
        outcome: &Outcome,
    ) -> (usize, Option<u64>) {
        let mut ids = Vec::new();
        let next = self.state.chunk(from, |task| {
            if wanted(task) {
                ids.push(task.identity.id);
            }
        });
        (ids.into_iter().filter(|id| self.end_any(*id, outcome.clone())).count(), next)
    }

    /// Ends a dequeued task on behalf of a caller; its outcome is counted now. If its drain is not polling it, the
    /// drain drops the work and then goes on. If the work is inside a poll, it is abandoned, and another drain takes
    /// over.
    pub(crate) fn stop(&mut self, id: TaskId, outcome: impl FnOnce(&LiveTask) -> Outcome) -> bool {
        if let Some(task) = self.state.take_sleeping(id) {
            self.end_stopped(task, outcome, false);
            self.remove_if_empty();
            return true;
        }
        let Some(task) = self.state.take_current(id) else {
            return false;
        };
        let is_abandoned = self.queue.mark.stop(id.index);
        self.end_stopped(task, outcome, is_abandoned);
        if is_abandoned {
            self.hand_over();
        }
        true
    }

    fn end_stopped(&mut self, task: LiveTask, outcome: impl FnOnce(&LiveTask) -> Outcome, is_running: bool) {
        let outcome = outcome(&task);
        // Under the lock, so that the runner finds the entry afterwards.
        self.queue.shared().abandoned.insert_stopped(&task, &outcome, self.now, is_running);
        self.end(task, outcome, EndedBy::Caller);
    }

    /// Ends everything, a few tasks at a time: `true` if it must be called again. From the first call on, no task
    /// starts.
    pub(crate) fn shut_down(&mut self) -> bool {
        self.state.is_shut_down = true;
        if self.discard_some_pending(DiscardReason::Closed) {
            return true;
        }
        for id in self.dequeued(|_| true) {
            self.stop(id, |task| task.unfinished(DiscardReason::Closed));
        }
        self.remove_if_empty();
        false
    }

    /// Ends the tasks that a shutdown does not wait for, and those that wait for such a task, a few at a time: `true`
    /// if it must be called again.
    pub(crate) fn end_blocked(&mut self, is_blocked: impl Fn(&LiveTask) -> bool) -> bool {
        let waits = self.state.current.as_ref().is_some_and(&is_blocked);
        if waits && self.discard_some_pending(DiscardReason::Closed) {
            return true;
        }
        for id in self.dequeued(is_blocked) {
            self.stop(id, |task| task.unfinished(DiscardReason::Closed));
        }
        false
    }

    /// Moves the current task to the sleeping ones. Its drain stays with it, and another drain takes over. In a set
    /// that stops on failure the task stays current, and the others wait.
    pub(crate) fn detach_sleeping(&mut self, id: TaskId) {
        if self.state.stop_on_failure {
            return;
        }
        if let Some(task) = self.state.take_current(id) {
            self.queue.mark.clear();
            self.state.put_sleeping(task);
            self.hand_over();
        }
    }

    /// Ends a sleeping task that has returned. `false` if it is not sleeping.
    pub(crate) fn end_sleeping(&mut self, id: TaskId, outcome: impl FnOnce(&LiveTask) -> Outcome) -> bool {
        let Some(task) = self.state.take_sleeping(id) else {
            return false;
        };
        let outcome = outcome(&task);
        self.end(task, outcome, EndedBy::Runner);
        self.remove_if_empty();
        true
    }

    /// Called when the queue has lost its drain: starts another one if tasks are pending.
    fn hand_over(&mut self) {
        self.set_idle();
        if !self.state.pending.is_empty() {
            self.effects.spawn = self.state.wake();
        }
    }

    /// Notes that no drain is running, if no pending task may start. Returns whether that is so.
    #[inline]
    pub(crate) fn idle_if_drained(&mut self) -> bool {
        let has_drained = self.state.is_shut_down || self.state.pending.is_empty();
        if has_drained {
            self.set_idle();
        }
        has_drained
    }

    /// Notes that no drain is running.
    #[inline]
    pub(crate) fn set_idle(&mut self) {
        self.state.phase = Phase::Idle;
        self.remove_if_empty();
    }

    /// If the queue is now empty, removes it from the ledger and wakes the tasks that wait for it to drain. While a
    /// drain is running, this is left to the drain.
    #[inline]
    fn remove_if_empty(&mut self) {
        if self.state.phase == Phase::Draining || !self.state.is_empty() {
            return;
        }
        // Otherwise the waiting tasks are woken when the last end is reported.
        if self.state.unreported == 0 {
            if let Some(waiting) = self.state.waiting.take() {
                self.effects.rare().waiting = *waiting;
            }
        }
        if mem::take(&mut self.state.is_listed) {
            self.effects.removed = self.shard.sets.remove(self.queue.number());
        }
    }
}

impl Effects {
    #[inline]
    fn apply(self, queue: &Arc<SetQueue>) {
        if let Some(idle) = self.unobserved {
            queue.shared().finish_unobserved(idle);
        }
        if let Some(rare) = self.rare {
            rare.apply(queue);
        }
        drop(self.removed);
        if self.spawn {
            queue.spawn_drain();
        }
    }
}

impl RareEffects {
    #[cold]
    fn apply(mut self, queue: &Arc<SetQueue>) {
        let shared = queue.shared();
        for finish in &mut self.finished {
            shared.signal_stop(finish);
        }
        drop_tasks(self.discarded);
        let ended = self.finished.len();
        for finish in self.finished {
            shared.finish(finish);
        }
        if ended > 0 {
            self.waiting.extend(queue.reported(ended));
        }
        self.evicted.into_iter().for_each(drop_catching);
        for waiting in self.waiting {
            // The waker may be foreign code, if the waiting task runs on another executor than tokio's.
            shared.telemetry.run_foreign("a waker", || _ = waiting.send(()));
        }
    }
}
