use std::borrow::Cow;

use axum::{
    Json,
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use postlude::TaskId;
use serde::Serialize;

/// A response of 202: the work is accepted, and a client can poll its task.
///
/// `Location` and the JSON body, `{"id": "1088.2-0f3k…", "status": "/tasks/1088.2-0f3k…"}`, name the [status route](crate) of the task, by its
/// [external id](TaskId::to_external): after a restart, or at another replica, it is unknown there, and not another
/// task. If the routes are nested, give their path to [`under`](Self::under).
///
/// ```
/// use postlude::{Task, TaskSet};
/// use postlude_console::Accepted;
///
/// async fn export(tasks: TaskSet) -> Accepted {
///     let id = tasks.add(Task::new(async { /* an hour's work */ }).named("export"));
///     Accepted::new(id).under("/admin")
/// }
/// ```
///
/// Your authentication must admit the client that polls, and the client sees all that the status route shows of this
/// task. If that is too much, answer with a route of your own that calls
/// [`TaskRegistry::get`](postlude::TaskRegistry::get).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a response does nothing until it is returned"]
pub struct Accepted {
    id: TaskId,
    path: Cow<'static, str>,
}

#[derive(Serialize)]
struct Body<'a> {
    id: TaskId,
    status: &'a str,
}

impl Accepted {
    /// The response for a task, whose status routes are not nested.
    pub const fn new(id: TaskId) -> Self {
        Self { id, path: Cow::Borrowed("") }
    }

    /// Sets the path under which the status routes are nested, as the client writes it.
    pub fn under(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        self.path = path.into();
        self
    }
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let location = format!("{}/tasks/{}", self.path.trim_end_matches('/'), self.id.to_external());
        let body = Json(Body { id: self.id, status: &location }).into_response();
        (StatusCode::ACCEPTED, [(LOCATION, location)], body).into_response()
    }
}
