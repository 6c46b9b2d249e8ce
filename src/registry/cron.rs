//! Tasks that run at the ticks of a schedule.

use std::{
    panic::Location,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::{
    model::{Schedule, ScheduleStep},
    registry::{
        TaskRegistry,
        repeat::{RepeatHandle, Repetition},
    },
    task::IntoTask,
};

/// For how long the clock is not looked at, at most: so that a clock that was set, or a machine that was suspended, is
/// noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl TaskRegistry {
    /// Feature `cron`.
    /// Spawns a task at each tick of a [`Schedule`], **in each process that calls this**. `factory` makes the task of
    /// each run.
    ///
    /// A service with five replicas runs the task five times at each tick. For one run over all replicas, and for ticks
    /// that must not be lost with the process, use a durable job: `JobsBuilder::cron` of the crate `postlude-jobs`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{Schedule, Task, TaskRegistry};
    ///
    /// async fn purge() -> Result<(), std::io::Error> {
    ///     Ok(()) // remove old files of this machine
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), postlude::ScheduleError> {
    /// let registry = TaskRegistry::new();
    /// let every_night = Schedule::parse("30 3 * * *")?.time_zone("Europe/Berlin")?;
    /// registry.spawn_cron(every_night, || Task::new(purge()).named("purge"));
    ///
    /// tokio::time::sleep(Duration::from_secs(7 * 24 * 3600)).await; // with a paused clock, at once
    /// assert_eq!(registry.metrics().completed, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Apart from when they start, runs are those of [`spawn_every`](Self::spawn_every): each is a task of its own,
    /// runs never overlap, a run that fails or panics does not end the repetition, and a shutdown or the handle does.
    /// Between two runs no task is live.
    ///
    /// # Missed ticks
    /// The first run is at the first tick after this call. Of the ticks that pass while a run goes on, or while the
    /// process or its machine is suspended, the latest is made up for: the task runs once, as soon as it can. To drop
    /// a run that is too late, give its task an [`expires_after`](crate::Task::expires_after), or look at the time. To
    /// spread the runs of many processes, give the task a random [`delay`](crate::Task::delay).
    ///
    /// # Clock
    /// Ticks are times of the wall clock. The clock is looked at once a minute at least, so a run is at most a minute
    /// late after the clock was set forward. If the clock is set back by up to three hours, no tick is repeated. If it
    /// is set back further, the schedule starts over, with a warning in the log. On a runtime whose clock is
    /// paused, the wall clock goes on with the paused clock.
    ///
    /// A schedule with years ends with its last tick, and the handle [says so](RepeatHandle::is_stopped).
    #[track_caller]
    pub fn spawn_cron<F, T>(&self, schedule: Schedule, factory: F) -> RepeatHandle
    where
        F: FnMut() -> T + Send + 'static,
        T: IntoTask + 'static,
    {
        let (repetition, stopped) = Repetition::begin(self, factory, Location::caller());
        let run = Arc::clone(&repetition.run);
        self.shared.spawn(follow(schedule, wall_clock, repetition, stopped));
        RepeatHandle { run }
    }
}

/// The wall clock, as far ahead of the real one as tokio's clock is ahead of the real one: a paused clock moves both.
#[expect(clippy::disallowed_methods, reason = "compares the paused clock with the real one")]
fn wall_clock() -> SystemTime {
    let (tokio, real, wall) = (Instant::now().into_std(), std::time::Instant::now(), SystemTime::now());
    match tokio.checked_duration_since(real) {
        Some(ahead) => wall + ahead,
        None => wall - (real - tokio),
    }
}

/// Runs a task at each tick after now, until the repetition is stopped.
async fn follow<F, T>(
    schedule: Schedule,
    now: impl Fn() -> SystemTime,
    mut repetition: Repetition<F>,
    _stopped: DropGuard,
) where
    F: FnMut() -> T,
    T: IntoTask,
{
    let location = repetition.location;
    let mut last = now();
    repetition.run.log(|| {
        let next = schedule.next_as_text(last).map(tracing::field::display);
        tracing::info!(target: "postlude", %schedule, %location, next, "a task is repeated by a schedule");
    });
    loop {
        let wait = match schedule.step(last, now()) {
            ScheduleStep::Run(tick) => {
                last = tick;
                if repetition.run.is_stopped() {
                    return;
                }
                repetition.run_once().await;
                continue;
            }
            ScheduleStep::Wait(wait) => wait.min(LONGEST_WAIT),
            ScheduleStep::StartOver => {
                repetition.run.log(|| {
                    tracing::warn!(target: "postlude", %schedule, %location, "the clock was set back by more than three hours, so the schedule starts over");
                });
                last = now();
                continue;
            }
            ScheduleStep::Over => {
                repetition.run.log(|| {
                    tracing::warn!(target: "postlude", %schedule, %location, "the schedule has no more ticks, so the task will not be repeated");
                });
                return;
            }
        };
        if !repetition.run.wait(wait).await {
            return;
        }
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A wall clock that goes on with tokio's clock, and that can be set.
    #[derive(Clone)]
    struct Clock(Arc<Mutex<(SystemTime, Instant)>>);

    impl Clock {
        fn at(time: SystemTime) -> Self {
            Self(Arc::new(Mutex::new((time, Instant::now()))))
        }

        fn now(&self) -> SystemTime {
            let (time, since) = *self.0.lock().unwrap();
            time + since.elapsed()
        }

        fn set(&self, time: SystemTime) {
            *self.0.lock().unwrap() = (time, Instant::now());
        }
    }

    /// Follows `expression` from `start` on, and notes how many minutes after it each run starts, by the wall clock.
    fn begin(expression: &str, start: SystemTime, takes: Duration) -> (Clock, Arc<Mutex<Vec<u64>>>, RepeatHandle) {
        let (clock, runs) = (Clock::at(start), Arc::<Mutex<Vec<u64>>>::default());
        let (noted, wall) = (Arc::clone(&runs), clock.clone());
        let factory = move || {
            let minute = wall.now().duration_since(start).map_or(0, |after| after.as_secs() / 60);
            noted.lock().unwrap().push(minute);
            tokio::time::sleep(takes)
        };
        let registry = TaskRegistry::new();
        let (repetition, stopped) = Repetition::begin(&registry, factory, Location::caller());
        let (run, wall) = (Arc::clone(&repetition.run), clock.clone());
        let schedule = Schedule::parse(expression).unwrap();
        registry.shared.spawn(follow(schedule, move || wall.now(), repetition, stopped));
        (clock, runs, RepeatHandle { run })
    }

    fn hour(number: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + number * 60 * MINUTE
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_forward_is_noticed_within_a_minute() {
        let (clock, runs, _handle) = begin("0 * * * *", hour(0), MINUTE / 2);
        tokio::time::sleep(10 * MINUTE + MINUTE / 2).await;
        clock.set(hour(5) + MINUTE / 4);
        tokio::time::sleep(MINUTE).await;
        assert_eq!(*runs.lock().unwrap(), [300], "of five missed ticks, the latest");
        tokio::time::sleep(60 * MINUTE).await;
        assert_eq!(*runs.lock().unwrap(), [300, 360]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_a_little_repeats_nothing() {
        let (clock, runs, _handle) = begin("0 * * * *", hour(4) + 30 * MINUTE, MINUTE / 2);
        tokio::time::sleep(45 * MINUTE).await;
        assert_eq!(*runs.lock().unwrap(), [30]);
        clock.set(hour(4) + 45 * MINUTE);
        tokio::time::sleep(60 * MINUTE).await;
        assert_eq!(*runs.lock().unwrap(), [30], "the tick of five o'clock was done");
        tokio::time::sleep(20 * MINUTE).await;
        assert_eq!(*runs.lock().unwrap(), [30, 90]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_far_ahead_starts_the_schedule_over() {
        let (clock, runs, _handle) = begin("0 * * * *", hour(9000), MINUTE / 2);
        tokio::time::sleep(10 * MINUTE).await;
        clock.set(hour(1));
        tokio::time::sleep(65 * MINUTE).await;
        assert_eq!(runs.lock().unwrap().len(), 1, "the tick after the hour to which the clock was set");
    }

    #[tokio::test(start_paused = true)]
    async fn a_schedule_whose_years_are_over_stops() {
        let (_clock, runs, handle) = begin("0 0 1 1 1 * 1970", hour(0), MINUTE / 2);
        tokio::time::sleep(30 * MINUTE).await;
        assert!(!handle.is_stopped());
        tokio::time::sleep(60 * MINUTE).await;
        assert_eq!(*runs.lock().unwrap(), [60]);
        assert!(handle.is_stopped());
    }
}
