//! The end of a registry: tasks come to their end, up to a deadline, and a report says which did not.

use std::{future::Future, mem, sync::Arc, time::Duration};

use tokio::task::yield_now;

use crate::{
    engine::{abandoned::DROPPED_WITHIN, context, set_queue::SetQueue, shared::Shared},
    ledger::{Walk, finished::EndedBy, live::LiveTask, losses::MAX_NAMED, metrics::TaskMetrics},
    limits::PausedNames,
    model::{DiscardReason, ShutdownReport, TaskId},
    registry::{TaskRegistry, waiting::Waiting},
    util::clock::Timestamp,
};

/// How often it looks whether the tasks that it waits for can end before the deadline.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// About how long it takes to abort a task and to drop it.
const TIME_PER_TASK: Duration = Duration::from_micros(1);

/// After how many sets and spawned tasks it lets the runtime run something else.
const ENTRIES_PER_POLL: usize = 256;

/// How many looks must find no task dropped, before those that are left are stuck.
const LOOKS_IN_VAIN: u32 = 5;

/// How long it goes on beyond its time, while tasks are being aborted and dropped.
const LATE: Duration = Duration::from_millis(500);

impl TaskRegistry {
    /// Ends the registry in an orderly way, within `grace` and the
    /// [settle time](crate::TaskRegistryBuilder::settle), and says what was lost.
    ///
    /// 1. Sets whose response exists drain at once, whatever their client does. The others drain when their handler is
    ///    done.
    /// 2. Until the registry is idle, or until `grace` is over, everything goes on, and tasks are accepted. The registry is
    ///    idle when no task is live and no request is in flight. A request is in flight from the call of the service until
    ///    its response begins, or until its future is dropped. Bodies and upgraded connections are not waited for.
    /// 3. When the registry is idle, it closes. Later adds are discarded, or handed back by the `try_` methods.
    /// 4. If `grace` ends first, the registry closes then, cancels the [token](crate::cancellation) of every task, waits
    ///    the settle time, and aborts the tasks that are left.
    ///
    /// A task that waits for a time after the deadline, for its [delay](crate::Task::delay) or another
    /// [attempt](crate::Task::retrying), and a task whose name is [paused](Self::pause), is ended as soon as only such
    /// tasks, and tasks behind them in their sets, are left. The report lists it.
    ///
    /// It returns within the grace, the settle time and one second, however many tasks are live, unless hooks or the
    /// drops of tasks take longer. While a [`ShutdownGuard`](crate::ShutdownGuard) is left, it waits another settle
    /// time. The report and the log name at most 10,000 tasks of each kind, and count the others.
    ///
    /// Call it when the server has stopped: stop accepting, let connections finish, then shut down. A second call, also
    /// at the same time, is harmless and reports the same losses. The earliest deadline of all calls holds, also if its
    /// call was dropped.
    ///
    /// A blocking closure, or a future that does not yield, cannot be ended from outside. The report lists it
    /// as [stuck](ShutdownReport::stuck), and dropping a runtime waits for such a closure. End with
    /// `Runtime::shutdown_timeout`, or exit the process. On a `current_thread` runtime, a task that never
    /// yields stops everything, this method too. A handler or a task of the registry that awaits this method waits for
    /// itself until the deadline; the log says so.
    ///
    /// A set that drains because of a shutdown, before its response's body has ended, sees the ending
    /// `Disconnected`.
    ///
    /// # Cancel safety
    /// If it is dropped, the registry stays in the phase that it has reached, and another call goes on from there. That
    /// call can't extend the grace.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.shutdown_since(Timestamp::now(), grace).await
    }

    /// The same for a service that has begun to end at `start`.
    pub(crate) async fn shutdown_since(&self, start: Timestamp, grace: Duration) -> ShutdownReport {
        let shared = &*self.shared;
        let deadline = deadline_after(self.now(), grace);
        shared.telemetry.run_foreign("a waker", || shared.losses.limit(deadline));
        self.warn_of_waiting_for_itself();
        self.drain_answered_sets().await;
        let closed = tokio::select! {
            biased;
            () = self.close_when_idle() => true,
            () = self.until_deadline() => false,
        };
        let idle = closed && !shared.ledger.has_runtime_ended();
        shared.ledger.close();
        shared.telemetry.run_foreign("a waker", || shared.token.cancel());
        let latest = Timestamp::now().plus(shared.settle_time).plus(LATE);
        let last = self.time_to_end();
        if !idle {
            before(shared, shared.settle_time.saturating_sub(last), shared.ledger.wait_idle()).await;
            if !self.end_everything(latest).await {
                self.end_in_background();
            }
        }
        let had_time = self.wait_dropped(latest).await;
        self.end_dead_letters();
        self.wait_for_guards().await;
        self.report(start, had_time)
    }

    /// Notes how many tasks have completed and failed so far, unless that was noted before: the report is about those
    /// after.
    pub(crate) async fn count_before(&self) {
        // Tasks that have completed before must be in the counters.
        self.for_each_set(SetQueue::flush).await;
        let mut metrics = TaskMetrics::default();
        self.shared.ledger.sum(&mut metrics);
        self.shared.losses.count_from(metrics.completed, metrics.failures());
    }

    /// Begins the shutdown: from here on, a set drains as soon as there is a response.
    pub(crate) async fn drain_answered_sets(&self) {
        self.count_before().await;
        self.shared.losses.begin();
        self.for_each_set(SetQueue::drain_if_answered).await;
    }

    /// The time on the clock of the registry's runtime.
    fn now(&self) -> Timestamp {
        Timestamp::of(|| self.shared.timer.now())
    }

    /// Waits until the earliest deadline of all calls is over, also if it is given meanwhile.
    async fn until_deadline(&self) {
        let mut deadline = self.shared.losses.deadline();
        loop {
            let left = deadline.borrow_and_update().since(self.now());
            tokio::select! {
                biased;
                _ = deadline.changed() => {}
                () = self.shared.timer.sleep(left) => return,
            }
        }
    }

    /// Waits until nothing is live and no request is in flight. Tasks that are due after the deadline are ended when
    /// nothing else is left.
    async fn close_when_idle(&self) {
        let shared = &*self.shared;
        let earliest = shared.losses.deadline();
        let mut waiting = Waiting::since(Timestamp::now());
        loop {
            let deadline = *earliest.borrow();
            // The look takes time, so something may have been added meanwhile: it goes on.
            let blocked = Blocked { deadline, paused: shared.admission.paused_names() };
            if shared.requests.count() == 0 && self.all_blocked(&blocked).await {
                self.log_blocked(&blocked);
                self.end_blocked(&blocked).await;
            }
            let idle = async {
                shared.requests.wait_none().await;
                shared.ledger.wait_idle().await;
            };
            let is_idle = before(shared, LOOK_EVERY, idle).await;
            // Without a runtime, nothing goes on, and every wait for a time is over at once.
            if shared.ledger.has_runtime_ended() {
                return;
            }
            // Something may have begun since then. In this order: a request leaves its tasks before it ends.
            if is_idle && shared.requests.count() == 0 && shared.ledger.close_if_idle() {
                return;
            }
            if waiting.is_due(Timestamp::now()) {
                self.log_waited("the shutdown is waiting for tasks or requests");
            }
        }
    }

    /// Dead letters are in memory, so their work is lost with the process.
    fn end_dead_letters(&self) {
        let letters = self.shared.dead_letters.drop_sources();
        if letters > 0 {
            self.shared.telemetry.log(|| {
                tracing::warn!(
                    target: "postlude", letters,
                    "dead letters end with the registry, and can't be replayed any more: the log has the failure of each"
                );
            });
        }
    }

    /// Waits, for the settle time at most, for those that have something to do now that the tasks have ended.
    async fn wait_for_guards(&self) {
        let shared = &*self.shared;
        if before(shared, shared.settle_time, shared.guards.wait_none()).await {
            return;
        }
        let guards = shared.guards.count();
        let waited = shared.settle_time;
        shared.telemetry.log(|| {
            tracing::warn!(target: "postlude", guards, "the shutdown has waited {waited:?} for guards, and returns without them");
        });
    }

    fn warn_of_waiting_for_itself(&self) {
        let (current, _) = context::current();
        if current.belongs_to(&self.shared) {
            self.shared.telemetry.log(|| {
                tracing::warn!(
                    target: "postlude",
                    "a shutdown was called in a handler or a task of its own registry, and waits for it until the deadline"
                );
            });
        }
    }

    /// Whether there are tasks, and none of them can start before the deadline.
    async fn all_blocked(&self, blocked: &Blocked) -> bool {
        let (mut sets, mut walk, mut pause) = (Vec::new(), Walk::default(), Pause::default());
        loop {
            let mut all = true;
            let seen = self.shared.ledger.step(&mut walk, |task| all &= blocked.has(task), &mut sets);
            all = all && sets.drain(..).all(|set| set.all_live(|task| blocked.has(task)));
            if !all || seen == 0 {
                return all;
            }
            pause.after(seen).await;
        }
    }

    /// Says why the tasks that are left are ended.
    fn log_blocked(&self, blocked: &Blocked) {
        let tasks = self.shared.ledger.live();
        if tasks > 0 {
            let paused = blocked.paused.to_string();
            self.shared.telemetry.log(|| {
                tracing::warn!(
                    target: "postlude", tasks, paused,
                    "the shutdown ends the tasks that are left, because none can start before its deadline: they are due \
                     later, their name is paused, or they wait behind such a task"
                );
            });
        }
    }

    async fn end_blocked(&self, blocked: &Blocked) {
        let (mut sets, mut walk, mut pause) = (Vec::new(), Walk::default(), Pause::default());
        let mut spawned = Vec::new();
        let select = |task: &LiveTask, spawned: &mut Vec<TaskId>| {
            if blocked.has(task) {
                spawned.push(task.identity.id);
            }
        };
        loop {
            let seen = self.shared.ledger.step(&mut walk, |task| select(task, &mut spawned), &mut sets);
            if seen == 0 {
                return;
            }
            self.end_spawned(&mut spawned);
            for set in sets.drain(..) {
                while set.transition(|step| step.end_blocked(|task| blocked.has(task))) {
                    yield_now().await;
                }
            }
            pause.after(seen).await;
        }
    }

    /// How long it takes to abort what is live, and to drop it: this comes out of the settle time.
    fn time_to_end(&self) -> Duration {
        let settle = self.shared.settle_time;
        let for_all = TIME_PER_TASK.saturating_mul(u32::try_from(self.shared.ledger.live()).unwrap_or(u32::MAX));
        for_all.min(settle / 2).max(settle / 10).max(DROPPED_WITHIN)
    }

    /// Waits until the tasks that were stopped have been dropped. `true` if it has waited for long enough, and those
    /// that are left have had their time; `false` if tasks may still wait for their turn to be dropped.
    async fn wait_dropped(&self, latest: Timestamp) -> bool {
        let shared = &*self.shared;
        let soon = Timestamp::now().plus(DROPPED_WITHIN.max(shared.settle_time / 10));
        let (mut left, mut looks_in_vain) = (usize::MAX, 0);
        loop {
            let before_that = mem::replace(&mut left, shared.abandoned.not_dropped());
            let is_quiet = looks_in_vain >= LOOKS_IN_VAIN;
            let now = Timestamp::now();
            if left == 0 || now >= latest || now >= soon && is_quiet {
                return is_quiet;
            }
            if left < before_that {
                looks_in_vain = 0;
                // The runtime may have a long queue of tasks to drop. A timer would wait behind all of them.
                yield_now().await;
            } else {
                looks_in_vain += 1;
                before(shared, DROPPED_WITHIN / LOOKS_IN_VAIN, shared.abandoned.wait_empty()).await;
            }
        }
    }

    /// Ends the tasks for which there was no time. The report counts them already.
    fn end_in_background(&self) {
        let registry = self.clone();
        self.shared.spawn(async move {
            registry.end_everything(Timestamp::LAST).await;
        });
    }

    /// Ends everything that is live. `false` if there was no time for that before `latest`.
    async fn end_everything(&self, latest: Timestamp) -> bool {
        let (mut sets, mut walk, mut pause) = (Vec::new(), Walk::default(), Pause::default());
        let mut spawned = Vec::new();
        loop {
            let seen = self.shared.ledger.step(&mut walk, |task| spawned.push(task.identity.id), &mut sets);
            if seen == 0 {
                return true;
            }
            self.end_spawned(&mut spawned);
            for set in sets.drain(..) {
                while set.transition(|step| step.shut_down()) {
                    if Timestamp::now() >= latest {
                        return false;
                    }
                    yield_now().await;
                }
            }
            if Timestamp::now() >= latest {
                return false;
            }
            pause.after(seen).await;
        }
    }

    fn end_spawned(&self, ids: &mut Vec<TaskId>) {
        for id in ids.drain(..) {
            self.shared.end_spawned(id, |task| task.unfinished(DiscardReason::Closed), EndedBy::Caller);
        }
    }

    /// Calls `visit` for each listed set, a few at a time.
    pub(crate) async fn for_each_set(&self, visit: impl Fn(&Arc<SetQueue>)) {
        let (mut sets, mut walk, mut pause) = (Vec::new(), Walk::default(), Pause::default());
        loop {
            let seen = self.shared.ledger.step(&mut walk, |_| (), &mut sets);
            if seen == 0 {
                return;
            }
            sets.drain(..).for_each(|set| visit(&set));
            pause.after(seen).await;
        }
    }

    fn report(&self, start: Timestamp, had_time: bool) -> ShutdownReport {
        let now = Timestamp::now();
        let mut metrics = TaskMetrics::default();
        self.shared.ledger.sum(&mut metrics);
        let (stuck, unnamed_stuck) = self.shared.abandoned.list(MAX_NAMED, had_time);
        let lost = self.shared.losses.report(self.shared.ledger.live());
        let (completed_before, failed_before) = lost.before.unwrap_or_default();
        let unnamed = lost.unnamed + unnamed_stuck as u64;
        if unnamed > 0 {
            self.shared.telemetry.log(|| {
                tracing::error!(target: "postlude", unnamed, "the shutdown has cost more tasks than the log names");
            });
        }
        ShutdownReport {
            completed: metrics.completed.saturating_sub(completed_before),
            failed: metrics.failures().saturating_sub(failed_before),
            aborted: lost.aborted,
            discarded: lost.discarded,
            unnamed,
            stuck: stuck.into_iter().map(|identity| LiveTask::new(identity).stuck_info(now)).collect(),
            took: now.since(start),
        }
    }
}

/// The tasks that can't start before the deadline.
struct Blocked {
    deadline: Timestamp,
    paused: PausedNames,
}

impl Blocked {
    fn has(&self, task: &LiveTask) -> bool {
        task.is_due_after(self.deadline) || self.paused.has(task)
    }
}

/// Lets the runtime run something else after some work.
#[derive(Default)]
struct Pause {
    done: usize,
}

impl Pause {
    async fn after(&mut self, entries: usize) {
        self.done += entries;
        if self.done >= ENTRIES_PER_POLL {
            self.done = 0;
            yield_now().await;
        }
    }
}

/// The end of the grace. At most some decades from now, so that a task with the longest possible delay is due after it.
const fn deadline_after(now: Timestamp, grace: Duration) -> Timestamp {
    const DECADES: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    now.plus(if grace.as_secs() < DECADES.as_secs() { grace } else { DECADES })
}

/// Whether `event` came before `limit` was over.
async fn before(shared: &Shared, limit: Duration, event: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = event => true,
        () = shared.timer.sleep(limit) => false,
    }
}
