//! What workers and adapters exchange.
#![expect(unnameable_types, unreachable_pub, reason = "the sealed half of `Queue` names them")]

use std::time::{Duration, SystemTime};

use postlude::Priority;

use crate::model::{dead::JobError, headers::Headers, id::JobId, new_job::NewJob, notes::Notes};

/// What a worker can take.
#[derive(Clone, Debug)]
pub struct Reservation {
    pub(crate) owner: JobId,
    /// How many jobs of each name may start.
    pub(crate) names: Vec<(&'static str, usize)>,
    /// How many jobs in all.
    pub(crate) limit: usize,
    /// Whether to take one job that has crashed a process, in place of those that have not.
    pub(crate) crashed: bool,
    /// For an engine that delivers jobs ahead. Empty for the others.
    #[cfg_attr(not(feature = "rabbitmq"), expect(dead_code, reason = "only that engine delivers jobs ahead"))]
    pub(crate) in_hand: InHand,
}

/// How many jobs a worker may hold, including those that run.
#[derive(Clone, Debug, Default)]
pub struct InHand {
    /// Of each name.
    #[cfg_attr(not(feature = "rabbitmq"), expect(dead_code, reason = "only that engine delivers jobs ahead"))]
    pub(crate) names: Vec<(&'static str, usize)>,
    #[cfg_attr(not(feature = "rabbitmq"), expect(dead_code, reason = "only that engine delivers jobs ahead"))]
    pub(crate) all: usize,
}

/// A job that a worker has taken.
#[derive(Clone, Debug)]
pub struct Reserved {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: Headers,
    pub(crate) priority: Priority,
    pub(crate) pushed_at: SystemTime,
    /// The number of this reservation: a settlement holds for it alone.
    pub(crate) run: i64,
    pub(crate) failures: u32,
    pub(crate) crashes: u32,
    pub(crate) max_attempts: u32,
}

/// What becomes of a run.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub(crate) id: JobId,
    pub(crate) run: i64,
    pub(crate) settle: Settle,
    pub(crate) notes: Notes,
}

#[derive(Clone, Debug)]
pub enum Settle {
    Complete,
    /// The attempt failed, and another one follows.
    Retry {
        after: Duration,
        error: JobError,
    },
    /// No further attempt follows.
    Dead {
        error: JobError,
    },
    /// The run counts as nothing.
    Release {
        after: Duration,
    },
}

/// What a renewal has found.
#[derive(Clone, Debug)]
pub struct Renewed {
    pub(crate) lost: Vec<JobId>,
}

/// What there is to do.
#[derive(Clone, Debug)]
pub struct Look {
    /// The engine's clock, in milliseconds, as the next two.
    pub(crate) now: i64,
    /// When the next scheduled job is due.
    pub(crate) due: Option<i64>,
    /// When the next lease runs out.
    pub(crate) expires: Option<i64>,
    /// A job that has crashed a process waits.
    pub(crate) crashed_waiting: bool,
    /// The lease that holds for all workers.
    pub(crate) lease: Duration,
    /// Runs of this process that have lost their lease, where the engine tells so without being asked.
    pub(crate) lost: Vec<(JobId, i64)>,
}

/// A job that has lost its lease.
#[derive(Clone, Debug)]
pub struct LostLease {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) crashes: u32,
    pub(crate) is_dead: bool,
}

/// A tick of a schedule.
#[derive(Clone, Debug)]
pub struct Tick {
    pub(crate) key: String,
    pub(crate) at: SystemTime,
    pub(crate) job: NewJob,
}
