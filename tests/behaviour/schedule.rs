//! When a cron expression ticks.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use postlude::{Schedule, ScheduleError};
use proptest::prelude::*;

use crate::support::SECOND;

fn utc(text: &str) -> SystemTime {
    text.parse::<Timestamp>().unwrap().into()
}

/// The ticks after `from`, up to `to`.
fn ticks(schedule: &Schedule, from: SystemTime, to: SystemTime) -> Vec<SystemTime> {
    let next = |tick: &SystemTime| schedule.next_after(*tick);
    std::iter::successors(next(&from), next).take_while(|tick| *tick <= to).collect()
}

fn text(ticks: &[SystemTime]) -> Vec<String> {
    ticks.iter().map(|tick| Timestamp::try_from(*tick).unwrap().to_string()).collect()
}

/// A night: its zone, from when to when, an expression, and the ticks of that night.
type Night = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

const BERLIN: &str = "Europe/Berlin";
const NEW_YORK: &str = "America/New_York";
const LORD_HOWE: &str = "Australia/Lord_Howe";

/// On the 29th of March, 02:00 to 03:00 is skipped in Berlin, at 01:00 in UTC; on the 8th, the same in New York, at
/// 07:00 in UTC. On Lord Howe the half hour from 02:00 on is skipped, on the 4th of October at 15:30 in UTC.
const SKIPPED: &[Night] = &[
    (BERLIN, "2026-03-28T23:00:00Z", "2026-03-29T23:00:00Z", "30 2 * * *", &["2026-03-29T01:00:00Z"]),
    (BERLIN, "2026-03-28T23:00:00Z", "2026-03-29T23:00:00Z", "0 2 * * *", &["2026-03-29T01:00:00Z"]),
    (BERLIN, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "30 1 * * *", &["2026-03-29T00:30:00Z"]),
    (BERLIN, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "0 3 * * *", &["2026-03-29T01:00:00Z"]),
    (
        BERLIN,
        "2026-03-29T00:00:00Z",
        "2026-03-29T02:00:00Z",
        "*/30 * * * *",
        &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:00:00Z"],
    ),
    (BERLIN, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "30 2,14 * * *", &["2026-03-29T12:30:00Z"]),
    (NEW_YORK, "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z", "30 2 * * *", &["2026-03-08T07:00:00Z"]),
    (
        NEW_YORK,
        "2026-03-08T06:00:00Z",
        "2026-03-08T08:00:00Z",
        "0,30 * * * *",
        &["2026-03-08T06:30:00Z", "2026-03-08T07:00:00Z", "2026-03-08T07:30:00Z", "2026-03-08T08:00:00Z"],
    ),
    (LORD_HOWE, "2026-10-03T14:00:00Z", "2026-10-04T12:00:00Z", "15 2 * * *", &["2026-10-03T15:30:00Z"]),
];

/// On the 25th of October, 02:00 to 03:00 comes twice in Berlin, the second time at 01:00 in UTC; on the 1st of
/// November, 01:00 to 02:00 in New York, the second time at 06:00 in UTC.
const DOUBLED: &[Night] = &[
    (BERLIN, "2026-10-24T22:00:00Z", "2026-10-25T22:00:00Z", "30 2 * * *", &["2026-10-25T00:30:00Z"]),
    (BERLIN, "2026-10-24T22:00:00Z", "2026-10-25T22:00:00Z", "0 2 * * *", &["2026-10-25T00:00:00Z"]),
    (BERLIN, "2026-10-24T22:00:00Z", "2026-10-25T22:00:00Z", "0 3 * * *", &["2026-10-25T02:00:00Z"]),
    (
        BERLIN,
        "2026-10-25T00:00:00Z",
        "2026-10-25T02:00:00Z",
        "*/30 * * * *",
        &["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"],
    ),
    (NEW_YORK, "2026-11-01T04:00:00Z", "2026-11-02T04:00:00Z", "30 1 * * *", &["2026-11-01T05:30:00Z"]),
    (
        NEW_YORK,
        "2026-11-01T05:00:00Z",
        "2026-11-01T07:00:00Z",
        "0,30 * * * *",
        &["2026-11-01T05:30:00Z", "2026-11-01T06:00:00Z", "2026-11-01T06:30:00Z", "2026-11-01T07:00:00Z"],
    ),
    (LORD_HOWE, "2026-04-04T13:00:00Z", "2026-04-05T13:00:00Z", "45 1 * * *", &["2026-04-04T14:45:00Z"]),
];

#[test]
fn skipped_and_doubled_hours() {
    for (zone, from, to, expression, expected) in SKIPPED.iter().chain(DOUBLED) {
        let schedule = Schedule::parse(expression).unwrap().time_zone(zone).unwrap();
        assert_eq!(text(&ticks(&schedule, utc(from), utc(to))), *expected, "{schedule}");
    }
}

/// The latest tick is the last that `next_after` has found, at each minute of the nights.
#[test]
fn latest_until_agrees_with_next_after() {
    for (zone, from, to, expression, _) in SKIPPED.iter().chain(DOUBLED) {
        let schedule = Schedule::parse(expression).unwrap().time_zone(zone).unwrap();
        let (from, to) = (utc(from) - 48 * 3600 * SECOND, utc(to) + 24 * 3600 * SECOND);
        let all = ticks(&schedule, from, to);
        for step in 0..2_300 {
            let now = from + step * 151 * SECOND + Duration::from_millis(1);
            let latest = all.iter().rfind(|tick| **tick <= now);
            if let (Some(latest), true) = (latest, now <= to) {
                assert_eq!(schedule.latest_until(now), Some(*latest), "{schedule} at {now:?}");
            }
        }
    }
}

#[test]
fn a_tick_is_not_after_itself() {
    let hourly = Schedule::parse("0 * * * *").unwrap();
    let hour = utc("2026-05-01T07:00:00Z");
    assert_eq!(hourly.next_after(hour), Some(hour + 3600 * SECOND));
    assert_eq!(hourly.next_after(hour - SECOND / 2), Some(hour));
    assert_eq!(hourly.latest_until(hour), Some(hour));
    assert_eq!(hourly.latest_until(hour - SECOND / 2), Some(hour - 3600 * SECOND));
}

#[test]
fn days_of_month_and_week_match_either_or_both() {
    let (from, to) = (utc("2026-02-01T00:00:00Z"), utc("2026-03-01T00:00:00Z"));
    let days = |expression: &str| {
        let ticks = ticks(&Schedule::parse(expression).unwrap(), from - SECOND, to - SECOND);
        text(&ticks).iter().map(|tick| tick[8..10].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(days("0 0 15 * FRI"), ["06", "13", "15", "20", "27"]);
    assert_eq!(days("0 0 13 * +FRI"), ["13"]);
    assert_eq!(days("0 0 L * *"), ["28"]);
    assert_eq!(days("0 0 * * MON#2"), ["09"]);
    assert_eq!(days("0 0 * FEB 7"), ["01", "08", "15", "22"]);
    assert_eq!(days("@monthly"), ["01"]);
}

mod parse {
    use super::*;

    /// An error names the text and the field, and says what to write.
    #[test]
    fn says_what_is_wrong() {
        for (expression, reason) in [
            ("", "it is empty"),
            ("every", "it has 1 field"),
            ("TZ=Europe/Berlin 0 3 * * *", "the time zone comes after `CRON_TZ=`"),
            ("* * *", "it has 3 fields"),
            ("* * * * * * * *", "it has 8 fields"),
            ("@reboot", "there is no such shortcut"),
            ("60 * * * *", "the minute can't be `60`: number out of bounds"),
            ("0 25 * * *", "the hour can't be `25`: number out of bounds"),
            ("0 0 32 * *", "the day of the month can't be `32`: number out of bounds"),
            ("0 0 1 13 *", "the month can't be `13`: number out of bounds"),
            ("0 0 * * 8", "the day of the week can't be `8`: number out of bounds"),
            ("60 0 0 * * *", "the second can't be `60`: number out of bounds"),
            ("*/0 * * * *", "the minute can't be `*/0`: step cannot be zero"),
            (
                "0 0 * * FOO",
                "the day of the week can't be `FOO`: it has a character or a name that is not allowed there",
            ),
            (", * * * *", "the minute can't be `,`: the list has an empty item"),
            ("0 1,,2 * * *", "the hour can't be `1,,2`: the list has an empty item"),
            ("0 noon * * *", "the hour can't be `noon`: it has a character or a name that is not allowed there"),
        ] {
            let error = Schedule::parse(expression).unwrap_err();
            let text = error.to_string();
            let ScheduleError::Expression { expression: named, reason: given, .. } = error else {
                panic!("{text}")
            };
            assert_eq!((named.as_str(), given.as_str()), (expression, reason));
            assert!(text.contains("write minute, hour, day of the month"), "{text}");
        }
    }

    #[test]
    fn an_expression_that_matches_no_date() {
        for expression in ["0 0 30 2 *", "0 0 31 4,6 *", "0 0 1 1 +MON#5"] {
            let error = Schedule::parse(expression).unwrap_err();
            assert!(
                matches!(&error, ScheduleError::NoDate { expression: named, .. } if named == expression),
                "{error}"
            );
        }
        assert!(Schedule::parse("0 0 29 2 *").is_ok());
        assert!(Schedule::parse("0 0 29 2 +MON").is_ok());
    }

    #[test]
    fn a_time_zone_before_the_expression() {
        let schedule = Schedule::parse(" CRON_TZ=europe/berlin  0 3 * * * ").unwrap();
        assert_eq!(schedule, Schedule::parse("0 3 * * *").unwrap().time_zone("Europe/Berlin").unwrap());
        assert_eq!(schedule.to_string(), "CRON_TZ=Europe/Berlin 0 3 * * *");
        assert_eq!(schedule.to_string().parse(), Ok(schedule));
        assert_eq!(Schedule::parse("CRON_TZ=UTC 0 3 * * *").unwrap().to_string(), "0 3 * * *");
        for text in ["CRON_TZ=", "CRON_TZ=Europe/Berlin", "CRON_TZ= 0 3 * * *"] {
            Schedule::parse(text).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}", fields in "[-+*/,0-9A-Zß#@? ]{0,40}") {
            for schedule in [Schedule::parse(&text), Schedule::parse(&fields)].into_iter().flatten() {
                let now = SystemTime::now();
                prop_assert!(schedule.next_after(now).is_none_or(|tick| tick > now));
                prop_assert!(schedule.latest_until(now).is_none_or(|tick| tick <= now));
            }
        }
    }
}

mod time_zone {
    use super::*;

    #[test]
    fn unknown_is_an_error_that_names_it() {
        let error = Schedule::parse("0 3 * * *").unwrap().time_zone("Europe/Berln").unwrap_err();
        assert!(matches!(&error, ScheduleError::TimeZone { name, .. } if name == "Europe/Berln"), "{error}");
        assert!(error.to_string().contains("Europe/Berlin"), "{error}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn serialises_as_text() {
    let schedule = Schedule::parse("0 3 * * MON").unwrap().time_zone("Europe/Berlin").unwrap();
    let json = serde_json::to_value(&schedule).unwrap();
    assert_eq!(json, "CRON_TZ=Europe/Berlin 0 3 * * MON");
    assert_eq!(serde_json::from_value::<Schedule>(json).unwrap(), schedule);
    let error = serde_json::from_value::<Schedule>("0 25 * * *".into()).unwrap_err();
    assert!(error.to_string().contains("the hour can't be `25`"), "{error}");
}
