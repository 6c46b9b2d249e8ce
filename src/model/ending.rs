//! How a request ended.

use std::fmt;

use http::StatusCode;

/// How a request ended, as the layer saw it.
///
/// It is what a condition is asked about: [`TaskLayer::drain_when`](crate::TaskLayer::drain_when),
/// [`Task::when`](crate::Task::when). Without a condition, a set drains on each of these.
///
/// ```
/// use postlude::{Ending, Task};
///
/// let receipt = Task::new(async {}).when(Ending::is_success);
/// let apology = Task::new(async {}).when(|ending| matches!(ending, Ending::HandlerPanicked | Ending::Cancelled));
/// # drop((receipt, apology));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The response's body was taken to its end. Errors are responses too: `Sent(500)`.
    ///
    /// Normally its bytes have then been handed to the operating system, or nearly so. They have not if the
    /// connection broke while the server held the last chunk (a `Json`, `String` or `Vec` is one chunk, so that is
    /// the whole body), or if [`drain_within`](crate::TaskLayer::drain_within) was over first. It is no proof of
    /// delivery, which nobody on this side can have.
    Sent(StatusCode),
    /// There was a response, but its body was not taken to its end: the client went away, the body yielded
    /// an error, or a shutdown did not wait for it.
    Disconnected(StatusCode),
    /// The handler was given up before there was a response: the client went away, or a layer outside, such
    /// as a timeout, dropped it.
    Cancelled,
    /// The handler panicked, and no layer inside made a response of it.
    HandlerPanicked,
    /// The service inside returned an error. In axum none does.
    ServiceError,
}

impl Ending {
    /// The response's status, if there was a response.
    #[must_use]
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Sent(status) | Self::Disconnected(status) => Some(*status),
            Self::Cancelled | Self::HandlerPanicked | Self::ServiceError => None,
        }
    }

    /// Whether the body was taken to its end, and the status is one of success (2xx).
    ///
    /// A gRPC call that failed is a success to HTTP: its own status stands in the trailers.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Sent(status) if status.is_success())
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(status) => write!(f, "sent ({})", status.as_u16()),
            Self::Disconnected(status) => write!(f, "disconnected ({})", status.as_u16()),
            Self::Cancelled => f.write_str("cancelled"),
            Self::HandlerPanicked => f.write_str("handler panicked"),
            Self::ServiceError => f.write_str("service error"),
        }
    }
}
