//! What the profile of a registry says of live tasks, if it has one.

use std::time::Duration;

use postlude::{TaskId, TaskInfo, TaskMetrics, TaskName, TaskRegistry, TaskState};
use serde::Serialize;
use serde_json::Value;

/// A poll that has not returned for this long blocks the runtime.
const BLOCKS: f64 = 0.1;
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
pub(crate) fn long_polls(registry: &TaskRegistry, metrics: &TaskMetrics) -> Vec<LongPoll> {
    let has_profile = metrics.by_name().values().next().is_some_and(|name| profile(name).is_some());
    if !has_profile || metrics.running == 0 {
        return Vec::new();
    }
    let running = registry.live_page(None, MAX_RUNNING, |task| task.state == TaskState::Running).items;
    running.iter().filter_map(long_poll).collect()
}

fn long_poll(task: &TaskInfo) -> Option<LongPoll> {
    let polling_for = polling_for(&profile(task)?)?;
    Some(LongPoll { name: task.name, id: task.id, polling_for })
}

/// The profile as it is serialised: also a registry whose version has none can be asked.
fn profile(of: &impl Serialize) -> Option<Value> {
    serde_json::to_value(of).ok()?.get_mut("profile").map(Value::take).filter(Value::is_object)
}

fn polling_for(profile: &Value) -> Option<Duration> {
    let seconds = profile.get("polling_for")?.as_f64().filter(|seconds| *seconds >= BLOCKS)?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn polling_for_is_a_poll_that_has_not_returned_for_long() {
        let cases = [
            (json!({"polling_for": 2.5, "polls": 4}), Some(Duration::from_millis(2500))),
            (json!({"polling_for": 0.05}), None),
            (json!({"polling_for": null}), None),
            (json!({"polling_for": "long"}), None),
            (json!({"polls": 4}), None),
        ];
        for (text, expected) in cases {
            assert_eq!(polling_for(&text), expected, "{text}");
        }
        assert_eq!(profile(&json!({"name": "a", "profile": null})), None);
        assert_eq!(profile(&json!({"profile": {"polls": 1}})), Some(json!({"polls": 1})));
    }
}
