//! What the lock of a line guards.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::{
    engine::pending::Queue,
    ledger::{account::SetAccount, live::LiveTask},
    model::{DrainReport, Ending, Outcome, RejectReason, TaskId},
    util::clock::Timestamp,
};

#[derive(Default)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) queue: Queue,
    /// The task at the head of the line: started, or waiting for its permit.
    pub(crate) current: Option<LiveTask>,
    /// Tasks that have left the line to wait for a time, by their places.
    #[expect(clippy::box_collection, reason = "one word of room in each line, for what few need")]
    away: Option<Box<BTreeMap<u32, LiveTask>>>,
    pub(crate) listed: bool,
    pub(crate) account: SetAccount,
    /// The condition has been asked.
    pub(crate) decided: bool,
    pub(crate) ending: Option<Ending>,
    /// What a shutdown is to launch the line with: known once there is a response.
    pub(crate) answered: Option<Ending>,
    pub(crate) stop_on_failure: bool,
    /// Why nothing is accepted any more.
    pub(crate) refusal: Option<RejectReason>,
    pub(crate) report: DrainReport,
    /// Ends that are counted, and not yet told to the log and the hooks.
    pub(crate) untold: usize,
    pub(crate) waiting: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Collecting.
    #[default]
    Open,
    /// The response is on its way out: somebody will call [`SetQueue::left`].
    Leaving,
    /// Launched, with tasks.
    Draining,
    /// Launched, and empty.
    Drained,
}

impl State {
    /// A task that has left the queue.
    #[inline]
    pub(crate) fn live(&mut self, id: TaskId) -> Option<&mut LiveTask> {
        match &mut self.current {
            Some(current) if current.identity.id == id => Some(current),
            Some(_) | None => self.away.as_mut()?.get_mut(&id.place),
        }
    }

    /// Lets a task wait beside the line.
    pub(crate) fn put_away(&mut self, live: LiveTask) {
        self.away.get_or_insert_default().insert(live.identity.id.place, live);
    }

    /// Takes a task that waits beside the line.
    pub(crate) fn take_away(&mut self, id: TaskId) -> Option<LiveTask> {
        let away = self.away.as_mut()?;
        let live = away.remove(&id.place);
        if away.is_empty() {
            self.away = None;
        }
        live
    }

    /// The tasks that have left the queue.
    pub(crate) fn taken(&self) -> impl Iterator<Item = &LiveTask> {
        self.current.iter().chain(self.away.iter().flat_map(|away| away.values()))
    }

    /// Whether it is launched, and nothing is to come, nor to be told.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_empty() && self.untold == 0 && matches!(self.phase, Phase::Leaving | Phase::Drained)
    }

    /// Whether nothing is in the line, nor has left it for a while.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.current.is_none() && self.away.is_none()
    }

    /// Notes the end of the current task, which has completed, if there is no more to it than that and another is behind it.
    #[inline]
    pub(crate) fn end_quietly(&mut self, id: TaskId, now: Timestamp) -> bool {
        if self.queue.is_empty() || !self.account.has_room() {
            return false;
        }
        let Some(ended) = self.current.take_if(|current| current.identity.id == id && current.is_alone()) else {
            return false;
        };
        self.account.end(ended.past(Outcome::Completed, now), self.queue.len());
        self.report.count(&Outcome::Completed);
        true
    }

    /// Sees to it that the queue is drained, if the line is launched: whether a drain is to be spawned.
    pub(crate) fn wake(&mut self) -> bool {
        let wakes = self.phase == Phase::Drained;
        if wakes {
            self.phase = Phase::Draining;
        }
        wakes
    }
}
