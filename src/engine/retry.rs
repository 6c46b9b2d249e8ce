//! The attempts of a retrying task: one after another, until one gets it done or the policy gives up.

use std::time::Duration;

use crate::{
    engine::{
        run::{Terms, attempt},
        shared::Shared,
    },
    ledger::live::LiveTask,
    limits::semaphore::Acquire,
    model::{Attempt, Outcome, RetryPolicy, TaskId, TaskReport},
    registry::TaskRegistry,
    task::{
        exhausted::{Exhausted, FailedAttempts},
        work::{BoxedWork, Policy},
    },
    util::{clock::Timestamp, panic::drop_catching},
};

pub(crate) async fn attempts(
    mut source: BoxedWork,
    retry: RetryPolicy,
    policy: Box<Policy>,
    registry: &TaskRegistry,
    mut entered: Option<Acquire>,
) -> Outcome {
    let shared = &*registry.shared;
    let id = source.meta().id();
    let terms = Terms::of(source.meta(), &policy, shared);
    let mut failed = FailedAttempts::default();
    let mut number = 0_u32;
    loop {
        number = number.saturating_add(1);
        let outcome = attempt(&terms, number, registry, entered.take(), || source.as_mut().next_attempt()).await;
        if !outcome.is_dead() {
            return outcome;
        }
        let now = Timestamp::now();
        let Some((made, since_first)) = shared.with_live(id, |live| live.attempts_made(now)) else {
            return Outcome::Aborted;
        };
        let again = shared.ask("the `retry_if` of a policy", || retry.is_worth_another(&outcome));
        let Some(delay) = retry.next_delay(made, since_first, fastrand::f64()).filter(|_| again) else {
            let meta = source.as_mut().meta_mut();
            meta.policy = Some(Box::new(Policy { retry: Some(retry), ..*policy }));
            // The work is over, and its span with it, however long the letter is kept.
            meta.span = None;
            shared.give_up(id, Box::new(Exhausted { failed, source }));
            return outcome;
        };
        let Some(report) = shared.rest(id, outcome, delay) else {
            return Outcome::Aborted;
        };
        shared.attempt_failed(&report, delay);
        if shared.dead_letters.are_kept() {
            failed.push(Attempt::of(&report));
        }
        drop_catching(report);
        shared.timer.sleep(delay).await;
    }
}

/// What is noted of a task that waits for a time.
impl Shared {
    /// The first attempt is due after `delay`, or sooner, if it may be told to hurry. `false` if the task has ended meanwhile.
    pub(crate) fn delay(&self, id: TaskId, delay: Duration, may_hurry: bool) -> bool {
        let due = Timestamp::now().plus(delay);
        let found = self.with_live(id, |live| live.delay_until(due, may_hurry)).is_some();
        self.part(id);
        found
    }

    /// The first attempt is due now, and not later.
    pub(crate) fn hurry(&self, id: TaskId) {
        let now = Timestamp::now();
        self.with_live(id, |live| live.delay_until(now, false));
    }

    /// The next attempt is due after `wait`, to all appearances.
    pub(crate) fn note_due(&self, id: TaskId, wait: Duration) {
        let due = Timestamp::now().plus(wait);
        self.with_live(id, |live| live.wait_until(due));
    }

    /// An attempt has failed, and the next one is due after `delay`. `None` if the task has ended meanwhile.
    fn rest(&self, id: TaskId, outcome: Outcome, delay: Duration) -> Option<TaskReport> {
        let now = Timestamp::now();
        let due = now.plus(delay);
        let timed_out = matches!(outcome, Outcome::TimedOut(_));
        let (token, mut report) = self.with_live(id, |live| {
            live.rest(now);
            live.wait_until(due);
            let token = if timed_out { live.take_token() } else { None };
            (token, live.report(Outcome::Completed, now))
        })?;
        if let Some(token) = token {
            // For work that goes on; the next attempt gets a token of its own.
            token.cancel();
        }
        report.outcome = outcome;
        self.ledger.books(id.line).attempt_failed(report.name, report.ran_for);
        self.part(id);
        Some(report)
    }

    fn give_up(&self, id: TaskId, exhausted: Box<Exhausted>) {
        let mut exhausted = Some(exhausted);
        if self.dead_letters.are_kept() {
            let _none = self.with_live(id, |live| exhausted.take().and_then(|exhausted| live.give_up(exhausted)));
        }
        drop_catching(exhausted);
    }

    /// Takes a task that waits for a time out of its line, so that the next one runs.
    fn part(&self, id: TaskId) {
        if let (Some(_), Some(set)) = (id.set(), self.ledger.set(id.line)) {
            set.part(id);
        }
    }

    /// Looks at a live task, under its lock; `None` if it has ended.
    pub(crate) fn with_live<R>(&self, id: TaskId, look: impl FnOnce(&mut LiveTask) -> R) -> Option<R> {
        if id.set().is_some() {
            return self.ledger.set(id.line)?.with_live(id, look);
        }
        self.ledger.books(id.line).spawned(id.line).map(look)
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;
    use crate::Task;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    /// The abort comes after the last attempt has been given up, and before its outcome is counted: both are in one poll,
    /// so that only another thread could meet it.
    #[tokio::test]
    async fn an_abort_that_meets_the_end_of_the_attempts_drops_the_factory_quietly_and_the_set_goes_on() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let id = set.add(std::future::pending::<()>());
        set.add(async {});
        let drained = set.drain();
        tokio::task::yield_now().await;
        let bomb = Bomb;
        let task = Task::retrying(RetryPolicy::default(), move || {
            let _held = &bomb;
            async {}
        });
        registry.shared.give_up(id, Box::new(Exhausted { failed: FailedAttempts::default(), source: task.work }));
        assert!(registry.abort(id));
        let report = drained.await;
        assert_eq!((report.aborted, report.completed), (1, 1));
        registry.wait_idle().await;
        assert!(registry.dead_letters().is_empty());
    }
}
