//! The methods of `TaskRegistry` that measure: counts, ages, recent outcomes.

use std::{sync::Arc, time::Duration};

use rustc_hash::FxHashMap;

use crate::{
    engine::{set_queue::SetQueue, shared::TaskRegistry},
    ledger::{
        Walk,
        live::LiveTask,
        metrics::{RuntimeMetrics, TaskMetrics},
        oldest::{Oldest, age, earlier},
    },
    limits::PausedNames,
    model::{OutcomeCounts, TaskAges, TaskName},
    telemetry::log,
    util::{clock::Timestamp, loom::atomic::Ordering},
};

/// How many sets and spawned tasks of a shard are looked at for completions that are not counted yet, by a reader that
/// must not take long.
const ENTRIES_PER_LOOK: usize = 1_000;

/// How many outcomes of a shard are looked at for [`TaskRegistry::recent_outcomes`].
const OUTCOMES_PER_LOOK: usize = 1_024;

/// How many tasks of sets are looked at for the ages of the oldest ones of each name.
const TASKS_PER_LOOK: usize = 65_536;

impl TaskRegistry {
    /// What has been counted so far.
    ///
    /// It locks the registry for a few tasks at a time. It takes time in proportion to the live sets, however many
    /// tasks they have, and looks at a bounded number of spawned tasks, for the [ages](TaskMetrics::oldest_pending) of
    /// the oldest ones. The counts are exact, whatever is live.
    #[must_use]
    pub fn metrics(&self) -> TaskMetrics {
        let shared = &*self.shared;
        let mut metrics = TaskMetrics::default();
        let mut look = Look { paused: shared.admission.paused_names(), ..Look::default() };
        let now = Timestamp::now();
        shared.ledger.look_at_first_spawned(|task| look.task(task));
        for set in shared.ledger.sets() {
            look.set(&set);
            set.flush();
        }
        shared.ledger.sum(&mut metrics);
        for (name, limit) in self.name_limits() {
            metrics.set_limit(name, limit);
        }
        metrics.live = metrics.pending + metrics.running;
        metrics.capacity = shared.ledger.capacity();
        let Look { oldest, by_name, open, open_sets, held_sets, .. } = look;
        metrics.take_oldest(&by_name, now);
        [metrics.oldest_pending, metrics.oldest_running] = oldest.ages(now);
        metrics.oldest_open = age(open, now);
        (metrics.open_sets, metrics.held_sets) = (open_sets, held_sets);
        metrics.take_stuck(&shared.abandoned.by_name());
        if let Some(profiler) = &shared.telemetry.profiler {
            metrics.take_profiles(profiler.by_name());
        }
        metrics.dead_letter_capacity = shared.dead_letters.capacity() as u64;
        metrics.take_dead_letters(&shared.dead_letters.counts());
        metrics.runtime = RuntimeMetrics::of(&shared.handle);
        metrics.hook_panics = shared.telemetry.hook_panics();
        metrics.log_suppressed = log::suppressed();
        // Relaxed: a statistic.
        metrics.shed = shared.shed.load(Ordering::Relaxed);
        metrics
    }

    /// How long the oldest pending task has been waiting for its turn: [`TaskMetrics::oldest_pending`] alone.
    ///
    /// It looks at a few tasks at a time and yields in between, so it keeps no worker busy, however many are live. If
    /// no task is pending, it looks at none.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    /// registry.spawn(std::future::pending::<()>());
    /// registry.spawn(Task::new(async {}).named("waits for the first one"));
    /// tokio::time::sleep(Duration::from_secs(30)).await;
    /// assert_eq!(registry.oldest_pending().await.as_secs(), 30);
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn oldest_pending(&self) -> Duration {
        let (mut oldest, paused) = (None, self.shared.admission.paused_names());
        let since = |task: &LiveTask| task.pending_since().filter(|_| !paused.has(task));
        for (spawned, sets) in self.shared.ledger.survey_pending(since) {
            let in_sets = sets.iter().filter_map(|set| set.oldest(&paused).0.pending);
            oldest = earlier(oldest, spawned.into_iter().chain(in_sets).min());
            tokio::task::yield_now().await;
        }
        age(oldest, Timestamp::now())
    }

    /// How old the oldest pending task, the oldest running attempt and the oldest open set are.
    ///
    /// It looks at all live tasks that can be one of these, a few at a time, and yields in between, so it keeps no
    /// worker busy, however many are live.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let open = registry.set();
    /// open.add(async {}); // waits for `drain`
    /// registry.spawn(std::future::pending::<()>());
    /// tokio::time::sleep(Duration::from_secs(30)).await;
    ///
    /// let ages = registry.ages().await;
    /// assert_eq!((ages.running.as_secs(), ages.open.as_secs()), (30, 30));
    /// assert_eq!(ages.pending, Duration::ZERO);
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn ages(&self) -> TaskAges {
        let (mut oldest, mut open, mut walk) = (Oldest::default(), None, Walk::default());
        let (mut sets, paused) = (Vec::new(), self.shared.admission.paused_names());
        let look = |task: &LiveTask, oldest: &mut Oldest| {
            if !paused.has(task) {
                oldest.absorb(Oldest::of(task));
            }
        };
        while self.shared.ledger.step(&mut walk, |task| look(task, &mut oldest), &mut sets) > 0 {
            for set in sets.drain(..) {
                let (of_set, open_since) = set.oldest(&paused);
                oldest.absorb(of_set);
                open = earlier(open, open_since.map(|open| open.since));
            }
            tokio::task::yield_now().await;
        }
        let now = Timestamp::now();
        let [pending, running] = oldest.ages(now);
        TaskAges { pending, running, open: age(open, now) }
    }

    /// Whether this registry [profiles](crate::TaskRegistryBuilder::profile) its tasks.
    ///
    /// ```
    /// use postlude::{Profile, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// assert!(TaskRegistry::builder().profile(Profile::default()).build()?.is_profiled());
    /// assert!(!TaskRegistry::new().is_profiled());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_profiled(&self) -> bool {
        self.shared.telemetry.profiler.is_some()
    }

    /// How many tasks are stuck: [`TaskMetrics::stuck`] alone. It looks only at tasks that were ended while they ran,
    /// and whose work was not dropped yet.
    ///
    /// ```
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// assert_eq!(TaskRegistry::new().stuck(), 0);
    /// # }
    /// ```
    #[must_use]
    pub fn stuck(&self) -> u64 {
        self.shared.abandoned.by_name().values().sum()
    }

    /// The outcomes of the last `within`, counted: of those that the registry
    /// [remembers](crate::TaskRegistryBuilder::history), and at most the latest 1,024 of each shard.
    ///
    /// It takes bounded time, whatever is live: if some thousand sets are, up to eight completions of each may be
    /// counted only when the next task of the set has ended.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// registry.spawn(async { Err::<(), _>("long ago") }).await;
    /// tokio::time::sleep(Duration::from_secs(600)).await;
    /// registry.spawn(async {}).await;
    /// let recent = registry.recent_outcomes(Duration::from_secs(300));
    /// assert_eq!((recent.completed, recent.failed), (1, 0));
    /// # }
    /// ```
    #[must_use]
    pub fn recent_outcomes(&self, within: Duration) -> OutcomeCounts {
        for set in self.shared.ledger.some_sets(ENTRIES_PER_LOOK) {
            set.flush();
        }
        let (now, mut outcomes) = (Timestamp::now(), OutcomeCounts::default());
        self.shared.ledger.look_at_latest(OUTCOMES_PER_LOOK, |finished| {
            if now.since(finished.ended) <= within {
                outcomes.count(finished.outcome().kind());
            }
        });
        outcomes
    }
}

/// A look at the live tasks, for the ages of the oldest ones.
#[derive(Default)]
struct Look {
    /// Left out of all ages but those by name.
    paused: PausedNames,
    oldest: Oldest,
    by_name: FxHashMap<TaskName, Oldest>,
    open: Option<Timestamp>,
    open_sets: u64,
    held_sets: u64,
    /// The tasks of sets that were looked at one by one.
    tasks: usize,
}

impl Look {
    fn task(&mut self, task: &LiveTask) {
        if !self.paused.has(task) {
            self.oldest.absorb(Oldest::of(task));
        }
        self.name(task);
    }

    fn name(&mut self, task: &LiveTask) {
        self.by_name.entry(task.identity.name).or_default().absorb(Oldest::of(task));
    }

    fn set(&mut self, set: &Arc<SetQueue>) {
        let (oldest, open) = set.oldest(&self.paused);
        self.oldest.absorb(oldest);
        if let Some(open) = &open {
            self.open = earlier(self.open, Some(open.since));
            self.open_sets += 1;
            self.held_sets += u64::from(open.is_held);
        }
        if self.tasks >= TASKS_PER_LOOK {
            return;
        }
        // The first some hundred of the set.
        set.chunk(0, |task| {
            self.tasks += 1;
            // The pending tasks of an open set wait for its request.
            if open.is_none() || task.has_started() {
                self.name(task);
            }
        });
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn metrics_looks_at_a_bounded_number_of_spawned_tasks_those_that_were_added_first() {
        let registry = TaskRegistry::new();
        let ids: Vec<_> = (0..200_000).map(|_| registry.spawn(std::future::pending::<()>()).id()).collect();
        let mut looked_at = Vec::new();
        registry.shared.ledger.look_at_first_spawned(|task| looked_at.push(task.identity.id));
        assert!((4_096..=131_072).contains(&looked_at.len()), "{}", looked_at.len());
        looked_at.sort_unstable_by_key(|id| id.number);
        assert_eq!(looked_at[..4_096], ids[..4_096]);
    }
}
