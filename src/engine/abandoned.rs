//! Work that goes on although its task's outcome has been counted.

use std::mem;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::{
    engine::attempt::AttemptState,
    ledger::live::{LiveTask, Stage},
    model::{Identity, TaskId},
    util::loom::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The given-up: tasks that were ended from outside or have timed out, and whose tokio task or closure has not yet
/// returned. Most are here for the moment that the runtime takes to drop a future; those that stay are stuck.
#[derive(Default)]
pub(crate) struct Stuck {
    tasks: Mutex<FxHashMap<TaskId, GivenUp>>,
    /// How many of them were cut: each tokio task asks at each poll, and mostly there is none.
    cuts: AtomicUsize,
    emptied: Notify,
}

struct GivenUp {
    identity: Identity,
    /// How many parts of it go on: the task that ran it, and the work that it ran apart.
    parts: u32,
    /// Whether it was ended from outside, and the tokio task that has it in hand is still to notice.
    cut: bool,
    /// Otherwise it only waits for its turn, and that tokio task is all there is to end.
    started: bool,
}

impl Stuck {
    /// A task was ended from outside, while a tokio task has it in hand. Matched by a `remove_cut` once that has noticed.
    pub(crate) fn insert_cut(&self, live: &LiveTask) {
        let identity = live.identity;
        let mut tasks = self.tasks.lock();
        let task = tasks.entry(identity.id).or_insert(GivenUp { identity, parts: 0, cut: false, started: false });
        task.parts += 1;
        task.cut = true;
        task.started |= live.stage() == Stage::Running;
        // Relaxed: whoever was cut is woken after this, and sees it when it is polled for that.
        self.cuts.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives up work that runs apart; `false` if it is over. Matched by a `remove` once it has returned.
    pub(crate) fn insert_given_up(&self, identity: Identity, apart: &AttemptState) -> bool {
        let mut tasks = self.tasks.lock();
        // Under the lock: the `remove` that follows will find what is inserted here.
        let goes_on = apart.give_up();
        if goes_on {
            let task = tasks.entry(identity.id).or_insert(GivenUp { identity, parts: 0, cut: false, started: true });
            task.parts += 1;
            task.started = true;
        }
        goes_on
    }

    /// The tokio task that had a task in hand has let go of it, which matters if that was ended from outside.
    pub(crate) fn remove_cut(&self, id: TaskId) {
        let mut tasks = self.tasks.lock();
        if tasks.get_mut(&id).is_some_and(|task| mem::take(&mut task.cut)) {
            self.cuts.fetch_sub(1, Ordering::Relaxed);
            self.remove_part(tasks, id);
        }
    }

    /// Work that was given up has returned.
    pub(crate) fn remove(&self, id: TaskId) {
        self.remove_part(self.tasks.lock(), id);
    }

    fn remove_part(&self, mut tasks: MutexGuard<'_, FxHashMap<TaskId, GivenUp>>, id: TaskId) {
        if let Some(task) = tasks.get_mut(&id) {
            task.parts -= 1;
            if task.parts == 0 {
                tasks.remove(&id);
            }
        }
        let emptied = tasks.is_empty();
        drop(tasks);
        if emptied {
            self.emptied.notify_waiters();
        }
    }

    /// Whether the task was ended from outside, and the tokio task that has it in hand is still to notice.
    pub(crate) fn was_cut(&self, id: TaskId) -> bool {
        self.cuts.load(Ordering::Relaxed) > 0 && self.tasks.lock().get(&id).is_some_and(|task| task.cut)
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.lock().values().filter(|task| task.started).count()
    }

    pub(crate) fn list(&self) -> Vec<Identity> {
        self.tasks.lock().values().filter(|task| task.started).map(|task| task.identity).collect()
    }

    /// Waits until all of them have returned.
    pub(crate) async fn wait_empty(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.tasks.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }
}
