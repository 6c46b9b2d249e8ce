//! `TaskSet` as an axum extractor.

use std::{convert::Infallible, fmt};

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use crate::registry::set::TaskSet;

/// The request's set, put there by a [`TaskLayer`](crate::TaskLayer).
impl<S: Sync> FromRequestParts<S> for TaskSet {
    type Rejection = MissingTaskLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingTaskLayer> {
        parts.extensions.get::<Self>().cloned().ok_or(MissingTaskLayer(()))
    }
}

/// The request's set, if there is a [`TaskLayer`](crate::TaskLayer).
impl<S: Sync> OptionalFromRequestParts<S> for TaskSet {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// Feature `axum`.
/// The rejection of the [`TaskSet`] extractor: no [`TaskLayer`](crate::TaskLayer) is around the handler.
///
/// As a response it is a 500 without a text, because a client can't do anything about it. The log says what to do.
pub struct MissingTaskLayer(());

impl fmt::Debug for MissingTaskLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MissingTaskLayer")
    }
}

impl fmt::Display for MissingTaskLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a handler takes a `TaskSet`, but its request has none: add `.layer(postlude::TaskLayer::new(registry))` to \
             its router, after the route, because a layer is only around the routes that were added before it; if it is \
             there, a middleware inside it makes a new request without the extensions of the one it was given",
        )
    }
}

impl std::error::Error for MissingTaskLayer {}

impl IntoResponse for MissingTaskLayer {
    fn into_response(self) -> Response {
        tracing::error!(target: "postlude", "{self}");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}
