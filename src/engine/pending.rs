//! The pending tasks of a set.

use std::{collections::VecDeque, iter, mem};

use crate::{ledger::history::CHUNK, model::TaskId, task::Task, util::rare::Rare};

/// The pending tasks: first in, first out.
///
/// They are ordered by index, so that a task is found by binary search. They are stored in segments, so that no step
/// takes longer than one segment, however many they are. A task that is removed leaves a gap in its segment, so that no
/// other task is moved.
#[derive(Default)]
pub(crate) struct Pending {
    /// Stored inline, because most sets have one task. It may be empty while the others are not.
    first: Slot,
    /// Those after it, up to one segment.
    others: Segment,
    /// The segments after that. None is empty.
    later: Rare<VecDeque<Segment>>,
    /// The number of tasks.
    len: usize,
}

#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) index: u64,
    /// `None` for a gap.
    pub(crate) task: Option<Task>,
}

/// Slots in the order of their indexes.
#[derive(Default)]
struct Segment {
    slots: VecDeque<Slot>,
    /// How many of them are gaps.
    gaps: usize,
}

/// The most slots of a segment, apart from tasks that arrive out of order.
const SEGMENT: usize = 512;

impl Segment {
    fn of(slot: Slot) -> Self {
        Self { slots: VecDeque::from([slot]), gaps: 0 }
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.gaps = 0;
    }

    fn last(&self) -> Option<u64> {
        self.slots.back().map(|slot| slot.index)
    }

    fn is_full(&self) -> bool {
        self.slots.len() >= SEGMENT
    }

    fn pop(&mut self) -> Option<Task> {
        while let Some(slot) = self.slots.pop_front() {
            match slot.task {
                Some(task) => return Some(task),
                None => self.gaps -= 1,
            }
        }
        None
    }

    fn insert(&mut self, slot: Slot) {
        let position = self.slots.partition_point(|other| other.index < slot.index);
        self.slots.insert(position, slot);
    }

    fn remove(&mut self, index: u64) -> Option<Task> {
        let position = self.position(index)?;
        let removed = self.slots.get_mut(position)?.task.take()?;
        self.gaps += 1;
        if self.gaps > self.slots.len() / 2 {
            self.slots.retain(|slot| slot.task.is_some());
            self.gaps = 0;
        }
        Some(removed)
    }

    fn find(&self, index: u64) -> Option<&Task> {
        self.slots.get(self.position(index)?)?.task.as_ref()
    }

    fn find_mut(&mut self, index: u64) -> Option<&mut Task> {
        let position = self.position(index)?;
        self.slots.get_mut(position)?.task.as_mut()
    }

    fn position(&self, index: u64) -> Option<usize> {
        self.slots.binary_search_by_key(&index, |slot| slot.index).ok()
    }

    /// The slots whose index is `from` or above.
    fn range(&self, from: u64) -> impl Iterator<Item = &Slot> {
        self.slots.range(self.slots.partition_point(|slot| slot.index < from)..)
    }
}

/// The position of the segment that has an index, or would have it.
fn segment_of(segments: &VecDeque<Segment>, index: u64) -> usize {
    segments.partition_point(|segment| segment.last().is_some_and(|last| last < index))
}

impl Pending {
    /// Adds the task that has drawn `index`.
    #[inline]
    pub(crate) fn push(&mut self, index: u64, task: Task) {
        let slot = Slot { index, task: Some(task) };
        if self.is_empty() {
            // What is left are gaps.
            if self.others.gaps > 0 {
                self.others.clear();
            }
            self.first = slot;
        } else if self.later.is_none() && self.others.last().unwrap_or(self.first.index) < index {
            self.push_other(slot);
        } else {
            self.push_later(slot);
        }
        self.len += 1;
    }

    #[inline]
    fn push_other(&mut self, slot: Slot) {
        if self.others.is_full() {
            self.later.get_or_insert_default().push_back(Segment::of(slot));
        } else {
            self.others.slots.push_back(slot);
        }
    }

    /// Two threads that add at the same time may arrive in another order than they drew their indexes.
    #[cold]
    fn push_later(&mut self, slot: Slot) {
        if self.first.task.is_some() && self.first.index > slot.index {
            let first = mem::replace(&mut self.first, slot);
            return self.others.insert(first);
        }
        let Some(later) = &mut *self.later else { return self.others.insert(slot) };
        match later.back_mut() {
            Some(last) if last.last().is_none_or(|last| last < slot.index) && last.is_full() => {
                later.push_back(Segment::of(slot));
            }
            _ => match segment_of(later, slot.index) {
                0 if self.others.last().is_some_and(|last| last > slot.index) => self.others.insert(slot),
                position => {
                    let position = position.min(later.len() - 1);
                    if let Some(segment) = later.get_mut(position) {
                        segment.insert(slot);
                    }
                }
            },
        }
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Task> {
        if self.is_empty() {
            return None;
        }
        self.len -= 1;
        if let Some(first) = self.first.task.take() {
            return Some(first);
        }
        match self.others.slots.pop_front() {
            Some(Slot { task: Some(task), .. }) => Some(task),
            Some(Slot { task: None, .. }) => {
                self.others.gaps -= 1;
                self.pop_beyond()
            }
            None => self.pop_beyond(),
        }
    }

    /// Takes the next task, which is behind a gap or in a later segment.
    #[cold]
    fn pop_beyond(&mut self) -> Option<Task> {
        if let Some(task) = self.others.pop() {
            return Some(task);
        }
        self.others = self.later.as_mut()?.pop_front()?;
        self.forget_empty();
        self.others.pop()
    }

    /// Removes a task.
    pub(crate) fn remove(&mut self, id: TaskId) -> Option<Task> {
        let removed = if self.first.index == id.index {
            self.first.task.take()?
        } else if self.others.last().is_some_and(|last| id.index <= last) {
            self.others.remove(id.index)?
        } else {
            let later = self.later.as_mut()?;
            let position = segment_of(later, id.index);
            let segment = later.get_mut(position)?;
            let removed = segment.remove(id.index)?;
            if segment.slots.is_empty() {
                later.remove(position);
                self.forget_empty();
            }
            removed
        };
        self.len -= 1;
        Some(removed)
    }

    fn forget_empty(&mut self) {
        self.later.take_if(|later| later.is_empty());
    }

    pub(crate) fn find(&self, id: TaskId) -> Option<&Task> {
        if self.first.index == id.index {
            return self.first.task.as_ref();
        }
        if self.others.last().is_some_and(|last| id.index <= last) {
            return self.others.find(id.index);
        }
        let later = self.later.as_ref()?;
        let position = segment_of(later, id.index);
        later.get(position)?.find(id.index)
    }

    pub(crate) fn find_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        if self.first.index == id.index {
            return self.first.task.as_mut();
        }
        if self.others.last().is_some_and(|last| id.index <= last) {
            return self.others.find_mut(id.index);
        }
        let later = self.later.as_mut()?;
        let position = segment_of(later, id.index);
        later.get_mut(position)?.find_mut(id.index)
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Some of the slots whose index is `from` or above, and whether there are more.
    pub(crate) fn chunk(&self, from: u64) -> (Vec<&Slot>, bool) {
        let first = (self.first.task.is_some() && self.first.index >= from).then_some(&self.first);
        let later = self.later.iter().flat_map(|later| later.range(segment_of(later, from)..));
        let others = iter::once(&self.others).chain(later).flat_map(|segment| segment.range(from));
        let mut slots: Vec<_> = first.into_iter().chain(others).take(CHUNK + 1).collect();
        let more = slots.len() > CHUNK;
        slots.truncate(CHUNK);
        (slots, more)
    }

    /// Calls `look` for some of the tasks whose index is `from` or above, in order. Returns the index to go on from;
    /// `None` after the last one.
    pub(crate) fn for_some(&mut self, from: u64, mut look: impl FnMut(&mut Task)) -> Option<u64> {
        let (slots, more) = self.chunk(from);
        let next = slots.last().filter(|_| more).map(|last| last.index + 1);
        let tasks = slots.into_iter().filter_map(|slot| slot.task.as_ref());
        let ids: Vec<_> = tasks.map(|task| task.meta().id()).collect();
        for id in ids {
            if let Some(task) = self.find_mut(id) {
                look(task);
            }
        }
        next
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Task> {
        let later = self.later.iter().flat_map(|later| later.iter());
        let others = iter::once(&self.others).chain(later).flat_map(|segment| &segment.slots);
        self.first.task.iter().chain(others.filter_map(|slot| slot.task.as_ref()))
    }

    /// Removes all tasks.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Task> + use<> {
        let mut taken = mem::take(self);
        let later = taken.later.take().into_iter().flat_map(|later| later.into_iter());
        let others = iter::once(taken.others).chain(later).flat_map(|segment| segment.slots);
        taken.first.task.into_iter().chain(others.filter_map(|slot| slot.task))
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
pub(crate) mod tests {
    use super::*;
    use crate::{telemetry::Telemetry, util::clock::Timestamp};

    pub(crate) fn id(index: u64) -> TaskId {
        TaskId { number: 1, index }
    }

    pub(crate) fn task(index: u64) -> Task {
        let mut task = Task::new(async {});
        task.meta_mut().accept(id(index), Timestamp::now(), &Telemetry::default());
        task
    }

    fn indexes(pending: &Pending) -> Vec<u64> {
        pending.iter().map(|task| task.meta().id().index).collect()
    }

    #[test]
    fn first_in_first_out_with_tasks_removed_from_the_middle() {
        let mut pending = Pending::default();
        (1..=9).for_each(|index| pending.push(index, task(index)));
        for (removed, left) in
            [(4, vec![1, 2, 3, 5, 6, 7, 8, 9]), (6, vec![1, 2, 3, 5, 7, 8, 9]), (5, vec![1, 2, 3, 7, 8, 9])]
        {
            assert_eq!(pending.find(id(removed)).unwrap().meta().id(), id(removed));
            assert!(pending.remove(id(removed)).is_some());
            assert!(pending.remove(id(removed)).is_none() && pending.find(id(removed)).is_none());
            assert_eq!((indexes(&pending), pending.len()), (left.clone(), left.len()));
        }
        assert_eq!(pending.pop().unwrap().meta().id(), id(1));
        pending.push(10, task(10));
        for index in [9, 10, 2] {
            assert!(pending.remove(id(index)).is_some(), "{index}");
        }
        let left: Vec<_> = iter::from_fn(|| pending.pop()).map(|task| task.meta().id().index).collect();
        assert_eq!(left, [3, 7, 8]);
        assert!(pending.is_empty() && pending.pop().is_none());
    }

    #[test]
    fn tasks_that_arrive_out_of_order_are_sorted_by_index() {
        let mut pending = Pending::default();
        for index in [2, 1, 5, 4, 3] {
            pending.push(index, task(index));
        }
        assert_eq!(indexes(&pending), [1, 2, 3, 4, 5]);
        assert!(pending.remove(id(3)).is_some() && pending.find(id(4)).is_some());
    }

    #[test]
    fn a_queue_that_was_emptied_can_be_filled_again() {
        let mut pending = Pending::default();
        pending.push(1, task(1));
        assert!(pending.remove(id(1)).is_some() && pending.is_empty());
        pending.push(2, task(2));
        pending.push(3, task(3));
        assert!(pending.remove(id(3)).is_some());
        assert_eq!((indexes(&pending), pending.len()), (vec![2], 1));
        assert_eq!(pending.take().count(), 1);
        assert!(pending.is_empty());
    }

    // Against a map that is simple, over several segments: adds in and out of order, takes from the front, and
    // removals.
    #[test]
    fn behaves_as_a_map_in_order_over_many_segments() {
        for seed in 0..4 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut pending, mut model) = (Pending::default(), std::collections::BTreeSet::new());
            let mut last = 0;
            for step in 0..40_000 {
                // First it grows, then it shrinks, and again.
                let grows = step / 10_000 % 2 == 0;
                match random.u8(..10) {
                    0..4 if grows => {
                        last += 1;
                        pending.push(last, task(last));
                        model.insert(last);
                    }
                    4 if grows => {
                        // Two threads have drawn their indexes in another order than they arrive.
                        for index in [last + 2, last + 1] {
                            pending.push(index, task(index));
                            model.insert(index);
                        }
                        last += 2;
                    }
                    0..5 => {
                        let index = pending.pop().map(|task| task.meta().id().index);
                        assert_eq!(index, model.pop_first(), "{seed}, {step}");
                    }
                    _ if grows && random.u8(..4) > 0 => {}
                    _ => {
                        let index = random.u64(..last + 2);
                        assert_eq!(
                            pending.find(id(index)).is_some(),
                            model.contains(&index),
                            "{seed}, {step}: {index}"
                        );
                        assert_eq!(
                            pending.remove(id(index)).is_some(),
                            model.remove(&index),
                            "{seed}, {step}: {index}"
                        );
                    }
                }
                assert_eq!((pending.len(), pending.is_empty()), (model.len(), model.is_empty()));
            }
            assert_eq!(indexes(&pending), model.into_iter().collect::<Vec<_>>(), "{seed}");
        }
    }

    #[test]
    fn a_segment_grows_only_by_tasks_that_arrive_out_of_order() {
        let mut pending = Pending::default();
        (1..=5_000).for_each(|index| pending.push(index, task(index)));
        let later = pending.later.iter().flat_map(|later| later.iter());
        for segment in iter::once(&pending.others).chain(later) {
            assert!(segment.slots.len() <= SEGMENT && !segment.slots.is_empty());
        }
    }
}
