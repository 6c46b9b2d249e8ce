//! The last hour of one name, or of all names together.

use std::{collections::VecDeque, ops::Deref, time::Duration};

use postlude::{DurationHistogram, NameMetrics, OutcomeCounts, TaskMetrics};
use serde::Serialize;

use super::durations::Durations;

/// How far apart the samples are, at least.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// How far back they reach.
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
/// An hour of samples.
const MAX_SAMPLES: usize = 720;
/// An hour of minutes, and the one that has begun.
const MAX_MINUTES: usize = 61;
/// The time over which rates are taken: long enough for a name that runs every few seconds.
const RATE_OVER: Duration = Duration::from_secs(10);

/// What is counted of a name, or of all: what is live, and what has happened since the registry was made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) pending: u64,
    pub(crate) running: u64,
    pub(crate) happened: Happened,
    run: Durations,
    wait: Durations,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Happened {
    pub(crate) started: u64,
    pub(crate) completed: u64,
    /// Failed, panicked or timed out.
    pub(crate) failed: u64,
    pub(crate) aborted: u64,
    pub(crate) discarded: u64,
    /// Those whose outcome is a loss: failed, panicked, timed out, aborted, or discarded though nobody asked for it.
    pub(crate) lost: u64,
    pub(crate) retries: u64,
}

impl Happened {
    fn of(running: u64, started_and_ended: u64, outcomes: &OutcomeCounts, [lost, retries]: [u64; 2]) -> Self {
        Self {
            started: running + started_and_ended,
            completed: outcomes.completed,
            failed: outcomes.failures(),
            aborted: outcomes.aborted,
            discarded: outcomes.discarded,
            lost,
            retries,
        }
    }

    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            started: self.started.saturating_sub(earlier.started),
            completed: self.completed.saturating_sub(earlier.completed),
            failed: self.failed.saturating_sub(earlier.failed),
            aborted: self.aborted.saturating_sub(earlier.aborted),
            discarded: self.discarded.saturating_sub(earlier.discarded),
            lost: self.lost.saturating_sub(earlier.lost),
            retries: self.retries.saturating_sub(earlier.retries),
        }
    }

    const fn add(&mut self, other: Self) {
        self.started += other.started;
        self.completed += other.completed;
        self.failed += other.failed;
        self.aborted += other.aborted;
        self.discarded += other.discarded;
        self.lost += other.lost;
        self.retries += other.retries;
    }

    /// The tasks that did not run to an end, although nobody asked for that but who aborted them.
    pub(crate) const fn unfinished(self) -> u64 {
        self.lost.saturating_sub(self.failed)
    }

    /// The share of failures among the tasks that ran to an end, and their number.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn failure_rate(self) -> f64 {
        let ended = self.completed + self.failed;
        if ended == 0 { 0.0 } else { self.failed as f64 / ended as f64 }
    }
}

/// What [`TaskMetrics`] and [`NameMetrics`] have in common.
pub(crate) trait Metrics: Deref<Target = OutcomeCounts> {
    /// Pending, running, lost, retries.
    fn figures(&self) -> [u64; 4];
    fn run(&self) -> &DurationHistogram;
    fn wait(&self) -> &DurationHistogram;
}

macro_rules! metrics {
    ($($metrics:ty)+) => {$(
        impl Metrics for $metrics {
            fn figures(&self) -> [u64; 4] {
                [self.pending, self.running, self.lost, self.retries]
            }

            fn run(&self) -> &DurationHistogram {
                self.run_times()
            }

            fn wait(&self) -> &DurationHistogram {
                self.wait_times()
            }
        }
    )+};
}

metrics!(TaskMetrics NameMetrics);

impl Counts {
    pub(crate) fn of(metrics: &impl Metrics) -> Self {
        let [pending, running, lost, retries] = metrics.figures();
        Self {
            pending,
            running,
            // A task that has started runs, or its wait is counted at its end.
            happened: Happened::of(running, metrics.wait().count(), metrics, [lost, retries]),
            run: metrics.run().into(),
            wait: metrics.wait().into(),
        }
    }
}

/// The figures of a moment, and of the time since the sample before.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    pending: u32,
    running: u32,
    since_start: Happened,
    run: Quantiles,
    wait: Quantiles,
}

/// Quantiles in seconds; `null` if nothing ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: Option<f32>,
    pub(crate) p95: Option<f32>,
    pub(crate) p99: Option<f32>,
}

impl From<&Durations> for Quantiles {
    fn from(durations: &Durations) -> Self {
        let seconds = |q| durations.quantile(q).map(|duration| duration.as_secs_f32());
        Self { p50: seconds(0.5), p95: seconds(0.95), p99: seconds(0.99) }
    }
}

/// What happened in one minute.
#[derive(Clone, Debug)]
struct Minute {
    start: Duration,
    happened: Happened,
    run: Durations,
    wait: Durations,
}

/// The last hour: samples for charts, and minutes for quantiles over longer times. Bounded: 90 KB of samples, and of
/// each minute the non-empty buckets.
#[derive(Debug, Default)]
pub(crate) struct Series {
    samples: VecDeque<Sample>,
    minutes: VecDeque<Minute>,
    last: Counts,
    /// When something of this name was last seen to happen, or to be live.
    pub(crate) active_at: Duration,
}

/// What happened in the last minutes, to the minute.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Window {
    pub(crate) minutes: u64,
    #[serde(flatten)]
    pub(crate) happened: Happened,
    pub(crate) run: Quantiles,
    pub(crate) wait: Quantiles,
}

/// What happened per second, in the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rates {
    pub(crate) started: f64,
    pub(crate) completed: f64,
    pub(crate) failed: f64,
}

impl Series {
    /// A series that begins with these counts: what happened before is in none of its figures.
    pub(crate) fn starting_with(at: Duration, counts: Counts) -> Self {
        let mut series = Self { last: counts.clone(), active_at: at, ..Self::default() };
        series.record(at, counts);
        series
    }

    /// What has happened up to the last sample.
    pub(crate) const fn happened(&self) -> Happened {
        self.last.happened
    }

    /// Adds a sample.
    pub(crate) fn record(&mut self, at: Duration, counts: Counts) {
        let (run, wait) = (counts.run.since(&self.last.run), counts.wait.since(&self.last.wait));
        let happened = counts.happened.since(self.last.happened);
        if happened != Happened::default() || counts.pending + counts.running > 0 {
            self.active_at = at;
        }
        let small = |count| u32::try_from(count).unwrap_or(u32::MAX);
        self.samples.push_back(Sample {
            at,
            pending: small(counts.pending),
            running: small(counts.running),
            since_start: counts.happened,
            run: (&run).into(),
            wait: (&wait).into(),
        });
        if self.minutes.back().is_none_or(|minute| at >= minute.start + MINUTE) {
            let start = at;
            self.minutes.push_back(Minute {
                start,
                happened: Happened::default(),
                run: Durations::default(),
                wait: Durations::default(),
            });
        }
        if let Some(minute) = self.minutes.back_mut() {
            minute.happened.add(happened);
            minute.run.add(&run);
            minute.wait.add(&wait);
        }
        self.last = counts;
        self.forget(at);
    }

    fn forget(&mut self, now: Duration) {
        while self.samples.len() > MAX_SAMPLES || self.samples.front().is_some_and(|sample| sample.at + HOUR < now) {
            self.samples.pop_front();
        }
        let is_old = |minute: &Minute| minute.start + HOUR + MINUTE < now;
        while self.minutes.len() > MAX_MINUTES || self.minutes.front().is_some_and(is_old) {
            self.minutes.pop_front();
        }
    }

    /// The last minutes until now, which are given with the latest counts.
    pub(crate) fn window(&self, now: Duration, counts: &Counts, minutes: u64) -> Window {
        let from = now.saturating_sub(MINUTE * u32::try_from(minutes).unwrap_or(u32::MAX));
        let mut happened = counts.happened.since(self.last.happened);
        let (mut run, mut wait) = (counts.run.since(&self.last.run), counts.wait.since(&self.last.wait));
        // A minute that ended in the window is in it.
        for minute in self.minutes.iter().rev().take_while(|minute| minute.start + MINUTE > from) {
            happened.add(minute.happened);
            run.add(&minute.run);
            wait.add(&minute.wait);
        }
        Window { minutes, happened, run: (&run).into(), wait: (&wait).into() }
    }

    /// What happened per second since the sample of about ten seconds ago.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn rates(&self, now: Duration, counts: &Counts) -> Rates {
        let from = now.saturating_sub(RATE_OVER);
        let before = self.samples.iter().rev().find(|sample| sample.at <= from).or_else(|| self.samples.front());
        let Some(before) = before.filter(|sample| now > sample.at) else { return Rates::default() };
        let happened = counts.happened.since(before.since_start);
        let rate = |count| count as f64 / (now - before.at).as_secs_f64();
        Rates { started: rate(happened.started), completed: rate(happened.completed), failed: rate(happened.failed) }
    }

    /// The median run of the time before the last `minutes`, if at least `enough` tasks ended then.
    pub(crate) fn median_before(&self, now: Duration, minutes: u32, enough: u64) -> Option<Duration> {
        let until = now.saturating_sub(MINUTE * minutes);
        let mut run = Durations::default();
        for minute in self.minutes.iter().take_while(|minute| minute.start + MINUTE <= until) {
            run.add(&minute.run);
        }
        if run.count() < enough { None } else { run.quantile(0.5) }
    }

    /// The pending tasks of the sample nearest to a time.
    pub(crate) fn pending_at(&self, at: Duration) -> Option<u64> {
        self.samples.iter().find(|sample| sample.at >= at).map(|sample| u64::from(sample.pending))
    }

    /// The samples in columns.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn columns(&self, now: Duration) -> Columns {
        let mut columns = Columns::default();
        let mut before: Option<&Sample> = None;
        for sample in &self.samples {
            let happened = sample.since_start.since(before.map_or(sample.since_start, |before| before.since_start));
            let seconds = before.map_or(1.0, |before| (sample.at - before.at).as_secs_f32().max(0.001));
            let rate = |count: u64| count as f32 / seconds;
            columns.ago.push((now.saturating_sub(sample.at)).as_secs_f32());
            columns.pending.push(sample.pending);
            columns.running.push(sample.running);
            columns.started.push(rate(happened.started));
            columns.completed.push(rate(happened.completed));
            columns.failed.push(rate(happened.failed));
            columns.run.push(sample.run);
            columns.wait.push(sample.wait);
            before = Some(sample);
        }
        columns
    }
}

/// The samples of the last hour, the oldest first: how many seconds ago each was taken, what was live then, and what
/// had happened per second since the one before.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Columns {
    ago: Vec<f32>,
    pending: Vec<u32>,
    running: Vec<u32>,
    started: Vec<f32>,
    completed: Vec<f32>,
    failed: Vec<f32>,
    #[serde(serialize_with = "transposed")]
    run: QuantileColumn,
    #[serde(serialize_with = "transposed")]
    wait: QuantileColumn,
}

type QuantileColumn = Vec<Quantiles>;

/// Quantiles as three columns.
fn transposed<S: serde::Serializer>(quantiles: &QuantileColumn, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;

    let mut map = serializer.serialize_map(Some(3))?;
    let column = |of: fn(&Quantiles) -> Option<f32>| quantiles.iter().map(of).collect::<Vec<_>>();
    map.serialize_entry("p50", &column(|one| one.p50))?;
    map.serialize_entry("p95", &column(|one| one.p95))?;
    map.serialize_entry("p99", &column(|one| one.p99))?;
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn counts(completed: u64, failed: u64) -> Counts {
        let happened = Happened { started: completed + failed, completed, failed, ..Happened::default() };
        Counts { happened, ..Counts::default() }
    }

    #[test]
    fn memory_is_bounded_by_an_hour() {
        let mut series = Series::default();
        for step in 0..10_000 {
            series.record(seconds(step), counts(step, 0));
        }
        assert_eq!((series.samples.len(), series.minutes.len()), (MAX_SAMPLES, MAX_MINUTES));
        let mut sparse = Series::default();
        for step in 0..100 {
            sparse.record(seconds(step * 600), counts(step, 0));
        }
        assert_eq!((sparse.samples.len(), sparse.minutes.len()), (7, 7), "what is older than an hour is forgotten");
    }

    #[test]
    fn window_has_the_last_minutes_and_what_came_since_the_last_sample() {
        let mut series = Series::default();
        // One each 5 s, of which the first half hour fails.
        for step in 1..=720_u64 {
            series.record(seconds(5 * step), counts(step - step.min(360), step.min(360)));
        }
        let now = seconds(3600);
        let window = series.window(now, &counts(362, 360), 5);
        assert_eq!(
            (window.happened.failed, window.happened.completed),
            (0, 6 * 12 + 2),
            "the six minutes that end in the window, and the two just now"
        );
        let hour = series.window(now, &counts(360, 360), 60);
        assert_eq!(hour.happened.failed, 360);
        assert!(hour.happened.failure_rate() > 0.49);
    }

    #[test]
    fn rates_are_those_of_the_last_ten_seconds() {
        let mut series = Series::default();
        series.record(seconds(0), counts(0, 0));
        series.record(seconds(90), counts(90, 0));
        series.record(seconds(95), counts(100, 10));
        let rates = series.rates(seconds(100), &counts(140, 10));
        assert_eq!((rates.completed, rates.failed, rates.started), (5.0, 1.0, 6.0));
        assert_eq!(Series::default().rates(seconds(1), &counts(5, 5)), Rates::default());
    }

    #[test]
    fn columns_have_a_value_for_each_sample() {
        let mut series = Series::default();
        series.record(seconds(0), counts(0, 0));
        series.record(seconds(5), counts(10, 5));
        let columns = serde_json::to_value(series.columns(seconds(6))).unwrap();
        assert_eq!(columns["ago"], serde_json::json!([6.0, 1.0]));
        assert_eq!(columns["completed"], serde_json::json!([0.0, 2.0]));
        assert_eq!(columns["failed"], serde_json::json!([0.0, 1.0]));
        assert_eq!(columns["run"]["p95"], serde_json::json!([null, null]));
    }
}
