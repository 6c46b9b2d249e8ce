//! The limits of names: those of the builder, and those that are set at run time.

use std::{
    hash::{Hash, Hasher},
    iter,
    sync::{Arc, OnceLock},
};

use rustc_hash::FxHasher;

#[cfg(feature = "rate-limit")]
use super::rate::RateGate;
use crate::{
    model::TaskName,
    util::{
        loom::atomic::{AtomicBool, Ordering},
        semaphore::PrioritySemaphore,
    },
};

const BUCKETS: usize = 32;

/// The limits of the tasks of one name.
pub(crate) struct NameLimits {
    #[cfg(feature = "rate-limit")]
    pub(super) rate: Option<RateGate>,
    /// How many may run at a time, and whether the name is paused.
    pub(crate) permits: Arc<PrioritySemaphore>,
}

impl NameLimits {
    pub(super) fn new(permits: Arc<PrioritySemaphore>) -> Self {
        Self {
            #[cfg(feature = "rate-limit")]
            rate: None,
            permits,
        }
    }

    /// How many of its tasks would start without waiting for it.
    pub(super) fn may_start(&self) -> usize {
        #[cfg(feature = "rate-limit")]
        if let Some(rate) = &self.rate {
            return if rate.is_ready() { self.permits.free().min(1) } else { 0 };
        }
        self.permits.free()
    }
}

/// The names that have limits. A look-up takes no lock, and entries are never removed: names come from a closed set.
#[derive(Default)]
pub(super) struct LimitedNames {
    has_any: AtomicBool,
    buckets: [Entry; BUCKETS],
}

/// A link of a list.
type Entry = OnceLock<Box<Link>>;

struct Link {
    name: TaskName,
    limits: NameLimits,
    next: Entry,
}

impl LimitedNames {
    /// The limits of a name, if it has any. If this runs under a lock that was taken after another thread has inserted
    /// them and has held that lock, it finds them.
    #[inline]
    pub(super) fn get(&self, name: TaskName) -> Option<&NameLimits> {
        // Acquire: pairs with the store of `get_or_insert`.
        if self.has_any.load(Ordering::Acquire) { self.find(name) } else { None }
    }

    #[inline(never)]
    fn find(&self, name: TaskName) -> Option<&NameLimits> {
        let mut entry = self.bucket(name);
        while let Some(link) = entry.get() {
            if link.name.is_same(name) || link.name == name {
                return Some(&link.limits);
            }
            entry = &link.next;
        }
        None
    }

    /// Gives a name limits, unless it has some. Returns its limits, and whether they are new.
    pub(super) fn get_or_insert(&self, name: TaskName, limits: NameLimits) -> (&NameLimits, bool) {
        let mut new = Some(Box::new(Link { name, limits, next: Entry::new() }));
        let mut entry = self.bucket(name);
        loop {
            // If another thread is faster, the next step finds what it has inserted.
            let Some(link) = entry.get() else {
                new = new.and_then(|new| entry.set(new).err());
                continue;
            };
            if link.name == name {
                // Release: pairs with the load of `get`.
                self.has_any.store(true, Ordering::Release);
                return (&link.limits, new.is_none());
            }
            entry = &link.next;
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is an index")]
    fn bucket(&self, name: TaskName) -> &Entry {
        let mut hasher = FxHasher::default();
        name.hash(&mut hasher);
        &self.buckets[usize::try_from(hasher.finish() % BUCKETS as u64).unwrap_or_default()]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskName, &NameLimits)> {
        self.buckets.iter().flat_map(|first| {
            let mut entry = first;
            iter::from_fn(move || {
                let link = entry.get()?;
                entry = &link.next;
                Some((link.name, &link.limits))
            })
        })
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_names_are_found_and_each_is_inserted_once() {
        let names = LimitedNames::default();
        let text: &'static str = "n".repeat(1_000).leak();
        let all: Vec<_> = (1..=1_000).filter_map(|length| text.get(..length)).map(TaskName::from).collect();
        assert!(names.get(all[0]).is_none() && names.iter().next().is_none());
        for (limit, name) in all.iter().enumerate() {
            for is_new in [true, false] {
                let limits = NameLimits::new(PrioritySemaphore::new(limit + 1));
                assert_eq!(names.get_or_insert(*name, limits).1, is_new);
            }
        }
        let limit_of = |name| names.get(name).unwrap().permits.usage().limit.unwrap();
        assert_eq!((limit_of(all[0]), limit_of(all[999])), (1, 1_000));
        assert_eq!(names.iter().count(), 1_000);
        assert!(names.get(TaskName::from("other")).is_none());
    }
}
