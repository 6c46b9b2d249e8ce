//! The names of a task and its set, and the handle of a spawned task.

use std::{
    fmt,
    future::Future,
    num::ParseIntError,
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
};

use tokio::task::JoinHandle;

use crate::{Outcome, TaskRegistry};

/// The number of a task, unique in its registry for as long as that lives.
///
/// It reads `17` for a spawned task and `17.2` for the second task of set 17, and parses back from that: in an axum
/// handler, take a `Path<TaskId>` with the feature `serde`, or else a `Path<String>` and `parse::<TaskId>()` it. A
/// smaller number need not be an older task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    pub(crate) line: u64,
    /// The place in the set, from 1; 0 for a spawned task, which has its line to itself.
    pub(crate) place: u32,
}

impl TaskId {
    pub(crate) const UNASSIGNED: Self = Self { line: 0, place: 0 };

    /// The set that the task was added to; `None` if it was spawned.
    #[must_use]
    pub const fn set(self) -> Option<SetId> {
        match self.place {
            0 => None,
            _ => Some(SetId(self.line)),
        }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            0 => write!(f, "{}", self.line),
            place => write!(f, "{}.{place}", self.line),
        }
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}

impl FromStr for TaskId {
    type Err = ParseIntError;

    /// # Errors
    /// If the text is neither a number nor two numbers with a point between them.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (line, place) = match text.split_once('.') {
            Some((line, place)) => (line, place.parse::<std::num::NonZeroU32>()?.get()),
            None => (text, 0),
        };
        Ok(Self { line: line.parse()?, place })
    }
}

/// The number of a set, out of the same sequence as the numbers of spawned tasks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub(crate) u64);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetId({self})")
    }
}

/// The handle of a spawned task: awaited, it gives the task's [`Outcome`].
///
/// It is optional. Dropping it changes nothing: the registry owns the task.
///
/// ```
/// use postlude::{Outcome, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let outcome = registry.spawn(async { Err::<(), _>("no such mailbox") }).await;
/// assert!(matches!(outcome, Outcome::Failed(error) if error.to_string() == "no such mailbox"));
/// # }
/// ```
///
/// # Cancel safety
/// Awaiting it by reference (`&mut handle`) may be given up and taken up again at any time; the task goes on.
/// Once it has resolved, it resolves to the same outcome again.
#[derive(Debug)]
pub struct TaskHandle {
    id: TaskId,
    name: &'static str,
    registry: TaskRegistry,
    state: State,
}

#[derive(Debug)]
enum State {
    Live(JoinHandle<Outcome>),
    Ended(Outcome),
}

impl TaskHandle {
    pub(crate) const fn live(
        id: TaskId,
        name: &'static str,
        registry: TaskRegistry,
        join: JoinHandle<Outcome>,
    ) -> Self {
        Self { id, name, registry, state: State::Live(join) }
    }

    pub(crate) const fn ended(id: TaskId, name: &'static str, registry: TaskRegistry, outcome: Outcome) -> Self {
        Self { id, name, registry, state: State::Ended(outcome) }
    }

    /// The task's number.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        self.id
    }

    /// The task's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Aborts the task: [`TaskRegistry::abort`] with its id. `false` if it had already ended.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort(&self) -> bool {
        self.registry.abort(self.id)
    }

    /// Whether the task has its outcome.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match &self.state {
            State::Ended(_) => true,
            State::Live(join) => {
                join.is_finished() || !self.registry.inner.ledger.books(self.id.line).is_listed(self.id.line)
            }
        }
    }
}

impl Future for TaskHandle {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        let outcome = match &mut this.state {
            State::Ended(outcome) => return Poll::Ready(outcome.clone()),
            State::Live(join) => match Pin::new(join).poll(context) {
                Poll::Ready(joined) => joined.unwrap_or_else(|_| this.registry.inner.outcome_of_cut(this.id)),
                // An aborted task that does not yield would keep its handle waiting: the registry knows.
                Poll::Pending => match this.registry.inner.outcome_from_outside(this.id, context.waker()) {
                    Some(outcome) => outcome,
                    None => return Poll::Pending,
                },
            },
        };
        this.state = State::Ended(outcome.clone());
        Poll::Ready(outcome)
    }
}
