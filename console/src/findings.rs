//! What is wrong, in sentences: found by the figures of each name, the worst first.

use std::time::Duration;

use postlude::{DiscardCounts, Outcome, TaskId, TaskMetrics};
use serde::Serialize;

use crate::{
    health::{Cause, Problem},
    profile::LongPoll,
    recent::{Series, Window},
    snapshot::{LastError, LongRunning, RUNS_FOR_LONG},
};

/// The least number of tasks that make a statement about a name.
const ENOUGH: u64 = 5;
/// The share of failures from which a name is said to fail.
const FAILS: f64 = 0.05;
/// A name whose slowest 5 % take longer is slow, if most other names are ten times faster.
const SLOW: Duration = Duration::from_secs(1);
const TIMES_SLOWER: f32 = 10.0;
/// A task that waits for longer is worth a line.
const LONG_WAIT: Duration = Duration::from_secs(60);
/// A backlog that has doubled in five minutes, and is at least this large, grows.
const BACKLOG: u64 = 100;
/// Of one kind, this many names are told.
const MAX_OF_A_KIND: usize = 5;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// One word: `failing`, `blocks_runtime`, `blocking`, `hanging`, `at_limit`, `slow`, `paused`, `waiting`, `growing`,
    /// `lost`, `evicted`, `stuck`; and, if the health check tells it alone, `closing`, `full`, `long_running`, `open`.
    pub(crate) kind: &'static str,
    pub(crate) name: Option<String>,
    /// What it is, after the name.
    pub(crate) message: String,
    /// The task that it is about.
    pub(crate) task: Option<TaskId>,
    /// The text of the last error, which is foreign.
    pub(crate) error: Option<String>,
    /// Why the health check fails because of it; `None` if it does not.
    pub(crate) health: Option<String>,
}

/// All that is wrong.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) list: Vec<Finding>,
    /// How many are left out, because there are worse ones of their kind.
    pub(crate) hidden: usize,
}

/// The kind and the name of a finding.
type Told = (&'static str, Option<String>);

/// What is known of a name.
pub(crate) struct NameFacts<'a> {
    pub(crate) name: &'a str,
    pub(crate) pending: u64,
    pub(crate) running: u64,
    pub(crate) is_at_limit: bool,
    pub(crate) is_paused: bool,
    pub(crate) window: Option<&'a Window>,
    pub(crate) median_before: Option<Duration>,
    pub(crate) pending_before: Option<u64>,
    pub(crate) last_error: Option<&'a LastError>,
    pub(crate) longest: Option<&'a LongRunning>,
    pub(crate) oldest_running: Duration,
    pub(crate) oldest_pending: Duration,
    pub(crate) dead_letters_evicted: u64,
    pub(crate) long_poll: Option<&'a LongPoll>,
    pub(crate) discarded_by: DiscardCounts,
}

impl Findings {
    pub(crate) fn of(
        metrics: &TaskMetrics,
        names: &[NameFacts<'_>],
        all: &Series,
        now: Duration,
        problems: &[Problem],
    ) -> Self {
        let mut found = Self::default();
        found.add(names, blocks_runtime);
        found.add(names, failing);
        found.add(names, hanging);
        found.add(names, at_limit);
        let typical = typical_p95(names);
        found.add(names, |name| slow(name, typical));
        found.add(names, growing);
        found.add(names, paused);
        // Names that have no history are in the figures of all.
        let is_loss_told = found.add(names, lost);
        let has_to_wait = problems.iter().any(|problem| problem.cause == Cause::PendingAge);
        let waits = found.add_waiting(metrics, names, has_to_wait);
        found.list.extend(of_the_registry(metrics, names, all, now, is_loss_told));
        found.add_problems(problems, waits.as_ref());
        found
    }

    /// Adds the findings of one kind, the largest first, and few of them. Returns whether there are any.
    fn add<'a>(&mut self, names: &[NameFacts<'a>], find: impl Fn(&NameFacts<'a>) -> Option<(f64, Finding)>) -> bool {
        let mut found: Vec<_> = names.iter().filter_map(find).collect();
        found.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        self.hidden += found.len().saturating_sub(MAX_OF_A_KIND);
        found.truncate(MAX_OF_A_KIND);
        let has_any = !found.is_empty();
        self.list.extend(found.into_iter().map(|(_, finding)| finding));
        has_any
    }

    /// Adds the task that has waited for the longest time, unless the reason why it waits is a finding. Returns the kind
    /// and the name of the finding that tells of it.
    fn add_waiting(&mut self, metrics: &TaskMetrics, names: &[NameFacts<'_>], has_to: bool) -> Option<Told> {
        let age = metrics.oldest_pending;
        if age < LONG_WAIT && (!has_to || age.is_zero()) {
            return None;
        }
        let oldest = names.iter().find(|name| !name.is_paused && name.oldest_pending == age);
        let holds_it_up = |name: &NameFacts<'_>, oldest: &str| {
            name.longest.is_some_and(|longest| longest.holds_up.iter().any(|behind| *behind == oldest))
        };
        if let Some(oldest) = oldest {
            let holder = names.iter().find(|name| holds_it_up(name, oldest.name));
            let reasons = holder.map(|holder| ("blocking", holder.name)).into_iter().chain([("at_limit", oldest.name)]);
            for (kind, name) in reasons {
                if self.list.iter().any(|told| told.kind == kind && told.name.as_deref() == Some(name)) {
                    return Some((kind, Some(name.to_owned())));
                }
            }
        }
        let age = text(age.as_secs_f32());
        let finding = match oldest {
            Some(name) => {
                of("waiting", name, format!("has a task that has been waiting for {age}, the longest of all"))
            }
            None => of_none("waiting", format!("The oldest pending task has been waiting for {age}")),
        };
        let told = (finding.kind, finding.name.clone());
        self.list.push(finding);
        Some(told)
    }

    /// Notes why the health check fails, with the finding that is its reason. If there is none, it becomes one.
    fn add_problems(&mut self, problems: &[Problem], waits: Option<&Told>) {
        for problem in problems {
            let limit = problem.limit.as_ref().map(|limit| format!(": {limit}")).unwrap_or_default();
            let health = Some(format!("The health check fails{limit}"));
            let is_reason = |finding: &&mut Finding| match problem.cause {
                Cause::PendingAge => waits.is_some_and(|(kind, name)| (*kind, name) == (finding.kind, &finding.name)),
                Cause::RunningAge => matches!(finding.kind, "hanging" | "blocking"),
                Cause::Stuck => finding.kind == "stuck",
                Cause::FailureRate => finding.kind == "failing",
                Cause::Closing | Cause::Full | Cause::OpenAge => false,
            };
            if let Some(finding) = self.list.iter_mut().find(is_reason) {
                finding.health = match finding.health.take() {
                    Some(before) => problem.limit.as_ref().map(|limit| format!("{before}, and {limit}")),
                    None => health,
                };
                continue;
            }
            let kind = match problem.cause {
                Cause::Closing => "closing",
                Cause::Full => "full",
                Cause::PendingAge => "waiting",
                Cause::RunningAge => "long_running",
                Cause::OpenAge => "open",
                Cause::Stuck => "stuck",
                Cause::FailureRate => "failing",
            };
            let message = capitalised(&problem.text);
            self.list.push(Finding { health: Some("The health check fails".to_owned()), ..of_none(kind, message) });
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().collect::<String>() + characters.as_str()).unwrap_or_default()
}

fn of(kind: &'static str, name: &NameFacts<'_>, message: String) -> Finding {
    Finding { name: Some(name.name.to_owned()), ..of_none(kind, message) }
}

/// A finding that is about no name.
const fn of_none(kind: &'static str, message: String) -> Finding {
    Finding { kind, name: None, message, task: None, error: None, health: None }
}

fn failing(name: &NameFacts<'_>) -> Option<(f64, Finding)> {
    let happened = name.window?.happened;
    let (rate, failed) = (happened.failure_rate(), happened.failed);
    if failed == 0 || rate < FAILS {
        return None;
    }
    let ended = failed + happened.completed;
    let message = format!("fails: {failed} of {ended} tasks ({:.0} %) in the last 5 minutes", rate * 100.0);
    let error = name.last_error.map(|error| error.error.clone());
    Some((rate, Finding { error, ..of("failing", name, message) }))
}

/// A task that does not return from its poll: those behind it on its worker wait, and so may all others.
fn blocks_runtime(name: &NameFacts<'_>) -> Option<(f64, Finding)> {
    let LongPoll { id, polling_for, .. } = name.long_poll?;
    let time = polling_for.as_secs_f32();
    let message = format!("blocks the runtime: it has not returned from a poll for {}", text(time));
    Some((f64::from(time), Finding { task: Some(*id), ..of("blocks_runtime", name, message) }))
}

/// A name whose tasks did not run to their end. Those that failed are told by [`failing`].
fn lost(name: &NameFacts<'_>) -> Option<(f64, Finding)> {
    let happened = name.window?.happened;
    let count = happened.unfinished();
    if count == 0 {
        return None;
    }
    let tasks = if count == 1 { "task" } else { "tasks" };
    let aborted = happened.aborted.min(count);
    let mut message = format!("lost {count} {tasks} in the last 5 minutes");
    if aborted < count {
        let reasons =
            name.discarded_by.iter().filter(|(reason, count)| *count > 0 && Outcome::Discarded(*reason).is_loss());
        let reasons: Vec<_> =
            reasons.map(|(reason, count)| format!("{count} {}", reason.label().replace('_', " "))).collect();
        let (discarded, reasons) = (count - aborted, reasons.join(", "));
        message.push_str(&format!(": {discarded} discarded (since the start: {reasons})"));
        if aborted > 0 {
            message.push_str(&format!(", {aborted} aborted"));
        }
    } else {
        message.push_str(": aborted");
    }
    #[expect(clippy::cast_precision_loss, reason = "a rank")]
    Some((count as f64, of("lost", name, message)))
}

/// A task that runs for much longer than its name does usually. It blocks if other tasks wait behind it.
fn hanging(name: &NameFacts<'_>) -> Option<(f64, Finding)> {
    let usual = name.window.and_then(|window| window.run.p95);
    // More tasks than are looked at may run for long.
    let running_for = name.longest.map_or(name.oldest_running, |longest| longest.running_for);
    let time = running_for.as_secs_f32();
    if running_for < RUNS_FOR_LONG {
        return None;
    }
    if usual.is_some_and(|usual| time < usual * TIMES_SLOWER) {
        return None;
    }
    let usually = usual.map(|usual| format!(", 95 % of its runs take at most {}", text(usual))).unwrap_or_default();
    let (kind, behind) = match name.longest.map_or(0, |longest| longest.holds_up.len()) {
        0 => ("hanging", String::new()),
        1 => ("blocking", ", and 1 later task of its set waits for it".to_owned()),
        count => ("blocking", format!(", and {count} later tasks of its set wait for it")),
    };
    let message = format!("has been running for {}{usually}{behind}", text(time));
    Some((f64::from(time), Finding { task: name.longest.map(|longest| longest.id), ..of(kind, name, message) }))
}

fn at_limit(name: &NameFacts<'_>) -> Option<(f64, Finding)> {
    if !name.is_at_limit {
        return None;
    }
    let oldest = Some(name.oldest_pending).filter(|age| !age.is_zero());
    let oldest = oldest.map(|age| format!(", the oldest for {}", text(age.as_secs_f32()))).unwrap_or_default();
    let (running, pending) = (name.running, name.pending);
    let message = format!("is at its limit: {running} running, {pending} waiting for their turn{oldest}");
    #[expect(clippy::cast_precision_loss, reason = "a rank")]
    Some((pending as f64, of("at_limit", name, message)))
}

/// The p95 of the runs of the name in the middle.
fn typical_p95(names: &[NameFacts<'_>]) -> Option<f32> {
    let mut all: Vec<f32> = names.iter().filter_map(|name| name.window?.run.p95).collect();
    all.sort_by(f32::total_cmp);
    // Of an even number the faster one: with two names, a slow one is compared to the other.
    all.get(all.len().checked_sub(1)? / 2).copied()
}

fn slow(name: &NameFacts<'_>, typical: Option<f32>) -> Option<(f64, Finding)> {
    let window = name.window?;
    let (p50, p95) = (window.run.p50?, window.run.p95?);
    if window.happened.completed + window.happened.failed < ENOUGH {
        return None;
    }
    let before = name.median_before.map(|before| before.as_secs_f32()).filter(|before| p50 >= 2.0 * before);
    if let Some(before) = before.filter(|_| p50 >= 0.01) {
        let message = format!("is slower than before: the median run takes {}, before {}", text(p50), text(before));
        return Some((f64::from(p50 / before), of("slow", name, message)));
    }
    let typical = typical?;
    if p95 < SLOW.as_secs_f32() || p95 < typical * TIMES_SLOWER {
        return None;
    }
    let message = format!("is slow: 5 % of its runs take {} or longer, half of them {}", text(p95), text(p50));
    Some((f64::from(p95), of("slow", name, message)))
}

fn growing(name: &NameFacts<'_>) -> Option<(f64, Finding)> {
    let before = name.pending_before?;
    if name.is_paused || name.pending < BACKLOG.max(before.saturating_mul(2)) {
        return None;
    }
    let message = format!("has a backlog that grows: {} pending, {before} five minutes ago", name.pending);
    #[expect(clippy::cast_precision_loss, reason = "a rank")]
    Some((name.pending as f64, of("growing", name, message)))
}

fn paused(name: &NameFacts<'_>) -> Option<(f64, Finding)> {
    let message = format!("is paused: {} waiting until it is resumed", name.pending);
    #[expect(clippy::cast_precision_loss, reason = "a rank")]
    (name.is_paused && name.pending > 0).then(|| (name.pending as f64, of("paused", name, message)))
}

fn of_the_registry(
    metrics: &TaskMetrics,
    names: &[NameFacts<'_>],
    all: &Series,
    now: Duration,
    is_loss_told: bool,
) -> Vec<Finding> {
    let mut found = Vec::new();
    if metrics.stuck > 0 {
        let message = format!("{} tasks have ended while their work goes on: it can't be stopped", metrics.stuck);
        found.push(of_none("stuck", message));
    }
    let window = all.window(now, &crate::recent::Counts::of(metrics), 5);
    let lost = window.happened.unfinished();
    if lost > 0 && !is_loss_told {
        found.push(of_none("lost", format!("{lost} tasks were lost in the last 5 minutes: discarded or aborted")));
    }
    found.extend(evicted(metrics, names));
    found
}

/// Dead letters for which there was no room: they can't be replayed.
fn evicted(metrics: &TaskMetrics, names: &[NameFacts<'_>]) -> Option<Finding> {
    let (evicted, capacity) = (metrics.dead_letters_evicted, metrics.dead_letter_capacity);
    if evicted == 0 {
        return None;
    }
    let ending = format!("by newer ones since the start: {capacity} are kept at most, and only those can be replayed");
    let most = names.iter().max_by_key(|name| name.dead_letters_evicted).filter(|name| name.dead_letters_evicted > 0);
    Some(match most {
        Some(most) if most.dead_letters_evicted == evicted => {
            of("evicted", most, format!("has had {evicted} of its dead letters evicted {ending}"))
        }
        Some(most) => {
            let most_evicted = most.dead_letters_evicted;
            of(
                "evicted",
                most,
                format!(
                    "has had {most_evicted} of its dead letters, and others {}, evicted {ending}",
                    evicted - most_evicted
                ),
            )
        }
        None => of_none("evicted", format!("{evicted} dead letters were evicted {ending}")),
    })
}

/// A duration in two digits.
fn text(seconds: f32) -> String {
    if seconds < 60.0 {
        return format!("{:.1?}", Duration::try_from_secs_f32(seconds).unwrap_or_default());
    }
    format!("{:.1} min", seconds / 60.0)
}

#[cfg(test)]
mod tests {
    use postlude::TaskAges;

    use super::*;
    use crate::{
        health::{Condition, Limits},
        recent::Happened,
    };

    fn window(completed: u64, failed: u64, p50: f32, p95: f32) -> Window {
        let mut window = Series::default().window(Duration::ZERO, &crate::recent::Counts::default(), 5);
        window.happened = Happened { completed, failed, ..Happened::default() };
        (window.run.p50, window.run.p95) = (Some(p50), Some(p95));
        window
    }

    fn facts<'a>(name: &'a str, window: &'a Window) -> NameFacts<'a> {
        NameFacts {
            name,
            pending: 0,
            running: 1,
            is_at_limit: false,
            is_paused: false,
            window: Some(window),
            median_before: None,
            pending_before: None,
            last_error: None,
            longest: None,
            oldest_running: Duration::ZERO,
            oldest_pending: Duration::ZERO,
            dead_letters_evicted: 0,
            long_poll: None,
            discarded_by: DiscardCounts::default(),
        }
    }

    fn all(metrics: &TaskMetrics, names: &[NameFacts<'_>], problems: &[Problem]) -> Findings {
        Findings::of(metrics, names, &Series::default(), Duration::ZERO, problems)
    }

    fn found(names: &[NameFacts<'_>]) -> Vec<(&'static str, String)> {
        let all = all(&TaskMetrics::default(), names, &[]).list;
        all.into_iter().map(|finding| (finding.kind, finding.name.unwrap_or_default())).collect()
    }

    #[test]
    fn a_service_in_which_all_is_well_has_none() {
        let (fast, other) = (window(100, 1, 0.02, 0.05), window(100, 0, 0.2, 0.9));
        assert_eq!(found(&[facts("mail", &fast), facts("audit", &fast), facts("report", &other)]), []);
        assert_eq!(found(&[]), []);
    }

    #[test]
    fn a_paused_name_is_told_as_paused_alone() {
        let well = window(100, 0, 0.1, 0.1);
        let paused = NameFacts { is_paused: true, pending: 1_000, pending_before: Some(10), ..facts("mail", &well) };
        assert_eq!(found(&[paused]), [("paused", "mail".to_owned())]);
        let idle = NameFacts { is_paused: true, ..facts("mail", &well) };
        assert!(found(&[idle]).is_empty());
    }

    #[test]
    fn failing_slow_and_at_limit_are_told_with_their_names() {
        let (well, fails, slow) = (window(100, 0, 0.02, 0.05), window(2, 8, 0.02, 0.05), window(20, 0, 2.0, 4.0));
        let limited = NameFacts { is_at_limit: true, pending: 40, ..facts("limited", &well) };
        let names = [facts("well", &well), facts("fails", &fails), facts("slow", &slow), limited];
        let expected = [("failing", "fails"), ("at_limit", "limited"), ("slow", "slow")];
        assert_eq!(found(&names), expected.map(|(kind, name)| (kind, name.to_owned())));
    }

    #[test]
    fn a_name_that_takes_twice_as_long_as_before_is_slow_and_a_few_tasks_say_nothing() {
        let (now, few) = (window(50, 0, 0.2, 0.3), window(4, 0, 5.0, 9.0));
        let slower = NameFacts { median_before: Some(Duration::from_millis(90)), ..facts("slower", &now) };
        let same = NameFacts { median_before: Some(Duration::from_millis(110)), ..facts("same", &now) };
        assert_eq!(found(&[slower, same, facts("few", &few)]), [("slow", "slower".to_owned())]);
    }

    #[test]
    fn a_task_that_runs_ten_times_as_long_as_usual_hangs_and_blocks_those_behind_it() {
        let (usual, long) = (window(100, 0, 0.2, 0.9), window(100, 0, 20.0, 30.0));
        let longest = |holds_up: usize| LongRunning {
            name: "a".into(),
            id: "1".parse().unwrap(),
            running_for: Duration::from_secs(60),
            holds_up: vec!["behind".into(); holds_up],
        };
        let (alone, blocks) = (longest(0), longest(3));
        let one = |longest, window| NameFacts { longest: Some(longest), ..facts("a", window) };
        assert_eq!(found(&[one(&alone, &usual)]), [("hanging", "a".to_owned())]);
        assert_eq!(found(&[one(&blocks, &usual)]), [("blocking", "a".to_owned())]);
        assert_eq!(found(&[one(&blocks, &long)]), [], "its runs take that long");
        assert_eq!(found(&[NameFacts { window: None, ..one(&alone, &usual) }]), [("hanging", "a".to_owned())]);
    }

    #[test]
    fn a_task_that_hangs_is_told_though_it_was_not_among_those_that_were_looked_at() {
        let window = window(0, 0, 0.0, 0.0);
        let name = NameFacts { window: None, oldest_running: Duration::from_secs(60), ..facts("a", &window) };
        assert_eq!(found(&[name]), [("hanging", "a".to_owned())]);
    }

    #[test]
    fn a_poll_that_does_not_return_blocks_the_runtime() {
        let well = window(100, 0, 0.02, 0.05);
        let poll = LongPoll { name: "a".into(), id: "1".parse().unwrap(), polling_for: Duration::from_millis(2500) };
        let names = [NameFacts { long_poll: Some(&poll), ..facts("a", &well) }];
        let all = all(&TaskMetrics::default(), &names, &[]).list;
        let message = "blocks the runtime: it has not returned from a poll for 2.5s";
        assert_eq!((all[0].kind, all[0].message.as_str(), all[0].task), ("blocks_runtime", message, Some(poll.id)));
    }

    #[test]
    fn what_was_lost_is_told_without_what_failed() {
        let lost = |lost, aborted, discarded_by| {
            let mut window = window(100, 4, 0.02, 0.05);
            (window.happened.lost, window.happened.aborted) = (lost, aborted);
            let names = [NameFacts { discarded_by, ..facts("a", &window) }];
            let all = all(&TaskMetrics::default(), &names, &[]).list;
            all.into_iter().find(|one| one.kind == "lost").map(|one| one.message)
        };
        let mut reasons = DiscardCounts::default();
        [reasons.capacity, reasons.runtime_ended, reasons.cleared] = [9, 1, 5];
        assert_eq!(lost(4, 0, reasons), None);
        assert_eq!(lost(5, 1, reasons).as_deref(), Some("lost 1 task in the last 5 minutes: aborted"));
        let message =
            "lost 3 tasks in the last 5 minutes: 2 discarded (since the start: 9 capacity, 1 runtime ended), 1 aborted";
        assert_eq!(lost(7, 1, reasons).as_deref(), Some(message));
    }

    #[test]
    fn a_backlog_grows_if_it_has_doubled() {
        let well = window(100, 0, 0.02, 0.05);
        let backlog = |pending, before| NameFacts { pending, pending_before: before, ..facts("a", &well) };
        assert_eq!(found(&[backlog(200, Some(90))]), [("growing", "a".to_owned())]);
        for (pending, before) in [(200, Some(101)), (99, Some(0)), (500, None)] {
            assert_eq!(found(&[backlog(pending, before)]), [], "{pending} {before:?}");
        }
    }

    /// What is told, for which name, and whether the health check fails because of it.
    fn told(metrics: &TaskMetrics, names: &[NameFacts<'_>], problems: &[Problem]) -> Vec<(&'static str, String, bool)> {
        let all = all(metrics, names, problems).list;
        all.into_iter().map(|one| (one.kind, one.name.unwrap_or_default(), one.health.is_some())).collect()
    }

    #[test]
    fn a_task_that_waits_is_told_once_with_its_reason_and_with_health() {
        let well = window(100, 0, 0.02, 0.05);
        let minute = Duration::from_secs(61);
        let mut metrics = TaskMetrics::default();
        metrics.oldest_pending = minute;
        let limits = Limits { pending_age: Some(Duration::from_secs(60)), ..Limits::NONE };
        let mut ages = TaskAges::default();
        ages.pending = minute;
        let problems = limits.problems(&Condition { ages, ..Condition::default() });
        assert_eq!(problems.len(), 1);

        let waits =
            |is_at_limit| NameFacts { pending: 3, is_at_limit, oldest_pending: minute, ..facts("waits", &well) };
        let name = |name: &str| name.to_owned();
        assert_eq!(told(&metrics, &[waits(false)], &problems), [("waiting", name("waits"), true)]);
        assert_eq!(told(&metrics, &[waits(false)], &[]), [("waiting", name("waits"), false)]);
        assert_eq!(told(&metrics, &[waits(true)], &problems), [("at_limit", name("waits"), true)]);
        let longest = LongRunning {
            name: "holds".into(),
            id: "1".parse().unwrap(),
            running_for: minute,
            holds_up: vec!["waits".into()],
        };
        let holds = NameFacts { longest: Some(&longest), ..facts("holds", &well) };
        assert_eq!(told(&metrics, &[waits(false), holds], &problems), [("blocking", name("holds"), true)]);
        let young = TaskMetrics::default();
        assert_eq!(told(&young, &[], &problems), [("waiting", String::new(), true)], "the age is that of a moment ago");
    }

    #[test]
    fn what_only_the_health_check_tells_is_a_finding() {
        let full = Limits::NONE.problems(&Condition { is_full: true, is_closing: true, ..Condition::default() });
        let all = all(&TaskMetrics::default(), &[], &full).list;
        let all: Vec<_> = all.iter().map(|one| (one.kind, one.message.as_str(), one.health.as_deref())).collect();
        let fails = Some("The health check fails");
        assert_eq!(
            all,
            [
                ("closing", "The registry is shut down, or about to be, or its runtime has ended", fails),
                ("full", "The registry is at its capacity: tasks that are added now are discarded", fails),
            ]
        );
    }

    #[test]
    fn evicted_letters_are_told_with_their_name_and_the_capacity() {
        let well = window(100, 0, 0.02, 0.05);
        let of = |name, evicted| NameFacts { dead_letters_evicted: evicted, ..facts(name, &well) };
        let mut metrics = TaskMetrics::default();
        (metrics.dead_letters_evicted, metrics.dead_letter_capacity) = (7, 100);
        let message = |names: &[NameFacts<'_>]| {
            let one = all(&metrics, names, &[]).list.into_iter().find(|one| one.kind == "evicted").unwrap();
            format!("{} {}", one.name.unwrap_or_default(), one.message)
        };
        let ending = "by newer ones since the start: 100 are kept at most, and only those can be replayed";
        assert_eq!(message(&[of("a", 0), of("b", 7)]), format!("b has had 7 of its dead letters evicted {ending}"));
        assert_eq!(
            message(&[of("a", 2), of("b", 5)]),
            format!("b has had 5 of its dead letters, and others 2, evicted {ending}")
        );
    }

    #[test]
    fn of_one_kind_the_worst_are_listed_and_the_others_counted() {
        let fails: Vec<_> = (0..8).map(|number| window(100, 10 * (number + 1), 0.02, 0.05)).collect();
        let names: Vec<_> = fails.iter().map(|window| facts("a", window)).collect();
        let found = all(&TaskMetrics::default(), &names, &[]);
        assert_eq!((found.list.len(), found.hidden), (5, 3));
        assert!(found.list[0].message.contains("80 of 180"), "{:?}", found.list);
    }
}
