//! What becomes of a run, by its outcome.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, SystemTime},
};

use postlude::Outcome;

use super::settle::Run;
use crate::{
    model::{dead::JobError, output::JobVerdict, policy::JobPolicy},
    queue::Settle,
};

/// How long a job waits that the registry did not take, because it is full or its admission filter refused it.
const AFTER_REJECTION: Duration = Duration::from_secs(1);

/// A job whose task was not accepted, or discarded.
pub(super) const fn rejected(is_closed: bool) -> Settle {
    Settle::Release { after: if is_closed { Duration::ZERO } else { AFTER_REJECTION } }
}

/// The settlement of a run. `is_closed` tells whether the registry has closed: its shutdown has come to its deadline.
pub(super) fn settle(
    outcome: &Outcome,
    verdict: Option<&JobVerdict>,
    run: &Run,
    policy: Option<&JobPolicy>,
    is_closed: bool,
) -> Settle {
    let failures = run.failures.saturating_add(1);
    let error = |message: &str| JobError::new(SystemTime::now(), failures.saturating_add(run.crashes), message);
    match outcome {
        Outcome::Completed => match verdict {
            Some(JobVerdict::Snooze(after)) => Settle::Release { after: *after },
            _ => Settle::Complete,
        },
        // The work was told to stop, and may have ended with an error for that reason.
        Outcome::Failed(_) if is_closed && verdict.is_none() => rejected(is_closed),
        Outcome::Failed(_) | Outcome::Panicked(_) | Outcome::TimedOut(_) => {
            let error = error(&message(outcome));
            let is_declared_dead = matches!(verdict, Some(JobVerdict::Dead(_)));
            if is_declared_dead || failures >= run.max_attempts {
                return Settle::Dead { error };
            }
            let after = policy.map(|policy| policy.delay_after(failures)).unwrap_or_default();
            Settle::Retry { after, error }
        }
        Outcome::Aborted if !is_closed => Settle::Dead { error: error("aborted: its task was aborted by a person") },
        // Aborted by a shutdown, or discarded.
        _ => rejected(is_closed),
    }
}

/// The outcome in one line. The `Display` of an error is foreign code.
fn message(outcome: &Outcome) -> String {
    catch_unwind(AssertUnwindSafe(|| outcome.to_string()))
        .unwrap_or_else(|_| format!("{} (the error's `Display` panicked)", outcome.label()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use postlude::{BoxError, DiscardReason, RetryPolicy};

    use super::*;
    use crate::model::id::JobId;

    const SECOND: Duration = Duration::from_secs(1);

    fn failed() -> Outcome {
        Outcome::Failed(Arc::from(BoxError::from("receiver is down")))
    }

    fn run(failures: u32) -> Run {
        Run { key: (JobId::from_u128(1), 1), name: "mail", failures, crashes: 2, max_attempts: 3 }
    }

    /// What becomes of a run, in words.
    fn words(outcome: &Outcome, verdict: Option<&JobVerdict>, failures: u32, is_closed: bool) -> String {
        let policy = JobPolicy::default().backoff(RetryPolicy::constant(SECOND));
        match settle(outcome, verdict, &run(failures), Some(&policy), is_closed) {
            Settle::Complete => "complete".to_owned(),
            Settle::Retry { after, error } => format!("retry {after:?}: {} {}", error.attempt, error.message),
            Settle::Dead { error } => format!("dead: {} {}", error.attempt, error.message),
            Settle::Release { after } => format!("release {after:?}"),
        }
    }

    #[test]
    fn settle_follows_the_outcome() {
        let dead = || Some(JobVerdict::Dead("gone".to_owned()));
        let snooze = || Some(JobVerdict::Snooze(5 * SECOND));
        for (outcome, verdict, failures, is_closed, expected) in [
            (Outcome::Completed, None, 0, false, "complete"),
            (Outcome::Completed, Some(JobVerdict::Done), 0, true, "complete"),
            (Outcome::Completed, snooze(), 0, false, "release 5s"),
            (failed(), None, 0, false, "retry 1s: 3 failed: receiver is down"),
            (failed(), None, 2, false, "dead: 5 failed: receiver is down"),
            (failed(), dead(), 0, false, "dead: 3 failed: receiver is down"),
            (failed(), None, 2, true, "release 0ns"),
            (Outcome::TimedOut(SECOND), None, 0, false, "retry 1s: 3 timed out after 1s"),
            (Outcome::TimedOut(SECOND), None, 2, false, "dead: 5 timed out after 1s"),
            (Outcome::Aborted, None, 0, false, "dead: 3 aborted: its task was aborted by a person"),
            (Outcome::Aborted, None, 0, true, "release 0ns"),
            (Outcome::Discarded(DiscardReason::Closed), None, 0, true, "release 0ns"),
            (Outcome::Discarded(DiscardReason::Refused), None, 0, false, "release 1s"),
        ] {
            assert_eq!(
                words(&outcome, verdict.as_ref(), failures, is_closed),
                expected,
                "{outcome}, {failures} failures"
            );
        }
    }
}
