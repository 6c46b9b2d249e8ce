use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{OriginalUri, State},
    http::{Method, StatusCode},
    routing::{MethodRouter, get, post},
};
use postlude::{DeadLetter, DeadLetters, ParseIdError, TaskId};
use serde::Serialize;
use tracing::info;

use crate::{
    accepted::Accepted,
    action::Action,
    error::{ApiError, answer_other_methods},
    query::{Cursor, IdText, PageQuery, Params, QueryParams, parse_id, parse_query},
    routes::Status,
};

pub(crate) fn routes(allow_replay: bool) -> Router<Arc<Status>> {
    const DISABLED: &str = "replaying and discarding are disabled: `StatusRouter::allow_replay` enables them";
    const DELETE: &[Method] = &[Method::DELETE];
    const POST: &[Method] = &[Method::POST];

    let (letter, replay) =
        if allow_replay { (get(show).delete(discard), post(replay)) } else { (get(show), MethodRouter::new()) };
    let disabled = |methods| (!allow_replay).then_some((methods, DISABLED));
    Router::new()
        .route("/dead-letters", answer_other_methods(get(list), None))
        .route("/dead-letters/{id}", answer_other_methods(letter, disabled(DELETE)))
        .route("/dead-letters/{id}/replay", answer_other_methods(replay, disabled(POST)))
}

/// The letters that a client asks for.
#[derive(Default)]
struct LetterQuery {
    name: Option<String>,
    /// Part of the name, in lower case.
    text: Option<String>,
    page: PageQuery<LetterCursor>,
}

impl LetterQuery {
    fn parse(params: Params) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in params {
            match key.as_str() {
                "name" => query.name = Some(value),
                "text" => query.text = Some(value.to_lowercase()).filter(|text| !text.is_empty()),
                key if query.page.set(key, &value)? => {}
                _ => return Err(format!("`{key}` is not a parameter: there are name, text, limit and cursor")),
            }
        }
        Ok(query)
    }

    fn answer(&self, letters: &DeadLetters) -> DeadLetterPage {
        let PageQuery { limit, cursor } = self.page;
        let (mut items, mut next) = (Vec::new(), cursor.map(|cursor| cursor.0));
        // Each look takes no more letters than there is room for, so that `next` is that of the last one.
        loop {
            let page = letters.page(next, limit - items.len());
            items.extend(page.items.into_iter().filter(|letter| self.is_wanted(letter)));
            next = page.next;
            if next.is_none() || items.len() >= limit {
                let next = next.map(|number| format!("{number}-{}", TaskId::instance()));
                return DeadLetterPage { dead_letters: items, next };
            }
        }
    }

    fn is_wanted(&self, letter: &DeadLetter) -> bool {
        let name = letter.name.as_str();
        self.name.as_ref().is_none_or(|wanted| name == wanted)
            && self.text.as_ref().is_none_or(|text| name.to_lowercase().contains(text))
    }
}

/// The number of a letter, written with the instance of the process like an id: in another process it is another
/// letter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LetterCursor(u64);

impl Cursor for LetterCursor {
    fn parse(text: &str) -> Result<Self, ParseIdError> {
        let (number, instance) = text.split_once('-').ok_or(ParseIdError::Malformed)?;
        let number = number.parse().map_err(|_| ParseIdError::Malformed)?;
        if instance == TaskId::instance() { Ok(Self(number)) } else { Err(ParseIdError::OtherProcess) }
    }
}

#[derive(Serialize)]
struct DeadLetterPage {
    dead_letters: Vec<DeadLetter>,
    next: Option<String>,
}

async fn list(State(status): State<Arc<Status>>, query: QueryParams) -> Result<Json<DeadLetterPage>, ApiError> {
    let query = parse_query(query, LetterQuery::parse)?;
    status.exclusively(move |registry| query.answer(&registry.dead_letters())).await.map(Json)
}

async fn show(State(status): State<Arc<Status>>, IdText(id): IdText) -> Result<Json<DeadLetter>, ApiError> {
    let id = parse_id(&id, ApiError::unknown_dead_letter)?;
    status.registry.dead_letters().find(id).map(Json).ok_or_else(|| ApiError::unknown_dead_letter(&id.to_external()))
}

async fn replay(
    _: Action,
    State(status): State<Arc<Status>>,
    IdText(id): IdText,
    OriginalUri(uri): OriginalUri,
) -> Result<Accepted, ApiError> {
    let id = parse_id(&id, ApiError::unknown_dead_letter)?;
    let replay = status.registry.dead_letters().replay(id)?;
    info!(target: "postlude", id = %id, replay = %replay.id(), "a client has replayed a dead letter");
    // The path under which the routes are nested: all before `/dead-letters/{id}/replay`.
    let path = uri.path().rsplitn(4, '/').nth(3).unwrap_or_default();
    Ok(Accepted::new(replay.id()).under(path.to_owned()))
}

async fn discard(_: Action, State(status): State<Arc<Status>>, IdText(id): IdText) -> Result<StatusCode, ApiError> {
    let id = parse_id(&id, ApiError::unknown_dead_letter)?;
    let is_discarded = status.registry.dead_letters().discard(id);
    if !is_discarded {
        return Err(ApiError::unknown_dead_letter(&id.to_external()));
    }
    info!(target: "postlude", id = %id, "a client has discarded a dead letter");
    Ok(StatusCode::NO_CONTENT)
}
