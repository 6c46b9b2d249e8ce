//! What is left to do when a task has ended, and who is told.

use std::{cell::RefCell, thread::LocalKey, time::Duration};

use tracing::Level;

use crate::{
    engine::shared::Shared,
    ledger::{dead_letters::Kept, finished::Finish, live::LiveTask},
    model::{Attempt, BoxError, DeadLetter, Identity, TaskId, TaskInfo, TaskReport},
    task::exhausted::Exhausted,
    telemetry::{
        EventRef,
        log::{Cause, log},
    },
    util::{
        clock::Timestamp,
        loom::atomic::Ordering,
        panic::{Panic, catch_panic, drop_catching},
    },
};

/// The registries whose foreign code a thread is in.
type Inside = LocalKey<RefCell<Vec<usize>>>;

impl Shared {
    /// Calls foreign code that may come back here on its own thread: `None` if this comes from within it.
    fn outermost<R>(&self, inside: &'static Inside, foreign: impl FnOnce() -> R) -> Option<Result<R, Panic>> {
        let own = std::ptr::from_ref(self).addr();
        let enter = |inside: &RefCell<Vec<usize>>| {
            let mut inside = inside.borrow_mut();
            let is_within = inside.contains(&own);
            if !is_within {
                inside.push(own);
            }
            is_within
        };
        // On a thread that is ending there is nothing to remember, both times.
        if inside.try_with(enter).unwrap_or(false) {
            return None;
        }
        let result = catch_panic(foreign);
        let _forgotten = inside.try_with(|inside| inside.borrow_mut().pop());
        Some(result)
    }

    /// What is left to do when the end of an accepted task has been counted. Never under a lock.
    pub(crate) fn settle(&self, mut ended: Finish) {
        self.ledger.give_back();
        let waker = ended.waker();
        self.tell(ended);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The same for a task that completed and has left nothing, if nobody [wants to hear](Self::wants_completed) of
    /// that.
    #[inline]
    pub(crate) fn settle_quietly(&self, idle: bool) {
        self.ledger.give_back();
        self.ledger.settled(idle);
    }

    /// Whether somebody wants to know of tasks that completed. Not to be asked under a lock: a subscriber of the
    /// user's may have a say in it.
    #[inline]
    pub(crate) fn wants_completed(&self) -> bool {
        self.telemetry.has_observers() || tracing::enabled!(target: "postlude", Level::DEBUG)
    }

    /// Tells what has become of a task: the log, a shutdown, the observers, the dead letters, and whoever waits.
    /// Nothing that the user brings into it, be it an error's `Display` or its `Drop`, gets further than this.
    pub(crate) fn tell(&self, mut ended: Finish) {
        let line = ended.live.identity.id.line;
        if ended.quiet {
            drop_catching(ended);
            let idle = self.ledger.books(line).is_idle();
            return self.ledger.settled(idle);
        }
        let report = ended.report();
        if let Err(panic) = catch_panic(|| log(&report)) {
            self.hook_panicked("the log", &panic);
        }
        let completed = report.outcome.is_completed();
        if !completed {
            self.progress.note(&ended);
        }
        self.announce(EventRef::Finished(&report));
        if !completed {
            self.bury(&report, ended.exhausted());
        }
        drop_catching((report, ended));
        self.ledger.told(line);
    }

    /// Tells of an attempt that has failed and will be followed by another.
    pub(crate) fn attempt_failed(&self, report: &TaskReport, next_in: Duration) {
        let logged = catch_panic(|| {
            tracing::warn!(
                target: "postlude",
                id = %report.id,
                name = report.name,
                location = %report.location,
                set = report.set.map(|set| set.0),
                attempt = report.attempt,
                ran_for = ?report.ran_for,
                ?next_in,
                error = %Cause(&report.outcome),
                "attempt failed, another will follow"
            );
        });
        if let Err(panic) = logged {
            self.hook_panicked("the log", &panic);
        }
        if self.telemetry.has_observers() {
            self.announce(EventRef::AttemptFailed(report));
        }
    }

    /// Calls a hook, unless this comes from within one: a hook that spawns at a registry that refuses would be told of
    /// that for ever.
    pub(crate) fn call(&self, whose: &'static str, hook: impl FnOnce()) {
        thread_local! {
            static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }

        if let Some(Err(panic)) = self.outermost(&INSIDE, hook) {
            self.hook_panicked(whose, &panic);
        }
    }

    /// Asks the rule of the user's whether a task may come in. One that panics is counted, and taken for a yes. What a
    /// rule adds itself is not asked about: it might add one for each that it adds.
    pub(crate) fn ask_rule(&self, task: impl FnOnce() -> TaskInfo) -> Result<(), BoxError> {
        thread_local! {
            static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }

        let Some(rule) = &self.rule else { return Ok(()) };
        let task = task();
        match self.outermost(&INSIDE, || rule(&task)) {
            Some(Ok(answer)) => answer,
            Some(Err(panic)) => {
                self.hook_panicked("the rule of `admit`", &panic);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Asks a condition of the user's. One that panics is counted, and taken for a yes: nothing is dropped
    /// that nobody asked to drop.
    pub(crate) fn ask(&self, whose: &'static str, condition: impl FnOnce() -> bool) -> bool {
        catch_panic(condition).unwrap_or_else(|panic| {
            self.hook_panicked(whose, &panic);
            true
        })
    }

    pub(crate) fn hook_panicked(&self, whose: &'static str, panic: &Panic) {
        // Relaxed: a statistic.
        self.hook_panics.fetch_add(1, Ordering::Relaxed);
        let _even_the_log = catch_panic(|| {
            tracing::error!(target: "postlude", error = %panic, "{whose} panicked; it was caught, and the task goes its way");
        });
    }

    pub(crate) fn warn_if_crowded(&self, line: u64) {
        if let Some(live) = self.ledger.crowd(line) {
            tracing::warn!(
                target: "postlude",
                live,
                "many tasks are live; if they come faster than they end, set `capacity` or `max_concurrent` on the registry's builder"
            );
        }
    }
}

impl Shared {
    /// To be called when a task was accepted, or refused and counted. Never under a lock.
    pub(crate) fn added(&self, identity: Identity) {
        if self.telemetry.has_observers() {
            self.announce(EventRef::Added(&LiveTask::new(identity).info(identity.added)));
        }
    }

    /// To be called when an attempt of a task was started, before its work is polled. Never under a lock.
    pub(crate) fn started(&self, id: TaskId) {
        if self.telemetry.has_observers() {
            let now = Timestamp::now();
            if let Some(task) = self.with_live(id, |live| live.info(now)) {
                self.announce(EventRef::Started(&task));
            }
        }
    }

    /// Tells everybody.
    #[cold]
    pub(crate) fn announce(&self, news: EventRef<'_>) {
        if let Some(buffer) = self.telemetry.buffer() {
            buffer.push(news);
        }
        for observer in &self.telemetry.observers {
            self.call("an observer or failure hook", || match news {
                EventRef::Added(task) => observer.added(task),
                EventRef::Started(task) => observer.started(task),
                EventRef::AttemptFailed(report) => observer.attempt_failed(report),
                EventRef::Finished(report) => observer.finished(report),
            });
        }
    }
}

impl Shared {
    /// Keeps the letter of a task that did not get done, and tells the hook. Never under a lock.
    pub(crate) fn bury(&self, report: &TaskReport, exhausted: Option<Box<Exhausted>>) {
        if !self.dead_letters.are_kept() || !report.outcome.is_dead() {
            // Aborted after its last attempt, and before that was counted.
            drop_catching(exhausted);
            return;
        }
        let (failed, source) = exhausted.map(|exhausted| (exhausted.failed, exhausted.source)).unzip();
        let mut attempts = failed.unwrap_or_default().into_vec();
        attempts.push(Attempt::of(report));
        let letter = DeadLetter {
            id: report.id,
            name: report.name,
            location: report.location,
            set: report.set,
            replay_of: report.replay_of,
            attempts,
            is_replayable: source.is_some(),
        };
        let copy = Kept { number: 0, letter: letter.clone(), source: None };
        self.dead_letters.add(Kept { number: 0, letter, source });
        if let Some(hook) = &self.dead_letters.hook {
            self.call("the hook for dead letters", || hook(&copy.letter));
        }
    }
}
