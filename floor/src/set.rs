//! A set: tasks that run one after another, in one tokio task.
//!
//! A task costs two readings of the clock and two locks, at its add and at its end, because others may add to the set, list
//! it and take tasks out of it while it drains. The end of one task is the start of the next. The registry's counts are
//! updated once, when the set has drained; until then the set, which the registry lists, keeps the ends of its tasks.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    registry::catch_panic,
    state::{Outcome, Shard},
};

/// How many tasks one poll may finish before the runtime gets to do something else.
const TASKS_A_POLL: usize = 64;

/// Tasks that run one after another.
pub struct Set {
    shard: Arc<Shard>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Given when the set is listed.
    number: u64,
    tasks: Tasks,
    /// The current task.
    index: usize,
    /// When the drain began.
    began: Option<Instant>,
    may_drain: bool,
    is_draining: bool,
}

/// The first is kept in place: a set of one needs no room elsewhere.
#[derive(Default)]
struct Tasks {
    first: Option<Task>,
    others: Vec<Task>,
}

struct Task {
    /// Taken when it starts.
    work: Option<BoxFuture<'static, ()>>,
    added: Instant,
    end: Option<(Outcome, Instant)>,
}

impl Set {
    #[inline]
    pub(crate) fn new(shard: Arc<Shard>) -> Arc<Self> {
        Arc::new(Self { shard, state: Mutex::default() })
    }

    /// Adds a task.
    pub fn add<F>(self: &Arc<Self>, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = Task { work: Some(work.boxed()), added: Instant::now(), end: None };
        let mut state = self.state.lock();
        if state.tasks.first.is_none() {
            state.number = self.shard.insert_set(Arc::clone(self));
        }
        state.tasks.push(task);
        let drains = state.begin();
        drop(state);
        if drains {
            Arc::clone(self).spawn_drain();
        }
    }

    /// Lets the tasks run; those that are added later, too.
    #[inline]
    pub fn drain(self: Arc<Self>) {
        let mut state = self.state.lock();
        state.may_drain = true;
        let drains = state.begin();
        drop(state);
        if drains {
            self.spawn_drain();
        }
    }

    #[inline]
    #[expect(clippy::disallowed_methods, reason = "a peer of what spawns for others")]
    fn spawn_drain(self: Arc<Self>) {
        tokio::spawn(Drain { set: Some(self), work: None });
    }

    /// Notes the end of the current task, if there is one, and takes the next.
    fn next(&self, ended: Option<Outcome>) -> Option<BoxFuture<'static, ()>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let index = state.index;
        match (ended, state.tasks.at(index)) {
            (Some(outcome), Some(task)) => {
                task.end = Some((outcome, now));
                state.index += 1;
            }
            _ => state.began = Some(now),
        }
        let index = state.index;
        if let Some(task) = state.tasks.at(index) {
            return task.work.take();
        }
        self.finish(&mut state);
        None
    }

    /// Counts the ends of the tasks. Under the lock of the set, so that a task is in its list or in the counts.
    fn finish(&self, state: &mut State) {
        self.shard.end_set(state.number, |counts| {
            let mut started = state.began.unwrap_or_else(Instant::now);
            for task in state.tasks.first.iter().chain(&state.tasks.others) {
                let (outcome, ended) = task.end.unwrap_or((Outcome::Aborted, started));
                counts.count(outcome, started - task.added, ended - started);
                started = ended;
            }
        });
        state.tasks.first = None;
        state.tasks.others.clear();
        state.index = 0;
        state.is_draining = false;
    }

    /// The runtime has ended.
    fn abort_all(&self) {
        let mut state = self.state.lock();
        let left: Vec<_> = state.tasks.all().filter_map(|task| task.work.take()).collect();
        self.finish(&mut state);
        drop(state);
        drop(left);
    }
}

impl State {
    /// Whether a drain is to begin.
    #[inline]
    fn begin(&mut self) -> bool {
        let begins = self.may_drain && !self.is_draining && self.tasks.first.is_some();
        self.is_draining |= begins;
        begins
    }
}

impl Tasks {
    #[inline]
    fn push(&mut self, task: Task) {
        match self.first {
            None => self.first = Some(task),
            Some(_) => self.others.push(task),
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Task> {
        self.first.iter_mut().chain(&mut self.others)
    }

    fn at(&mut self, index: usize) -> Option<&mut Task> {
        match index.checked_sub(1) {
            None => self.first.as_mut(),
            Some(index) => self.others.get_mut(index),
        }
    }
}

/// The tokio task of a set: three words.
struct Drain {
    /// Taken at the end.
    set: Option<Arc<Set>>,
    work: Option<BoxFuture<'static, ()>>,
}

impl Future for Drain {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { set: drained, work } = &mut *self;
        let Some(set) = drained else { return Poll::Ready(()) };
        if work.is_none() {
            *work = set.next(None);
        }
        for _ in 0..TASKS_A_POLL {
            let outcome = ready!(catch_panic(|| {
                let polled = work.as_mut().map_or(Poll::Ready(()), |work| work.poll_unpin(context));
                if polled.is_ready() {
                    *work = None;
                }
                polled
            }));
            if outcome == Outcome::Panicked {
                // Its captures may panic, too.
                let _dropped = catch_panic(|| {
                    *work = None;
                    Poll::Ready(())
                });
            }
            *work = set.next(Some(outcome));
            if work.is_none() {
                *drained = None;
                return Poll::Ready(());
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Some(set) = self.set.take() {
            set.abort_all();
        }
    }
}
