use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::ledger::metrics::{NameMetrics, TaskMetrics};

impl Serialize for TaskMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map:
            "added" = self.added,
            "pending" = self.pending,
            "running" = self.running,
            "completed" = self.completed,
            "failed" = self.failed,
            "panicked" = self.panicked,
            "timed_out" = self.timed_out,
            "aborted" = self.aborted,
            "discarded" = self.discarded,
            "retries" = self.retries,
            "retrying" = self.retrying,
            "open_sets" = self.open_sets,
            "stuck" = self.stuck,
            "hook_panics" = self.hook_panics,
            "shed" = self.shed,
            "dead_letters" = self.dead_letters,
            "dead_letters_displaced" = self.dead_letters_displaced,
            "oldest_pending" = self.oldest_pending.as_secs_f64(),
            "total_time" = self.total_time.as_secs_f64(),
            "total_queued" = self.total_queued.as_secs_f64(),
            "failure_rate" = self.failure_rate(),
            "ran" = Quantiles(|q| self.quantile(q)),
            "queued" = Quantiles(|q| self.queued_quantile(q)),
            "by_name" = self.by_name(),
        );
        map.end()
    }
}

impl Serialize for NameMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map:
            "completed" = self.completed,
            "failed" = self.failed,
            "panicked" = self.panicked,
            "timed_out" = self.timed_out,
            "aborted" = self.aborted,
            "discarded" = self.discarded,
            "retries" = self.retries,
            "total_time" = self.total_time.as_secs_f64(),
            "total_queued" = self.total_queued.as_secs_f64(),
            "failure_rate" = self.failure_rate(),
            "ran" = Quantiles(|q| self.quantile(q)),
            "queued" = Quantiles(|q| self.queued_quantile(q)),
        );
        map.end()
    }
}

/// The median and two later quantiles, in seconds.
struct Quantiles<F>(F);

impl<F: Fn(f64) -> Duration> Serialize for Quantiles<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        for (key, q) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            map.serialize_entry(key, &(self.0)(q).as_secs_f64())?;
        }
        map.end()
    }
}
