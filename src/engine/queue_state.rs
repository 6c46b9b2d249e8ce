//! The state under the lock of a set's queue.

use std::{
    collections::{BTreeMap, VecDeque},
    iter, mem,
};

use tokio::sync::oneshot;

use crate::{
    ledger::{account::SetAccount, history::CHUNK, live::LiveTask},
    model::{DiscardReason, Ending, OutcomeCounts, OutcomeKind, RejectReason, TaskId},
    task::Task,
    util::clock::Timestamp,
};

#[derive(Default)]
pub(crate) struct QueueState {
    pub(crate) phase: Phase,
    pub(crate) pending: Pending,
    /// The current task: it has started, or waits for a permit. At most one: see invariant 2 of `set_queue`, on which
    /// the [mark](crate::engine::poll_mark) and the phase rely.
    pub(crate) current: Option<LiveTask>,
    /// Sleeping tasks, which wait for a time while the queue drains, by index.
    #[expect(clippy::box_collection, reason = "one word per queue, because few queues need it")]
    sleeping: Option<Box<BTreeMap<u64, LiveTask>>>,
    /// Whether the ledger lists the queue.
    pub(crate) is_listed: bool,
    pub(crate) account: SetAccount,
    /// Whether the condition of the layer was evaluated.
    pub(crate) is_decided: bool,
    pub(crate) ending: Option<Ending>,
    /// The ending with which a shutdown drains the set. `Some` once there is a response.
    pub(crate) response: Option<Ending>,
    pub(crate) stop_on_failure: bool,
    /// A shutdown is ending the set: no task starts any more.
    pub(crate) is_shut_down: bool,
    /// Why the set accepts no more tasks.
    pub(crate) refusal: Option<RejectReason>,
    /// Why no pending task starts any more: the drain discards one after another.
    pub(crate) discards: Option<DiscardReason>,
    pub(crate) outcomes: OutcomeCounts,
    /// Ends that are counted, but not yet reported to the log and the observers.
    pub(crate) unreported: usize,
    pub(crate) waiting: Vec<oneshot::Sender<()>>,
}

/// The phase of a set.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its request is in progress.
    #[default]
    Collecting,
    /// The response is on its way: [`SetQueue::release`](crate::engine::set_queue::SetQueue::release) follows.
    Holding,
    /// A drain is running.
    Draining,
    /// Drained, and empty.
    Idle,
}

impl QueueState {
    /// The current or a sleeping task.
    #[inline]
    pub(crate) fn live(&mut self, id: TaskId) -> Option<&mut LiveTask> {
        match &mut self.current {
            Some(current) if current.identity.id == id => Some(current),
            Some(_) | None => self.sleeping.as_mut()?.get_mut(&id.index),
        }
    }

    pub(crate) fn take_current(&mut self, id: TaskId) -> Option<LiveTask> {
        self.current.take_if(|current| current.identity.id == id)
    }

    /// Adds a sleeping task.
    pub(crate) fn put_sleeping(&mut self, task: LiveTask) {
        self.sleeping.get_or_insert_default().insert(task.identity.id.index, task);
    }

    pub(crate) fn take_sleeping(&mut self, id: TaskId) -> Option<LiveTask> {
        let sleeping = self.sleeping.as_mut()?;
        let task = sleeping.remove(&id.index);
        if sleeping.is_empty() {
            self.sleeping = None;
        }
        task
    }

    pub(crate) fn is_sleeping(&self, id: TaskId) -> bool {
        self.sleeping.as_ref().is_some_and(|sleeping| sleeping.contains_key(&id.index))
    }

    /// The tasks that have left `pending`.
    pub(crate) fn dequeued(&self) -> impl Iterator<Item = &LiveTask> {
        self.current.iter().chain(self.sleeping.iter().flat_map(|sleeping| sleeping.values()))
    }

    /// Looks at some of the live tasks whose index is `from` or above, in the order of their indexes. Returns the index
    /// to go on from; `None` after the last one. Short, because it is called under the lock.
    pub(crate) fn chunk(&self, from: u64, mut look: impl FnMut(&LiveTask)) -> Option<u64> {
        // Each kind is read up to an index of its own, and what lies above the lowest of them is left to the next
        // piece.
        let mut read_to = u64::MAX;
        let (pending, more) = self.pending.chunk(from);
        if let Some(last) = pending.last().filter(|_| more) {
            read_to = last.index;
        }
        let later = self.sleeping.iter().flat_map(|sleeping| sleeping.range(from..)).map(|(_, task)| task);
        let sleeping: Vec<_> = later.take(CHUNK + 1).collect();
        if let Some(last) = sleeping.get(CHUNK - 1).filter(|_| sleeping.len() > CHUNK) {
            read_to = read_to.min(last.identity.id.index);
        }
        let current = self.current.iter().filter(|current| current.identity.id.index >= from);
        let mut dequeued: Vec<_> = sleeping.into_iter().chain(current).collect();
        dequeued.sort_unstable_by_key(|task| task.identity.id.index);
        let mut dequeued = dequeued.into_iter().filter(|task| task.identity.id.index <= read_to).peekable();
        for slot in pending.into_iter().filter(|slot| slot.index <= read_to) {
            while let Some(earlier) = dequeued.next_if(|task| task.identity.id.index < slot.index) {
                look(earlier);
            }
            if let Some(task) = &slot.task {
                look(&LiveTask::new(task.meta().identity()));
            }
        }
        dequeued.for_each(look);
        read_to.checked_add(1)
    }

    /// Since when the oldest pending task could have started, except those that wait beside the queue.
    pub(crate) fn oldest_in_line(&self) -> Option<Timestamp> {
        let current = self.current.as_ref().and_then(LiveTask::pending_since);
        // In the order in which they were added.
        let first = self.pending.iter().next().map(|task| task.meta().identity().added);
        current.into_iter().chain(first).min()
    }

    /// The same for some of those that wait beside the queue, whose index is `from` or above; and the index to go on
    /// from.
    pub(crate) fn oldest_sleeping(&self, from: u64) -> (Option<Timestamp>, Option<u64>) {
        let mut later = self.sleeping.iter().flat_map(|sleeping| sleeping.range(from..));
        let oldest = later.by_ref().take(CHUNK).filter_map(|(_, task)| task.pending_since()).min();
        (oldest, later.next().map(|(index, _)| *index))
    }

    /// Whether no task of the set is live.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.current.is_none() && self.sleeping.is_none()
    }

    /// Whether the set has drained, and every end was reported.
    pub(crate) fn is_drained(&self) -> bool {
        self.is_empty() && self.unreported == 0 && matches!(self.phase, Phase::Holding | Phase::Idle)
    }

    /// Returns whether the caller must spawn a drain for the pending tasks, and sets the phase to `Draining` then.
    pub(crate) fn wake(&mut self) -> bool {
        let wakes = self.phase == Phase::Idle;
        if wakes {
            self.phase = Phase::Draining;
        }
        wakes
    }

    /// Counts the end of the current task, which has completed, in the set's account. Returns `false` if that is not
    /// possible: the task has extras, no other task is pending, or the account is full.
    #[inline]
    pub(crate) fn finish_in_account(&mut self, id: TaskId, now: Timestamp) -> bool {
        let pending = self.pending.len();
        if !self.account.has_room(pending) {
            return false;
        }
        let is_plain = |current: &mut LiveTask| current.identity.id == id && !current.has_extras();
        let Some(ended) = self.current.take_if(is_plain) else {
            return false;
        };
        self.account.finish(ended.finished(crate::model::Outcome::Completed, now), pending);
        self.outcomes.count(OutcomeKind::Completed);
        true
    }
}

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
    #[expect(clippy::box_collection, reason = "one word per queue, because few queues need it")]
    later: Option<Box<VecDeque<Segment>>>,
    /// The number of tasks.
    len: usize,
}

#[derive(Default)]
struct Slot {
    index: u64,
    /// `None` for a gap.
    task: Option<Task>,
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

    fn position(&self, index: u64) -> Option<usize> {
        self.slots.binary_search_by_key(&index, |slot| slot.index).ok()
    }

    /// The slots whose index is `from` or above.
    fn range(&self, from: u64) -> impl Iterator<Item = &Slot> {
        self.slots.range(self.slots.partition_point(|slot| slot.index < from)..)
    }
}

impl Pending {
    /// Adds the task that has drawn `index`.
    #[inline]
    pub(crate) fn push(&mut self, index: u64, task: Task) {
        let slot = Slot { index, task: Some(task) };
        if self.is_empty() {
            // What is left are gaps.
            self.others.clear();
            self.first = slot;
        } else if self.later.is_none() && self.first.index < index && self.others.last().is_none_or(|last| last < index)
        {
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
        let Some(later) = &mut self.later else { return self.others.insert(slot) };
        match later.back_mut() {
            Some(last) if last.last().is_none_or(|last| last < slot.index) && last.is_full() => {
                later.push_back(Segment::of(slot));
            }
            _ => match later.partition_point(|segment| segment.last().is_some_and(|last| last < slot.index)) {
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
        let task = match self.first.task.take() {
            Some(first) => first,
            None => self.pop_other()?,
        };
        self.len -= 1;
        Some(task)
    }

    fn pop_other(&mut self) -> Option<Task> {
        let task = self.others.pop();
        if task.is_some() || self.later.is_none() {
            return task;
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
            let position = later.partition_point(|segment| segment.last().is_some_and(|last| last < id.index));
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
        let position = later.partition_point(|segment| segment.last().is_some_and(|last| last < id.index));
        later.get(position)?.find(id.index)
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
    fn chunk(&self, from: u64) -> (Vec<&Slot>, bool) {
        let first = (self.first.task.is_some() && self.first.index >= from).then_some(&self.first);
        let later = self.later.iter().flat_map(|later| {
            later.range(later.partition_point(|segment| segment.last().is_some_and(|last| last < from))..)
        });
        let others = iter::once(&self.others).chain(later).flat_map(|segment| segment.range(from));
        let mut slots: Vec<_> = first.into_iter().chain(others).take(CHUNK + 1).collect();
        let more = slots.len() > CHUNK;
        slots.truncate(CHUNK);
        (slots, more)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Task> {
        let later = self.later.iter().flat_map(|later| later.iter());
        let others = iter::once(&self.others).chain(later).flat_map(|segment| &segment.slots);
        self.first.task.iter().chain(others.filter_map(|slot| slot.task.as_ref()))
    }

    /// Removes all tasks.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Task> + use<> {
        let taken = mem::take(self);
        let later = taken.later.into_iter().flat_map(|later| later.into_iter());
        let others = iter::once(taken.others).chain(later).flat_map(|segment| segment.slots);
        taken.first.task.into_iter().chain(others.filter_map(|slot| slot.task))
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

    fn id(index: u64) -> TaskId {
        TaskId { number: 1, index }
    }

    fn task(index: u64) -> Task {
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

    /// The indexes of the live tasks, piece by piece; no piece has more than `most`.
    fn read(state: &QueueState, most: usize) -> Vec<u64> {
        let (mut read, mut from) = (Vec::new(), Some(0));
        while let Some(index) = from {
            let before = read.len();
            from = state.chunk(index, |task| read.push(task.identity.id.index));
            assert!(read.len() - before <= most, "{} from {index}", read.len() - before);
            assert!(from.is_none_or(|next| next > index), "{index}, {from:?}");
        }
        read
    }

    #[test]
    fn pieces_have_all_live_tasks_in_order_wherever_they_stand() {
        let live = |index| LiveTask::new(task(index).meta().identity());
        let mut state = QueueState::default();
        assert!(read(&state, 0).is_empty());
        for index in 1..=2_000 {
            match index {
                700 => state.current = Some(live(700)),
                _ if index % 3 == 0 || (900..1_300).contains(&index) => state.put_sleeping(live(index)),
                _ => state.pending.push(index, task(index)),
            }
        }
        let mut expected: Vec<_> = (1..=2_000).collect();
        assert_eq!(read(&state, 2 * CHUNK + 1), expected);
        for index in (301..=600).filter(|index| index % 3 != 0) {
            assert!(state.pending.remove(id(index)).is_some());
        }
        expected.retain(|index| !(301..=600).contains(index) || index % 3 == 0);
        assert_eq!(read(&state, 2 * CHUNK + 1), expected);
    }
}
