//! The routes that pause and limit a name.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::Method,
    routing::{MethodRouter, put},
};
use postlude::{LimitError, TaskName, TaskRegistry};
use serde::Serialize;
use tracing::info;

use crate::{
    action::Action,
    error::{ApiError, answer_other_methods},
    query::{NameText, Params, QueryParams, parse_query},
    routes::Status,
};

pub(crate) fn routes(allow_pause: bool) -> Router<Arc<Status>> {
    const DISABLED: &str = "pausing and limiting are disabled: `StatusRouter::allow_pause` enables them";
    const METHODS: &[Method] = &[Method::PUT, Method::DELETE];

    let (paused, limit) = if allow_pause {
        (put(pause).delete(resume), put(set_limit).delete(remove_limit))
    } else {
        (MethodRouter::new(), MethodRouter::new())
    };
    let disabled = (!allow_pause).then_some((METHODS, DISABLED));
    Router::new()
        .route("/names/{name}/paused", answer_other_methods(paused, disabled))
        .route("/names/{name}/limit", answer_other_methods(limit, disabled))
}

/// A name, and its limit after what was done.
#[derive(Serialize)]
struct Limited {
    name: TaskName,
    limit: Option<usize>,
    in_use: usize,
    paused: bool,
}

async fn pause(_: Action, status: State<Arc<Status>>, name: NameText) -> Result<Json<Limited>, ApiError> {
    change(status, name, |registry, name| {
        let is_new = registry.pause(name);
        info!(target: "postlude", name = name.as_str(), is_new, "a client has paused a name");
        Ok(())
    })
    .await
}

async fn resume(_: Action, status: State<Arc<Status>>, name: NameText) -> Result<Json<Limited>, ApiError> {
    change(status, name, |registry, name| {
        let is_new = registry.resume(name);
        info!(target: "postlude", name = name.as_str(), is_new, "a client has resumed a name");
        Ok(())
    })
    .await
}

async fn set_limit(
    _: Action,
    status: State<Arc<Status>>,
    name: NameText,
    query: QueryParams,
) -> Result<Json<Limited>, ApiError> {
    let tasks = parse_query(query, parse_limit)?;
    change(status, name, move |registry, name| {
        registry.set_limit(name, tasks)?;
        info!(target: "postlude", name = name.as_str(), limit = tasks, "a client has set the limit of a name");
        Ok(())
    })
    .await
}

async fn remove_limit(_: Action, status: State<Arc<Status>>, name: NameText) -> Result<Json<Limited>, ApiError> {
    change(status, name, |registry, name| {
        registry.remove_limit(name);
        info!(target: "postlude", name = name.as_str(), "a client has removed the limit of a name");
        Ok(())
    })
    .await
}

fn parse_limit(mut params: Params) -> Result<usize, String> {
    let tasks = params.remove("tasks");
    if let Some(key) = params.keys().next() {
        return Err(format!("`{key}` is not a parameter: there is tasks"));
    }
    let tasks = tasks.ok_or_else(|| "send the limit as `tasks=`, the number of tasks that may run".to_owned())?;
    tasks.parse().map_err(|_| format!("`tasks={tasks}`: the limit is the number of tasks that may run, from 1"))
}

/// Changes the limits of a name that the registry knows. It knows those that have had tasks, or a limit.
async fn change(
    State(status): State<Arc<Status>>,
    NameText(text): NameText,
    change: impl FnOnce(&TaskRegistry, TaskName) -> Result<(), LimitError> + Send + 'static,
) -> Result<Json<Limited>, ApiError> {
    let changed = status.exclusively(move |registry| {
        let known = registry.metrics().by_name().get_key_value(text.as_str()).map(|(name, _)| *name);
        let name = known.ok_or_else(|| ApiError::unknown_name(&text))?;
        change(registry, name).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let limits = registry.name_limits().get(&name).copied();
        let (limit, in_use, paused) = limits.map_or((None, 0, false), |of| (of.limit, of.in_use, of.paused));
        Ok(Limited { name, limit, in_use, paused })
    });
    changed.await?.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_limit_takes_a_number_and_explains_what_is_none() {
        let parse = |text: &str| {
            let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
            parse_limit(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
        };
        assert_eq!(parse("tasks=3"), Ok(3));
        for (text, hint) in
            [("", "as `tasks=`"), ("tasks=-1", "from 1"), ("tasks=many", "from 1"), ("limit=3", "there is tasks")]
        {
            let message = parse(text).unwrap_err();
            assert!(message.contains(hint), "{text}: {message}");
        }
    }
}
