use std::{collections::BTreeMap, str::FromStr};

use axum::extract::{Query, rejection::QueryRejection};
use postlude::TaskId;

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

/// Parses the id in a path.
pub(crate) fn parse_id(text: &str) -> Result<TaskId, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!("`{text}` is not the id of a task: ids look like 17, or like 17.2 in a set"))
    })
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

impl<C: FromStr> PageQuery<C> {
    /// Sets the limit or the cursor from a parameter. Returns `false` if the parameter is a different one.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "limit" => match value.parse() {
                Ok(limit @ 1..=MAX_LIMIT) => self.limit = limit,
                _ => return Err(format!("`limit={value}`: the limit is a number from 1 to {MAX_LIMIT}")),
            },
            "cursor" => match value.parse() {
                Ok(cursor) => self.cursor = Some(cursor),
                Err(_) => return Err(format!("`cursor={value}`: the cursor is the `next` of the page before")),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }
}
