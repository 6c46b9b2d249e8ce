//! What the page reads while it is open: a stream, or the same by polling.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{
    StreamExt,
    future::Either,
    stream::{self, Stream},
};
use tokio::time::sleep;

use crate::{
    error::{ApiError, answer_other_methods},
    query::{Params, QueryParams, parse_query},
    recent::Columns,
    routes::Status,
    sampler::Sampler,
    tail::Events,
};

/// How long a stream lasts if nobody says when the server stops.
const LASTS: Duration = Duration::from_secs(10);
/// How long one lasts at most.
const LASTS_AT_MOST: Duration = Duration::from_secs(600);
/// How often something is sent, so that no proxy takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) fn routes() -> Router<Arc<Status>> {
    Router::new()
        .route("/events", answer_other_methods(get(events), None))
        .route("/events.json", answer_other_methods(get(events_json), None))
        .route("/snapshot.json", answer_other_methods(get(snapshot_json), None))
        .route("/samples.json", answer_other_methods(get(samples_json), None))
}

/// The sampler, which runs from here on.
fn sampler(status: &Arc<Status>) -> Result<&Sampler, ApiError> {
    Sampler::start(status);
    status.sampler.as_deref().ok_or_else(|| ApiError::unavailable("the page is off".to_owned()))
}

async fn snapshot_json(State(status): State<Arc<Status>>) -> Result<impl IntoResponse, ApiError> {
    let latest = sampler(&status)?.latest().await;
    let latest = latest.ok_or_else(|| ApiError::unavailable("no snapshot could be taken in time".to_owned()))?;
    Ok(([(CONTENT_TYPE, "application/json")], latest.json))
}

/// The last hour of one name, or of all.
async fn samples_json(State(status): State<Arc<Status>>, query: QueryParams) -> Result<Json<Samples>, ApiError> {
    let name = parse_query(query, |mut params: Params| {
        let name = params.remove("name");
        match params.keys().next() {
            Some(key) => Err(format!("`{key}` is not a parameter: there is name")),
            None => Ok(name),
        }
    })?;
    let sampler = sampler(&status)?;
    let now = sampler.now();
    let columns = sampler.with_recent(|recent| match &name {
        None => Some(recent.all.columns(now)),
        Some(name) => recent.names.get(name.as_str()).map(|series| series.columns(now)),
    });
    Ok(Json(Samples { name, samples: columns }))
}

#[derive(serde::Serialize)]
struct Samples {
    name: Option<String>,
    /// `null` if the name has none: it is unknown, or one of too many.
    samples: Option<Columns>,
}

/// Which events a client wants.
struct EventQuery {
    /// Whether it wants those of tasks, beside the snapshots.
    tail: bool,
    after: u64,
}

impl EventQuery {
    fn parse(params: Params) -> Result<Self, String> {
        let mut query = Self { tail: false, after: 0 };
        for (key, value) in params {
            match (key.as_str(), value.as_str()) {
                ("tail", "on") => query.tail = true,
                ("tail", "off") => query.tail = false,
                ("after", number) => {
                    let error = |_| format!("`after={number}`: it is the `next` of the events before");
                    query.after = number.parse().map_err(error)?;
                }
                ("tail", other) => return Err(format!("`tail={other}`: it is on or off")),
                _ => return Err(format!("`{key}` is not a parameter: there are tail and after")),
            }
        }
        Ok(query)
    }
}

async fn events_json(State(status): State<Arc<Status>>, query: QueryParams) -> Result<Json<Events>, ApiError> {
    let query = parse_query(query, EventQuery::parse)?;
    status.tail.start(&status.registry);
    Ok(Json(status.tail.from(query.after)))
}

async fn events(
    State(status): State<Arc<Status>>,
    headers: HeaderMap,
    query: QueryParams,
) -> Result<Response, ApiError> {
    let query = parse_query(query, EventQuery::parse)?;
    let sampler = sampler(&status)?;
    let Some(viewer) = sampler.viewer() else {
        return Err(ApiError::unavailable("too many clients read events: ask for `snapshot.json`".to_owned()));
    };
    // A browser that opens a stream again says where it was.
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let after = last.unwrap_or(query.after);
    let tail = if query.tail {
        status.tail.start(&status.registry);
        Either::Left(status.tail.stream(after))
    } else {
        Either::Right(stream::pending())
    };
    let stop = status.stop.clone();
    let end = async move {
        match stop {
            None => sleep(LASTS).await,
            Some(stop) => tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(LASTS_AT_MOST) => {}
            },
        }
    };
    let first = stream::iter([Ok(Bytes::from_static(b"retry: 1000\n\n"))]);
    let all = stream::select(stream::select(sampler.events(viewer), tail), keep_alive());
    let body = Body::from_stream(first.chain(all.take_until(end)));
    let headers = [(CONTENT_TYPE, "text/event-stream"), (HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((headers, body).into_response())
}

/// Comments, from time to time.
fn keep_alive() -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold((), async |()| {
        sleep(KEEP_ALIVE).await;
        Some((Ok(Bytes::from_static(b":\n\n")), ()))
    })
}
