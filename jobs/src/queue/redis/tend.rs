//! Moving what is due, and what has lost its lease.

use std::time::Duration;

use redis::Value;

use super::{
    answer::{self, Row},
    connect::{STEP, Shared},
    error::unexpected,
    scripts,
};
use crate::{
    model::{
        dead::{CRASHED, NO_MORE_CRASHES},
        error::QueueError,
        id::JobId,
        time::{duration, millis},
    },
    queue::{Look, LostLease},
};

/// How many jobs are taken back at once: each may need the id of a job that follows it.
const TAKE_BACK_STEP: usize = 100;

impl Shared {
    pub(super) async fn look(&self, names: Vec<&'static str>) -> Result<Look, QueueError> {
        let answer: Value = self.main.run(self.call(&scripts::LOOK).arg(names)).await?;
        let read = |mut row: Row| {
            let (now, lease) = (row.take()?, duration(row.take()?));
            let (due, expires) = (row.take()?, row.take()?);
            Ok(Look { now, lease, due, expires, crashed_waiting: row.take::<u8>()? == 1, lost: Vec::new() })
        };
        Row::new(answer).and_then(read).map_err(unexpected)
    }

    pub(super) async fn make_waiting(&self) -> Result<(), QueueError> {
        self.main.run(self.call(&scripts::MAKE_WAITING).arg(STEP)).await
    }

    pub(super) async fn take_back(&self) -> Result<Vec<LostLease>, QueueError> {
        let mut call = self.call(&scripts::TAKE_BACK);
        call.arg(CRASHED).arg(NO_MORE_CRASHES);
        for _ in 0..TAKE_BACK_STEP {
            call.arg(JobId::generate().to_string());
        }
        let answer: Value = self.main.run(&call).await?;
        let read = |mut row: Row| {
            let (id, name) = (row.id()?, row.take()?);
            Ok(LostLease { id, name, crashes: row.take()?, is_dead: row.take::<u8>()? == 1 })
        };
        answer::rows(answer).and_then(|rows| rows.into_iter().map(read).collect()).map_err(unexpected)
    }

    pub(super) async fn shorten_leases(&self) -> Result<(), QueueError> {
        while self.main.run::<usize>(self.call(&scripts::SHORTEN_LEASES).arg(STEP)).await? == STEP {}
        Ok(())
    }

    pub(super) async fn prune(&self, retention: Duration) -> Result<u64, QueueError> {
        self.main.run(self.call(&scripts::PRUNE).arg(millis(retention)).arg(STEP)).await
    }
}
