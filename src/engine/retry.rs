//! The attempts of a retrying task: one after another, until one completes or the policy allows no more.

use std::sync::Arc;

use crate::{
    engine::{
        attempt::{Admission, Terms, attempt},
        shared::Shared,
        start_limit,
    },
    limits::Entered,
    model::{Attempt, Outcome, RetryPolicy},
    task::{
        exhausted::{Exhausted, FailedAttempts},
        work::{BoxedWork, Policy},
    },
    util::{clock::Timestamp, panic::drop_catching},
};

pub(crate) async fn attempts(
    mut source: BoxedWork,
    retry: Box<RetryPolicy>,
    mut policy: Box<Policy>,
    admission: Admission,
    shared: &Arc<Shared>,
    mut entered: Entered,
) -> Outcome {
    let id = source.meta().id();
    let terms = Terms::of(admission, &policy, true, shared);
    let mut start_by = policy.start_by.take();
    let mut failed = FailedAttempts::default();
    let mut number = 0_u32;
    loop {
        number = number.saturating_add(1);
        let make = || {
            let work = source.as_mut().next_attempt()?;
            Ok(work.map(|work| start_limit::leave_with(work, start_by.take())))
        };
        let outcome = attempt(&terms, number, shared, &mut entered, make).await;
        if !outcome.is_failure() {
            return outcome;
        }
        let now = Timestamp::now();
        let Some((made, since_first)) = shared.with_live(id, |live| live.attempts_made(now)) else {
            return Outcome::Aborted;
        };
        let task = Some((id, source.meta().name));
        let is_worth_another =
            shared.telemetry.ask("the condition of a retry policy", task, || retry.is_worth_another(&outcome));
        let Some(delay) = retry.next_delay(made, since_first, fastrand::f64()).filter(|_| is_worth_another) else {
            let meta = source.as_mut().meta_mut();
            meta.remove_wrappers();
            *meta.policy = Some(Box::new(Policy { retry: Some(retry), ..*policy }));
            // The span ends with the work, no matter how long the dead letter is kept.
            drop_catching(meta.span.take());
            shared.exhaust(id, Box::new(Exhausted { failed, source }));
            return outcome;
        };
        let Some(report) = shared.attempt_failed(id, outcome, delay) else {
            return Outcome::Aborted;
        };
        if shared.dead_letters.is_enabled() {
            failed.push(Attempt::of(&report));
        }
        drop_catching(report);
        shared.timer.sleep(delay).await;
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;
    use crate::{engine::shared::TaskRegistry, task::Task};

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    /// The abort happens after the last attempt has failed and before its outcome is counted. Both are in one poll, so
    /// only another thread can abort in between; the test calls `exhaust` itself.
    #[tokio::test]
    async fn an_abort_between_the_last_attempt_and_the_outcome_drops_the_factory_and_the_set_goes_on() {
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
        registry.shared.exhaust(id, Box::new(Exhausted { failed: FailedAttempts::default(), source: task.work }));
        assert!(registry.abort(id));
        let report = drained.await;
        assert_eq!((report.aborted, report.completed), (1, 1));
        registry.wait_idle().await;
        assert!(registry.dead_letters().is_empty());
    }
}
