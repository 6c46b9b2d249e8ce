//! Whether a request to act may have come from a page of another site.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Uri, header, request::Parts},
};
use postlude::TaskId;

use crate::error::ApiError;

/// The header that a client sends to act. A page of another site can send it only if the server allows that in the
/// answer to a preflight request, and these routes never do.
const HEADER: &str = "x-requested-with";

/// The header with the instance of the process: in each answer, and, if a client wants, in a request to act.
pub(crate) const INSTANCE: &str = "x-postlude-instance";

/// The extractor of every route that acts: accepts a request only if no page of another site can have sent it.
///
/// A browser sends a plain form, with the user's cookies, to any site. So each request has to have a header that a form
/// can't send; and if the browser says where the request comes from, that has to be the host of the routes.
pub(crate) struct Action;

impl<S: Sync> FromRequestParts<S> for Action {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        check(&parts.headers, &parts.uri).map_err(ApiError::forbidden)?;
        check_instance(&parts.headers).map_err(ApiError::conflict)?;
        Ok(Self)
    }
}

/// An action that was meant for another process does nothing: behind one address there may be several.
fn check_instance(headers: &HeaderMap) -> Result<(), String> {
    let Some(meant) = headers.get(INSTANCE) else { return Ok(()) };
    let here = TaskId::instance();
    if meant == here {
        return Ok(());
    }
    let meant = String::from_utf8_lossy(meant.as_bytes());
    Err(format!(
        "the action is for the process `{meant}`, and this is `{here}`: it has restarted, or there are several at this \
         address; nothing was done"
    ))
}

fn check(headers: &HeaderMap, uri: &Uri) -> Result<(), String> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    // `none` is a person's own doing: an address that was typed, a bookmark.
    if let Some(site) = headers.get("sec-fetch-site") {
        if site != "same-origin" && site != "none" {
            let site = text(site);
            return Err(format!("the request comes from a page of another site (`sec-fetch-site: {site}`)"));
        }
    } else if let Some(origin) = headers.get(header::ORIGIN) {
        // A browser that says nothing of the site: an old one, or one that is not on https.
        let host = uri.authority().map(|authority| authority.as_str());
        let host = host.or_else(|| headers.get(header::HOST)?.to_str().ok()).unwrap_or_default();
        if !is_origin_of(origin, host) {
            let origin = text(origin);
            return Err(format!("the request comes from a page of `{origin}`, and not of this host, `{host}`"));
        }
    }
    if !headers.contains_key(HEADER) {
        return Err(format!("send the header `{HEADER}`, with any value: a page of another site can't"));
    }
    Ok(())
}

/// Whether pages of this origin are at this host. `null`, the origin of a sandboxed page, is at none.
fn is_origin_of(origin: &HeaderValue, host: &str) -> bool {
    let (Some(Ok(origin)), Ok(host)) = (origin.to_str().ok().map(str::parse::<Uri>), host.parse::<Uri>()) else {
        return false;
    };
    let default_port = if origin.scheme_str() == Some("http") { 80 } else { 443 };
    let port = |uri: &Uri| uri.port_u16().unwrap_or(default_port);
    match (origin.scheme(), origin.host(), host.host()) {
        (Some(_), Some(of), Some(at)) => of.eq_ignore_ascii_case(at) && port(&origin) == port(&host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_origin_of_compares_hosts_and_ports() {
        let cases = [
            ("https://admin.example", "admin.example", true),
            ("https://admin.example", "Admin.Example:443", true),
            ("http://admin.example", "admin.example:80", true),
            ("http://127.0.0.1:3000", "127.0.0.1:3000", true),
            ("http://[::1]:3000", "[::1]:3000", true),
            ("http://admin.example", "admin.example:3000", false),
            ("https://admin.example:3000", "admin.example", false),
            ("https://evil.example", "admin.example", false),
            ("https://admin.example.evil.example", "admin.example", false),
            ("https://evil.example?admin.example", "admin.example", false),
            ("https://admin.example@evil.example", "admin.example", false),
            ("admin.example", "admin.example", false),
            ("null", "admin.example", false),
            ("null", "null", false),
            ("", "", false),
        ];
        for (origin, host, is_so) in cases {
            assert_eq!(is_origin_of(&HeaderValue::from_static(origin), host), is_so, "{origin} at {host}");
        }
    }
}
