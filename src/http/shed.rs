//! Turning requests away while the registry is full.

use http::{HeaderValue, Response, StatusCode, header::RETRY_AFTER};

use crate::{http::TaskBody, registry::TaskRegistry, util::loom::atomic::Ordering};

/// The longest `Retry-After`, in seconds.
const RETRY_WITHIN: u64 = 5;

/// The `Retry-After` of a request to be turned away, in seconds; `None` if the registry is not full.
///
/// Successive clients get 1, 2, up to 5 s in turn, so that those that were turned away together do not come back
/// together.
pub(crate) fn retry_after(registry: &TaskRegistry) -> Option<u64> {
    let shared = &*registry.shared;
    if !shared.ledger.is_full() {
        return None;
    }
    // Relaxed: a statistic.
    let before = shared.shed.fetch_add(1, Ordering::Relaxed);
    let shed = before.saturating_add(1);
    if shed.is_power_of_two() {
        tracing::warn!(
            target: "postlude",
            shed,
            "requests are turned away because the registry is at its capacity; logged again when their number has doubled"
        );
    }
    Some(before % RETRY_WITHIN + 1)
}

/// The answer in place of the handler's.
pub(crate) fn response<B>(retry_after: u64) -> Response<TaskBody<B>> {
    let mut response = Response::new(TaskBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
    response
}
