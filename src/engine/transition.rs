//! One locked look at a line: what happens to its tasks, and what remains to be done without the locks.

use std::{mem, sync::Arc};

use tokio::sync::oneshot;

use crate::{
    engine::{
        course::Next,
        queue::SetQueue,
        state::{Phase, State},
    },
    ledger::{
        finished::{EndedBy, Finish},
        live::{LiveTask, Stage},
        shard::ShardState,
    },
    model::{BoxError, DiscardReason, Outcome, RejectReason, TaskId},
    task::Task,
    util::{clock::Timestamp, loom::MutexGuard},
};

/// A line and its books, locked, at one moment.
pub(crate) struct Transition<'a> {
    line: &'a Arc<SetQueue>,
    pub(crate) state: MutexGuard<'a, State>,
    books: MutexGuard<'a, ShardState>,
    now: Timestamp,
    /// Whether somebody wants to hear of tasks that completed.
    attentive: bool,
    rest: Effects,
}

/// What must not happen under the locks. Small, for it is made and moved once a task.
#[derive(Default)]
#[must_use]
pub(crate) struct Effects {
    /// A task has completed, and nobody wants to hear of it; whether that has left the shard idle.
    pub(crate) quiet_end: Option<bool>,
    pub(crate) delisted: Option<Arc<SetQueue>>,
    pub(crate) spawn: bool,
    pub(crate) rare: Option<Box<Rare>>,
}

/// What few turns leave, in the order in which it is done.
#[derive(Default)]
pub(crate) struct Rare {
    pub(crate) dropped: Vec<Task>,
    pub(crate) ended: Vec<Finish>,
    pub(crate) forgotten: Vec<Arc<BoxError>>,
    pub(crate) waiting: Vec<oneshot::Sender<()>>,
}

impl Effects {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl<'a> Transition<'a> {
    pub(crate) fn new(line: &'a Arc<SetQueue>) -> Self {
        let attentive = line.registry.shared.wants_completed();
        Self::with(line, line.state.lock(), Timestamp::now(), attentive)
    }

    pub(crate) fn with(
        line: &'a Arc<SetQueue>,
        mut state: MutexGuard<'a, State>,
        now: Timestamp,
        attentive: bool,
    ) -> Self {
        let mut books = line.books();
        let mut rest = Effects::default();
        if !state.account.is_empty() {
            books.book(&mut state.account, |error| rest.rare().forgotten.push(error));
        }
        Self { line, state, books, now, attentive, rest }
    }

    /// Releases the locks and does the rest; returns how many tasks have ended.
    pub(crate) fn done(self) -> usize {
        let Self { line, state, books, mut rest, .. } = self;
        if let Some(idle) = &mut rest.quiet_end {
            *idle = books.is_idle();
        }
        drop(books);
        drop(state);
        let count = rest.rare.as_ref().map_or(0, |rare| rare.ended.len()) + usize::from(rest.quiet_end.is_some());
        line.settle(rest);
        count
    }

    /// The tasks that have left the queue, as far as they are wanted.
    pub(crate) fn taken(&self, wanted: impl Fn(&LiveTask) -> bool) -> Vec<TaskId> {
        self.state.taken().filter(|live| wanted(live)).map(|live| live.identity.id).collect()
    }

    pub(crate) fn take_current(&mut self, id: TaskId) -> Option<LiveTask> {
        self.state.current.take_if(|current| current.identity.id == id)
    }

    /// Takes the next task to the head of the line; none, and the line is drained.
    pub(crate) fn pop(&mut self) -> Option<Next> {
        let popped = self.line.pop(&mut self.state, self.now);
        if popped.is_none() {
            self.drained();
        }
        popped
    }

    /// Counts the end of the current task, which has completed, if there is no more to it than that.
    pub(crate) fn end_quietly(&mut self, id: TaskId) -> bool {
        let state = &mut *self.state;
        let Some(live) = state.current.take_if(|live| live.identity.id == id && live.is_alone()) else {
            return false;
        };
        if let Some(error) = self.books.end(&live, &Outcome::Completed, self.now, true) {
            self.rest.rare().forgotten.push(error);
        }
        state.report.count(&Outcome::Completed);
        self.rest.quiet_end = Some(false);
        true
    }

    /// Counts the end of the current task, and of those that its failure stops.
    pub(crate) fn end(&mut self, current: LiveTask, outcome: Outcome) {
        self.end_by(EndedBy::Runner, current, outcome);
    }

    fn end_by(&mut self, side: EndedBy, current: LiveTask, outcome: Outcome) {
        let stops = self.state.stop_on_failure && current.stage() == Stage::Running && outcome.is_failure();
        let place = current.identity.id.place;
        self.count(side, current, outcome);
        if stops {
            self.discard_queue(DiscardReason::PreviousFailed);
            self.state.refusal = Some(RejectReason::PreviousFailed);
            // Those that had left the line for a while before it was told to stop.
            for later in self.taken(|live| live.stage() == Stage::Pending && live.identity.id.place > place) {
                self.cut(later, |_| Outcome::Discarded(DiscardReason::PreviousFailed));
            }
        }
    }

    /// Counts the end of a task that was taken from the queue.
    pub(crate) fn end_pending(&mut self, task: Task, outcome: Outcome) {
        self.count(EndedBy::Caller, LiveTask::new(task.meta().identity()), outcome);
        self.rest.rare().dropped.push(task);
    }

    fn count(&mut self, side: EndedBy, live: LiveTask, outcome: Outcome) {
        let quiet = outcome.is_completed() && !self.attentive;
        if let Some(error) = self.books.end(&live, &outcome, self.now, quiet) {
            self.rest.rare().forgotten.push(error);
        }
        self.state.report.count(&outcome);
        self.state.untold += 1;
        self.rest.rare().ended.push(Finish { live, outcome, now: self.now, side, quiet });
    }

    pub(crate) fn discard_queue(&mut self, reason: DiscardReason) {
        for task in mem::take(&mut self.state.queue) {
            self.end_pending(task, Outcome::Discarded(reason));
        }
    }

    /// Cuts the current task loose: its outcome is counted now, and another drain takes over the line. The
    /// old one is told to end, whenever its work lets it. `false` if the task is not current.
    pub(crate) fn cut(&mut self, id: TaskId, outcome: impl FnOnce(Stage) -> Outcome) -> bool {
        if let Some(away) = self.take_away(id) {
            self.cut_loose(away, outcome);
            self.rest_if_empty();
            return true;
        }
        let Some(current) = self.take_current(id) else {
            return false;
        };
        self.cut_loose(current, outcome);
        self.hand_over();
        true
    }

    fn cut_loose(&mut self, live: LiveTask, outcome: impl FnOnce(Stage) -> Outcome) {
        // Under the lock: the old drain's own end comes after this, and takes it out again.
        self.line.registry.shared.stuck.insert_cut(&live);
        let outcome = outcome(live.stage());
        self.end_by(EndedBy::Caller, live, outcome);
    }

    /// Lets the current task go on by itself, while it waits for a time: its drain goes with it, and another takes over
    /// the line. In a line that stops on failure it stays, and the others wait.
    pub(crate) fn part(&mut self, id: TaskId) {
        if self.state.stop_on_failure {
            return;
        }
        if let Some(live) = self.take_current(id) {
            self.state.put_away(live);
            self.hand_over();
        }
    }

    fn take_away(&mut self, id: TaskId) -> Option<LiveTask> {
        self.state.take_away(id)
    }

    /// Counts the end of a task that had left the line, and with it the end of its drain. `false` if there is none.
    pub(crate) fn end_away(mut self, id: TaskId, outcome: impl FnOnce(Stage) -> Outcome) -> bool {
        let Some(live) = self.take_away(id) else {
            // The locks go before `outcome` does, which may hold an error of the user's.
            self.done();
            return false;
        };
        let outcome = outcome(live.stage());
        self.end(live, outcome);
        self.rest_if_empty();
        self.done();
        true
    }

    /// The line has lost its drain: starts another, if there is something to drain.
    fn hand_over(&mut self) {
        self.state.phase = Phase::Drained;
        if self.state.queue.is_empty() {
            self.drained();
        } else {
            self.rest.spawn = self.state.wake();
        }
    }

    /// The queue is empty, and no drain is at it.
    pub(crate) fn drained(&mut self) {
        self.state.phase = Phase::Drained;
        self.rest_if_empty();
    }

    /// After a task has ended: strikes a line that has none off the list, and tells those who wait for that. A draining
    /// one is left to its drain, which will find it empty.
    pub(crate) fn rest_if_empty(&mut self) {
        if self.state.phase == Phase::Draining || !self.state.is_empty() {
            return;
        }
        // Otherwise whoever tells the last end tells them, too.
        if !self.state.waiting.is_empty() && self.state.untold == 0 {
            self.rest.rare().waiting = mem::take(&mut self.state.waiting);
        }
        if mem::take(&mut self.state.listed) {
            self.rest.delisted = self.books.strike_set(self.line.number());
        }
    }
}
