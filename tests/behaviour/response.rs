//! When the tasks of a response start; and they leave other requests alone.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, Response, StatusCode},
    response::sse::{Event, Sse},
    routing::get as on_get,
};
use bytes::Bytes;
use futures::{StreamExt, channel::mpsc, stream};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use postlude::{Ending, RejectReason, Task, TaskLayer, TaskRegistry, TaskSet, after};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, oneshot},
};
use tower_http::services::ServeDir;

use crate::support::{
    Journal, assert_conserved,
    net::{Client, VERSIONS, Version, raw, read_all, read_until, reporting_layer, serve, within},
    until,
};

type Chunks = mpsc::UnboundedSender<Result<Bytes, Infallible>>;

/// A channel whose receiver is the body of a response.
fn controlled_body() -> (Chunks, Body) {
    let (chunks, stream) = mpsc::unbounded();
    (chunks, Body::from_stream(stream))
}

fn chunk(text: &'static str) -> Result<Bytes, Infallible> {
    Ok(Bytes::from_static(text.as_bytes()))
}

/// A server with a route `/` of the test's own, one that leaves a task `other`, and one that leaves none.
async fn serve_beside_others(registry: &TaskRegistry, journal: &Journal, own: Router) -> SocketAddr {
    let journal = journal.clone();
    let other = async move |tasks: TaskSet| {
        tasks.add(journal.task("other"));
        "other"
    };
    let app = own.route("/other", on_get(other)).route("/plain", on_get(|| async { "plain" }));
    serve(app.layer(TaskLayer::new(registry.clone())))
}

/// Takes a value once: for a handler that is called once.
fn once<T>(value: T) -> impl Fn() -> T + Clone {
    let slot = Arc::new(std::sync::Mutex::new(Some(value)));
    move || slot.lock().unwrap().take().unwrap()
}

/// Gets `/other`, and waits until the task that it leaves has run: what was to start by itself would have.
async fn let_another_pass(address: SocketAddr, journal: &Journal) {
    let before = journal.read().len();
    let mut other = Client::connect(Version::H1, address).await;
    assert_eq!(other.fetch("/other").await, "other");
    until(|| journal.read().len() != before).await;
}

/// A handler whose tasks end badly in every way.
async fn leave_trouble(State(journal): State<Journal>, tasks: TaskSet) -> &'static str {
    tasks.add(async { Err::<(), _>("a task fails") });
    tasks.add(async { panic!("a task panics") });
    tasks.add_blocking(|| panic!("a blocking task panics"));
    tasks.add(Task::new(std::future::pending::<()>()).timeout(std::time::Duration::from_millis(1)));
    tasks.add(journal.task("after the trouble"));
    "no trouble seen"
}

mod start {
    use super::*;

    #[tokio::test]
    async fn after_last_chunk_of_stream() {
        for version in VERSIONS {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let (chunks, body) = controlled_body();
            let (leave, body) = (journal.clone(), once(body));
            let streaming = async move |tasks: TaskSet| {
                tasks.add(leave.task("of the stream"));
                body()
            };
            let address = serve_beside_others(&registry, &journal, Router::new().route("/", on_get(streaming))).await;

            let mut client = Client::connect(version, address).await;
            let mut body = client.get("/").await.into_body();
            for text in ["first", "last"] {
                chunks.unbounded_send(chunk(text)).unwrap();
                assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), text);
                let_another_pass(address, &journal).await;
            }
            assert_eq!(journal.read(), ["other", "other"], "{version:?}");
            drop(chunks);
            assert!(within(body.collect()).await.unwrap().to_bytes().is_empty());
            within(registry.wait_idle()).await;
            assert_eq!(journal.read(), ["other", "other", "of the stream"], "{version:?}");
        }
    }

    #[tokio::test]
    async fn after_end_of_file() {
        const LENGTH: usize = 16 << 20;
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("file"), vec![b'x'; LENGTH]).unwrap();
        for version in VERSIONS {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let leave = journal.clone();
            let leave_task = axum::middleware::from_fn(move |request: Request, next: axum::middleware::Next| {
                after(leave.task("of the file")).unwrap();
                next.run(request)
            });
            let own = Router::new().nest_service("/files", ServeDir::new(files.path())).layer(leave_task);
            let address = serve_beside_others(&registry, &journal, own).await;

            let mut client = Client::connect_narrow(version, address).await;
            let response = client.get("/files/file").await;
            let_another_pass(address, &journal).await;
            assert_eq!(journal.read(), ["other"], "{version:?}");
            assert_eq!(read_all(response).await.len(), LENGTH);
            within(registry.wait_idle()).await;
            assert_eq!(journal.read(), ["other", "of the file"], "{version:?}");
        }
    }

    #[tokio::test]
    async fn after_server_sent_events() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (events, stream) = mpsc::unbounded::<&str>();
        let (leave, stream) = (journal.clone(), once(stream));
        let subscribe = async move || {
            Sse::new(stream().map(move |text| {
                after(leave.task(text)).unwrap();
                Ok::<_, Infallible>(Event::default().data(text))
            }))
        };
        let address = serve_beside_others(&registry, &journal, Router::new().route("/", on_get(subscribe))).await;
        let mut client = Client::connect(Version::H1, address).await;
        let mut body = client.get("/").await.into_body();
        for text in ["one", "two"] {
            events.unbounded_send(text).unwrap();
            let event = within(body.frame()).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(event, format!("data: {text}\n\n"));
        }
        let_another_pass(address, &journal).await;
        assert_eq!(journal.read(), ["other"]);
        // The client leaves, as subscribers do.
        drop(client);
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["other", "one", "two"]);
    }
}

mod add {
    use super::*;

    #[tokio::test]
    async fn while_body_streams() {
        for version in VERSIONS {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let leave = journal.clone();
            let streaming = async move |tasks: TaskSet| {
                let own = tasks.clone();
                tasks.add(leave.task("handler"));
                drop(tasks);
                Body::from_stream(stream::iter(["clone", "after", "current"]).map(move |how| {
                    let task = leave.task(how);
                    match how {
                        "clone" => own.add(task),
                        "after" => after(task).unwrap(),
                        _ => TaskSet::current().unwrap().add(task),
                    };
                    chunk(how)
                }))
            };
            let address = serve_beside_others(&registry, &journal, Router::new().route("/", on_get(streaming))).await;
            Client::connect(version, address).await.fetch("/").await;
            within(registry.wait_idle()).await;
            assert_eq!(journal.read(), ["handler", "clone", "after", "current"], "{version:?}");
        }
    }

    #[tokio::test]
    async fn after_drain_runs() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (keep, mut kept) = mpsc::unbounded();
        let leave = journal.clone();
        let keeping = async move |tasks: TaskSet| {
            tasks.add(leave.task("first"));
            keep.unbounded_send(tasks).unwrap();
        };
        let address = serve_beside_others(&registry, &journal, Router::new().route("/", on_get(keeping))).await;
        Client::connect(Version::H1, address).await.fetch("/").await;
        within(registry.wait_idle()).await;
        let tasks = kept.next().await.unwrap();
        for late in ["late", "later"] {
            tasks.add(journal.task(late));
            within(registry.wait_idle()).await;
        }
        assert_eq!(journal.read(), ["first", "late", "later"]);
    }
}

mod isolation {
    use super::*;

    #[tokio::test]
    async fn of_slow_task() {
        for version in VERSIONS {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let release = Arc::new(Notify::new());
            let (leave, released) = (journal.clone(), Arc::clone(&release));
            let slow = async move |tasks: TaskSet| {
                let (journal, released) = (leave.clone(), Arc::clone(&released));
                tasks.add(async move {
                    released.notified().await;
                    journal.note("slow");
                });
                "at once"
            };
            let address = serve_beside_others(&registry, &journal, Router::new().route("/", on_get(slow))).await;
            let mut client = Client::connect(version, address).await;
            assert_eq!(client.fetch("/").await, "at once");
            assert_eq!(client.fetch("/plain").await, "plain");
            assert!(journal.read().is_empty());
            release.notify_one();
            within(registry.wait_idle()).await;
            assert_eq!(journal.read(), ["slow"]);
        }
    }

    #[tokio::test]
    async fn of_next_request_on_connection() {
        for version in VERSIONS {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let own = Router::new().route("/", on_get(leave_trouble)).with_state(journal.clone());
            let address = serve_beside_others(&registry, &journal, own).await;
            let mut client = Client::connect(version, address).await;
            for _ in 0..3 {
                assert_eq!(client.fetch("/").await, "no trouble seen");
            }
            within(registry.wait_idle()).await;
            assert_eq!(client.fetch("/plain").await, "plain");
            assert_eq!(journal.read(), ["after the trouble"; 3]);
            let metrics = registry.metrics();
            assert_eq!([metrics.failed, metrics.panicked, metrics.timed_out], [3, 6, 3]);
            assert_conserved(&registry, 15);
        }
    }

    #[tokio::test]
    async fn of_request_in_flight() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (enter, entered) = oneshot::channel();
        let (release, released) = oneshot::channel::<()>();
        let in_flight = once((enter, released));
        let waiting = async move || {
            let (enter, released) = in_flight();
            enter.send(()).unwrap();
            released.await.unwrap();
            "unharmed"
        };
        let own = Router::new()
            .route("/", on_get(leave_trouble))
            .with_state(journal.clone())
            .route("/waiting", on_get(waiting));
        let address = serve_beside_others(&registry, &journal, own).await;
        let mut client = Client::connect(Version::H2, address).await;
        let mut beside = client.another_stream();
        let waiting = tokio::spawn(async move { beside.fetch("/waiting").await });
        within(entered).await.unwrap();
        assert_eq!(client.fetch("/").await, "no trouble seen");
        within(registry.wait_idle()).await;
        release.send(()).unwrap();
        assert_eq!(within(waiting).await.unwrap(), "unharmed");
    }
}

mod current {
    use super::*;

    #[tokio::test]
    async fn in_handler_and_not_in_its_spawns() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let leave = journal.clone();
        let handler = async move || {
            after(leave.task("by after")).unwrap();
            tokio::task::yield_now().await;
            let own = TaskSet::current().unwrap();
            own.add(leave.task("by the current set"));
            tokio::spawn(async move {
                assert!(TaskSet::current().is_none());
                let rejected = after(Task::new(leave.task("handed back")).named("mail")).unwrap_err();
                assert_eq!((rejected.reason(), rejected.into_task().name().as_str()), (RejectReason::NoSet, "mail"));
                own.add(leave.task("by a clone"));
            })
            .await
            .unwrap();
        };
        let address = serve_beside_others(&registry, &journal, Router::new().route("/", on_get(handler))).await;
        let response = Client::connect(Version::H1, address).await.get("/").await;
        assert_eq!(response.status(), StatusCode::OK);
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["by after", "by the current set", "by a clone"]);
        assert_conserved(&registry, 3);
    }
}

mod upgrade {
    use super::*;

    #[tokio::test]
    async fn may_add_to_set_of_its_request() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (layer, mut endings) = reporting_layer(&registry);
        let leave = journal.clone();
        let upgrade = async move |tasks: TaskSet, mut request: Request| {
            let leave = leave.clone();
            tasks.add(leave.task("of the request"));
            let is_connect = request.method() == Method::CONNECT;
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut connection = TokioIo::new(upgraded.await.unwrap());
                while let Ok(_byte) = connection.read_u8().await {
                    tasks.add(leave.task("of the connection"));
                    connection.write_all(b"added\n").await.unwrap();
                }
            });
            let response = Response::builder();
            let response = if is_connect {
                response
            } else {
                response.status(101).header("connection", "upgrade").header("upgrade", "echo")
            };
            // hyper has no use for the body of such a response, and does not ask it for its end.
            response.body(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())).unwrap()
        };
        let address = serve(Router::new().fallback(upgrade).layer(layer));
        let requests = [
            ("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n", 101),
            ("CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere\r\n\r\n", 200),
        ];
        for (request, status) in requests {
            let before = journal.read().len();
            let mut client = raw(address, request).await;
            let head = read_until(&mut client, "\r\n\r\n").await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
            assert_eq!(within(endings.recv()).await, Some(Ending::Sent(StatusCode::from_u16(status).unwrap())));
            within(registry.wait_idle()).await;
            assert_eq!(journal.read()[before..], ["of the request"]);
            for count in [2, 3] {
                client.write_all(b"x").await.unwrap();
                read_until(&mut client, "added\n").await;
                within(registry.wait_idle()).await;
                assert_eq!(journal.read()[before..].len(), count, "while the connection is open");
            }
        }
    }
}
