//! The jobs of these tests, and the log that workers write of them.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
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
    /// Fails in the first attempt.
    FailOnce,
    /// Does its work, and then aborts the process in the first attempt.
    DoAndAbortOnce,
    /// Aborts the process in the first attempt.
    AbortOnce,
    /// Aborts the process.
    Abort,
    /// Aborts the process after this many milliseconds.
    AbortAfter(u64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) number: u64,
    pub(crate) action: Action,
    /// Makes the payload larger.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) ballast: String,
}

impl Work {
    pub(crate) const fn new(number: u64, action: Action) -> Self {
        Self { number, action, ballast: String::new() }
    }
}

impl Job for Work {
    const NAME: &'static str = "work";

    fn policy() -> JobPolicy {
        JobPolicy::default().max_crashes(2).backoff(RetryPolicy::constant(Duration::ZERO))
    }
}

/// The same, and it may crash as often as it likes: it is not its own fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ToughWork(pub(crate) Work);

impl Job for ToughWork {
    const NAME: &'static str = "tough";

    fn policy() -> JobPolicy {
        JobPolicy::default().max_crashes(1_000).backoff(RetryPolicy::constant(Duration::from_millis(50)))
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// A push has returned.
    Pushed {
        number: u64,
    },
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

/// Reads a log that grows.
pub(crate) struct Log {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    read: u64,
    entries: Vec<Entry>,
}

impl Log {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.with(<[Entry]>::to_vec)
    }

    /// How often the work of each number was done.
    pub(crate) fn ends(&self) -> BTreeMap<u64, usize> {
        self.with(|entries| {
            let mut ends = BTreeMap::new();
            for entry in entries {
                if let Entry::End { number, .. } = entry {
                    *ends.entry(*number).or_default() += 1;
                }
            }
            ends
        })
    }

    /// How many runs have started.
    pub(crate) fn starts(&self) -> usize {
        self.with(|entries| entries.iter().filter(|entry| matches!(entry, Entry::Start { .. })).count())
    }

    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        self.with(<[Entry]>::len)
    }

    fn with<T>(&self, of: impl FnOnce(&[Entry]) -> T) -> T {
        let mut state = self.state.lock();
        if let Ok(mut file) = fs::File::open(&self.path) {
            let mut text = String::new();
            file.seek(SeekFrom::Start(state.read)).unwrap();
            file.read_to_string(&mut text).unwrap();
            // The last line may be on its way.
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            state.read += whole as u64;
            state.entries.extend(text[..whole].lines().map(|line| serde_json::from_str::<Entry>(line).unwrap()));
        }
        of(&state.entries)
    }
}
