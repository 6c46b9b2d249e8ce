//! The limits of names, which may change at run time: pause, resume, limit, and what is known of them.

use std::{collections::BTreeMap, future::Future};

use crate::{
    model::{LimitError, NameLimit, TaskName},
    registry::TaskRegistry,
};

impl TaskRegistry {
    /// Pauses a name: no task of the name starts, and none is tried again, before the name is [resumed](Self::resume).
    /// Returns `false` if it was paused already.
    ///
    /// Tasks that are running go on. The others wait as at a [limit](crate::TaskRegistryBuilder::limit_by_name), and
    /// keep their order; the tasks behind them in their sets wait, too. They are pending (or retrying), and
    /// [`TaskInfo::paused`](crate::TaskInfo::paused) tells. They still [expire](crate::Task::expires_after), can be
    /// aborted, and count towards the [capacity](crate::TaskRegistryBuilder::capacity). Any name can be paused, also
    /// one that no task has had yet, and `unnamed`.
    ///
    /// A shutdown does not wait for paused tasks: it ends them, and reports them, as soon as no other task is live.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// registry.pause("mail"); // the mail server is down
    /// let mail = registry.spawn(Task::new(async {}).named("mail"));
    /// tokio::task::yield_now().await;
    /// assert!(registry.tasks()[0].paused);
    ///
    /// registry.resume("mail");
    /// assert!(mail.await.is_completed());
    /// # }
    /// ```
    ///
    /// A task that another thread starts at this moment may still start. The first pause or limit of a name takes time
    /// in proportion to the live tasks, because those of the name that are running are counted; starts of the name wait
    /// meanwhile.
    ///
    /// To pause a name that is known as text, [intern](TaskName::intern) it, or, if the text comes from a client, take the
    /// name from [`name_limits`](Self::name_limits) or [`TaskMetrics::by_name`](crate::TaskMetrics::by_name).
    pub fn pause(&self, name: impl Into<TaskName>) -> bool {
        self.set_paused(name.into(), true)
    }

    /// Resumes a [paused](Self::pause) name: its tasks start, in their order and within its limits. Returns `false` if
    /// it was not paused.
    pub fn resume(&self, name: impl Into<TaskName>) -> bool {
        let name = name.into();
        self.shared.admission.of_name(name).is_some() && self.set_paused(name, false)
    }

    fn set_paused(&self, name: TaskName, pauses: bool) -> bool {
        if name.is_other() {
            self.shared.telemetry.log(|| {
                tracing::warn!(
                    target: "postlude",
                    "a name is not paused, because `TaskName::intern` had no place for it, and `other` stands for many"
                );
            });
            return false;
        }
        let mut is_new = false;
        self.shared.limits_of(name, |limits| is_new = self.shared.admission.set_paused(limits, pauses));
        if is_new {
            let message = if pauses { "the tasks of a name are paused" } else { "the tasks of a name are resumed" };
            self.shared.telemetry.log(|| tracing::info!(target: "postlude", name = name.as_str(), "{message}"));
        }
        is_new
    }

    /// Whether a name is [paused](Self::pause).
    #[must_use]
    pub fn is_paused(&self, name: impl Into<TaskName>) -> bool {
        self.shared.admission.is_paused(name.into())
    }

    /// Sets how many tasks of a name may run at a time, in place of its
    /// [`limit_by_name`](crate::TaskRegistryBuilder::limit_by_name), if it has one. Any name can be limited.
    ///
    /// If more tasks are running, they go on, and the next one starts when enough of them have ended. A higher limit
    /// starts tasks that wait. Their order is kept in both cases.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::LimitError> {
    /// let registry = TaskRegistry::new();
    /// registry.set_limit("thumbnail", 2)?;
    /// for _ in 0..10 {
    ///     registry.spawn(Task::new(std::future::pending::<()>()).named("thumbnail"));
    /// }
    /// tokio::task::yield_now().await;
    /// assert_eq!(registry.metrics().running, 2);
    ///
    /// registry.set_limit("thumbnail", 5)?;
    /// tokio::task::yield_now().await;
    /// assert_eq!(registry.metrics().running, 5);
    /// assert_eq!(registry.name_limits()["thumbnail"].in_use, 5);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It may take time, like [`pause`](Self::pause). A closure that was running when its name was given its first
    /// limit is counted until it has an outcome, also if it goes on after a timeout.
    ///
    /// # Errors
    /// If the limit is zero, or the name could not be [interned](TaskName::intern).
    pub fn set_limit(&self, name: impl Into<TaskName>, tasks: usize) -> Result<(), LimitError> {
        let name = name.into();
        if name.is_other() {
            return Err(LimitError::OtherName);
        }
        if tasks == 0 {
            return Err(LimitError::Zero { name });
        }
        self.shared.limits_of(name, |limits| self.shared.admission.set_limit(limits, Some(tasks)));
        self.shared.telemetry.log(|| {
            tracing::info!(target: "postlude", name = name.as_str(), limit = tasks, "the limit of a name is set");
        });
        Ok(())
    }

    /// Removes the limit of a name: its own, or that of the builder. It stays [paused](Self::pause) if it is, and keeps
    /// its rate.
    pub fn remove_limit(&self, name: impl Into<TaskName>) {
        let name = name.into();
        if let Some(limits) = self.shared.admission.of_name(name) {
            self.shared.admission.set_limit(limits, None);
            self.shared.telemetry.log(|| {
                tracing::info!(target: "postlude", name = name.as_str(), "the limit of a name is removed");
            });
        }
    }

    /// The names that have a limit, a limit by key or a rate, are paused, or once were: how many of their tasks may run, how many do,
    /// and whether they are paused. See also [`TaskMetrics::by_name`](crate::TaskMetrics::by_name), which has the same
    /// figures.
    #[must_use]
    pub fn name_limits(&self) -> BTreeMap<TaskName, NameLimit> {
        let mut all = BTreeMap::<_, NameLimit>::new();
        for (name, usage) in self.shared.admission.usage_by_name() {
            let limit =
                NameLimit { limit: usage.limit, in_use: usage.taken, paused: usage.is_paused, limit_by_key: None };
            all.insert(name, limit);
        }
        for (name, limit) in self.shared.admission.limits_by_key() {
            all.entry(name).or_default().limit_by_key = Some(limit);
        }
        all
    }

    /// Completes when a name is paused or resumed, or given another limit, from this call on: for code that waits for
    /// [room](Self::may_start).
    ///
    /// ```
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// registry.pause("import");
    /// while registry.may_start("import") == 0 {
    ///     // Before the next look, so that no change is missed.
    ///     let changed = registry.limits_changed();
    ///     registry.resume("import");
    ///     changed.await;
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub fn limits_changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.shared.admission.changes();
        async move {
            // An error: the registry is gone, and nothing will change.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
