//! The store of a registry's dead letters.

use std::{collections::VecDeque, mem};

use rustc_hash::FxHashMap;

use crate::{
    model::{DeadLetter, TaskId, TaskName},
    task::work::BoxedWork,
    util::{loom::Mutex, panic::drop_catching},
};

pub(crate) type DeadLetterHook = dyn Fn(&DeadLetter) + Send + Sync;

/// The latest dead letters, up to a limit.
pub(crate) struct DeadLetterStore {
    limit: usize,
    letters: Mutex<Letters>,
    pub(crate) hook: Option<Box<DeadLetterHook>>,
}

#[derive(Default)]
struct Letters {
    /// The oldest first.
    kept: VecDeque<KeptLetter>,
    next_number: u64,
    counts: FxHashMap<TaskName, LetterCounts>,
}

/// How many letters there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LetterCounts {
    pub(crate) kept: u64,
    pub(crate) evicted: u64,
}

/// A letter, and the source that can make its task again.
pub(crate) struct KeptLetter {
    /// The sequence number of the letter.
    number: u64,
    pub(crate) letter: DeadLetter,
    source: Option<BoxedWork>,
    /// Its source was taken for a replay, which may be refused.
    is_replaying: bool,
}

/// What was found for a replay.
pub(crate) enum ReplaySource {
    Taken(BoxedWork),
    /// Another replay has it.
    InProgress,
    /// Dropped, because the registry was shut down.
    Dropped,
    /// The task can't be made again.
    None,
    /// There is no such letter.
    Unknown,
}

impl KeptLetter {
    pub(crate) const fn new(letter: DeadLetter, source: Option<BoxedWork>) -> Self {
        Self { number: 0, letter, source, is_replaying: false }
    }
}

impl Drop for KeptLetter {
    /// Drops the parts one by one, because each drop may panic.
    fn drop(&mut self) {
        drop_catching(self.source.take());
        self.letter.attempts.drain(..).for_each(drop_catching);
    }
}

impl DeadLetterStore {
    pub(crate) fn new(limit: usize, hook: Option<Box<DeadLetterHook>>) -> Self {
        Self { limit, letters: Mutex::default(), hook }
    }

    pub(crate) const fn is_enabled(&self) -> bool {
        self.limit > 0
    }

    /// How many letters are kept at most.
    pub(crate) const fn capacity(&self) -> usize {
        self.limit
    }

    /// All letters, the oldest first.
    pub(crate) fn list(&self) -> Vec<DeadLetter> {
        self.letters.lock().kept.iter().map(|kept| kept.letter.clone()).collect()
    }

    pub(crate) fn find(&self, id: TaskId) -> Option<DeadLetter> {
        self.letters.lock().kept.iter().find(|kept| kept.letter.id == id).map(|kept| kept.letter.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.letters.lock().kept.len()
    }

    /// The latest `count` letters with a number below `before`, the latest first, each with its number.
    pub(crate) fn latest(&self, before: Option<u64>, count: usize) -> Vec<(u64, DeadLetter)> {
        let letters = self.letters.lock();
        let end = letters.kept.partition_point(|kept| before.is_none_or(|before| kept.number < before));
        let latest = letters.kept.range(..end).rev().take(count);
        latest.map(|kept| (kept.number, kept.letter.clone())).collect()
    }

    /// The number of letters of each name.
    pub(crate) fn counts(&self) -> FxHashMap<TaskName, LetterCounts> {
        self.letters.lock().counts.clone()
    }

    pub(crate) fn insert(&self, mut kept: KeptLetter) {
        let mut letters = self.letters.lock();
        kept.number = letters.next_number;
        letters.next_number += 1;
        letters.counts.entry(kept.letter.name).or_default().kept += 1;
        letters.kept.push_back(kept);
        let evicted = letters.evict(self.limit);
        drop(letters);
        drop(evicted);
    }

    pub(crate) fn take(&self, id: TaskId) -> Option<KeptLetter> {
        let mut letters = self.letters.lock();
        let index = letters.kept.iter().position(|kept| kept.letter.id == id)?;
        let kept = letters.kept.remove(index)?;
        letters.count_removed(kept.letter.name);
        Some(kept)
    }

    /// Takes the source of a letter, which stays in the list until the replay is accepted.
    pub(crate) fn take_source(&self, id: TaskId) -> ReplaySource {
        let mut letters = self.letters.lock();
        let Some(kept) = letters.find(id) else {
            return ReplaySource::Unknown;
        };
        match kept.source.take() {
            Some(source) => {
                kept.is_replaying = true;
                ReplaySource::Taken(source)
            }
            None if kept.is_replaying => ReplaySource::InProgress,
            None if kept.letter.is_replayable => ReplaySource::Dropped,
            None => ReplaySource::None,
        }
    }

    /// Ends a replay that was refused, and gives the source back. If the letter was removed meanwhile, the source is
    /// dropped.
    pub(crate) fn put_back(&self, id: TaskId, mut source: Option<BoxedWork>) {
        let mut letters = self.letters.lock();
        if let Some(kept) = letters.find(id) {
            kept.source = source.take();
            kept.is_replaying = false;
        }
        drop(letters);
        drop_catching(source);
    }

    /// Drops the sources of all letters, because the registry no longer accepts tasks. A factory may hold the registry,
    /// which would otherwise keep itself alive. Returns how many could have been replayed.
    pub(crate) fn drop_sources(&self) -> usize {
        let mut letters = self.letters.lock();
        let sources: Vec<_> = letters.kept.iter_mut().filter_map(|kept| kept.source.take()).collect();
        drop(letters);
        let count = sources.len();
        sources.into_iter().for_each(drop_catching);
        count
    }

    /// Drops all letters, and returns their number.
    pub(crate) fn clear(&self) -> usize {
        let mut letters = self.letters.lock();
        letters.counts.values_mut().for_each(|counts| counts.kept = 0);
        let kept = mem::take(&mut letters.kept);
        drop(letters);
        kept.len()
    }
}

impl Letters {
    fn find(&mut self, id: TaskId) -> Option<&mut KeptLetter> {
        self.kept.iter_mut().find(|kept| kept.letter.id == id)
    }

    /// Removes the oldest letter, if there are more than `limit`.
    fn evict(&mut self, limit: usize) -> Option<KeptLetter> {
        if self.kept.len() <= limit {
            return None;
        }
        let evicted = self.kept.pop_front()?;
        self.count_removed(evicted.letter.name).evicted += 1;
        Some(evicted)
    }

    /// Counts a letter of this name less, and returns the counts of the name.
    fn count_removed(&mut self, name: TaskName) -> &mut LetterCounts {
        let counts = self.counts.entry(name).or_default();
        counts.kept = counts.kept.saturating_sub(1);
        counts
    }
}
