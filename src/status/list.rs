use std::collections::BTreeMap;

use super::page::{Page, Window};
use crate::{TaskId, TaskInfo, TaskRegistry, TaskReport, TaskState, TaskStatus};

/// What a client wants listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    state: State,
    name: Option<String>,
    window: Window<TaskId>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Live,
    LiveIn(TaskState),
    Ended,
    EndedAs(&'static str),
}

impl State {
    fn parse(word: &str) -> Result<Self, String> {
        Ok(match word {
            "live" => Self::Live,
            "pending" => Self::LiveIn(TaskState::Pending),
            "running" => Self::LiveIn(TaskState::Running),
            "retrying" => Self::LiveIn(TaskState::Retrying),
            "ended" => Self::Ended,
            "completed" => Self::EndedAs("completed"),
            "failed" => Self::EndedAs("failed"),
            "panicked" => Self::EndedAs("panicked"),
            "timed_out" => Self::EndedAs("timed_out"),
            "aborted" => Self::EndedAs("aborted"),
            "discarded" => Self::EndedAs("discarded"),
            _ => {
                return Err(format!(
                    "`state={word}`: there are live, pending, running, retrying; and ended, completed, failed, \
                     panicked, timed_out, aborted, discarded"
                ));
            }
        })
    }
}

impl Query {
    /// Understands the parameters of a request, or says what is wrong with them.
    pub(crate) fn parse(parameters: BTreeMap<String, String>) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in parameters {
            match key.as_str() {
                "state" => query.state = State::parse(&value)?,
                "name" => query.name = Some(value),
                key if query.window.take(key, &value)? => {}
                _ => return Err(format!("`{key}`: there are state, name, limit and cursor")),
            }
        }
        Ok(query)
    }
}

impl Default for Page<TaskStatus> {
    fn default() -> Self {
        Self { of: "tasks", items: Vec::new(), next: None }
    }
}

impl Page<TaskStatus> {
    /// Adds a task; `false` if it is the first that has no room.
    fn add(&mut self, task: TaskStatus, limit: usize) -> bool {
        if self.items.len() == limit {
            self.next = self.items.last().map(|last| last.id().to_string());
            return false;
        }
        self.items.push(task);
        true
    }

    pub(crate) fn of(registry: &TaskRegistry, query: &Query) -> Self {
        let Window { limit, cursor } = query.window;
        let is_named = |name: &str| query.name.as_ref().is_none_or(|wanted| wanted == name);
        match &query.state {
            State::Live => Self::of_live(registry, cursor, limit, |task| is_named(task.name.as_str())),
            State::LiveIn(state) => {
                Self::of_live(registry, cursor, limit, |task| task.state == *state && is_named(task.name.as_str()))
            }
            State::Ended => Self::of_ended(registry, cursor, limit, |report| is_named(report.name.as_str())),
            State::EndedAs(label) => Self::of_ended(registry, cursor, limit, |report| {
                report.outcome.label() == *label && is_named(report.name.as_str())
            }),
        }
    }

    /// Live tasks, by id.
    fn of_live(
        registry: &TaskRegistry,
        after: Option<TaskId>,
        limit: usize,
        is_wanted: impl Fn(&TaskInfo) -> bool,
    ) -> Self {
        let page = registry.live_page(after, limit, is_wanted);
        let next = page.next.map(|id| id.to_string());
        Self { of: "tasks", items: page.items.into_iter().map(TaskStatus::Live).collect(), next }
    }

    /// Tasks that ended, the latest first. What was forgotten since the page before is older than what that showed, and
    /// with it all that would have come after it.
    fn of_ended(
        registry: &TaskRegistry,
        after: Option<TaskId>,
        limit: usize,
        is_wanted: impl Fn(&TaskReport) -> bool,
    ) -> Self {
        let mut page = Self::default();
        let mut history = registry.history().into_iter();
        if let Some(after) = after {
            history.by_ref().find(|report| report.id == after);
        }
        for report in history.filter(is_wanted) {
            if !page.add(TaskStatus::Ended(report), limit) {
                break;
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Query, String> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Query::parse(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn parameters_are_understood_or_what_is_wrong_is_said() {
        assert_eq!(parse(""), Ok(Query::default()));
        let query = parse("state=failed&name=mail&limit=5&cursor=17.2").unwrap();
        assert_eq!(query.state, State::EndedAs("failed"));
        assert_eq!(query.name.as_deref(), Some("mail"));
        assert_eq!(query.window, Window { limit: 5, cursor: "17.2".parse().ok() });
        let wrong = [
            ("state=done", "completed"),
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("limit=-1", "from 1 to 1000"),
            ("cursor=last", "`next`"),
            ("stat=failed", "state, name, limit and cursor"),
        ];
        for (text, hint) in wrong {
            let message = parse(text).unwrap_err();
            assert!(message.contains(hint), "{text}: {message}");
        }
    }
}
