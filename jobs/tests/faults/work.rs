//! The job of these tests, and the log that workers write of it.

use std::{collections::BTreeMap, fs, io::Write, path::Path, time::Duration};

use postlude::RetryPolicy;
use postlude_jobs::{Job, JobPolicy};
use serde::{Deserialize, Serialize};

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Action {
    /// Takes this many milliseconds.
    Take(u64),
    /// Takes an hour in the first attempt, and nothing in the next ones.
    TakeAnHourOnce,
    /// Does its work, and then aborts the process in the first attempt.
    DoAndAbortOnce,
    /// Aborts the process.
    Abort,
    /// Aborts the process after this many milliseconds.
    AbortAfter(u64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) number: u64,
    pub(crate) action: Action,
}

impl Job for Work {
    const NAME: &'static str = "work";

    fn policy() -> JobPolicy {
        JobPolicy::default().max_crashes(2).backoff(RetryPolicy::constant(Duration::ZERO))
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    Start {
        number: u64,
        attempt: u32,
        pid: u32,
    },
    End {
        number: u64,
        attempt: u32,
        pid: u32,
    },
    /// What a worker has counted, when it ended in an orderly way.
    Metrics {
        pid: u32,
        completed: u64,
        lost: u64,
        refused: u64,
    },
}

/// Appends a line, in one write, so that lines of several processes do not mix.
pub(crate) fn note(log: &Path, entry: &Entry) {
    let line = serde_json::to_string(entry).unwrap() + "\n";
    let mut file = fs::File::options().append(true).create(true).open(log).unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

pub(crate) fn read(log: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(log).unwrap_or_default();
    // The last line may be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How often the work of each number was done.
pub(crate) fn ends(log: &Path) -> BTreeMap<u64, usize> {
    let mut ends = BTreeMap::new();
    for entry in read(log) {
        if let Entry::End { number, .. } = entry {
            *ends.entry(number).or_default() += 1;
        }
    }
    ends
}

/// How often each number was started.
pub(crate) fn starts(log: &Path) -> usize {
    read(log).iter().filter(|entry| matches!(entry, Entry::Start { .. })).count()
}
