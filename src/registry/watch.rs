//! Logs tasks that run for long, and sets that are open for long.

use std::{
    fmt, mem,
    sync::{Arc, Weak},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::task::yield_now;

use crate::{
    engine::shared::{Shared, TaskRegistry},
    ledger::{Walk, live::LiveTask},
    model::{BuildError, TaskId, TaskInfo},
    registry::waiting::{Waited, WaitedSet},
    util::clock::Timestamp,
};

/// The most lines that one look writes of a kind.
const NAMED: usize = 100;

/// How often it looks: at most, and at least.
const PERIOD: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];

/// From which ages on the log warns.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WatchLimits {
    pub(crate) running: Option<Duration>,
    pub(crate) open: Option<Duration>,
}

impl WatchLimits {
    /// # Errors
    /// If an age is zero.
    pub(crate) fn check(self) -> Result<(), BuildError> {
        for (name, age) in [("warn_running_after", self.running), ("warn_open_after", self.open)] {
            if age.is_some_and(|age| age.is_zero()) {
                return Err(BuildError::ZeroLimit { name });
            }
        }
        Ok(())
    }

    /// The time between two looks; `None` if nothing is watched.
    fn period(self) -> Option<Duration> {
        let shortest = self.running.into_iter().chain(self.open).min()?;
        let [least, most] = PERIOD;
        Some((shortest / 2).clamp(least, most))
    }
}

/// A task that runs for long, or a set that is open for long.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Old {
    Task(TaskId, u32),
    Set(u64),
}

/// Starts to watch, if there is something to watch.
pub(crate) fn start(registry: &TaskRegistry, limits: WatchLimits) {
    if let Some(period) = limits.period() {
        let shared = Arc::downgrade(&registry.shared);
        registry.shared.spawn(watch(shared, limits, period));
    }
}

async fn watch(shared: Weak<Shared>, limits: WatchLimits, period: Duration) {
    let mut watch = Watch { limits, next: FxHashMap::default() };
    while let Some(shared) = Shared::after(&shared, period).await {
        watch.look(&TaskRegistry { shared }).await;
    }
}

/// Those that were logged, and at which age the next line is due.
struct Watch {
    limits: WatchLimits,
    next: FxHashMap<Old, Duration>,
}

impl Watch {
    /// Looks at everything that is live, a few tasks at a time, and logs what is due.
    async fn look(&mut self, registry: &TaskRegistry) {
        let mut found = Found { limits: self.limits, before: mem::take(&mut self.next), ..Found::default() };
        let (mut sets, mut walk) = (Vec::new(), Walk::default());
        let (now, paused) = (Timestamp::now(), registry.shared.admission.paused_names());
        while registry.shared.ledger.step(&mut walk, |task| found.task(task, now), &mut sets) > 0 {
            for set in sets.drain(..) {
                if let (_, Some(open)) = set.oldest(&paused) {
                    found.set(set.number(), now.since(open.since));
                }
                set.dequeued(|task| found.task(task, now));
            }
            yield_now().await;
        }
        self.next = found.next;
        registry.log_old("a task has been running for long", &found.tasks, |task| Some(Waited::Task(task.clone())));
        registry.log_old("a set has been open for long", &found.sets, |number| {
            let set = registry.shared.ledger.set(*number)?;
            Some(Waited::Set(WaitedSet::of(&set, now, &paused)?))
        });
    }
}

/// What one look has found.
#[derive(Default)]
struct Found {
    limits: WatchLimits,
    before: FxHashMap<Old, Duration>,
    next: FxHashMap<Old, Duration>,
    tasks: Lines<TaskInfo>,
    sets: Lines<u64>,
}

/// The lines that are due, and how many more there are.
struct Lines<T> {
    named: Vec<(Duration, T)>,
    more: usize,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self { named: Vec::new(), more: 0 }
    }
}

impl<T> Lines<T> {
    fn push(&mut self, age: Duration, line: impl FnOnce() -> T) {
        if self.named.len() < NAMED {
            self.named.push((age, line()));
        } else {
            self.more += 1;
        }
    }
}

impl Found {
    fn task(&mut self, task: &LiveTask, now: Timestamp) {
        let Some((limit, since)) = self.limits.running.zip(task.running_since()) else { return };
        let age = now.since(since);
        if self.is_due(Old::Task(task.identity.id, task.attempt()), age, limit) {
            self.tasks.push(age, || task.info(now));
        }
    }

    fn set(&mut self, number: u64, age: Duration) {
        if self.limits.open.is_some_and(|limit| self.is_due(Old::Set(number), age, limit)) {
            self.sets.push(age, || number);
        }
    }

    /// Whether a line is due: once, and at each doubling of the age.
    fn is_due(&mut self, old: Old, age: Duration, limit: Duration) -> bool {
        if age < limit {
            return false;
        }
        let due = self.before.get(&old).copied().unwrap_or(limit);
        let is_due = age >= due;
        self.next.insert(old, if is_due { age.saturating_mul(2) } else { due });
        is_due
    }
}

impl TaskRegistry {
    fn log_old<T>(&self, message: &'static str, lines: &Lines<T>, what: impl Fn(&T) -> Option<Waited>) {
        for (age, line) in &lines.named {
            let Some(waited) = what(line) else { continue };
            let (id, name) = match &waited {
                Waited::Task(task) => (Some(task.id), Some(task.name)),
                Waited::Set(..) => (None, None),
            };
            self.shared.telemetry.log(|| {
                tracing::warn!(
                    target: "postlude",
                    id = id.map(tracing::field::display),
                    name = name.as_ref().map(|name| name.as_str()),
                    ?age,
                    "{message}: {}",
                    Sentence(&waited)
                );
            });
        }
        if lines.more > 0 {
            let more = lines.more;
            self.shared
                .telemetry
                .log(|| tracing::warn!(target: "postlude", more, "{message}: more than the log names"));
        }
    }
}

/// What is old, for a line that already has its age.
struct Sentence<'a>(&'a Waited);

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Waited::Task(task) => write!(f, "`{}` ({}), attempt {}", task.name, task.location, task.attempt),
            Waited::Set(..) => self.0.fmt(f),
        }
    }
}
