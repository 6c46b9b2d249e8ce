//! What the page shows once a second: the same text for all who look.

use std::time::{Duration, SystemTime};

use postlude::{
    NameMetrics, OutcomeKind, SetId, TaskId, TaskInfo, TaskMetrics, TaskName, TaskRegistry, TaskReport, TaskState,
};
use serde::Serialize;

use crate::{
    findings::{Finding, Findings, NameFacts},
    health::Problem,
    profile::{LongPoll, long_polls},
    recent::{Counts, Rates, Recent, Window},
    routes::Config,
};

/// How many names a snapshot lists. `GET /names.json` has the others.
pub(crate) const MAX_NAMES: usize = 100;
/// The windows of the overview, in minutes.
const WINDOWS: [u64; 3] = [5, 15, 60];
/// The latest failures that are searched for the last error of each name.
const MAX_ERRORS: usize = 200;
/// The longest error in a snapshot, in characters. `GET /tasks/{id}` has all of it.
const MAX_ERROR_CHARS: usize = 300;
/// A task that has been running for this long may hang.
pub(crate) const RUNS_FOR_LONG: Duration = Duration::from_secs(10);
/// How many of them are looked at, and how many tasks behind them are counted.
const MAX_LONG_RUNNING: usize = 100;
const MAX_BEHIND: usize = 1_000;

/// The state of a registry at one moment, with what happened lately.
#[derive(Serialize)]
pub(crate) struct Snapshot {
    instance: &'static str,
    /// Counts the snapshots of this process.
    number: u64,
    /// Seconds since 1970.
    at: f64,
    /// How long this process has been watched, in seconds.
    watched_for: f64,
    /// About when the next snapshot follows, in seconds: it is late if looks at the registry take long.
    next_in: f64,
    /// How many look at the page.
    viewers: usize,
    /// Whether the registry profiles its tasks, so that it is known who blocks the runtime.
    is_profiled: bool,
    #[serde(flatten)]
    config: Config,
    health: Health,
    findings: Vec<Finding>,
    /// How many there are in all: of one kind, the worst are listed.
    finding_count: usize,
    totals: Totals,
    rates: Rates,
    windows: Vec<Window>,
    names: Vec<NameRow>,
    /// How many names there are in all.
    name_count: usize,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Health {
    status: &'static str,
    /// In sentences.
    pub(crate) problems: Vec<String>,
    #[serde(skip)]
    causes: Vec<Problem>,
}

impl Health {
    pub(crate) fn new(causes: Vec<Problem>) -> Self {
        let status = if causes.is_empty() { "healthy" } else { "unhealthy" };
        Self { status, problems: causes.iter().map(Problem::sentence).collect(), causes }
    }
}

/// [`TaskMetrics`] without its names.
#[derive(Serialize)]
struct Totals {
    added: u64,
    pending: u64,
    running: u64,
    retrying: u64,
    completed: u64,
    failed: u64,
    panicked: u64,
    timed_out: u64,
    aborted: u64,
    discarded: u64,
    retries: u64,
    lost: u64,
    live: u64,
    capacity: Option<u64>,
    stuck: u64,
    held_sets: u64,
    open_sets: u64,
    shed: u64,
    hook_panics: u64,
    dead_letters: u64,
    dead_letter_capacity: u64,
    dead_letters_evicted: u64,
    oldest_pending: f64,
    oldest_running: f64,
    oldest_open: f64,
    runtime: postlude::RuntimeMetrics,
}

impl From<&TaskMetrics> for Totals {
    fn from(metrics: &TaskMetrics) -> Self {
        Self {
            added: metrics.added,
            pending: metrics.pending,
            running: metrics.running,
            retrying: metrics.retrying,
            completed: metrics.completed,
            failed: metrics.failed,
            panicked: metrics.panicked,
            timed_out: metrics.timed_out,
            aborted: metrics.aborted,
            discarded: metrics.discarded,
            retries: metrics.retries,
            lost: metrics.lost,
            live: metrics.live,
            capacity: metrics.capacity,
            stuck: metrics.stuck,
            held_sets: metrics.held_sets,
            open_sets: metrics.open_sets,
            shed: metrics.shed,
            hook_panics: metrics.hook_panics,
            dead_letters: metrics.dead_letters,
            dead_letter_capacity: metrics.dead_letter_capacity,
            dead_letters_evicted: metrics.dead_letters_evicted,
            oldest_pending: metrics.oldest_pending.as_secs_f64(),
            oldest_running: metrics.oldest_running.as_secs_f64(),
            oldest_open: metrics.oldest_open.as_secs_f64(),
            runtime: metrics.runtime,
        }
    }
}

/// One name.
#[derive(Clone, Serialize)]
pub(crate) struct NameRow {
    pub(crate) name: TaskName,
    /// Whether tasks of this name wait for a permit or for the rate.
    is_at_limit: bool,
    rates: Rates,
    /// The last five minutes; `null` if there are too many names.
    recent: Option<Window>,
    /// The last failure that the registry remembers.
    last_error: Option<LastError>,
    #[serde(flatten)]
    metrics: NameMetrics,
}

/// The last failure of a name.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LastError {
    pub(crate) id: TaskId,
    pub(crate) state: &'static str,
    pub(crate) error: String,
    /// Seconds.
    pub(crate) ended_ago: f64,
}

/// Everything from which a snapshot is made, looked at on a thread that may take its time.
pub(crate) struct Look {
    pub(crate) metrics: TaskMetrics,
    pub(crate) errors: Vec<(TaskName, LastError)>,
    at_limit: Vec<TaskName>,
    long_running: Vec<LongRunning>,
    long_polls: Vec<LongPoll>,
    is_profiled: bool,
}

/// The task of a name that has been running for the longest time, and what waits behind it.
#[derive(Clone, Debug)]
pub(crate) struct LongRunning {
    pub(crate) name: TaskName,
    pub(crate) id: TaskId,
    pub(crate) running_for: Duration,
    /// The names of the later tasks of its set, one for each task.
    pub(crate) holds_up: Vec<TaskName>,
}

impl Look {
    pub(crate) fn at(registry: &TaskRegistry) -> Self {
        let metrics = registry.metrics();
        let has_failed = metrics.failures() > 0;
        let can_start = !registry.is_full() && !registry.is_closed();
        let waits = metrics.by_name().iter().filter(|(_, metrics)| can_start && metrics.pending > 0 && !metrics.paused);
        let at_limit = waits.map(|(name, _)| *name).filter(|name| registry.may_start(*name) == 0).collect();
        let errors = if has_failed { last_errors(registry) } else { Vec::new() };
        let long_running = if metrics.oldest_running >= RUNS_FOR_LONG { long_running(registry) } else { Vec::new() };
        let long_polls = long_polls(registry);
        let is_profiled = registry.is_profiled();
        Self { metrics, errors, at_limit, long_running, long_polls, is_profiled }
    }
}

/// The tasks that run for long, one of each name. Looks at the oldest tasks of the registry, and at a bounded number of
/// them.
fn long_running(registry: &TaskRegistry) -> Vec<LongRunning> {
    let is_long = |task: &TaskInfo| task.running_for.is_some_and(|time| time >= RUNS_FOR_LONG);
    let mut found: Vec<(LongRunning, Option<SetId>)> = Vec::new();
    for task in registry.live_page(None, MAX_LONG_RUNNING, is_long).items {
        let running_for = task.running_for.unwrap_or_default();
        match found.iter_mut().find(|(one, _)| one.name == task.name) {
            Some((one, _)) if one.running_for >= running_for => {}
            Some((one, set)) => (one.id, one.running_for, *set) = (task.id, running_for, task.set),
            None => {
                let one = LongRunning { name: task.name, id: task.id, running_for, holds_up: Vec::new() };
                found.push((one, task.set));
            }
        }
    }
    if found.iter().any(|(_, set)| set.is_some()) {
        let is_behind = |task: &TaskInfo| {
            task.state == TaskState::Pending && task.set.is_some() && found.iter().any(|(_, set)| *set == task.set)
        };
        let behind = registry.live_page(None, MAX_BEHIND, is_behind).items;
        for (one, set) in &mut found {
            let is_behind = |task: &&TaskInfo| set.is_some() && task.set == *set;
            one.holds_up = behind.iter().filter(is_behind).map(|task| task.name).collect();
        }
    }
    found.into_iter().map(|(one, _)| one).collect()
}

/// The latest failure of each name, of the last ones.
fn last_errors(registry: &TaskRegistry) -> Vec<(TaskName, LastError)> {
    let mut errors: Vec<(TaskName, LastError)> = Vec::new();
    for report in registry.history_page(None, MAX_ERRORS, |report| report.outcome.is_failure()).items {
        if errors.iter().all(|(name, _)| *name != report.name) {
            errors.push((report.name, LastError::of(&report)));
        }
    }
    errors
}

impl LastError {
    fn of(report: &TaskReport) -> Self {
        let error = match report.outcome.kind() {
            OutcomeKind::TimedOut => report.outcome.to_string(),
            // Its `Display` is foreign code; serialising catches its panic.
            _ => error_text(report),
        };
        Self {
            id: report.id,
            state: report.outcome.label(),
            error: shorten(error),
            ended_ago: report.ended_ago.as_secs_f64(),
        }
    }
}

/// The message of an error with its sources, as it is serialised; empty without an error.
pub(crate) fn error_text(report: &TaskReport) -> String {
    let value = serde_json::to_value(&report.outcome).unwrap_or_default();
    value.get("error").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_ERROR_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What a snapshot says beside the look itself.
pub(crate) struct Surroundings {
    pub(crate) number: u64,
    pub(crate) now: Duration,
    pub(crate) next_in: Duration,
    pub(crate) viewers: usize,
    pub(crate) config: Config,
    pub(crate) health: Health,
}

impl Snapshot {
    pub(crate) fn new(look: &Look, recent: &Recent, around: Surroundings) -> Self {
        let Surroundings { number, now, next_in, viewers, config, health } = around;
        let metrics = &look.metrics;
        let counts = Counts::of(metrics);
        let mut names: Vec<_> = metrics.by_name().iter().map(|(name, m)| row(*name, m, look, recent, now)).collect();
        let facts: Vec<_> = names.iter().map(|row| row.facts(look, recent, now)).collect();
        let Findings { list, hidden } = Findings::of(metrics, &facts, &recent.all, now, &health.causes);
        let name_count = names.len();
        names.sort_by_key(|row| (std::cmp::Reverse(row.weight()), row.name));
        names.truncate(MAX_NAMES);
        Self {
            instance: TaskId::instance(),
            number,
            is_profiled: look.is_profiled,
            at: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64(),
            watched_for: now.as_secs_f64(),
            next_in: next_in.as_secs_f64(),
            viewers,
            config,
            health,
            finding_count: list.len() + hidden,
            findings: list,
            totals: metrics.into(),
            rates: recent.all.rates(now, &counts),
            windows: WINDOWS.iter().map(|minutes| recent.all.window(now, &counts, *minutes)).collect(),
            names,
            name_count,
        }
    }
}

/// One name of a look.
pub(crate) fn row(name: TaskName, metrics: &NameMetrics, look: &Look, recent: &Recent, now: Duration) -> NameRow {
    let counts = Counts::of(metrics);
    let series = recent.names.get(&name);
    let last_error = look.errors.iter().find(|(other, _)| *other == name).map(|(_, error)| error.clone());
    NameRow {
        name,
        is_at_limit: look.at_limit.contains(&name),
        rates: series.map(|series| series.rates(now, &counts)).unwrap_or_default(),
        recent: series.map(|series| series.window(now, &counts, 5)),
        last_error,
        metrics: metrics.clone(),
    }
}

impl NameRow {
    /// What it takes to be listed before others: to fail, then to be live, then to have run.
    fn weight(&self) -> (u64, u64, u64) {
        let (failed, ran) =
            self.recent.as_ref().map_or((0, 0), |window| (window.happened.failed, window.happened.started));
        (failed, self.metrics.pending + self.metrics.running, ran)
    }

    fn facts<'a>(&'a self, look: &'a Look, recent: &Recent, now: Duration) -> NameFacts<'a> {
        let series = recent.names.get(&self.name);
        NameFacts {
            name: self.name.as_str(),
            pending: self.metrics.pending,
            // A task between two attempts counts as running, and holds no permit.
            running: self.metrics.running.saturating_sub(self.metrics.retrying),
            is_at_limit: self.is_at_limit,
            is_paused: self.metrics.paused,
            window: self.recent.as_ref(),
            median_before: series.and_then(|series| series.median_before(now, 5, 20)),
            pending_before: series.and_then(|series| series.pending_at(now.saturating_sub(Duration::from_secs(300)))),
            last_error: self.last_error.as_ref(),
            longest: look.long_running.iter().find(|one| one.name == self.name),
            oldest_running: self.metrics.oldest_running,
            oldest_pending: self.metrics.oldest_pending,
            dead_letters_evicted: self.metrics.dead_letters_evicted,
            long_poll: look.long_polls.iter().filter(|one| one.name == self.name).max_by_key(|one| one.polling_for),
            discarded_by: self.metrics.discarded_by,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorten_cuts_between_characters() {
        assert_eq!(shorten("ü".repeat(300)), "ü".repeat(300));
        assert_eq!(shorten("ü".repeat(301)), "ü".repeat(300) + "…");
    }
}
