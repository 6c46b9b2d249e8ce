//! The routes that list all names, and show one.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;

use crate::{
    error::{ApiError, answer_other_methods},
    query::{NameText, Params, QueryParams, parse_query},
    recent::Recent,
    routes::Status,
    snapshot::{Look, NameRow, row},
};

/// How many names an answer has, if the client asks for no number, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

pub(crate) fn routes() -> Router<Arc<Status>> {
    Router::new()
        .route("/names.json", answer_other_methods(get(list), None))
        .route("/names/{name}", answer_other_methods(get(show), None))
}

/// The names that a client asks for.
#[derive(Debug, PartialEq, Eq)]
struct NameQuery {
    /// Part of the name, in lower case.
    text: Option<String>,
    limit: usize,
    /// The name after which the answer begins.
    after: Option<String>,
}

impl NameQuery {
    fn parse(params: Params) -> Result<Self, String> {
        let mut query = Self { text: None, limit: DEFAULT_LIMIT, after: None };
        for (key, value) in params {
            match key.as_str() {
                "text" => query.text = Some(value.to_lowercase()).filter(|text| !text.is_empty()),
                "cursor" => query.after = Some(value),
                "limit" => match value.parse() {
                    Ok(limit @ 1..=MAX_LIMIT) => query.limit = limit,
                    _ => return Err(format!("`limit={value}`: the limit is a number from 1 to {MAX_LIMIT}")),
                },
                _ => return Err(format!("`{key}` is not a parameter: there are text, limit and cursor")),
            }
        }
        Ok(query)
    }

    fn answer(&self, look: &Look, recent: &Recent, now: std::time::Duration) -> NamePage {
        let is_wanted = |name: &str| {
            self.after.as_ref().is_none_or(|after| name > after.as_str())
                && self.text.as_ref().is_none_or(|text| name.to_lowercase().contains(text))
        };
        let mut wanted = look.metrics.by_name().iter().filter(|(name, _)| is_wanted(name.as_str()));
        let names: Vec<_> =
            wanted.by_ref().take(self.limit).map(|(name, metrics)| row(*name, metrics, look, recent, now)).collect();
        let next = names.last().map(|row| row.name.as_str()).filter(|_| wanted.next().is_some());
        NamePage { next, names }
    }
}

#[derive(Serialize)]
struct NamePage {
    names: Vec<NameRow>,
    next: Option<&'static str>,
}

async fn list(State(status): State<Arc<Status>>, query: QueryParams) -> Result<Json<NamePage>, ApiError> {
    let query = parse_query(query, NameQuery::parse)?;
    let look = Arc::clone(&status).exclusively(Look::at).await?;
    let page = match &status.sampler {
        Some(sampler) => sampler.with_recent(|recent| query.answer(&look, recent, sampler.now())),
        None => query.answer(&look, &Recent::default(), std::time::Duration::ZERO),
    };
    Ok(Json(page))
}

async fn show(State(status): State<Arc<Status>>, NameText(name): NameText) -> Result<Json<NameRow>, ApiError> {
    let look = Arc::clone(&status).exclusively(Look::at).await?;
    let found = look.metrics.by_name().get_key_value(name.as_str());
    let (known, metrics) = found.ok_or_else(|| ApiError::unknown_name(&name))?;
    Ok(Json(match &status.sampler {
        Some(sampler) => sampler.with_recent(|recent| row(*known, metrics, &look, recent, sampler.now())),
        None => row(*known, metrics, &look, &Recent::default(), std::time::Duration::ZERO),
    }))
}
