//! Storing jobs.

use std::{sync::Arc, time::SystemTime};

use super::{
    ENGINE,
    connect::Shared,
    message::{MAX_HEADER_BYTES, Message},
    publisher::Outgoing,
    topology::Topology,
};
use crate::{
    model::{error::QueueError, headers, id::JobId, new_job::NewJob, options::Due},
    queue::Tick,
};

impl Shared {
    /// Stores jobs. The broker knows no transaction of several messages: if some are stored and some are not, that is an
    /// error which says that they may be.
    pub(super) async fn push(self: Arc<Self>, jobs: Vec<NewJob>) -> Result<Vec<JobId>, QueueError> {
        let mut prepared = Vec::with_capacity(jobs.len());
        for job in jobs {
            check(&job)?;
            let due = job.due;
            prepared.push((due, Message::new(job)));
        }
        let outgoing = prepared.iter().map(|(due, message)| match *due {
            Due::Now => Outgoing::now(message),
            Due::After(delay) => Outgoing::after(delay, message),
            Due::At(time) => Outgoing::at(time, message),
        });
        let outgoing: Vec<Outgoing<'_>> = outgoing.collect();
        let results = self.publisher.publish(&outgoing).await;
        let some_are_stored = results.iter().any(Result::is_ok);
        for result in results {
            match result {
                Err(error) if some_are_stored && !error.may_be_done() => {
                    return Err(QueueError::Interrupted { engine: ENGINE, source: error.into() });
                }
                result => result?,
            }
        }
        Ok(prepared.into_iter().map(|(_, message)| message.id).collect())
    }

    pub(super) async fn tick(&self, _tick: Tick) -> Result<bool, QueueError> {
        Err(no_schedules())
    }

    pub(super) async fn last_tick(&self, _key: String) -> Result<SystemTime, QueueError> {
        Err(no_schedules())
    }
}

const fn no_schedules() -> QueueError {
    QueueError::Unsupported { engine: ENGINE, what: "keep a schedule" }
}

/// Whether the broker can store a job.
fn check(job: &NewJob) -> Result<(), QueueError> {
    Topology::check_name(job.name)?;
    if headers::write(&job.headers).len() > MAX_HEADER_BYTES {
        let what = "store headers of more than 64 KiB: put the data into the payload";
        return Err(QueueError::Unsupported { engine: ENGINE, what });
    }
    Ok(())
}
