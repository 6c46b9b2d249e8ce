//! What a worker has done.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counters {
    ($($field:ident: $doc:literal;)+) => {
        /// What the worker of a [`Jobs`](crate::Jobs) has done since it started: see
        /// [`Jobs::metrics`](crate::Jobs::metrics).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct WorkerMetrics {
            $(#[doc = $doc] pub $field: u64,)+
        }

        /// Statistics: nothing else depends on them, so they are relaxed.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $field: AtomicU64,)+
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> WorkerMetrics {
                WorkerMetrics { $($field: self.$field.load(Ordering::Relaxed),)+ }
            }
        }

        impl WorkerMetrics {
            /// Each figure with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field)),+].into_iter()
            }
        }
    };
}

counters! {
    reserved: "Jobs that were reserved.";
    completed: "Runs that completed.";
    retried: "Runs that failed, panicked or timed out, and are tried again.";
    dead: "Jobs that died.";
    released: "Runs that were released or snoozed.";
    lost: "Runs whose lease was lost, so that the attempt was cancelled.";
    refused: "Settlements that were refused, because the lease was lost.";
    taken_back: "Jobs of any worker that were taken back, because their lease ran out.";
    late_renewals: "Renewals that came so late that the runtime must have been too busy.";
    engine_errors: "Operations of the worker that the engine did not carry out.";
}

pub(crate) fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}
