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

use super::{Ending, TaskBody, launch::Launch};

pin_project! {
    /// The future of a [`TaskService`](crate::TaskService).
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // `None`: a layer further out watches.
        in_flight: Option<InFlight>,
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) const fn new(inner: F, in_flight: Option<InFlight>) -> Self {
        Self { inner, in_flight }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<TaskBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(in_flight) = this.in_flight else {
            return this.inner.poll(context).map_ok(|response| response.map(TaskBody::passing));
        };
        let result = ready!(in_flight.watch(|| this.inner.poll(context)));
        Poll::Ready(match result {
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
        f.debug_struct("ResponseFuture").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// A request that has no response yet. Dropped, it launches its set.
pub(crate) struct InFlight {
    /// Taken when there is a response.
    launch: Option<Launch>,
    /// What it means if this is dropped now.
    if_dropped: Ending,
    is_head: bool,
    is_connect: bool,
}

impl InFlight {
    pub(crate) fn new(launch: Launch, method: &Method) -> Self {
        Self {
            launch: Some(launch),
            if_dropped: Ending::Cancelled,
            is_head: method == Method::HEAD,
            is_connect: method == Method::CONNECT,
        }
    }

    /// Calls into the handler, with the request's set as the current one.
    pub(crate) fn watch<R>(&mut self, handler: impl FnOnce() -> R) -> R {
        self.if_dropped = Ending::HandlerPanicked;
        let result = match &mut self.launch {
            Some(launch) => launch.enter(handler),
            None => handler(),
        };
        self.if_dropped = Ending::Cancelled;
        result
    }

    fn answer<B: Body<Data = Bytes>>(&mut self, response: Response<B>) -> Response<TaskBody<B>> {
        let Some(launch) = self.launch.take() else {
            return response.map(TaskBody::passing);
        };
        let status = response.status();
        let without_body = self.is_head
            || (self.is_connect && status.is_success())
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        TaskBody::attach(response, launch, without_body)
    }

    fn end(&mut self, ending: Ending) {
        if let Some(launch) = self.launch.take() {
            launch.without_bytes(ending);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end(self.if_dropped);
    }
}
