//! The least that a layer can do which gives each request something to extract and sees each response's body: what
//! `TaskLayer` would cost if it did no more than that. Shared by the benchmarks of the layer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, Response},
};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tower::ServiceBuilder;

/// What the request is given: one allocation, as a set is.
#[derive(Clone)]
#[expect(dead_code, reason = "nobody looks at it")]
struct Given(Arc<u64>);

/// A body that passes everything on.
struct Passing(Body);

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

pub(crate) fn floor(router: Router) -> Router {
    router.layer(
        ServiceBuilder::new()
            .map_request(|mut request: Request<Body>| {
                request.extensions_mut().insert(Given(Arc::new(0)));
                request
            })
            .map_response(|response: Response<Body>| response.map(Passing)),
    )
}
