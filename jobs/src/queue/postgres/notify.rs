//! Telling other processes that there is something to reserve.

use std::{mem, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sqlx::postgres::PgListener;
use tokio::time::sleep;

use super::{connect::Shared, pool::Pool};

const CHANNEL: &str = "postlude_jobs";

/// A process notifies no more often than this: each notification takes a lock that serialises commits.
const NOTIFY_EVERY: Duration = Duration::from_millis(100);

/// After how long a connection that was lost is made again.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Notifies other processes, apart from the pushes, so that those wait neither for it nor for its lock.
pub(super) struct Notifier {
    pool: Arc<Pool>,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// A notification is on its way, or was less than [`NOTIFY_EVERY`] ago.
    Notifying,
    /// Another one is wanted after that.
    Again,
}

impl Notifier {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool, state: Arc::new(Mutex::new(State::Idle)) }
    }

    /// Notifies soon. Never waits.
    #[expect(
        clippy::disallowed_methods,
        reason = "a push must not wait for it; it is lost without harm, because workers poll"
    )]
    fn notify(&self) {
        let before = {
            let mut state = self.state.lock();
            let wanted = if *state == State::Idle { State::Notifying } else { State::Again };
            mem::replace(&mut *state, wanted)
        };
        if before == State::Idle {
            let ended = IdleOnDrop(Arc::clone(&self.state));
            tokio::spawn(notify(Arc::clone(&self.pool), ended));
        }
    }
}

/// The runtime may drop the task: then another one starts it again.
struct IdleOnDrop(Arc<Mutex<State>>);

impl Drop for IdleOnDrop {
    fn drop(&mut self) {
        *self.0.lock() = State::Idle;
    }
}

async fn notify(pool: Arc<Pool>, state: IdleOnDrop) {
    loop {
        // If it fails, workers find the jobs by polling.
        let _workers_poll = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&pool.current()).await;
        sleep(NOTIFY_EVERY).await;
        let mut state = state.0.lock();
        if *state == State::Notifying {
            *state = State::Idle;
            return;
        }
        *state = State::Notifying;
    }
}

impl Shared {
    /// Wakes the workers of this process, and soon those of others.
    pub(super) fn announce(&self) {
        self.wake();
        self.notifier.notify();
    }

    pub(super) fn wake(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }

    /// Listens for notifications, on a connection beside the pool, which is the users'.
    pub(super) async fn watch(&self) {
        if !self.listens {
            return std::future::pending().await;
        }
        loop {
            self.listen().await;
            // The worker polls meanwhile.
            sleep(LISTEN_AGAIN_AFTER.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// Wakes the worker at each notification, until the connection is lost.
    async fn listen(&self) {
        let Ok(mut listener) = PgListener::connect_with(&self.beside().current()).await else { return };
        if listener.listen(CHANNEL).await.is_err() {
            return;
        }
        self.wake();
        // `None` means that the connection was lost.
        while let Ok(Some(_)) = listener.try_recv().await {
            self.wake();
        }
    }
}
