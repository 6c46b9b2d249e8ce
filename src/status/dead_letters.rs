use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{OriginalUri, Path, State},
    http::StatusCode,
    response::Response,
    routing::{delete, get, post},
};

use super::{
    accepted::{Accepted, AcceptedUnder},
    page::{Page, Window},
    routes::{Asked, Status, Trouble, task_id, understood},
};
use crate::{DeadLetter, ReplayError, TaskRegistry};

pub(crate) fn routes(replay: bool) -> Router<Arc<Status>> {
    let (again, away) =
        if replay { (post(try_again), delete(throw_away)) } else { (post(may_not), delete(may_not_here)) };
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/{id}", get(show).merge(away))
        .route("/dead-letters/{id}/replay", again)
}

/// A letter is found by the number in the order in which they came, which also one has that is gone.
type Query = Window<u64>;

fn parse(parameters: BTreeMap<String, String>) -> Result<Query, String> {
    let mut query = Query::default();
    for (key, value) in parameters {
        if !query.take(&key, &value)? {
            return Err(format!("`{key}`: there are limit and cursor"));
        }
    }
    Ok(query)
}

impl Page<DeadLetter> {
    /// The latest first.
    fn of_letters(registry: &TaskRegistry, query: &Query) -> Self {
        let mut letters = registry.shared.dead_letters.latest(query.cursor, query.limit.saturating_add(1));
        let has_more = letters.len() > query.limit;
        letters.truncate(query.limit);
        let last = letters.last().map(|(number, _)| number.to_string());
        let items = letters.into_iter().map(|(_, letter)| letter).collect();
        Self { of: "dead_letters", items, next: last.filter(|_| has_more) }
    }
}

impl From<ReplayError> for Trouble {
    fn from(error: ReplayError) -> Self {
        let code = match error {
            ReplayError::Unknown { .. } => StatusCode::NOT_FOUND,
            ReplayError::NotReplayable { .. } | ReplayError::Rejected { .. } => StatusCode::CONFLICT,
        };
        Self(code, error.to_string())
    }
}

async fn list(State(status): State<Arc<Status>>, asked: Asked) -> Result<Json<Page<DeadLetter>>, Trouble> {
    let query = understood(asked, parse)?;
    Ok(Json(status.one_at_a_time(|status| Page::of_letters(&status.registry, &query)).await))
}

async fn show(State(status): State<Arc<Status>>, Path(id): Path<String>) -> Result<Json<DeadLetter>, Trouble> {
    let id = task_id(&id)?;
    let letter = status.registry.dead_letters().find(id).ok_or(ReplayError::Unknown { id })?;
    Ok(Json(letter))
}

async fn try_again(
    State(status): State<Arc<Status>>,
    Path(id): Path<String>,
    OriginalUri(asked): OriginalUri,
) -> Result<AcceptedUnder, Trouble> {
    let replay = status.registry.dead_letters().replay(task_id(&id)?)?;
    // All before `/dead-letters/{id}/replay`.
    let path = asked.path().rsplitn(4, '/').nth(3).unwrap_or_default();
    Ok(Accepted(replay.id()).under(path.to_owned()))
}

async fn throw_away(State(status): State<Arc<Status>>, Path(id): Path<String>) -> Result<StatusCode, Trouble> {
    let id = task_id(&id)?;
    let is_thrown_away = status.registry.dead_letters().discard(id);
    if is_thrown_away { Ok(StatusCode::NO_CONTENT) } else { Err(ReplayError::Unknown { id }.into()) }
}

const OFF: &str = "replaying and discarding are off here: `StatusRouter::allow_replay` switches them on";

async fn may_not() -> Response {
    Trouble::not_allowed(OFF, "")
}

async fn may_not_here() -> Response {
    Trouble::not_allowed(OFF, "GET,HEAD")
}
