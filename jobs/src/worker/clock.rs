//! The clock of the engine, beside that of this process which nobody sets.

use std::time::Duration;

use tokio::time::Instant;

/// Tells whether the engine's clock was set.
#[derive(Debug, Default)]
pub(super) struct EngineClock {
    last: Option<Reading>,
}

/// The engine's clock, read at some time between two instants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    pub(super) millis: i64,
}

/// How the clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Jump {
    Forward(Duration),
    Back(Duration),
}

impl EngineClock {
    /// Notes a reading. Returns how far the clock was set since the last one, if that is more than `tolerance`.
    pub(super) fn observe(&mut self, now: Reading, tolerance: Duration) -> Option<Jump> {
        let last = self.last.replace(now)?;
        let passed = now.millis.saturating_sub(last.millis);
        let (least, most) = (millis(now.asked - last.answered), millis(now.answered - last.asked));
        let tolerance = millis(tolerance);
        if passed > most.saturating_add(tolerance) {
            return Some(Jump::Forward(duration(passed - most)));
        }
        if passed < least.saturating_sub(tolerance) {
            return Some(Jump::Back(duration(least - passed)));
        }
        None
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn duration(millis: i64) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Two readings: the second one is asked for 10 s after the first answer, and takes `takes`.
    fn jump(takes: Duration, engine_passed: i64) -> Option<Jump> {
        let (mut clock, start) = (EngineClock::default(), Instant::now());
        let first = Reading { asked: start, answered: start, millis: 1_000_000 };
        assert_eq!(clock.observe(first, SECOND), None);
        let asked = start + 10 * SECOND;
        clock.observe(Reading { asked, answered: asked + takes, millis: 1_000_000 + engine_passed }, SECOND)
    }

    #[test]
    fn a_clock_that_was_set_is_told_from_one_that_goes() {
        for (takes, passed, expected) in [
            (0, 10_000, None),
            (0, 10_900, None),
            (0, 9_100, None),
            (0, 3_610_000, Some(Jump::Forward(3_600 * SECOND))),
            (0, -3_590_000, Some(Jump::Back(3_600 * SECOND))),
            // The answer took a while: the engine may have read its clock at any time of it.
            (60, 70_000, None),
            (60, 10_000, None),
            (60, 80_000, Some(Jump::Forward(10 * SECOND))),
        ] {
            assert_eq!(jump(takes * SECOND, passed), expected, "{takes}, {passed}");
        }
    }
}
