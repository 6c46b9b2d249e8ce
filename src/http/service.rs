//! The service of the layer.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    http::{ResponseFuture, TaskBody, config::Config, future::InFlight, shed},
    registry::set::TaskSet,
};

/// Feature `http`.
/// The service that a [`TaskLayer`](crate::TaskLayer) makes.
#[derive(Clone)]
pub struct TaskService<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> TaskService<S> {
    pub(crate) const fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }

    /// The service inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for TaskService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<TaskBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let given = request.extensions().get::<TaskSet>();
        if self.config.sheds {
            let registry = given.map_or(&self.config.registry, TaskSet::registry);
            if let Some(seconds) = shed::retry_after(registry) {
                return ResponseFuture::shed(seconds);
            }
        }
        if let Some(given) = given {
            self.config.check_given(given);
            // A layer further out has given the request its set, and drains it.
            return ResponseFuture::new(self.inner.call(request), None);
        }
        let (set, guard) = self.config.set(&request);
        request.extensions_mut().insert(set);
        let mut in_flight = InFlight::new(guard, request.method());
        let handling = in_flight.handle();
        let future = self.inner.call(request);
        handling.returned();
        ResponseFuture::new(future, Some(in_flight))
    }
}

impl<S: fmt::Debug> fmt::Debug for TaskService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
