use std::borrow::Cow;

use axum::{
    Json,
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::TaskId;

/// A response of 202: the work is accepted, and this is where to ask for it.
///
/// `Location` and the JSON body, `{"id": "17.2", "status": "/tasks/17.2"}`, name the task's
/// [status route](crate::status). Say [`under`](Self::under) which path the routes are nested, if they are.
///
/// ```
/// use axum::response::IntoResponse;
/// use postlude::{Task, TaskSet, status::Accepted};
///
/// async fn export(tasks: TaskSet) -> impl IntoResponse {
///     let id = tasks.add(Task::new(async { /* an hour's work */ }).named("export"));
///     Accepted(id).under("/admin")
/// }
/// ```
///
/// Whoever polls must be let through your authentication, and will see what the status shows of that task: if that is
/// more than a client should know, answer with a route of your own, over [`TaskRegistry::get`](crate::TaskRegistry::get).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by writing `Accepted(id)`")]
pub struct Accepted(pub TaskId);

impl Accepted {
    /// The path under which the status routes are nested, as the client writes it.
    pub fn under(self, path: impl Into<Cow<'static, str>>) -> AcceptedUnder {
        AcceptedUnder { id: self.0, path: path.into() }
    }
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        self.under("").into_response()
    }
}

/// An [`Accepted`] that knows where the status routes are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a response does nothing until it is returned"]
pub struct AcceptedUnder {
    id: TaskId,
    path: Cow<'static, str>,
}

impl AcceptedUnder {
    fn location(&self) -> String {
        format!("{}/tasks/{}", self.path.trim_end_matches('/'), self.id)
    }
}

impl Serialize for AcceptedUnder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("status", &self.location())?;
        map.end()
    }
}

impl IntoResponse for AcceptedUnder {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, [(LOCATION, self.location())], Json(self)).into_response()
    }
}
