//! How a service ends.

use std::time::Duration;

/// Feature `signal`.
/// How [`TaskRegistry::serve`](crate::TaskRegistry::serve) ends a service, and what signals do to its process.
///
/// A bare `Duration` is a policy too: that grace, and the defaults.
///
/// # Default
/// - [`exit_on_second_signal`](Self::exit_on_second_signal): true
/// - [`exit_after_serving`](Self::exit_after_serving): true
///
/// ```
/// use std::time::Duration;
/// use postlude::ServePolicy;
///
/// // The process handles its own signals once the service has ended.
/// let policy = ServePolicy::within(Duration::from_secs(30)).exit_after_serving(false);
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a policy does nothing until it is given to `serve`"]
pub struct ServePolicy {
    pub(crate) grace: Duration,
    pub(crate) exits_on_second: bool,
    pub(crate) exits_after: bool,
}

impl ServePolicy {
    /// The time that the server and the registry have together from the first signal on, before the registry cancels
    /// its tasks.
    pub const fn within(grace: Duration) -> Self {
        Self { grace, exits_on_second: true, exits_after: true }
    }

    /// Whether a second signal exits the process at once, with the status 130 for Ctrl-C and 143 for SIGTERM.
    ///
    /// The same signal within 500 ms is no second signal, because some senders deliver one stop twice: to the process
    /// and to its group. The exit comes from a thread of its own, so neither busy workers nor a runtime that waits for
    /// a closure delay it. Destructors do not run.
    pub const fn exit_on_second_signal(mut self, exits: bool) -> Self {
        self.exits_on_second = exits;
        self
    }

    /// Whether SIGTERM or Ctrl-C exits the process, with the same status, after `serve` has returned.
    ///
    /// Tokio never restores the default action of a signal that it has listened for: without this, such a signal does
    /// nothing from then on. Leave it on unless the process listens for signals itself.
    ///
    /// If a process serves several times, the policy of the service that has ended last counts.
    pub const fn exit_after_serving(mut self, exits: bool) -> Self {
        self.exits_after = exits;
        self
    }
}

impl From<Duration> for ServePolicy {
    fn from(grace: Duration) -> Self {
        Self::within(grace)
    }
}
