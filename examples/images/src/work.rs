//! Who does the work: a task, which is lost with its process, or a job, which is not.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use postlude::{
    BoxError, Outcome, Priority, Progress, Task, TaskId, TaskProgress, TaskRegistry, TaskSet, TaskState, TaskStatus,
    progress,
};
use postlude_jobs::{Job, JobState, JobVerdict, Jobs, PushOptions};
use serde::{Deserialize, Serialize};

use crate::{
    picture::{self, Process},
    store::{PictureId, Store},
    upload::Refusal,
};

/// How long the jobs of a dead process wait for the next one.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// A picture to be processed, for a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: PictureId,
    pub(crate) process: Process,
    pub(crate) client: String,
}

impl Job for Order {
    const NAME: &'static str = "picture";
}

/// What a client is told.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    state: &'static str,
    done: u64,
    total: u64,
    message: Option<String>,
    error: Option<String>,
    result: Option<String>,
}

impl Status {
    fn new(state: &'static str, progress: Option<&TaskProgress>) -> Self {
        let (done, total) = progress.map_or((0, 0), |progress| (progress.done, progress.total));
        let message = progress.and_then(|progress| progress.message.as_deref()).map(str::to_owned);
        Self { state, done, total, message, error: None, result: None }
    }

    fn done(id: PictureId) -> Self {
        Self { result: Some(format!("/pictures/{id}/result")), ..Self::new("done", None) }
    }

    fn failed(error: String) -> Self {
        Self { error: Some(error), ..Self::new("failed", None) }
    }
}

#[derive(Clone)]
pub(crate) enum Work {
    Tasks { registry: TaskRegistry, store: Store, ids: Arc<Mutex<HashMap<PictureId, TaskId>>> },
    Jobs(Jobs),
}

impl Work {
    /// Takes an order: when this has returned, the client may be told that it was accepted.
    pub(crate) async fn accept(&self, tasks: &TaskSet, order: Order, priority: Priority) -> Result<(), Refusal> {
        match self {
            Self::Tasks { registry, store, ids } => {
                let id = order.id;
                let task = tasks.try_add(cpu_task(store.clone(), order, None).priority(priority))?;
                let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
                ids.insert(id, task);
                // As many as the registry remembers, and no more.
                if ids.len() > 4_096 {
                    ids.retain(|_, task| registry.get(*task).is_some());
                }
            }
            Self::Jobs(jobs) => {
                let options = PushOptions::default().id(order.id).priority(priority);
                match jobs.push_with(order.clone(), options.clone()).await {
                    // Repeated with its id, it is stored once.
                    Err(error) if error.may_be_stored() => jobs.push_with(order, options).await?,
                    result => result?,
                };
            }
        }
        Ok(())
    }

    /// How far an order has come; `None` if there is none.
    pub(crate) async fn status(&self, store: &Store, id: PictureId) -> Result<Option<Status>, Refusal> {
        if store.has_result(id) {
            return Ok(Some(Status::done(id)));
        }
        Ok(match self {
            Self::Tasks { registry, ids, .. } => {
                let task = ids.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
                task.and_then(|task| registry.get(task)).map(|status| of_task(id, &status))
            }
            Self::Jobs(jobs) => jobs.find(id).await?.map(|job| match job.state {
                JobState::Completed => Status::done(id),
                JobState::Dead | JobState::Cancelled => {
                    Status::failed(job.last_error.unwrap_or_else(|| job.state.to_string()))
                }
                JobState::Running => Status::new("running", job.progress.as_ref()),
                _ => Status::new("waiting", None),
            }),
        })
    }
}

fn of_task(id: PictureId, status: &TaskStatus) -> Status {
    match status {
        TaskStatus::Live(task) if task.state == TaskState::Running => Status::new("running", task.progress.as_deref()),
        TaskStatus::Ended(report) if report.outcome.is_completed() => Status::done(id),
        TaskStatus::Ended(report) => Status::failed(report.outcome.to_string()),
        _ => Status::new("waiting", None),
    }
}

/// The work itself, apart from the handlers: as many at a time as there are cores, and of each client its share.
fn cpu_task(store: Store, order: Order, reports_to: Option<Progress>) -> Task {
    let Order { id, process, client } = order;
    let is_tried_again = reports_to.is_some();
    let work = move || {
        let reports_to = reports_to.unwrap_or_else(progress);
        // A job may run twice: after a crash between its result and its settlement.
        let made = if store.has_result(id) {
            Ok(())
        } else {
            picture::make(process, &store.upload(id), &store.result(id), &reports_to)
        };
        if made.as_ref().err().is_none_or(|error| !is_tried_again || picture::is_final(&**error))
            && let Err(error) = std::fs::remove_file(store.upload(id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%id, %error, "an upload could not be removed");
        }
        made
    };
    Task::cpu(work).named(process.name()).key(client)
}

type Verdict = Pin<Box<dyn Future<Output = Result<JobVerdict, BoxError>> + Send>>;

/// Runs a job as a CPU task, and awaits that.
pub(crate) fn handler(registry: TaskRegistry, store: Store) -> impl Fn(Order) -> Verdict + Send + Sync + 'static {
    move |order| {
        let task = cpu_task(store.clone(), order, Some(progress()));
        let registry = registry.clone();
        Box::pin(async move {
            match registry.spawn(task).await {
                Outcome::Completed => Ok(JobVerdict::Done),
                Outcome::Failed(error) if picture::is_final(&*error) => Ok(JobVerdict::Dead(error.to_string())),
                // Tried again.
                outcome => Err(outcome.to_string().into()),
            }
        })
    }
}
