use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{OriginalUri, Path, State},
    http::StatusCode,
    response::Response,
    routing::{delete, get, post},
};
use postlude::{DeadLetter, Page};
use serde::Serialize;

use crate::{
    accepted::Accepted,
    error::ApiError,
    query::{PageQuery, Params, QueryParams, parse_id, parse_query},
    routes::Status,
};

pub(crate) fn routes(allow_replay: bool) -> Router<Arc<Status>> {
    let (replay, discard) =
        if allow_replay { (post(replay), delete(discard)) } else { (post(replay_disabled), delete(discard_disabled)) };
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/{id}", get(show).merge(discard))
        .route("/dead-letters/{id}/replay", replay)
}

fn parse(params: Params) -> Result<PageQuery<u64>, String> {
    let mut query = PageQuery::default();
    for (key, value) in params {
        if !query.set(&key, &value)? {
            return Err(format!("`{key}` is not a parameter: there are limit and cursor"));
        }
    }
    Ok(query)
}

#[derive(Serialize)]
struct DeadLetterPage {
    dead_letters: Vec<DeadLetter>,
    /// A string, like the cursor of the other lists.
    next: Option<String>,
}

impl From<Page<DeadLetter, u64>> for DeadLetterPage {
    fn from(page: Page<DeadLetter, u64>) -> Self {
        Self { dead_letters: page.items, next: page.next.map(|number| number.to_string()) }
    }
}

async fn list(State(status): State<Arc<Status>>, query: QueryParams) -> Result<Json<DeadLetterPage>, ApiError> {
    let query = parse_query(query, parse)?;
    let page = status.exclusively(|status| status.registry.dead_letters().page(query.cursor, query.limit)).await;
    Ok(Json(page.into()))
}

async fn show(State(status): State<Arc<Status>>, Path(id): Path<String>) -> Result<Json<DeadLetter>, ApiError> {
    let id = parse_id(&id)?;
    status.registry.dead_letters().find(id).map(Json).ok_or_else(|| ApiError::unknown_dead_letter(id))
}

async fn replay(
    State(status): State<Arc<Status>>,
    Path(id): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Result<Accepted, ApiError> {
    let replay = status.registry.dead_letters().replay(parse_id(&id)?)?;
    // The path under which the routes are nested: all before `/dead-letters/{id}/replay`.
    let path = uri.path().rsplitn(4, '/').nth(3).unwrap_or_default();
    Ok(Accepted::new(replay.id()).under(path.to_owned()))
}

async fn discard(State(status): State<Arc<Status>>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let id = parse_id(&id)?;
    let is_discarded = status.registry.dead_letters().discard(id);
    if is_discarded { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::unknown_dead_letter(id)) }
}

const DISABLED: &str = "replaying and discarding are disabled: `StatusRouter::allow_replay` enables them";

async fn replay_disabled() -> Response {
    ApiError::not_allowed(DISABLED, "")
}

async fn discard_disabled() -> Response {
    ApiError::not_allowed(DISABLED, "GET,HEAD")
}
