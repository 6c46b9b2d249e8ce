//! How a request ended.

use std::fmt;

use http::StatusCode;

/// Feature `http`.
/// How a request ended, as the layer saw it.
///
/// It is what a condition is asked about: [`TaskLayer::drain_when`](crate::TaskLayer::drain_when),
/// [`Task::when`](crate::Task::when). Without a condition, a set drains on each of these.
///
/// ```
/// use postlude::{Ending, Task};
///
/// let receipt = Task::new(async {}).when(Ending::is_success);
/// let apology = Task::new(async {})
///     .when(|ending| matches!(ending, Ending::HandlerPanicked | Ending::Cancelled));
/// # drop((receipt, apology));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The server took the response's body to its end. Errors are responses too: `Sent(500)`.
    ///
    /// Normally its bytes have then been handed to the operating system, or nearly so. They have not if the
    /// connection broke while the server held the last chunk (a `Json`, `String` or `Vec` is one chunk, so that is
    /// the whole body), or if [`drain_within`](crate::TaskLayer::drain_within) was over first. It is no proof of
    /// delivery.
    Sent(StatusCode),
    /// There was a response, but its body was not taken to its end: the client went away, the body yielded
    /// an error or ended before its declared length, or a shutdown did not wait for it.
    Disconnected(StatusCode),
    /// There was a response, but for [`drain_within`](crate::TaskLayer::drain_within) the server did not ask for
    /// more of its body: the client has stopped reading, or grants an HTTP/2 stream no window.
    ///
    /// The client may read on later, and get the rest. A body that has to wait for its own next frame, such as a
    /// stream of server-sent events, is not stalled.
    Stalled(StatusCode),
    /// The handler was dropped before there was a response: the client went away, or a layer outside, such
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
            Self::Sent(status) | Self::Disconnected(status) | Self::Stalled(status) => Some(*status),
            Self::Cancelled | Self::HandlerPanicked | Self::ServiceError => None,
        }
    }

    /// Whether the status is one of success (2xx), and the body was taken to its end or is
    /// [stalled](Self::Stalled): the answer was given, whether the client reads it slowly or not.
    ///
    /// A gRPC call that failed is a success to HTTP: its own status stands in the trailers.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Sent(status) | Self::Stalled(status) if status.is_success())
    }

    /// The ending of a response of which the client takes no more.
    pub(crate) const fn stalled(self) -> Self {
        match self {
            Self::Disconnected(status) => Self::Stalled(status),
            Self::Sent(_) | Self::Stalled(_) | Self::Cancelled | Self::HandlerPanicked | Self::ServiceError => self,
        }
    }

    /// The ending of a response that its client has taken, although its body has not ended.
    #[cfg(feature = "testing")]
    pub(crate) const fn taken(self) -> Self {
        match self {
            Self::Disconnected(status) => Self::Sent(status),
            Self::Sent(_) | Self::Stalled(_) | Self::Cancelled | Self::HandlerPanicked | Self::ServiceError => self,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(status) => write!(f, "sent ({})", status.as_u16()),
            Self::Disconnected(status) => write!(f, "disconnected ({})", status.as_u16()),
            Self::Stalled(status) => write!(f, "stalled ({})", status.as_u16()),
            Self::Cancelled => f.write_str("cancelled"),
            Self::HandlerPanicked => f.write_str("handler panicked"),
            Self::ServiceError => f.write_str("service error"),
        }
    }
}
