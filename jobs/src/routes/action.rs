//! Whether a request to act may have come from a page of another site.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Uri, header, request::Parts},
};

use super::error::ApiError;

/// The header that a client sends to act. A page of another site can send it only if the server allows that in the
/// answer to a preflight request, and these routes never do.
const HEADER: &str = "x-requested-with";

/// The extractor of every route that acts: accepts a request only if no page of another site can have sent it.
pub(super) struct Action;

impl<S: Sync> FromRequestParts<S> for Action {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        check(&parts.headers, &parts.uri).map(|()| Self).map_err(ApiError::forbidden)
    }
}

fn check(headers: &HeaderMap, uri: &Uri) -> Result<(), String> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match (text("sec-fetch-site"), text(header::ORIGIN.as_str())) {
        // `none` is a person's own doing: an address that was typed, a bookmark.
        (Some(site), _) if site == "same-origin" || site == "none" => {}
        (Some(site), _) => return Err(format!("the request comes from a page of another site (`{site}`)")),
        // A browser that says nothing of the site.
        (None, Some(origin)) => {
            let host = uri.authority().map(ToString::to_string).or_else(|| text(header::HOST.as_str()));
            let host = host.unwrap_or_default();
            if origin.split_once("://").is_none_or(|(_, of)| !of.eq_ignore_ascii_case(&host)) {
                return Err(format!("the request comes from a page of `{origin}`, and not of this host, `{host}`"));
            }
        }
        (None, None) => {}
    }
    if headers.contains_key(HEADER) {
        return Ok(());
    }
    Err(format!("send the header `{HEADER}`, with any value: a form on a page of another site can't"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn check_accepts_what_no_other_site_can_send() {
        for (headers, is_accepted) in [
            (&[][..], false),
            (&[(HEADER, "curl")], true),
            (&[(HEADER, "x"), ("sec-fetch-site", "same-origin")], true),
            (&[(HEADER, "x"), ("sec-fetch-site", "cross-site")], false),
            (&[(HEADER, "x"), ("origin", "https://admin.example")], true),
            (&[(HEADER, "x"), ("origin", "https://evil.example")], false),
            (&[(HEADER, "x"), ("origin", "null")], false),
            (&[("origin", "https://admin.example")], false),
        ] {
            let mut map = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("admin.example"))]);
            for (name, value) in headers {
                map.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(check(&map, &Uri::from_static("/")).is_ok(), is_accepted, "{headers:?}");
        }
    }
}
