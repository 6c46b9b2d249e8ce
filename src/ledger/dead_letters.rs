//! Where a registry keeps its dead letters.

use std::collections::VecDeque;

use crate::{
    model::{DeadLetter, TaskId},
    task::work::BoxedWork,
    util::{loom::Mutex, panic::drop_catching},
};

pub(crate) type DeadLetterHook = dyn Fn(&DeadLetter) + Send + Sync;

/// Where a registry keeps its dead letters.
pub(crate) struct Store {
    limit: usize,
    pub(crate) letters: Mutex<Letters>,
    pub(crate) hook: Option<Box<DeadLetterHook>>,
}

#[derive(Default)]
pub(crate) struct Letters {
    /// The oldest first.
    pub(crate) kept: VecDeque<Kept>,
    next: u64,
    displaced: u64,
}

pub(crate) struct Kept {
    /// In which order they came.
    pub(crate) number: u64,
    pub(crate) letter: DeadLetter,
    pub(crate) source: Option<BoxedWork>,
}

impl Drop for Kept {
    /// One by one, as each may panic.
    fn drop(&mut self) {
        drop_catching(self.source.take());
        self.letter.attempts.drain(..).for_each(drop_catching);
    }
}

impl Store {
    pub(crate) fn new(limit: usize, hook: Option<Box<DeadLetterHook>>) -> Self {
        Self { limit, letters: Mutex::default(), hook }
    }

    pub(crate) const fn are_kept(&self) -> bool {
        self.limit > 0
    }

    /// The latest letters that came before the `before`th, the latest first, each with its number.
    #[cfg(feature = "status")]
    pub(crate) fn latest(&self, before: Option<u64>, count: usize) -> Vec<(u64, DeadLetter)> {
        let letters = self.letters.lock();
        let end = letters.kept.partition_point(|kept| before.is_none_or(|before| kept.number < before));
        let latest = letters.kept.range(..end).rev().take(count);
        latest.map(|kept| (kept.number, kept.letter.clone())).collect()
    }

    /// How many are kept, and how many had to go.
    pub(crate) fn figures(&self) -> (u64, u64) {
        let letters = self.letters.lock();
        (letters.kept.len() as u64, letters.displaced)
    }

    pub(crate) fn add(&self, mut kept: Kept) {
        let mut letters = self.letters.lock();
        kept.number = letters.next;
        letters.next += 1;
        letters.kept.push_back(kept);
        let displaced = letters.displace(self.limit);
        drop(letters);
        drop(displaced);
    }

    pub(crate) fn take(&self, id: TaskId) -> Option<Kept> {
        let mut letters = self.letters.lock();
        let place = letters.kept.iter().position(|kept| kept.letter.id == id)?;
        letters.kept.remove(place)
    }

    /// Puts a letter back where it was, which may be where the next one has to go.
    pub(crate) fn put_back(&self, kept: Kept) {
        let mut letters = self.letters.lock();
        let place = letters.kept.partition_point(|other| other.number < kept.number);
        letters.kept.insert(place, kept);
        let displaced = letters.displace(self.limit);
        drop(letters);
        drop(displaced);
    }
}

impl Letters {
    /// Takes out the oldest, if there are too many.
    fn displace(&mut self, limit: usize) -> Option<Kept> {
        let displaced = if self.kept.len() > limit { self.kept.pop_front() } else { None };
        self.displaced += u64::from(displaced.is_some());
        displaced
    }
}
