//! The endings of a request; its tasks run after each of them.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Response, StatusCode},
    middleware::{Next, from_fn},
    response::Redirect,
    routing::get as on_get,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use postlude::{Ending, TaskLayer, TaskRegistry, after};
use tokio::sync::{Notify, mpsc::UnboundedReceiver};
use tower::{Layer, ServiceExt};
use tower_http::services::ServeDir;

use crate::support::{
    Journal, assert_conserved,
    net::{Client, VERSIONS, Version, raw, read_all, read_until, reporting_layer, request, serve, within},
};

fn chunk(text: &'static str) -> Result<Bytes, std::io::Error> {
    Ok(Bytes::from_static(text.as_bytes()))
}

/// A server whose handlers wait, stream or panic, and what a test has to know of them.
struct Site {
    address: std::net::SocketAddr,
    registry: TaskRegistry,
    endings: UnboundedReceiver<Ending>,
    entered: Arc<Notify>,
    journal: Journal,
}

impl Site {
    async fn open() -> Self {
        let (registry, journal, entered) = (TaskRegistry::new(), Journal::default(), Arc::new(Notify::new()));
        let (layer, endings) = reporting_layer(&registry);
        let enter = {
            let (journal, entered) = (journal.clone(), Arc::clone(&entered));
            move || {
                after(journal.task("ran")).unwrap();
                entered.notify_one();
            }
        };
        let (enters, panics, streams) = (enter.clone(), enter.clone(), enter.clone());
        let hanging = async move || {
            enters();
            std::future::pending::<()>().await;
        };
        let panicking = async move || -> StatusCode {
            panics();
            panic!("a handler panics");
        };
        let streaming = async move || {
            streams();
            Body::from_stream(stream::iter([chunk("first\n")]).chain(stream::pending()))
        };
        let failing = async move || {
            enter();
            let error = Err(std::io::Error::other("the body fails"));
            Body::from_stream(stream::iter([chunk("first\n"), error]))
        };
        let app = Router::new()
            .route("/hanging", on_get(hanging))
            .route("/panicking", on_get(panicking))
            .route("/streaming", on_get(streaming))
            .route("/failing", on_get(failing))
            .route("/fine", on_get(|| async { "fine" }))
            .layer(layer);
        Self { address: serve(app), registry, endings, entered, journal }
    }

    /// The one request so far ended like this, and its task ran.
    async fn ended(&mut self, ending: Ending) {
        assert_eq!(within(self.endings.recv()).await, Some(ending));
        within(self.registry.wait_idle()).await;
        assert_eq!(self.journal.read(), ["ran"]);
        assert_conserved(&self.registry, 1);
        let mut next = Client::connect(Version::H1, self.address).await;
        assert_eq!(next.fetch("/fine").await, "fine", "the server goes on");
    }
}

/// Calls a service inside the layer, without a server around it.
async fn call_inside<F>(layer: &TaskLayer, handler: impl Fn() -> F + Send + 'static) -> Result<StatusCode, String>
where
    F: Future<Output = Result<Response<Body>, String>> + Send + 'static,
{
    let service = layer.layer(tower::service_fn(move |_: Request| handler()));
    let response = service.oneshot(request("GET", "/")).await?;
    let status = response.status();
    response.collect().await.map_err(|error| error.to_string())?;
    Ok(status)
}

mod sent {
    use super::*;

    /// Every kind of response; each leaves one task behind.
    fn every_kind_of_response(files: &std::path::Path, journal: &Journal) -> Router {
        let journal = journal.clone();
        let leave_task = move |request: Request, next: Next| {
            after(journal.task("ran")).unwrap();
            next.run(request)
        };
        Router::new()
            .route("/full", on_get(|| async { "as long as it says" }))
            .route("/long", on_get(|| async { "long ".repeat(100_000) }))
            .route("/stream", on_get(|| async { Body::from_stream(stream::iter([chunk("one"), chunk("two")])) }))
            .route("/empty", on_get(|| async {}))
            .route("/wrong", on_get(|| async { (StatusCode::BAD_REQUEST, "the client's fault") }))
            .route("/broken", on_get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "the server's fault") }))
            .route("/moved", on_get(|| async { Redirect::to("/full") }))
            .route("/nothing", on_get(|| async { StatusCode::NO_CONTENT }))
            .route("/unchanged", on_get(|| async { StatusCode::NOT_MODIFIED }))
            .nest_service("/files", ServeDir::new(files))
            .layer(from_fn(leave_task))
    }

    const RESPONSES: [(&str, &str, u16); 16] = [
        ("GET", "/full", 200),
        ("GET", "/long", 200),
        ("GET", "/stream", 200),
        ("GET", "/empty", 200),
        ("GET", "/wrong", 400),
        ("GET", "/no-such-route", 404),
        ("POST", "/full", 405),
        ("GET", "/broken", 500),
        ("GET", "/moved", 303),
        ("GET", "/nothing", 204),
        ("GET", "/unchanged", 304),
        ("HEAD", "/full", 200),
        ("HEAD", "/stream", 200),
        ("HEAD", "/files/text", 200),
        ("GET", "/files/text", 200),
        ("GET", "/files/missing", 404),
    ];

    #[tokio::test]
    async fn for_every_kind_of_response() {
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("text"), "text ".repeat(50_000)).unwrap();
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (layer, mut endings) = reporting_layer(&registry);
        let address = serve(every_kind_of_response(files.path(), &journal).layer(layer));

        let mut sent = 0;
        for version in VERSIONS {
            let mut client = Client::connect(version, address).await;
            let mut exchange = async |request, status| {
                let case = format!("{version:?} {request:?}");
                let response = client.send(request).await;
                assert_eq!(response.status(), status, "{case}");
                read_all(response).await;
                let ending = within(endings.recv()).await.unwrap();
                assert_eq!(ending, Ending::Sent(StatusCode::from_u16(status).unwrap()), "{case}");
                within(registry.wait_idle()).await;
                sent += 1;
                assert_eq!(journal.read().len(), sent, "{case}");
            };
            for (method, path, status) in RESPONSES {
                exchange(request(method, path), status).await;
            }
            let mut beyond_the_end = request("GET", "/files/text");
            beyond_the_end.headers_mut().insert("range", "bytes=9999999-".parse().unwrap());
            exchange(beyond_the_end, 416).await;
            let mut part = request("GET", "/files/text");
            part.headers_mut().insert("range", "bytes=100-70000".parse().unwrap());
            exchange(part, 206).await;
        }
        assert_conserved(&registry, sent as u64);
    }
}

mod cancelled {
    use super::*;

    #[tokio::test]
    async fn by_client_before_head() {
        let mut site = Site::open().await;
        let client = raw(site.address, "GET /hanging HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        within(site.entered.notified()).await;
        drop(client);
        site.ended(Ending::Cancelled).await;
    }

    #[tokio::test]
    async fn by_http2_reset_before_head() {
        let mut site = Site::open().await;
        let mut client = Client::connect(Version::H2, site.address).await;
        tokio::select! {
            _ = client.get("/hanging") => panic!("there is no response"),
            () = within(site.entered.notified()) => {}
        }
        site.ended(Ending::Cancelled).await;
        assert_eq!(client.fetch("/fine").await, "fine", "the connection goes on");
    }
}

mod disconnected {
    use super::*;

    #[tokio::test]
    async fn by_client_in_body() {
        for version in VERSIONS {
            let mut site = Site::open().await;
            let mut client = Client::connect(version, site.address).await;
            let mut response = client.get("/streaming").await.into_body();
            let first = within(response.frame()).await.unwrap().unwrap();
            assert_eq!(first.into_data().unwrap(), "first\n");
            drop(client);
            site.ended(Ending::Disconnected(StatusCode::OK)).await;
        }
    }

    #[tokio::test]
    async fn by_raw_client_in_body() {
        let mut site = Site::open().await;
        let mut client = raw(site.address, "GET /streaming HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        read_until(&mut client, "first\n").await;
        drop(client);
        site.ended(Ending::Disconnected(StatusCode::OK)).await;
    }

    #[tokio::test]
    async fn by_http2_reset_in_body() {
        let mut site = Site::open().await;
        let mut client = Client::connect(Version::H2, site.address).await;
        let mut response = client.get("/streaming").await.into_body();
        within(response.frame()).await.unwrap().unwrap();
        drop(response);
        site.ended(Ending::Disconnected(StatusCode::OK)).await;
        assert_eq!(client.fetch("/fine").await, "fine", "the connection goes on");
    }

    #[tokio::test]
    async fn by_error_of_body() {
        for version in VERSIONS {
            let mut site = Site::open().await;
            let mut client = Client::connect(version, site.address).await;
            // Whether the head still gets out is up to hyper.
            if let Ok(response) = within(client.try_send(request("GET", "/failing"))).await {
                within(response.into_body().collect()).await.unwrap_err();
            }
            site.ended(Ending::Disconnected(StatusCode::OK)).await;
        }
    }
}

mod handler_panicked {
    use super::*;

    #[tokio::test]
    async fn in_future() {
        for version in VERSIONS {
            let mut site = Site::open().await;
            let mut client = Client::connect(version, site.address).await;
            within(client.try_send(request("GET", "/panicking"))).await.unwrap_err();
            site.ended(Ending::HandlerPanicked).await;
        }
    }

    #[tokio::test]
    async fn before_future() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (layer, mut endings) = reporting_layer(&registry);
        let leave = journal.clone();
        let panicking = move || -> std::future::Ready<_> {
            after(leave.task("ran")).unwrap();
            panic!("a service panics in its call");
        };
        tokio::spawn(async move { call_inside(&layer, panicking).await }).await.unwrap_err();
        assert_eq!(within(endings.recv()).await, Some(Ending::HandlerPanicked));
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["ran"]);
    }
}

mod service_error {
    use super::*;

    #[tokio::test]
    async fn is_passed_on() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (layer, mut endings) = reporting_layer(&registry);
        let leave = journal.clone();
        let result = call_inside(&layer, move || {
            after(leave.task("ran")).unwrap();
            async { Err("no response".to_owned()) }
        });
        assert_eq!(result.await.unwrap_err(), "no response");
        assert_eq!(within(endings.recv()).await, Some(Ending::ServiceError));
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["ran"]);
    }
}
