use axum::{
    Json,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::MethodRouter,
};
use postlude::ReplayError;
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

    pub(crate) const fn forbidden(message: String) -> Self {
        Self { code: StatusCode::FORBIDDEN, message }
    }

    pub(crate) const fn unavailable(message: String) -> Self {
        Self { code: StatusCode::SERVICE_UNAVAILABLE, message }
    }

    pub(crate) fn unknown_task(id: &str) -> Self {
        let message = format!("there is no task {id} in this process, or it ended too long ago to be remembered");
        Self { code: StatusCode::NOT_FOUND, message }
    }

    pub(crate) fn unknown_name(name: &str) -> Self {
        let message = format!("no task of the name `{name}` is known to this process, and no limit");
        Self { code: StatusCode::NOT_FOUND, message }
    }

    pub(crate) fn unknown_dead_letter(id: &str) -> Self {
        let message = format!(
            "there is no dead letter of task {id} in this process: it was replayed, discarded, or evicted by newer ones"
        );
        Self { code: StatusCode::NOT_FOUND, message }
    }
}

/// Answers all methods that `route` does not have: `OPTIONS` with the others, which axum adds as `Allow`, and those of
/// `disabled` with the way to enable them.
pub(crate) fn answer_other_methods<S>(
    route: MethodRouter<S>,
    disabled: Option<(&'static [Method], &'static str)>,
) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    route.fallback(async move |method: Method| {
        if method == Method::OPTIONS {
            return StatusCode::NO_CONTENT.into_response();
        }
        let message = match disabled {
            Some((disabled, message)) if disabled.contains(&method) => message.to_owned(),
            _ => format!("there is no {method} here: the header `allow` has the methods that there are"),
        };
        ApiError { code: StatusCode::METHOD_NOT_ALLOWED, message }.into_response()
    })
}

impl From<ReplayError> for ApiError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Unknown { id, .. } => Self::unknown_dead_letter(&id.to_external()),
            _ => Self::conflict(error.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.code, Json(ErrorBody { error: self.message })).into_response()
    }
}
