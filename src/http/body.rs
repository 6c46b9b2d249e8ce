//! The body of a response, which knows when and how it has ended.

use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, StatusCode, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    http::{config::DEFAULT_DRAIN_WITHIN, response::ResponseGuard},
    model::Ending,
    registry::set::TaskSet,
};

pin_project! {
    /// Feature `http`.
    /// A response's body that drains the request's set when it has left.
    ///
    /// It passes everything on: frames, length, end. Each chunk holds the set until the server releases it, which
    /// costs one allocation per chunk and copies nothing; one of more than 128 KiB is handed on in pieces. A chunk that
    /// ends its body costs nothing if no task was added and the set has no other handle.
    pub struct TaskBody<B> {
        // `None`: empty, in place of a response that was never made.
        #[pin]
        inner: Option<B>,
        state: Option<BodyState>,
    }
}

/// The most that is handed on at once of a chunk that holds the set.
///
/// A server that does not write vectored (over most TLS streams) copies what it is given into a buffer of its own, and
/// releases it then. But it asks for the next piece only while that buffer has room: so the bytes that are released
/// before they were written are no more than the buffer holds, however long the body is.
const PIECE: usize = 128 << 10;

/// What the body carries besides the bytes. Drains the set when dropped.
struct BodyState {
    /// Taken when the body ends.
    guard: Option<ResponseGuard>,
    status: StatusCode,
    /// The response is complete when its head is sent, even if the body is never polled.
    without_body: bool,
    /// Bytes still to come, if it is known.
    remaining: Option<u64>,
    /// The body was taken to its end.
    complete: bool,
    /// The wait for the client has a limit, because there may be tasks.
    is_limited: bool,
    /// What is left of a chunk that is handed on in pieces.
    rest: Bytes,
    /// That chunk is the body's last one.
    rest_is_last: bool,
}

impl<B> TaskBody<B> {
    /// A body without a set of its own.
    pub(crate) const fn passing(inner: B) -> Self {
        Self { inner: Some(inner), state: None }
    }

    /// The body inside; `None` for an answer in place of the handler's, which has none.
    #[must_use]
    pub const fn get_ref(&self) -> Option<&B> {
        self.inner.as_ref()
    }

    /// The body inside. The set of the request drains as if this body had been dropped, and what it has not yet
    /// handed on of a long chunk is lost.
    #[must_use]
    pub fn into_inner(self) -> Option<B> {
        self.inner
    }

    /// No body at all.
    pub(crate) const fn empty() -> Self {
        Self { inner: None, state: None }
    }

    /// How much it has not yet handed on of a chunk.
    fn rest(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.rest.len())
    }
}

impl<B: Body> TaskBody<B> {
    /// Puts a set behind a response.
    pub(crate) fn attach(response: Response<B>, guard: ResponseGuard, without_body: bool) -> Response<Self> {
        let status = response.status();
        let declared = || response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        let remaining = response.body().size_hint().exact().or_else(declared);
        let complete = is_complete(remaining, response.body().is_end_stream());
        let mut state = BodyState {
            guard: None,
            status,
            without_body,
            remaining,
            complete,
            is_limited: false,
            rest: Bytes::new(),
            rest_is_last: false,
        };
        guard.response_ready(state.ending());
        state.guard = Some(guard);
        state.polled(false);
        response.map(|inner| Self { inner: Some(inner), state: Some(state) })
    }
}

impl<B> Body for TaskBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(mut inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let Some(state) = this.state else {
            return inner.poll_frame(context);
        };
        if !state.rest.is_empty() {
            return Poll::Ready(Some(Ok(state.pass_rest())));
        }
        let entered = state.guard.as_mut().map(ResponseGuard::enter);
        let frame = inner.as_mut().poll_frame(context);
        drop(entered);
        let Poll::Ready(frame) = frame else {
            state.polled(true);
            return Poll::Pending;
        };
        let frame = match frame {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(chunk) => state.pass(chunk, inner.is_end_stream()),
                Err(frame) => {
                    // Trailers are the last frame, also to a server that does not ask for more.
                    state.complete = is_complete(state.remaining, true);
                    state.passed(inner.is_end_stream());
                    frame
                }
            })),
            end => {
                state.complete = end.is_none() && is_complete(state.remaining, true);
                state.end();
                end
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest() == 0 && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let rest = self.rest() as u64;
        if rest > 0 {
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper + rest);
            }
            hint.set_lower(hint.lower() + rest);
        }
        hint
    }
}

/// Whether a body is complete of which this much remains, if that is known. One that ends before is not.
const fn is_complete(remaining: Option<u64>, is_at_end: bool) -> bool {
    match remaining {
        Some(remaining) => remaining == 0,
        None => is_at_end,
    }
}

impl BodyState {
    /// Looks at a chunk on its way, and lets it hold the set if a task may be added meanwhile.
    fn pass(&mut self, mut chunk: Bytes, is_last: bool) -> Frame<Bytes> {
        // The body's own code may add a task in every poll but the last.
        let holds = self.guard.as_ref().filter(|guard| !is_last || guard.may_have_tasks());
        if holds.is_some() && chunk.len() > PIECE {
            self.rest = chunk.split_off(PIECE);
            self.rest_is_last = is_last;
        }
        let is_last = is_last && self.rest.is_empty();
        self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(chunk.len() as u64));
        self.complete = is_complete(self.remaining, is_last);
        if let Some(guard) = holds {
            chunk = guard.watch(chunk);
        }
        self.passed(is_last);
        Frame::data(chunk)
    }

    fn pass_rest(&mut self) -> Frame<Bytes> {
        let rest = mem::take(&mut self.rest);
        self.pass(rest, self.rest_is_last)
    }

    fn passed(&mut self, is_last: bool) {
        if is_last {
            self.end();
        } else {
            self.polled(false);
        }
    }

    /// There is a response, or its body was polled: the wait for the client begins anew, or ends if the body has to
    /// wait.
    fn polled(&mut self, is_pending: bool) {
        let Some(guard) = &self.guard else { return };
        if self.is_limited {
            guard.polled(is_pending);
        } else if guard.may_have_tasks() {
            self.is_limited = true;
            guard.start_limit(is_pending);
        }
    }

    fn end(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.end(self.ending());
        }
    }

    const fn ending(&self) -> Ending {
        if self.complete || self.without_body { Ending::Sent(self.status) } else { Ending::Disconnected(self.status) }
    }
}

impl Drop for BodyState {
    fn drop(&mut self) {
        self.end();
    }
}

impl<B: Default> Default for TaskBody<B> {
    fn default() -> Self {
        Self::passing(B::default())
    }
}

impl<B: fmt::Debug> fmt::Debug for TaskBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskBody").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl TaskSet {
    /// Feature `http`.
    /// Drains this set when `response` has left: for a hyper service without a [`TaskLayer`](crate::TaskLayer).
    ///
    /// The set then behaves like that of a layer with its defaults. It can't know the request's method: to a
    /// HEAD request, answer with an empty body, or a set with a condition sees
    /// [`Disconnected`](Ending::Disconnected).
    ///
    /// ```
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use bytes::Bytes;
    /// use postlude::{TaskBody, TaskRegistry};
    ///
    /// async fn handle<B>(
    ///     request: Request<B>,
    ///     registry: TaskRegistry,
    /// ) -> Response<TaskBody<Full<Bytes>>> {
    ///     let tasks = registry.set();
    ///     tasks.add(async { /* send the mail */ });
    ///     tasks.attach(Response::new(Full::from("accepted")))
    /// }
    /// ```
    pub fn attach<B>(self, response: Response<B>) -> Response<TaskBody<B>>
    where
        B: Body<Data = Bytes>,
    {
        let status = response.status();
        let without_body = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            // To a HEAD request, whatever length the head declares.
            || response.body().is_end_stream();
        TaskBody::attach(response, ResponseGuard::new(Arc::clone(self.queue()), DEFAULT_DRAIN_WITHIN), without_body)
    }
}
