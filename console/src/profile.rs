//! What the profile of a registry says of live tasks, if it has one.

use std::time::Duration;

use postlude::{TaskId, TaskInfo, TaskName, TaskRegistry, TaskState};

/// A poll that has not returned for this long blocks the runtime.
const BLOCKS: Duration = Duration::from_millis(100);
/// How many running tasks are looked at.
const MAX_RUNNING: usize = 1_000;

/// A task whose poll has not returned for long.
#[derive(Clone, Debug)]
pub(crate) struct LongPoll {
    pub(crate) name: TaskName,
    pub(crate) id: TaskId,
    pub(crate) polling_for: Duration,
}

/// The tasks that block the runtime. Looks at a bounded number of tasks, and at none without a profile.
pub(crate) fn long_polls(registry: &TaskRegistry) -> Vec<LongPoll> {
    if !registry.is_profiled() {
        return Vec::new();
    }
    let blocks = |task: &TaskInfo| task.state == TaskState::Running && long_poll(task).is_some();
    let found = registry.live_page(None, MAX_RUNNING, blocks).items;
    found.iter().filter_map(long_poll).collect()
}

fn long_poll(task: &TaskInfo) -> Option<LongPoll> {
    let polling_for = task.profile.as_ref()?.polling_for.filter(|time| *time >= BLOCKS)?;
    Some(LongPoll { name: task.name, id: task.id, polling_for })
}
