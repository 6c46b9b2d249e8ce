use std::error::Error;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::model::error::{PushError, QueueError};

/// An error as a response.
#[derive(Debug)]
pub(super) struct ApiError {
    code: StatusCode,
    message: String,
}

#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

impl ApiError {
    pub(super) const fn bad_request(message: String) -> Self {
        Self { code: StatusCode::BAD_REQUEST, message }
    }

    pub(super) const fn forbidden(message: String) -> Self {
        Self { code: StatusCode::FORBIDDEN, message }
    }

    pub(super) const fn not_found(message: String) -> Self {
        Self { code: StatusCode::NOT_FOUND, message }
    }

    pub(super) fn not_allowed() -> Self {
        let message = "actions are off: switch them on with `JobsRouter::allow_actions`".to_owned();
        Self { code: StatusCode::METHOD_NOT_ALLOWED, message }
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        let code =
            if error.is_transient() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self { code, message: chain(&error) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.code, Json(ErrorBody { error: self.message })).into_response()
    }
}

/// 503 if the queue can't be reached, 413 if the payload is too large, and 500 if the job can't be stored for another reason.
/// The body has the message, without the errors of the engine.
impl IntoResponse for PushError {
    fn into_response(self) -> Response {
        use crate::model::error::PushErrorKind::{Queue, TooLarge};

        let code = match self.kind() {
            Queue(error) if error.is_transient() => StatusCode::SERVICE_UNAVAILABLE,
            TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, Json(ErrorBody { error: self.to_string() })).into_response()
    }
}

/// 503 if the broker can't be reached or did not confirm, 413 if the payload is too large, and 500 if the task can't be
/// sent for another reason. The body has the message, without the errors of the broker.
#[cfg(feature = "celery")]
impl IntoResponse for crate::celery::SendError {
    fn into_response(self) -> Response {
        let code = match self.kind() {
            _ if self.is_transient() => StatusCode::SERVICE_UNAVAILABLE,
            crate::celery::SendErrorKind::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, Json(ErrorBody { error: self.to_string() })).into_response()
    }
}

/// An error with its sources, joined by colons.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
