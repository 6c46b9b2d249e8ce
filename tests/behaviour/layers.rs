//! The order of layers, and middleware beside the layer: a test for each row of `docs/layers.md` that `layer` and
//! `positions` have not.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get as on_get,
};
use postlude::{Ending, RejectReason, TaskLayer, TaskRegistry, TaskSet, after};
use tokio::sync::mpsc::UnboundedReceiver;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::{
    Journal,
    net::{get, reporting_layer},
};

/// An app in process, its layer, and what a test has to know of them.
struct Site {
    registry: TaskRegistry,
    layer: TaskLayer,
    endings: UnboundedReceiver<Ending>,
    journal: Journal,
}

impl Site {
    fn new() -> Self {
        let registry = TaskRegistry::new();
        let (layer, endings) = reporting_layer(&registry);
        Self { registry, layer, endings, journal: Journal::default() }
    }

    /// The status that the client gets, the tasks that ran, and the ending of the request if it left any.
    async fn ask(mut self, app: Router, path: &str) -> (StatusCode, Vec<String>, Option<Ending>) {
        let response = app.oneshot(get(path)).await.unwrap();
        let status = response.status();
        axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        self.registry.wait_idle().await;
        (status, self.journal.read(), self.endings.try_recv().ok())
    }
}

fn ran(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Adds a task.
async fn handler(State(journal): State<Journal>, tasks: TaskSet) -> StatusCode {
    tasks.add(journal.task("of the handler"));
    StatusCode::CREATED
}

/// Adds a task, and panics.
async fn panics(State(journal): State<Journal>, tasks: TaskSet) -> StatusCode {
    tasks.add(journal.task("of the handler"));
    panic!("a handler panics");
}

const OK: (StatusCode, Ending) = (StatusCode::CREATED, Ending::Sent(StatusCode::CREATED));
const CAUGHT: (StatusCode, Ending) =
    (StatusCode::INTERNAL_SERVER_ERROR, Ending::Sent(StatusCode::INTERNAL_SERVER_ERROR));

mod order {
    use super::*;

    async fn check(build: impl Fn(Router<Journal>, TaskLayer) -> Router<Journal>, ending: Ending) {
        let site = Site::new();
        let app = build(Router::new().route("/", on_get(panics)), site.layer.clone());
        let (journal, status) = (site.journal.clone(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(site.ask(app.with_state(journal), "/").await, (status, ran(&["of the handler"]), Some(ending)));
    }

    // The layer that catches the panic is inside: the `TaskLayer` sees its answer.
    #[tokio::test(start_paused = true)]
    async fn of_router_layer_is_last_outermost() {
        check(|app, tasks| app.layer(CatchPanicLayer::new()).layer(tasks), CAUGHT.1).await;
        check(|app, tasks| app.layer(tasks).layer(CatchPanicLayer::new()), Ending::HandlerPanicked).await;
    }

    #[tokio::test(start_paused = true)]
    async fn of_service_builder_is_first_outermost() {
        check(|app, tasks| app.layer(ServiceBuilder::new().layer(tasks).layer(CatchPanicLayer::new())), CAUGHT.1).await;
        check(
            |app, tasks| app.layer(ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(tasks)),
            Ending::HandlerPanicked,
        )
        .await;
    }
}

mod routes {
    use super::*;

    async fn check(path: &str, has_set: bool, build: impl Fn(Router<Journal>, TaskLayer) -> Router<Journal>) {
        let site = Site::new();
        let app = build(Router::new().route("/above", on_get(handler)), site.layer.clone());
        let app = app.with_state(site.journal.clone());
        let expected = if has_set {
            (OK.0, ran(&["of the handler"]), Some(OK.1))
        } else {
            (StatusCode::INTERNAL_SERVER_ERROR, Vec::new(), None)
        };
        assert_eq!(site.ask(app, path).await, expected, "{path}");
    }

    #[tokio::test(start_paused = true)]
    async fn above_have_a_set_and_below_have_none() {
        let build = |app: Router<Journal>, layer| {
            app.layer(layer).route("/below", on_get(handler)).merge(Router::new().route("/merged", on_get(handler)))
        };
        check("/above", true, build).await;
        check("/below", false, build).await;
        check("/merged", false, build).await;
        check("/unknown", false, |app, layer| app.layer(layer).fallback(handler)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nested_share_the_set_of_the_request() {
        check("/in/above", true, |app, layer| Router::new().nest("/in", app).layer(layer)).await;
        // Its own layer has another registry, which runs nothing.
        check("/in/above", true, |app, layer| {
            Router::new().nest("/in", app.layer(TaskLayer::new(TaskRegistry::new()))).layer(layer)
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn fallback_has_a_set_by_layer_and_none_by_route_layer() {
        check("/unknown", true, |app, layer| app.fallback(handler).layer(layer)).await;
        check("/unknown", false, |app, layer| app.fallback(handler).route_layer(layer)).await;
        check("/above", true, |app, layer| app.fallback(handler).route_layer(layer)).await;
    }
}

mod from_fn_middleware {
    use super::*;

    /// Adds a task before the handler, and one after it.
    async fn audit(State(journal): State<Journal>, tasks: TaskSet, request: Request, next: Next) -> Response {
        tasks.add(journal.task("before"));
        let response = next.run(request).await;
        tasks.add(journal.task("after"));
        response
    }

    fn routes() -> Router<Journal> {
        Router::new().route("/", on_get(handler))
    }

    #[tokio::test(start_paused = true)]
    async fn adds_in_order_inside() {
        let site = Site::new();
        let audit = from_fn_with_state(site.journal.clone(), audit);
        let app = routes().layer(audit).layer(site.layer.clone()).with_state(site.journal.clone());
        assert_eq!(site.ask(app, "/").await, (OK.0, ran(&["before", "of the handler", "after"]), Some(OK.1)));
    }

    #[tokio::test(start_paused = true)]
    async fn that_extracts_set_outside_answers_500() {
        let site = Site::new();
        let audit = from_fn_with_state(site.journal.clone(), audit);
        let app = routes().layer(site.layer.clone()).layer(audit).with_state(site.journal.clone());
        assert_eq!(site.ask(app, "/").await, (StatusCode::INTERNAL_SERVER_ERROR, Vec::new(), None));
    }

    #[tokio::test(start_paused = true)]
    async fn that_calls_after_outside_gets_its_task_back() {
        let site = Site::new();
        let leave = site.journal.clone();
        let outside = from_fn(move |request: Request, next: Next| {
            let reason = after(leave.task("of nobody")).unwrap_err().reason();
            async move {
                assert_eq!(reason, RejectReason::NoSet);
                next.run(request).await
            }
        });
        let app = routes().layer(site.layer.clone()).layer(outside).with_state(site.journal.clone());
        assert_eq!(site.ask(app, "/").await, (OK.0, ran(&["of the handler"]), Some(OK.1)));
    }

    // It answers before the handler: a login that is missing.
    #[tokio::test(start_paused = true)]
    async fn that_refuses() {
        for is_inside in [true, false] {
            let site = Site::new();
            let leave = site.journal.clone();
            let refuse = from_fn(move |_: Request, _: Next| {
                let was_added = after(leave.task("of a refusal")).is_ok();
                async move {
                    assert_eq!(was_added, is_inside);
                    StatusCode::UNAUTHORIZED
                }
            });
            let app = routes();
            let app = if is_inside {
                app.layer(refuse).layer(site.layer.clone())
            } else {
                app.layer(site.layer.clone()).layer(refuse)
            };
            let app = app.with_state(site.journal.clone());
            let status = StatusCode::UNAUTHORIZED;
            let expected = if is_inside {
                (status, ran(&["of a refusal"]), Some(Ending::Sent(status)))
            } else {
                (status, Vec::new(), None)
            };
            assert_eq!(site.ask(app, "/").await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn that_replaces_the_answer_inside() {
        let site = Site::new();
        let replace = from_fn(async |request: Request, next: Next| {
            drop(next.run(request).await);
            StatusCode::BAD_GATEWAY.into_response()
        });
        let app = routes().layer(replace).layer(site.layer.clone()).with_state(site.journal.clone());
        let status = StatusCode::BAD_GATEWAY;
        assert_eq!(site.ask(app, "/").await, (status, ran(&["of the handler"]), Some(Ending::Sent(status))));
    }

    #[tokio::test(start_paused = true)]
    async fn that_drops_the_handler() {
        async fn hangs(State(journal): State<Journal>, tasks: TaskSet) -> StatusCode {
            tasks.add(journal.task("of the handler"));
            std::future::pending().await
        }
        for is_inside in [true, false] {
            let site = Site::new();
            let impatient = from_fn(async |request: Request<Body>, next: Next| {
                let answer = tokio::time::timeout(Duration::from_secs(1), next.run(request)).await;
                answer.unwrap_or_else(|_| StatusCode::GATEWAY_TIMEOUT.into_response())
            });
            let app = Router::new().route("/", on_get(hangs));
            let app = if is_inside {
                app.layer(impatient).layer(site.layer.clone())
            } else {
                app.layer(site.layer.clone()).layer(impatient)
            };
            let app = app.with_state(site.journal.clone());
            let status = StatusCode::GATEWAY_TIMEOUT;
            let ending = if is_inside { Ending::Sent(status) } else { Ending::Cancelled };
            assert_eq!(site.ask(app, "/").await, (status, ran(&["of the handler"]), Some(ending)));
        }
    }
}
