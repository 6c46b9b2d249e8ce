//! The last outcomes, and what is known of one task.

use std::{mem, sync::Arc};

use crate::{
    BoxError, Outcome, Page, TaskId, TaskInfo, TaskRegistry, TaskReport, live::Past, moment::Moment,
    outcome::drop_quietly,
};

/// How many outcomes are read under one lock.
pub(crate) const PIECE: usize = 128;

/// What is known of a task: see [`TaskRegistry::get`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskStatus {
    /// It has no outcome yet: its [state](TaskInfo::state) says whether it waits or runs.
    Live(TaskInfo),
    /// It has its outcome.
    Ended(TaskReport),
}

impl TaskStatus {
    /// The task.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        match self {
            Self::Live(task) => task.id,
            Self::Ended(report) => report.id,
        }
    }

    /// Its name, `unnamed` if it was given none.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Live(task) => task.name,
            Self::Ended(report) => report.name,
        }
    }

    /// One lower-case word: a [`TaskState`](crate::TaskState), or an outcome's [label](Outcome::label).
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Live(task) => task.state.label(),
            Self::Ended(report) => report.outcome.label(),
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Live(_) => None,
            Self::Ended(report) => Some(&report.outcome),
        }
    }
}

impl TaskRegistry {
    /// What is known of one task, live or ended; `None` if there is none of that id, or its outcome is no longer
    /// [remembered](crate::TaskRegistryBuilder::history).
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry, TaskStatus};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let id = registry.spawn(Task::new(async { Err::<(), _>("no such mailbox") }).named("mail")).id();
    /// assert_eq!(registry.get(id).unwrap().label(), "pending");
    ///
    /// registry.wait_idle().await;
    /// let Some(TaskStatus::Ended(report)) = registry.get(id) else { panic!("it has ended") };
    /// assert_eq!(report.outcome.to_string(), "failed: no such mailbox");
    /// # }
    /// ```
    #[must_use]
    pub fn get(&self, id: TaskId) -> Option<TaskStatus> {
        // In this order: a task is struck off the list and remembered under one lock.
        let live = self.inner.live(id).map(TaskStatus::Live);
        live.or_else(|| {
            if let Some(set) = self.inner.ledger.set(id.line) {
                set.book();
            }
            self.inner.ledger.remembered(id).map(|past| TaskStatus::Ended(past.report(Moment::now())))
        })
    }

    /// The last outcomes, the latest first: as many as the registry [remembers](crate::TaskRegistryBuilder::history).
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// for name in ["first", "second"] {
    ///     registry.spawn(Task::new(async {}).named(name)).await;
    /// }
    /// let names: Vec<_> = registry.history().iter().map(|report| report.name).collect();
    /// assert_eq!(names, ["second", "first"]);
    /// # }
    /// ```
    #[must_use]
    pub fn history(&self) -> Vec<TaskReport> {
        for set in self.inner.ledger.survey(|_| ()) {
            set.book();
        }
        let now = Moment::now();
        let mut all = self.inner.ledger.history();
        all.sort_by_key(|past| std::cmp::Reverse((past.ended, past.identity.id)));
        let forgotten = all.split_off(all.len().min(self.inner.ledger.remembers()));
        forgotten.into_iter().for_each(drop_quietly);
        all.into_iter().map(|past| past.report(now)).collect()
    }

    /// A page of the remembered outcomes that `filter` accepts, the latest first: at most `limit` of them, that come
    /// after the outcome of the task `after` in this order. A limit of 0 counts as 1.
    ///
    /// If the outcome of `after` is no longer [remembered](crate::TaskRegistryBuilder::history), the page is empty, because
    /// all that would come after it is older and no longer remembered either. The filter runs without a lock.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// registry.spawn(Task::new(async { Err::<(), _>("no such mailbox") }).named("mail")).await;
    /// registry.spawn(Task::new(async {}).named("mail")).await;
    ///
    /// let page = registry.history_page(None, 10, |report| !report.outcome.is_completed());
    /// assert_eq!(page.items[0].outcome.to_string(), "failed: no such mailbox");
    /// assert_eq!((page.items.len(), page.next), (1, None));
    /// # }
    /// ```
    #[must_use]
    pub fn history_page(
        &self,
        after: Option<TaskId>,
        limit: usize,
        mut filter: impl FnMut(&TaskReport) -> bool,
    ) -> Page<TaskReport> {
        let mut page = Page::new();
        let mut history = self.history().into_iter();
        if let Some(after) = after {
            history.by_ref().find(|report| report.id == after);
        }
        for report in history {
            if filter(&report) && !page.push(report, limit, |last| last.id) {
                break;
            }
        }
        page
    }
}

/// The outcomes that one shard remembers: a ring, which takes room only as it fills.
///
/// Each shard has room for all, so that together they remember the last ones of the registry, wherever those
/// have ended.
#[derive(Default)]
pub(crate) struct History {
    room: usize,
    ring: Vec<Past>,
    /// Where the next one goes.
    next: usize,
    written: u64,
}

impl History {
    pub(crate) const fn new(room: usize) -> Self {
        Self { room, ring: Vec::new(), next: 0, written: 0 }
    }

    pub(crate) const fn room(&self) -> usize {
        self.room
    }

    /// Remembers an end; what it returns is forgotten, and to be dropped without the lock: an error of the user's,
    /// whose `Drop` may do anything.
    #[inline]
    pub(crate) fn note(&mut self, past: Past) -> Option<Arc<BoxError>> {
        if self.room == 0 {
            return past.into_error();
        }
        let mut forgotten = None;
        match self.ring.get_mut(self.next) {
            Some(slot) => forgotten = mem::replace(slot, past).into_error(),
            None => self.ring.push(past),
        }
        self.next += 1;
        if self.next == self.room {
            self.next = 0;
        }
        self.written += 1;
        forgotten
    }

    /// Some of what was written before `end`, the latest first, and where to go on. Short, for it is read under the
    /// lock.
    pub(crate) fn piece(&self, end: u64) -> (impl Iterator<Item = &Past>, Option<u64>) {
        let oldest = self.written - self.ring.len() as u64;
        let end = end.min(self.written).max(oldest);
        let begin = end.saturating_sub(PIECE as u64).max(oldest);
        let newest_first = (begin..end).rev().filter_map(move |number| {
            let back = usize::try_from(self.written - number).unwrap_or(usize::MAX);
            self.ring.get((self.next + self.ring.len()).checked_sub(back)? % self.ring.len())
        });
        (newest_first, (begin > oldest).then_some(begin))
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.ring.drain(..).for_each(drop_quietly);
    }
}
