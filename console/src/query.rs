use std::collections::BTreeMap;

use axum::{
    extract::{FromRequestParts, Path, Query, rejection::QueryRejection},
    http::request::Parts,
};
use postlude::{ParseIdError, TaskId};

use crate::error::ApiError;

/// The number of items of a page, if the client asks for none.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// The parameters of a request, by name.
pub(crate) type Params = BTreeMap<String, String>;

/// The extractor of the parameters of a request.
pub(crate) type QueryParams = Result<Query<Params>, QueryRejection>;

/// Parses the parameters of a request. Each failure is a 400.
pub(crate) fn parse_query<Q>(
    query: QueryParams,
    parse: impl FnOnce(Params) -> Result<Q, String>,
) -> Result<Q, ApiError> {
    let Query(params) = query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    parse(params).map_err(ApiError::bad_request)
}

/// The extractor of the id in a path, as text. The path under which the routes are nested may have parameters of its
/// own.
pub(crate) struct IdText(pub(crate) String);

/// The extractor of the name in a path.
pub(crate) struct NameText(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for IdText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        text_in_path(parts, state, "id").await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NameText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        text_in_path(parts, state, "name").await.map(Self)
    }
}

async fn text_in_path<S: Send + Sync>(parts: &mut Parts, state: &S, key: &str) -> Result<String, ApiError> {
    let path = Path::<Params>::from_request_parts(parts, state).await;
    let Path(mut parameters) = path.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    Ok(parameters.remove(key).unwrap_or_default())
}

/// Parses the id in a path. An id of another process is unknown.
pub(crate) fn parse_id(text: &str, unknown: impl FnOnce(&str) -> ApiError) -> Result<TaskId, ApiError> {
    TaskId::from_external(text).map_err(|error| match error {
        ParseIdError::OtherProcess => unknown(text),
        _ if text.parse::<TaskId>().is_ok() => ApiError::bad_request(format!(
            "`{text}` is the short id of a log line, which means something only in one process: append `-` and the \
             instance of that process, with which all ids of `/tasks` end"
        )),
        _ => ApiError::bad_request(format!("`{text}` is not the id of a task: take the `id` of `/tasks`")),
    })
}

/// Where a page begins: after what a client read before, in a list of this process.
pub(crate) trait Cursor: Sized {
    /// # Errors
    /// If the text is no cursor, or one of another process.
    fn parse(text: &str) -> Result<Self, ParseIdError>;
}

impl Cursor for TaskId {
    fn parse(text: &str) -> Result<Self, ParseIdError> {
        Self::from_external(text)
    }
}

/// The page of a list that a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PageQuery<C> {
    pub(crate) limit: usize,
    pub(crate) cursor: Option<C>,
}

impl<C> Default for PageQuery<C> {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, cursor: None }
    }
}

impl<C: Cursor> PageQuery<C> {
    /// Sets the limit or the cursor from a parameter. Returns `false` if the parameter is a different one.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "limit" => match value.parse() {
                Ok(limit @ 1..=MAX_LIMIT) => self.limit = limit,
                _ => return Err(format!("`limit={value}`: the limit is a number from 1 to {MAX_LIMIT}")),
            },
            "cursor" => match C::parse(value) {
                Ok(cursor) => self.cursor = Some(cursor),
                Err(ParseIdError::OtherProcess) => {
                    return Err(format!("`cursor={value}` is of another process: begin at the first page"));
                }
                Err(_) => return Err(format!("`cursor={value}`: the cursor is the `next` of the page before")),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }
}
