//! Measures the polls and the closures of a registry's tasks: sums by name, and who is inside a poll.

use std::{
    io,
    sync::{Arc, OnceLock},
    thread::{self, Thread},
    time::Duration,
};

use rustc_hash::FxHashMap;

use crate::{
    model::{AllocationProbe, ByName, Identity, NameProfile, Profile, SEATS, TaskName},
    telemetry::{
        figures::{TaskFigures, Wait},
        hook_panics::HookPanics,
        log, watchdog,
    },
    util::{
        clock::{nanos, real_nanos},
        cpu_time,
        loom::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, Ordering},
        },
        panic::catch_panic,
    },
};

/// For how many names a lock is held at a time, when the sums are read.
const NAMES_PER_LOOK: usize = 64;

/// What a registry that profiles its tasks shares.
///
/// The sums are split into stripes, each with a lock of its own, which is held once at the begin of a poll and once at
/// its end. A task belongs to one stripe, as it belongs to one shard of the ledger. No foreign code runs under the
/// lock.
pub(crate) struct Profiler {
    /// In nanoseconds.
    slow_poll: u64,
    probe: Option<Arc<AllocationProbe>>,
    stripes: Box<[Stripe]>,
    hook_panics: Arc<HookPanics>,
    /// Whether the watchdog waits for a poll to begin.
    is_watchdog_asleep: AtomicBool,
    watchdog: OnceLock<Thread>,
}

/// Aligned as a shard of the ledger is.
#[repr(align(128))]
#[derive(Default)]
struct Stripe {
    state: Mutex<StripeState>,
}

#[derive(Default)]
struct StripeState {
    names: ByName<NameProfile>,
    /// The polls that have not returned: no more than there are workers.
    polling: Vec<Polling>,
    /// The polls that have begun.
    begun: u64,
}

/// A poll that has not returned.
struct Polling {
    figures: Arc<TaskFigures>,
    since: u64,
    /// How long it takes until the watchdog logs it next, in nanoseconds.
    due: u64,
    /// Whether the watchdog has found it, and has counted it as slow.
    is_found: bool,
}

/// The begin of a poll or a call.
pub(crate) struct Begun {
    since: u64,
    allocated: Option<u64>,
}

/// What one look of the watchdog has found.
pub(crate) struct Look {
    /// The polls that have begun so far.
    pub(crate) begun: u64,
    /// Whether a task is inside a poll.
    pub(crate) is_polling: bool,
    /// The time until the next look, in nanoseconds: no poll is due before.
    pub(crate) next: u64,
}

impl Profiler {
    /// A profiler with its watchdog.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub(crate) fn start(profile: &Profile, hook_panics: &Arc<HookPanics>) -> io::Result<Arc<Self>> {
        let profiler = Arc::new(Self::new(profile, hook_panics));
        let watchdog = watchdog::start(Arc::downgrade(&profiler))?;
        profiler.watchdog.get_or_init(|| watchdog.thread().clone());
        Ok(profiler)
    }

    fn new(profile: &Profile, hook_panics: &Arc<HookPanics>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let count = (2 * cores).next_power_of_two().min(SEATS);
        Self {
            slow_poll: nanos(profile.slow_poll),
            probe: profile.allocations.clone(),
            stripes: (0..count).map(|_| Stripe::default()).collect(),
            hook_panics: Arc::clone(hook_panics),
            is_watchdog_asleep: AtomicBool::new(false),
            watchdog: OnceLock::new(),
        }
    }

    /// The figures of a task that starts its first attempt.
    pub(crate) fn figures(&self, identity: Identity, is_closure: bool) -> Arc<TaskFigures> {
        Arc::new(TaskFigures::new(identity, is_closure, self.probe.is_some()))
    }

    #[expect(clippy::indexing_slicing, reason = "masked by the number of stripes, a power of two")]
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits matter")]
    fn stripe(&self, identity: &Identity) -> MutexGuard<'_, StripeState> {
        self.stripes[identity.id.number as usize & (self.stripes.len() - 1)].state.lock()
    }

    /// A poll of the task begins.
    pub(crate) fn begin_poll(&self, figures: &Arc<TaskFigures>) -> Begun {
        let since = real_nanos();
        let wait = figures.begin_poll(since);
        let polling = Polling { figures: Arc::clone(figures), since, due: self.slow_poll, is_found: false };
        let mut stripe = self.stripe(&figures.identity);
        stripe.begun += 1;
        stripe.polling.push(polling);
        stripe.add_wait(figures.identity.name, wait);
        drop(stripe);
        // Relaxed: the lock of the stripe orders it. A watchdog that has not seen this poll under the lock has set the
        // flag before.
        if self.is_watchdog_asleep.load(Ordering::Relaxed) {
            self.wake_watchdog();
        }
        // Last, so that what is allocated above is not the task's.
        Begun { since, allocated: self.allocated() }
    }

    /// A poll of the task has returned, or has panicked. `waits`: it has returned `Pending`.
    pub(crate) fn end_poll(&self, figures: &Arc<TaskFigures>, begun: &Begun, waits: bool) {
        let took = real_nanos().saturating_sub(begun.since);
        let allocated = self.allocated_since(begun);
        figures.end_poll(begun.since, took, allocated.unwrap_or(0), waits);
        let is_slow = took >= self.slow_poll;
        let mut stripe = self.stripe(&figures.identity);
        let ended = stripe.polling.iter().position(|polling| Arc::ptr_eq(&polling.figures, figures));
        let ended = ended.map(|index| stripe.polling.swap_remove(index));
        let is_counted = ended.as_ref().is_some_and(|polling| polling.is_found);
        let sums = stripe.names.of(figures.identity.name);
        sums.polls += 1;
        sums.poll_times.record(took);
        let time = Duration::from_nanos(took);
        sums.longest_poll = sums.longest_poll.max(time);
        sums.add_busy(time, allocated);
        if is_slow && !is_counted {
            sums.slow_polls += 1;
        }
        drop(stripe);
        drop(ended);
        if is_slow {
            if !is_counted {
                figures.count_slow_poll();
            }
            self.log_slow_poll(&figures.identity, time);
        }
    }

    /// Work that was waiting is dropped.
    pub(crate) fn end_wait(&self, figures: &TaskFigures) {
        if figures.is_waiting() {
            let wait = figures.end_wait(real_nanos());
            self.stripe(&figures.identity).add_wait(figures.identity.name, wait);
        }
    }

    /// Runs a closure on its thread.
    pub(crate) fn call<R>(&self, figures: &TaskFigures, call: impl FnOnce() -> R) -> R {
        let allocated = self.allocated();
        let begun = Begun { since: real_nanos(), allocated };
        figures.begin(begun.since);
        let cpu = cpu_time::of_thread();
        let result = call();
        let cpu = cpu_time::of_thread().saturating_sub(cpu);
        let took = real_nanos().saturating_sub(begun.since);
        let allocated = self.allocated_since(&begun);
        figures.end(begun.since, took, allocated.unwrap_or(0));
        figures.add_cpu(nanos(cpu));
        let mut stripe = self.stripe(&figures.identity);
        let sums = stripe.names.of(figures.identity.name);
        sums.add_busy(Duration::from_nanos(took), allocated);
        sums.add_cpu(cpu_time::IS_KNOWN.then_some(cpu));
        result
    }

    /// What this thread has allocated so far; `None` without a probe, or if it panics.
    fn allocated(&self) -> Option<u64> {
        let probe = self.probe.as_ref()?;
        match catch_panic(|| probe()) {
            Ok(bytes) => Some(bytes),
            Err(panic) => {
                self.hook_panics.count("the probe of `allocations`", None, &panic);
                None
            }
        }
    }

    fn allocated_since(&self, begun: &Begun) -> Option<u64> {
        let before = begun.allocated?;
        Some(self.allocated()?.saturating_sub(before))
    }

    /// The sums of each name.
    pub(crate) fn by_name(&self) -> FxHashMap<TaskName, NameProfile> {
        let mut names: FxHashMap<TaskName, NameProfile> = FxHashMap::default();
        for stripe in &self.stripes {
            for first in (0..).step_by(NAMES_PER_LOOK) {
                let state = stripe.state.lock();
                let few = state.names.chunk(first, NAMES_PER_LOOK);
                for (name, sums) in few {
                    names.entry(*name).or_default().absorb(sums);
                }
                if few.len() < NAMES_PER_LOOK {
                    break;
                }
            }
        }
        names
    }

    /// Looks for polls that should have returned. Logs those for which a line is due: once, and at each doubling.
    pub(crate) fn look(&self) -> Look {
        let mut look = Look { begun: 0, is_polling: false, next: self.slow_poll };
        let mut overdue = Vec::new();
        for stripe in &self.stripes {
            let mut state = stripe.state.lock();
            let StripeState { names, polling, begun } = &mut *state;
            look.begun += *begun;
            look.is_polling |= !polling.is_empty();
            let now = real_nanos();
            for polling in polling {
                let held = now.saturating_sub(polling.since);
                if held >= polling.due {
                    overdue.push((polling.figures.identity, Duration::from_nanos(held)));
                    if !polling.is_found {
                        polling.is_found = true;
                        polling.figures.count_slow_poll();
                        names.of(polling.figures.identity.name).slow_polls += 1;
                    }
                    polling.due = held.saturating_mul(2);
                }
                look.next = look.next.min(polling.due - held);
            }
        }
        for (identity, polling_for) in overdue {
            self.log_polling(&identity, polling_for);
        }
        look
    }

    /// Notes whether the watchdog waits for a poll to begin.
    pub(crate) fn set_watchdog_asleep(&self, is_asleep: bool) {
        // Relaxed: see `begin_poll`.
        self.is_watchdog_asleep.store(is_asleep, Ordering::Relaxed);
    }

    #[cold]
    fn wake_watchdog(&self) {
        if self.is_watchdog_asleep.swap(false, Ordering::Relaxed) {
            self.watchdog.get().into_iter().for_each(Thread::unpark);
        }
    }

    #[cold]
    fn log_slow_poll(&self, identity: &Identity, took: Duration) {
        self.log(|| {
            tracing::warn!(
                target: "postlude",
                id = %identity.id,
                name = identity.name.as_str(),
                location = %identity.location,
                ?took,
                "slow poll: the task kept a worker of the runtime from all other tasks; run work that blocks or \
                 computes with `Task::blocking` or `Task::cpu`"
            );
        });
    }

    #[cold]
    fn log_polling(&self, identity: &Identity, polling_for: Duration) {
        self.log(|| {
            tracing::warn!(
                target: "postlude",
                id = %identity.id,
                name = identity.name.as_str(),
                location = %identity.location,
                ?polling_for,
                "task is inside a poll that has not returned: it keeps a worker of the runtime from all other tasks"
            );
        });
    }

    fn log(&self, event: impl FnOnce()) {
        if let Err(panic) = log::emit(event) {
            self.hook_panics.count("the log", None, &panic);
        }
    }
}

impl StripeState {
    fn add_wait(&mut self, name: TaskName, wait: Wait) {
        let Wait { idle, scheduled } = wait;
        if idle == 0 && scheduled.is_none() {
            return;
        }
        let sums = self.names.of(name);
        sums.add_wait(Duration::from_nanos(idle), Duration::from_nanos(scheduled.unwrap_or(0)));
        if let Some(scheduled) = scheduled {
            sums.schedule_delays.record(scheduled);
        }
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        // The watchdog finds that the profiler is gone, and ends.
        self.watchdog.get().into_iter().for_each(Thread::unpark);
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use std::panic::Location;

    use super::*;
    use crate::{model::TaskId, util::clock::Timestamp};

    fn identity(number: u64) -> Identity {
        let id = TaskId { number, index: 0 };
        Identity { id, name: "task".into(), location: Location::caller(), added: Timestamp::now() }
    }

    fn wait_until(is_reached: impl Fn() -> bool) {
        while !is_reached() {
            thread::yield_now();
        }
    }

    #[test]
    fn the_watchdog_sleeps_while_nothing_is_polled_and_ends_with_the_registry() {
        let profile = Profile::default().slow_poll(Duration::from_millis(1));
        let profiler = Arc::new(Profiler::new(&profile, &Arc::default()));
        let watchdog = watchdog::start(Arc::downgrade(&profiler)).unwrap();
        profiler.watchdog.get_or_init(|| watchdog.thread().clone());
        let is_asleep = || profiler.is_watchdog_asleep.load(Ordering::Relaxed);
        for round in 1..=3 {
            wait_until(is_asleep);
            let figures = profiler.figures(identity(round), false);
            let begun = profiler.begin_poll(&figures);
            assert!(!is_asleep());
            wait_until(|| figures.profile().slow_polls == 1);
            profiler.end_poll(&figures, &begun, false);
            assert_eq!(figures.profile().slow_polls, 1, "the watchdog has counted it");
            assert_eq!(profiler.by_name()[&TaskName::from("task")].slow_polls, round);
        }
        drop(profiler);
        watchdog.join().unwrap();
    }

    #[test]
    fn a_look_finds_a_poll_once_and_at_each_doubling() {
        let profile = Profile::default().slow_poll(Duration::from_secs(3600));
        let profiler = Profiler::new(&profile, &Arc::default());
        let figures = [1, 2].map(|number| profiler.figures(identity(number), false));
        let begun = figures.each_ref().map(|figures| profiler.begin_poll(figures));
        let due = |number| profiler.stripe(&identity(number)).polling[0].due;
        let young = profiler.look();
        assert!(young.is_polling && young.begun == 2 && young.next < profiler.slow_poll);
        // It began an hour ago.
        profiler.stripe(&identity(1)).polling[0].due = 1;
        profiler.look();
        let next = due(1);
        assert!(next > 1 && due(2) == profiler.slow_poll);
        profiler.stripe(&identity(1)).polling[0].since = 1;
        profiler.look();
        assert!(due(1) > 2 * next);
        assert_eq!(figures.each_ref().map(|figures| figures.profile().slow_polls), [1, 0]);
        assert_eq!(profiler.by_name()[&TaskName::from("task")].slow_polls, 1, "counted once");
        for (figures, begun) in figures.iter().zip(&begun) {
            profiler.end_poll(figures, begun, true);
        }
        assert!(!profiler.look().is_polling);
    }
}
