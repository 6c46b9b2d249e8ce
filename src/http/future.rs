//! A request that has no response yet.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    engine::{context::Entered, requests::RequestGuard},
    http::{TaskBody, response::ResponseGuard, shed},
    model::Ending,
};

pin_project! {
    /// Feature `http`.
    /// The future of a [`TaskService`](crate::TaskService).
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Handled {
            #[pin]
            inner: F,
            // `None`: a layer further out drains the set.
            in_flight: Option<InFlight>,
        },
        // Turned away before the handler was called.
        Shed { retry_after: u64 },
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) const fn new(inner: F, in_flight: Option<InFlight>) -> Self {
        Self { state: State::Handled { inner, in_flight } }
    }

    pub(crate) const fn shed(retry_after: u64) -> Self {
        Self { state: State::Shed { retry_after } }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<TaskBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (inner, in_flight) = match self.project().state.project() {
            StateProjection::Handled { inner, in_flight } => (inner, in_flight),
            StateProjection::Shed { retry_after } => return Poll::Ready(Ok(shed::response(*retry_after))),
        };
        let Some(in_flight) = in_flight else {
            return inner.poll(context).map_ok(|response| response.map(TaskBody::passing));
        };
        let handling = in_flight.handle();
        let polled = inner.poll(context);
        handling.returned();
        Poll::Ready(match ready!(polled) {
            Ok(response) => Ok(in_flight.answer(response)),
            Err(error) => {
                in_flight.end(Ending::ServiceError);
                Err(error)
            }
        })
    }
}

impl<F: fmt::Debug> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut future = f.debug_struct("ResponseFuture");
        match &self.state {
            State::Handled { inner, .. } => future.field("inner", inner),
            State::Shed { retry_after } => future.field("shed", retry_after),
        };
        future.finish_non_exhaustive()
    }
}

/// A request that has no response yet. Drains its set when dropped.
pub(crate) struct InFlight {
    /// Taken when there is a response.
    guard: Option<ResponseGuard>,
    /// Dropped after the drain was spawned, or the set is known to have a response: a shutdown then waits for the set's
    /// tasks.
    request: Option<RequestGuard>,
    /// The ending if this is dropped now.
    if_dropped: Ending,
    is_head: bool,
    is_connect: bool,
}

impl InFlight {
    pub(crate) fn new(guard: ResponseGuard, method: &Method) -> Self {
        Self {
            request: guard.request(),
            guard: Some(guard),
            if_dropped: Ending::Cancelled,
            is_head: method == Method::HEAD,
            is_connect: method == Method::CONNECT,
        }
    }

    /// Guard for a call into the handler: makes the request's set the current one, and knows whether the call returned.
    pub(crate) fn handle(&mut self) -> HandlerGuard<'_> {
        self.if_dropped = Ending::HandlerPanicked;
        HandlerGuard { entered: self.guard.as_mut().map(ResponseGuard::enter), if_dropped: &mut self.if_dropped }
    }

    fn answer<B: Body<Data = Bytes>>(&mut self, response: Response<B>) -> Response<TaskBody<B>> {
        let Some(guard) = self.guard.take() else {
            return response.map(TaskBody::passing);
        };
        let status = response.status();
        let without_body = self.is_head
            || (self.is_connect && status.is_success())
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        let response = TaskBody::attach(response, guard, without_body);
        self.request = None;
        response
    }

    fn end(&mut self, ending: Ending) {
        if let Some(guard) = self.guard.take() {
            guard.end(ending);
        }
        self.request = None;
    }
}

/// The handler is being called. Dropped without having [returned](Self::returned), it has panicked.
pub(crate) struct HandlerGuard<'a> {
    entered: Option<Entered<'a>>,
    if_dropped: &'a mut Ending,
}

impl HandlerGuard<'_> {
    pub(crate) fn returned(self) {
        *self.if_dropped = Ending::Cancelled;
        drop(self.entered);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end(self.if_dropped);
    }
}
