//! postlude

mod admission;
mod builder;
mod drain;
mod events;
mod handle;
mod ledger;
mod line;
mod metrics;
#[cfg(feature = "http")]
mod middleware;
mod outcome;
mod registry;
mod rejected;
mod run;
mod scope;
mod set;
mod shutdown;
mod spawned;
mod stuck;
mod task;
mod timer;
mod turn;

pub use self::{
    builder::{BuildError, TaskRegistryBuilder},
    drain::{DrainHandle, DrainReport},
    handle::{SetId, TaskHandle, TaskId},
    metrics::{NameMetrics, TaskMetrics},
    outcome::{BoxError, DiscardReason, Outcome, Panic, TaskReport},
    registry::TaskRegistry,
    rejected::{RejectReason, Rejected},
    scope::{after, cancellation},
    set::TaskSet,
    shutdown::{ShutdownReport, TaskInfo, TaskState},
    task::{IntoTask, Task, TaskOutput},
};

#[cfg(feature = "axum")]
pub use self::middleware::MissingTaskLayer;
#[cfg(feature = "http")]
pub use self::middleware::{Ending, ResponseFuture, TaskBody, TaskLayer, TaskService};

/// Without HTTP, no request ends.
#[cfg(not(feature = "http"))]
#[derive(Clone, Copy)]
enum Ending {}
