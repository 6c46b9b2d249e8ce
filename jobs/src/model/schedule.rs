//! When a cron job is due.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use croner::Cron;

use super::time::{from_millis, to_millis};
use crate::model::error::StartError;

/// A cron expression, in UTC.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    cron: Cron,
    expression: String,
}

impl Schedule {
    /// # Errors
    /// If the expression is none.
    pub(crate) fn parse(expression: &str) -> Result<Self, StartError> {
        let cron = Cron::from_str(expression)
            .map_err(|error| StartError::Cron { expression: expression.to_owned(), source: Box::new(error) })?;
        Ok(Self { cron, expression: expression.to_owned() })
    }

    pub(crate) fn expression(&self) -> &str {
        &self.expression
    }

    /// The latest tick that is not after `now`.
    pub(crate) fn latest(&self, now: SystemTime) -> Option<SystemTime> {
        let now = DateTime::<Utc>::from_timestamp_millis(to_millis(now))?;
        let tick = self.cron.find_previous_occurrence(&now, true).ok()?;
        Some(from_millis(tick.timestamp() * 1_000))
    }

    /// How long it is until the first tick after `now`.
    pub(crate) fn until_next(&self, now: SystemTime) -> Option<Duration> {
        let start = DateTime::<Utc>::from_timestamp_millis(to_millis(now))?;
        let tick = self.cron.find_next_occurrence(&start, false).ok()?;
        from_millis(tick.timestamp_millis()).duration_since(now).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn latest_and_until_next_enclose_now() {
        let hourly = Schedule::parse("0 * * * *").unwrap();
        assert_eq!(hourly.latest(at(7_199)), Some(at(3_600)));
        assert_eq!(hourly.latest(at(7_200)), Some(at(7_200)), "a tick is not after itself");
        assert_eq!(hourly.until_next(at(7_199)), Some(Duration::from_secs(1)));
        assert_eq!(hourly.until_next(at(7_200)), Some(Duration::from_secs(3_600)));
    }

    #[test]
    fn a_bad_expression_is_an_error_that_names_it() {
        let error = Schedule::parse("every day").unwrap_err();
        assert!(error.to_string().contains("every day"), "{error}");
    }
}
