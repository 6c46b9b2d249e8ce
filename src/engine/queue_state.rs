//! The state under the lock of a set's queue.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::{
    engine::pending::Pending,
    ledger::{account::SetAccount, history::CHUNK, live::LiveTask},
    model::{DiscardReason, Ending, OutcomeCounts, OutcomeKind, RejectReason, TaskId},
    task::Task,
    util::{clock::Timestamp, rare::Rare},
};

#[derive(Default)]
pub(crate) struct QueueState {
    pub(crate) phase: Phase,
    pub(crate) pending: Pending,
    /// The current task: it has started, or waits for a permit. At most one: see invariant 2 of `set_queue`, on which
    /// the [mark](crate::engine::poll_mark) and the phase rely.
    pub(crate) current: Option<LiveTask>,
    /// Sleeping tasks, which wait for a time while the queue drains, by index.
    sleeping: Rare<BTreeMap<u64, LiveTask>>,
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
    /// Whether a pending task has yet to claim its key.
    pub(crate) has_unclaimed: bool,
    pub(crate) outcomes: SetOutcomes,
    /// Ends that are counted, but not yet reported to the log and the observers.
    pub(crate) unreported: usize,
    /// Those that wait until the set has drained.
    pub(crate) waiting: Rare<Waiting>,
}

pub(crate) type Waiting = Vec<oneshot::Sender<()>>;

/// The outcomes of a set's tasks. Two words, because in most sets every task completes.
#[derive(Default)]
pub(crate) struct SetOutcomes {
    completed: u64,
    others: Rare<OutcomeCounts>,
}

impl SetOutcomes {
    #[inline]
    pub(crate) fn count_completed(&mut self) {
        self.completed += 1;
    }

    pub(crate) fn count(&mut self, kind: OutcomeKind) {
        match kind {
            OutcomeKind::Completed => self.count_completed(),
            _ => self.others.get_or_insert_default().count(kind),
        }
    }

    pub(crate) fn counts(&self) -> OutcomeCounts {
        let others = self.others.as_deref().copied().unwrap_or_default();
        OutcomeCounts { completed: self.completed, ..others }
    }
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

/// What a set that does not drain yet waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenSet {
    /// For its request, or for somebody to drain it.
    Collecting,
    /// For the end of its response's body.
    Unread,
    /// For the release of its response.
    Holding,
}

impl QueueState {
    /// What the set waits for; `None` if it drains, or has drained.
    pub(crate) const fn open(&self) -> Option<OpenSet> {
        match self.phase {
            Phase::Collecting if self.response.is_some() => Some(OpenSet::Unread),
            Phase::Collecting => Some(OpenSet::Collecting),
            Phase::Holding => Some(OpenSet::Holding),
            Phase::Draining | Phase::Idle => None,
        }
    }

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
            self.sleeping = Rare::NONE;
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

    /// Looks at some of the tasks that have left `pending`, from an index on, and at the current one with the first.
    /// Returns the index to go on from.
    pub(crate) fn chunk_dequeued(&self, from: u64, mut look: impl FnMut(&LiveTask)) -> Option<u64> {
        if from == 0 {
            self.current.iter().for_each(&mut look);
        }
        let mut later = self.sleeping.iter().flat_map(|sleeping| sleeping.range(from..));
        later.by_ref().take(CHUNK).for_each(|(_, task)| look(task));
        later.next().map(|(index, _)| *index)
    }

    /// Since when the first of `pending` has been waiting: it was added before the others.
    pub(crate) fn first_added(&self) -> Option<Timestamp> {
        self.pending.iter().next().map(|task| task.meta().identity().added)
    }

    /// Whether the set drains, or has drained.
    pub(crate) fn has_begun(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::Idle)
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

    /// Takes the next task out of `pending`. `None` if there is none, or none may start.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Task> {
        if self.is_shut_down { None } else { self.pending.pop() }
    }

    /// Counts the end of the current task, which has completed, in the set's account, and takes the next one out of
    /// `pending`. `None` if that is not possible: the task has extras, no other task may start, or the account is full.
    #[inline]
    pub(crate) fn finish_in_account(&mut self, id: TaskId, now: Timestamp) -> Option<Task> {
        let pending = self.pending.len();
        if self.is_shut_down || !self.account.has_room(pending) {
            return None;
        }
        let completed = self.current.as_ref().filter(|current| current.identity.id == id)?.completed(now)?;
        self.account.complete(completed);
        self.outcomes.count_completed();
        self.current = None;
        self.pending.pop()
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;
    use crate::engine::pending::tests::{id, task};

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
