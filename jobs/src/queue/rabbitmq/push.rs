//! Storing jobs.

use std::{sync::Arc, time::SystemTime};

use super::{
    ENGINE,
    connect::Shared,
    delays,
    message::{MAX_HEADER_BYTES, Message},
    publisher::Outgoing,
    topology::{Place, Topology},
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
            prepared.push((place(&job)?, Message::new(job)));
        }
        let outgoing: Vec<Outgoing<'_>> =
            prepared.iter().map(|(place, message)| Outgoing { place: place.clone(), message }).collect();
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

/// Where a job goes.
fn place(job: &NewJob) -> Result<Place, QueueError> {
    let unsupported = |what| QueueError::Unsupported { engine: ENGINE, what };
    Topology::check_name(job.name)?;
    if headers::write(&job.headers).len() > MAX_HEADER_BYTES {
        return Err(unsupported("store headers of more than 64 KiB: put the data into the payload"));
    }
    match job.due {
        Due::Now => Ok(Place::Waiting(job.name.to_owned())),
        Due::After(delay) if delay.is_zero() => Ok(Place::Waiting(job.name.to_owned())),
        Due::After(delay) => match delays::step(delay) {
            Some(step) => Ok(Place::Delay(step)),
            None => Err(unsupported("delay a job by more than 28 days: push it later")),
        },
        Due::At(_) => Err(unsupported("push a job for a certain time")),
    }
}
