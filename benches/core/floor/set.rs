//! A set: tasks that run one after another, in one tokio task.
//!
//! A task costs two readings of the clock and two locks: at its add and at its end, for others may add to the set, list
//! it and take tasks out of it while it drains. The end of one is the start of the next. The books are brought up to
//! date once, when the set has drained; until then the set, which is listed, knows what became of its tasks.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    books::{Outcome, Shard},
    guarded,
};

/// How many tasks one poll may finish before the runtime gets to do something else.
const TASKS_A_POLL: usize = 64;

pub(crate) struct Set {
    shard: Arc<Shard>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Once it is listed.
    number: u64,
    tasks: Tasks,
    /// The task at hand.
    place: usize,
    /// When the drain did.
    began: Option<Instant>,
    is_launched: bool,
    is_draining: bool,
}

/// The first is kept in place: a set of one needs no room elsewhere.
#[derive(Default)]
struct Tasks {
    first: Option<Task>,
    others: Vec<Task>,
}

struct Task {
    /// Until it has started.
    work: Option<BoxFuture<'static, ()>>,
    added: Instant,
    end: Option<(Outcome, Instant)>,
}

impl Set {
    pub(super) fn new(shard: Arc<Shard>) -> Arc<Self> {
        Arc::new(Self { shard, state: Mutex::default() })
    }

    pub(crate) fn add<F>(self: &Arc<Self>, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = Task { work: Some(work.boxed()), added: Instant::now(), end: None };
        let mut state = self.state.lock();
        if state.tasks.first.is_none() {
            state.number = self.shard.list_set(Arc::clone(self));
        }
        state.tasks.push(task);
        let drains = state.begin();
        drop(state);
        if drains {
            Arc::clone(self).drain();
        }
    }

    /// Lets the tasks run; those that are added later, too.
    pub(crate) fn launch(self: Arc<Self>) {
        let mut state = self.state.lock();
        state.is_launched = true;
        let drains = state.begin();
        drop(state);
        if drains {
            self.drain();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a peer of what spawns for others")]
    fn drain(self: Arc<Self>) {
        tokio::spawn(Drain { set: Some(self), work: None });
    }

    /// Notes the end of the task at hand, if there is one, and takes the next.
    fn turn(&self, ended: Option<Outcome>) -> Option<BoxFuture<'static, ()>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let place = state.place;
        match (ended, state.tasks.at(place)) {
            (Some(outcome), Some(task)) => {
                task.end = Some((outcome, now));
                state.place += 1;
            }
            _ => state.began = Some(now),
        }
        let place = state.place;
        if let Some(task) = state.tasks.at(place) {
            return task.work.take();
        }
        self.rest(&mut state);
        None
    }

    /// Counts what became of the tasks; nothing more to do until the next add. Under the lock of the set, so that a
    /// task is in its list or in the books.
    fn rest(&self, state: &mut State) {
        self.shard.end_set(state.number, |books| {
            let mut started = state.began.unwrap_or_else(Instant::now);
            for task in state.tasks.first.iter().chain(&state.tasks.others) {
                let (outcome, ended) = task.end.unwrap_or((Outcome::Aborted, started));
                books.count(outcome, started - task.added, ended - started);
                started = ended;
            }
        });
        state.tasks.first = None;
        state.tasks.others.clear();
        state.place = 0;
        state.is_draining = false;
    }

    /// The runtime has ended.
    fn give_up(&self) {
        let mut state = self.state.lock();
        let left: Vec<_> = state.tasks.all().filter_map(|task| task.work.take()).collect();
        self.rest(&mut state);
        drop(state);
        drop(left);
    }
}

impl State {
    /// Whether a drain is to begin.
    fn begin(&mut self) -> bool {
        let begins = self.is_launched && !self.is_draining && self.tasks.first.is_some();
        self.is_draining |= begins;
        begins
    }
}

impl Tasks {
    fn push(&mut self, task: Task) {
        match self.first {
            None => self.first = Some(task),
            Some(_) => self.others.push(task),
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Task> {
        self.first.iter_mut().chain(&mut self.others)
    }

    fn at(&mut self, place: usize) -> Option<&mut Task> {
        match place.checked_sub(1) {
            None => self.first.as_mut(),
            Some(place) => self.others.get_mut(place),
        }
    }
}

/// The tokio task of a set: three words.
struct Drain {
    /// Until the end.
    set: Option<Arc<Set>>,
    work: Option<BoxFuture<'static, ()>>,
}

impl Future for Drain {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { set: drained, work } = &mut *self;
        let Some(set) = drained else { return Poll::Ready(()) };
        if work.is_none() {
            *work = set.turn(None);
        }
        for _ in 0..TASKS_A_POLL {
            let outcome = ready!(guarded(|| {
                let polled = work.as_mut().map_or(Poll::Ready(()), |work| work.poll_unpin(context));
                if polled.is_ready() {
                    *work = None;
                }
                polled
            }));
            if outcome == Outcome::Panicked {
                // What it leaves may panic, too.
                let _dropped = guarded(|| {
                    *work = None;
                    Poll::Ready(())
                });
            }
            *work = set.turn(Some(outcome));
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
            set.give_up();
        }
    }
}
