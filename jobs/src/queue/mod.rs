//! Where jobs are stored: the trait, and its adapters.

pub(crate) mod capabilities;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis", feature = "rabbitmq"))]
mod forward;
mod operations;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod rows;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod schema;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sqlx_error;

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use self::capabilities::Capabilities;
pub(crate) use self::operations::{InHand, Look, LostLease, Renewed, Reservation, Reserved, Settle, Settlement, Tick};
use crate::model::{
    dead::DeadJob, error::QueueError, id::JobId, info::JobInfo, new_job::NewJob, notes::Notes, page::Page,
    stats::JobStats,
};

/// Where jobs are stored: an adapter over an engine. It is sealed; the adapters are
#[cfg_attr(feature = "sqlite", doc = "[`SqliteQueue`](crate::sqlite::SqliteQueue)")]
#[cfg_attr(not(feature = "sqlite"), doc = "`SqliteQueue`")]
#[cfg_attr(feature = "postgres", doc = ", [`PostgresQueue`](crate::postgres::PostgresQueue)")]
#[cfg_attr(not(feature = "postgres"), doc = ", `PostgresQueue`")]
#[cfg_attr(feature = "redis", doc = ", [`RedisQueue`](crate::redis::RedisQueue)")]
#[cfg_attr(not(feature = "redis"), doc = ", `RedisQueue`")]
/// and
#[cfg_attr(feature = "rabbitmq", doc = "[`RabbitQueue`](crate::rabbitmq::RabbitQueue).")]
#[cfg_attr(not(feature = "rabbitmq"), doc = "`RabbitQueue`.")]
pub trait Queue: Adapter {
    /// The name of the engine, for logs and errors.
    fn engine(&self) -> &'static str;

    /// What the engine can do. What it can't do is an error when it is asked for.
    fn capabilities(&self) -> Capabilities;
}

pub(crate) use self::sealed::Adapter;

/// The future of an operation.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, QueueError>> + Send + 'a>>;

mod sealed {
    use super::{
        Answer, DeadJob, Duration, JobId, JobInfo, JobStats, Look, LostLease, NewJob, Notes, Page, Pin, Renewed,
        Reservation, Reserved, Settlement, SystemTime, Tick, watch,
    };

    /// What an engine does for the code above it. Time is the engine's clock.
    ///
    /// An operation may be dropped before it has answered: then it has been carried out, or it has not.
    #[expect(unnameable_types, reason = "seals `Queue`")]
    pub trait Adapter: Send + Sync + 'static {
        /// Connects, creates or checks the tables, and stores the lease if there is one.
        fn open(&self, lease: Option<Duration>) -> Answer<'_, ()>;

        /// Stores jobs, all or none, and returns their ids: that of the job that holds the key, if a key is held.
        fn push(&self, jobs: Vec<NewJob>) -> Answer<'_, Vec<JobId>>;

        /// How long a job may run at most, if the engine takes it back then, whatever its worker does.
        fn longest_run(&self) -> Option<Duration> {
            None
        }

        /// Takes waiting jobs for the lease. An engine that delivers jobs ahead has no more on their way, from then on, than
        /// is wanted here.
        fn reserve(&self, wanted: Reservation) -> Answer<'_, Vec<Reserved>>;

        /// Renews the leases of these runs, and says which are lost.
        fn renew(&self, owner: JobId, runs: Vec<(JobId, i64)>) -> Answer<'_, Renewed>;

        /// Stores notes with those of these runs that are still this owner's, and returns the jobs with which it did. An
        /// engine may leave out a job that someone else has locked.
        fn note(&self, owner: JobId, notes: Vec<((JobId, i64), Notes)>) -> Answer<'_, Vec<JobId>>;

        /// Settles runs, and returns those that are no longer this owner's, whose settlement is refused.
        fn settle(&self, owner: JobId, settlements: Vec<Settlement>) -> Answer<'_, Vec<JobId>>;

        /// Releases what this owner has reserved, apart from these runs: reservations whose answer was lost.
        fn release_others(&self, owner: JobId, held: Vec<(JobId, i64)>) -> Answer<'_, ()>;

        /// Whether it has jobs delivered before they are reserved.
        fn delivers_ahead(&self) -> bool {
            false
        }

        /// Has nothing delivered ahead for this owner until it reserves again, and releases what was delivered and not
        /// reserved.
        fn withhold(&self, _owner: JobId) -> Answer<'_, ()> {
            Box::pin(std::future::ready(Ok(())))
        }

        /// Says that this owner has settled everything and reserves no more. When it returns, the engine has carried out all
        /// that this owner told it.
        fn leave(&self, _owner: JobId) -> Answer<'_, ()> {
            Box::pin(std::future::ready(Ok(())))
        }

        /// Says what there is to do, for a worker with these names. It reads only.
        fn look(&self, names: Vec<&'static str>) -> Answer<'_, Look>;

        /// Makes some of the scheduled jobs that are due wait for a worker.
        fn make_waiting(&self) -> Answer<'_, ()>;

        /// Takes some of the jobs whose lease has run out from their owners.
        fn take_back(&self) -> Answer<'_, Vec<LostLease>>;

        /// Shortens the leases that end later than one lease from now: they were given before the clock was set back.
        fn shorten_leases(&self) -> Answer<'_, ()>;

        /// Removes some of what completed or was cancelled before `retention` ago. Returns how many.
        fn prune(&self, retention: Duration) -> Answer<'_, u64>;

        /// Notes a tick of a schedule, and stores its job, if the tick is later than the last one.
        fn tick(&self, tick: Tick) -> Answer<'_, bool>;

        /// The last tick of a schedule. A schedule that is new gets the present as its last tick.
        fn last_tick(&self, key: String) -> Answer<'_, SystemTime>;

        /// The engine's clock.
        fn now(&self) -> Answer<'_, SystemTime>;

        fn find(&self, id: JobId) -> Answer<'_, Option<JobInfo>>;
        fn stats(&self) -> Answer<'_, JobStats>;
        fn cancel(&self, id: JobId) -> Answer<'_, bool>;
        fn dead(&self, page: Page) -> Answer<'_, Vec<DeadJob>>;
        fn replay(&self, id: JobId) -> Answer<'_, bool>;
        fn discard(&self, id: JobId) -> Answer<'_, bool>;
        fn set_paused(&self, name: String, paused: bool) -> Answer<'_, bool>;

        /// Changes when there may be more to reserve.
        fn changes(&self) -> watch::Receiver<u64>;

        /// Makes [`changes`](Self::changes) change.
        fn wake(&self);

        /// Watches for changes that other processes make. Never returns; a worker polls it as long as it lives.
        fn watch(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    }
}
