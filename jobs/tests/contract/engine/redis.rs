//! A server for each test.

use std::sync::Arc;

use postlude_jobs::{JobId, NewJob, redis::RedisQueue};

use super::TestEngine;
use crate::common::redis::{self, Server};

pub(crate) struct Redis {
    server: Arc<Server>,
}

impl TestEngine for Redis {
    const NAME: &'static str = "redis";
    const PUSHES_IN_TRANSACTIONS: bool = false;

    type Queue = RedisQueue;
    type Lock = Arc<Server>;

    fn is_installed() -> bool {
        redis::is_installed()
    }

    async fn create() -> Self {
        Self { server: Arc::new(Server::create()) }
    }

    async fn queue(&self) -> RedisQueue {
        RedisQueue::connect(&self.server.url()).await.unwrap()
    }

    async fn execute(&self, sql: &'static str) {
        self.server.execute(sql).await;
    }

    /// There is no such push: the id is that of no job.
    async fn push_in(_: &RedisQueue, _: &Self, job: NewJob, _: bool) -> JobId {
        job.id()
    }

    async fn lock(&self) -> Arc<Server> {
        self.server.ask::<()>(&["CLIENT", "PAUSE", "3600000", "WRITE"]).await;
        Arc::clone(&self.server)
    }

    async fn unlock(lock: Arc<Server>) {
        lock.ask::<()>(&["CLIENT", "UNPAUSE"]).await;
    }
}
