//! The page for browsers, its files, and the headers that keep it harmless.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json, Router,
    extract::{OriginalUri, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
        header::{
            ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, VARY,
            X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use postlude::TaskId;
use serde::Serialize;

use crate::{
    error::answer_other_methods,
    routes::{Config, Status},
};

/// Nothing but the files of the page itself, no markup made of text, and no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = include_str!("assets/index.html");
/// What stands in the HTML before the name of each file.
const FILES: &str = "{files}";

/// A file of the page.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
    etag: u64,
}

macro_rules! assets {
    ($($file:literal $content_type:literal)+) => {
        [$(Asset {
            path: concat!("/assets/", $file),
            content_type: $content_type,
            text: include_str!(concat!("assets/", $file)),
            etag: fingerprint(include_str!(concat!("assets/", $file)).as_bytes()),
        }),+]
    };
}

/// The runbook, which the page shows.
const RUNBOOK: &str = include_str!("../docs/runbook.md");

static RUNBOOK_FILE: Asset = Asset {
    path: "/assets/runbook.md",
    content_type: "text/markdown; charset=utf-8",
    text: RUNBOOK,
    etag: fingerprint(RUNBOOK.as_bytes()),
};

static ASSETS: [Asset; 20] = assets! {
    "console.css" "text/css; charset=utf-8"
    "icon.svg" "image/svg+xml"
    "main.js" "text/javascript; charset=utf-8"
    "api.js" "text/javascript; charset=utf-8"
    "chart.js" "text/javascript; charset=utf-8"
    "dom.js" "text/javascript; charset=utf-8"
    "format.js" "text/javascript; charset=utf-8"
    "table.js" "text/javascript; charset=utf-8"
    "links.js" "text/javascript; charset=utf-8"
    "shares.js" "text/javascript; charset=utf-8"
    "runbook.js" "text/javascript; charset=utf-8"
    "replays.js" "text/javascript; charset=utf-8"
    "detail.js" "text/javascript; charset=utf-8"
    "overview.js" "text/javascript; charset=utf-8"
    "names.js" "text/javascript; charset=utf-8"
    "tasks.js" "text/javascript; charset=utf-8"
    "history.js" "text/javascript; charset=utf-8"
    "dead.js" "text/javascript; charset=utf-8"
    "events.js" "text/javascript; charset=utf-8"
    "queues.js" "text/javascript; charset=utf-8"
};

/// FNV-1a: tells one version of a file from another.
const fn fingerprint(text: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        hash = (hash ^ *byte as u64).wrapping_mul(0x0100_0000_01b3);
        rest = tail;
    }
    hash
}

pub(crate) fn routes() -> Router<Arc<Status>> {
    let mut router = Router::new()
        .route("/", answer_other_methods(get(root), None))
        .route("/index.html", answer_other_methods(get(page), None));
    for asset in ASSETS.iter().chain([&RUNBOOK_FILE]) {
        let serve = async move |headers: HeaderMap| asset.response(&headers);
        router = router.route(asset.path, answer_other_methods(get(serve), None));
    }
    router
}

/// What a client that is no browser gets at the root.
#[derive(Serialize)]
struct Index {
    instance: &'static str,
    #[serde(flatten)]
    config: Config,
    page: &'static str,
    routes: &'static [&'static str],
}

const ROUTES: &[&str] = &[
    "tasks",
    "dead-letters",
    "names.json",
    "snapshot.json",
    "samples.json",
    "events.json",
    "events",
    "metrics.json",
    "health",
];

async fn root(State(status): State<Arc<Status>>, headers: HeaderMap, OriginalUri(uri): OriginalUri) -> Response {
    if prefers_html(&headers) {
        return html(&uri);
    }
    let index =
        Index { instance: TaskId::instance(), config: status.config.clone(), page: "index.html", routes: ROUTES };
    ([(VARY, "accept")], Json(index)).into_response()
}

async fn page(OriginalUri(uri): OriginalUri) -> Response {
    html(&uri)
}

fn html(uri: &Uri) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (VARY, HeaderValue::from_static("accept")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ];
    (headers, HTML.replace(FILES, &folder_of_assets(uri.path()))).into_response()
}

/// The folder of the files, relative to the address of the page. `/x/admin` has them in `./admin/assets/`, also if a
/// proxy has removed or added `/x`; `/x/admin/` and `/x/admin/index.html` in `./assets/`.
fn folder_of_assets(path: &str) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    let mut folder = String::from("./");
    if !last.is_empty() && last != "index.html" {
        for character in last.chars() {
            match character {
                '&' => folder.push_str("&amp;"),
                '"' => folder.push_str("%22"),
                '<' => folder.push_str("%3C"),
                '>' => folder.push_str("%3E"),
                _ => folder.push(character),
            }
        }
        folder.push('/');
    }
    folder + "assets/"
}

/// Whether a client would rather have HTML than JSON. Browsers name HTML; `curl` and most libraries accept anything.
fn prefers_html(headers: &HeaderMap) -> bool {
    let all: Vec<Cow<'_, str>> =
        headers.get_all(ACCEPT).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let quality = |wanted: &str| {
        let ranges = all.iter().flat_map(|value| value.split(',')).filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_wanted = parts.next()?.eq_ignore_ascii_case(wanted);
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let quality: f32 = quality.map_or(Some(1.0), |quality| quality.parse().ok())?;
            is_wanted.then_some(quality)
        });
        ranges.fold(None, |best: Option<f32>, quality| Some(best.map_or(quality, |best| best.max(quality))))
    };
    let html = quality("text/html").unwrap_or(0.0);
    html > 0.0 && html >= quality("application/json").unwrap_or(0.0)
}

impl Asset {
    fn response(&self, headers: &HeaderMap) -> Response {
        let etag = format!("\"{:016x}\"", self.etag);
        // Asked for each time, so that a page never mixes the files of two versions.
        let fixed = [(CACHE_CONTROL, "private, no-cache"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
        let known = headers.get(IF_NONE_MATCH).and_then(|known| known.to_str().ok()).unwrap_or_default();
        if known.split(',').any(|known| known.trim().trim_start_matches("W/") == etag) {
            return (StatusCode::NOT_MODIFIED, fixed, [(ETAG, etag)]).into_response();
        }
        let policy = [(CONTENT_SECURITY_POLICY, POLICY), (CONTENT_TYPE, self.content_type)];
        (fixed, policy, [(ETAG, etag)], self.text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "text/javascript; charset=utf-8";

    #[test]
    fn prefers_html_takes_a_browser_by_what_it_accepts() {
        let cases = [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", true),
            ("text/html", true),
            ("TEXT/HTML ; Q=0.5", true),
            ("*/*", false),
            ("", false),
            ("application/json", false),
            ("application/json, text/html;q=0.9", false),
            ("application/json;q=0.8, text/html", true),
            ("text/html;q=0", false),
            ("text/html;q=many", false),
        ];
        for (accept, expected) in cases {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(prefers_html(&headers), expected, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn folder_of_assets_is_relative_to_the_last_segment() {
        let cases = [
            ("/", "./assets/"),
            ("/admin", "./admin/assets/"),
            ("/x/admin", "./admin/assets/"),
            ("/x/admin/", "./assets/"),
            ("/x/admin/index.html", "./assets/"),
            ("/a%20b&c", "./a%20b&amp;c/assets/"),
            ("/javascript:alert(1)", "./javascript:alert(1)/assets/"),
            ("/\"><script>", "./%22%3E%3Cscript%3E/assets/"),
        ];
        for (path, expected) in cases {
            assert_eq!(folder_of_assets(path), expected, "{path}");
        }
    }

    #[test]
    fn the_files_have_the_types_that_browsers_ask_for() {
        for asset in &ASSETS {
            let is_script = asset.path.ends_with(".js");
            assert_eq!(asset.content_type == SCRIPT, is_script, "{}", asset.path);
            assert!(!asset.text.is_empty());
        }
    }
}
