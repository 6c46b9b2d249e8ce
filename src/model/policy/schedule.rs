//! When a task or a job runs, as a cron expression.

use std::{
    convert::Infallible,
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use croner::Cron;
use jiff::{Timestamp, Zoned, tz::TimeZone};

/// Feature `cron`.
/// A cron expression with a time zone: when a task of [`TaskRegistry::spawn_cron`](crate::TaskRegistry::spawn_cron), or
/// a durable job of `postlude-jobs`, runs. Each of these times is a tick.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use postlude::Schedule;
///
/// # fn main() -> Result<(), postlude::ScheduleError> {
/// let hourly = Schedule::parse("30 * * * *")?;
/// let midnight = SystemTime::UNIX_EPOCH;
/// let half_past = midnight + Duration::from_secs(30 * 60);
/// assert_eq!(hourly.next_after(midnight), Some(half_past));
///
/// let at_night = Schedule::parse("0 3 * * MON-FRI")?.time_zone("Europe/Berlin")?;
/// assert_eq!(at_night, "CRON_TZ=Europe/Berlin 0 3 * * MON-FRI".parse()?);
/// # Ok(())
/// # }
/// ```
///
/// # Expression
/// An expression has five fields: minute (0 to 59), hour (0 to 23), day of the month (1 to 31), month (1 to 12 or `JAN`
/// to `DEC`) and day of the week (0 to 7 or `SUN` to `SAT`; both 0 and 7 are Sunday). With six fields, the first one is
/// the second (0 to 59). With seven fields, the last one is the year. A field is `*`, a number, a range (`9-17`), a step
/// (`*/5` or `9-17/2`), or a list of these (`0,15,30-45`). `L` is the last day of the month, `15W` the weekday nearest
/// to the 15th, and `MON#2` the second Monday of the month. `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` are
/// short for common expressions.
///
/// As in other implementations of cron, an expression that restricts both the day of the month and the day of the week
/// matches the days that match either of them: `0 0 13 * FRI` is each 13th and each Friday. With a `+` before the day of
/// the week, both have to match: `0 0 13 * +FRI`. The crate `croner` parses expressions and finds ticks.
///
/// # Time zone
/// The fields are in UTC, unless [`time_zone`](Self::time_zone), or `CRON_TZ=` before the expression, names another time
/// zone. Zones are read from the database of the system, and from a copy in the program if the system has none.
///
/// In a zone with summer time, an hour of the wall clock is skipped on one night of the year, and an hour comes twice on
/// another night:
///
/// | the expression has | skipped hour | doubled hour |
/// |---|---|---|
/// | one second, one minute and one hour (`30 2 * * *`) | one tick, at the end of the skipped hour | one tick, the first time |
/// | anything else (`*/10 * * * *`, `30 2,14 * * *`) | no ticks | ticks both times |
///
/// So a nightly task runs once every night, and a task that runs every ten minutes runs every ten minutes.
#[derive(Clone)]
#[must_use = "a schedule does nothing until a task or a job is given to it"]
pub struct Schedule {
    cron: Arc<Cron>,
    expression: Arc<str>,
    zone: TimeZone,
}

/// The fields of an expression with seven.
const FIELDS: [&str; 7] = ["second", "minute", "hour", "day of the month", "month", "day of the week", "year"];

/// Before an expression: the time zone.
const ZONE_PREFIX: &str = "CRON_TZ=";

impl Schedule {
    /// The schedule of an [expression](Self#expression), in UTC unless it begins with `CRON_TZ=` and a time zone.
    ///
    /// # Errors
    /// If the expression can't be parsed, matches no date, or names an unknown time zone. The error says which field is
    /// wrong.
    pub fn parse(expression: &str) -> Result<Self, ScheduleError> {
        let text = expression.trim();
        if let Some(rest) = text.strip_prefix(ZONE_PREFIX) {
            let (zone, expression) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            return Self::parse_fields(expression.trim())?.time_zone(zone);
        }
        Self::parse_fields(text)
    }

    fn parse_fields(expression: &str) -> Result<Self, ScheduleError> {
        // The parser takes an empty item of a list for no value, and the search for a tick would take a minute.
        let parsed = Cron::from_str(expression).ok().filter(|_| !expression.split_whitespace().any(has_empty_item));
        let Some(cron) = parsed else {
            let (expression, reason) = (expression.to_owned(), what_is_wrong(expression));
            return Err(ScheduleError::Expression { expression, reason });
        };
        let schedule = Self { cron: Arc::new(cron), expression: expression.into(), zone: TimeZone::UTC };
        match schedule.next_after(SystemTime::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::NoDate { expression: expression.to_owned() }),
        }
    }

    /// The same expression in another time zone, by its name in the IANA database, such as `Europe/Berlin`.
    ///
    /// # Errors
    /// If there is no such time zone.
    pub fn time_zone(mut self, name: &str) -> Result<Self, ScheduleError> {
        self.zone = TimeZone::get(name).map_err(|_| ScheduleError::TimeZone { name: name.to_owned() })?;
        Ok(self)
    }

    /// The first tick after `time`. `None` if there is none: the expression has years, and they are over.
    #[must_use]
    pub fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
        let tick = self.cron.find_next_occurrence(&self.zoned(time)?, false).ok()?;
        Some(tick.timestamp().into())
    }

    /// The first tick after `time` as text, in the time zone of the schedule: for a log, or to see what an expression
    /// means.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use postlude::Schedule;
    ///
    /// # fn main() -> Result<(), postlude::ScheduleError> {
    /// let at_night = Schedule::parse("CRON_TZ=Europe/Berlin 0 3 * * *")?;
    /// let text = at_night.next_as_text(SystemTime::UNIX_EPOCH);
    /// assert_eq!(text.as_deref(), Some("1970-01-01T03:00:00+01:00[Europe/Berlin]"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn next_as_text(&self, time: SystemTime) -> Option<String> {
        let tick = self.cron.find_next_occurrence(&self.zoned(time)?, false).ok()?;
        Some(tick.to_string())
    }

    /// The latest tick that is not after `time`. `None` if there is none: the expression has years, and they have not
    /// come yet.
    #[must_use]
    pub fn latest_until(&self, time: SystemTime) -> Option<SystemTime> {
        let tick = self.cron.find_previous_occurrence(&self.zoned(time)?, true).ok()?;
        Some(tick.timestamp().into())
    }

    fn zoned(&self, time: SystemTime) -> Option<Zoned> {
        Some(Timestamp::try_from(time).ok()?.to_zoned(self.zone.clone()))
    }

    /// What is to be done at `now`, if the ticks up to `last` are done.
    pub(crate) fn step(&self, last: SystemTime, now: SystemTime) -> ScheduleStep {
        if now.checked_add(LARGEST_CORRECTION).is_some_and(|latest| latest < last) {
            return ScheduleStep::StartOver;
        }
        if let Some(tick) = self.latest_until(now).filter(|tick| *tick > last) {
            return ScheduleStep::Run(tick);
        }
        let Some(next) = self.next_after(now.max(last)) else { return ScheduleStep::Over };
        ScheduleStep::Wait(next.duration_since(now).unwrap_or_default())
    }
}

/// A clock that is set back by at most this much was corrected: ticks that were done are not repeated. A clock that is
/// set back further was wrong, and the schedule starts over. The limit is that of Vixie cron.
const LARGEST_CORRECTION: Duration = Duration::from_secs(3 * 60 * 60);

/// What is to be done by a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScheduleStep {
    /// A tick is due: the latest of those that are not done.
    Run(SystemTime),
    /// The next tick comes after this time.
    Wait(Duration),
    /// The clock was set back so far that the ticks after now count as not done.
    StartOver,
    /// There are no more ticks.
    Over,
}

/// Why an expression can't be parsed.
fn what_is_wrong(expression: &str) -> String {
    if expression.is_empty() {
        return "it is empty".to_owned();
    }
    if expression.starts_with('@') {
        return "there is no such shortcut".to_owned();
    }
    if expression.starts_with("TZ=") {
        return format!("the time zone comes after `{ZONE_PREFIX}`");
    }
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let first = match fields.len() {
        5 => 1,
        6 | 7 => 0,
        1 => return "it has 1 field".to_owned(),
        n => return format!("it has {n} fields"),
    };
    for (index, field) in fields.iter().enumerate() {
        let mut alone = ["*"; FIELDS.len()];
        let (Some(slot), Some(name)) = (alone.get_mut(first + index), FIELDS.get(first + index)) else {
            break;
        };
        *slot = field;
        if has_empty_item(field) {
            return format!("the {name} can't be `{field}`: the list has an empty item");
        }
        if let Err(error) = Cron::from_str(&alone.join(" ")) {
            return format!("the {name} can't be `{field}`: {}", reason(&error));
        }
    }
    "the fields do not fit together".to_owned()
}

/// Whether a list has nothing between or beside its commas.
fn has_empty_item(field: &str) -> bool {
    field.split(',').any(str::is_empty)
}

/// The message of croner, without its class and its full stop.
fn reason(error: &croner::errors::CronError) -> String {
    use croner::errors::CronError::{ComponentError, IllegalCharacters, InvalidPattern};
    let message = match error {
        InvalidPattern(message) | ComponentError(message) => message.clone(),
        IllegalCharacters(_) => return "it has a character or a name that is not allowed there".to_owned(),
        other => other.to_string(),
    };
    let message = message.trim_end_matches('.');
    let mut letters = message.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(expression: &str) -> Result<Self, ScheduleError> {
        Self::parse(expression)
    }
}

impl TryFrom<&str> for Schedule {
    type Error = ScheduleError;

    fn try_from(expression: &str) -> Result<Self, ScheduleError> {
        Self::parse(expression)
    }
}

impl TryFrom<&String> for Schedule {
    type Error = ScheduleError;

    fn try_from(expression: &String) -> Result<Self, ScheduleError> {
        Self::parse(expression)
    }
}

impl TryFrom<String> for Schedule {
    type Error = ScheduleError;

    fn try_from(expression: String) -> Result<Self, ScheduleError> {
        Self::parse(&expression)
    }
}

impl fmt::Display for Schedule {
    /// In the form that [`parse`](Self::parse) reads: `0 3 * * *`, or `CRON_TZ=Europe/Berlin 0 3 * * *`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.zone.iana_name() {
            Some(zone) if self.zone != TimeZone::UTC => write!(f, "{ZONE_PREFIX}{zone} {}", self.expression),
            _ => f.write_str(&self.expression),
        }
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schedule").field(&format_args!("{self}")).finish()
    }
}

/// Schedules are equal if their expressions are written in the same way, and their time zones are the same.
impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression && self.zone == other.zone
    }
}

impl Eq for Schedule {}

/// As text, in the form that [`Schedule::parse`] reads.
#[cfg(feature = "serde")]
impl serde::Serialize for Schedule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From the text that [`Schedule::parse`] reads.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Schedule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Feature `cron`.
/// Why there is no [`Schedule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The expression can't be parsed.
    #[error(
        "the cron expression `{expression}` can't be parsed, because {reason}: write minute, hour, day of the month, month \
         and day of the week, as in `30 4 * * *`"
    )]
    #[non_exhaustive]
    Expression {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The expression matches no date.
    #[error("the cron expression `{expression}` matches no date: check its day and its month")]
    #[non_exhaustive]
    NoDate {
        /// The expression.
        expression: String,
    },
    /// There is no time zone of this name.
    #[error("there is no time zone `{name}`: write a name of the IANA database, such as `Europe/Berlin`, or `UTC`")]
    #[non_exhaustive]
    TimeZone {
        /// The name.
        name: String,
    },
}

/// For code that takes a schedule or a text: see `TryInto`.
impl From<Infallible> for ScheduleError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_step_runs_the_latest_tick_that_is_not_done() {
        let daily = Schedule::parse("0 3 * * *").unwrap();
        let last = utc("2026-05-01T03:00:00Z");
        for (now, step) in [
            ("2026-05-01T03:00:00Z", ScheduleStep::Wait(24 * HOUR)),
            ("2026-05-01T12:00:00Z", ScheduleStep::Wait(15 * HOUR)),
            ("2026-05-02T02:59:59.5Z", ScheduleStep::Wait(Duration::from_millis(500))),
            ("2026-05-02T03:00:00Z", ScheduleStep::Run(utc("2026-05-02T03:00:00Z"))),
            ("2026-05-09T08:00:00Z", ScheduleStep::Run(utc("2026-05-09T03:00:00Z"))),
        ] {
            assert_eq!(daily.step(last, utc(now)), step, "at {now}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_repeats_nothing_unless_it_was_wrong() {
        let hourly = Schedule::parse("0 * * * *").unwrap();
        let last = utc("2026-05-01T12:00:00Z");
        let tick = hourly.step(last, utc("2026-05-01T11:59:00Z"));
        assert_eq!(tick, ScheduleStep::Wait(HOUR + Duration::from_secs(60)));
        assert_eq!(hourly.step(last, utc("2026-05-01T09:00:00Z")), ScheduleStep::Wait(4 * HOUR));
        assert_eq!(hourly.step(last, utc("2026-05-01T08:59:59Z")), ScheduleStep::StartOver);
    }

    #[test]
    fn a_schedule_with_years_is_over() {
        let once = Schedule::parse("0 0 0 1 1 * 2020").unwrap();
        assert_eq!(once.step(utc("2019-12-31T00:00:00Z"), utc("2019-12-31T00:00:00Z")), ScheduleStep::Wait(24 * HOUR));
        assert_eq!(once.step(utc("2020-01-01T00:00:00Z"), utc("2020-01-01T00:00:00Z")), ScheduleStep::Over);
    }

    #[test]
    fn times_out_of_range_have_no_ticks() {
        let hourly = Schedule::parse("0 * * * *").unwrap();
        let (far, early) = (SystemTime::UNIX_EPOCH + HOUR * u32::MAX, SystemTime::UNIX_EPOCH - HOUR * u32::MAX);
        for time in [far, early] {
            assert_eq!((hourly.next_after(time), hourly.latest_until(time)), (None, None));
            assert_ne!(hourly.step(time, time), ScheduleStep::StartOver);
        }
    }
}
