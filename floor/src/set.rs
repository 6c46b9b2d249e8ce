//! A set: tasks that run one after another, in one tokio task.
//!
//! A task costs two readings of the clock and two locks, at its add and at its end, because others may add to the set,
//! list it and take tasks out of it while it drains. The end of one task is the start of the next. The registry's
//! counts are updated for a few ends at a time; until then the set, which the registry lists, keeps them.

use std::{
    cell::Cell,
    collections::VecDeque,
    mem,
    ops::Deref,
    panic::Location,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    registry::{UNNAMED, catch_panic},
    state::{Counts, End, Label, Outcome, Shard},
};

/// How many tasks one poll may finish before the runtime gets to do something else.
const TASKS_A_POLL: usize = 64;
/// How many ends a set keeps before the registry counts them.
const ENDS: usize = 8;

/// Tasks that run one after another.
pub struct Set {
    shard: Arc<Shard>,
    /// How many [`Handle`]s there are.
    handles: AtomicUsize,
    state: Mutex<State>,
}

/// Adds to a set. The last handle to be dropped lets the tasks run.
pub struct Handle(Arc<Set>);

#[derive(Default)]
struct State {
    /// Given when the set is listed.
    number: u64,
    last_index: u64,
    tasks: Tasks,
    current: Option<Current>,
    /// Of tasks that have ended, and are not counted yet.
    ends: Vec<End>,
    is_listed: bool,
    may_drain: bool,
    is_draining: bool,
    /// How its tasks have ended so far.
    counts: Counts,
    /// Who waits until it has drained.
    waiting: Waiting,
}

/// Those that have not started. The first is kept in place: a set of one needs no room elsewhere.
#[derive(Default)]
struct Tasks {
    first: Option<Task>,
    others: VecDeque<Task>,
}

struct Task {
    index: u64,
    /// `None` for one that was aborted, which keeps its place: a task is found by its index.
    work: Option<Work>,
}

/// The task that runs.
struct Current {
    index: u64,
    label: Label,
    added: Instant,
    started: Instant,
    /// It can't be dropped then: if it is aborted, another drain goes on with the set.
    is_polled: bool,
    /// Present once the task had to wait.
    waker: Option<Waker>,
}

pin_project! {
    /// A task's work, which knows what tells it from others.
    struct Numbered<F: ?Sized> {
        index: u64,
        label: Label,
        added: Instant,
        #[pin]
        future: F,
    }
}

/// The registry's reference to a set, and who waits for it.
type Unlisted = (Option<Arc<Set>>, Waiting);

type Waiting = Vec<oneshot::Sender<()>>;

type Work = Pin<Box<Numbered<dyn Future<Output = ()> + Send>>>;

thread_local! {
    /// The set and the index of the task that this thread runs.
    static CURRENT: (Cell<Option<Arc<Set>>>, Cell<u64>) = const { (Cell::new(None), Cell::new(0)) };
}

impl Set {
    #[inline]
    pub(crate) fn new(shard: Arc<Shard>) -> Arc<Self> {
        Arc::new(Self { shard, handles: AtomicUsize::new(1), state: Mutex::default() })
    }

    /// The set of the task that the caller is a part of.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.with(|(current, _)| {
            let set = current.take();
            current.set(set.clone());
            set
        })
    }

    /// Adds a task without a name. Returns its index; `None` if the registry is closed.
    #[track_caller]
    pub fn add<F>(self: &Arc<Self>, work: F) -> Option<u64>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.add_named(UNNAMED, work)
    }

    /// The same with a name.
    #[track_caller]
    pub fn add_named<F>(self: &Arc<Self>, name: &'static str, work: F) -> Option<u64>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let label = Label { name, location: Location::caller() };
        self.add_boxed(Box::new(Numbered { index: 0, label, added: Instant::now(), future: work }))
    }

    fn add_boxed(self: &Arc<Self>, mut work: Box<Numbered<dyn Future<Output = ()> + Send>>) -> Option<u64> {
        let mut state = self.state.lock();
        if state.is_listed {
            self.shard.is_open().then_some(())?;
        } else {
            state.number = self.shard.insert_set(self)?;
            state.is_listed = true;
        }
        state.last_index += 1;
        let index = state.last_index;
        work.index = index;
        state.tasks.push(Task { index, work: Some(Box::into_pin(work)) });
        let drains = state.begin();
        drop(state);
        if drains {
            Arc::clone(self).spawn_drain();
        }
        Some(index)
    }

    /// Lets the tasks run; those that are added later, too.
    #[inline]
    pub(crate) fn drain(self: Arc<Self>) {
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

    /// Notes the end of the current task, if there is one, and takes the next. `None` if there is none, or if another
    /// drain has taken over.
    fn next(&self, ended: Option<(u64, Outcome)>) -> Option<Work> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some((index, outcome)) = ended {
            let current = state.current.take_if(|current| current.index == index)?;
            state.end(current, now, outcome);
            if state.ends.len() == ENDS {
                self.shard.count(&mut state.ends);
            }
        }
        while let Some(task) = state.tasks.pop() {
            let Task { index, work: Some(work) } = task else { continue };
            let (label, added) = (work.label, work.added);
            state.current = Some(Current { index, label, added, started: now, is_polled: true, waker: None });
            return Some(work);
        }
        state.is_draining = false;
        let ended = state.unlist(&self.shard);
        drop(state);
        drop(ended);
        None
    }

    /// How its tasks have ended, when none is left.
    async fn drained(&self) -> Counts {
        let receiver = {
            let mut state = self.state.lock();
            let (sender, receiver) = oneshot::channel();
            state.is_listed.then(|| state.waiting.push(sender)).map(|()| receiver)
        };
        if let Some(receiver) = receiver {
            // Dropped when it has drained.
            let _dropped = receiver.await;
        }
        self.state.lock().counts
    }

    /// Whether the task may be polled again: it was not aborted.
    fn resumes(&self, index: u64) -> bool {
        let mut state = self.state.lock();
        let current = state.current.as_mut().filter(|current| current.index == index);
        current.map(|current| current.is_polled = true).is_some()
    }

    /// Notes that the task waits. `false` if it was aborted meanwhile, and another drain has taken over.
    fn waits(&self, index: u64, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        let Some(current) = state.current.as_mut().filter(|current| current.index == index) else {
            return false;
        };
        current.is_polled = false;
        current.waker.get_or_insert_with(|| waker.clone());
        true
    }

    /// Aborts a task; `false` if it had ended.
    pub(crate) fn abort(self: &Arc<Self>, index: u64) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let number = state.number;
        let Some(current) = state.current.take_if(|current| current.index == index) else {
            let Some(task) = state.tasks.at(index) else { return false };
            let Some(work) = task.work.take() else { return false };
            let (Label { name, location }, added) = (work.label, work.added);
            let outcome = Outcome::Aborted;
            state.counts.count(outcome);
            state.ends.push(End { number, index, name, location, added, started: None, ended: now, outcome });
            self.shard.count(&mut state.ends);
            drop(state);
            drop(work);
            return true;
        };
        let (is_polled, waker) = (current.is_polled, current.waker.clone());
        state.end(current, now, Outcome::Aborted);
        let ended = if is_polled {
            state.is_draining = false;
            state.unlist_if_empty(&self.shard)
        } else {
            Unlisted::default()
        };
        let drains = state.begin();
        drop(state);
        drop(ended);
        match waker {
            _ if drains => Arc::clone(self).spawn_drain(),
            // Its drain drops the work, and goes on.
            Some(waker) if !is_polled => waker.wake(),
            _ => {}
        }
        true
    }

    pub(crate) fn list(&self) -> Vec<(u64, u64, &'static str)> {
        let state = self.state.lock();
        let current = state.current.iter().map(|current| (current.index, current.label.name));
        let tasks = state.tasks.first.iter().chain(&state.tasks.others);
        let tasks = tasks.flat_map(|task| task.work.as_ref().map(|work| (task.index, work.label.name)));
        current.chain(tasks).map(|(index, name)| (state.number, index, name)).collect()
    }

    /// Counts the ends that are not counted yet.
    pub(crate) fn count_ends(&self) {
        self.shard.count(&mut self.state.lock().ends);
    }

    /// The runtime has ended.
    fn abort_all(&self, index: Option<u64>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some(index) = index {
            // Otherwise another drain has taken over.
            let Some(current) = state.current.take_if(|current| current.index == index) else { return };
            state.end(current, now, Outcome::Aborted);
        }
        let mut left = Vec::new();
        while let Some(Task { index, work }) = state.tasks.pop() {
            let (number, outcome) = (state.number, Outcome::Aborted);
            if let Some(work) = &work {
                let (Label { name, location }, added) = (work.label, work.added);
                state.counts.count(outcome);
                state.ends.push(End { number, index, name, location, added, started: None, ended: now, outcome });
            }
            left.push(work);
        }
        state.is_draining = false;
        let ended = state.unlist(&self.shard);
        drop(state);
        drop((left, ended));
    }
}

impl Handle {
    pub(crate) const fn new(set: Arc<Set>) -> Self {
        Self(set)
    }

    /// Lets the tasks run, and waits until none is left. Returns how they have ended.
    pub async fn drained(self) -> Counts {
        let set = Arc::clone(&self.0);
        drop(self);
        set.drained().await
    }
}

impl Deref for Handle {
    type Target = Arc<Set>;

    fn deref(&self) -> &Arc<Set> {
        &self.0
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.handles.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Handle {
    #[inline]
    fn drop(&mut self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            Arc::clone(&self.0).drain();
        }
    }
}

impl State {
    /// Whether a drain is to begin.
    #[inline]
    fn begin(&mut self) -> bool {
        let begins = self.may_drain && !self.is_draining && !self.tasks.is_empty();
        self.is_draining |= begins;
        begins
    }

    /// Notes the end of the current task.
    #[inline]
    fn end(&mut self, current: Current, ended: Instant, outcome: Outcome) {
        let Current { index, label: Label { name, location }, added, started, .. } = current;
        if self.ends.capacity() == 0 {
            self.ends.reserve_exact(ENDS.min(self.tasks.others.len() + 1));
        }
        let started = Some(started);
        self.counts.count(outcome);
        self.ends.push(End { number: self.number, index, name, location, added, started, ended, outcome });
    }

    /// Counts the ends under the lock of the set, so that a task is in its list or in the counts. Returns what is to be
    /// dropped without the lock.
    #[inline]
    fn unlist(&mut self, shard: &Shard) -> Unlisted {
        self.is_listed = false;
        (shard.end_set(self.number, &mut self.ends), mem::take(&mut self.waiting))
    }

    fn unlist_if_empty(&mut self, shard: &Shard) -> Unlisted {
        if self.tasks.is_empty() { self.unlist(shard) } else { Unlisted::default() }
    }
}

impl Tasks {
    #[inline]
    fn push(&mut self, task: Task) {
        if self.is_empty() {
            self.first = Some(task);
        } else {
            self.others.push_back(task);
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<Task> {
        match self.first.take() {
            None => self.others.pop_front(),
            first => first,
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    fn at(&mut self, index: u64) -> Option<&mut Task> {
        if let Some(first) = self.first.as_mut().filter(|first| first.index == index) {
            return Some(first);
        }
        let before = index.checked_sub(self.others.front()?.index)?;
        self.others.get_mut(usize::try_from(before).ok()?)
    }
}

/// The tokio task of a set: three words.
struct Drain {
    /// Taken at the end.
    set: Option<Arc<Set>>,
    work: Option<Work>,
}

impl Drain {
    /// Polls the work in the context of its set, and drops it when it has returned.
    #[inline]
    fn poll_work(&mut self, index: u64, context: &mut Context<'_>) -> Poll<Outcome> {
        let Self { set, work } = self;
        let outer = enter(set, index);
        let polled = catch_panic(|| {
            let polled = work.as_mut().map_or(Poll::Ready(()), |work| work.as_mut().project().future.poll(context));
            if polled.is_ready() {
                *work = None;
            }
            polled
        });
        if polled == Poll::Ready(Outcome::Panicked) {
            // Its captures may panic, too.
            let _dropped = catch_panic(|| {
                *work = None;
                Poll::Ready(())
            });
        }
        enter(set, outer);
        polled
    }
}

/// Swaps the current set with that of the thread; returns the index that was there.
#[inline]
fn enter(set: &mut Option<Arc<Set>>, index: u64) -> u64 {
    CURRENT.with(|(current, current_index)| {
        current.swap(Cell::from_mut(set));
        current_index.replace(index)
    })
}

impl Future for Drain {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(set) = &this.set else { return Poll::Ready(()) };
        let resumed = this.work.as_ref().map(|work| work.index);
        if !resumed.is_some_and(|index| set.resumes(index)) {
            this.work = None;
            this.work = set.next(None);
        }
        for _ in 0..TASKS_A_POLL {
            let Some(index) = this.work.as_ref().map(|work| work.index) else {
                this.set = None;
                return Poll::Ready(());
            };
            let outcome = match this.poll_work(index, context) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending if this.set.as_ref().is_some_and(|set| set.waits(index, context.waker())) => {
                    return Poll::Pending;
                }
                Poll::Pending => {
                    this.set = None;
                    return Poll::Ready(());
                }
            };
            this.work = this.set.as_ref().and_then(|set| set.next(Some((index, outcome))));
            if this.work.is_none() {
                this.set = None;
                return Poll::Ready(());
            }
        }
        // The next task is not being polled meanwhile.
        let index = this.work.as_ref().map_or(0, |work| work.index);
        if !this.set.as_ref().is_some_and(|set| set.waits(index, context.waker())) {
            this.set = None;
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Some(set) = self.set.take() {
            let index = self.work.as_ref().map(|work| work.index);
            self.work = None;
            set.abort_all(index);
        }
    }
}
