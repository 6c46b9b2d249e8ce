//! `wait_idle`, and what the log says of a wait that takes long.

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use crate::{
    engine::{queue_state::OpenSet, set_queue::SetQueue},
    limits::PausedNames,
    model::{SetId, TaskInfo},
    registry::TaskRegistry,
    util::clock::Timestamp,
};

/// After which time a wait is first logged. It is logged again each time that it has taken twice as long.
const FIRST_LOG: Duration = Duration::from_secs(2);

/// From when on `wait_idle` logs no more.
const LAST_LOG: Duration = Duration::from_secs(24 * 60 * 60);

/// How many tasks and sets a line of the log is written for, at a time.
const NAMED: usize = 10;

/// When a wait is logged.
pub(crate) struct Waiting {
    start: Timestamp,
    /// Since the start.
    next_log: Duration,
}

impl Waiting {
    pub(crate) const fn since(start: Timestamp) -> Self {
        Self { start, next_log: FIRST_LOG }
    }

    /// Whether the wait is to be logged now.
    pub(crate) fn is_due(&mut self, now: Timestamp) -> bool {
        let is_due = now.since(self.start) >= self.next_log;
        if is_due {
            self.next_log = self.next_log.saturating_mul(2);
        }
        is_due
    }
}

/// A task or set that somebody waits for.
pub(crate) enum Waited {
    Task(TaskInfo),
    Set(WaitedSet),
}

/// A set that does not drain yet.
pub(crate) struct WaitedSet {
    queue: Arc<SetQueue>,
    open: OpenSet,
    pending: usize,
    first: Option<TaskInfo>,
}

impl WaitedSet {
    /// `None` if the set drains, or has drained.
    pub(crate) fn of(queue: &Arc<SetQueue>, now: Timestamp, paused: &PausedNames) -> Option<Self> {
        let (open, pending) = queue.open()?;
        let first = queue.first_infos(1, now).pop().map(|task| paused.marked(task));
        Some(Self { queue: Arc::clone(queue), open, pending, first })
    }
}

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(task) => task.fmt(f),
            Self::Set(set) => set.fmt(f),
        }
    }
}

impl fmt::Display for WaitedSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, open, pending, first } = self;
        write!(f, "set {}", SetId(queue.number()))?;
        #[cfg(feature = "http")]
        if !queue.request_line.is_none() {
            write!(f, " of {}", queue.request_line)?;
        }
        let reason = match open {
            OpenSet::Collecting => "its request is being handled, or nothing has drained it",
            OpenSet::Unread => "its response is held, and was not read to its end",
            OpenSet::Holding => "its response is on its way",
        };
        write!(f, ": {reason}; {pending} pending")?;
        first.iter().try_for_each(|first| write!(f, ", the first is {first}"))
    }
}

impl TaskRegistry {
    /// Waits until no task is live: every task that was added has its outcome. Abandoned work may still run;
    /// [`TaskMetrics::stuck`](crate::TaskMetrics::stuck) counts it.
    ///
    /// A set whose request is in progress counts as soon as it has a task. A task must not await this, because it would
    /// wait for itself.
    ///
    /// After 2 s, and each time that it has waited twice as long, for up to a day, it logs a warning with the number of
    /// live tasks, and a line for each of ten tasks and sets that it waits for: the oldest of them, each with its state
    /// or, for the set of a request, with what that waits for. With paused time, the clock may advance by these waits.
    ///
    /// ```
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// registry.spawn(async {});
    /// registry.wait_idle().await;
    /// assert_eq!(registry.metrics().completed, 1);
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn wait_idle(&self) {
        let shared = &*self.shared;
        let mut idle = pin!(shared.ledger.wait_idle());
        let (mut waited, mut wait) = (Duration::ZERO, FIRST_LOG);
        while waited < LAST_LOG {
            tokio::select! {
                biased;
                () = &mut idle => return,
                () = shared.timer.sleep(wait) => {}
            }
            self.log_waited("`wait_idle` is waiting for tasks");
            // Without a runtime, every wait for a time is over at once. Sets whose handles are held may still be open.
            if shared.ledger.has_runtime_ended() {
                break;
            }
            waited += wait;
            wait = waited;
        }
        idle.await;
    }

    /// Logs what a wait waits for.
    pub(crate) fn log_waited(&self, message: &'static str) {
        let waited = self.some_waited(NAMED);
        let (live, requests) = (self.shared.ledger.live(), self.shared.requests.count());
        self.shared.telemetry.log(|| {
            tracing::warn!(target: "postlude", live, requests, "{message}");
            for waited in waited {
                tracing::warn!(target: "postlude", "waiting for {waited}");
            }
        });
    }

    /// The oldest sets and spawned tasks that are live, and tasks of the sets that drain.
    fn some_waited(&self, count: usize) -> Vec<Waited> {
        let (now, paused) = (Timestamp::now(), self.shared.admission.paused_names());
        let mut all = Vec::new();
        for number in self.shared.ledger.numbers_from(0, count) {
            let left = count.saturating_sub(all.len());
            let Some(set) = self.shared.ledger.set(number) else {
                let spawned = self.shared.ledger.shard(number).spawned.get(number).map(|task| task.info(now));
                all.extend(spawned.map(|task| Waited::Task(paused.marked(task))));
                continue;
            };
            // So that its tasks are among those that are counted as live.
            set.flush();
            if let Some(open) = WaitedSet::of(&set, now, &paused) {
                all.push(Waited::Set(open));
            } else {
                let tasks = set.first_infos(left, now).into_iter();
                all.extend(tasks.map(|task| Waited::Task(paused.marked(task))));
            }
        }
        all.truncate(count);
        all
    }
}
