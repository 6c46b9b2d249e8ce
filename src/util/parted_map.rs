//! A map in parts, each under a lock of its own.

use std::{
    array,
    collections::BTreeMap,
    hash::{Hash, Hasher},
};

use rustc_hash::FxHasher;

use crate::util::loom::{Mutex, MutexGuard};

/// In how many parts the keys are kept, each under a lock of its own.
const PARTS: usize = 16;

/// A map in parts, each under a lock of its own. An ordered map, because keys may come from clients, who could make
/// the keys of a hash map collide; and because it grows and shrinks in small steps.
pub(crate) struct PartedMap<K, V> {
    parts: [Mutex<BTreeMap<K, V>>; PARTS],
}

impl<K: Hash + Ord, V> PartedMap<K, V> {
    pub(crate) fn new() -> Self {
        Self { parts: array::from_fn(|_| Mutex::new(BTreeMap::new())) }
    }

    /// Locks the part that has the key, or would have it.
    #[expect(clippy::indexing_slicing, reason = "within the number of parts")]
    pub(crate) fn part(&self, key: &K) -> MutexGuard<'_, BTreeMap<K, V>> {
        let mut hasher = FxHasher::default();
        key.hash(&mut hasher);
        self.parts[(hasher.finish() >> 32) as usize % PARTS].lock()
    }

    #[cfg(test)]
    #[cfg(not(postlude_loom))]
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }
}
