//! What somebody else does to the tasks of a line.

use std::sync::Arc;

use crate::{
    engine::{
        queue::SetQueue,
        transition::{Effects, Rare, Transition},
    },
    ledger::live::Stage,
    model::{DiscardReason, Outcome, TaskId},
    util::{clock::Timestamp, panic::drop_catching},
};

/// What somebody else does to the tasks of a line.
impl SetQueue {
    /// Aborts one task, wherever it stands.
    pub(crate) fn abort(self: &Arc<Self>, id: TaskId) -> bool {
        let mut turn = Transition::new(self);
        let queued = turn.state.queue.remove(|task| task.meta().id() == id);
        let found = if let Some(task) = queued {
            turn.end_pending(task, Outcome::Aborted);
            turn.rest_if_empty();
            true
        } else {
            turn.cut(id, |_| Outcome::Aborted)
        };
        turn.done();
        found
    }

    /// Takes back what has not started.
    pub(crate) fn clear(self: &Arc<Self>) -> usize {
        if !self.has_number() {
            return 0;
        }
        let mut turn = Transition::new(self);
        turn.discard_queue(DiscardReason::Cleared);
        for id in turn.taken(|live| live.stage() == Stage::Pending) {
            turn.cut(id, |_| Outcome::Discarded(DiscardReason::Cleared));
        }
        turn.rest_if_empty();
        turn.done()
    }

    /// Ends everything: what is queued, and what is running.
    pub(crate) fn shut(self: &Arc<Self>) {
        let mut turn = Transition::new(self);
        turn.discard_queue(DiscardReason::Closed);
        for id in turn.taken(|_| true) {
            turn.cut(id, Outcome::unfinished);
        }
        turn.rest_if_empty();
        turn.done();
    }

    /// Ends the tasks that are due after the deadline of a shutdown, and those that wait behind such a one.
    pub(crate) fn end_due_after(self: &Arc<Self>, deadline: Timestamp) {
        let mut turn = Transition::new(self);
        if turn.state.current.as_ref().is_some_and(|current| current.is_due_after(deadline)) {
            turn.discard_queue(DiscardReason::Closed);
        }
        for id in turn.taken(|live| live.is_due_after(deadline)) {
            turn.cut(id, Outcome::unfinished);
        }
        turn.done();
    }

    /// A task waits for a time: see [`Transition::part`].
    pub(crate) fn part(self: &Arc<Self>, id: TaskId) {
        let mut turn = Transition::new(self);
        turn.part(id);
        turn.done();
    }
}

impl SetQueue {
    /// Does what was left over under the locks.
    pub(crate) fn settle(self: &Arc<Self>, rest: Effects) {
        if let Some(idle) = rest.quiet_end {
            self.registry.shared.settle_quietly(idle);
        }
        if let Some(rare) = rest.rare {
            self.settle_rare(*rare);
        }
        drop(rest.delisted);
        if rest.spawn {
            self.spawn_drain();
        }
    }

    fn settle_rare(&self, mut rare: Rare) {
        for ended in &mut rare.ended {
            ended.release();
        }
        for task in rare.dropped {
            drop_catching(task);
        }
        let told = rare.ended.len();
        for ended in rare.ended {
            self.registry.shared.settle(ended);
        }
        if told > 0 {
            rare.waiting.extend(self.told(told));
        }
        for error in rare.forgotten {
            drop_catching(error);
        }
        for waiting in rare.waiting {
            // Whoever has stopped waiting need not be told.
            let _unheard = waiting.send(());
        }
    }

    pub(crate) fn spawn_drain(self: &Arc<Self>) {
        self.registry.shared.spawn_drain(Arc::clone(self));
    }
}
