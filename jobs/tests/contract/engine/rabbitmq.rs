//! A queue for each test, in one server.

use postlude_jobs::{JobId, NewJob, rabbitmq::RabbitQueue};

use super::TestEngine;
use crate::common::rabbitmq;

pub(crate) struct RabbitMq {
    pub(crate) queue: String,
}

impl RabbitMq {
    /// The queue of the broker for jobs of a name that wait, or are dead.
    pub(crate) fn place(&self, kind: &str, name: &str) -> String {
        format!("postlude.{}.{kind}.{name}", self.queue)
    }
}

impl TestEngine for RabbitMq {
    const NAME: &'static str = "rabbitmq";
    const PUSHES_IN_TRANSACTIONS: bool = false;
    const HAS_LEASES: bool = false;

    type Queue = RabbitQueue;
    type Lock = ();

    fn is_installed() -> bool {
        rabbitmq::is_installed()
    }

    async fn create() -> Self {
        Self { queue: rabbitmq::new_queue() }
    }

    async fn queue(&self) -> RabbitQueue {
        RabbitQueue::connect_to(&[&rabbitmq::shared().url()], &self.queue).await.unwrap()
    }

    /// It has no tables.
    async fn execute(&self, _: &'static str) {}

    /// There is no such push: the id is that of no job.
    async fn push_in(_: &RabbitQueue, _: &Self, job: NewJob, _: bool) -> JobId {
        job.id()
    }

    async fn lock(&self) {}

    async fn unlock((): ()) {}
}
