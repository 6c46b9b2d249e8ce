//! Semaphores by key, each of which exists while it is used.

use std::{collections::btree_map, hash::Hash, sync::Arc, time::Duration};

use crate::util::{
    parted_map::PartedMap,
    semaphore::{Acquire, Permit, PrioritySemaphore},
};

/// A [`PrioritySemaphore`] for each key that is in use.
pub(crate) struct KeyedSemaphores<K: Hash + Ord + Clone> {
    used: PartedMap<K, Used>,
}

struct Used {
    semaphore: Arc<PrioritySemaphore>,
    /// The number of permits and of those who wait for one. The entry is removed with the last of them.
    uses: usize,
}

/// Counts as a use of the semaphore of its key.
struct KeyUse<K: Hash + Ord + Clone> {
    semaphores: Arc<KeyedSemaphores<K>>,
    key: K,
}

/// A permit of a key. Released when dropped.
pub(crate) struct KeyedPermit<K: Hash + Ord + Clone> {
    _permit: Permit,
    _key_use: KeyUse<K>,
}

/// A position in the queue for the permits of a key.
///
/// # Cancel safety
/// If it is dropped, it leaves the queue, or releases the permit that it owns.
pub(crate) struct KeyedAcquire<K: Hash + Ord + Clone> {
    acquire: Acquire,
    key_use: KeyUse<K>,
}

impl<K: Hash + Ord + Clone> KeyedSemaphores<K> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { used: PartedMap::new() })
    }

    /// Enters the queue for the permits of a key, of which there are `permits`. The lowest rank is served first, then
    /// in order of arrival.
    pub(crate) fn enqueue(self: &Arc<Self>, key: K, permits: usize, rank: Duration) -> KeyedAcquire<K> {
        let mut part = self.used.part(&key);
        let used =
            part.entry(key.clone()).or_insert_with(|| Used { semaphore: PrioritySemaphore::new(permits), uses: 0 });
        used.uses += 1;
        let semaphore = Arc::clone(&used.semaphore);
        drop(part);
        KeyedAcquire { acquire: semaphore.enqueue(rank), key_use: KeyUse { semaphores: Arc::clone(self), key } }
    }

    #[cfg(test)]
    #[cfg(not(postlude_loom))]
    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }
}

impl<K: Hash + Ord + Clone> KeyedAcquire<K> {
    /// The position, and what turns its permit into one of the key.
    pub(crate) fn into_parts(self) -> (Acquire, impl FnOnce(Permit) -> KeyedPermit<K>) {
        let Self { acquire, key_use } = self;
        (acquire, |permit| KeyedPermit { _permit: permit, _key_use: key_use })
    }
}

impl<K: Hash + Ord + Clone> Drop for KeyUse<K> {
    fn drop(&mut self) {
        let mut part = self.semaphores.used.part(&self.key);
        let mut unused = None;
        if let btree_map::Entry::Occupied(mut used) = part.entry(self.key.clone()) {
            used.get_mut().uses -= 1;
            if used.get().uses == 0 {
                unused = Some(used.remove_entry());
            }
        }
        drop(part);
        drop(unused);
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_semaphore_exists_while_it_is_used() {
        let semaphores = KeyedSemaphores::new();
        let enter = |key| {
            let (acquire, with_use) = semaphores.enqueue(key, 1, Duration::ZERO).into_parts();
            async { with_use(acquire.await) }
        };
        let (first, second, other) = (enter(1).await, enter(1), enter(2).await);
        assert_eq!(semaphores.len(), 2);
        drop(other);
        assert_eq!(semaphores.len(), 1);
        drop(first);
        let second = second.await;
        let third = enter(1);
        drop(second);
        assert_eq!(semaphores.len(), 1);
        // It has a permit, and was never polled.
        drop(third);
        assert_eq!(semaphores.len(), 0);
        drop(enter(1).await);
        assert_eq!(semaphores.len(), 0);
    }
}
