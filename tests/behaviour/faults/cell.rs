//! The cells of the matrix, and the expectation of each.

use axum::http::StatusCode;
use postlude::Ending;

use crate::support::net::{VERSIONS, Version};

/// Up to where the client takes part in the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// The handler has been entered; the client has not waited for an answer.
    BeforeTheHead,
    AfterTheHead,
    /// The client has some of the body, and there is more.
    InTheBody,
    /// The client has it all, or the failure that came in its place.
    AfterTheBody,
}

/// How the client leaves, or the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Close,
    /// It closes its own direction, and goes on listening.
    HalfClose,
    /// It resets the stream, and the connection stays.
    Reset,
    /// It stays to the end, while the registry is shut down.
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handler {
    /// Answers at its first poll, with a body of one chunk.
    Ready,
    /// Answers like that after a step.
    Pending,
    /// Answers at its first poll, with two chunks, each after a step.
    Streaming,
    /// Panics at its first poll.
    Panicking,
    /// Returns an error that is a response.
    Refusing,
    /// Is a service that returns an error, of which somebody outside the layer makes a response.
    Erring,
}

/// The work of the task in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Completes,
    Fails,
    PanicsInPoll,
    PanicsInDrop,
    Hangs,
    Blocks,
}

/// The answer of the layer's condition to every ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Drain,
    Discard,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) version: Version,
    pub(super) handler: Handler,
    pub(super) moment: Moment,
    pub(super) manner: Manner,
    pub(super) work: Work,
    pub(super) verdict: Verdict,
}

pub(super) const MOMENTS: [Moment; 4] =
    [Moment::BeforeTheHead, Moment::AfterTheHead, Moment::InTheBody, Moment::AfterTheBody];
pub(super) const MANNERS: [Manner; 4] = [Manner::Close, Manner::HalfClose, Manner::Reset, Manner::Shutdown];
pub(super) const HANDLERS: [Handler; 6] =
    [Handler::Ready, Handler::Pending, Handler::Streaming, Handler::Panicking, Handler::Refusing, Handler::Erring];
pub(super) const WORKS: [Work; 6] =
    [Work::Completes, Work::Fails, Work::PanicsInPoll, Work::PanicsInDrop, Work::Hangs, Work::Blocks];

pub(super) const VERDICTS: [Verdict; 2] = [Verdict::Drain, Verdict::Discard];

impl Cell {
    /// The endings that the contract allows, or why there is no such request.
    ///
    /// More than one if the client leaves while the server is at it. Leaving *after* the body is not such a
    /// case: the client has its end, so the server had taken it before.
    pub(super) fn endings(&self) -> Result<Vec<Ending>, &'static str> {
        let (sent, disconnected) = (Ending::Sent(self.handler.status()), Ending::Disconnected(self.handler.status()));
        match (self.version, self.manner, self.moment) {
            (Version::H1, Manner::Reset, _) => return Err("HTTP/1.1 has no streams to reset"),
            (Version::H2, Manner::Reset, Moment::AfterTheBody) => return Err("a stream that has ended is not reset"),
            _ => {}
        }
        match (self.handler, self.moment) {
            (Handler::Panicking, Moment::AfterTheHead | Moment::InTheBody) => Err("a panic sends no head"),
            // These have ended before the client could do anything about it.
            (Handler::Panicking, _) => Ok(vec![Ending::HandlerPanicked]),
            (Handler::Erring, _) => Ok(vec![Ending::ServiceError]),
            // A shutdown does not wait for a body that is still to come.
            (Handler::Pending, Moment::BeforeTheHead) if self.manner == Manner::Shutdown => Ok(vec![disconnected]),
            // These wait for what never comes.
            (Handler::Pending, Moment::BeforeTheHead) => Ok(vec![Ending::Cancelled]),
            (Handler::Streaming, Moment::BeforeTheHead | Moment::AfterTheHead | Moment::InTheBody) => {
                Ok(vec![disconnected])
            }
            // The handler may be at its answer when the shutdown begins, and may be done with it.
            (Handler::Ready | Handler::Refusing, Moment::BeforeTheHead) if self.manner == Manner::Shutdown => {
                Ok(vec![sent, disconnected])
            }
            // HTTP/1.1 takes a body of one chunk in the same poll as the head, before it writes either. On HTTP/2
            // the stream is a task of its own, and may hear that the client has gone before it comes to the body;
            // so may a shutdown come in between.
            (Handler::Ready | Handler::Pending | Handler::Refusing, Moment::BeforeTheHead | Moment::AfterTheHead)
                if self.version == Version::H2 =>
            {
                Ok(vec![sent, disconnected])
            }
            // The one chunk was taken whole, whatever the client has seen of it; or the client has the end.
            (Handler::Ready | Handler::Pending | Handler::Refusing | Handler::Streaming, _) => Ok(vec![sent]),
        }
    }

    /// The label of the middle task's outcome. It does not depend on the request, once the task may run.
    pub(super) const fn outcome(self) -> &'static str {
        match (self.verdict, self.work) {
            (Verdict::Discard, _) => "discarded",
            (Verdict::Drain, Work::Completes | Work::Blocks) => "completed",
            (Verdict::Drain, Work::Fails) => "failed",
            (Verdict::Drain, Work::PanicsInPoll | Work::PanicsInDrop) => "panicked",
            (Verdict::Drain, Work::Hangs) => "timed_out",
        }
    }

    /// The tasks that run: all in their order, or none.
    pub(super) const fn seen(self) -> &'static [&'static str] {
        match self.verdict {
            Verdict::Drain => &["first", "middle", "last"],
            Verdict::Discard => &[],
        }
    }

    pub(super) fn seen_in_all(self) -> Vec<&'static str> {
        let afterwards = (self.outcome_afterwards() == "completed").then_some("fine");
        self.seen().iter().copied().chain(afterwards).collect()
    }

    /// The label of the outcome of the tasks around it: nothing that it does concerns them.
    pub(super) const fn outcome_of_the_others(self) -> &'static str {
        match self.verdict {
            Verdict::Drain => "completed",
            Verdict::Discard => "discarded",
        }
    }

    /// The label of the outcome of the task of a later request.
    pub(super) const fn outcome_afterwards(self) -> &'static str {
        match self.manner {
            Manner::Close | Manner::HalfClose | Manner::Reset => "completed",
            Manner::Shutdown => "discarded",
        }
    }

    /// How many steps the handler takes to get to the moment.
    pub(super) const fn steps(self) -> usize {
        match (self.handler, self.moment) {
            (Handler::Pending, Moment::AfterTheHead | Moment::InTheBody | Moment::AfterTheBody)
            | (Handler::Streaming, Moment::InTheBody) => 1,
            (Handler::Streaming, Moment::AfterTheBody) => 2,
            _ => 0,
        }
    }

    /// Those of a handler that make sense.
    pub(super) fn of(handler: Handler) -> Vec<Self> {
        all_cells().into_iter().filter(|cell| cell.handler == handler && cell.endings().is_ok()).collect()
    }
}

pub(super) fn all_cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for handler in HANDLERS {
        for version in VERSIONS {
            for moment in MOMENTS {
                for manner in MANNERS {
                    for work in WORKS {
                        cells.extend(VERDICTS.map(|verdict| Cell { version, handler, moment, manner, work, verdict }));
                    }
                }
            }
        }
    }
    cells
}

impl Handler {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Ready | Self::Pending | Self::Streaming | Self::Panicking => StatusCode::OK,
            Self::Refusing => StatusCode::SERVICE_UNAVAILABLE,
            Self::Erring => StatusCode::BAD_GATEWAY,
        }
    }
}
