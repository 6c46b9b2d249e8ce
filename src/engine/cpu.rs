//! The threads of CPU tasks: rayon's, in a pool of the registry's own.

use std::{sync::OnceLock, thread};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tokio::sync::oneshot;

use crate::{
    engine::{attempt::Join, shared::Inner},
    model::Outcome,
    util::panic::{drop_quietly, guarded},
};

pub(crate) struct Cpu {
    threads: usize,
    /// Made at first use; `None` if it could not be.
    pool: OnceLock<Option<ThreadPool>>,
}

/// As many threads as there are cores, or one.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl Cpu {
    pub(crate) const fn new(threads: usize) -> Self {
        Self { threads, pool: OnceLock::new() }
    }

    fn pool(&self) -> Option<&ThreadPool> {
        let made = self.pool.get_or_init(|| match self.make() {
            Ok(pool) => Some(pool),
            Err(error) => {
                tracing::error!(
                    target: "postlude",
                    %error,
                    threads = self.threads,
                    "no threads could be started for CPU tasks, so they run on the runtime's threads for blocking work: set `cpu_threads` lower on the registry's builder"
                );
                None
            }
        });
        made.as_ref()
    }

    fn make(&self) -> Result<ThreadPool, ThreadPoolBuildError> {
        let name = |number| format!("postlude-cpu-{number}");
        ThreadPoolBuilder::new().num_threads(self.threads).thread_name(name).build()
    }
}

impl Inner {
    /// Has a thread of the pool make the call. There is one for each permit, so it does not wait there.
    pub(crate) fn spawn_cpu(&self, call: impl FnOnce() -> Outcome + Send + 'static) -> Join {
        let Some(pool) = self.cpu.pool() else {
            return Join::Tokio(self.spawn_blocking(call));
        };
        let (sender, receiver) = oneshot::channel();
        let handle = self.handle.clone();
        pool.spawn(move || {
            // For the clock, and for what the closure spawns: as on a thread for blocking work.
            let _entered = handle.enter();
            // A panic here would take the process with it. Whoever waits learns that nothing came; and where nobody
            // waits any more, the outcome is dropped here, with an error of the user's in it.
            if let Ok(outcome) = guarded(call) {
                drop_quietly(sender.send(outcome));
            }
        });
        Join::Cpu(receiver)
    }
}
