//! Running one job as a task of the registry.

use std::{convert::Infallible, mem, sync::Arc};

use postlude::{BoxError, Outcome, Task, TaskHandle, TaskName};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::{
    Worker,
    current::Current,
    handler::Handler,
    held::RunKey,
    settle::{Ended, Run},
    spawn,
    verdict::rejected,
};
use crate::{
    model::{
        notes::{Notes, progress_to_stored},
        output::{EndSlot, JobVerdict, RunEnd},
    },
    queue::Reserved,
};

/// A handler said that its job is dead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct DeclaredDead(String);

/// Notes that a run has begun, also if it is dropped before.
struct NotStarted {
    worker: Arc<Worker>,
    run: RunKey,
}

impl Drop for NotStarted {
    fn drop(&mut self) {
        self.worker.held.started(self.run);
    }
}

/// Starts a job that was reserved.
pub(super) fn start(worker: &Arc<Worker>, job: Reserved) {
    let key = (job.id, job.run);
    // A queue returns only names that were asked for.
    let Some(handler) = worker.handlers.get(&job.name).map(Arc::clone) else { return };
    worker.held.insert(key, handler.name, job.crashes > 0);
    let (alive, dropped) = oneshot::channel();
    let end = EndSlot::default();
    let run =
        Run { key, name: handler.name, failures: job.failures, crashes: job.crashes, max_attempts: job.max_attempts };
    let priority = job.priority;
    let work = work(worker, &handler, job, Arc::clone(&end), alive);
    let mut task = Task::new(work).named(TaskName::from(handler.name)).located_at(handler.location).priority(priority);
    if let Some(limit) = handler.policy.timeout {
        task = task.timeout(limit);
    }
    match worker.registry.try_spawn(task) {
        Ok(handle) => {
            worker.held.set_task(key, handle.id());
            spawn(supervise(Arc::clone(worker), run, handle, end, dropped));
        }
        Err(refused) => {
            tracing::debug!(target: "postlude_jobs", job = %key.0, reason = %refused.reason(), "the registry did not take a job");
            drop(refused);
            worker.held.ended(key);
            let settle = rejected(worker.registry.is_closed());
            let _worker_has_ended = worker.ended.send(Ended { run, settle, notes: Notes::default() });
        }
    }
}

/// The work of the task: decodes, and calls the handler. `alive` is dropped when all of it is.
fn work(
    worker: &Arc<Worker>,
    handler: &Arc<Handler>,
    job: Reserved,
    slot: EndSlot,
    alive: oneshot::Sender<Infallible>,
) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
    let attempt = job.failures.saturating_add(job.crashes).saturating_add(1);
    let span = tracing::debug_span!(target: "postlude_jobs", "job", id = %job.id, attempt);
    let current = Current::new(job.id, attempt, job.pushed_at, job.headers);
    let key = (job.id, job.run);
    let not_started = NotStarted { worker: Arc::clone(worker), run: key };
    let (holder, of_this_run) = (Arc::clone(worker), current.clone());
    let (handler, codec) = (Arc::clone(handler), worker.config.codec.clone());
    let attempt = async move {
        drop(not_started);
        let progress = postlude::progress();
        holder.held.set_progress(key, progress.clone());
        let json = match codec {
            Some(codec) => codec.decode(handler.name, job.payload)?,
            None => job.payload,
        };
        let verdict = async { (handler.call)(&json)?.await }.await;
        drop(json);
        {
            let mut end = slot.lock();
            end.verdict = verdict.as_ref().ok().cloned();
            end.notes.progress = progress.get().map(|progress| progress_to_stored(&progress));
            end.notes.result = of_this_run.take_result().filter(|_| matches!(verdict, Ok(JobVerdict::Done)));
        }
        match verdict? {
            JobVerdict::Done | JobVerdict::Snooze(_) => Ok(()),
            JobVerdict::Dead(reason) => Err(DeclaredDead(reason).into()),
        }
    };
    async move {
        // Declared first, so dropped last.
        let _alive = alive;
        current.scope(attempt).instrument(span).await
    }
}

/// Waits for the outcome, and until the work has really returned: until then the lease is kept.
async fn supervise(
    worker: Arc<Worker>,
    run: Run,
    handle: TaskHandle,
    end: EndSlot,
    dropped: oneshot::Receiver<Infallible>,
) {
    let outcome: Outcome = handle.await;
    let Err(_dropped) = dropped.await;
    let RunEnd { verdict, notes } = mem::take(&mut *end.lock());
    let policy = worker.handlers.get(run.name).map(|handler| &handler.policy);
    worker.held.ended(run.key);
    let settle = super::verdict::settle(&outcome, verdict.as_ref(), &run, policy, worker.registry.is_closed());
    let _worker_has_ended = worker.ended.send(Ended { run, settle, notes });
}
