//! The last hour, sampled in process: bounded, whatever the registry does.

mod durations;
mod series;

use std::{collections::BTreeMap, time::Duration};

use postlude::{TaskMetrics, TaskName};

pub(crate) use self::series::{Columns, Counts, Happened, Rates, SAMPLE_EVERY, Series, Window};

/// How many names have a history. Names are a closed set, and few services have more.
pub(crate) const MAX_NAMES: usize = 100;
/// A name of which nothing was seen for so long makes room for another one.
const IDLE_AFTER: Duration = Duration::from_secs(3600);

/// The last hour of all names together, and of each of the first [`MAX_NAMES`].
#[derive(Debug, Default)]
pub(crate) struct Recent {
    pub(crate) all: Series,
    pub(crate) names: BTreeMap<TaskName, Series>,
    /// What has happened of the names for which there was no room.
    others: BTreeMap<TaskName, Happened>,
    sampled_at: Option<Duration>,
}

impl Recent {
    /// Takes a sample if the last one is old enough.
    pub(crate) fn record(&mut self, now: Duration, metrics: &TaskMetrics) {
        if self.sampled_at.is_some_and(|at| now < at + SAMPLE_EVERY) {
            return;
        }
        let before = self.sampled_at.replace(now);
        if before.is_none() {
            self.all = Series::starting_with(now, Counts::of(metrics));
        } else {
            self.all.record(now, Counts::of(metrics));
        }
        for (name, metrics) in metrics.by_name() {
            let counts = Counts::of(metrics);
            if let Some(series) = self.names.get_mut(name) {
                series.record(now, counts);
                continue;
            }
            let known = self.others.get(name);
            let is_active = known != Some(&counts.happened) || counts.pending + counts.running > 0;
            if !is_active || !self.has_room(now) {
                self.others.insert(*name, counts.happened);
                continue;
            }
            let series = match before {
                // A name that nobody has seen: all of it has happened since the sample before.
                Some(before) if self.others.remove(name).is_none() => {
                    let mut series = Series::starting_with(before, Counts::default());
                    series.record(now, counts);
                    series
                }
                _ => Series::starting_with(now, counts),
            };
            self.names.insert(*name, series);
        }
    }

    fn has_room(&mut self, now: Duration) -> bool {
        if self.names.len() >= MAX_NAMES {
            let (kept, idle) = std::mem::take(&mut self.names)
                .into_iter()
                .partition(|(_, series)| series.active_at + IDLE_AFTER > now);
            self.names = kept;
            let idle: BTreeMap<_, Series> = idle;
            self.others.extend(idle.into_iter().map(|(name, series)| (name, series.happened())));
        }
        self.names.len() < MAX_NAMES
    }
}

#[cfg(test)]
mod tests {
    use postlude::{Task, TaskRegistry};

    use super::*;

    #[tokio::test]
    async fn names_are_bounded_and_idle_ones_make_room() {
        let registry = TaskRegistry::new();
        let mut recent = Recent::default();
        for number in 0..MAX_NAMES + 20 {
            let name: &'static str = Box::leak(format!("name {number}").into_boxed_str());
            registry.spawn(Task::new(async {}).named(name)).await;
        }
        recent.record(Duration::ZERO, &registry.metrics());
        assert_eq!(recent.names.len(), MAX_NAMES);
        let hour = Duration::from_secs(3601);
        recent.record(hour, &registry.metrics());
        registry.spawn(Task::new(async {}).named("late")).await;
        recent.record(hour + SAMPLE_EVERY, &registry.metrics());
        assert!(recent.names.len() <= MAX_NAMES && recent.names.contains_key(&TaskName::from("late")));
    }

    #[tokio::test]
    async fn what_happened_before_the_first_sample_is_in_no_window() {
        let registry = TaskRegistry::new();
        registry.spawn(Task::new(async { Err::<(), _>("down") }).named("mail")).await;
        let mut recent = Recent::default();
        recent.record(Duration::ZERO, &registry.metrics());
        registry.spawn(Task::new(async { Err::<(), _>("down") }).named("mail")).await;
        registry.spawn(Task::new(async {}).named("new")).await;
        let metrics = registry.metrics();
        recent.record(SAMPLE_EVERY, &metrics);
        let window = recent.all.window(SAMPLE_EVERY, &Counts::of(&metrics), 5);
        assert_eq!((window.happened.failed, window.happened.completed), (1, 1));
        let new = &recent.names[&TaskName::from("new")];
        assert_eq!(new.window(SAMPLE_EVERY, &Counts::of(&metrics.by_name()["new"]), 5).happened.completed, 1);
        assert!(window.run.p50.is_some());
    }
}
