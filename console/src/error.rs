use std::fmt;

use axum::{
    Json,
    http::{StatusCode, header::ALLOW},
    response::{IntoResponse, Response},
};
use postlude::{ReplayError, TaskId};
use serde::Serialize;

/// An error as a response.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: StatusCode,
    message: String,
}

#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

impl ApiError {
    pub(crate) const fn bad_request(message: String) -> Self {
        Self { code: StatusCode::BAD_REQUEST, message }
    }

    pub(crate) const fn conflict(message: String) -> Self {
        Self { code: StatusCode::CONFLICT, message }
    }

    pub(crate) fn unknown_task(id: impl fmt::Display) -> Self {
        let message = format!("there is no task {id}, or it ended too long ago to be remembered");
        Self { code: StatusCode::NOT_FOUND, message }
    }

    pub(crate) fn unknown_dead_letter(id: TaskId) -> Self {
        let message =
            format!("there is no dead letter of task {id}: it was replayed, discarded, or evicted by newer ones");
        Self { code: StatusCode::NOT_FOUND, message }
    }

    /// The response for an action that is switched off, on a route that has only `methods` then.
    pub(crate) fn not_allowed(message: &str, methods: &'static str) -> Response {
        let error = Self { code: StatusCode::METHOD_NOT_ALLOWED, message: message.to_owned() };
        ([(ALLOW, methods)], error).into_response()
    }
}

impl From<ReplayError> for ApiError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Unknown { id, .. } => Self::unknown_dead_letter(id),
            _ => Self::conflict(error.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.code, Json(ErrorBody { error: self.message })).into_response()
    }
}
