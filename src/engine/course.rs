//! A drain's way through its line, from one task to the next.

use std::{sync::Arc, task::Waker};

use crate::{
    engine::{queue::SetQueue, run::under_policy, state::State, transition::Transition},
    ledger::live::LiveTask,
    model::{DiscardReason, Ending, Outcome, RejectReason, TaskId},
    task::work::{BoxedWork, End},
    util::clock::Timestamp,
};

/// The task that has come to the head of the line.
pub(crate) struct Next {
    work: BoxedWork,
    plain: bool,
    ending: Option<Ending>,
}

impl SetQueue {
    /// The drain's question when it has no work in hand. `None`: it has come to the end of the line.
    pub(crate) fn next(self: &Arc<Self>) -> Option<BoxedWork> {
        let now = Timestamp::now();
        let mut state = self.state.lock();
        if let (Some(condition), Some(ending), false) = (&self.condition, state.ending, state.decided) {
            drop(state);
            let drain = self.registry.shared.ask("the condition of a layer", || condition(&ending));
            self.decided(drain);
            return self.next();
        }
        if let Some(popped) = self.pop(&mut state, now) {
            drop(state);
            return Some(self.prepare(popped));
        }
        drop(state);
        let mut turn = Transition::new(self);
        let next = turn.pop();
        turn.done();
        next.map(|popped| self.prepare(popped))
    }

    /// Takes the next task to the head of the line, started if nothing stands in its way.
    #[inline]
    pub(crate) fn pop(&self, state: &mut State, now: Timestamp) -> Option<Next> {
        let task = state.queue.pop()?;
        let meta = task.meta();
        let plain = self.registry.shared.runs_plain(meta);
        let mut current = LiveTask::new(meta.identity());
        if plain {
            current.start(now);
            state.account.start();
        }
        state.current = Some(current);
        Some(Next { work: task.work, plain, ending: state.ending })
    }

    #[inline]
    fn prepare(&self, Next { work, plain, ending }: Next) -> BoxedWork {
        if plain {
            self.registry.shared.started(work.meta().id());
            return work;
        }
        under_policy(work, &self.registry, ending)
    }

    /// The condition was asked: on to the tasks, or to none of them.
    fn decided(self: &Arc<Self>, drain: bool) {
        let mut turn = Transition::new(self);
        turn.state.decided = true;
        if !drain {
            turn.discard_queue(DiscardReason::Ending);
            turn.state.refusal = Some(RejectReason::Ending);
        }
        turn.done();
    }

    /// A drain's work has returned: what it does next. `None`: nothing, for it has come to the end of the line; or it has been
    /// superseded, as somebody else has counted its task.
    #[inline]
    pub(crate) fn finish(self: &Arc<Self>, id: TaskId, end: End) -> Option<BoxedWork> {
        let completed = end.is_completed();
        let attentive = self.registry.shared.wants_completed();
        let quiet = completed && !attentive;
        let now = Timestamp::now();
        let mut state = self.state.lock();
        if quiet && state.end_quietly(id, now) {
            let next = self.pop(&mut state, now);
            drop(state);
            self.registry.shared.ledger.give_back();
            return next.map(|popped| self.prepare(popped));
        }
        let mut turn = Transition::with(self, state, now, attentive);
        if !(quiet && turn.end_quietly(id)) {
            let Some(current) = turn.take_current(id) else {
                if !turn.end_away(id, |_| end.into_outcome()) {
                    self.registry.shared.stuck.remove_cut(id);
                }
                return None;
            };
            turn.end(current, end.into_outcome());
            if !completed {
                // Told before the next one starts, so that a hook may still have a say in that.
                turn.done();
                return self.next();
            }
        }
        let next = turn.pop();
        turn.done();
        next.map(|popped| self.prepare(popped))
    }

    /// The drain was dropped before its end, with `id` in hand or nothing. `false` if it had been superseded;
    /// otherwise the runtime has ended, and with it the line.
    pub(crate) fn abandon(self: &Arc<Self>, id: Option<TaskId>) -> bool {
        let mut turn = Transition::new(self);
        if let Some(id) = id {
            let Some(current) = turn.take_current(id) else {
                return turn.end_away(id, Outcome::unfinished);
            };
            let stage = current.stage();
            turn.end(current, Outcome::unfinished(stage));
        }
        turn.discard_queue(DiscardReason::Closed);
        turn.drained();
        turn.done();
        true
    }

    /// The drain that has a task in hand waits; `false` if it has been superseded.
    pub(crate) fn park(&self, id: TaskId, drain: Waker) -> bool {
        self.with_live(id, |live| live.park(drain)).is_some()
    }
}
