use std::borrow::Cow;

use axum::{
    Json,
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::model::id::JobId;

/// A response of 202: the job is stored, and a client can ask for it, at any replica.
///
/// `Location` and the JSON body, `{"id": "0192f1c6-…", "status": "/jobs/0192f1c6-…"}`, name the [route](crate::JobsRouter) of
/// the job. If the routes are nested, give their path to [`under`](Self::under).
///
/// ```
/// use axum::extract::State;
/// use postlude_jobs::{Accepted, Job, Jobs, PushError};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Export {}
/// # impl Job for Export {
/// #     const NAME: &'static str = "export";
/// # }
///
/// async fn export(State(jobs): State<Jobs>) -> Result<Accepted, PushError> {
///     let id = jobs.push(Export {}).await?;
///     Ok(Accepted::new(id).under("/admin"))
/// }
/// ```
///
/// Your authentication must admit the client that asks, and the client sees all that the route shows of this job. If
/// that is too much, answer with a route of your own that calls [`Jobs::find`](crate::Jobs::find).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a response does nothing until it is returned"]
pub struct Accepted {
    id: JobId,
    path: Cow<'static, str>,
}

#[derive(Serialize)]
struct Body<'a> {
    id: JobId,
    status: &'a str,
}

impl Accepted {
    /// The response for a job, whose routes are not nested.
    pub const fn new(id: JobId) -> Self {
        Self { id, path: Cow::Borrowed("") }
    }

    /// Sets the path under which the routes are nested, as the client writes it.
    pub fn under(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        self.path = path.into();
        self
    }
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let location = format!("{}/jobs/{}", self.path.trim_end_matches('/'), self.id);
        let body = Json(Body { id: self.id, status: &location }).into_response();
        (StatusCode::ACCEPTED, [(LOCATION, location)], body).into_response()
    }
}
