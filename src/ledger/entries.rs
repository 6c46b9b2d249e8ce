//! The live sets and spawned tasks of a shard, by number.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::model::SEATS;

/// How many numbers a part spans. Each thread draws every 64th of them, so a part has 896 entries for each thread whose
/// tasks are in the shard, if all are live. 7/8 of a power of two fill a hash table: full parts have no unused room.
const PART: u64 = 896 * SEATS as u64;

/// How many parts there are before an empty one is removed, so that a shard with few live tasks makes none for each.
const KEPT: usize = 4;

/// The most entries that an empty part keeps room for.
const KEPT_ROOM: usize = 256;

/// A map in parts, in the order of the numbers. No step under the lock of the shard takes longer than one part: a part
/// that is full grows alone, and a reader of all numbers reads a part at a time.
pub(crate) struct Entries<T> {
    parts: VecDeque<Part<T>>,
    /// The index of the part that was used last.
    last: usize,
}

struct Part<T> {
    /// Its numbers, divided by `PART`.
    key: u64,
    entries: FxHashMap<u64, T>,
    /// The most entries that it has had at a time. The capacity of a map does not tell for how many it has room.
    most: usize,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { parts: VecDeque::new(), last: 0 }
    }
}

impl<T> Entries<T> {
    #[inline]
    pub(crate) fn insert(&mut self, number: u64, entry: T) {
        let key = number / PART;
        match self.find(key) {
            Ok(index) => self.last = index,
            Err(_) => self.last = self.add_part(key),
        }
        if let Some(part) = self.parts.get_mut(self.last) {
            part.entries.insert(number, entry);
            part.most = part.most.max(part.entries.len());
        }
    }

    #[inline]
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.get(number).is_some()
    }

    #[inline]
    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        let index = self.find(number / PART).ok()?;
        self.parts.get(index)?.entries.get(&number)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.last = self.find(number / PART).ok()?;
        self.parts.get_mut(self.last)?.entries.get_mut(&number)
    }

    #[inline]
    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        self.last = self.find(number / PART).ok()?;
        let part = self.parts.get_mut(self.last)?;
        let removed = part.entries.remove(&number)?;
        if part.entries.is_empty() && (part.most > KEPT_ROOM || self.parts.len() > KEPT) {
            self.give_room_back();
        }
        Some(removed)
    }

    /// Adds a part, in the room of an empty one if there is one: as the numbers go up, most parts follow one that has
    /// become empty. Returns its index.
    #[cold]
    fn add_part(&mut self, key: u64) -> usize {
        let empty = self.parts.iter().take(KEPT).position(|part| part.entries.is_empty());
        let (entries, most) = empty
            .and_then(|empty| self.parts.remove(empty))
            .map_or_else(|| (FxHashMap::default(), 0), |empty| (empty.entries, empty.most));
        let index = self.parts.partition_point(|part| part.key < key);
        self.parts.insert(index, Part { key, entries, most });
        index
    }

    /// Gives back the room of the part that was used last, which is empty.
    #[cold]
    fn give_room_back(&mut self) {
        if self.parts.len() > KEPT {
            self.parts.remove(self.last);
            if self.parts.len() < self.parts.capacity() / 8 {
                self.parts.shrink_to(2 * self.parts.len());
            }
        } else if let Some(part) = self.parts.get_mut(self.last) {
            (part.entries, part.most) = (FxHashMap::default(), 0);
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.parts.iter().flat_map(|part| part.entries.values())
    }

    /// Adds the numbers from `first` on of the first part that has some, in no order. Returns the number to go on from;
    /// `None` at the end.
    pub(crate) fn numbers_from(&self, first: u64, numbers: &mut Vec<u64>) -> Option<u64> {
        let begin = self.parts.partition_point(|part| part.key < first / PART);
        let part = self.parts.range(begin..).find(|part| !part.entries.is_empty())?;
        numbers.extend(part.entries.keys().copied().filter(|number| *number >= first));
        (part.key + 1).checked_mul(PART)
    }

    /// The part of a key, or where it would be.
    #[inline]
    fn find(&self, key: u64) -> Result<usize, usize> {
        match self.parts.get(self.last) {
            Some(part) if part.key == key => Ok(self.last),
            _ => self.parts.binary_search_by_key(&key, |part| part.key),
        }
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read<T>(entries: &Entries<T>, mut first: u64) -> Vec<u64> {
        let mut read = Vec::new();
        loop {
            let mut part = Vec::new();
            let next = entries.numbers_from(first, &mut part);
            part.sort_unstable();
            read.extend(part);
            let Some(next) = next else { break };
            first = next;
        }
        read
    }

    // Against a map that is simple: few and many parts, with numbers at random.
    #[test]
    fn behaves_as_a_map_in_order() {
        for spread in [10, PART, 40 * PART] {
            let mut random = fastrand::Rng::with_seed(spread);
            let (mut entries, mut model) = (Entries::default(), BTreeMap::new());
            for step in 0..20_000 {
                let number = random.u64(1..=spread);
                // Full and empty in turns.
                if random.u32(..100) < if step % 4_000 < 2_000 { 70 } else { 10 } {
                    entries.insert(number, step);
                    model.insert(number, step);
                } else {
                    assert_eq!(entries.remove(number), model.remove(&number));
                }
                let other = random.u64(1..=spread);
                assert_eq!(entries.get(other), model.get(&other));
                assert_eq!(entries.get_mut(other).copied(), model.get(&other).copied());
                if step % 500 == 0 {
                    let first = random.u64(0..=spread);
                    assert_eq!(
                        read(&entries, first),
                        model.range(first..).map(|(number, _)| *number).collect::<Vec<_>>()
                    );
                    assert_eq!(entries.values().count(), model.len());
                }
            }
            assert!(entries.parts.iter().is_sorted_by_key(|part| part.key));
            for number in model.keys() {
                entries.remove(*number);
            }
            assert!(entries.parts.len() <= KEPT + 1 && read(&entries, 0).is_empty());
        }
    }

    #[test]
    fn the_last_number_ends_the_reading() {
        let mut entries = Entries::default();
        entries.insert(u64::MAX, ());
        assert_eq!(read(&entries, 0), [u64::MAX]);
    }
}
