//! Unique keys: which of the live tasks with one key may run.
//!
//! # Invariants
//! 1. A key has an entry from the claim of a task to the end of the last task that has claimed it.
//! 2. Its holder has claimed it and has no outcome, or its end is about to be [released](UniqueKeys::release).
//! 3. Whether the holder has started is decided here, under the lock: a task that was replaced finds that out in
//!    [`begin`](UniqueKeys::begin), and does not start.

use std::{
    collections::btree_map::Entry,
    task::{Context, Poll, Waker},
};

use crate::{
    model::{IfLive, KeyOfName, TaskId, UniquePolicy},
    util::{clock::Timestamp, parted_map::PartedMap},
};

/// The keys of live tasks that are unique.
pub(crate) struct UniqueKeys {
    holders: PartedMap<KeyOfName, Holder>,
}

struct Holder {
    id: TaskId,
    has_started: bool,
    /// When it was claimed by the first of the tasks that replaced one another.
    since: Timestamp,
    /// The task that waits for the holder's end.
    next: Option<Box<Next>>,
}

struct Next {
    id: TaskId,
    since: Timestamp,
    /// Tokio's own, so waking and dropping it runs no foreign code.
    waker: Option<Waker>,
}

/// The result of a claim.
pub(crate) enum Claimed {
    /// The task may go on.
    Accepted(Accepted),
    /// The task is a duplicate of this one.
    Duplicate(TaskId),
}

pub(crate) struct Accepted {
    /// The task that it replaces, which has not started and must be ended.
    pub(crate) replaces: Option<TaskId>,
    /// The task that has started and must be aborted.
    pub(crate) aborts: Option<TaskId>,
    /// When the key was claimed by the first of the tasks that replaced one another.
    pub(crate) since: Timestamp,
    /// Whether it must wait for its [turn](UniqueKeys::poll_turn).
    pub(crate) waits: bool,
}

/// The task was replaced: by this one, if that is known.
pub(crate) struct Replaced(pub(crate) Option<TaskId>);

impl Holder {
    /// The live task that has not started, or else the one that has.
    fn latest(&self) -> TaskId {
        self.next.as_ref().map_or(self.id, |next| next.id)
    }
}

impl UniqueKeys {
    pub(crate) fn new() -> Self {
        Self { holders: PartedMap::new() }
    }

    /// The live task that has claimed the key.
    pub(crate) fn find(&self, key: &KeyOfName) -> Option<TaskId> {
        self.holders.part(key).get(key).map(Holder::latest)
    }

    /// Claims the key for a live task.
    pub(crate) fn claim(&self, key: &KeyOfName, id: TaskId, policy: UniquePolicy, now: Timestamp) -> Claimed {
        let mut part = self.holders.part(key);
        let holder = match part.entry(key.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Holder { id, has_started: false, since: now, next: None });
                return Claimed::Accepted(Accepted { replaces: None, aborts: None, since: now, waits: false });
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        if policy.if_live != IfLive::Replace {
            return Claimed::Duplicate(holder.latest());
        }
        let mut accepted = Accepted { replaces: None, aborts: None, since: holder.since, waits: holder.has_started };
        if !holder.has_started {
            accepted.replaces = Some(std::mem::replace(&mut holder.id, id));
            return Claimed::Accepted(accepted);
        }
        accepted.aborts = policy.abort_running.then_some(holder.id);
        accepted.since = holder.next.as_ref().map_or(now, |next| next.since);
        let replaced = holder.next.replace(Box::new(Next { id, since: accepted.since, waker: None }));
        accepted.replaces = replaced.map(|next| next.id);
        Claimed::Accepted(accepted)
    }

    /// Waits until the task is the holder.
    pub(crate) fn poll_turn(&self, key: &KeyOfName, id: TaskId, context: &Context<'_>) -> Poll<Result<(), Replaced>> {
        let waker = context.waker().clone();
        let mut part = self.holders.part(key);
        match part.get_mut(key) {
            Some(holder) if holder.id == id => Poll::Ready(Ok(())),
            Some(Holder { next: Some(next), .. }) if next.id == id => {
                let _replaced = next.waker.replace(waker);
                Poll::Pending
            }
            other => Poll::Ready(Err(Replaced(other.map(|holder| holder.latest())))),
        }
    }

    /// Notes that the holder starts.
    ///
    /// # Errors
    /// If the task was replaced. Then it must not start.
    pub(crate) fn begin(&self, key: &KeyOfName, id: TaskId) -> Result<(), Replaced> {
        match self.holders.part(key).get_mut(key) {
            Some(holder) if holder.id == id => {
                holder.has_started = true;
                Ok(())
            }
            other => Err(Replaced(other.map(|holder| holder.latest()))),
        }
    }

    /// Notes that the holder, which has [begun](Self::begin), does not start yet. If another task already waits for its
    /// end, that one goes on waiting.
    pub(crate) fn take_back_begin(&self, key: &KeyOfName, id: TaskId) {
        if let Some(holder) = self.holders.part(key).get_mut(key) {
            holder.has_started &= holder.id != id || holder.next.is_some();
        }
    }

    /// Notes that a task has ended.
    pub(crate) fn release(&self, key: &KeyOfName, id: TaskId) {
        let mut part = self.holders.part(key);
        let Entry::Occupied(mut entry) = part.entry(key.clone()) else {
            return;
        };
        let holder = entry.get_mut();
        let mut woken = None;
        if holder.id == id {
            match holder.next.take() {
                Some(next) => {
                    *holder = Holder { id: next.id, has_started: false, since: next.since, next: None };
                    woken = next.waker;
                }
                None => drop(entry.remove_entry()),
            }
        } else {
            holder.next.take_if(|next| next.id == id);
        }
        drop(part);
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    #[cfg(test)]
    #[cfg(not(postlude_loom))]
    pub(crate) fn len(&self) -> usize {
        self.holders.len()
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;
    use crate::model::TaskKey;

    fn id(number: u64) -> TaskId {
        TaskId { number, index: 0 }
    }

    fn key() -> KeyOfName {
        KeyOfName { name: "name".into(), key: TaskKey::from(1) }
    }

    /// Replaced, aborted, whether it waits; or the task that it is a duplicate of.
    fn claim(keys: &UniqueKeys, number: u64, policy: UniquePolicy) -> Result<(u64, u64, bool), u64> {
        let number_of = |id: Option<TaskId>| id.map_or(0, |id| id.number);
        match keys.claim(&key(), id(number), policy, Timestamp::now()) {
            Claimed::Accepted(accepted) => {
                Ok((number_of(accepted.replaces), number_of(accepted.aborts), accepted.waits))
            }
            Claimed::Duplicate(of) => Err(of.number),
        }
    }

    #[test]
    fn what_a_claim_finds() {
        let keys = UniqueKeys::new();
        let (join, replace) = (UniquePolicy::join(), UniquePolicy::replace());
        assert_eq!(claim(&keys, 1, replace), Ok((0, 0, false)));
        assert_eq!(claim(&keys, 2, join), Err(1));
        assert_eq!(claim(&keys, 3, UniquePolicy::skip()), Err(1));
        assert_eq!(claim(&keys, 4, replace), Ok((1, 0, false)));
        assert!(matches!(keys.begin(&key(), id(1)), Err(Replaced(Some(by))) if by == id(4)));
        assert!(keys.begin(&key(), id(4)).is_ok());
        assert_eq!(claim(&keys, 5, join), Err(4));
        assert_eq!(claim(&keys, 6, replace), Ok((0, 0, true)));
        assert_eq!(claim(&keys, 7, replace.abort_running()), Ok((6, 4, true)));
        assert_eq!(claim(&keys, 8, join), Err(7));
        // The end of a task that was replaced changes nothing.
        keys.release(&key(), id(6));
        keys.release(&key(), id(4));
        assert!(keys.begin(&key(), id(7)).is_ok());
        keys.release(&key(), id(7));
        assert_eq!((keys.len(), keys.find(&key())), (0, None));
        keys.release(&key(), id(7));
        assert!(matches!(keys.begin(&key(), id(7)), Err(Replaced(None))));
    }

    #[test]
    fn a_task_that_has_begun_and_does_not_start_is_replaced_unless_another_waits_for_it() {
        let (keys, replace) = (UniqueKeys::new(), UniquePolicy::replace());
        assert_eq!(claim(&keys, 1, replace), Ok((0, 0, false)));
        assert!(keys.begin(&key(), id(1)).is_ok());
        keys.take_back_begin(&key(), id(1));
        assert_eq!(claim(&keys, 2, replace), Ok((1, 0, false)));
        keys.take_back_begin(&key(), id(1));
        assert!(keys.begin(&key(), id(2)).is_ok());
        assert_eq!(claim(&keys, 3, replace), Ok((0, 0, true)));
        keys.take_back_begin(&key(), id(2));
        assert_eq!(claim(&keys, 4, replace), Ok((3, 0, true)));
    }

    #[test]
    fn the_end_of_the_one_that_waits_leaves_the_holder() {
        let keys = UniqueKeys::new();
        assert_eq!(claim(&keys, 1, UniquePolicy::join()), Ok((0, 0, false)));
        assert!(keys.begin(&key(), id(1)).is_ok());
        assert_eq!(claim(&keys, 2, UniquePolicy::replace()), Ok((0, 0, true)));
        keys.release(&key(), id(2));
        assert_eq!(keys.find(&key()), Some(id(1)));
        keys.release(&key(), id(1));
        assert_eq!(keys.len(), 0);
    }
}
